"""What values a setting may have, where its kind is right: whole numbers, and those within limits.

Whoever uses a setting checks it, too, but by the name that it has there, later, or not at all: a network trains with
``grey_mean: 90``, and learns nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unet_paper import geometry
from unet_paper.weight_map import BORDER_TERM

# whole numbers, and the least that each may be
_COUNTS: Mapping[str, float] = {
    **dict.fromkeys(("in_channels", "batch_size", "max_epochs", "steps_per_epoch", "val_interval", "patience"), 1),
    **dict.fromkeys(("out_channels", "features", "folds", "side", "block", "tiles", "workers", "threads"), 1),
    **dict.fromkeys(("memory_budget", "memory"), 1),
    **dict.fromkeys(("num_workers", "seed", "min_size", "field_of_interest", "paste_cells"), 0),
    **dict.fromkeys(("ignore_value", "background_value", "fold", "tile_size"), -math.inf),
}
_OF_WHITE = ("grey_mean", "grey_std")
_ABOVE_0 = ("grey_std", "pixel_size", "magnification", "point_radius", "sigma")
_FROM_0 = ("learning_rate", "displacement_std", "class_weights", "unknown_radius")
# (low, high) of what is drawn for every tile
_DRAWN = ("rotate", "scale", "paste_cells", "black_level", "exposure", "contrast", "blur")


def refuse_impossible_values(settings: Mapping[str, Any], form: str = "--{} {}") -> None:
    """Raise for a setting of the right kind that has a value which it cannot have; expressions are left alone.

    Args:
        settings: of the config that is run.
        form: how an error writes a setting and its value.

    Raises:
        ValueError: names the setting, its value, and what it may be.

    >>> refuse_impossible_values({"grey_mean": 90})
    Traceback (most recent call last):
    ValueError: --grey_mean 90: from 0 for black to 1 for white is needed; 90 of 255 is 0.353
    """
    for name, value in settings.items():
        numbers = [number for number in _listed(value) if isinstance(number, int | float)]
        needed = _needed(name, numbers, settings)
        if needed:
            raise ValueError(f"{form.format(name, value)}: {needed}")
    weighting = settings.get("weight_preset")  # which the weight map calls its preset, as the network calls another
    if isinstance(weighting, str) and not weighting.startswith(("$", "@")) and weighting not in BORDER_TERM:
        raise ValueError(f"{form.format('weight_preset', weighting)}: choose one of {', '.join(sorted(BORDER_TERM))}")
    _check_channels(settings, form)
    _check_tile(settings, form)


def _needed(name: str, numbers: Sequence[float], settings: Mapping[str, Any]) -> str | None:
    """What a setting needs, if that is not what it has."""
    needed = None
    if any(math.isnan(number) for number in numbers):
        needed = "a number is needed"
    elif name in _COUNTS and any(not float(number).is_integer() or number < _COUNTS[name] for number in numbers):
        least = f" of at least {_COUNTS[name]}" if math.isfinite(_COUNTS[name]) else ""
        needed = f"whole numbers{least} are needed" if len(numbers) > 1 else f"a whole number{least} is needed"
    elif name in _OF_WHITE and any(number < 0 or number > 1 for number in numbers):
        white = settings.get("grey_maximum")
        white = white if isinstance(white, int | float) else 255
        wrong = next(number for number in numbers if number < 0 or number > 1)
        needed = "from 0 for black to 1 for white is needed"
        needed += f"; {wrong:g} of {white:g} is {wrong / white:.3f}" if 1 < wrong <= white else ""
    elif name in _ABOVE_0 and any(not 0 < number < math.inf for number in numbers):
        needed = "a number above 0 is needed"
    elif name in _FROM_0 and any(not 0 <= number < math.inf for number in numbers):
        needed = "0 or more is needed"
    elif name == "class_weights" and numbers and not any(numbers):
        needed = "nothing would be learned; give at least one class a weight above 0"
    elif name in _DRAWN and len(numbers) == 2 and numbers[0] > numbers[1]:
        needed = f'the lower limit comes first, "[{numbers[1]:g}, {numbers[0]:g}]"'
    return needed


def _check_channels(settings: Mapping[str, Any], form: str) -> None:
    """Grey values are one for all channels, or one a channel."""
    channels = settings.get("in_channels")
    for name in _OF_WHITE:
        value = settings.get(name)
        if isinstance(value, list | tuple) and isinstance(channels, int) and len(value) != channels:
            many = f"{len(value)} numbers for in_channels={channels}: give one, or one a channel"
            raise ValueError(f"{form.format(name, value)}: {many}")


def _check_tile(settings: Mapping[str, Any], form: str) -> None:
    tile, features, blur = (settings.get(name) for name in ("tile_size", "features", "blur"))
    if not isinstance(tile, int):
        return
    # what is mirrored at the border of a tile reaches four times as far, see acquisition.blurred
    widest = (tile - 1) // 4
    if isinstance(blur, list | tuple) and any(isinstance(sigma, int | float) and sigma > widest for sigma in blur):
        raise ValueError(f"{form.format('blur', blur)}: at most {widest} px for tile_size={tile}")
    if not isinstance(features, list | tuple):
        return
    try:
        geometry.output_size(tile, len(features))
    except ValueError as error:
        raise ValueError(f"{form.format('tile_size', tile)}: {str(error).partition(': ')[2]}") from None


def _listed(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    return () if value is None or isinstance(value, bool) else (value,)
