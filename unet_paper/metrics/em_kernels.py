"""The loops of the EM metrics that go pixel by pixel, compiled on first use.

Orders are part of the definitions. Regrowth is first-in first-out and begins column by column: the challenge's V_rand
follows from this order, row by row it is missed. Among pixels equally far from the threshold, relaxation does the
same: the challenge's warped labels follow from it, though not from it alone.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from unet_paper.metrics.em_inputs import Statistics

_Entry = tuple[float, int, int]
MERGE, SPLIT, HOLE_ADDED, OBJECT_DELETED, OBJECT_ADDED, HOLE_DELETED = range(1, 7)


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


_NUMBER = _connectivity_numbers()


@numba.njit(cache=True)
def _connectivity_number(image: NDArray[np.uint8], i: int, width: int) -> int:
    up, down = i - width, i + width
    code = image[i + 1] | image[up + 1] << 1 | image[up] << 2 | image[up - 1] << 3
    code |= image[i - 1] << 4 | image[down - 1] << 5 | image[down] << 6 | image[down + 1] << 7
    return _NUMBER[code]


@numba.njit(cache=True)
def _before(distance: float, turn: int, other_distance: float, other_turn: int) -> bool:
    return distance > other_distance or (distance == other_distance and turn < other_turn)


@numba.njit(cache=True)
def _push(
    distances: NDArray[np.float64], turns: NDArray[np.int64], pixels: NDArray[np.int64], size: int, entry: _Entry
) -> None:
    """Put an entry on a binary heap of `size` entries; the largest distance is on top, the first turn among equals."""
    distance, turn, pixel = entry
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if not _before(distance, turn, distances[parent], turns[parent]):
            break
        distances[place], turns[place], pixels[place] = distances[parent], turns[parent], pixels[parent]
        place = parent
    distances[place], turns[place], pixels[place] = distance, turn, pixel


@numba.njit(cache=True)
def _pop(distances: NDArray[np.float64], turns: NDArray[np.int64], pixels: NDArray[np.int64], size: int) -> int:
    """Take the top entry off a binary heap of `size` entries."""
    top = pixels[0]
    last = size - 1
    distance, turn, pixel = distances[last], turns[last], pixels[last]
    place = 0
    while 2 * place + 1 < last:
        child = 2 * place + 1
        if child + 1 < last and _before(distances[child + 1], turns[child + 1], distances[child], turns[child]):
            child += 1
        if not _before(distances[child], turns[child], distance, turn):
            break
        distances[place], turns[place], pixels[place] = distances[child], turns[child], pixels[child]
        place = child
    distances[place], turns[place], pixels[place] = distance, turn, pixel
    return top


@numba.njit(cache=True)
def relax(
    probability: NDArray[np.float64], label: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Flip simple points of the label toward probability > threshold until none is left.

    Args:
        probability: shape (H, W).
        label: shape (H, W).
        threshold: in [0, 1].

    Returns:
        The relaxed label on a canvas with one zero pixel around, shape (H + 2, W + 2), and the flat canvas indices of
        the pixels that still differ, column by column.
    """
    height, width = label.shape[0] + 2, label.shape[1] + 2
    warped = np.zeros(height * width, np.uint8)
    differs = np.zeros(height * width, np.bool_)
    found = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            i = y * width + x
            warped[i] = label[y - 1, x - 1]
            differs[i] = label[y - 1, x - 1] != (probability[y - 1, x - 1] > threshold)
            found += differs[i]
    mismatches = np.empty(found, np.int64)
    distance = np.empty(found, np.float64)
    k = 0
    for x in range(1, width - 1):
        for y in range(1, height - 1):
            if differs[y * width + x]:
                mismatches[k] = y * width + x
                distance[k] = abs(probability[y - 1, x - 1] - threshold)
                k += 1
    # all come first in sorted order, only those that return need a heap, which stays small
    order = np.argsort(-distance, kind="mergesort")
    queued = differs.copy()
    heap = (np.empty(found, np.float64), np.empty(found, np.int64), np.empty(found, np.int64))
    size = 0
    turn = 0
    head = 0
    neighbours = np.array((-width - 1, -1, width - 1, -width, width, -width + 1, 1, width + 1))
    while head < found or size:
        if size and (head == found or heap[0][0] > distance[order[head]]):
            i = _pop(heap[0], heap[1], heap[2], size)
            size -= 1
        else:
            i = mismatches[order[head]]
            head += 1
        queued[i] = False
        if _connectivity_number(warped, i, width) != 1:
            continue
        warped[i] ^= 1
        differs[i] = False
        for step in neighbours:
            j = i + step
            if differs[j] and not queued[j]:
                queued[j] = True
                d = abs(probability[j // width - 1, j % width - 1] - threshold)
                _push(heap[0], heap[1], heap[2], size, (d, turn, j))
                size += 1
                turn += 1
    left = 0
    for i in mismatches:
        if differs[i]:
            mismatches[left] = i
            left += 1
    return warped.reshape(height, width), mismatches[:left]


@numba.njit(cache=True)
def classify(warped: NDArray[np.uint8], mismatches: NDArray[np.int64], radius: int) -> NDArray[np.uint8]:
    """Class of topological error of each pixel of which no flip keeps the topology.

    Args:
        warped: relaxed label on its canvas, shape (H + 2, W + 2).
        mismatches: flat canvas indices of the pixels to classify.
        radius: half side, in px, of the square in which components are told apart.

    Returns:
        The classes, 1 to 6, in the order of the indices.
    """
    height, width = warped.shape
    image = warped.ravel()
    classes = np.empty(mismatches.size, np.uint8)
    reached_by = np.zeros(image.size, np.int64)
    stack = np.empty(image.size, np.int64)
    cross = np.array((1, -width, -1, width))
    for k in range(mismatches.size):
        i = mismatches[k]
        cells = 0
        for step in cross:
            cells += image[i + step]
        number = _connectivity_number(image, i, width)
        if number == 0:
            if image[i]:
                classes[k] = HOLE_ADDED if cells else OBJECT_DELETED
            else:
                classes[k] = HOLE_DELETED if cells else OBJECT_ADDED
            continue
        y, x = i // width, i % width
        top, bottom = max(y - radius, 1), min(y + radius, height - 2)
        left, right = max(x - radius, 1), min(x + radius, width - 2)
        mark = k + 1
        reached_by[i] = mark
        met = 0
        size = 0
        for step in cross:
            if image[i + step]:
                stack[0] = i + step
                reached_by[i + step] = mark
                size = 1
                met = 1
                break
        while size and met < cells:
            size -= 1
            j = stack[size]
            row, column = j // width, j % width
            for step in cross:
                n = j + step
                if (
                    image[n]
                    and reached_by[n] != mark
                    and not (step == -width and row == top)
                    and not (step == width and row == bottom)
                    and not (step == -1 and column == left)
                    and not (step == 1 and column == right)
                ):
                    reached_by[n] = mark
                    stack[size] = n
                    size += 1
                    offset = abs(n - i)
                    if offset == 1 or offset == width:
                        met += 1
        if met < cells:
            classes[k] = SPLIT if image[i] else MERGE
        else:
            classes[k] = HOLE_DELETED if image[i] else HOLE_ADDED
    return classes


@numba.njit(cache=True)
def regrow(segments: NDArray[np.int32]) -> NDArray[np.int32]:
    """Grow segments over the zero pixels between them, 4-connected, up to lines where two different ones meet.

    A queue of zero pixels: one that sees a single segment joins it and lets its zero neighbours queue, one that sees
    two stays a line.

    Args:
        segments: ids > 0, 0 between them; shape (H, W).

    Returns:
        The grown segments; 0 only on lines, or everywhere if there was no segment.
    """
    height, width = segments.shape
    grown = segments.copy()
    queue = np.empty(grown.size, np.int64)
    queued = np.zeros((height, width), np.bool_)
    end = 0
    for x in range(width):
        for y in range(height):
            if grown[y, x] == 0 and (
                (x > 0 and grown[y, x - 1])
                or (y > 0 and grown[y - 1, x])
                or (y < height - 1 and grown[y + 1, x])
                or (x < width - 1 and grown[y, x + 1])
            ):
                queue[end] = y * width + x
                queued[y, x] = True
                end += 1
    begin = 0
    while begin < end:
        y, x = queue[begin] // width, queue[begin] % width
        begin += 1
        segment = 0
        line = False
        for dy, dx in ((0, -1), (-1, 0), (1, 0), (0, 1)):
            row, column = y + dy, x + dx
            if 0 <= row < height and 0 <= column < width and grown[row, column]:
                line |= segment != 0 and segment != grown[row, column]
                segment = grown[row, column]
        if line:
            continue
        grown[y, x] = segment
        for dy, dx in ((0, -1), (-1, 0), (1, 0), (0, 1)):
            row, column = y + dy, x + dx
            if 0 <= row < height and 0 <= column < width and not grown[row, column] and not queued[row, column]:
                queued[row, column] = True
                queue[end] = row * width + column
                end += 1
    return grown


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
