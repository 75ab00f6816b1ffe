"""What both phantoms are drawn with: the frame, Gaussian random fields, and grey values of 8 bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.uint8]
Field = NDArray[np.float64]
Random = np.random.Generator


def image_shape(frames: int, size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in px.

    Args:
        frames: number of images, at least one.
        size: height and width in px, or one number for both.

    Raises:
        ValueError: no images, or smaller ones than 32 px.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if frames < 1:
        raise ValueError(f"frames={frames}: at least one is needed")
    if min(height, width) < 32:
        raise ValueError(f"size={size}: height and width must be at least 32 px to hold a few cells")
    return height, width


def noise(rng: Random, shape: tuple[int, ...], sigma: float | Sequence[float]) -> Field:
    """Gaussian random field of unit variance with correlation length sigma (px, one or one for each axis)."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-12)


def to_uint8(image: Field) -> Image:
    """Grey values rounded, and cut off at 0 and 255."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
