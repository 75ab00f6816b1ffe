"""What the ISBI 2012 metrics share: thresholds and proposals, the checks of their input, how slices add up."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.arguments import is_number

Statistics = NDArray[np.float64]
"""One row per threshold; statistics of several slices add up element by element."""

RULES = 2
"""Version of the rules of these scores, raised when a score of any images changes; 1 averaged F-scores over slices."""

# The challenge adds 0.1 again and again in double precision, so its ninth value is 0.7999999999999999. That decides
# for probabilities stored in steps of 0.1.
V_THRESHOLDS: tuple[float, ...] = tuple(accumulate(repeat(0.1, 10), initial=0.0))
"""0, 0.1 .. 1, the sweep of V_rand and V_info."""
THRESHOLDS: tuple[float, ...] = V_THRESHOLDS[:-1]
"""0, 0.1 .. 0.9, the sweep of the pixel, Rand and warping error."""


def check_stack(probability: ArrayLike, label: ArrayLike) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
    """Check a map and its label as every EM metric does, and bring both to one shape.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: annotation of the same shape, values {0, 1}, {0, 255} or bool; 0 is membrane, anything else cell.

    Returns:
        The map and the label as bool, both (Z, H, W).

    Raises:
        ValueError: shapes that differ or are neither (H, W) nor (Z, H, W), an empty stack, NaN or values outside
            [0, 1] in the map, other values than two allowed ones in the label.
    """
    p = np.asarray(probability)
    t = np.asarray(label)
    if p.shape != t.shape:
        raise ValueError(f"label.shape={t.shape}: must equal probability.shape={p.shape}")
    if p.ndim not in (2, 3):
        raise ValueError(f"probability.shape={p.shape}: must be (H, W) or (Z, H, W); pass one channel, the cells'")
    if p.size == 0:
        raise ValueError(f"probability.shape={p.shape}: the stack is empty; pass at least one slice with pixels")
    if p.dtype.kind not in "buif":
        raise ValueError(f"probability.dtype={p.dtype}: must be real numbers in [0, 1]")
    low, high = p.min(), p.max()
    if math.isnan(low):
        raise ValueError(f"probability={low} in places: must be in [0, 1]; the network's output has diverged")
    if low < 0 or high > 1:
        remedy = "divide an 8-bit map by 255, apply softmax to logits"
        raise ValueError(f"probability={low}..{high}: must be in [0, 1]; {remedy}")
    cells = t != 0
    if t.dtype != np.bool_:
        highest = t.max()
        if highest not in (0, 1, 255) or not np.array_equal(cells, t == max(highest, 1)):
            found = ", ".join(str(value) for value in np.unique(t)[:5])
            raise ValueError(
                f"label={found}..: must hold only {{0, 1}} or {{0, 255}}; binarise instances with label > 0"
            )
    shape = (-1, *p.shape[-2:])
    return p.reshape(shape), np.ascontiguousarray(cells).reshape(shape)


def slices(probability: ArrayLike, label: ArrayLike) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Pairs (map, label) of checked slices, each (H, W); the map in single precision, as the challenge reads it."""
    for p, cell in zip(*check_stack(probability, label), strict=True):
        yield np.ascontiguousarray(p, dtype=np.float32), cell


def proposal(probability: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Where probability > threshold, compared in double precision.

    >>> proposal(np.float32([0.1, 0.3]), 0.1 + 0.1 + 0.1)  # single 0.3 is above 0.30000000000000004
    array([False,  True])
    """
    # the same without a copy in double precision: above the largest single that is not above the threshold
    single = np.float32(threshold)
    if float(single) > threshold:
        single = np.nextafter(single, np.float32(-np.inf))
    above: NDArray[np.bool_] = probability > single
    return above


def sweep(threshold: float | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """The one threshold asked for, or the metric's own sweep.

    Raises:
        ValueError: threshold outside [0, 1].
    """
    return default if threshold is None else check_thresholds((threshold,))


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Thresholds as doubles.

    Raises:
        ValueError: no threshold, or one outside [0, 1].
    """
    if len(thresholds) == 0:
        raise ValueError(f"thresholds={thresholds}: pass at least one")
    for threshold in thresholds:
        if not (is_number(threshold) and 0 <= threshold <= 1):
            raise ValueError(f"threshold={threshold!r}: must be in [0, 1], as the probabilities are")
    return tuple(float(threshold) for threshold in thresholds)


def add_up(statistics: Statistics | Sequence[Statistics]) -> Statistics:
    """Statistics of all slices: one accumulated array (thresholds, columns) as it is, several added.

    Raises:
        ValueError: nothing to add, or arrays of another shape.
    """
    array = np.asarray(statistics, dtype=np.float64)
    if array.size == 0 or array.ndim not in (2, 3):
        raise ValueError(f"statistics.shape={array.shape}: must be (thresholds, columns) of at least one slice")
    return array if array.ndim == 2 else np.asarray(array.sum(axis=0))


def fscores(total: Statistics) -> Statistics:
    """F = 2 A / (S + T) of each row [A, S, T, ...]: both say yes, the proposal does, the label does; 1 where none does.

    Args:
        total: rows of counts, already added up over slices.

    Returns:
        One F-score per row.
    """
    return _ratios(2 * total[:, 0], total[:, 1] + total[:, 2])


def precisions(total: Statistics) -> Statistics:
    """A / S of each row [A, S, T, ...], 1 where S is 0."""
    return _ratios(total[:, 0], total[:, 1])


def recalls(total: Statistics) -> Statistics:
    """A / T of each row [A, S, T, ...], 1 where T is 0."""
    return _ratios(total[:, 0], total[:, 2])


def _ratios(numerator: Statistics, denominator: Statistics) -> Statistics:
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0)
