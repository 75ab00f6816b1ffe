"""When a run validates, which network is the best, and what a validation that cannot score says."""

import logging
import math
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import DistributedSampler
from monai.engines.evaluator import Evaluator
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)


def is_better(score: float, best: float) -> bool:
    """Whether a score takes the place of the best so far: higher is better, and any score is better than none.

    Where no score is defined, nothing has been found yet (0), or all has (1), the later network is the better one: the
    first validation is not the last word, and a network that finds every cell goes on to learn where it ends.

    >>> is_better(0.5, 0.4), is_better(0.4, 0.5), is_better(0.4, float("nan")), is_better(float("nan"), 0.4)
    (True, False, True, False)
    >>> is_better(0.0, 0.0), is_better(1.0, 1.0), is_better(float("nan"), float("nan")), is_better(0.4, 0.4)
    (True, True, True, False)
    """
    if math.isnan(score):
        return math.isnan(best)
    return math.isnan(best) or score > best or (score == best and best in (0, 1))


class Validation:
    """Handler of a trainer that validates every so many epochs, and after the last one whatever the interval.

    Args:
        validator: engine of the validation.
        interval: epochs.
        patience: validations in a row without a better one after which the run ends; None: it goes to its last epoch.

    Raises:
        ValueError: for an interval or a patience below 1.
    """

    def __init__(self, validator: Evaluator, interval: int = 1, patience: int | None = None) -> None:
        if interval < 1:
            raise ValueError(f"val_interval={interval}: at least 1 epoch; a large one validates after the last epoch")
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: at least 1 validation; null: the run goes to its last epoch")
        self.validator = validator
        self.patience = patience
        self.interval = interval
        self._said = False

    def attach(self, engine: Engine) -> None:
        """Validate at the end of epochs of ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate if it is time."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        self.validator.run(epoch)
        self._say_undefined()
        self._end_early(engine)

    def _end_early(self, engine: Engine) -> None:
        state: Any = self.validator.state
        epoch, name = engine.state.epoch, state.key_metric_name
        if self.patience is None or name is None or epoch == engine.state.max_epochs:
            return
        if epoch - max(state.best_metric_epoch, 0) >= self.patience * self.interval:
            logger.info(
                "%s has not risen for %d validations, since epoch %d: training ends at epoch %d of %d (--patience)",
                name,
                self.patience,
                state.best_metric_epoch,
                epoch,
                engine.state.max_epochs,
            )
            engine.terminate()

    def _say_undefined(self) -> None:
        state: Any = self.validator.state
        name = state.key_metric_name
        if self._said or name is None or not math.isnan(float(state.metrics[name])):
            return
        self._said = True
        logger.warning(
            "%s is undefined: no validation image holds a cell to score. model.pt is the network of the latest "
            "validation, not of the best; hold out images with cells (--fold, --folds), or annotate those held out",
            name,
        )


def share(dataset: Dataset[Any]) -> DistributedSampler:
    """Sampler of the validation images of this process; each image goes to one process.

    Raises:
        ValueError: if there are fewer images than processes.
    """
    images, processes = len(dataset), dist.get_world_size()  # type: ignore[arg-type]
    if images < processes:
        raise ValueError(
            f"{images} validation images for {processes} processes: every process needs one; start at most {images} "
            f"with --nproc_per_node={images}, or hold out more images with --folds"
        )
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)
