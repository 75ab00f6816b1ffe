"""The loops of the warping error, compiled on first use: simple points, relaxation, classes and clusters of errors.

The order is part of the definition: the challenge's warped labels follow from going through the pixels that differ in
passes, beginning column by column among equals.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from unet_paper.metrics.em_kernels import components

MERGE, SPLIT, HOLE_ADDED, OBJECT_DELETED, OBJECT_ADDED, HOLE_DELETED = range(1, 7)
_BLOCK = 64


def _connectivity_numbers() -> NDArray[np.uint8]:
    """Yokoi's connectivity number of every 3x3 neighbourhood, for 4-connected foreground and 8-connected background.

    Bit k of the index is neighbour x_k, anticlockwise from the right: N = sum over k in {0, 2, 4, 6} of
    x_k - x_k x_(k+1) x_(k+2). N counts the foreground components next to the centre, except that N is 0 for a centre
    inside the foreground. A pixel is simple exactly where N = 1 (Yokoi, Toriwaki and Fukumura 1975, An analysis of
    topological properties of digitized binary pictures using local features).
    """
    bits = np.arange(256)
    x = [bits >> k & 1 for k in range(8)]
    return np.asarray(sum(x[k] - x[k] * x[k + 1] * x[(k + 2) % 8] for k in (0, 2, 4, 6)), dtype=np.uint8)


_SIMPLE = _connectivity_numbers() == 1


@numba.njit(cache=True)
def _is_simple(image: NDArray[np.uint8], i: int, width: int) -> bool:
    up, down = i - width, i + width
    code = image[i + 1] | image[up + 1] << 1 | image[up] << 2 | image[up - 1] << 3
    code |= image[i - 1] << 4 | image[down - 1] << 5 | image[down] << 6 | image[down + 1] << 7
    return _SIMPLE[code]


@numba.njit(cache=True)
def _differences(
    probability: NDArray[np.float32], label: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """The label on a canvas, flat; where it differs from the proposal, column by column; how far p is from threshold.

    The distance is taken in double precision and kept in single, as the challenge does: that makes ties.
    """
    height, width = label.shape
    canvas = np.zeros((height + 2, width + 2), np.uint8)
    canvas[1:-1, 1:-1] = label
    found = np.empty(label.size, np.int32)
    begin = np.zeros(width + 1, np.int64)
    number = 0
    words = np.zeros((width + 7) // 8, np.uint64)  # eight pixels at once, as most agree
    differs = words.view(np.uint8)
    for y in range(height):
        cell, p = label[y], probability[y]
        for x in range(width):
            differs[x] = cell[x] != (np.float64(p[x]) > threshold)
        for word in range(words.size):
            if words[word]:
                for x in range(8 * word, min(8 * word + 8, width)):
                    if differs[x]:
                        found[number] = y * width + x
                        number += 1
                        begin[x + 1] += 1
    place = np.cumsum(begin)
    pixels = np.empty(number, np.int32)
    distances = np.empty(number, np.float32)
    for k in range(number):
        y, x = found[k] // width, found[k] % width
        pixels[place[x]] = (y + 1) * (width + 2) + x + 1
        distances[place[x]] = np.float32(abs(np.float64(probability[y, x]) - threshold))
        place[x] += 1
    return canvas.ravel(), pixels, distances


@numba.njit(cache=True)
def relax(
    probability: NDArray[np.float32], label: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Flip simple points of the label toward probability > threshold, pass by pass, until none is left.

    A pass looks once at every pixel that differs, the farthest from the threshold first. Of a pass after the first,
    only pixels are looked at of which a neighbour was flipped since their last turn: the others are as they were.

    Args:
        probability: shape (H, W).
        label: shape (H, W).
        threshold: in [0, 1].

    Returns:
        The relaxed label on a canvas with one zero pixel around, shape (H + 2, W + 2), and the flat canvas indices of
        the pixels that still differ, column by column.
    """
    image, pixels, distances = _differences(probability, label, threshold)
    width = label.shape[1] + 2
    # one key instead of a stable sort: the bits of a distance, which rise with it, and then the place in the list
    keys = (~distances.view(np.uint32)).astype(np.uint64) << np.uint64(32) | np.arange(pixels.size).astype(np.uint64)
    by_rank = pixels[(np.sort(keys) & np.uint64(2**32 - 1)).astype(np.int64)]
    rank = np.full(image.size, -1, np.int32)  # of a pixel that differs in the list, from the farthest on
    for r in range(by_rank.size):
        rank[by_rank[r]] = r
    # the pass in which a rank is looked at next, and how many of a block of ranks wait for this pass and for the next
    due = np.ones(by_rank.size, np.int32)
    blocks = (by_rank.size + _BLOCK - 1) // _BLOCK
    waiting = np.zeros((2, blocks), np.int32)
    for r in range(by_rank.size):
        waiting[1, r // _BLOCK] += 1
    neighbours = np.array((-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1))
    turn = 1
    flipped = True
    while flipped:
        flipped = False
        now, later = waiting[turn % 2], waiting[(turn + 1) % 2]
        for block in range(blocks):
            r = block * _BLOCK
            while now[block]:
                if due[r] == turn:
                    due[r] = 0
                    now[block] -= 1
                    i = by_rank[r]
                    if _is_simple(image, i, width):
                        image[i] ^= 1
                        rank[i] = -1
                        flipped = True
                        for step in neighbours:
                            other = rank[i + step]
                            if other >= 0 and due[other] == 0:
                                if other > r:
                                    due[other] = turn
                                    now[other // _BLOCK] += 1
                                else:
                                    due[other] = turn + 1
                                    later[other // _BLOCK] += 1
                r += 1
        turn += 1
    return image.reshape(-1, width), pixels[rank[pixels] >= 0]


@numba.njit(cache=True)
def classify(warped: NDArray[np.uint8], mismatches: NDArray[np.int32], radius: int) -> NDArray[np.uint8]:
    """Class of topological error of each pixel of which no flip keeps the topology, all on the same warped label.

    Args:
        warped: relaxed label on its canvas, shape (H + 2, W + 2).
        mismatches: flat canvas indices of the pixels to classify.
        radius: half side, in px, of the square in which a cell may fall apart; below 1 or above a side of the label,
            the whole label.

    Returns:
        The classes, 1 to 6, in the order of the indices.
    """
    height, width = warped.shape
    classes = np.empty(mismatches.size, np.uint8)
    if not mismatches.size:
        return classes
    if radius < 1 or radius > min(height, width) - 2:
        radius = max(height, width)
    cells = components(warped).ravel()
    visited_for = np.zeros(warped.size, np.int32)
    stack = np.empty(warped.size, np.int32)
    for k in range(mismatches.size):
        i = mismatches[k]
        y, x = i // width, i % width
        cell, several, membrane = 0, False, False
        for row in range(max(y - 1, 1), min(y + 2, height - 1)):
            for column in range(max(x - 1, 1), min(x + 2, width - 1)):
                near = cells[row * width + column]
                if row == y and column == x:
                    continue
                if not near:
                    membrane = True
                elif not cell:
                    cell = near
                elif near != cell:
                    several = True
        if not cell:
            classes[k] = OBJECT_DELETED if cells[i] else OBJECT_ADDED
        elif not membrane and not several:
            classes[k] = HOLE_ADDED if cells[i] else HOLE_DELETED
        elif not cells[i]:
            classes[k] = MERGE if several else HOLE_ADDED
        else:
            classes[k] = SPLIT if _is_parted(cells, width, i, radius, visited_for, k + 1, stack) else HOLE_DELETED
    return classes


@numba.njit(cache=True)
def _is_parted(
    image: NDArray[np.int32],
    width: int,
    i: int,
    radius: int,
    visited_for: NDArray[np.int32],
    mark: int,
    stack: NDArray[np.int32],
) -> bool:
    """Whether the cells among a pixel's 8 neighbours are not all 4-connected in the square around it without it."""
    height = image.size // width
    y, x = i // width, i % width
    top, bottom = max(y - radius, 1), min(y + radius, height - 2)
    left, right = max(x - radius, 1), min(x + radius, width - 2)
    around = 0
    for row in range(y - 1, y + 2):
        for column in range(x - 1, x + 2):
            j = row * width + column
            if j != i and image[j]:
                around += 1
                stack[0] = j
    visited_for[i] = mark
    visited_for[stack[0]] = mark
    size, met = 1, 0
    while size:
        size -= 1
        j = stack[size]
        row, column = j // width, j % width
        met += abs(row - y) <= 1 and abs(column - x) <= 1
        if met == around:
            return False
        for n, inside in (
            (j - width, row > top),
            (j + width, row < bottom),
            (j - 1, column > left),
            (j + 1, column < right),
        ):
            if inside and image[n] and visited_for[n] != mark:
                visited_for[n] = mark
                stack[size] = n
                size += 1
    return True


@numba.njit(cache=True)
def count_clusters(
    warped: NDArray[np.uint8], mismatches: NDArray[np.int32], classes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Number of clusters of each class of topological error, connected errors of one class being one cluster.

    Merges, and added holes on cells, are 8-connected, all others 4-connected; holes on membrane and on cells are apart.

    Args:
        warped: relaxed label on its canvas, shape (H + 2, W + 2).
        mismatches: flat canvas indices of the errors.
        classes: what :func:`classify` returned for them.

    Returns:
        Counts by class, shape (7,); that of 0 is 0.
    """
    counts = np.zeros(HOLE_DELETED + 1, np.int64)
    width = warped.shape[1]
    image = warped.ravel()
    left = np.zeros(image.size, np.uint8)
    for k in range(mismatches.size):
        left[mismatches[k]] = classes[k]
    steps = np.array((-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1))
    stack = np.empty(mismatches.size, np.int32)
    for i in mismatches:
        kind = left[i]
        if not kind:
            continue
        counts[kind] += 1
        reach = 8 if kind == MERGE or (kind == HOLE_ADDED and image[i]) else 4
        left[i] = 0
        stack[0] = i
        size = 1
        while size:
            size -= 1
            j = stack[size]
            for step in steps[:reach]:
                n = j + step
                if left[n] == kind and image[n] == image[i]:
                    left[n] = 0
                    stack[size] = n
                    size += 1
    return counts
