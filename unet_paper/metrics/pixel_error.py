"""Pixel error of the ISBI 2012 challenge."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unet_paper.metrics.em_inputs import THRESHOLDS, Statistics, check_thresholds, mean_score, slices, sweep


def pixel_error(probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None) -> float:
    r"""Pixel error: 1 - max over thresholds of the F-score of the cell pixels, averaged over slices.

    With the proposal :math:`p > \theta` and true positives, false positives and false negatives counted in pixels of
    one slice, :math:`F = 2\,TP / (2\,TP + FP + FN)` (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142).

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.

    Returns:
        The error, 0 to 1. A slice without a cell in label and proposal alike has F = 1, one without a cell in the
        label only has F = 0.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary.

    >>> pixel_error([[0.9, 0.2], [0.6, 0.7]], [[1, 0], [0, 1]], threshold=0.5)
    0.19999999999999996
    >>> pixel_error([[0.9, 0.2], [0.6, 0.7]], [[1, 0], [0, 1]])
    0.0
    """
    return pixel_error_from_statistics(pixel_error_statistics(probability, label, sweep(threshold, THRESHOLDS)))


def pixel_error_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> Statistics:
    """Rows [sum of F over slices, number of slices], one per threshold; they add up over slices and batches.

    Args:
        probability: as in :func:`pixel_error`.
        label: as in :func:`pixel_error`.
        thresholds: in [0, 1].

    Returns:
        Array of shape (thresholds, 2).

    Raises:
        ValueError: as in :func:`pixel_error`.
    """
    checked = check_thresholds(thresholds)
    statistics = np.zeros((len(checked), 2))
    for p, cell in slices(probability, label):
        for row, threshold in zip(statistics, checked, strict=True):
            proposal = p > threshold
            both = np.count_nonzero(proposal & cell)
            either = np.count_nonzero(proposal) + np.count_nonzero(cell)
            row += (2 * both / either if either else 1.0, 1)
    return statistics


def pixel_error_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """Pixel error of all slices of which the statistics, added up or in a list, are given."""
    return 1 - mean_score(statistics)
