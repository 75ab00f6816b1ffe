"""Settings for a folder of one's own images, from what :mod:`unet_paper.data.survey` measured.

Every rule is one function that returns a value and, in words, why; the numbers in it say where they come from. What
comes out is an overlay on ``train.yaml``, ``data_folder.yaml`` and ``best_folder.yaml`` that a person can read and
change. The idea is that of nnU-Net's fingerprint (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): few rules, on
measured properties of the data, in one place.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_paper import geometry
from unet_paper.data.channels import are_usual
from unet_paper.data.hold_out import FEWEST, hold_out
from unet_paper.data.survey import Survey
from unet_paper.data.unit_range import FULL_SCALE, ROUNDING

__all__ = ["Choice", "Configuration", "configure"]

# seconds that one step of training takes with these features, a tile and a number of channels
Stopwatch = Callable[[Sequence[int], int, int], float]

# below, a wider network knows less after the same time than a narrower one: on a phantom of dense nuclei the loss of a
# narrow one still falls by a quarter between the 700th and the 1000th step
FEWEST_STEPS = 4000
MOST_STEPS = 20_000
# channels of the first level, the paper's last
WIDTHS = (16, 32, 64)
SMALL_CELL = 40.0  # px; four levels reach 44 px to every side, as much as such a cell and its rim need; five 92
FAINT = 0.05  # contrast, of black to white, of which the released code's black level is up to twice as much
LARGEST_PROPORTION = 4.0  # between bright and dark images, which exposures of a half to twice still cover
STEPS_PER_EPOCH = 50
VALIDATIONS = 12
_MASKS = {
    "instances": "masks hold one id a cell",
    "binary": "masks hold cells that do not touch, all in one value",
    "either": "masks hold one id a cell, or where they have one value, cells that do not touch",
    "classes": "values of the masks are kinds of cells",
    "points": "every cell has its point: a cell is found that holds one and no other, for its outline is not known",
}
MAGNIFICATIONS = (0.125, 0.1667, 0.25, 0.3333, 0.5, 0.6667, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Choice:
    """One setting and why it has its value."""

    setting: str
    value: Any
    why: str


@dataclass(frozen=True)
class Configuration:
    """All choices for a folder, in the order of the overlay."""

    choices: Sequence[Choice]

    def __getitem__(self, setting: str) -> Any:
        return next(choice.value for choice in self.choices if choice.setting == setting)

    def to_yaml(self, head: str = "") -> str:
        """The overlay: a line a setting, its reason above it.

        Args:
            head: comment at the top.

        >>> print(Configuration([Choice("flip", True, "cells have no upper side")]).to_yaml(), end="")
        # cells have no upper side
        flip: true
        """
        lines = [f"# {line}" for line in head.splitlines()]
        for choice in self.choices:
            # what is valid JSON is valid YAML
            lines += [f"# {choice.why}", f"{choice.setting}: {json.dumps(choice.value)}"]
        return "\n".join([*lines, ""])


def configure(
    found: Survey, *, minutes: float, seconds_per_step: Stopwatch, asked_magnification: float | None = None
) -> Configuration:
    """Settings for what a survey found.

    Args:
        found: the survey, of at least one image with a cell.
        minutes: that training may take on this machine.
        seconds_per_step: measures a step on this machine.
        asked_magnification: instead of one by the size of the cells; all else follows.

    Raises:
        ValueError: no time, or not one cell.
    """
    if not minutes > 0:
        raise ValueError(f"minutes={minutes}: a time above 0 is needed")
    if not found.cells:
        raise ValueError("no mask holds a cell: there is nothing to learn; draw some")
    magnification = (
        _magnification(found)
        if asked_magnification is None
        else Choice("magnification", asked_magnification, "as asked for")
    )
    diameter = found.diameter(50) * magnification.value
    channels = max(image.channels for image in found.images)
    grey_values = _grey_values(found)
    brightness, contrast = _brightness(found, grey_values)
    width, tile, epochs = _network(found, magnification.value, minutes, seconds_per_step, channels)
    return Configuration(
        [
            Choice("annotation", found.annotation, _MASKS[found.annotation]),
            *_channels(found, channels),
            *grey_values,
            *brightness,
            magnification,
            _scale(found, magnification.value),
            width,
            Choice("dropout", 0.0, "a network this narrow has nothing to drop (the paper: half of 1024 channels)"),
            tile,
            Choice(
                "displacement_std",
                round(max(2.0, 10.0 * tile.value / 572), 1),
                "px; the paper's 10 at its tile of 572, in proportion",
            ),
            Choice(
                "noise_std",
                min(0.004, _digits(0.02 * contrast)),
                "gives back the noise that resampling smooths: one step of 8 bits, or less where contrasts are faint",
            ),
            Choice("learning_rate", 0.002 if width.value[0] <= 16 else 0.001, "of Adam; narrow networks bear more"),
            Choice("border", "dilation", f"{found.touching} of {found.cells} cells touch another: a border parts them"),
            Choice(
                "sigma",
                round(min(5.0, max(2.0, diameter / magnification.value / 4)), 1),
                "px; the paper's 5, or a quarter of a cell: between small cells it would reach over all background",
            ),
            Choice(
                "class_weights",
                found.num_classes * [1.0],
                f"cells cover {found.foreground:.1%}; balanced in each image they weigh up to 50 where they are few, "
                "and outlines grow fat; the threshold is chosen below instead",
            ),
            *_cells(found),
            *_validation(found),
            *epochs,
        ]
    )


def _magnification(found: Survey) -> Choice:
    """The challenge sets work where a cell has 40 to 100 px in the network: HeLa, 130 px, at 0.5, U373 at 1."""
    diameter = found.diameter(50)
    if not found.sizes_known:
        said = (
            "points do not say how large cells are; for more than 100 px, say --magnification 0.5, for fewer than 12, 2"
        )
        return Choice("magnification", 1.0, said)
    wanted = 1.0
    if diameter > 100:
        wanted = 65 / diameter
    elif diameter < 12:
        wanted = min(2.0, 18 / diameter)
    value = min(MAGNIFICATIONS, key=lambda known: abs(math.log(known / wanted)))
    said = "fits as it is" if value == 1 else f"so that it has {diameter * value:.0f} px in the network"
    return Choice("magnification", value, f"a typical cell is {diameter:.0f} px across (half are smaller): {said}")


def _scale(found: Survey, magnification: float) -> Choice:
    spread = found.diameter(90) / max(found.diameter(10), 1e-6)
    by = 1.4 if spread > 3 else 1.25
    return Choice(
        "scale",
        [round(magnification / by, 3), round(magnification * by, 3)],
        f"sizes drawn around it; between the smaller and the larger tenth of the cells lies a factor of {spread:.1f}",
    )


def _channels(found: Survey, channels: int) -> list[Choice]:
    if channels == 1:
        return []
    names = next((image.channel_names for image in found.images if len(image.channel_names) == channels), ())
    named = f" ({', '.join(names)})" if names else ""
    choices = [Choice("in_channels", channels, f"images have {channels} channels{named}; --channel 0 takes the first")]
    # names of a single file may be those of its slices, and those that all files have tell nothing
    alike = len(found.images) > 1 and {image.channel_names for image in found.images} == {names}
    if alike and len(set(map(str.casefold, names))) == channels and not are_usual(names):
        choices.append(
            Choice("channel", list(names), "all of them, by name: in images to come their order may be another")
        )
    return choices


def _grey_values(found: Survey) -> list[Choice]:
    """White is what the camera can say, never what a set happens to hold: later images may be brighter."""
    kinds = {image.dtype for image in found.images}
    largest = max(image.largest for image in found.images)
    lowest = min(image.smallest for image in found.images)
    if kinds == {"uint8"}:
        return []
    if kinds <= {"uint8", "uint16"}:
        maximum = next(full for full in (4095, 16383, 65535) if largest <= full)
        if maximum == 65535:
            return []
        return [
            Choice("grey_maximum", maximum, f"grey values reach {largest:g}: a camera of {maximum.bit_length()} bits")
        ]
    choices = []
    # what lies below 0 is little: a filter's, or noise about black
    of_unit_range = all(kind.startswith("float") for kind in kinds) and -lowest <= largest <= 1
    if not of_unit_range:
        reach = f"grey values reach {largest:g}; twice that, for images to come"
        choices.append(Choice("grey_maximum", _twice(max(largest, 0.0)), reach))
    if lowest < (-ROUNDING if of_unit_range else 0):
        choices.insert(0, Choice("grey_minimum", -_twice(-lowest), f"grey values go down to {lowest:g}; twice that"))
    return choices


def _twice(value: float) -> float:
    """Twice a value, or a little more, in one digit."""
    digits = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return float(f"{math.ceil(2 * value / digits) * digits:.6g}")


def _brightness(found: Survey, grey_values: Sequence[Choice]) -> tuple[list[Choice], float]:
    """How grey values differ between images and within one, and the contrast of a typical image, of black to white.

    Logarithm where images of one set differ by a factor: in proportion, dim cells are noise beside bright ones. From
    what lies half of the pixels of a typical image, mostly background, equal factors become equal steps. On a phantom
    of nuclei, dim and bright by 20, the loss after 400 steps is 0.20 instead of 0.27. The same where all is dim, as in
    16 bits of which a camera used few: black levels and noise that are drawn by the range would drown it.
    """
    chosen = {choice.setting: choice.value for choice in grey_values}
    white = chosen.get("grey_maximum") or FULL_SCALE.get(found.images[0].dtype, 1.0)
    black = chosen.get("grey_minimum", 0.0)
    levels = np.array([(image.low, image.median, image.high) for image in found.images], float)
    levels = ((levels - black) / (white - black)).clip(0)
    ratio = _tenths(np.array([max(image.high, 1e-6) for image in found.images]))
    typical = float(np.median(levels[:, 1]))
    differ = ratio > LARGEST_PROPORTION
    # dim images need a step of few grey values
    knee = float(f"{min(0.1, max(0.002 if differ else 0.0002, typical)):.1g}")
    steps = np.log1p(levels / knee)
    linear, logarithmic = _contrast(levels), _contrast(steps / math.log1p(1 / knee))
    dim = linear < FAINT and logarithmic > 2 * linear
    choices = [_exposure(ratio, "")]
    if "grey_minimum" not in chosen and (differ or dim):
        said = (
            f"bright images are {ratio:.1f} times as bright as dark ones"
            if differ
            else f"what images show takes {linear:.2%} of the range from black to white"
        )
        choices = [
            Choice("grey_log", knee, f"{said}: equal factors become equal steps from here"),
            _exposure(_tenths(steps[:, 2]), " of these steps"),
        ]
        linear = logarithmic
    if linear < 4 * FAINT:
        why = f"contrasts are {linear:.1%} of the range from black to white: half of that at most (released code: 0.1)"
        choices.append(Choice("black_level", [0.0, _digits(linear / 2)], why))
    return choices, linear


def _contrast(levels: NDArray[np.float64]) -> float:
    """Of a typical image, from its middle grey value to the brightest or darkest, whichever is farther."""
    return float(np.median(np.maximum(levels[:, 2] - levels[:, 1], levels[:, 1] - levels[:, 0])))


def _digits(value: float) -> float:
    return float(f"{value:.2g}")


def _tenths(highs: NDArray[np.float64]) -> float:
    """By how much the brighter tenth of images is brighter than the darker tenth."""
    return float(np.percentile(highs, 90) / np.percentile(highs, 10))


def _exposure(ratio: float, of_what: str) -> Choice:
    by = round(min(2.0, max(1.0, math.sqrt(ratio))), 2) if ratio > 1.5 else 1.0
    return Choice(
        "exposure",
        [round(1 / by, 3), by],
        f"a factor of {ratio:.1f}{of_what} lies between bright and dark images"
        + (": drawn for every tile" if by > 1 else ""),
    )


def _network(
    found: Survey, magnification: float, minutes: float, seconds_per_step: Stopwatch, channels: int
) -> tuple[Choice, Choice, list[Choice]]:
    """The widest network that takes enough steps in the time, on tiles about as large as the images."""
    largest_cell = found.diameter(95) * magnification
    levels = 4 if largest_cell <= SMALL_CELL else 5
    side = max(min(image.shape) for image in found.images) * magnification
    output = max(2 * largest_cell, min(side, 196.0 if levels == 4 else 260.0), geometry.smallest_output_size(levels))
    tile = geometry.input_size(int(output), levels)
    budget = 60.0 * minutes * 0.85
    for first in WIDTHS:
        features = [first * 2**level for level in range(levels)]
        seconds = seconds_per_step(features, tile, channels)
        if first == WIDTHS[0] or budget / seconds >= FEWEST_STEPS:
            chosen, pace = features, seconds
        else:
            break
    steps = int(min(MOST_STEPS, max(budget / pace, 2 * STEPS_PER_EPOCH)))
    epochs = max(2, steps // STEPS_PER_EPOCH)
    interval = max(1, round(epochs / VALIDATIONS))
    reach = geometry.margin(levels)
    return (
        Choice(
            "features",
            chosen,
            f"{levels} levels see {reach} px to every side, 19 of 20 cells are at "
            f"most {largest_cell:.0f} px; the widest with {FEWEST_STEPS} steps in the time",
        ),
        Choice(
            "tile_size",
            tile,
            f"px; gives {geometry.output_size(tile, levels)} px of output, images have {side:.0f} px at this size",
        ),
        [
            Choice("steps_per_epoch", STEPS_PER_EPOCH, "an epoch is only how often one looks"),
            Choice("max_epochs", epochs, f"{pace:.2f} s a step on this machine, {minutes:g} minutes"),
            Choice("val_interval", interval, f"{VALIDATIONS} validations"),
            Choice("patience", 6, "validations without a better score, half of them: more steps no longer help"),
        ],
    )


def _cells(found: Survey) -> list[Choice]:
    sizes = found.areas if found.sizes_known else [min(image.areas, default=1) for image in found.images if image.areas]
    smallest = float(np.percentile(sizes, 2))
    often = found.touching >= 0.05 * found.cells
    split = "are split where they are narrow" if often else "are left as they are"
    return [
        Choice("cells_preset", "folder_split" if often else "folder", f"cells joined by the threshold {split}"),
        Choice("choose_cells", True, "threshold, splits and smallest cell are chosen on the validation images"),
        Choice(
            "min_size",
            max(3, int(smallest / 2)),
            f"px; half of what 98 of 100 cells have ({smallest:.0f} px): what is smaller is a speck",
        ),
    ]


def _validation(found: Survey) -> list[Choice]:
    count = len(found.images)
    if found.folds:
        validating = list(found.folds).count(0)
        return [
            Choice("fold", 0, "which of the images are held out: the column fold of the folder's pairs.csv"),
            Choice("folds", max(found.folds) + 1, f"as it says; {validating} of {count} images validate"),
        ]
    if count < FEWEST:
        return [Choice("fold", "block", f"{count} images are too few to hold one out: a quarter of each is held out")]
    held = hold_out(found)
    if held.listed:
        together = "images that show the same, such as tiles that overlap and frames of one film, as far as can be"
        return [
            Choice("fold", 0, "which of the images are held out: column fold of pairs.csv beside this file"),
            Choice("folds", held.folds, f"{held.of_image.count(0)} of {count} images validate, together {together}"),
        ]
    if not held.spread:
        how = "neighbours, since each is like the next, and would be known by it"
        return [
            Choice("fold", 0, "the first run of neighbouring images is held out"),
            Choice("folds", held.folds, f"{count // held.folds} of {count} images validate: {how}"),
        ]
    return [
        Choice("fold", 0, "which of the images are held out, see spread_folds"),
        Choice("folds", held.folds, f"{len(range(0, count, held.folds))} of {count} images validate"),
        Choice(
            "spread_folds", True, "every folds-th is held out, so all kinds: neighbours are no more alike than others"
        ),
    ]
