"""How sure a network is of an image, by its own probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_paper.label_image import bands

# An image without cells is no doubtful one: it counts as if this share of it were cells.
_FLOOR = 0.01


def doubt(probability: NDArray[Any]) -> float:
    """Pixels that the network expects to get wrong for each pixel of cell that it expects.

    A pixel of probability p is wrong with probability min(p, 1 - p), if the network knows itself:

        doubt = sum min(p, 1 - p) / (sum p + 0.01 N)

    Args:
        probability: of the cell, shape (H, W), N pixels.

    Returns:
        0 for a network that is sure of every pixel, about 1 for one that knows nothing.

    >>> doubt(np.array([[0.0, 1.0], [1.0, 0.0]])), round(doubt(np.full((4, 4), 0.5)), 2)
    (0.0, 0.98)
    """
    wrong = cell = 0.0
    for rows in bands(probability.shape):
        values = np.asarray(probability[rows], np.float64)
        wrong += float(np.minimum(values, 1 - values).sum())
        cell += float(values.sum())
    return wrong / (cell + _FLOOR * max(probability.size, 1))
