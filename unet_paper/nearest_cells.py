"""The distances d1 and d2 of Ronneberger et al. (2015), Eq. 2: from every pixel to its two nearest cells.

The scans are loops over pixels, compiled by numba.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.arguments import is_number
from unet_paper.classes import NUMBER_ANEW

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def two_nearest_distances(
    instances: NDArray[np.integer], max_distance: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Distances d1 and d2 of Eq. 2: to the nearest and to the second nearest cell.

    The distance to a cell is that to the nearest of its pixels, 0 on the cell itself; a cell is all that bears its id,
    in however many components.

    Exact, in two scans as in a separable distance transform, that keep two distinct cells instead of one. In each
    column, the two cells nearest in it to every pixel suffice: were the second nearest cell of a pixel x third in the
    column of its own nearest pixel, then two others would be nearer to x.

    Args:
        instances: label image, shape (H, W); 0 is background, -1 unknown, every cell has its own id > 0.
        max_distance: distances in px above this one are not looked for: infinite in the result. None finds all.

    Returns:
        d1 and d2 in px, shape (H, W) each; infinite where there is no such cell.

    Raises:
        ValueError: for an image that is not a 2D integer one, max_distance < 0, or distances of 32,768 px and more.

    Examples:
        >>> d1, d2 = two_nearest_distances(np.array([[3, 0, 0, 0, 8]]))
        >>> d1.tolist(), d2.tolist()
        ([[0.0, 1.0, 2.0, 1.0, 0.0]], [[4.0, 3.0, 2.0, 3.0, 4.0]])
    """
    labels = label_image(instances)
    if max_distance is not None and not (max_distance == math.inf or (is_number(max_distance) and max_distance >= 0)):
        raise ValueError(f"max_distance={max_distance!r}: a distance >= 0 px is needed, or None")
    limit = largest_square(labels, math.inf if max_distance is None else max_distance)
    squares = two_nearest_squares(labels, limit)
    d1, d2 = (np.where(square > limit, np.inf, np.sqrt(square)) for square in np.moveaxis(squares, 2, 0))
    return d1, d2


def label_image(instances: ArrayLike) -> NDArray[np.int32]:
    """The label image in the one layout that the kernels are compiled for.

    Raises:
        ValueError: for another shape or type, or ids that 32 bits do not hold.
    """
    instances = np.asarray(instances)
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer):
        raise ValueError(
            f"instances of shape {instances.shape} and type {instances.dtype}: a label image of integers, shape "
            "(H, W), is needed"
        )
    held = np.iinfo(np.int32)
    if not np.can_cast(instances.dtype, np.int32) and instances.size:
        if instances.max() > held.max:
            raise ValueError(
                f"instances hold the id {instances.max()}: ids up to {held.max} are supported; {NUMBER_ANEW}"
            )
        if instances.min() < held.min:
            raise ValueError(f"instances hold {instances.min()}: 0 is background, -1 unknown, and cells are above 0")
    return np.ascontiguousarray(instances, dtype=np.int32)


def largest_square(labels: NDArray[np.int32], distance: float) -> int:
    """Square of the distance in px, or of the image's diagonal where that is shorter.

    Raises:
        ValueError: if sums of two of them are more than 32 bits hold.
    """
    height, width = labels.shape
    limit = math.floor(min(distance**2, height**2 + width**2))
    if limit >= 2**30:
        raise ValueError(
            f"instances of {height} x {width} px: distances of 32,768 px and more are not supported; give max_distance"
        )
    return limit


def two_nearest_squares(labels: NDArray[np.int32], limit: int) -> NDArray[np.int32]:
    """Squares of d1 and d2, shape (H, W, 2), those above ``limit`` as ``limit`` + 1."""
    nearest_in_column, nearest_two = _kernels()
    cells, squares = nearest_in_column(labels, limit)
    nearest_two(cells, squares, limit)
    return squares


@functools.cache
def _kernels() -> tuple[
    Callable[[NDArray[np.int32], int], tuple[NDArray[np.int32], NDArray[np.int32]]],
    Callable[[NDArray[np.int32], NDArray[np.int32], int], None],
]:
    return compiled(_nearest_in_column), compiled(_nearest_two)


def compiled(kernel: Kernel) -> Kernel:
    """The kernel as numba compiles it, kept on disk for the next process where there is a place to keep it."""
    # imported at the first use: numba takes longer to import than most commands need for all else
    import numba

    try:
        return numba.njit(cache=True)(kernel)
    except RuntimeError:
        # neither the package's folder nor the user's cache can be written: compile for this process only
        return numba.njit(kernel)


def _nearest_in_column(labels: NDArray[np.int32], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    # in its column, the two nearest cells of every pixel and the squares of their distances, shape (H, W, 2) each
    height, width = labels.shape
    cells = np.zeros((height, width, 2), np.int32)
    squares = np.full((height, width, 2), limit + 1, np.int32)
    for step in (1, -1):
        # per column: cell and row of the last cell pixel passed, and of the last one of another cell
        cell = np.zeros((width, 2), np.int32)
        row = np.zeros((width, 2), np.int64)
        for i in range(height):
            y = i if step == 1 else height - 1 - i
            for x in range(width):
                own = labels[y, x]
                if own > 0:
                    if own != cell[x, 0]:
                        cell[x, 1] = cell[x, 0]
                        row[x, 1] = row[x, 0]
                        cell[x, 0] = own
                    row[x, 0] = y
                for k in range(2):
                    found = cell[x, k]
                    square = (y - row[x, k]) ** 2
                    if found == 0 or square > limit:
                        continue
                    if found == cells[y, x, 0]:
                        squares[y, x, 0] = min(squares[y, x, 0], square)
                    elif square < squares[y, x, 0]:
                        cells[y, x, 1] = cells[y, x, 0]
                        squares[y, x, 1] = squares[y, x, 0]
                        cells[y, x, 0] = found
                        squares[y, x, 0] = square
                    elif square < squares[y, x, 1]:
                        cells[y, x, 1] = found
                        squares[y, x, 1] = square
    return cells, squares


def _nearest_two(cells: NDArray[np.int32], squares: NDArray[np.int32], limit: int) -> None:
    # from those of the columns to those of the image, written over `squares`: every row on its own
    height, width, _ = cells.shape
    reach = int(np.sqrt(limit))
    window = 2 * reach + 1
    across = np.empty(window, np.int32)  # squares of the distances in x
    for c in range(window):
        across[c] = (c - reach) ** 2
    # one row with `reach` empty columns at either end, for windows that never leave it
    cell = np.zeros(width + 2 * reach, np.int32)
    nearest = np.full(width + 2 * reach, limit + 1, np.int32)
    second_nearest = np.full(width + 2 * reach, limit + 1, np.int32)
    # the squares of the nearest cell that is not `around`, in the columns before `filled`
    others = np.full(width + 2 * reach, limit + 1, np.int32)
    for y in range(height):
        for x in range(width):
            cell[x + reach] = cells[y, x, 0]
            nearest[x + reach] = squares[y, x, 0]
            second_nearest[x + reach] = squares[y, x, 1]
        around = np.int32(0)
        filled = 0
        for x in range(width):
            # whole windows, although most pixels need less: loops without an early end run on vectors of pixels
            first = np.int32(limit + 1)
            for c in range(window):
                first = min(first, np.int32(nearest[x + c] + across[c]))
            second = np.int32(limit + 1)
            if first <= limit:
                offset = 0
                while nearest[x + reach - offset] + across[reach - offset] != first:
                    offset = -offset if offset > 0 else 1 - offset
                found = cell[x + reach - offset]
                if found != around:
                    around = found
                    filled = x
                while filled < x + window:
                    others[filled] = second_nearest[filled] if cell[filled] == around else nearest[filled]
                    filled += 1
                for c in range(window):
                    second = min(second, np.int32(others[x + c] + across[c]))
            squares[y, x, 0] = first
            squares[y, x, 1] = second
