"""What a training run leaves to read: ``metrics.csv``, ``curves.png`` and TensorBoard events, all in its folder."""

import csv
import io
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from unet_paper.running import figures
from unet_paper.running.engines import resumable
from unet_paper.running.placement import placed
from unet_paper.running.run_folder import METRICS

logger = logging.getLogger(__name__)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV, with the union of their keys as columns, and move the file into place."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with placed(path) as part:
        part.write_text(text.getvalue())


def read_table(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV of numbers.

    Raises:
        ValueError: naming the file, if it is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{path}: is no table of numbers ({error})") from error


def _clock(row: Mapping[str, float]) -> dict[str, float]:
    return {"seconds": row["seconds"]} if "seconds" in row else {}


class Logbook:
    """Handler of a trainer that writes a row for every epoch, and redraws the curves after every validation.

    Attach it after the ValidationHandler and before ``checkpoint_handler.Checkpoints``, which keeps the rows: after a
    resume ``metrics.csv`` has those of its checkpoint, whatever became of the file in between.

    Args:
        folder: the run's folder.
        evaluator: engine of the validation, whose metrics and figures are recorded.
        optimizer: its learning rate is recorded.
        tensorboard: also write events for TensorBoard, with the pictures of ``figures.CaseFigures``.
    """

    def __init__(self, folder: str | Path, evaluator: Engine, optimizer: Optimizer, tensorboard: bool = True) -> None:
        self.folder = Path(folder)
        self.evaluator: Any = evaluator
        self.optimizer = optimizer
        self.tensorboard = tensorboard
        self.rows: list[dict[str, float]] = []
        self._writer: Any = None
        self._before = 0.0
        self._start_time = 0.0
        self._within_epoch = False

    def attach(self, engine: Engine) -> None:
        """Follow the trainer ``engine``."""
        resumable(engine)["logbook"] = self
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def state_dict(self) -> dict[str, Any]:
        """The rows, but for the seconds: a resumed run's checkpoint is that of one never stopped.

        Within an epoch, which has no row yet, also the time until now.
        """
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in self.rows]
        return {"rows": rows, "seconds": self._seconds()} if self._within_epoch else {"rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the rows of ``state_dict``."""
        self.rows = [dict(row) for row in state["rows"]]
        self._before = float(state.get("seconds", 0.0))

    def _seconds(self) -> float:
        return self._before + (time.monotonic() - self._start_time if self._start_time else 0.0)

    def _start(self, engine: Engine) -> None:
        self._within_epoch = True
        if self._start_time:
            return
        table = self.folder / METRICS
        if self.rows or engine.state.iteration:
            self._resume(engine, table)
        self._start_time = time.monotonic()
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # costs a second, and only training needs it

            with self._events():
                self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=engine.state.iteration + 1)

    def _resume(self, engine: Engine, table: Path) -> None:
        found: dict[float, dict[str, float]] = {}
        try:
            rows = read_table(table) if table.is_file() else []
            if table.is_file() and not rows:
                raise ValueError("it holds no row")
            found = {row["epoch"]: row for row in rows if row["epoch"] < max(engine.state.epoch, 1)}
        except (ValueError, KeyError, OSError) as error:
            aside = table.with_name(f"{METRICS}.damaged")
            os.replace(table, aside)
            logger.warning(
                "%s is damaged: it is now %s, and the rows come from the checkpoint (%s)", table, aside, error
            )
        # an older checkpoint holds none
        kept = self.rows or list(found.values())
        self.rows = [{**row, **_clock(found.get(row["epoch"], {}))} for row in kept]
        self._before = max([self._before, *(row["seconds"] for row in self.rows if "seconds" in row)])
        if self.rows:
            self._write_rows()

    def _write_rows(self) -> None:
        # the first columns, whatever a row that was lost once lacks
        first = ("epoch", "step", "seconds")
        write_table([{name: row.get(name, "") for name in first} | row for row in self.rows], self.folder / METRICS)

    def _record(self, engine: Any) -> None:
        self._start(engine)
        # a validation that is done once more
        self.rows = [row for row in self.rows if row["epoch"] < engine.state.epoch]
        steps = [(step, loss) for step, loss in engine.state.loss_history if step > self._first_step(engine)]
        row = {
            "epoch": engine.state.epoch,
            "step": engine.state.iteration,
            "seconds": round(self._seconds(), 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(loss for _, loss in steps) / len(steps),
        }
        validated = self.evaluator.state.epoch == engine.state.epoch
        if validated:
            row.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        self.rows.append(row)
        self._within_epoch = False
        self._write_rows()
        if validated:
            whole = {*self.rows[-1], "seconds"}
            measured = [row for row in self.rows if {*row, "seconds"} == whole]
            figures.save_figure(figures.curve_figure(measured), self.folder / "curves.png")
            scores = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds"))
            logger.info("epoch %d: %s", engine.state.epoch, scores)
        with self._events():
            self._write_events(engine, row, steps, validated)

    @contextmanager
    def _events(self) -> Iterator[None]:
        """TensorBoard's events are copies: what they cannot be written for must not end the run."""
        try:
            yield
        except OSError as error:
            logger.warning("%s: no more events for TensorBoard (%s)", self.folder / "tensorboard", error)
            self._writer = None

    def _write_events(
        self, engine: Any, row: Mapping[str, float], steps: Sequence[tuple[int, float]], validated: bool
    ) -> None:
        if self._writer is None:
            return
        for step, loss in steps:
            self._writer.add_scalar("train_loss_step", loss, step)
        for name, value in row.items():
            self._writer.add_scalar(name, value, engine.state.iteration)
        for name, picture in getattr(self.evaluator.state, "figures", {}).items() if validated else ():
            self._writer.add_image(name, picture, engine.state.iteration, dataformats="HWC")
        self._writer.flush()

    @staticmethod
    def _first_step(engine: Any) -> int:
        return int(engine.state.iteration - engine.state.epoch_length)

    def _close(self, _engine: Engine) -> None:
        if self._writer is not None:
            self._writer.close()
        best = self.evaluator.state
        logger.info(
            "training is done: best %s %.4f at epoch %d; pictures in %s, curves in %s",
            best.key_metric_name,
            best.best_metric,
            best.best_metric_epoch,
            self.folder / "figures",
            self.folder / "curves.png",
        )
