r"""F1 of cells found: which of them were found, and how many of those found are cells.

What counts cells needs: SEG (:mod:`unet_paper.metrics.ctc`) is a mean over annotated cells and does not notice a
thousand specks beside them; here each is an error. The score is that of the 2018 Data Science Bowl at its first
threshold (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7) and of StarDist's and Cellpose's tables.
"""

import numpy as np
from numpy.typing import NDArray

from unet_paper.arguments import is_number
from unet_paper.metrics.ctc import LabelImage, LabelImages, joint_histogram, label_image_pairs, sums

__all__ = ["f1", "f1_counts", "matched_overlaps"]


def f1(predictions: LabelImages, references: LabelImages, *, threshold: float = 0.5) -> float:
    r"""F1 of predicted cells, matched one to one to annotated ones.

    .. math:: \mathrm{F1} = \frac{2\,TP}{2\,TP + FP + FN}

    A predicted cell P and an annotated one G are a match (TP) if |P n G| / |P u G| > ``threshold``. From 0.5 upwards a
    cell has at most one partner, so that nothing is to be chosen. FP are the predicted cells without one, FN the
    annotated ones. Unknown pixels (-1 in the reference) belong to no cell; a predicted cell of which more than half is
    unknown does not count.

    Args:
        predictions: label images (H, W), 0 is background; a sequence of them or a single one.
        references: as many images of the same shapes; -1 is unknown.
        threshold: of the intersection over union, 0.5 to 1.

    Returns:
        The score of all frames together, in [0, 1], higher is better; NaN if there is no cell anywhere.

    Raises:
        ValueError: a threshold below 0.5; otherwise as for :func:`unet_paper.metrics.iou.iou`.

    Example:
        >>> f1(np.array([[1, 1, 0, 3]]), np.array([[2, 2, 0, 0]]))
        0.666...
    """
    matched, found, annotated = f1_counts(predictions, references, threshold=threshold)
    return 2 * matched / (found + annotated) if found + annotated else float("nan")


def f1_counts(predictions: LabelImages, references: LabelImages, *, threshold: float = 0.5) -> tuple[int, int, int]:
    """Numbers of matches, of predicted and of annotated cells of :func:`f1`, summed over all frames.

    Args, Raises: as for :func:`f1`.
    """
    if not (is_number(threshold) and 0.5 <= threshold <= 1):
        raise ValueError(f"threshold={threshold!r}: 0.5 to 1; below, a cell could have two partners")
    matched = found = annotated = 0
    for prediction, reference in label_image_pairs(predictions, references):
        overlaps, *counts = matched_overlaps(prediction, reference)
        matched, found, annotated = (
            matched + int((overlaps > threshold).sum()),
            found + counts[0],
            annotated + counts[1],
        )
    return matched, found, annotated


def matched_overlaps(prediction: LabelImage, reference: LabelImage) -> tuple[NDArray[np.float64], int, int]:
    """Intersection over union of each match of one frame (matches,), above 0.5, and how many cells both images have.

    Args:
        prediction: label image (H, W), 0 is background.
        reference: label image (H, W); -1 is unknown, and a predicted cell of which more than half is does not count.
    """
    cell, found, pixels = joint_histogram(prediction, reference)
    ids, first = np.unique(found, return_inverse=True)
    cells, second = np.unique(cell, return_inverse=True)
    inside = sums(pixels * (cell >= 0), first, len(ids))
    counts = (2 * inside >= sums(pixels, first, len(ids))) & (ids > 0)
    areas = sums(pixels, second, len(cells))
    both = counts[first] & (cell > 0)
    overlaps = pixels[both] / (inside[first] + areas[second] - pixels)[both]
    return overlaps[overlaps > 0.5], int(counts.sum()), int((cells > 0).sum())
