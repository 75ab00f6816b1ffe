"""Cells of which one point is known: tables of points, and the label image that is learnt from.

After Qu et al. 2019 (Weakly supervised deep nuclei segmentation using points annotation in histopathology images, MIDL,
PMLR 102:390-400): every cell has its point. What lies next to one is its cell; what lies half way between two of them,
an edge of their Voronoi diagram, is background; all else is left open, neither cell nor background.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from unet_paper.data.annotation import OPEN
from unet_paper.data.pairs_table import text_of

__all__ = [
    "TABLES",
    "Point",
    "disc_radius",
    "is_table",
    "nearest_distances",
    "point_labels",
    "read_table",
    "refuse_twins",
]

TABLES = (".csv",)
CELL, BACKGROUND, UNKNOWN_AREA = "cell", "background", "unknown"
# px; a smaller disc is hardly one, a larger one may reach over a small cell that lies alone
RADII = (2.0, 5.0)
# px; two points nearer than this are one cell that was clicked twice
TWINS = 2.0
_CALIBRATED = {"X", "Y"}  # of ImageJ's table of results
_SHAPES = {"shape-type", "vertex-index"}  # of napari, one line a corner
_KINDS = ("class", "classification", "label")
# columns that tell on which page of a stack a point lies
_PAGES = {"t", "time", "frame", "z", "slice", "plane", "page", "position_t", "position_z"}
_BAND = 2**20  # pixels that are looked at together

# row and column of each, (n, 2)
Places = NDArray[np.int64]


class Point(NamedTuple):
    """A point of an annotation: the pixel that it lies in, and what it says: a cell, background, or nothing."""

    page: int
    row: int
    column: int
    meaning: str = CELL


def meaning_of(name: object) -> str:
    """What a drawing of such a name or class says: ``background``, ``unknown`` (QuPath's ``Ignore*``), else ``cell``.

    >>> meaning_of("Background"), meaning_of("Ignore*"), meaning_of("Tumor"), meaning_of(None)
    ('background', 'unknown', 'cell', 'cell')
    """
    word = str(name or "").strip().rstrip("*").casefold()
    if word.startswith("background"):
        return BACKGROUND
    return UNKNOWN_AREA if word in ("ignore", "ignored", "unknown") else CELL


def is_table(file: Path) -> bool:
    """Whether a file is a table of points: ``axis-0`` and ``axis-1`` as napari writes it, or ``y`` and ``x``."""
    if file.suffix.lower() not in TABLES or not file.is_file():
        return False
    names = set(_split(next(iter(text_of(file, 2**13).splitlines()), "")))
    return _axes(names) is not None or names >= _CALIBRATED


def read_table(file: Path, pages: int = 1) -> list[Point]:
    """Points of a table; coordinates are whole in the middle of a pixel, as napari and scikit-image count.

    Of three axes the first is the page. A column ``class`` may say ``background``.

    Args:
        file: the table.
        pages: of its image; of several each point must say its own.

    Raises:
        ValueError: no such columns, corners of outlines, what is no number, or not one point.
    """
    lines = text_of(file).splitlines()
    names = _split(lines[0]) if lines else []
    if _SHAPES.issubset(names):
        raise ValueError(
            f"{file}: a table of napari's shapes, whose lines are corners of outlines and no points; in napari make "
            "labels of that layer (right click on it, Convert to Labels), and save those as a TIFF"
        )
    axes = _axes(set(names))
    if axes is None:
        remedy = (
            "X and Y of a table of results are in the image's unit: save the points themselves, File > Save As > "
            "Selection, or from the ROI Manager"
            if set(names) >= _CALIBRATED
            else "the columns axis-0 and axis-1, as napari writes them, or y and x are needed"
        )
        raise ValueError(f"{file}: no table of points: {remedy}")
    if pages > 1 and len(axes) < 3:
        raise ValueError(
            f"{file}: its image has {pages} pages, and it does not say which point is on which; axis-0 does"
        )
    kind = next((name for name in _KINDS if name in names), None)
    paged = [name for name in names if len(axes) < 3 and name.casefold() in _PAGES]
    found, on = [], set()
    for number, line in enumerate(lines[1:], start=2):
        fields = dict(zip(names, _split(line, lines[0]), strict=False))
        if not any(fields.values()):
            continue
        try:
            place = [int(np.floor(float(_decimal(fields[axis], lines[0])) + 0.5)) for axis in axes]
        except (KeyError, ValueError, OverflowError):
            raise ValueError(f"{file}: line {number} ({line[:60]!r}) is no point; numbers are needed") from None
        page, row, column = place if len(place) == 3 else (0, *place)
        found.append(Point(page, row, column, meaning_of(fields.get(kind or ""))))
        on.add(tuple(fields.get(name) for name in paged))
    if len(on) > 1:
        raise ValueError(
            f"{file}: its points lie on {len(on)} pages of a stack (column {', '.join(paged)}), and its image has one: "
            "keep the lines of this page alone; or give the whole stack as the image, and its page in axis-0, the row "
            "in axis-1 and the column in axis-2"
        )
    if not found:
        raise ValueError(
            f"{file}: holds no point, so that nothing is known of its image; put one in every cell, or where there is "
            "no cell some of the class background; or take the image out"
        )
    return found


def _axes(names: set[str]) -> tuple[str, ...] | None:
    for axes in (("axis-0", "axis-1", "axis-2"), ("axis-0", "axis-1"), ("y", "x")):
        if names.issuperset(axes) and "axis-3" not in names:
            return axes
    return None


def _split(line: str, header: str | None = None) -> list[str]:
    separator = _separator(line if header is None else header)
    return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _decimal(number: str, header: str) -> str:
    """A number with a point: where columns are parted by semicolons, spreadsheets write a comma."""
    return number.replace(",", ".") if _separator(header) == ";" else number


def nearest_distances(places: Places) -> NDArray[np.float64]:
    """From each of some points to the nearest other one, px; empty of fewer than two."""
    if len(places) < 2:
        return np.empty(0)
    return np.asarray(cKDTree(places).query(places, k=2)[0][:, 1], np.float64)


def disc_radius(distances: NDArray[np.float64]) -> float:
    """Radius of the disc around a point that is sure to be cell, px.

    A quarter of the distance below which a tenth of all points have their nearest neighbour: cells that touch are as
    far apart as they are wide, and half of that width is safe. At most 5 px, whatever the distance: cells that lie
    alone may be small.

    Args:
        distances: of all points of a folder, see :func:`nearest_distances`.

    >>> disc_radius(np.array([12.0] * 10)), disc_radius(np.array([100.0])), disc_radius(np.empty(0))
    (3.0, 5.0, 5.0)
    """
    smallest, largest = RADII
    apart = densest(distances)
    return largest if apart is None else min(largest, max(smallest, round(apart / 4, 1)))


def densest(distances: NDArray[np.float64]) -> float | None:
    """Distance below which a tenth of all points have their nearest neighbour, px; None without points."""
    return float(np.percentile(distances, 10)) if len(distances) else None


def refuse_twins(points: Sequence[Point], source: str) -> None:
    """Raise where two points of one page are of one place.

    Raises:
        ValueError: names both.
    """
    for page in {point.page for point in points}:
        there = [point for point in points if point.page == page]
        places = np.array([(point.row, point.column) for point in there], float)
        pairs = cKDTree(places).query_pairs(np.nextafter(TWINS, 0))
        if pairs:
            first, second = (there[number] for number in min(pairs))
            raise ValueError(
                f"{source}: two points are less than {TWINS:g} px apart, a {first.meaning} at x, y = "
                f"{first.column}, {first.row} and a {second.meaning} at {second.column}, {second.row} "
                f"({len(pairs)} such pairs): a cell has one point; remove the other"
            )


def point_labels(cells: Places, background: Places, shape: tuple[int, int], radius: float) -> NDArray[np.int32]:
    r"""Label image of points: discs are cells, lines between them and discs of background are background.

    With :math:`s_1 \le s_2` the squared distances of a pixel to the nearest two cells' points and :math:`D` that
    between these two, it is background if :math:`s_2 - s_1 \le D`: at most half a pixel from the line half way between
    them. Otherwise it is a cell if :math:`s_1 \le r^2`. A pixel within ``radius`` of a point of background that is
    nearer than any cell's is background, too.

    Args:
        cells: row and column of each cell's point, (n, 2), at least 2 px apart; cell k is that of the k-th.
        background: of points of background, (m, 2).
        shape: (H, W), px.
        radius: of the discs, px.

    Returns:
        shape (H, W): 1 to n, 0 background, ``OPEN`` elsewhere.

    Example:
        >>> point_labels(np.array([[0, 1], [0, 6]]), np.empty((0, 2), int), (1, 8), 1.0)
        array([[1, 1, 1, 0, 0, 2, 2, 2]], dtype=int32)
    """
    labels = np.full(shape, OPEN, np.int32)
    trees = [cKDTree(places) if len(places) else None for places in (cells, background)]
    rows_at_once = max(1, _BAND // max(shape[1], 1))
    for top in range(0, shape[0], rows_at_once):
        band = labels[top : top + rows_at_once]
        rows, columns = np.mgrid[top : top + band.shape[0], 0 : shape[1]]
        grid = np.stack([rows.ravel(), columns.ravel()], axis=1)
        band[:] = _of_pixels(grid, cells, background, trees, radius).reshape(band.shape)
    return labels


def _of_pixels(
    grid: Places, cells: Places, background: Places, trees: Sequence[cKDTree | None], radius: float
) -> NDArray[np.int32]:
    labels = np.full(len(grid), OPEN, np.int32)
    nearest = np.full(len(grid), np.iinfo(np.int64).max)
    of_cells, of_background = trees
    if of_cells is not None:
        found = of_cells.query(grid, k=[1, 2])[1]
        first = found[:, 0]
        nearest = _squares(grid, cells[first])
        labels[nearest <= radius**2] = first[nearest <= radius**2] + 1
        if len(cells) > 1:
            second = cells[found[:, 1]]
            # whole numbers, squared: no pixel hangs on rounding
            labels[(_squares(grid, second) - nearest) ** 2 <= _squares(second, cells[first])] = 0
    if of_background is not None:
        square = _squares(grid, background[of_background.query(grid)[1]])
        labels[(square <= radius**2) & (square < nearest)] = 0
    return labels


def _squares(first: Places, second: Places) -> Places:
    return np.asarray(((first - second) ** 2).sum(axis=1))
