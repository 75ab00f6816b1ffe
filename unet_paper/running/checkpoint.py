"""Weights on disk: best and last of a run, written atomically; loading with checks that say what does not fit."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from unet_paper.network import FACTS
from unet_paper.running import damage, run_folder, widening
from unet_paper.running.placement import placed

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
    content = read_content(path, expected_sha256, setting)
    state = _state_dict(content, f"{setting}={path}")
    entry = state.pop(FACTS, content.get(FACTS))
    text = None if entry is None else bytes(entry.round().to(torch.uint8).numpy()).decode(errors="replace")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, text


def read_content(path: str | Path, expected_sha256: str | None, setting: str) -> Any:
    """Whatever a checkpoint holds, on the CPU.

    Args, Raises: as for :func:`read_weights`.
    """
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
    while anchor is None and state:  # another network than ours
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
    narrower: bool = False,
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
        narrower: the network may have several times the checkpoint's features; it then starts with the same output,
            see ``widening.widened``, which is said.

    Raises:
        FileNotFoundError, ValueError: as ``read_weights``, and if names or shapes do not fit the network.
    """
    weights = read_weights(path, expected_sha256, setting)
    bare = bare_network(network)
    state = bare.state_dict()
    if fewer_levels and len(_features(state)) < len(_features(weights)):
        logger.warning("%s=%s has more levels than this network, which starts from the upper ones", setting, path)
        weights = upper_levels(weights, len(_features(state)))
    if narrower and (factor := widening.factor(_features(weights), _features(state))):
        logger.warning(
            "%s=%s has fewer features: this network starts from %d copies of each",
            setting,
            path,
            factor,
        )
        weights = widening.widened(weights, factor)
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

    A network with another number of classes keeps its own classifier; one of fewer levels takes the upper ones; one of
    several times as many features starts from copies of each.

    Raises:
        FileNotFoundError, ValueError: as ``load_weights``; a checksum, or parts to start from chance, without weights.
    """
    for name, value in {"pretrained_sha256": expected_sha256, "reinitialise": reinitialise}.items():
        if value and pretrained is None:
            raise ValueError(
                f"{name}={value}: has no effect without weights to start from; give --pretrained FILE, or leave it out"
            )
    if pretrained is not None:
        load_weights(
            network,
            pretrained,
            expected_sha256,
            reinitialise,
            "pretrained",
            other_classes=True,
            fewer_levels=True,
            narrower=True,
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


def export_weights(
    source: str | Path, target: str | Path, facts: Tensor | None = None, average_with: Sequence[str | Path] = ()
) -> str:
    """Write the weights of a checkpoint as a release holds them: a flat state dict in half precision, with its facts.

    Args:
        source: checkpoint.
        target: file to write.
        facts: ``facts.Facts.to_tensor`` of these weights, instead of those in the checkpoint.
        average_with: further checkpoints; what is written is the mean of all. Networks that were begun from one
            another, or from the same weights, have a mean that may be better than any (arXiv:2203.05482); others not.

    Returns:
        SHA-256 of the file written, for the config that will load it.

    Raises:
        FileExistsError: if that is the checkpoint itself, which holds more than a release.
        ValueError: a checkpoint to average with that is of another architecture.
    """
    if Path(target).exists() and Path(target).samefile(source):
        raise FileExistsError(f"{target}: is the checkpoint itself, which holds more than a release; name another file")
    read, text = read_weights_and_facts(source)
    others = {path: read_weights(path) for path in average_with}
    for path, other in others.items():
        if _shapes(other) != _shapes(read):
            raise ValueError(
                f"average_with={path}: belongs to another architecture than {source}; give checkpoints that were begun "
                "from one another, or from the same weights"
            )
    if others:
        read = {
            name: torch.stack([value, *(other[name] for other in others.values())]).mean(dim=0)
            for name, value in read.items()
        }
    weights = {name: value.half() if value.is_floating_point() else value for name, value in read.items()}
    if facts is None and text is not None:
        facts = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    if facts is not None:
        weights[FACTS] = facts
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save(weights, Path(target))
    return sha256(target)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


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


def bare_network(network: nn.Module) -> nn.Module:
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
