"""Blocks of an image: a grid of squares from its first pixel on, cut off at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """Pixels [top, bottom) x [left, right) of an image."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box's pixels in an array (H, W)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Index of the box's pixels in an array that holds those of ``outer``."""
        return self.moved(-outer.top, -outer.left).slices

    def moved(self, rows: int, columns: int) -> Box:
        """The box, so many pixels further down and right."""
        return Box(self.top + rows, self.left + columns, self.bottom + rows, self.right + columns)

    def meet(self, other: Box) -> Box:
        """Pixels in both boxes; empty or with negative sides where there are none."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def contains(self, other: Box) -> bool:
        """Whether all of the other box lies in this one."""
        return self.meet(other) == other


@dataclass(frozen=True)
class Grid:
    """Square blocks, counted row by row.

    Args:
        height: of the image in px.
        width: of the image in px.
        side: of a block in px; the last block of a row or column may be smaller.

    >>> grid = Grid(5, 7, 4)
    >>> len(grid), grid.box(3), list(grid.covering(Box(0, 3, 1, 5)))
    (4, Box(top=4, left=4, bottom=5, right=7), [0, 1])
    """

    height: int
    width: int
    side: int

    @property
    def image(self) -> Box:
        """The whole image."""
        return Box(0, 0, self.height, self.width)

    @property
    def rows(self) -> int:
        """Blocks from top to bottom."""
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        """Blocks from left to right."""
        return -(-self.width // self.side)

    def __len__(self) -> int:
        return self.rows * self.columns

    def box(self, index: int) -> Box:
        """Pixels of a block."""
        row, column = divmod(index, self.columns)
        top, left = row * self.side, column * self.side
        return Box(top, left, top + self.side, left + self.side).meet(self.image)

    def around(self, index: int, halo: int) -> Box:
        """Pixels of a block and as many around it, as far as the image goes."""
        top, left, bottom, right = self.box(index)
        return Box(top - halo, left - halo, bottom + halo, right + halo).meet(self.image)

    def covering(self, box: Box) -> Iterator[int]:
        """Blocks that have pixels in a box."""
        for row in range(box.top // self.side, -(-box.bottom // self.side)):
            for column in range(box.left // self.side, -(-box.right // self.side)):
                yield row * self.columns + column
