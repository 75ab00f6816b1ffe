"""Pixel error of the ISBI 2012 challenge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

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


class PixelScores(NamedTuple):
    """Agreement of a proposal and a label on which pixels are cell, over all slices."""

    error: float
    """Share of the pixels on which they disagree."""
    precision: float
    """Of the proposal's cell pixels, the share that is cell in the label."""
    recall: float
    """Of the label's cell pixels, the share that is cell in the proposal."""
    fscore: float
    """Harmonic mean of precision and recall."""


def pixel_error(probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None) -> float:
    r"""Pixel error: 1 - max over thresholds of the F-score of the cell pixels of all slices.

    With the proposal :math:`p > \theta` and true positives, false positives and false negatives counted in pixels of
    all slices together, :math:`F = 2\,TP / (2\,TP + FP + FN)` (Arganda-Carreras et al. 2015,
    doi:10.3389/fnana.2015.00142). :func:`pixel_scores` has the share of wrong pixels, precision and recall.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.

    Returns:
        The error, 0 to 1. A stack without a cell in label and proposal alike has F = 1, one without a cell in the
        label only has F = 0.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary.

    >>> pixel_error([[0.9, 0.2], [0.6, 0.7]], [[1, 0], [0, 1]], threshold=0.5)
    0.19999999999999996
    >>> pixel_error([[0.9, 0.2], [0.65, 0.75]], [[1, 0], [0, 1]])
    0.0
    """
    return pixel_error_from_statistics(pixel_error_statistics(probability, label, sweep(threshold, THRESHOLDS)))


def pixel_error_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> Statistics:
    """Rows [cell in both, cell in the proposal, cell in the label, pixels], one per threshold; they add up over slices.

    Args:
        probability: as in :func:`pixel_error`.
        label: as in :func:`pixel_error`.
        thresholds: in [0, 1].

    Returns:
        Array of shape (thresholds, 4).

    Raises:
        ValueError: as in :func:`pixel_error`.
    """
    checked = check_thresholds(thresholds)
    statistics = np.zeros((len(checked), 4))
    for p, cell in slices(probability, label):
        cells = np.count_nonzero(cell)
        for row, threshold in zip(statistics, checked, strict=True):
            proposed = proposal(p, threshold)
            row += np.array((np.count_nonzero(proposed & cell), np.count_nonzero(proposed), cells, cell.size))
    return statistics


def pixel_error_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """Pixel error of all slices of which the statistics, added up or in a list, are given."""
    return float(1 - fscores(add_up(statistics)).max())


def pixel_scores(probability: ArrayLike, label: ArrayLike, *, threshold: float = 0.5) -> PixelScores:
    """Share of wrong pixels, precision, recall and F-score of the cell pixels at one threshold, of all slices together.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: in [0, 1].

    Returns:
        The scores. Precision is 1 where the proposal has no cell, recall where the label has none.

    Raises:
        ValueError: as in :func:`pixel_error`.

    >>> pixel_scores([[0.9, 0.2], [0.6, 0.7]], [[1, 0], [0, 1]])
    PixelScores(error=0.25, precision=0.666..., recall=1.0, fscore=0.8)
    """
    total = pixel_error_statistics(probability, label, (threshold,))
    both, proposed, cells, pixels = total[0]
    shares = (scores(total)[0] for scores in (precisions, recalls, fscores))
    return PixelScores(float((proposed + cells - 2 * both) / pixels), *map(float, shares))
