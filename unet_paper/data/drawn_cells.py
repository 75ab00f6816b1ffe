"""Label images of cells that were drawn one by one, or pointed at.

Where cells overlap, the one drawn later lies on top. Points are cells of unknown outline
(:mod:`unet_paper.data.points`): on a page with points, outlines and points are cells, and what is neither, nor known to
be background, is left open; without points, the rest of an image is background.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_paper.data.annotation import OPEN, UNKNOWN
from unet_paper.data.drawing import Drawing
from unet_paper.data.drawing_files import DRAWN, drawings
from unet_paper.data.points import BACKGROUND, CELL, TABLES, Places, Point, disc_radius, nearest_distances, point_labels
from unet_paper.data.reader import layout

__all__ = ["distances_of_points", "label_image"]

Labels = NDArray[np.int32]

logger = logging.getLogger(__name__)


def label_image(image: Path, annotation: Sequence[Path], radius: float | None = None) -> Labels:
    """Label image of an image whose annotation is anything but one.

    A drawing around two or more others is a region and no cell: it is left out, and said, as are lines, and cells that
    lie wholly beneath later ones. Where many lie around one other each, as cells around their nuclei, that is said.

    Args:
        image: the file.
        annotation: one file of drawings or points, or a mask file a cell.
        radius: px, of the disc around a point; None: as :func:`unet_paper.data.points.disc_radius` has it.

    Returns:
        shape (H, W), or (N, H, W) of an image of several pages; 0 background, -1 unknown, -2 left open on pages with
        points; cells from 1 on each page, those of points first, in the order they were drawn. Of a stack in which
        there are points, pages without any drawing are unknown.

    Raises:
        ValueError: for a file of another kind or size, a cell outside of the image, or a stack whose drawings do not
            say on which page they lie.
    """
    known = layout(image)
    shape = known.shapes[0][:2]
    labels = np.zeros((len(known.shapes), *shape), np.int32)
    if len(known.shapes) > 1 and annotation[0].suffix.lower() not in (*DRAWN, *TABLES):
        raise ValueError(
            f"{annotation[0]}: its image {image.name} has {len(known.shapes)} pages, and it does not say which cell is "
            "on which; give a label image of as many pages, or ROIs of ImageJ"
        )
    drawn, points = drawings(annotation, image, known)
    drawn = _without_regions(drawn, points, annotation[0])
    numbers: Counter[int] = Counter()
    if points:
        radius = disc_radius(np.concatenate([*_distances(points).values(), []])) if radius is None else radius
        labels[:] = UNKNOWN
        for page in {*(point.page for point in points), *(one.page for one in drawn)}:
            of_page = [one for one in drawn if one.page == page and one.meaning == CELL]
            cells, background = (_places(points, page, meaning) for meaning in (CELL, BACKGROUND))
            labels[page] = _discs(cells, background, of_page, (shape[0], shape[1]), radius)
            numbers[page] = len(cells)
    of_points = Counter(numbers)
    for one in drawn:
        numbers[one.page] += one.meaning == CELL
        value = {CELL: numbers[one.page], BACKGROUND: 0}.get(one.meaning, UNKNOWN)
        labels[one.page][one.window][one.inside] = value
    outlines = (numbers - of_points).total()
    seen = sum(np.count_nonzero(np.unique(labels[page]) > of_points[page]) for page in numbers)
    if seen < outlines:
        logger.warning(
            "%s: left out: %d of %d outlines, which lie wholly beneath later ones: drawn twice, or nuclei beneath "
            "their cells?",
            annotation[0],
            outlines - seen,
            outlines,
        )
    return labels[0] if len(known.shapes) == 1 else labels


def distances_of_points(image: Path, annotation: Sequence[Path]) -> list[NDArray[np.float64]]:
    """From each point of a cell to the nearest other one, px, page by page; none where cells are outlined.

    Args, Raises: as :func:`label_image`.
    """
    return list(_distances(drawings(annotation, image, layout(image))[1]).values())


def _distances(points: Sequence[Point]) -> dict[int, NDArray[np.float64]]:
    return {page: nearest_distances(_places(points, page, CELL)) for page in {point.page for point in points}}


def _places(points: Sequence[Point], page: int, meaning: str) -> Places:
    found = [(point.row, point.column) for point in points if point.page == page and point.meaning == meaning]
    return np.array(found, np.int64).reshape(-1, 2)


def _discs(
    cells: Places, background: Places, outlined: Sequence[Drawing], shape: tuple[int, int], radius: float
) -> Labels:
    """Label image of points; one within an outline has no disc, for that is the cell."""
    labels = point_labels(cells, background, shape, radius)
    covered = np.zeros(shape, bool)
    for one in outlined:
        covered[one.window] |= one.inside
    known = np.flatnonzero(covered[cells[:, 0], cells[:, 1]]) + 1
    labels[np.isin(labels, known)] = OPEN
    return labels


def _without_regions(drawn: Sequence[Drawing], points: Sequence[Point], file: Path) -> list[Drawing]:
    """Drawings but for those around others: of a frame in which cells were looked for, not of a cell."""
    single = [Drawing(point.page, point.row, point.column, np.ones((1, 1), bool)) for point in points]
    others = [*drawn, *(one for one, point in zip(single, points, strict=True) if point.meaning == CELL)]
    if not drawn:
        return []
    pages = np.array([one.page for one in others])
    boxes = np.array(
        [(one.top, one.left, one.top + one.inside.shape[0], one.left + one.inside.shape[1]) for one in others]
    )
    areas = np.array([int(one.inside.sum()) if one.meaning == CELL else np.iinfo(np.int64).max for one in others])
    # of each a pixel of its own, the first
    firsts = np.array([(one.top, one.left + int(one.inside[0].argmax())) for one in others])
    cells, regions, around_one = [], 0, 0
    for number, one in enumerate(drawn):
        if one.meaning != CELL:
            cells.append(one)
            continue
        top, left, bottom, right = boxes[number]
        within = (pages == one.page) & (areas <= areas[number] // 2)
        within &= (boxes[:, 0] >= top) & (boxes[:, 1] >= left) & (boxes[:, 2] <= bottom) & (boxes[:, 3] <= right)
        rows, columns = (firsts[within] - (top, left)).T
        held = np.flatnonzero(within)[one.inside[rows, columns]]
        if len(held) >= 2:
            regions += 1
        else:
            around_one += len(held) == 1 and held[0] < len(drawn) and _covers(one, drawn[held[0]])
            cells.append(one)
    if regions:
        logger.warning(
            "%s: left out: %d of %d outlines, which lie around two or more others: taken for regions, not for cells",
            file,
            regions,
            len(drawn),
        )
    # of a few, one cell may lie on another
    if around_one > max(2, len(cells) // 4):
        logger.warning(
            "%s: %d of %d outlines lie around one other each, which is cut out of them, and both are taken for cells: "
            "cells with their nuclei? Keep one kind",
            file,
            around_one,
            len(cells),
        )
    return cells


def _covers(one: Drawing, other: Drawing) -> bool:
    """Whether all pixels of a drawing, which lies in the window of another one, are within that."""
    top, left = other.top - one.top, other.left - one.left
    height, width = other.inside.shape
    return bool(one.inside[top : top + height, left : left + width][other.inside].all())
