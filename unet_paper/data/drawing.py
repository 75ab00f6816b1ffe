"""Drawings of cells: the pixels that an outline covers, and what every kind of file of them says alike.

What is drawn counts from the corner of the first pixel; a pixel belongs to a cell if its centre is within the outline,
and holes are outside.
"""

import functools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from unet_paper.data.points import CELL

__all__ = ["EMPTY", "Cell", "Drawing", "Ring", "filled", "of_mask", "read_json", "say_left_out"]

EMPTY = "outline around no pixel"

# x and y, (n, 2)
Ring = NDArray[np.float64]
# parts that may overlap, each its rings: what lies within two rings of a part is a hole
Cell = Sequence[Sequence[Ring]]

logger = logging.getLogger(__name__)


class Drawing(NamedTuple):
    """What one drawing covers: of a page, the pixels of ``inside`` from ``top`` and ``left`` on.

    Attributes:
        meaning: ``cell``, ``background`` or ``unknown``.
    """

    page: int
    top: int
    left: int
    inside: NDArray[np.bool_]
    meaning: str = CELL

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of ``inside``."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def of_mask(inside: NDArray[np.bool_], page: int, top: int = 0, left: int = 0) -> Iterator[Drawing]:
    """The drawing of a mask, without the rows and columns around it; none where nothing is inside."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows):
        cut = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        yield Drawing(page, top + int(rows[0]), left + int(columns[0]), cut)


def filled(parts: Cell, page: int, shape: tuple[int, ...], file: Path) -> Iterator[Drawing]:
    """The drawing of the pixels within the parts of a cell; none where it is around no pixel's centre.

    Args:
        parts: in x and y from the corner of the first pixel.
        page: that it lies on.
        shape: of the image, (H, W).
        file: for the error.

    Raises:
        ValueError: if it lies outside of the image as a whole.
    """
    corners = np.concatenate([ring for rings in parts for ring in rings])
    low = np.floor(corners.min(axis=0)).astype(int)
    high = np.ceil(corners.max(axis=0)).astype(int)
    if (high <= 0).any() or low[0] >= shape[1] or low[1] >= shape[0]:
        raise ValueError(
            f"{file}: a cell from x, y = {tuple(low.tolist())} to {tuple(high.tolist())} lies outside of its image, "
            f"which has {shape[1]} x {shape[0]} px: was it drawn on another image, or on this one before it was scaled?"
        )
    low, high = np.clip(low, 0, None), np.minimum(high, (shape[1], shape[0]))
    inside = np.zeros((int(high[1] - low[1]), int(high[0] - low[0])), bool)
    for rings in parts:
        # a pixel within a ring and another one around it lies in a hole
        within = [polygon2mask(inside.shape, ring[:, ::-1] - low[::-1] - 0.5) for ring in rings]
        inside |= np.logical_xor.reduce(within)
    yield from of_mask(inside, page, int(low[1]), int(low[0]))


def read_json(file: Path) -> Any:
    """Content of a JSON file, read once: a COCO file is asked for by every image.

    Raises:
        ValueError: if it is none.
    """
    return _json(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _json(file: Path, _changed: int) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}; export it again") from error


def say_left_out(kinds: Sequence[str], file: Path) -> None:
    """Name, and count, the drawings of a file that are no cells."""
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
        logger.warning("%s: left out, since only areas and points are cells: %s", file, counted)
