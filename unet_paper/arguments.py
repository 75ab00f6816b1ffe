"""Numbers and ranges as arguments are given: whether a value is one, before anything is computed with it.

True and False are no numbers here, although Python counts with them, nor is what is infinite or not a number.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Whether a value is a finite number.

    >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number("0.5")
    (True, False, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of an integer type.

    >>> is_whole(2), is_whole(2.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_range(value: object) -> bool:
    """Whether a value is a range (low, high) of finite numbers, low <= high.

    >>> is_range((0, 0.1)), is_range([1]), is_range((1, 0)), is_range("01"), is_range(0.1)
    (True, False, False, False, False)
    """
    if not isinstance(value, Collection) or len(value) != 2 or not all(map(is_number, value)):
        return False
    low, high = value
    return bool(low <= high)
