"""Rand error of the ISBI 2012 challenge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.metrics.em_inputs import (
    THRESHOLDS,
    Statistics,
    add_up,
    check_thresholds,
    fscores,
    precisions,
    proposal,
    recalls,
    slices,
    sweep,
)


class RandScores(NamedTuple):
    """Agreement of two segmentations on which pairs of pixels of a slice belong together."""

    error: float
    """Share of the pairs of a slice on which they disagree, 1 - Rand index; mean over slices."""
    precision: float
    """Of the pairs that the proposal joins in any slice, the share that the label joins."""
    recall: float
    """Of the pairs that the label joins in any slice, the share that the proposal joins."""
    fscore: float
    """Harmonic mean of precision and recall."""


def rand_error(
    probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None, foreground_restricted: bool = False
) -> float:
    r"""Rand error: 1 - max over thresholds of the F-score of the pixel pairs of all slices.

    Segments are the 4-connected components of :math:`p > \theta`, cells those of the label, and membrane is one more
    segment in each, so that every pixel counts. Over pairs of different pixels of one slice, added up over slices,
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
    """Rows of pairs [joined by both, by the proposal, by the label], one per threshold; they add up over slices.

    Args:
        probability: as in :func:`rand_error`.
        label: as in :func:`rand_error`.
        thresholds: in [0, 1].
        foreground_restricted: as in :func:`rand_error`.

    Returns:
        Array of shape (thresholds, 3).

    Raises:
        ValueError: as in :func:`rand_error`.
    """
    checked = check_thresholds(thresholds)
    statistics = np.zeros((len(checked), 3))
    for p, cell in slices(probability, label):
        statistics += _pairs(p, cell, checked, foreground_restricted)[:, :3]
    return statistics


def rand_error_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """Rand error of all slices of which the statistics, added up or in a list, are given."""
    return float(1 - fscores(add_up(statistics)).max())


def rand_scores(
    probability: ArrayLike, label: ArrayLike, *, threshold: float = 0.5, foreground_restricted: bool = False
) -> RandScores:
    """Rand index, its mean over slices, and precision, recall and F-score of all their pairs, at one threshold.

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
    checked = check_thresholds((threshold,))
    pairs = np.concatenate([_pairs(p, cell, checked, foreground_restricted) for p, cell in slices(probability, label)])
    both, proposed, joined, all_pairs = pairs.T
    errors = (proposed + joined - 2 * both) / np.maximum(all_pairs, 1)
    total = pairs.sum(axis=0, keepdims=True)
    return RandScores(float(errors.mean()), *(float(scores(total)[0]) for scores in (precisions, recalls, fscores)))


def _pairs(
    p: NDArray[np.float32], cell: NDArray[np.bool_], thresholds: Sequence[float], foreground_restricted: bool
) -> Statistics:
    """Pairs of a slice [joined by both, by the proposal, by the label, all], shape (thresholds, 4)."""
    from unet_paper.metrics.em_kernels import components, joint_sums  # compiles: not on import of the package

    cells = components(cell)
    sums = [
        joint_sums(components(proposal(p, threshold)), cells, foreground_restricted)[:4] for threshold in thresholds
    ]
    n, both, proposed, joined = np.transpose(sums)
    return np.stack([(squares - n) / 2 for squares in (both, proposed, joined, n * n)], axis=1)
