"""How sure a network is of an image, by its own probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    values = np.asarray(probability, np.float64)
    return float(np.minimum(values, 1 - values).sum() / (values.sum() + _FLOOR * max(values.size, 1)))
