"""Warping error of the ISBI 2012 challenge, and the topological errors that it counts."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.arguments import is_whole
from unet_paper.metrics.em_inputs import THRESHOLDS, Statistics, add_up, check_thresholds, slices, sweep

Count = Literal["splits_and_merges", "mismatches"]


class TopologicalError(IntEnum):
    """What the proposal does to the label's topology at a pixel, cells being the objects."""

    MERGE = 1
    """Joins cells that the label parts: a gap in a membrane."""
    SPLIT = 2
    """Parts a cell of the label."""
    HOLE_ADDED = 3
    """Puts membrane inside a cell, or closes a cell to a ring."""
    OBJECT_DELETED = 4
    """Loses a cell."""
    OBJECT_ADDED = 5
    """Puts a cell inside membrane."""
    HOLE_DELETED = 6
    """Fills a hole of a cell, or opens one."""


class TopologicalErrors(NamedTuple):
    """The label warped to a proposal, and where and how they still differ."""

    warped: NDArray[np.uint8]
    """The warped label, 1 cell, 0 membrane, shape of the label."""
    errors: NDArray[np.uint8]
    """0, or the :class:`TopologicalError` of the pixel; shape of the label."""
    counts: dict[TopologicalError, int]
    """Number of pixels of each class, of all six."""
    clusters: dict[TopologicalError, int]
    """Number of clusters of each class: connected errors of one class, slice by slice."""


def warping_error(
    probability: ArrayLike,
    label: ArrayLike,
    *,
    threshold: float | None = None,
    count: Count = "splits_and_merges",
    clustered: bool = False,
    radius: int = 20,
) -> float:
    r"""Warping error: pixels of split and merge left after warping the label, per pixel, min over thresholds.

    The label L is warped toward the proposal :math:`p > \theta` without a change of its topology: pixels that differ
    and are simple (4-connected cells, 8-connected membrane) are flipped in passes, each in the order of falling
    :math:`|p - \theta|`, until a pass flips none (Jain et al. 2010, doi:10.1109/CVPR.2010.5539950). The pixels that
    differ still are topological errors: a membrane that lies a few pixels off costs nothing, a gap of one pixel does.
    See :func:`topological_errors`.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.
        count: "splits_and_merges" as the challenge, or every pixel that differs still ("mismatches").
        clustered: count connected errors of one class once.
        radius: px around a pixel within which a cell falls apart where it is split; below 1, the whole slice.

    Returns:
        Counted pixels divided by W H Z. A label without any cell has nothing to split or merge: 0.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary;
            a radius that is no whole number.

    Two cells and a membrane of one column with a gap of one pixel, one pixel of 15:

    >>> label = [[1, 1, 0, 1, 1]] * 3
    >>> probability = [[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    >>> 15 * warping_error(probability, label)
    1.0
    """
    statistics = warping_error_statistics(probability, label, sweep(threshold, THRESHOLDS), radius=radius)
    return warping_error_from_statistics(statistics, count=count, clustered=clustered)


def warping_error_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = THRESHOLDS, *, radius: int = 20
) -> Statistics:
    """Counts [pixels of splits and merges, pixels that differ, clusters of the former, clusters of all, pixels].

    One row per threshold; rows add up over slices and batches.

    Args:
        probability: as in :func:`warping_error`.
        label: as in :func:`warping_error`.
        thresholds: in [0, 1].
        radius: as in :func:`warping_error`.

    Returns:
        Array of shape (thresholds, 5).

    Raises:
        ValueError: as in :func:`warping_error`.
    """
    from unet_paper.metrics.warping_kernels import classify, count_clusters, relax  # compiles: not on import

    checked = check_thresholds(thresholds)
    _check_radius(radius)
    statistics = np.zeros((len(checked), 5))
    for p, cell in slices(probability, label):
        for row, threshold in zip(statistics, checked, strict=True):
            warped, mismatches = relax(p, cell, threshold)
            classes = classify(warped, mismatches, radius)
            clusters = count_clusters(warped, mismatches, classes)
            row[0] += np.count_nonzero(classes <= TopologicalError.SPLIT)
            row[1] += mismatches.size
            row[2] += clusters[: TopologicalError.SPLIT + 1].sum()
            row[3] += clusters.sum()
            row[4] += cell.size
    return statistics


def warping_error_from_statistics(
    statistics: Statistics | Sequence[Statistics], *, count: Count = "splits_and_merges", clustered: bool = False
) -> float:
    """Warping error of all slices of which the statistics, added up or in a list, are given.

    Raises:
        ValueError: another count than the two.
    """
    columns: dict[str, int] = {"splits_and_merges": 0, "mismatches": 1}
    if count not in tuple(columns):
        raise ValueError(f"count={count!r}: must be one of {', '.join(columns)}")
    total = add_up(statistics)
    return float((total[:, columns[count] + (2 if clustered else 0)] / total[:, -1]).min())


def topological_errors(
    probability: ArrayLike, label: ArrayLike, *, threshold: float = 0.5, radius: int = 20
) -> TopologicalErrors:
    """Warp the label toward a proposal and classify each pixel that differs still (Jain et al. 2010).

    Warping runs on a canvas with one pixel of membrane around. The pixels that differ are listed once, farthest from
    the threshold first, in single precision, and among equals column by column. A pass goes down the list and flips
    every pixel that is simple at its turn; one that is not waits for the next pass, which begins at the top again.

    The class of a pixel that is left follows from its 8 neighbours in the warped label. All membrane: an object
    deleted or added. All of one cell: a hole added or deleted. Otherwise a membrane pixel with two cells around is a
    merge, with one a hole added; a cell pixel is a split if its neighbours fall apart, within `radius` px, without it,
    else a hole deleted.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: in [0, 1]; the proposal is probability > threshold.
        radius: px around a pixel within which its neighbours fall apart or not; below 1 or above a side of the slice,
            the whole slice.

    Returns:
        The warped label, the image of errors, and their counts by pixels and by clusters.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary;
            a radius that is no whole number.

    >>> topological_errors([[1, 1, 1, 1, 1]], [[1, 1, 0, 1, 1]]).errors
    array([[0, 0, 1, 0, 0]], dtype=uint8)
    """
    from unet_paper.metrics.warping_kernels import classify, count_clusters, relax  # compiles: not on import

    (checked,) = check_thresholds((threshold,))
    _check_radius(radius)
    shape = np.shape(label)
    warped: list[NDArray[np.uint8]] = []
    errors: list[NDArray[np.uint8]] = []
    clusters = np.zeros(len(TopologicalError) + 1, np.int64)
    for p, cell in slices(probability, label):
        canvas, mismatches = relax(p, cell, checked)
        classes = classify(canvas, mismatches, radius)
        clusters += count_clusters(canvas, mismatches, classes)
        painted = np.zeros_like(canvas)
        painted.ravel()[mismatches] = classes
        warped.append(canvas[1:-1, 1:-1])
        errors.append(painted[1:-1, 1:-1])
    pixels = np.bincount(np.ravel(errors), minlength=len(TopologicalError) + 1)
    counts, clustered = ({error: int(of[error]) for error in TopologicalError} for of in (pixels, clusters))
    return TopologicalErrors(np.reshape(warped, shape), np.reshape(errors, shape), counts, clustered)


def _check_radius(radius: int) -> None:
    if not is_whole(radius):
        raise ValueError(f"radius={radius!r}: a whole number of px is needed; below 1, it is the whole slice")
