"""V_rand, by which the ISBI 2012 challenge ranks, and V_info, its companion from information theory."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from unet_paper.metrics.em_inputs import V_THRESHOLDS, Statistics, add_up, check_thresholds, proposal, slices, sweep

Average = Literal["macro", "micro"]


def v_rand(
    probability: ArrayLike,
    label: ArrayLike,
    *,
    threshold: float | None = None,
    thinned: bool = True,
    average: Average = "macro",
    undefined: float = 0.0,
) -> float:
    r"""V_rand: foreground-restricted Rand score after border thinning, mean over slices, max over thresholds.

    .. math:: V^{Rand} = \frac{\sum_{ij} p_{ij}^2}{\frac12 \sum_i s_i^2 + \frac12 \sum_j t_j^2}

    :math:`p_{ij}` is the share of pixels in segment i of the proposal and cell j of the label, among the pixels inside
    cells of the label, and s and t are its margins (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142,
    alpha = 1/2). Segments are the 4-connected components of :math:`p > \theta`, regrown until only 1-px lines part
    them; each line pixel inside a cell is a segment of its own. Pixels are regrown first come, first served, from
    those next to a segment, column by column: this order is part of the score. A proposal without any cell is regrown
    to one segment.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
        thinned: regrow the segments; without it, every pixel of the proposal's membrane is a segment of its own.
        average: "macro", the mean over slices, or "micro": pixels in place of shares, each of the three sums over all
            slices.
        undefined: score of a label without a cell, 0 / 0: the challenge counts such a slice as 0. In "micro" one such
            slice makes the score of the whole stack so.

    Returns:
        The score, 0 to 1, 1 best.

    Raises:
        ValueError: shapes that differ, an empty stack, values outside [0, 1], NaN, a label that is not binary; another
            average than the two.

    Two cells of two pixels, joined: 8 / (16/2 + 8/2); found, the membrane between them:

    >>> v_rand([[1, 1, 0.8, 1, 1]], [[1, 1, 0, 1, 1]], threshold=0.5)
    0.6666666666666666
    >>> v_rand([[1, 1, 0.8, 1, 1]], [[1, 1, 0, 1, 1]])
    1.0
    """
    statistics = v_rand_statistics(probability, label, sweep(threshold, V_THRESHOLDS), thinned=thinned)
    return v_rand_from_statistics(statistics, average=average, undefined=undefined)


def v_info(
    probability: ArrayLike,
    label: ArrayLike,
    *,
    threshold: float | None = None,
    thinned: bool = True,
    undefined: float = 0.0,
) -> float:
    r"""V_info: mutual information of segments and cells after border thinning, mean over slices, max over thresholds.

    .. math:: V^{Info} = \frac{I(S; T)}{\frac12 H(S) + \frac12 H(T)}

    S and T are the segment and the cell of a pixel, distributed as in :func:`v_rand`.

    Args:
        probability: probability of cell interior in [0, 1], shape (H, W) or (Z, H, W).
        label: 1 or 255 cell interior, 0 membrane; same shape.
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
        thinned: as in :func:`v_rand`.
        undefined: score of a slice where both entropies are 0, a label without a cell or a single cell found
            perfectly, 0 / 0: by the challenge's arithmetic 0, which for the single cell one would rather call 1.

    Returns:
        The score, 0 to 1, 1 best. Where one of the entropies is 0, it is 0: one segment tells nothing of several
        cells, and of one cell there is nothing to tell.

    Raises:
        ValueError: as in :func:`v_rand`.

    Two cells of two pixels; joined, a segment tells nothing of the cell:

    >>> v_info([[1, 1, 0.8, 1, 1]], [[1, 1, 0, 1, 1]], threshold=0.5)
    0.0
    >>> round(v_info([[1, 1, 0.8, 1, 1]], [[1, 1, 0, 1, 1]]), 9)
    1.0
    """
    statistics = v_info_statistics(probability, label, sweep(threshold, V_THRESHOLDS), thinned=thinned)
    return v_info_from_statistics(statistics, undefined=undefined)


def v_rand_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> Statistics:
    """Rows [sum of V_rand, slices, slices without a cell, n_ij^2, n_i^2, n_j^2], one per threshold.

    The last three are sums of squared numbers of pixels. All add up over slices and batches.

    Args:
        probability: as in :func:`v_rand`.
        label: as in :func:`v_rand`.
        thresholds: in [0, 1].
        thinned: as in :func:`v_rand`.

    Returns:
        Array of shape (thresholds, 6).

    Raises:
        ValueError: as in :func:`v_rand`.
    """
    return v_statistics(probability, label, thresholds, thinned=thinned)[0]


def v_info_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> Statistics:
    """Rows [sum of V_info, slices, slices where both entropies are 0], one per threshold.

    Args, Raises: as for :func:`v_rand_statistics`.

    Returns:
        Array of shape (thresholds, 3).
    """
    return v_statistics(probability, label, thresholds, thinned=thinned)[1]


def v_statistics(
    probability: ArrayLike, label: ArrayLike, thresholds: Sequence[float] = V_THRESHOLDS, *, thinned: bool = True
) -> tuple[Statistics, Statistics]:
    """The statistics of V_rand and those of V_info, from one regrowth for both; see :func:`v_rand_statistics`."""
    from unet_paper.metrics.em_kernels import components, joint_sums, regrow  # compiles: not on import of the package

    checked = check_thresholds(thresholds)
    of_rand, of_info = np.zeros((len(checked), 6)), np.zeros((len(checked), 3))
    for p, cell in slices(probability, label):
        cells = components(cell)
        for row, threshold in enumerate(checked):
            segments = components(proposal(p, threshold))
            sums = joint_sums(regrow(segments) if thinned else segments, cells, True)
            of_rand[row] += _v_rand_row(sums)
            of_info[row] += _v_info_row(sums)
    return of_rand, of_info


def v_rand_from_statistics(
    statistics: Statistics | Sequence[Statistics], *, average: Average = "macro", undefined: float = 0.0
) -> float:
    """V_rand of all slices of which the statistics, added up or in a list, are given.

    Raises:
        ValueError: another average than the two.
    """
    total = add_up(statistics)
    if average == "macro":
        return _best_mean(total, undefined)
    if average != "micro":
        raise ValueError(f"average={average!r}: must be one of macro, micro")
    _, _, without_cell, squares_st, squares_s, squares_t = total.T
    if without_cell.any():
        return undefined
    return float((squares_st / (squares_s / 2 + squares_t / 2)).max())


def v_info_from_statistics(statistics: Statistics | Sequence[Statistics], *, undefined: float = 0.0) -> float:
    """V_info of all slices of which the statistics, added up or in a list, are given."""
    return _best_mean(add_up(statistics), undefined)


def _best_mean(total: Statistics, undefined: float) -> float:
    """Best over the thresholds of the mean over slices, from rows [sum of the score, slices, undefined ones, ...]."""
    return float(((total[:, 0] + undefined * total[:, 2]) / total[:, 1]).max())


def _v_rand_row(sums: Statistics) -> tuple[float, ...]:
    n, squares_st, squares_s, squares_t = sums[:4]
    if n == 0:
        return 0.0, 1, 1, 0.0, 0.0, 0.0
    return squares_st / (squares_s / 2 + squares_t / 2), 1, 0, squares_st, squares_s, squares_t


def _v_info_row(sums: Statistics) -> tuple[float, ...]:
    n, _, squares_s, squares_t, logs_st, logs_s, logs_t = sums
    certain = [squares == n**2 for squares in (squares_s, squares_t)]  # an entropy of 0
    if any(certain):
        return 0.0, 1, float(all(certain))
    entropies = 2 * np.log(n) - (logs_s + logs_t) / n
    information = np.log(n) - (logs_s + logs_t - logs_st) / n
    return information / (entropies / 2), 1, 0
