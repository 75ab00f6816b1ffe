"""Weights on disk: best and last of a run, written atomically; loading with checks that say what does not fit."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from unet_paper.network import FACTS
from unet_paper.running import damage, engines, resuming, run_folder
from unet_paper.running.placement import placed
from unet_paper.running.signals import PROCESS, Interrupted

if TYPE_CHECKING:
    from unet_paper.running.cells_choice import CellsChoice
    from unet_paper.running.facts import Facts
    from unet_paper.running.machine import Choices

logger = logging.getLogger(__name__)

BEST = run_folder.BEST
LAST = run_folder.LAST
CLASSIFIER = "classifier"
# where checkpoints of this and of other programs keep the network's state dict
_NESTED = ("network", "model", "state_dict", "model_state_dict", "net", "weights", "params", "ema")
# what DistributedDataParallel and DataParallel, torch.compile and torch.optim.swa_utils put before every name
_WRAPPERS = ("module.", "_orig_mod.")
_OF_WRAPPERS = ("n_averaged",)
_ANCHOR = "contracting.0.0.weight"


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint beside ``path`` and move it into place, so that ``path`` is never half a file."""
    with placed(path) as part, part.open("wb") as file:
        torch.save(content, file)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def released_sha256(path: str | Path, released: str | Path, sha256: str) -> str | None:
    """The checksum that ``path`` must have: that of the released weights if it is their file, else None (any).

    >>> released_sha256("bundle/../bundle/models/model.pt", "bundle/models/model.pt", "ab")
    'ab'
    >>> released_sha256("runs/model.pt", "bundle/models/model.pt", "ab") is None
    True
    """
    return sha256 if Path(path).resolve() == Path(released).resolve() else None


def own_or_released(folder: str | Path, released: str | Path, served: bool = False) -> str:
    """The weights of the run in ``folder`` if it has any, else the released ones.

    Args:
        folder: of a run, or for its predictions.
        released: weights of the release.
        served: MONAI Label puts new weights in the place of the released ones, and these count.

    >>> own_or_released("runs/none", "bundle/models/model.pt")
    'bundle/models/model.pt'
    """
    own = Path(folder) / BEST
    return str(own) if own.is_file() and not served else str(released)


def read_weights(path: str | Path, expected_sha256: str | None = None, setting: str = "ckpt_path") -> dict[str, Tensor]:
    """State dict of a network from ``model.pt`` (flat) or ``last.pt`` (with optimiser), in float32, on the CPU.

    Names lose what DataParallel, torch.compile and other wrappers put before them.

    Args:
        path: file written by ``save``; read with ``weights_only=True``, so no code in it can run.
        expected_sha256: refuse any other file.
        setting: what the config calls the file, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or wrong checksum, or no state dict of tensors in the file.
    """
    return read_weights_and_facts(path, expected_sha256, setting)[0]


def read_weights_and_facts(
    path: str | Path, expected_sha256: str | None = None, setting: str = "ckpt_path"
) -> tuple[dict[str, Tensor], str | None]:
    """``read_weights``, and the JSON of how they were trained (see ``facts``); None if the file tells nothing."""
    content = _content(path, expected_sha256, setting)
    state = _state_dict(content, f"{setting}={path}")
    entry = state.pop(FACTS, content.get(FACTS))
    text = None if entry is None else bytes(entry.round().to(torch.uint8).numpy()).decode(errors="replace")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, text


def _content(path: str | Path, expected_sha256: str | None, setting: str) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{setting}={path}: no such checkpoint; train first, or name a checkpoint with --{setting} FILE"
        )
    if expected_sha256 is not None and (found := sha256(path)) != expected_sha256:
        raise ValueError(f"{setting}={path}: sha256 is {found}, not {expected_sha256}; fetch the file again")
    damage.check_intact(path, f"{setting}={path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{setting}={path}: not a checkpoint of tensors ({type(error).__name__}: {error})") from error


def _state_dict(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint, with the names that the network itself gives its tensors."""
    nested = [key for key in _NESTED if isinstance(content, dict) and isinstance(content.get(key), Mapping)]
    state = content[nested[0]] if nested else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        held = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{name}: holds no state dict of tensors, but {held or 'nothing'}; expected a {BEST} or {LAST} of a run, "
            f"or a state dict, on its own or under {', '.join(_NESTED[:4])}"
        )
    return _bare_names({name: value for name, value in state.items() if name not in _OF_WRAPPERS})


def _bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    anchor = next((name for name in state if name.endswith(f".{_ANCHOR}")), None)
    prefix = "" if anchor is None else anchor.removesuffix(_ANCHOR)
    while anchor is None:  # another network than ours
        wrapper = next((word for word in _WRAPPERS if all(name.startswith(prefix + word) for name in state)), None)
        if wrapper is None:
            break
        prefix += wrapper
    return {name.removeprefix(prefix): value for name, value in state.items()}


def architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes of a state dict tell of its :class:`unet_paper.network.UNet`; empty for another network.

    Returns:
        ``in_channels``, ``out_channels``, ``features``, ``preset``.
    """
    features = _features(weights)
    if not features or "classifier.weight" not in weights:
        return {}
    return {
        "in_channels": int(weights[_ANCHOR].shape[1]),
        "out_channels": int(weights["classifier.weight"].shape[0]),
        "features": features,
        # its up-convolutions are followed by a ReLU, in a sequence of their own
        "preset": "phseg_v5" if "up.0.0.weight" in weights else "paper",
    }


def features(path: str | Path, expected_sha256: str | None = None, setting: str = "ckpt_path") -> list[int]:
    """Channels of each level of the network that a checkpoint belongs to, full resolution first.

    Args:
        path: checkpoint of a :class:`unet_paper.network.UNet`.
        expected_sha256: refuse any other file.
        setting: what the config calls the file, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as ``read_weights``, and for the weights of another network.
    """
    found = _features(read_weights(path, expected_sha256, setting))
    if not found:
        raise ValueError(f"{setting}={path}: holds the weights of another network than the U-Net of this package")
    return found


def load_weights(
    network: nn.Module,
    path: str | Path,
    expected_sha256: str | None = None,
    reinitialise: Sequence[str] = (),
    setting: str = "ckpt_path",
    other_classes: bool = False,
    fewer_levels: bool = False,
) -> None:
    """Load a checkpoint into a network, all of it or nothing.

    Args:
        network: network to fill.
        path: checkpoint.
        expected_sha256: refuse any other file.
        reinitialise: modules of the network, such as ``"classifier"``, that keep the weights they have, whatever the
            checkpoint has in their place.
        setting: what the config calls the file, for errors.
        other_classes: the network may have another number of classes; its classifier then keeps the weights it has,
            which is said.
        fewer_levels: the network may have fewer levels, as wide as those of the checkpoint; it then takes the upper
            ones, which is said.

    Raises:
        FileNotFoundError, ValueError: as ``read_weights``, and if names or shapes do not fit the network.
    """
    weights = read_weights(path, expected_sha256, setting)
    bare = _bare(network)
    state = bare.state_dict()
    if fewer_levels and len(_features(state)) < len(_features(weights)):
        logger.warning("%s=%s has more levels than this network, which starts from the upper ones", setting, path)
        weights = upper_levels(weights, len(_features(state)))
    reinitialise = list(reinitialise)
    if other_classes and CLASSIFIER not in reinitialise:
        before, now = (len(weights_.get(f"{CLASSIFIER}.weight", ())) for weights_ in (weights, state))
        if before and before != now:
            logger.warning(
                "%s=%s tells %d classes apart, this network %d: its classifier starts from chance, all else from there",
                setting,
                path,
                before,
                now,
            )
            reinitialise.append(CLASSIFIER)
    for module in reinitialise:
        kept = {name: value for name, value in state.items() if name.startswith(f"{module}.")}
        if not kept:
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in state))
            raise ValueError(f"reinitialise={module}: the network has no such module; it has {known}")
        weights = {name: value for name, value in weights.items() if not name.startswith(f"{module}.")} | kept
    own = {name: tuple(value.shape) for name, value in state.items()}
    other = {name: tuple(value.shape) for name, value in weights.items()}
    if own != other:
        name = next(name for name in [*own, *other] if own.get(name) != other.get(name))
        found, wanted = architecture(weights), architecture(state)
        differ = [f"--{key} '{value}'" for key, value in found.items() if value != wanted.get(key)]
        hint = f"; for it set {' '.join(differ)}" if differ else ""
        raise ValueError(
            f"{setting}={path}: belongs to another architecture, {name} has shape {other.get(name, 'none')} there "
            f"and {own.get(name, 'none')} in the network{hint}"
        )
    bare.load_state_dict(weights)
    logger.info("weights: %s, sha256 %s", path, sha256(path)[:12])


def start_from(
    network: nn.Module,
    pretrained: str | Path | None,
    expected_sha256: str | None = None,
    reinitialise: Sequence[str] = (),
) -> None:
    """Load the weights that a training starts from, where it does not start from chance (None); see ``load_weights``.

    A network with another number of classes keeps its own classifier; one of fewer levels takes the upper ones.

    Raises:
        FileNotFoundError, ValueError: as ``load_weights``.
    """
    if pretrained is not None:
        load_weights(
            network, pretrained, expected_sha256, reinitialise, "pretrained", other_classes=True, fewer_levels=True
        )


def upper_levels(weights: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """State dict of the network that is left of a :class:`unet_paper.network.UNet` without its lowest levels.

    Its weights fit but do not work at once: what came from below comes from the contracting path now.

    Args:
        weights: state dict of the deeper network.
        levels: to keep.

    >>> from unet_paper.network import UNet
    >>> upper = upper_levels(UNet(features=[2, 4, 8]).state_dict(), 2)
    >>> _ = UNet(features=[2, 4]).load_state_dict(upper)
    """
    cut = len(_features(weights)) - levels
    kept = {}
    for name, value in weights.items():
        path, number, *rest = name.split(".")
        if path == "contracting" and int(number) >= levels:
            continue
        if path in ("up", "expanding"):  # counted from below
            if int(number) < cut:
                continue
            number = str(int(number) - cut)
        kept[".".join([path, number, *rest])] = value
    return kept


def export_weights(source: str | Path, target: str | Path, facts: Tensor | None = None) -> str:
    """Write the weights of a checkpoint as a release holds them: a flat state dict in half precision, with its facts.

    Args:
        source: checkpoint.
        target: file to write.
        facts: ``facts.Facts.to_tensor`` of these weights, instead of those in the checkpoint.

    Returns:
        SHA-256 of the file written, for the config that will load it.

    Raises:
        FileExistsError: if that is the checkpoint itself, which holds more than a release.
    """
    if Path(target).exists() and Path(target).samefile(source):
        raise FileExistsError(f"{target}: is the checkpoint itself, which holds more than a release; name another file")
    read, text = read_weights_and_facts(source)
    weights = {name: value.half() if value.is_floating_point() else value for name, value in read.items()}
    if facts is None and text is not None:
        facts = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    if facts is not None:
        weights[FACTS] = facts
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save(weights, Path(target))
    return sha256(target)


class WeightsLoader:
    """Handler that loads a checkpoint into the network when its engine starts.

    Args:
        network: network to fill.
        path: checkpoint.
        expected_sha256: checksum that the file must have; None accepts any.
    """

    def __init__(self, network: nn.Module, path: str | Path, expected_sha256: str | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.expected_sha256 = expected_sha256

    def attach(self, engine: Engine) -> None:
        """Load at the start of ``engine``."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _engine: Engine) -> None:
        load_weights(self.network, self.path, self.expected_sha256)


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
    ) -> None:
        if not minutes > 0:
            raise ValueError(f"checkpoint_minutes={minutes}: must be more than 0; .inf writes after epochs alone")
        self.folder = Path(folder)
        self.facts = facts
        self.choice = choice
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator: Any = evaluator
        self.resume = resume
        self.read_only = read_only
        self.minutes = minutes
        self._written_at = time.monotonic()
        self._first_loss: float | None = None
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
        last = self.folder / LAST
        if not self.resume:
            return
        if not last.is_file():
            logger.info("resume: no %s yet, starting from the beginning", last)
            return
        content = _content(last, None, "resume")
        before = None if self.facts is None else self.facts.of(read_weights_and_facts(last, setting="resume")[1])
        self.facts = resuming.begun_as(before, self.facts)
        changed = resuming.compare(before, self.facts, str(last))
        load_weights(self.network, last, setting="resume")
        changed |= resuming.restore(content, self.optimizer, self.lr_scheduler, str(last))
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
            engines.refuse_diverged(engine, _bare(self.network), first_loss)
        except FloatingPointError as error:
            found = error
        engines.raise_together(found)

    def _end_epoch(self, engine: Any) -> None:
        state = None if self.evaluator is None else self.evaluator.state
        if not self.read_only:
            self._keep_folder(engine)
            if state is None or state.best_metric_epoch == engine.state.epoch:
                save({**_bare(self.network).state_dict(), **self._told()}, self.folder / BEST)
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
        save(
            {
                "network": _bare(self.network).state_dict(),
                **self._told(),
                "optimizer": self.optimizer.state_dict(),
                "identity": resuming.identity(self.optimizer, self.lr_scheduler),
                "lr_scheduler": {} if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
                "epoch": closed,
                "iteration": engine.state.iteration,
                "epoch_length": length,
                "first_loss": self._first_loss,
                "handlers": handlers,
                "best_metric": -1.0 if state is None else float(state.best_metric),
                "best_metric_epoch": -1 if state is None else int(state.best_metric_epoch),
                "machine": {} if self.machine is None else self.machine.record(),
            },
            self.folder / LAST,
        )

    def _told(self) -> dict[str, Tensor]:
        if self.facts is None:
            return {}
        return {FACTS: (self.facts if self.choice is None else self.choice.applied(self.facts)).to_tensor()}

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


def _bare(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    bare: Any = network
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while isinstance(bare, parallel) or hasattr(bare, "_orig_mod"):
        bare = bare.module if isinstance(bare, parallel) else bare._orig_mod
    return cast(nn.Module, bare)


def _features(weights: Mapping[str, Tensor]) -> list[int]:
    """Channels of each level of a UNet's state dict; empty if it is of something else."""
    names = (f"contracting.{level}.0.weight" for level in range(len(weights)))
    return [weights[name].shape[0] for name in names if name in weights]
