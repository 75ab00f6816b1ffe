"""What a run keeps while it trains: its best network, and all that is needed to go on; and going on from there."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from unet_paper.network import FACTS
from unet_paper.running import checkpoint, engines, resuming, run_folder
from unet_paper.running.signals import PROCESS, Interrupted

if TYPE_CHECKING:
    from unet_paper.running.cells_choice import CellsChoice
    from unet_paper.running.facts import Facts
    from unet_paper.running.machine import Choices

logger = logging.getLogger(__name__)


class Checkpoints:
    """Handler of a trainer that keeps ``model.pt`` (best by the validation's key metric) and ``last.pt``, and resumes.

    Attach it after the ValidationHandler and whatever a checkpoint is to hold of other handlers
    (``engines.resumable``). ``model.pt`` is a flat state dict of the network; ``last.pt`` also holds optimiser,
    schedule, best metric and how far training has come: the epochs that are closed, validated, and the steps. It is
    written after every epoch, every so many minutes, and when a signal ends the run. State of a run that has diverged
    is never written.

    Args:
        folder: where the two files lie.
        network: network in training.
        optimizer: its optimiser.
        lr_scheduler: its learning-rate schedule, or None.
        evaluator: engine of the validation, or None (then ``model.pt`` is the last network).
        resume: go on from ``last.pt`` if it is there.
        read_only: load but never write (for all processes but one).
        facts: how the network is trained and to be used; part of either file.
        choice: of the post-processing, which goes into the facts; None: as they are.
        minutes: write ``last.pt`` within an epoch when the last time was so long ago; > 0.
        machine: what the run computes with; part of ``last.pt``, for a run that goes on from it.
        kept: network whose weights ``model.pt`` holds, the one that is validated; None: the one in training.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        evaluator: Engine | None = None,
        resume: bool = False,
        read_only: bool = False,
        facts: "Facts | None" = None,
        choice: "CellsChoice | None" = None,
        minutes: float = 10.0,
        machine: "Choices | None" = None,
        kept: nn.Module | None = None,
    ) -> None:
        if not minutes > 0:
            raise ValueError(f"checkpoint_minutes={minutes}: must be more than 0; .inf writes after epochs alone")
        self.folder = Path(folder)
        self.facts = facts
        self.choice = choice
        self.network = network
        self.kept = network if kept is None else kept
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator: Any = evaluator
        self.resume = resume
        self.read_only = read_only
        self.minutes = minutes
        self._written_at = time.monotonic()
        self._first_loss: float | None = None
        # steps done besides those that the engine counts, which after a change of steps_per_epoch are those of a run
        # that had it from the beginning
        self._further_steps = 0
        # all steps of the epoch are done, but it is not validated and on disk
        self._open = False
        self._most_images = 0
        self.machine = machine

    def attach(self, engine: Engine) -> None:
        """Resume at the start of the trainer ``engine``, save after each of its epochs and where it is due."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._end_image)

    def _start(self, engine: Engine) -> None:
        last = self.folder / run_folder.LAST
        if not self.resume:
            return
        if not last.is_file():
            logger.info("resume: no %s yet, starting from the beginning", last)
            return
        content = checkpoint.read_content(last, None, "resume")
        before = (
            None if self.facts is None else self.facts.of(checkpoint.read_weights_and_facts(last, setting="resume")[1])
        )
        self.facts = resuming.begun_as(before, self.facts)
        changed = resuming.compare(before, self.facts, str(last))
        checkpoint.load_weights(self.network, last, setting="resume")
        if self.kept is not self.network:
            # an average that was not there before begins with these weights, not with those the run was made with
            checkpoint.bare_network(self.kept).load_state_dict(checkpoint.bare_network(self.network).state_dict())
        if self.choice is not None and before is not None and self.facts is not None:
            self.choice.take_up(before, self.facts.cells_preset)
        changed |= resuming.restore(content, self.optimizer, self.lr_scheduler, str(last), engine.state.epoch_length)
        if not self.read_only:
            resuming.say(changed, str(last))
        if self.evaluator is not None:
            self.evaluator.state.best_metric = content["best_metric"]
            self.evaluator.state.best_metric_epoch = content["best_metric_epoch"]
        if engine.state.max_epochs is not None and content["epoch"] >= engine.state.max_epochs:
            logger.warning(
                "resume: all %d epochs are done, nothing is left to train; give more with --max_epochs",
                engine.state.max_epochs,
            )
        self._resume_position(engine, content, last)

    def _resume_position(self, engine: Any, content: Mapping[str, Any], last: Path) -> None:
        """Epoch, step and the state of other handlers; closes an epoch of which the validation alone was missing."""
        length = engine.state.epoch_length
        saved_length = content.get("epoch_length", length)
        # an older checkpoint was written after epochs alone
        done = content["iteration"] - content["epoch"] * saved_length if "epoch_length" in content else 0
        if done and length != saved_length:
            raise ValueError(
                f"steps_per_epoch={length}: {last} is of a run that was stopped within an epoch of {saved_length} "
                f"steps; go on with --steps_per_epoch {saved_length}"
            )
        engine.state.epoch = content["epoch"]
        engine.state.iteration = content["epoch"] * length + done
        self._further_steps = content.get("trained_steps", content["iteration"]) - engine.state.iteration
        if length != saved_length and not self.read_only:
            logger.warning(
                "resume: %d steps an epoch, of %d before: of the %d steps done, epochs of now count %d; from there "
                "steps are numbered and the learning rate falls",
                length,
                saved_length,
                engine.state.iteration + self._further_steps,
                engine.state.iteration,
            )
        self._first_loss = content.get("first_loss")
        states = content.get("handlers", {})
        for name, handler in engines.resumable(engine).items():
            if name in states:
                handler.load_state_dict(states[name])
        logger.info("resume: %s, epoch %d, step %d", last, engine.state.epoch, engine.state.iteration)
        if done == length:
            engine.state.epoch += 1
            self._open = True
            engine.fire_event(Events.EPOCH_COMPLETED)

    def _begin_epoch(self, _engine: Engine) -> None:
        engines.stop_if_asked()
        PROCESS.deferred = True

    def _end_image(self, evaluator: Any) -> None:
        """After an image of the validation; the processes, whose shares differ by an image, ask equally often."""
        state = evaluator.state
        if state.iteration == 1:
            self._most_images = engines.agree(state.epoch_length)
        last = state.iteration == state.epoch_length
        for _ in range(1 + (self._most_images - state.iteration if last else 0)):
            engines.stop_if_asked()

    def _end_step(self, engine: Any) -> None:
        if self._first_loss is None:
            self._first_loss = _loss(engine)
        self._open = engine.state.iteration == engine.state.epoch * engine.state.epoch_length
        due = int(not self.read_only and time.monotonic() - self._written_at > 60 * self.minutes)
        signal, due = divmod(engines.agree(2 * PROCESS.received + due), 2)
        if not (signal or due or self._open):
            return
        self._refuse_diverged(engine, self._first_loss)
        if signal or due:
            self._write_last(engine, engine.state.epoch - 1)
        if signal:
            self._open = False
            raise Interrupted(signal)
        if self._open:
            PROCESS.deferred = False
            engines.stop_if_asked()

    def _refuse_diverged(self, engine: Any, first_loss: float) -> None:
        found = None
        try:
            engines.refuse_diverged(engine, checkpoint.bare_network(self.network), first_loss)
        except FloatingPointError as error:
            found = error
        engines.raise_together(found)

    def _end_epoch(self, engine: Any) -> None:
        state = None if self.evaluator is None else self.evaluator.state
        if not self.read_only:
            self._keep_folder(engine)
            best = self.folder / run_folder.BEST
            is_best = state is None or state.best_metric_epoch == engine.state.epoch
            gone = not is_best and engine.state.epoch == engine.state.max_epochs and not best.exists()
            if gone:
                logger.warning("%s: the best network so far is gone, or there was none; it holds the last one", best)
            if is_best or gone:
                checkpoint.save(
                    {
                        **checkpoint.bare_network(self.kept).state_dict(),
                        # a run may end before its plan, and its best network come long before its end
                        **self._told(trained_steps=engine.state.iteration + self._further_steps),
                    },
                    best,
                )
        self._write_last(engine, engine.state.epoch)
        self._open = False

    def _fail(self, engine: Any, error: BaseException) -> None:
        """Whatever ends a validation, the epoch before it is not lost."""
        if self._open and not isinstance(error, FloatingPointError):
            self._open = False
            try:
                self._write_last(engine, engine.state.epoch - 1)
            except OSError:
                logger.exception("the steps of epoch %d are lost", engine.state.epoch)
        raise error

    def _write_last(self, engine: Any, closed: int) -> None:
        """Write ``last.pt``, all processes together if a step of an epoch has been done that is not closed."""
        length = engine.state.epoch_length
        within = 0 < engine.state.iteration - closed * length < length
        handlers = {
            name: handler.state_dict()
            for name, handler in engines.resumable(engine).items()
            if within or name != "seeded_epochs"
        }
        self._written_at = time.monotonic()
        if self.read_only:
            return
        self._keep_folder(engine)
        state = None if self.evaluator is None else self.evaluator.state
        checkpoint.save(
            {
                "network": checkpoint.bare_network(self.network).state_dict(),
                **self._told(),
                "optimizer": self.optimizer.state_dict(),
                "identity": resuming.identity(self.optimizer, self.lr_scheduler),
                "lr_scheduler": {} if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
                "epoch": closed,
                "iteration": engine.state.iteration,
                "epoch_length": length,
                "trained_steps": engine.state.iteration + self._further_steps,
                "first_loss": self._first_loss,
                "handlers": handlers,
                "best_metric": -1.0 if state is None else float(state.best_metric),
                "best_metric_epoch": -1 if state is None else int(state.best_metric_epoch),
                "machine": {} if self.machine is None else self.machine.record(),
            },
            self.folder / run_folder.LAST,
        )

    def _told(self, **record: Any) -> dict[str, Tensor]:
        if self.facts is None:
            return {}
        facts = self.facts if self.choice is None else self.choice.applied(self.facts)
        return {FACTS: dataclasses.replace(facts, training={**facts.training, **record}).to_tensor()}

    def _keep_folder(self, engine: Any) -> None:
        if run_folder.keep_run_folder(self.folder):
            return
        state = None if self.evaluator is None else self.evaluator.state
        if state is not None and state.best_metric_epoch != engine.state.epoch:
            # the best network is gone with the folder: that of the next validation is the best there is
            state.best_metric, state.best_metric_epoch = -1, -1


def _loss(engine: Any) -> float:
    output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
    return float(output["loss"].detach()) if isinstance(output, dict) and "loss" in output else 0.0
