"""What kind of value a setting takes: a number, several of them, true or false; by what its config has for it.

A word where a number belongs would come to light where the number is used, in an error that names neither; one where
true or false belongs would be true, whatever it says.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch

# those that are null, or an expression, in the configs that declare them
_NUMBERS = {
    *("in_channels", "out_channels", "dropout", "grey_mean", "grey_std", "grey_minimum", "grey_maximum", "grey_log"),
    *("magnification", "pixel_size", "point_radius", "threshold", "min_size", "memory_budget", "ignore_value"),
    *("field_of_interest", "tile_size", "largest_class_weight", "average_decay", "patience"),
}
_LISTS = {"features", "class_weights"}
# numbers, or one a channel
_OR_LISTS = {"grey_mean", "grey_std"}
# numbers, or words of their own
_OR_WORDS = {"fold"}


def refuse_other_kinds(settings: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise for a setting whose value is of another kind than it takes.

    Expressions, null and components of one's own (``_target_``) are left to whoever uses them.

    Args:
        settings: of the config that is run.
        declared: what the first of its files that has a setting has for it.

    Raises:
        ValueError: names the setting, its value and the kind; or a ``device`` that there is not.

    >>> refuse_other_kinds({"learning_rate": "fast"}, {"learning_rate": 0.002})
    Traceback (most recent call last):
    ValueError: --learning_rate fast: a number is needed, such as 0.002
    """
    _refuse_missing_device(settings.get("device"))
    for name, value in settings.items():
        if value is None or isinstance(value, Mapping) or _is_expression(value):
            continue
        usual: Any = declared.get(name)
        # components of a run stand in lists of expressions
        numbers = usual if isinstance(usual, list) and usual and all(map(_is_number, usual)) else []
        if isinstance(usual, bool):
            fits, needed = isinstance(value, bool) or value in (0, 1), "true or false is needed"
        elif _is_number(usual) or name in _NUMBERS:
            fits = _is_number(value) or (name in _OR_LISTS and _are_numbers(value)) or name in _OR_WORDS
            needed = "a number is needed" + (f", such as {usual}" if _is_number(usual) else "")
            needed += "; with a point, not a comma" if isinstance(value, list | tuple) else ""
        elif numbers or name in _LISTS:
            fits = _are_numbers(value) and (len(numbers) != 2 or len(value) == 2)
            counted = "two numbers" if len(numbers) == 2 else "numbers"
            needed = f'{counted} in brackets are needed, such as "{numbers or [1, 2]}"'
        else:
            continue
        if not fits:
            raise ValueError(f"--{name} {value}: {needed}")


def _refuse_missing_device(asked: Any) -> None:
    """Raise for a device that PyTorch does not know, or that this machine lacks."""
    if not isinstance(asked, str) or _is_expression(asked):
        return
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"--device {asked}: no device of PyTorch; say cpu, cuda, or cuda:1 of several GPUs") from None
    found = torch.cuda.device_count() if device.type == "cuda" else None
    if found == 0:
        raise ValueError(f"--device {asked}: PyTorch {torch.__version__} finds no GPU here; leave it out, or say cpu")
    if found is not None and (device.index or 0) >= found:
        raise ValueError(f"--device {asked}: there are {found} GPUs here, cuda:0 to cuda:{found - 1}")


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(_is_number(item) or _is_expression(item) for item in value)
