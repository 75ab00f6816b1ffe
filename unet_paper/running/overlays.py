"""Outlines of cells drawn over their image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.running.figures import cell_colours

# px of an image's longer side for which an outline is a pixel wider
_SIDE = 1000
# share of pixels that may be black, and white, in what is shown
_CLIPPED = 0.3
# px along the longer side of a picture, at most
_SHOWN = 2048


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
    cells = cells[::step, ::step]
    grey = np.asarray(image[..., ::step, ::step], np.float32)
    grey = grey if grey.ndim == 2 else grey.mean(axis=0)
    low, high = np.percentile(grey, [_CLIPPED, 100 - _CLIPPED])
    spread = np.clip((grey - low) / (high - low if high > low else 1), 0, 1)
    picture = np.repeat((255 * spread).astype(np.uint8)[..., None], 3, axis=2)
    width = 1 + max(cells.shape) // _SIDE
    around = ndimage.minimum_filter(cells, 2 * width + 1) != ndimage.maximum_filter(cells, 2 * width + 1)
    rim = around & (cells > 0)
    picture[rim] = cell_colours(cells[rim])
    return picture
