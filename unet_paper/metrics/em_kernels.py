"""The loops on segments that the EM metrics share, compiled on first use: components, regrowth, overlaps.

The order of the regrowth is part of the definition: V_rand follows from first come, first served, beginning column by
column.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from unet_paper.metrics.em_inputs import Statistics


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
