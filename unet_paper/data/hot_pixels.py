"""Single pixels far from all others, as a camera's dead and hot ones: they must not say what is black and white."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# of the pixels, at most
SHARE = 1e-4
# beyond the range of all others, in such ranges
_FAR = 2.0


class GreyRange(NamedTuple):
    """Smallest and largest grey value but for pixels far from them, and how many these are."""

    smallest: float
    largest: float
    hot: int


def at_most(pixels: int) -> int:
    """How many of so many pixels may be hot; none of fewer than 10,000."""
    return int(SHARE * pixels)


def grey_range(pixels: NDArray[Any]) -> GreyRange:
    """Range of an image's grey values without hot pixels.

    Those are at most one in 10,000, lie farther from all others than twice the range of these, and nowhere fill a
    square of 2 x 2: four bright pixels in a square are a bright spot.

    Args:
        pixels: shape (C, H, W), numbers.

    >>> image = np.arange(40000.0).reshape(1, 200, 200)
    >>> image[0, 5, 7] = 1e6
    >>> grey_range(image)
    GreyRange(smallest=0.0, largest=39999.0, hot=1)
    """
    smallest, largest = float(pixels.min()), float(pixels.max())
    most = at_most(pixels.size)
    if most == 0:
        return GreyRange(smallest, largest, 0)
    flat = np.partition(pixels, (most, pixels.size - 1 - most), axis=None)
    low, high = float(flat[most]), float(flat[-1 - most])
    reach = _FAR * (high - low)
    far = (pixels < low - reach) | (pixels > high + reach)
    count = int(far.sum())
    square = far[:, 1:, 1:] & far[:, :-1, 1:] & far[:, 1:, :-1] & far[:, :-1, :-1]
    if not 0 < count <= most or high == low or square.any():
        return GreyRange(smallest, largest, 0)
    others = pixels[~far]
    return GreyRange(float(others.min()), float(others.max()), count)
