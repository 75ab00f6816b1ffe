"""What is done to label images, one id per cell: counting, numbering, filling, growing.

Worked on in bands of rows, so that an image takes little more memory than its labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk

Connectivity = Literal[4, 8]
# of an image that are worked on at a time
BAND_PIXELS = 2**20


def structure(connectivity: Connectivity) -> NDArray[np.bool_]:
    """Neighbourhood of 4 or 8 pixels, shape (3, 3)."""
    return np.asarray(ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))


def bands(shape: tuple[int, ...], pixels: int | None = None) -> Iterator[slice]:
    """Rows of an image, some at a time: what is done to them needs little memory beside the image.

    Args:
        shape: of the image (H, W).
        pixels: at a time, about; None: ``BAND_PIXELS``.
    """
    height = max(1, (BAND_PIXELS if pixels is None else pixels) // max(1, shape[1]))
    return (slice(top, min(top + height, shape[0])) for top in range(0, shape[0], height))


def areas(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Pixels of the labels 0 .. count, shape (count + 1,)."""
    found = np.zeros(count + 1, np.int64)
    for rows in bands(labels.shape):
        counts = np.bincount(labels[rows].ravel())
        found[: len(counts)] += counts
    return found


def _renumber(labels: NDArray[np.int32], numbers: NDArray[np.int32]) -> None:
    """Every label k becomes ``numbers[k]``, in place."""
    for rows in bands(labels.shape):
        labels[rows] = numbers[labels[rows]]


def keep(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> int:
    """Number labels of which ``kept`` is true anew in place, the rest is background; returns how many are kept."""
    kept[0] = False
    if kept[1:].all():
        return len(kept) - 1
    _renumber(labels, np.where(kept, np.cumsum(kept), 0).astype(np.int32))
    return int(np.count_nonzero(kept))


def holding_a_square(
    labels: NDArray[np.int32], count: int, foreground: NDArray[np.bool_], width: int
) -> NDArray[np.bool_]:
    """Which components hold a square of foreground, ``width`` px wide.

    Args:
        labels: components 1 .. ``count`` of the foreground, shape (H, W), or a part of it around which nothing is cut.
        count: of components.
        foreground: shape (H, W).
        width: of the square in px.

    Returns:
        Shape (count + 1,); [0] is the background, False.

    >>> board = np.array([[1, 0, 1, 1], [0, 1, 1, 1]], bool)
    >>> holding_a_square(*ndimage.label(board), board, 2).tolist()
    [False, False, True]
    """
    held = np.zeros(count + 1, bool)
    for rows in bands(labels.shape):
        top = max(rows.start - width, 0)
        held[labels[rows][ends_of_squares(foreground[top : rows.stop], width)[rows.start - top :]]] = True
    held[0] = False
    return held


def ends_of_squares(foreground: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Where squares of foreground have their lower right pixel."""
    tall = foreground.copy()
    for step in range(1, width):
        tall[step:] &= foreground[:-step]
    square = tall.copy()
    for step in range(1, width):
        square[:, step:] &= tall[:, :-step]
    square[: width - 1] = square[:, : width - 1] = False
    return square


def number_in_raster_order(labels: NDArray[np.int32]) -> None:
    """Labels numbered 1 .. n in the order of their first pixels, in place."""
    first = np.full(int(labels.max(initial=0)) + 1, labels.size)
    for rows in reversed(list(bands(labels.shape))):
        flat = labels[rows].ravel()
        # a first pixel differs from the one before it
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[::-1][: flat.size]
        # from the last to the first: the first stays
        first[flat[starts]] = starts + rows.start * labels.shape[1]
    first[0] = -1
    numbers = np.empty_like(first, dtype=np.int32)
    numbers[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    _renumber(labels, numbers)


def lowest_and_highest(
    labels: NDArray[np.int32], footprint: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lowest and highest label > 0 under the footprint around each pixel; where there is none, lowest > highest = 0.

    Args:
        labels: shape (H, W).
        footprint: neighbourhood, shape (2 r + 1, 2 r + 1).
    """
    none = np.iinfo(np.int32).max
    height, width = labels.shape
    reach = footprint.shape[0] // 2
    around = np.pad(labels, reach)
    present = np.where(around > 0, around, none)
    lowest, highest = np.full_like(labels, none), np.zeros_like(labels)
    # whole images shifted, not windows: a tenth of the time of ndimage.minimum_filter with a footprint
    for row, column in np.argwhere(footprint):
        seen = slice(row, row + height), slice(column, column + width)
        np.minimum(lowest, present[seen], out=lowest)
        np.maximum(highest, around[seen], out=highest)
    return lowest, highest


def fill_holes(labels: NDArray[np.int32], connectivity: Connectivity) -> None:
    """Fill the holes of labels in place: background that does not reach the image's border and touches one label only.

    Args:
        labels: shape (H, W).
        connectivity: of the labels; the background between them has the other one.
    """
    # what separates 4-connected components is 8-connected background, and the other way round
    gaps, count = ndimage.label(labels == 0, structure(8 if connectivity == 4 else 4), output=np.int32)
    lowest, highest = np.full(count + 1, np.iinfo(np.int32).max), np.zeros(count + 1, np.int32)
    for rows in bands(labels.shape):
        around = slice(max(rows.start - 1, 0), rows.stop + 1)
        _note_touching(gaps[around], labels[around], lowest, highest)
    hole = lowest == highest
    for rim in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        hole[rim] = False
    hole[0] = False
    owner = np.where(hole, highest, 0).astype(np.int32)
    for rows in bands(labels.shape):
        labels[rows] += owner[gaps[rows]]  # where there is a gap the label is 0


def _note_touching(
    gaps: NDArray[np.int32], labels: NDArray[np.int32], lowest: NDArray[np.int32], highest: NDArray[np.int32]
) -> None:
    """Note the lowest and highest label beside the pixels of each gap."""
    for gap, label in ((gaps[:-1], labels[1:]), (gaps[1:], labels[:-1]),
                       (gaps[:, :-1], labels[:, 1:]), (gaps[:, 1:], labels[:, :-1])):  # fmt: skip
        touching = (gap > 0) & (label > 0)
        np.minimum.at(lowest, gap[touching], label[touching])
        np.maximum.at(highest, gap[touching], label[touching])


def regrown(labels: NDArray[np.int32], distance: int) -> NDArray[np.int32]:
    """Labels grown into the gaps between them, see :func:`unet_paper.instances.label_instances`.

    What becomes of a pixel depends on those within 2 ``distance`` px.

    Args:
        labels: shape (H, W).
        distance: px by which labels grow.
    """
    grown = np.empty_like(labels)
    reach, height = 2 * distance, labels.shape[0]
    for rows in bands(labels.shape):
        top = max(rows.start - reach, 0)
        around = labels[top : min(rows.stop + reach, height)]
        grown[rows] = _regrown_at_once(around, distance)[rows.start - top : rows.stop - top]
    return grown


def _regrown_at_once(labels: NDArray[np.int32], distance: int) -> NDArray[np.int32]:
    lowest, highest = lowest_and_highest(labels, disk(2 * distance, dtype=bool))
    rows, columns = np.nonzero((labels == 0) & (lowest < highest))
    around = np.pad(labels, distance)
    nearest = np.zeros_like(labels, shape=rows.shape)
    # only where a gap is: far fewer pixels than a distance transform of the image visits
    for row, column in _nearest_first(distance):
        found = around[rows + row + distance, columns + column + distance]
        nearest = np.where(nearest == 0, found, nearest)
    grown = labels.copy()
    grown[rows, columns] = nearest
    return grown


def _nearest_first(distance: int) -> list[tuple[int, int]]:
    """Steps (rows, columns) up to this far; of equally far ones the left, then the upper comes first."""
    reach = range(-distance, distance + 1)
    steps = [(row, column) for column in reach for row in reach if row * row + column * column <= distance * distance]
    return sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2)
