"""V_rand, by which the ISBI 2012 challenge ranks, and V_info, its companion from information theory."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from unet_paper.metrics.em_inputs import V_THRESHOLDS, Statistics, check_thresholds, mean_score, slices, sweep


def v_rand(probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None, thinned: bool = True) -> float:
    r"""V_rand: foreground-restricted Rand score after border thinning, mean over slices, max over thresholds.

    .. math:: V^{Rand} = \frac{\sum_{ij} p_{ij}^2}{\frac12 \sum_i s_i^2 + \frac12 \sum_j t_j^2}

    :math:`p_{ij}` is the share of pixels in segment i of the proposal and cell j of the label, among the pixels inside
    cells of the label, and s and t are its margins (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142,
    alpha = 1/2). Segments are the 4-connected components of :math:`p > \theta`, regrown until only 1-px lines part
    them; each line pixel inside a cell is a segment of its own. Pixels are regrown first come, first served, from
    those next to a segment, column by column: this order is part of the score.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
        thinned: regrow the segments; without it, every pixel of the proposal's membrane is a segment of its own.

    Returns:
        The score, 0 to 1, 1 best. A slice whose label has no cell has nothing to join or part, and counts as 1.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary.

    Two cells of two pixels, joined: 8 / (16/2 + 8/2); found, the membrane between them:

    >>> v_rand([[0.9, 0.9, 0.8, 0.9, 0.9]], [[1, 1, 0, 1, 1]], threshold=0.5)
    0.6666666666666666
    >>> v_rand([[0.9, 0.9, 0.8, 0.9, 0.9]], [[1, 1, 0, 1, 1]])
    1.0
    """
    statistics = v_rand_statistics(probability, label, sweep(threshold, V_THRESHOLDS), thinned=thinned)
    return v_rand_from_statistics(statistics)


def v_info(probability: ArrayLike, label: ArrayLike, *, threshold: float | None = None, thinned: bool = True) -> float:
    r"""V_info: mutual information of segments and cells after border thinning, mean over slices, max over thresholds.

    .. math:: V^{Info} = \frac{I(S; T)}{\frac12 H(S) + \frac12 H(T)}

    S and T are the segment and the cell of a pixel, distributed as in :func:`v_rand`.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
        thinned: as in :func:`v_rand`.

    Returns:
        The score, 0 to 1, 1 best. Where both entropies are 0 (one cell, one segment), and where the label of a slice
        has no cell, it is 1.

    Raises:
        ValueError: as in :func:`v_rand`.

    Two cells of two pixels; joined, a segment tells nothing of the cell:

    >>> round(v_info([[0.9, 0.9, 0.8, 0.9, 0.9]], [[1, 1, 0, 1, 1]], threshold=0.5), 9)
    0.0
    >>> round(v_info([[0.9, 0.9, 0.8, 0.9, 0.9]], [[1, 1, 0, 1, 1]]), 9)
    1.0
    """
    statistics = v_info_statistics(probability, label, sweep(threshold, V_THRESHOLDS), thinned=thinned)
    return v_info_from_statistics(statistics)


def v_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> Statistics:
    """Rows [sum of V_rand, sum of V_info, number of slices], one per threshold, from one regrowth for both scores.

    Args:
        probability: as in :func:`v_rand`.
        label: as in :func:`v_rand`.
        thresholds: in [0, 1].
        thinned: as in :func:`v_rand`.

    Returns:
        Array of shape (thresholds, 3); columns (0, 2) are the statistics of V_rand, (1, 2) those of V_info.

    Raises:
        ValueError: as in :func:`v_rand`.
    """
    from unet_paper.metrics.em_kernels import joint_sums, regrow  # compiles: not on import of the package

    checked = check_thresholds(thresholds)
    statistics = np.zeros((len(checked), 3))
    for p, cell in slices(probability, label):
        cells: NDArray[np.int32] = ndimage.label(cell)[0]
        for row, threshold in zip(statistics, checked, strict=True):
            segments: NDArray[np.int32] = ndimage.label(p > threshold)[0]
            row += (*_scores(joint_sums(regrow(segments) if thinned else segments, cells, True)), 1)
    return statistics


def v_rand_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> Statistics:
    """Rows [sum of V_rand over slices, number of slices]; arguments and errors as in :func:`v_statistics`."""
    return v_statistics(probability, label, thresholds, thinned=thinned)[:, (0, 2)]


def v_info_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> Statistics:
    """Rows [sum of V_info over slices, number of slices]; arguments and errors as in :func:`v_statistics`."""
    return v_statistics(probability, label, thresholds, thinned=thinned)[:, (1, 2)]


def v_rand_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """V_rand of all slices of which the statistics, added up or in a list, are given."""
    return mean_score(statistics)


def v_info_from_statistics(statistics: Statistics | Sequence[Statistics]) -> float:
    """V_info of all slices of which the statistics, added up or in a list, are given."""
    return mean_score(statistics)


def _scores(sums: Statistics) -> tuple[float, float]:
    n, squares_st, squares_s, squares_t, logs_st, logs_s, logs_t = sums
    if squares_s == squares_t == n**2:  # one segment and one cell, or no pixel
        return 1.0, 1.0
    entropies = 2 * np.log(n) - (logs_s + logs_t) / n
    information = np.log(n) - (logs_s + logs_t - logs_st) / n
    return squares_st / (squares_s / 2 + squares_t / 2), information / (entropies / 2)
