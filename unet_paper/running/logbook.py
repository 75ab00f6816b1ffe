"""What a training run leaves to read: ``metrics.csv``, ``curves.png`` and TensorBoard events, all in its folder."""

import csv
import io
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from unet_paper.running import figures
from unet_paper.running.placement import placed

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
    """Rows of a CSV of numbers."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


class Logbook:
    """Handler of a trainer that writes a row for every epoch, and redraws the curves after every validation.

    Attach it after the ValidationHandler. After a resume the rows of earlier epochs are kept and later ones, which are
    done again, dropped.

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

    def attach(self, engine: Engine) -> None:
        """Follow the trainer ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED(once=1), self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Engine) -> None:
        if self._start_time:
            return
        self._start_time = time.monotonic()
        table = self.folder / "metrics.csv"
        if engine.state.epoch > 1 and table.is_file():
            self.rows = [row for row in read_table(table) if row["epoch"] < engine.state.epoch]
            self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # costs a second, and only training needs it

            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=engine.state.iteration + 1)

    def _record(self, engine: Any) -> None:
        steps = [(step, loss) for step, loss in engine.state.loss_history if step > self._first_step(engine)]
        row = {
            "epoch": engine.state.epoch,
            "step": engine.state.iteration,
            "seconds": round(self._before + time.monotonic() - self._start_time, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(loss for _, loss in steps) / len(steps),
        }
        validated = self.evaluator.state.epoch == engine.state.epoch
        if validated:
            row.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        self.rows.append(row)
        write_table(self.rows, self.folder / "metrics.csv")
        if validated:
            measured = [row for row in self.rows if len(row) == len(self.rows[-1])]
            figures.save_figure(figures.curve_figure(measured), self.folder / "curves.png")
            scores = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds"))
            logger.info("epoch %d: %s", engine.state.epoch, scores)
        if self._writer is not None:
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
