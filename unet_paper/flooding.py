"""Parts of a component grown from their seeds: the watershed of a map, flooded from its highest values down.

The pixels beside what has been reached are taken in the order of their values, those of equal value in the order in
which they were seen, as ``skimage.segmentation.watershed`` does (Beucher and Meyer 1993, "The morphological approach to
segmentation"). That one queues every pixel of every seed; here only the rims of the seeds and of what has grown are
queued, so that a component as large as the image takes little more memory than its parts.
"""

import functools
import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unet_paper.nearest_cells import compiled


def flood(parts: NDArray[np.int32], component: NDArray[np.bool_], values: NDArray[np.floating], diagonal: bool) -> None:
    """Give each pixel of a component to the part that reaches it first, in place.

    Args:
        parts: seeds 1 .. k, 0 elsewhere, shape (h, w).
        component: the pixels that are given away, shape (h, w).
        values: height of each pixel, shape (h, w).
        diagonal: whether the pixels at its corners are neighbours of a pixel.

    >>> parts = np.array([[1, 0, 0, 0, 2]], np.int32)
    >>> flood(parts, np.ones((1, 5), bool), np.array([[0.9, 0.3, 0.4, 0.5, 0.8]]), diagonal=False)
    >>> parts.tolist()
    [[1, 1, 2, 2, 2]]
    """
    if values.dtype == np.float16:  # which the compiler does not know
        values = values.astype(np.float32)
    _kernel()(parts, np.ascontiguousarray(component), np.ascontiguousarray(values), diagonal)


@functools.cache
def _kernel() -> Callable[[NDArray[np.int32], NDArray[np.bool_], NDArray[np.floating], bool], None]:
    return compiled(_flood)


def _flood(
    parts: NDArray[np.int32], component: NDArray[np.bool_], values: NDArray[np.floating], diagonal: bool
) -> None:
    height, width = parts.shape
    neighbours = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
    count = 8 if diagonal else 4
    # (lowered value, age, place): the first of a heap is the highest, of equally high ones the oldest
    queue = [(-values[0, 0], 0, 0)]
    queue.pop()
    age = 0
    for y in range(height):
        for x in range(width):
            if parts[y, x] == 0:
                continue
            for k in range(count):
                row, column = y + neighbours[k][0], x + neighbours[k][1]
                if 0 <= row < height and 0 <= column < width and component[row, column] and parts[row, column] == 0:
                    heapq.heappush(queue, (-values[y, x], age, y * width + x))
                    age += 1
                    break
    while len(queue) > 0:
        place = heapq.heappop(queue)[2]
        y, x = place // width, place % width
        for k in range(count):
            row, column = y + neighbours[k][0], x + neighbours[k][1]
            if 0 <= row < height and 0 <= column < width and component[row, column] and parts[row, column] == 0:
                parts[row, column] = parts[y, x]
                heapq.heappush(queue, (-values[row, column], age, row * width + column))
                age += 1
