"""What weights know of their training, so that nothing is repeated by hand when they are used.

A checkpoint's state dict has one entry besides the network's own, ``facts``: JSON as bytes. Whoever reads it needs
neither this package nor a second file::

    state = torch.load("model.pt", weights_only=True)
    print(json.loads(bytes(state["facts"])))

The configs for inference, evaluation, export and fine-tuning take every setting that a network was trained with from
there (``$@facts['grey_mean']``); what is given explicitly comes first, and ``say_contradictions`` says so.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

import unet_paper
from unet_paper.data import region
from unet_paper.data.channels import Channel
from unet_paper.data.pixel_size import TOLERANCE, micrometres
from unet_paper.data.reader import extension, layout, split_page
from unet_paper.instances import PRESETS, WHOLE_FIELD, Settings
from unet_paper.running import checkpoint
from unet_paper.running.setting_ranges import refuse_impossible_values

logger = logging.getLogger(__name__)

# what no weights can tell of themselves, and prediction cannot do without
_INDISPENSABLE = ("grey_mean", "grey_std", "cells_preset")
# what holds of weights that do not say otherwise
USUAL: Mapping[str, Any] = {
    "dropout": 0.0,
    "magnification": 1.0,
    "symmetries": "none",
    "pixel_size": None,
    "grey_minimum": 0,
    "grey_maximum": None,
    "grey_log": None,
    "grey_ranges": None,
    "channel": None,
    "classes": None,
}
_PACKAGES = ("torch", "monai", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What weights must say so that they can be used, and for the record how they came about.

    Args:
        in_channels: channels of the images.
        out_channels: classes, background included.
        features: channels of each level of the network, full resolution first.
        preset: of :class:`unet_paper.network.UNet`.
        dropout: of the network in training.
        grey_mean: subtracted from images in [0, 1], one number or one a channel.
        grey_std: images are then divided by it.
        magnification: of the images before prediction.
        cells_preset: name of the post-processing in ``instances.PRESETS``.
        cells: the post-processing itself, with a threshold or a smallest cell of its own.
        grey_minimum: grey value that is black, see ``data.reader``.
        grey_maximum: grey value that is white; None: full scale of the files.
        grey_log: above which grey values in [0, 1] are taken by their logarithm, see ``data.reader``; None: none are.
        grey_ranges: of the training images' grey values, see ``data.grey_statistics``; None: not known.
        channel: number or name of the channel that is taken from images with several, or several.
        classes: names of the classes, background first, see :func:`class_names`.
        pixel_size: of the images that it was trained on, in micrometres, before magnification; None: not known.
        symmetries: test-time averaging.
        training: for the record: data, recipe, seed, versions. Plain numbers, words, lists and mappings.

    Raises:
        ValueError: for a value that cannot be, naming it.

    >>> facts = Facts(in_channels=1, out_channels=2, features=[4, 8], preset="paper", dropout=0.0, grey_mean=0.5,
    ...               grey_std=0.2, magnification=1.0, cells_preset="folder", cells=PRESETS["folder"])
    >>> Facts.from_json(facts.to_json()) == facts
    True
    >>> facts.classes
    ('background', 'cell')
    """

    in_channels: int
    out_channels: int
    features: Sequence[int]
    preset: str
    dropout: float
    grey_mean: float | Sequence[float]
    grey_std: float | Sequence[float]
    magnification: float
    cells_preset: str
    cells: Settings
    grey_minimum: float = 0
    grey_maximum: float | None = None
    grey_log: float | None = None
    grey_ranges: Mapping[str, Any] | None = None
    channel: Channel | None = None
    classes: Sequence[str] | None = None
    pixel_size: float | None = None
    symmetries: str = "none"
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # as JSON gives them back, so that facts compare equal before and after
        plain = _plain({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        if plain["classes"] is None:
            plain["classes"] = default_classes(plain["out_channels"])
        plain["classes"] = class_names(plain["classes"], plain["out_channels"])
        for name, value in plain.items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        for name in ("grey_mean", "grey_std"):
            value = plain[name]
            if not all(isinstance(number, int | float) for number in (value if isinstance(value, list) else [value])):
                raise ValueError(f"{name}={value!r}: a number, or one for each channel, is needed")
        refuse_impossible_values({name: plain[name] for name in ("grey_mean", "grey_std", "in_channels")}, "{}={}")

    def to_json(self) -> str:
        """The facts as JSON, with the version of the package that wrote them."""
        return json.dumps({"unet_paper": unet_paper.__version__, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Facts from JSON; entries that this version does not know are left out.

        Raises:
            ValueError: not JSON, or something is missing or cannot be.
        """
        found = json.loads(text)
        known = {field.name: field for field in dataclasses.fields(cls)}
        missing = [name for name, field in known.items() if name not in found and _is_required(field)]
        if missing:
            raise ValueError(f"facts without {missing[0]}")
        return cls(**{name: value for name, value in found.items() if name in known})

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """Facts from JSON where there is any that this version understands."""
        try:
            return None if text is None else cls.from_json(text)
        except (ValueError, TypeError):
            return None

    def to_tensor(self) -> Tensor:
        """The entry of a state dict: bytes of JSON, uint8, of any length."""
        return torch.frombuffer(bytearray(self.to_json().encode()), dtype=torch.uint8)


class KnownFacts(Mapping[str, Any]):
    """Facts of one file by name; asking for one that it does not tell says which settings to give.

    Args:
        source: the file, as its setting names it.
        facts: what it tells.
    """

    def __init__(self, source: str, facts: Mapping[str, Any]) -> None:
        self.source = source
        self._facts = dict(facts)

    def __getitem__(self, name: str) -> Any:
        """One fact.

        Raises:
            ValueError: if the file does not tell it.
        """
        if name not in self._facts:
            raise ValueError(
                f"{self.source} does not say with which {name} it was trained: it is from another program or an early "
                f"version; give --{name} as in its training (such weights need {', '.join(_INDISPENSABLE)})"
            )
        return self._facts[name]

    @property
    def complete(self) -> bool:
        """Whether nothing that prediction needs must be given."""
        return all(name in self._facts for name in _INDISPENSABLE)

    def trained_with(self, name: str) -> Any:
        """An entry of the record of the training; None if there is none."""
        return self._facts.get("training", {}).get(name)

    def scale(self) -> list[float]:
        """Range of sizes that images had in training, as ``RandElasticDeformationd`` takes it."""
        recorded = self.trained_with("scale")
        return list(recorded) if recorded else 2 * [float(self["magnification"])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __contains__(self, name: object) -> bool:
        return name in self._facts

    def get(self, name: str, default: Any = None) -> Any:
        """One fact, or ``default`` if the file does not tell it."""
        return self._facts.get(name, default)


def read(path: str | Path, expected_sha256: str | None = None, setting: str = "ckpt_path") -> KnownFacts:
    """Facts of a checkpoint. One that has none still tells its network's shape.

    Args:
        path: ``model.pt`` or ``last.pt`` of a run, or weights of another origin.
        expected_sha256: refuse any other file.
        setting: what the config calls the file, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as ``checkpoint.read_weights``, and for facts that cannot be read.
    """
    weights, text = checkpoint.read_weights_and_facts(path, expected_sha256, setting)
    source = f"{setting}={path}"
    if text is not None:
        try:
            return KnownFacts(source, dataclasses.asdict(Facts.from_json(text)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}: its entry 'facts' cannot be read ({error})") from error
    return KnownFacts(source, {**USUAL, **checkpoint.architecture(weights)})


def cells(
    preset: str,
    facts: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    min_size: int | None = None,
    field_of_interest: int | None = None,
) -> Settings:
    """Post-processing from a preset, with what training chose for these weights, and what is given explicitly.

    Args:
        preset: name in ``instances.PRESETS``.
        facts: of the weights; their post-processing counts if it is of the same preset.
        threshold: instead of the preset's or the weights'; of thresholds at which cells part, those above it stay.
        min_size: instead of the preset's or the weights'.
        field_of_interest: instead of the preset's or the weights'; 0 keeps the cells at the border.

    Raises:
        ValueError: for an unknown preset, a threshold that no probability has, or pixels that are no number of them.

    >>> cells("folder", threshold=0.7)["threshold"]
    0.7
    """
    given = {"threshold": threshold, "min_size": min_size, "field_of_interest": field_of_interest}
    _check_given(**given)
    if facts is not None and facts.get("cells_preset") == preset and "cells" in facts:
        # an earlier version knew fewer settings
        settings = {**PRESETS.get(str(preset), {}), **facts["cells"]}
    elif isinstance(preset, str) and preset in PRESETS:
        settings = dict(PRESETS[preset])
    else:
        raise ValueError(f"cells_preset={preset!r}: choose one of {', '.join(sorted(PRESETS))}")
    settings |= {name: value for name, value in given.items() if value is not None}
    above = [split for split in settings["split_thresholds"] if split > settings["threshold"]]
    if threshold is not None and len(above) < len(settings["split_thresholds"]):
        settings["split_thresholds"] = above
    return cast(Settings, settings)


def say_contradictions(facts: Mapping[str, Any], used: Mapping[str, Any]) -> list[str]:
    """Say in one line which settings are not those that the weights were trained with; the settings hold.

    Args:
        facts: of the weights.
        used: settings by name. Those of ``cells``, a mapping, are compared one by one.

    Returns:
        What was said, one part a setting; empty if nothing was.
    """
    ours, theirs = _flat(used), _flat({name: facts[name] for name in used if name in facts})
    differ = [
        f"{name} {ours[name]} (trained with {theirs[name]})"
        for name in ours
        if theirs.get(name, ours[name]) != ours[name]
        # prediction takes cells that scores leave out: they are cells all the same
        and (name, ours[name]) != ("field_of_interest", 0)
    ]
    if differ:
        logger.warning("%s: used as given: %s", getattr(facts, "source", "weights"), ", ".join(differ))
    return differ


def say_frame(cells: Mapping[str, Any]) -> None:
    """Say in one line that cells near the border are not counted, where the post-processing leaves them out.

    Args:
        cells: the post-processing, or settings with those of it among them.
    """
    if frame := cells.get("field_of_interest"):
        logger.warning(
            "cells that lie wholly within %d px of an image's border are left out and not counted, as in the scores of "
            "the Cell Tracking Challenge (field_of_interest); %s",
            frame,
            WHOLE_FIELD,
        )


def merged(facts: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with the settings that are used in their place."""
    return {**facts, **_plain(used)}


def class_names(names: Sequence[str] | None, out_channels: int) -> list[str]:
    """Names of the classes of a network, background first, as given or else :func:`default_classes`.

    Raises:
        ValueError: for another number of names than classes, or two that files and tables could not tell apart.

    >>> class_names(["background", "round", "long"], 3)
    ['background', 'round', 'long']
    """
    found = default_classes(out_channels) if names is None else [str(name) for name in names]
    if len(found) != out_channels:
        raise ValueError(f"classes={found}: one name for each of out_channels={out_channels} is needed")
    plain = [re.sub(r"[^\w-]+", "_", name.casefold()) for name in found]
    if len(set(plain)) != len(plain):
        raise ValueError(f"classes={found}: every class needs a name of its own")
    return found


def default_classes(out_channels: int) -> list[str]:
    """Names of classes that nobody named.

    >>> default_classes(2), default_classes(3)
    (['background', 'cell'], ['background', 'class 1', 'class 2'])
    """
    return (
        ["background", "cell"] if out_channels == 2 else ["background", *(f"class {k}" for k in range(1, out_channels))]
    )


def versions() -> dict[str, str]:
    """Versions of what a run depends on, for the record."""
    found = {"python": platform.python_version(), "unet_paper": unet_paper.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def images(training: Sequence[Mapping[str, str]], validation: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Numbers of images, kinds of files, and a checksum of the names of those held out: the same wherever they lie.

    Args:
        training: cases, see ``data.datasets``.
        validation: cases.
    """
    folders = {os.path.dirname(os.path.abspath(case["image"])) for case in (*training, *validation)}
    root = os.path.commonpath(folders) if folders else ""
    names = sorted(os.path.relpath(os.path.abspath(case["image"]), root) for case in validation)
    checksum = hashlib.sha256("\n".join(names).encode()).hexdigest()
    files = {str(split_page(case["image"])[0]) for case in (*training, *validation)}
    kinds = Counter(extension(file) or "regions" for file in files)
    return {
        "training": len(training),
        "validation": len(validation),
        "held_out": checksum[:16],
        "files": dict(sorted(kinds.items())),
    }


def say_other_images(
    facts: KnownFacts,
    dataset_dir: str | Path,
    training: Sequence[Mapping[str, str]],
    validation: Sequence[Mapping[str, str]],
) -> None:
    """Say where weights are scored on other images of their data than those that were held out in their training.

    Args:
        facts: of the weights.
        dataset_dir: folder of the images; nothing is said of another than that of the training.
        training: cases that are not scored.
        validation: those that are.
    """
    before, now = facts.trained_with("images") or {}, images(training, validation)
    if facts.trained_with("data") == folder_name(dataset_dir) and before.get("held_out", "") not in (
        "",
        now["held_out"],
    ):
        logger.warning(
            "%s: scored on other images of %s than were held out in its training, which may have learnt from some of "
            "them: images were added, taken away or renamed since (%s trained and validated, %s now), or fold and "
            "folds are others; such scores may be too good",
            facts.source,
            dataset_dir,
            " + ".join(str(before.get(part)) for part in ("training", "validation")),
            " + ".join(str(now[part]) for part in ("training", "validation")),
        )


def pixel_size(cases: Sequence[Mapping[str, str]] | None, given: float | None = None) -> float | None:
    """Side of the training images' pixels in micrometres: as given, or as all of their files say alike.

    Args:
        cases: of the training, see ``data.datasets``.
        given: the setting.

    Returns:
        The middle one of the sizes; None where a file does not tell, or where they are more than ``TOLERANCE`` apart,
        which is said.
    """
    if given is not None:
        return float(given)
    sizes = []
    for file in dict.fromkeys(split_page(case["image"])[0] for case in cases or ()):
        size = micrometres(layout(file)) if region.parse(str(file)) is None and file.exists() else None
        if size is None:
            return None
        sizes.append((size[0] * size[1]) ** 0.5)
    if not sizes:
        return None
    if max(sizes) > TOLERANCE * min(sizes):
        logger.warning(
            "pixels of the training images measure from %.4g to %.4g um: no size is recorded with the weights; "
            "magnify the images to one size, or say --pixel_size of most of them",
            min(sizes),
            max(sizes),
        )
        return None
    return float(sorted(sizes)[len(sizes) // 2])


def folder_name(path: str | Path) -> str:
    """Last part of a path: facts travel, and tell nobody where a person keeps their files.

    >>> folder_name("/home/somebody/PhC-C2DH-U373/")
    'PhC-C2DH-U373'
    """
    return Path(path).name


def _check_given(threshold: Any, min_size: Any, field_of_interest: Any) -> None:
    """Refuse what no map of probabilities reaches: it would find no cell, or one cell all over, in any image."""
    for name, value, least, limit, what in (
        ("threshold", threshold, 0, 1, "of a probability, 0 <= threshold < 1"),
        ("min_size", min_size, 0, math.inf, "a number of pixels >= 0"),
        ("field_of_interest", field_of_interest, 0, math.inf, "a whole number of pixels >= 0"),
    ):
        kinds = (int,) if name == "field_of_interest" else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if value is not None and not (is_number and least <= value < limit):
            raise ValueError(f"{name}={value!r}: {what} is needed; or leave --{name} out")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _flat(mapping: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    """Numbers, words, lists and mappings of text for whatever a config holds."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
