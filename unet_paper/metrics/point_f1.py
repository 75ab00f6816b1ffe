r"""F1 of cells found where annotations are points: which of them were found, each by a cell of its own.

A point has no outline, so that no overlap can be measured: what is scored is detection alone. A predicted cell holds an
annotated one if it covers more than half of what is known of it, the disc around its point, as the Cell Tracking
Challenge takes a marker for found (Matula et al. 2015, doi:10.1371/journal.pone.0144959).
"""

import numpy as np
from numpy.typing import NDArray

from unet_paper.metrics.ctc import LabelImages, joint_histogram, label_image_pairs, sums

__all__ = ["point_f1", "point_f1_counts"]


def point_f1(predictions: LabelImages, references: LabelImages) -> float:
    r"""F1 of predicted cells that hold one annotated cell and no other.

    .. math:: \mathrm{F1} = \frac{2\,TP}{P + G}

    TP are the predicted cells that hold exactly one annotated cell, P all predicted ones, G all annotated ones: a cell
    that holds none is one too many, one that holds two has joined them, and both of these are missed. Every cell has
    its point, so that cells in the open (-2 in the reference) count; a predicted cell of which more than half is
    unknown (-1) does not.

    Args:
        predictions: label images (H, W), 0 is background; a sequence of them or a single one.
        references: as many images of the same shapes; -1 is unknown, -2 left open between points.

    Returns:
        The score of all frames together, in [0, 1], higher is better; NaN if there is no cell anywhere.

    Raises:
        ValueError: no image, images that are no label images, of other shapes, or of another number.

    Example:
        >>> point_f1(np.array([[1, 1, 0, 3, 3, 3]]), np.array([[-2, 5, 0, 6, -2, 7]]))
        0.4
    """
    matched, found, annotated = point_f1_counts(predictions, references)
    return 2 * matched / (found + annotated) if found + annotated else float("nan")


def point_f1_counts(predictions: LabelImages, references: LabelImages) -> tuple[int, int, int]:
    """Numbers of matches, of predicted and of annotated cells of :func:`point_f1`, summed over all frames.

    Args, Raises: as for :func:`point_f1`.
    """
    counts = [
        _frame(prediction.astype(np.int64), reference.astype(np.int64))
        for prediction, reference in label_image_pairs(predictions, references, lowest=-2)
    ]
    matched, found, annotated = (sum(column) for column in zip(*counts, strict=True))
    return matched, found, annotated


def holds_one(
    prediction: NDArray[np.int64], reference: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Predicted cells that count, those of them that hold one annotated cell and no other, and the cells these hold.

    Args:
        prediction, reference: label images of one frame, see :func:`point_f1`.
    """
    # what a point's cell may reach is no cell, and not unknown
    cell, found, pixels = joint_histogram(prediction, np.where(reference < -1, 0, reference))
    ids, first = np.unique(found, return_inverse=True)
    cells, second = np.unique(cell, return_inverse=True)
    unknown = sums(pixels * (cell < 0), first, len(ids))
    held = (2 * pixels > sums(pixels, second, len(cells))[second]) & (cell > 0) & (found > 0)
    holders, many = np.unique(found[held], return_counts=True)
    counted = ids[(2 * unknown <= sums(pixels, first, len(ids))) & (ids > 0)]
    single = np.intersect1d(holders[many == 1], counted)
    return counted, single, cell[held & np.isin(found, single)]


def _frame(prediction: NDArray[np.int64], reference: NDArray[np.int64]) -> tuple[int, int, int]:
    counted, single, _ = holds_one(prediction, reference)
    return len(single), len(counted), len(np.unique(reference[reference > 0]))
