r"""Panoptic quality of cells found: how many were found, how many of those found are cells, and how well they overlap.

F1 (:mod:`unet_paper.metrics.f1`) of a few dozen cells takes few values: networks, thresholds and outlines of very
different worth share one. This score is F1 times the mean overlap of the cells that match, so that it tells them apart
(Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963, Eq. 1 and 2, for one class; for nuclei Graham et al. 2019,
doi:10.1016/j.media.2019.101563).
"""

from unet_paper.metrics.ctc import LabelImages, label_image_pairs
from unet_paper.metrics.f1 import matched_overlaps

__all__ = ["panoptic_counts", "panoptic_quality"]


def panoptic_quality(predictions: LabelImages, references: LabelImages) -> float:
    r"""Panoptic quality of predicted cells, matched one to one to annotated ones.

    .. math:: \mathrm{PQ} = \frac{\sum_{TP} |P \cap G| / |P \cup G|}{TP + FP/2 + FN/2}

    TP, FP and FN are those of :func:`unet_paper.metrics.f1.f1` at 0.5.

    Args:
        predictions: label images (H, W), 0 is background; a sequence of them or a single one.
        references: as many images of the same shapes; -1 is unknown.

    Returns:
        The score of all frames together, in [0, 1], higher is better; NaN if there is no cell anywhere.

    Raises:
        ValueError: as for :func:`unet_paper.metrics.iou.iou`.

    Example:
        >>> import numpy as np
        >>> panoptic_quality(np.array([[1, 1, 1, 0, 3]]), np.array([[2, 2, 0, 0, 0]]))
        0.444...
    """
    overlap, found, annotated = panoptic_counts(predictions, references)
    return 2 * overlap / (found + annotated) if found + annotated else float("nan")


def panoptic_counts(predictions: LabelImages, references: LabelImages) -> tuple[float, int, int]:
    """Sum of the overlaps of the matches, predicted and annotated cells of :func:`panoptic_quality`, of all frames.

    Args, Raises: as for :func:`panoptic_quality`.
    """
    overlap, found, annotated = 0.0, 0, 0
    for prediction, reference in label_image_pairs(predictions, references):
        overlaps, *counts = matched_overlaps(prediction, reference)
        overlap, found, annotated = overlap + float(overlaps.sum()), found + counts[0], annotated + counts[1]
    return overlap, found, annotated
