"""Outlines of cells drawn over their image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.label_image import bands
from unet_paper.running.figures import cell_colours

# px of an image's longer side for which an outline is a pixel wider
_SIDE = 1000
# share of pixels that may be black, and white, in what is shown
_CLIPPED = 0.3
# px along the longer side of a picture, at most
_SHOWN = 2048
# of a picture that are drawn at a time
_BAND_PIXELS = 2**17


def outline_overlay(image: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.uint8]:
    """The image in grey, spread from black to white, and on it the rim of each cell in a colour of its own.

    Of an image of more than 2,048 px along a side every n-th pixel is shown: no screen shows more of it.

    Args:
        image: grey values, shape (H, W) or (C, H, W), of which the mean is shown.
        cells: label image, shape (H, W).

    Returns:
        RGB image, shape (ceil(H / n), ceil(W / n), 3).
    """
    step = -(-max(cells.shape) // _SHOWN)
    cells, image = cells[::step, ::step], image[..., ::step, ::step]
    colours = cell_colours(np.arange(cells.max(initial=0) + 1))
    picture = np.empty((*cells.shape, 3), np.uint8)
    grey = _grey(image)
    # of channels that the network does not see, values may be NaN or infinite: they are drawn in black
    known = grey if np.isfinite(grey).all() else grey[np.isfinite(grey)]
    low, high = np.percentile(known, [_CLIPPED, 100 - _CLIPPED]) if known.size else (0.0, 0.0)
    del grey, known
    width = 1 + max(cells.shape) // _SIDE
    for rows in bands(cells.shape, _BAND_PIXELS):
        shown = np.nan_to_num(_grey(image[..., rows, :]), nan=low, posinf=low, neginf=low)
        spread = np.clip((shown - low) / (high - low if high > low else 1), 0, 1)
        picture[rows] = (255 * spread).astype(np.uint8)[..., None]
        top = max(rows.start - width, 0)
        around, own = cells[top : rows.stop + width], cells[rows]
        edge = ndimage.minimum_filter(around, 2 * width + 1) != ndimage.maximum_filter(around, 2 * width + 1)
        rim = edge[rows.start - top :][: len(own)] & (own > 0)
        picture[rows][rim] = colours[own[rim]]
    return picture


def _grey(image: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return np.asarray(image, np.float32) if image.ndim == 2 else np.asarray(image, np.float32).mean(axis=0)
