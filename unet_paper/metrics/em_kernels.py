"""The loops of the EM metrics that go pixel by pixel, compiled on first use.

Orders are part of the definitions: the challenge's warped labels follow from going through the pixels that differ in
passes, its V_rand from regrowing first come, first served, and both from beginning column by column.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from unet_paper.metrics.em_inputs import Statistics

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
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True)
def _runs(image: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Begin and end (exclusive) of the runs of ones, row by row, and how many runs come before each row."""
    height, width = image.shape
    begins = np.empty(image.size // 2 + height, np.int32)
    ends = np.empty_like(begins)
    before = np.zeros(height + 1, np.int32)
    number = 0
    for y in range(height):
        row = image[y]
        inside = False
        for x in range(width):
            if (row[x] != 0) != inside:
                if inside:
                    ends[number] = x
                    number += 1
                else:
                    begins[number] = x
                inside = not inside
        if inside:
            ends[number] = width
            number += 1
        before[y + 1] = number
    return begins[:number], ends[:number], before


@numba.njit(cache=True)
def components(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Ids 1, 2 .. of the 4-connected components of a binary image, row by row, and 0 where it is 0; shape (H, W)."""
    begins, ends, before = _runs(image)
    parent = np.arange(begins.size).astype(np.int32)
    for y in range(1, image.shape[0]):
        above = before[y - 1]
        for run in range(before[y], before[y + 1]):
            while above < before[y] and ends[above] <= begins[run]:
                above += 1
            touching = above
            while touching < before[y] and begins[touching] < ends[run]:
                a, b = _root(parent, touching), _root(parent, run)
                parent[max(a, b)] = min(a, b)
                touching += 1
    ids = np.zeros(image.shape, np.int32)
    final = np.empty(begins.size, np.int32)
    number = 0
    for y in range(image.shape[0]):
        for run in range(before[y], before[y + 1]):
            # a root is smaller than what hangs on it
            if parent[run] == run:
                number += 1
                final[run] = number
            else:
                final[run] = final[parent[run]]
            ids[y, begins[run] : ends[run]] = final[run]
    return ids


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


@numba.njit(cache=True)
def regrow(segments: NDArray[np.int32]) -> NDArray[np.int32]:
    """Grow segments over the zero pixels between them, 4-connected, up to lines where two different ones meet.

    A queue of zero pixels, at first those next to a segment, column by column. Whatever becomes of a pixel, its zero
    neighbours that were never queued join the queue; it joins the one segment that it sees, and is a line if it sees
    two or, behind lines, none.

    Args:
        segments: ids > 0, 0 between them; shape (H, W).

    Returns:
        The grown segments, 0 only on lines. Without any segment the whole slice is one.
    """
    height, width = segments.shape
    grown = np.full((height + 2, width + 2), -1, np.int32)  # a frame, so that no neighbour needs a check
    grown[1:-1, 1:-1] = segments
    flat = grown.ravel()
    width += 2
    waiting = np.zeros(flat.size, np.bool_)
    queue = np.empty(segments.size, np.int32)
    end = 0
    for x in range(1, width - 1):
        for i in range(width + x, flat.size - width, width):
            if flat[i] == 0 and (flat[i - 1] > 0 or flat[i - width] > 0 or flat[i + width] > 0 or flat[i + 1] > 0):
                queue[end] = i
                waiting[i] = True
                end += 1
    if end == 0 and not segments.any():
        return np.ones_like(segments)
    begin = 0
    while begin < end:
        i = queue[begin]
        begin += 1
        segment, line = 0, False
        for n in (i - 1, i - width, i + width, i + 1):
            near = flat[n]
            if near > 0:
                line |= segment != 0 and near != segment
                segment = near
            elif near == 0 and not waiting[n]:
                waiting[n] = True
                queue[end] = n
                end += 1
        if not line:
            flat[i] = segment
    return grown[1:-1, 1:-1].copy()


@numba.njit(cache=True)
def _x_log_x(count: int) -> float:
    return count * np.log(count) if count else 0.0


@numba.njit(cache=True)
def joint_sums(segments: NDArray[np.int32], cells: NDArray[np.int32], foreground_restricted: bool) -> Statistics:
    """Sums over the joint distribution of two segmentations, in pixels.

    Args:
        segments: the proposal's segments, 0 on its boundary; shape (H, W).
        cells: the label's cells, 0 on its boundary; shape (H, W).
        foreground_restricted: leave out pixels of the label's boundary and take each boundary pixel of the proposal
            that remains for a segment of its own; otherwise both boundaries are a segment like any other.

    Returns:
        [n, sum n_ij^2, sum s_i^2, sum t_j^2, sum n_ij log n_ij, sum s_i log s_i, sum t_j log t_j]
    """
    i_of, j_of = segments.ravel(), cells.ravel()
    s = np.zeros(i_of.max() + 1, np.int64)
    t = np.zeros(j_of.max() + 1, np.int64)
    singles = 0
    for k in range(i_of.size):
        i, j = i_of[k], j_of[k]
        if foreground_restricted:
            if j == 0:
                continue
            if i == 0:
                singles += 1
                t[j] += 1
                continue
        s[i] += 1
        t[j] += 1
    begin = np.zeros(s.size + 1, np.int64)
    begin[1:] = np.cumsum(s)
    place = begin[:-1].copy()
    by_segment = np.empty(begin[-1], np.int32)
    for k in range(i_of.size):
        i, j = i_of[k], j_of[k]
        if not foreground_restricted or (i and j):
            by_segment[place[i]] = j
            place[i] += 1
    squares_st, squares_s, squares_t = singles, singles, 0
    logs_st, logs_s, logs_t = 0.0, 0.0, 0.0
    overlap = np.zeros(t.size, np.int64)
    for i in range(s.size):
        inside = by_segment[begin[i] : begin[i + 1]]
        for j in inside:
            overlap[j] += 1
        for j in inside:
            squares_st += overlap[j] ** 2
            logs_st += _x_log_x(overlap[j])
            overlap[j] = 0
        squares_s += s[i] ** 2
        logs_s += _x_log_x(s[i])
    for j in range(t.size):
        squares_t += t[j] ** 2
        logs_t += _x_log_x(t[j])
    return np.array((float(t.sum()), squares_st, squares_s, squares_t, logs_st, logs_s, logs_t))
