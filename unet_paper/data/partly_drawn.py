"""Masks that cover a part of the image: what lies beyond all cells, and looks as they do."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Labels = NDArray[np.int32]

__all__ = ["beyond", "by_chance", "drawn_part"]

# of the image, that lies beyond the cells at least
_ROOM = 0.25
# by which structure tells cells from ground at least: share of the cells' pixels less that of the ground's
_TOLD = 0.5


def drawn_part(margins: tuple[int, int, int, int], shape: tuple[int, int], area: float) -> tuple[float, float]:
    """Fractions of height and width that cells lie in, with the diameter of one around them, which none may reach.

    Args:
        margins: rows above, columns left of, rows below and columns right of all cells, px.
        shape: (H, W), px.
        area: of a usual cell, px.

    >>> drawn_part((0, 0, 60, 0), (100, 100), 78.5)
    (0.5, 1.0)
    """
    part = _part(margins, shape, area)
    return (part[0].stop - part[0].start) / shape[0], (part[1].stop - part[1].start) / shape[1]


def by_chance(part: tuple[float, float], count: int) -> float:
    """How probable it is that cells strewn all over an image lie in so small a part of it, wherever that may be.

    The range of n uniform numbers is at most w with the probability n w^(n - 1) - (n - 1) w^n; rows and columns are
    independent, and the product of two such probabilities is as small as p with the probability p (1 - log p).

    Args:
        part: fractions of height and width, see ``drawn_part``.
        count: of the cells.

    >>> by_chance((0.5, 0.5), 1), round(by_chance((0.5, 1.0), 2), 2), by_chance((0.5, 0.5), 20) < 1e-8
    (1.0, 0.97, True)
    """
    both = float(np.prod([count * w ** (count - 1) - (count - 1) * w**count for w in part]))
    return both * (1 - float(np.log(both))) if both > 0 else 0.0


def beyond(grey: Image, cells: Labels, margins: tuple[int, int, int, int], area: float) -> float:
    """How much of what lies beyond all cells looks as they do, against how much of what lies between them does.

    What looks so is the strength of edges, in the mean of about a cell, by which cells are best told from the ground
    between them. Where they are hardly told, as in a layer without gaps, nothing is.

    Args:
        grey: image, (H, W).
        cells: label image of the same shape, unknown below 0.
        margins: see ``drawn_part``.
        area: of a usual cell, px.

    Returns:
        About 0 where there is empty ground beyond the cells, about 1 where there are as many; 0 where less than a
        quarter of the image lies there, or where it cannot be told.
    """
    known, drawn = cells >= 0, cells > 0
    inside = np.zeros(cells.shape, bool)
    inside[_part(margins, cells.shape, area)] = True
    outside, inside = known & ~inside, known & inside
    radius = (area / np.pi) ** 0.5
    ground = inside & ~ndimage.binary_dilation(drawn, iterations=max(1, round(radius / 2)))
    if outside.mean() < _ROOM or not drawn.any() or not ground.any():
        return 0.0
    smooth = np.sqrt(np.maximum(ndimage.gaussian_filter(grey, 1.0) - grey.min(), 0))
    edges = ndimage.gaussian_filter(ndimage.gaussian_gradient_magnitude(smooth, 1.0), radius / 2)
    limits = np.quantile(edges[inside], np.linspace(0.02, 0.98, 49))
    of_cells, of_ground, within, without = (
        1 - np.searchsorted(np.sort(edges[where]), limits, side="right") / where.sum()
        for where in (drawn, ground, inside, outside)
    )
    best = int((of_cells - of_ground).argmax())
    return float(without[best] / within[best]) if (of_cells - of_ground)[best] >= _TOLD else 0.0


def _part(margins: tuple[int, int, int, int], shape: tuple[int, ...], area: float) -> tuple[slice, slice]:
    reach = round(2 * (area / np.pi) ** 0.5)
    top, left, bottom, right = (max(0, margin - reach) for margin in margins)
    return slice(top, shape[0] - bottom), slice(left, shape[1] - right)
