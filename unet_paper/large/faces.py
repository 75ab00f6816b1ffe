"""Joining blocks: what touches across their faces and corners is one component of the image.

Each block has labelled its own components 1 .. n. Components of two blocks are one where a pixel of one is a neighbour
of a pixel of the other: opposite across a face, and with 8 neighbours also diagonally across a face or a corner. The
components of that relation (``scipy.sparse.csgraph``) are those of the image: labelling is transitive, so nothing but
the four outermost lines of each block is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unet_paper.label_image import Connectivity
from unet_paper.large.grid import Grid


class Sides(NamedTuple):
    """Labels along the four outermost lines of a block."""

    top: NDArray[Any]
    left: NDArray[Any]
    bottom: NDArray[Any]
    right: NDArray[Any]


def sides(labels: NDArray[Any]) -> Sides:
    """The four outermost lines of a block's labels, shape (h, w)."""
    return Sides(labels[0].copy(), labels[:, 0].copy(), labels[-1].copy(), labels[:, -1].copy())


def inner_sides(grid: Grid, index: int, block: Sides) -> NDArray[Any]:
    """Labels > 0 that a block has at its faces to other blocks, each once."""
    row, column = divmod(index, grid.columns)
    shared = [
        line
        for line, inner in zip(
            block, (row > 0, column > 0, row < grid.rows - 1, column < grid.columns - 1), strict=True
        )
        if inner
    ]
    found = np.unique(np.concatenate(shared)) if shared else np.empty(0, np.int32)
    return found[found > 0]


def join(
    grid: Grid, blocks: Sequence[Sides], offsets: NDArray[np.int64], connectivity: Connectivity
) -> NDArray[np.int64]:
    """Which components of blocks are one.

    Args:
        grid: the blocks.
        blocks: sides of each.
        offsets: component k of block i has number ``offsets[i]`` + k; shape (blocks + 1,), the last is their total.
        connectivity: 4 or 8 neighbours of a pixel make a component.

    Returns:
        For each number, 0 included, the lowest of those that are the same component, shape (total + 1,).
    """
    pairs = [np.empty((2, 0), np.int64)]
    for index in range(len(grid)):
        row, column = divmod(index, grid.columns)
        right = index + 1 if column + 1 < grid.columns else None
        below = index + grid.columns if row + 1 < grid.rows else None
        if right is not None:
            pairs += _across(blocks[index].right, blocks[right].left, offsets[index], offsets[right], connectivity)
        if below is not None:
            pairs += _across(blocks[index].bottom, blocks[below].top, offsets[index], offsets[below], connectivity)
        if right is not None and below is not None and connectivity == 8:
            pairs += _across_corner(blocks, offsets, index, below)
    joined = np.concatenate(pairs, axis=1)
    total = int(offsets[-1]) + 1
    graph = coo_array((np.ones(joined.shape[1], bool), (joined[0], joined[1])), shape=(total, total))
    component = connected_components(graph, directed=False)[1]
    lowest = np.empty(total, np.int64)
    lowest[component[::-1]] = np.arange(total)[::-1]  # from the last to the first: the lowest stays
    return np.asarray(lowest[component])


def _across(
    one: NDArray[Any], other: NDArray[Any], start: int, other_start: int, connectivity: Connectivity
) -> list[NDArray[np.int64]]:
    lines = [(one, other)]
    if connectivity == 8:
        lines += [(one[:-1], other[1:]), (one[1:], other[:-1])]
    return [_numbered(first, second, start, other_start) for first, second in lines]


def _across_corner(
    blocks: Sequence[Sides], offsets: NDArray[np.int64], upper_left: int, lower_left: int
) -> list[NDArray[np.int64]]:
    """Both diagonals of the corner in which four blocks meet."""
    pairs = []
    for upper, lower, end, start in (
        (upper_left, lower_left + 1, -1, 0),
        (upper_left + 1, lower_left, 0, -1),
    ):
        one, other = blocks[upper].bottom[end], blocks[lower].top[start]
        pairs.append(_numbered(np.array([one]), np.array([other]), offsets[upper], offsets[lower]))
    return pairs


def _numbered(one: NDArray[Any], other: NDArray[Any], start: int, other_start: int) -> NDArray[np.int64]:
    """Pairs of touching components, shape (2, n), each once."""
    touch = (one > 0) & (other > 0)
    pairs = np.stack([one[touch].astype(np.int64) + start, other[touch].astype(np.int64) + other_start])
    return np.unique(pairs, axis=1)
