"""Shapes of all cells of a label image at once, as ``skimage.measure.regionprops`` defines them for one.

A cell is taken as its runs: pixels beside each other in a row. Areas and moments are sums over runs, a convex hull
needs the ends of rows only, a perimeter the outline. All sums are whole numbers until the last division, so a cell's
shape does not depend, by a bit, on where the cell lies or on how much of the image around it is at hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unet_paper.label_image import bands

Integers = NDArray[np.int64]

# runs of cells that are worked on together
_TOGETHER = 2**17
# Benkrid and Crookes' lengths of an outline's pixels: 1, sqrt(2), (1 + sqrt(2)) / 2, by 1 + 2 n + 10 d, where n of the
# 4 neighbours and d of the 4 diagonal ones belong to the outline too
_LENGTHS = np.array([0, 1, np.sqrt(2), (1 + np.sqrt(2)) / 2])
_KIND = np.zeros(50, np.intp)
_KIND[[5, 7, 15, 17, 25, 27]], _KIND[[21, 33]], _KIND[[13, 23]] = 1, 2, 3


class Runs(NamedTuple):
    """The pixels [start, stop) of a row that belong to one cell, shape (n,) each, in raster order.

    Attributes:
        ids: of the cells, rising, each once, shape (cells,).
        cell: place of the run's cell among ``ids``.
        row: of its pixels.
        start: its first column.
        stop: the column after its last.
    """

    ids: NDArray[Any]
    cell: NDArray[np.intp]
    row: NDArray[Any]
    start: NDArray[Any]
    stop: NDArray[Any]

    def cells_of_pixels(self, rows: slice) -> NDArray[np.intp]:
        """Place among ``ids`` of each cell's pixel in some rows, in raster order."""
        first, last = np.searchsorted(self.row, [rows.start, rows.stop])
        return np.repeat(self.cell[first:last], self.stop[first:last] - self.start[first:last])


class Shapes(NamedTuple):
    """Of each cell, shape (cells,), in px."""

    area: Integers
    top: Integers
    left: Integers
    bottom: Integers
    right: Integers
    centroid_y: NDArray[np.float64]
    centroid_x: NDArray[np.float64]
    perimeter: NDArray[np.float64]
    eccentricity: NDArray[np.float64]
    solidity: NDArray[np.float64]


def runs_of(labels: NDArray[Any]) -> Runs:
    """Runs of the cells of a label image, shape (H, W), 0 or less is background."""
    found: list[tuple[NDArray[Any], ...]] = []
    for rows in bands(labels.shape):
        piece = labels[rows]
        ends = np.ones((piece.shape[0], piece.shape[1] + 1), bool)
        np.not_equal(piece[:, 1:], piece[:, :-1], out=ends[:, 1:-1])
        row, column = np.divmod(np.flatnonzero(ends), ends.shape[1])
        # a row's last end starts no run
        starts = np.flatnonzero(column < piece.shape[1])
        number = piece[row[starts], column[starts]]
        starts, number = starts[number > 0], number[number > 0]
        places = (part.astype(np.int32) for part in (row[starts] + rows.start, column[starts], column[starts + 1]))
        found.append((number, *places))
    number, row, start, stop = (np.concatenate(parts) for parts in zip(*found, strict=True))
    ids, cell = np.unique(number, return_inverse=True)
    return Runs(ids, cell, row, start, stop)


def shapes_of(labels: NDArray[Any], runs: Runs) -> Shapes:
    """Shapes of the cells of a label image, in the order of ``runs.ids``.

    ``area``; ``top``, ``left``, ``bottom``, ``right``: bounding box, the latter two exclusive; ``centroid_y``,
    ``centroid_x``: from the first pixel of the bounding box; ``perimeter``: after K. Benkrid and D. Crookes, *Design
    and FPGA Implementation of a Perimeter Estimator*, with 4 neighbours; ``eccentricity`` of the ellipse with the
    cell's second moments; ``solidity``: area / pixels whose centre lies in the convex hull of the middles of all
    pixels' sides.

    Args:
        labels: label image, shape (H, W).
        runs: its :func:`runs_of`.
    """
    if not len(runs.ids):
        whole, real = np.empty(0, np.int64), np.empty(0, np.float64)
        return Shapes(whole, whole, whole, whole, whole, real, real, real, real, real)
    order = np.argsort(runs.cell, kind="stable")
    ends = np.cumsum(np.bincount(runs.cell))
    parts, first, begin = [], 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, begin + _TOGETHER, side="right")))
        some = order[begin : ends[last - 1]]
        places = (part[some].astype(np.int64) for part in (runs.row, runs.start, runs.stop))
        parts.append(_from_runs(runs.cell[some] - first, *places))
        first, begin = last, int(ends[last - 1])
    area, top, left, bottom, right, centroid_y, centroid_x, eccentricity, hull = (
        np.concatenate(values) for values in zip(*parts, strict=True)
    )
    perimeter = _perimeters(labels, runs)
    return Shapes(area, top, left, bottom, right, centroid_y, centroid_x, perimeter, eccentricity, area / hull)


def _from_runs(cell: NDArray[np.intp], row: Integers, start: Integers, stop: Integers) -> tuple[NDArray[Any], ...]:
    """What runs of cells give, which come cell by cell and row by row."""
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    last = np.append(first[1:], len(cell)) - 1
    top, bottom = row[first], row[last] + 1
    left, right = np.minimum.reduceat(start, first), np.maximum.reduceat(stop, first)
    length = stop - start
    area = np.add.reduceat(length, first)
    sum_y = np.add.reduceat(length * (row - top[cell]), first)
    sum_x = np.add.reduceat(_sum_below(stop - left[cell]) - _sum_below(start - left[cell]), first)
    outermost = np.flatnonzero(np.diff(cell, prepend=-1) | np.diff(row, prepend=-1))
    rightmost = stop[np.append(outermost[1:], len(cell)) - 1] - 1
    hull = _pixels_of_hulls(cell[outermost], row[outermost], start[outermost], rightmost, top, bottom)

    # moments about a pixel near the centroid: whole numbers that stay small
    y = row - (top + sum_y // area)[cell]
    middle = (left + sum_x // area)[cell]
    begin, end = start - middle, stop - middle
    rest_y, rest_x = sum_y % area, sum_x % area
    mu_yy = np.add.reduceat(length * y * y, first) - rest_y * rest_y / area
    mu_xx = np.add.reduceat(_squares_below(end) - _squares_below(begin), first) - rest_x * rest_x / area
    mu_xy = np.add.reduceat(y * (_sum_below(end) - _sum_below(begin)), first) - rest_y * rest_x / area
    # of the eigenvalues, mean + half and mean - half: 1 - smaller / larger, without a difference of like numbers
    difference = (mu_yy - mu_xx) / 2
    half = np.sqrt(difference * difference + mu_xy * mu_xy)
    larger = (mu_yy + mu_xx) / 2 + half
    eccentricity = np.sqrt(np.minimum(np.divide(2 * half, larger, out=np.zeros(len(area)), where=larger > 0), 1))
    return area, top, left, bottom, right, sum_y / area, sum_x / area, eccentricity, hull


def _sum_below(k: Integers) -> Integers:
    """Sum of the whole numbers from 0 to k - 1; of a negative k minus that from k to -1."""
    return k * (k - 1) // 2


def _squares_below(k: Integers) -> Integers:
    """The same of their squares."""
    return (k - 1) * k * (2 * k - 1) // 6


def _pixels_of_hulls(
    cell: NDArray[np.intp], row: Integers, left: Integers, right: Integers, top: Integers, bottom: Integers
) -> Integers:
    """Pixels in the convex hull of each cell, from the outermost pixels of its rows."""
    # half a pixel apart, from the upper side of a cell's first row to the lower side of its last
    heights = bottom - top
    first_line = np.cumsum(2 * heights + 1) - (2 * heights + 1)
    of_line = np.repeat(np.arange(len(top)), 2 * heights + 1)
    of_row = np.repeat(np.arange(len(top)), heights)
    centres = first_line[of_row] + 1 + 2 * (np.arange(len(of_row)) - (np.cumsum(heights) - heights)[of_row])
    at = first_line[cell] + 1 + 2 * (row - top[cell])
    right_end, left_end = (_reach_of_hulls(at, 2 * side, of_line)[centres] for side in (right, -left))
    return np.bincount(of_row, weights=right_end // 2 + left_end // 2 + 1).astype(np.int64)


def _reach_of_hulls(centre: Integers, side: Integers, cell: NDArray[np.intp]) -> Integers:
    """How far to one side the convex hulls reach in each line, in half pixels, rounded down.

    Args:
        centre: line of the centres of the pixels of a row, shape (rows,).
        side: how far the centre of the outermost one lies to that side, in half pixels.
        cell: of each line.
    """
    none = np.iinfo(np.int64).min
    furthest = np.full(len(cell), none)
    furthest[centre] = side + 1
    furthest[centre - 1] = side
    furthest[centre + 1] = np.maximum(furthest[centre + 1], side)
    line = np.flatnonzero(furthest > none)
    at = furthest[line]
    # a point on or within the line between its neighbours is no corner; where none is left, all are
    while True:
        within = (at[2:] - at[:-2]) * (line[1:-1] - line[:-2]) >= (at[1:-1] - at[:-2]) * (line[2:] - line[:-2])
        corner = np.pad(~within | (cell[line[:-2]] != cell[line[2:]]), 1, constant_values=True)
        if corner.all():
            break
        line, at = line[corner], at[corner]
    every = np.arange(len(cell))
    after = np.minimum(np.searchsorted(line, every, side="right"), len(line) - 1)
    before = after - 1
    return at[before] + (at[after] - at[before]) * (every - line[before]) // (line[after] - line[before])


def _perimeters(labels: NDArray[Any], runs: Runs) -> NDArray[np.float64]:
    """Of the cells, see :func:`shapes_of`."""
    kinds = len(_LENGTHS)
    pixels = np.zeros(len(runs.ids) * kinds, np.int64)
    for rows in bands(labels.shape):
        # what lies beside a pixel of the outline needs its own neighbours to tell whether it is of the outline too
        around = slice(max(rows.start - 2, 0), min(rows.stop + 2, labels.shape[0]))
        cells = np.zeros((around.stop - around.start + 4, labels.shape[1] + 4), np.int32)
        inner = cells[2:-2, 2:-2]
        inner[labels[around] > 0] = runs.cells_of_pixels(around) + 1
        outline = cells.copy()
        alike = cells[1:-1, 1:-1] == cells[:-2, 1:-1]
        for beside in (cells[2:, 1:-1], cells[1:-1, :-2], cells[1:-1, 2:]):
            alike &= cells[1:-1, 1:-1] == beside
        outline[1:-1, 1:-1][alike] = 0
        first, width = 2 + rows.start - around.start, outline.shape[1]
        flat = outline.ravel()
        place = first * width + np.flatnonzero(outline[first : first + rows.stop - rows.start])
        cell = flat[place]
        code = np.ones(len(place), np.intp)
        for weight, steps in ((2, (-width, width, -1, 1)), (10, (-width - 1, 1 - width, width - 1, width + 1))):
            for step in steps:
                code += weight * (flat[place + step] == cell)
        pixels += np.bincount((cell - 1) * kinds + _KIND[code], minlength=len(pixels))
    # not by a product of matrices, which rounds by how many cells there are
    return np.asarray((pixels.reshape(-1, kinds) * _LENGTHS).sum(axis=1))
