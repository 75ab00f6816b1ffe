"""What Ignite and MONAI's engines need to know about weights, sizes, seeds and processes."""

import atexit
import ctypes
import functools
import gc
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unet_paper.running.signals import PROCESS, Interrupted

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
PixelLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
# Weights of a network that learns stay below 100, and its loss far below a thousand times what it was at first.
LARGEST_WEIGHT = 1e6
DIVERGED = 1000.0
_ARRAYS = ("image", "label", "weight", "instances", "markers")


def select_device() -> torch.device:
    """The GPU of this process where there is one (``LOCAL_RANK`` under torchrun), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next request.

    A step on a CPU frees all that its activations took, and the next one asks for as much again. Handed back in
    between, every page comes anew from the system, zeroed: a tenth of a narrow network's step. PyTorch's allocator for
    GPUs keeps anyway.

    Returns:
        Whether the C library could be told so: glibc, the one of most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(trim_threshold, 2**31 - 1)) and bool(mallopt(mmap_threshold, 2**30))


def start_processes() -> None:
    """Join the process group that torchrun describes: NCCL on GPUs, gloo on a CPU.

    Raises:
        RuntimeError: if the environment variables of torchrun are missing.
    """
    if dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError(
            "LOCAL_RANK is not set: start a config for several processes with "
            "'torchrun --standalone --nproc_per_node=N -m monai.bundle run training ...'"
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(select_device())
    dist.init_process_group(backend="nccl" if cuda else "gloo")
    # also after an error: threads of a process group that outlive the interpreter end it with "terminate called"
    atexit.register(stop_processes)


def stop_processes() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        gc.collect()  # what refers to the group, as DistributedDataParallel does, goes before it
        dist.destroy_process_group()
        _control_group.cache_clear()


def process_rank() -> int:
    """Rank of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_secondary() -> bool:
    """Whether another process writes the files and prints the progress."""
    return process_rank() > 0


def process_count() -> int:
    """How many processes train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


@functools.cache
def _control_group() -> Any:
    """Group of all processes for a few bytes of the hosts' own: NCCL would make them wait for their GPUs."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def agree(value: int) -> int:
    """The largest ``value`` that any process has called this with; all must call it."""
    if process_count() == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_control_group())
    return int(largest)


def stop_if_asked() -> None:
    """Raise in all processes if any of them has received a signal; all must call it.

    Raises:
        Interrupted: with the number of the signal.
    """
    if number := agree(PROCESS.received):
        raise Interrupted(number)


def raise_together(error: FloatingPointError | None) -> None:
    """Raise in all processes if any of them has an error, which would leave the others waiting; all must call it.

    Raises:
        FloatingPointError: the error of this process, or that another has one.
    """
    found = agree(int(error is not None))
    if error is not None:
        raise error
    if found:
        raise FloatingPointError("training has diverged on the images of another process")


def gather(value: Any) -> list[Any]:
    """The ``value`` of every process, by rank; all must call it."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value, group=_control_group())
    return values


def parallel(network: nn.Module) -> nn.Module:
    """DistributedDataParallel on the device where the network lies; needs ``start_processes``."""
    device = next(network.parameters()).device
    return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _check_precision(precision: Precision) -> Precision:
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: must be one of {', '.join(get_args(Precision))}")
    return precision


def _refuse_amp(engine: Any, name: str) -> None:
    if getattr(engine, "amp", False):
        raise ValueError(f"{name}#amp=True: has no effect here; leave it out, and say --precision bfloat16")


def _arrays(engine: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arrays of a batch as plain tensors on the engine's device."""
    return {
        key: convert_to_tensor(batch[key], device=engine.state.device, track_meta=False)
        for key in _ARRAYS
        if key in batch
    }


class TrainingStep:
    """One optimisation step with a pixel-weighted loss: the ``iteration_update`` of MONAI's SupervisedTrainer.

    The engine's ``loss_function`` is called with (logits, label, weight). Nothing is read back from the device, so
    that a GPU never waits for the host.

    Args:
        precision: ``"float32"``, or ``"bfloat16"`` for autocast; weights and loss stay in float32.

    Raises:
        ValueError: an engine with ``amp`` or ``accumulation_steps``, which MONAI's own step has and this one has not.
    """

    def __init__(self, precision: Precision = "float32") -> None:
        self.precision = _check_precision(precision)

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        _refuse_amp(engine, "trainer")
        accumulated = getattr(engine, "accumulation_steps", 1)
        if accumulated > 1:
            raise ValueError(
                f"trainer#accumulation_steps={accumulated}: has no effect here; leave it out, and "
                "give --batch_size for steps of several tiles"
            )
        output = _arrays(engine, batch)
        engine.state.output = [output]
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with _autocast(self.precision, engine.state.device):
            output["pred"] = engine.inferer(output["image"], engine.network)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        output["loss"] = engine.loss_function(output["pred"].float(), output["label"], output["weight"])
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        output["loss"].backward()  # type: ignore[no-untyped-call]
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        # MONAI's handlers expect a list, as after decollation; its one item is the whole batch.
        return [output]


class EvaluationStep:
    """Prediction of one full-size image: the ``iteration_update`` of MONAI's SupervisedEvaluator.

    ``engine.state.output`` holds whatever of image, label, weight, instances and markers the batch has, ``pred``
    (logits, the size of the image) and, where label and weight are there, ``loss``.

    Args:
        loss_function: called with (logits, label, weight); None computes no loss.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.

    Raises:
        ValueError: an engine with ``amp``, which MONAI's own step has and this one has not.
    """

    def __init__(self, loss_function: PixelLoss | None = None, precision: Precision = "float32") -> None:
        self.loss_function = loss_function
        self.precision = _check_precision(precision)

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        _refuse_amp(engine, "evaluator")
        output = _arrays(engine, batch)
        engine.state.output = output
        with engine.mode(engine.network):
            with _autocast(self.precision, engine.state.device):
                output["pred"] = engine.inferer(output["image"], engine.network).float()
            if self.loss_function is not None and "weight" in output:
                output["loss"] = self.loss_function(output["pred"], output["label"], output["weight"])
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        # Post-processing may have replaced the batch by a list of cases.
        return engine.state.output


def resumable(engine: Any) -> dict[str, Any]:
    """Handlers of an engine, by name, with a ``state_dict`` that a checkpoint holds and ``load_state_dict``."""
    if not hasattr(engine.state, "resumable"):
        engine.state.resumable = {}
    found: dict[str, Any] = engine.state.resumable
    return found


class SeededEpochs:
    """Gives every epoch a random state of its own, drawn from ``seed``, epoch and process.

    Weights, sampler, augmentation and dropout of an epoch thus depend on nothing that came before it but the weights
    and the optimiser, and a run that was interrupted and resumed equals one that was not. Within an epoch, the images
    of the steps that are done are gone through again, and the random state of the last one comes from the checkpoint.

    Args:
        seed: seed of the run, >= 0.
        loader: training data; the random transforms of its dataset are seeded with it.
    """

    def __init__(self, seed: int, loader: DataLoader[Any]) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed}: must be 0 or more")
        self.seed = seed
        self.loader = loader
        self._random: list[dict[str, Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each epoch of ``engine``."""
        resumable(engine)["seeded_epochs"] = self
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def state_dict(self) -> dict[str, Any]:
        """Random states of all processes, each of which must call this."""
        own = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state(select_device())
        return {"random": gather(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the states of ``state_dict`` for the rest of the epoch in which it was called."""
        self._random = state["random"]
        if len(self._random) != process_count():
            logger.warning(
                "%d processes go on with an epoch that %d have begun: its last steps see other images than they would "
                "have seen",
                process_count(),
                len(self._random),
            )
            self._random = []

    def __call__(self, engine: Engine) -> None:
        # Distinct for all runs shorter than 10,000 epochs on fewer than 100 processes.
        seed = (self.seed * 1_000_003 + engine.state.epoch * 100 + process_rank()) % 2**32
        torch.manual_seed(seed)
        transform = getattr(self.loader.dataset, "transform", None)
        if transform is not None:
            transform.set_random_state(seed=seed)
        done = engine.state.iteration - (engine.state.epoch - 1) * (engine.state.epoch_length or 0)
        if done > 0 and engine.state.epoch_length:
            logger.info("going through the images of %d steps of epoch %d again", done, engine.state.epoch)
            engine.state.dataloader = _RestOfEpoch(self.loader, done, self._restore)

    def _restore(self) -> None:
        if not self._random:
            return
        own = self._random[process_rank()]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"], select_device())


class _RestOfEpoch:
    """A loader whose first pass leaves out the batches that a resumed epoch has had.

    They are drawn and augmented all the same: sampler, augmentation and workers then stand where they stood.
    """

    def __init__(self, loader: DataLoader[Any], done: int, restore: Callable[[], None]) -> None:
        self.loader = loader
        self.done = done
        self.restore = restore

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        if self.done:
            for _ in range(self.done):
                next(batches)
            self.restore()
            self.done = 0
        yield from batches


class LossWatch:
    """Mean training loss of the last steps; stops the run when it is no longer a number.

    The loss is summed on the device and read only every ``interval`` steps.

    Args:
        interval: steps over which the loss is averaged.

    Raises:
        FloatingPointError: (while training) if the loss is NaN or infinite.
    """

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise ValueError(f"interval={interval}: must be at least 1 step")
        self.interval = interval
        self.history: list[tuple[int, float]] = []
        self._sum: Tensor | None = None
        self._steps = 0
        self._first_step = 0

    def attach(self, engine: Engine) -> None:
        """Follow the loss of the trainer ``engine``; its ``state.loss_history`` holds (step, mean loss)."""
        engine.state.loss_history = self.history
        resumable(engine)["loss_watch"] = self
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._read)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._read)

    def state_dict(self) -> dict[str, Any]:
        """Losses of the epoch so far."""
        total = None if self._sum is None else self._sum.cpu()
        history = [[step, loss] for step, loss in self.history if step > self._first_step]
        return {"history": history, "sum": total, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the losses of ``state_dict``."""
        self.history[:] = [(int(step), float(loss)) for step, loss in state["history"]]
        self._sum, self._steps = state["sum"], state["steps"]

    def _begin(self, engine: Any) -> None:
        self._first_step = (engine.state.epoch - 1) * (engine.state.epoch_length or 0)

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"].detach().float()
        self._sum = loss if self._sum is None else self._sum.to(loss.device) + loss
        self._steps += 1

    def _read(self, engine: Engine) -> None:
        if self._sum is None:
            return
        loss = float(self._sum / self._steps)
        self._sum, self._steps = None, 0
        said = f"training loss is {loss} at step {engine.state.iteration}: training has diverged"
        raise_together(None if math.isfinite(loss) else FloatingPointError(said))
        self.history.append((engine.state.iteration, loss))


def refuse_diverged(engine: Any, network: nn.Module, first_loss: float) -> None:
    """Make sure that the weights which the last step has made are worth keeping, by the forward pass of another step.

    Call it after a step of the trainer ``engine``, which is not changed by it.

    Args:
        engine: a trainer with ``TrainingStep``.
        network: its network, not compiled and not parallel.
        first_loss: loss of the run's first step.

    Raises:
        FloatingPointError: if a weight or what the optimiser keeps is not finite or very large, or if the loss on the
            step's own images has become infinite, NaN, or ``DIVERGED`` times what it was.
    """
    step = engine.state.iteration
    largest = float(torch.stack([value.detach().abs().amax() for value in network.parameters()]).amax())
    kept = [value for entry in engine.optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    sound = all(bool(torch.isfinite(value).all()) for value in kept)
    if not largest <= LARGEST_WEIGHT or not sound:
        what = f"a weight is {largest:.3g}" if sound else "what the optimiser keeps is not finite"
        raise FloatingPointError(f"{what} after step {step}: training has diverged")
    output = engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output
    if not isinstance(output, dict) or not {"image", "label", "weight"} <= output.keys():
        return
    training = network.training
    with torch.no_grad():
        network.eval()
        pred = engine.inferer(output["image"], network)
        loss = float(engine.loss_function(pred.float(), output["label"], output["weight"]))
        network.train(training)
    if not loss <= DIVERGED * max(first_loss, 1.0):
        raise FloatingPointError(
            f"training loss is {loss:.4g} after step {step} and was {first_loss:.4g} at the beginning: training has "
            "diverged"
        )


class TrainingProgress(ProgressBar):
    """Progress of a trainer with the mean loss of ``LossWatch``: a bar on a terminal, lines in the log elsewhere.

    Args:
        seconds: between two lines of the log; the first comes sooner.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__(persist=False, mininterval=0.5, desc="training", disable=None)
        self.seconds = seconds
        self._begun = self._said = time.monotonic()
        self._first = 0

    def attach(self, engine: Engine) -> None:
        """Show the steps of each epoch of ``engine``."""
        super().attach(engine, output_transform=lambda _: self._loss(engine))
        if not sys.stderr.isatty():
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._say)

    def _start(self, engine: Any) -> None:
        images = len(getattr(engine.state.dataloader, "dataset", ()))
        logger.info(
            "training on %d images: %d epochs of %d steps", images, engine.state.max_epochs, engine.state.epoch_length
        )
        self._begun = time.monotonic()
        self._said = self._begun - 2 * self.seconds / 3

    def _say(self, engine: Any) -> None:
        now, state = time.monotonic(), engine.state
        self._first = self._first or state.iteration - 1
        if now - self._said < self.seconds:
            return
        self._said = now
        total = state.max_epochs * state.epoch_length
        pace = (now - self._begun) / (state.iteration - self._first)
        loss = "".join(f", {name} {value:.4g}" for name, value in self._loss(engine).items())
        logger.info(
            "epoch %d of %d, step %d of %d%s; %.2f s a step, about %d min to go",
            state.epoch,
            state.max_epochs,
            state.iteration,
            total,
            loss,
            pace,
            math.ceil((total - state.iteration) * pace / 60),
        )

    @staticmethod
    def _loss(engine: Engine) -> dict[str, float]:
        history = getattr(engine.state, "loss_history", [])
        return {"loss": history[-1][1]} if history else {}
