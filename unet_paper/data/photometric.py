"""What numbers in an image file mean: which way is up, what a palette, an alpha channel, three equal channels are.

One function a rule; the readers of every format, for images and for label images, use these. The rules, road by road,
stand in ``bundle/docs/images.md``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Of TIFF's tag 274, which EXIF has too: transpose first, then flip rows, then flip columns, as a viewer does.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(pixels: Array, orientation: int) -> Array:
    """Image as a viewer shows it.

    Args:
        pixels: as stored, shape (H, W) or (H, W, C).
        orientation: tag 274 of TIFF and EXIF, 1 to 8.

    Returns:
        Rows and columns turned; a view of ``pixels``.

    Raises:
        ValueError: another orientation.

    >>> upright(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()
    [[4, 1], [5, 2], [6, 3]]
    """
    if orientation not in _TURNS:
        raise ValueError(f"orientation {orientation} in its tag 274, expected 1 to 8")
    transpose, rows, columns = _TURNS[orientation]
    turned = pixels.swapaxes(0, 1) if transpose else pixels
    return turned[:: -1 if rows else 1, :: -1 if columns else 1]


def upright_shape(shape: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    """Shape of what ``upright`` returns for an image of ``shape``.

    >>> upright_shape((20, 31, 3), 8)
    (31, 20, 3)
    """
    if orientation not in _TURNS:
        raise ValueError(f"orientation {orientation} in its tag 274, expected 1 to 8")
    return (shape[1], shape[0], *shape[2:]) if _TURNS[orientation][0] else shape


def through_palette(indices: Array, palette: Array) -> Array:
    """Colours that a palette gives to indices, as a viewer shows them.

    Args:
        indices: shape (H, W).
        palette: one colour a row, shape (N, 3), 8 bits a component, or 16 as TIFF stores them.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: an index that the palette does not have.
    """
    if indices.size and int(indices.max()) >= len(palette):
        raise ValueError(f"index {int(indices.max())} in the pixels, but the palette has {len(palette)} colours")
    # as libtiff: some programs wrote 8-bit values into the 16-bit table
    shift = 8 if palette.size and int(palette.max()) > 255 else 0
    return (palette >> shift).astype(np.uint8)[indices]


def is_rising_grey(palette: Array) -> bool:
    """Whether a palette, shape (N, 3), shows a larger index nowhere darker, and the last one brighter than the first.

    >>> is_rising_grey(np.repeat([[0], [0], [99], [255]], 3, axis=1))
    True
    """
    rises = (np.diff(palette[:, 0].astype(np.int64)) >= 0).all() and palette[-1, 0] > palette[0, 0]
    return bool(rises) and is_grey(palette[None])


def without_constant_alpha(pixels: Array, alpha: bool) -> Array:
    """Image (H, W, C) without its last channel, where that is an alpha channel of one value; else as it is."""
    if not alpha or pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels
    last = pixels[..., -1]
    if last.size and (last != last.flat[0]).any():
        return pixels
    return pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]


def is_grey(pixels: Array) -> bool:
    """Whether the three channels of (H, W, 3) are equal."""
    equal = (pixels[..., 0] == pixels[..., 1]) & (pixels[..., 0] == pixels[..., 2])
    return pixels.shape[2] == 3 and bool(equal.all())


def colour_ids(pixels: Array) -> NDArray[np.int64]:
    """One number a colour: red, green and blue side by side, so that black is 0 and white 16777215.

    Args:
        pixels: uint8 or uint16, shape (H, W, 3); uint16 colours take 16 bits each.

    >>> colour_ids(np.array([[[0, 0, 0], [255, 255, 255], [0, 1, 2]]], np.uint8)).tolist()
    [[0, 16777215, 258]]
    """
    bits = 8 * pixels.dtype.itemsize
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return (red << 2 * bits) | (green << bits) | blue
