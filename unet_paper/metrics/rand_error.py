"""Rand error of the ISBI 2012 challenge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from unet_paper.metrics.em_inputs import THRESHOLDS, Statistics, check_thresholds, mean_score, slices, sweep


class RandScores(NamedTuple):
    """Agreement of two segmentations on which pairs of pixels belong together, averaged over slices."""

    error: float
    """Share of all pairs on which they disagree: 1 - Rand index."""
    precision: float
    """Of the pairs that the proposal joins, the share that the label joins."""
    recall: float
    """Of the pairs that the label joins, the share that the proposal joins."""
    fscore: float
    """Harmonic mean of precision and recall."""


def rand_error(
    probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None, foreground_restricted: bool = False
) -> float:
    r"""Rand error: 1 - max over thresholds of the F-score of pixel pairs, averaged over slices.

    Segments are the 4-connected components of :math:`p > \theta`, cells those of the label, and membrane is one more
    segment in each, so that every pixel counts. Over pairs of different pixels of a slice,
    :math:`F = 2 A / (S + T)`, with A pairs joined by both, S by the proposal, T by the label
    (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142). :func:`rand_scores` has the Rand index, precision and
    recall.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.
        foreground_restricted: count only pixels in a cell of the label, and take each pixel there that the proposal
            calls membrane for a segment of its own.

    Returns:
        The error, 0 to 1. A label without a cell is one segment of membrane.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary.

    Two cells of two pixels and a membrane of one; the proposal joins all five, of whose 10 pairs 2 belong together:

    >>> rand_error([[0.9, 0.9, 0.8, 0.9, 0.9]], [[1, 1, 0, 1, 1]], threshold=0.5)
    0.6666666666666667
    """
    thresholds = sweep(threshold, THRESHOLDS)
    statistics = rand_error_statistics(probability, label, thresholds, foreground_restricted=foreground_restricted)
    return rand_error_from_statistics(statistics)


def rand_error_statistics(
    probability: ArrayLike,
    label: ArrayLike,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    foreground_restricted: bool = False,
) -> Statistics:
    """Rows [sum of F over slices, number of slices], one per threshold; they add up over slices and batches.

    Args:
        probability: as in :func:`rand_error`.
        label: as in :func:`rand_error`.
        thresholds: in [0, 1].
        foreground_restricted: as in :func:`rand_error`.

    Returns:
        Array of shape (thresholds, 2).

    Raises:
        ValueError: as in :func:`rand_error`.
    """
    checked = check_thresholds(thresholds)
    statistics = np.zeros((len(checked), 2))
    for p, cell in slices(probability, label):
        cells = ndimage.label(cell)[0]
        for row, threshold in zip(statistics, checked, strict=True):
            row += (_rand_scores(ndimage.label(p > threshold)[0], cells, foreground_restricted).fscore, 1)
    return statistics


def rand_error_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """Rand error of all slices of which the statistics, added up or in a list, are given."""
    return 1 - mean_score(statistics)


def rand_scores(
    probability: ArrayLike, label: ArrayLike, *, threshold: float = 0.5, foreground_restricted: bool = False
) -> RandScores:
    """Rand index, precision, recall and F-score at one threshold, each averaged over slices.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: in [0, 1].
        foreground_restricted: as in :func:`rand_error`.

    Returns:
        The scores. Where there is no pair to judge, precision, recall and F-score are 1 and the error is 0.

    Raises:
        ValueError: as in :func:`rand_error`.
    """
    (checked,) = check_thresholds((threshold,))
    scores = [
        _rand_scores(ndimage.label(p > checked)[0], ndimage.label(cell)[0], foreground_restricted)
        for p, cell in slices(probability, label)
    ]
    return RandScores(*(float(value) for value in np.mean(scores, axis=0)))


def _rand_scores(segments: NDArray[np.int32], cells: NDArray[np.int32], foreground_restricted: bool) -> RandScores:
    from unet_paper.metrics.em_kernels import joint_sums  # compiles: not on import of the package

    n, *squares = joint_sums(segments, cells, foreground_restricted)[:4]
    pairs, both, proposal, label = ((square - n) / 2 for square in (n * n, *squares))
    return RandScores(
        error=(proposal + label - 2 * both) / pairs if pairs else 0.0,
        precision=both / proposal if proposal else 1.0,
        recall=both / label if label else 1.0,
        fscore=2 * both / (proposal + label) if proposal + label else 1.0,
    )
