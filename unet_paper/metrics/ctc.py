r"""Segmentation and detection scores of the Cell Tracking Challenge: SEG, DET and OP_CSB.

Let ``S`` be an object of the reference and ``R`` one of the prediction, both sets of pixels of one label id in one
frame (components do not matter). ``R`` matches ``S`` when it covers more than half of it,

.. math:: |R \cap S| > |S| / 2,

so an ``S`` has one match at most, while one ``R`` may match several ``S``.

Unknown pixels, -1 in a reference, belong to no object. For SEG they are background, as the challenge knows no other
kind of pixel there: a prediction that spills into them pays for it in the union. For DET a prediction without a match
that reaches into them is not counted as false, because nobody can tell.

Field of interest: the challenge annotates only objects with a pixel at least ``E`` pixels away from every border of the
image, and annotates those as a whole; participants erase the others from what they submit. With
``field_of_interest=E`` objects that have no pixel inside are therefore dropped, in the reference and in the prediction,
and no object is ever cut. ``E`` is 50 for DIC-C2DH-HeLa and PhC-C2DH-U373, and 0, everything counts, by default.

A reference without a single object has nothing to be found: SEG and DET are then 0.0.

References: M. Maska et al., Bioinformatics 30(11), 2014, doi:10.1093/bioinformatics/btu080 (SEG); P. Matula et al.,
PLoS ONE 10(12), 2015, doi:10.1371/journal.pone.0144959 (AOGM, with its weights); V. Ulman et al., Nature Methods
14(12), 2017, doi:10.1038/nmeth.4473 (DET, OP_CSB, field of interest).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.arguments import is_number, is_whole

__all__ = [
    "DetectionErrors",
    "ObjectScore",
    "check_label_image",
    "ctc_det",
    "ctc_det_errors",
    "ctc_seg",
    "ctc_seg_objects",
    "label_image_pairs",
    "op_csb",
    "touching_objects",
]

LabelImage = NDArray[np.integer[Any]]
LabelImages = LabelImage | Sequence[LabelImage]

# a pair of ids still fits into one int64
_LARGEST_ID = 2**31 - 1


class ObjectScore(NamedTuple):
    """How well one object of the reference was segmented.

    Attributes:
        frame: position of the frame in the sequence, from 0.
        reference_id: label id of the object.
        area: its size in px.
        prediction_id: label id of the prediction that matches it, or None.
        jaccard: intersection over union with the match; 0.0 without one.
    """

    frame: int
    reference_id: int
    area: int
    prediction_id: int | None
    jaccard: float


class DetectionErrors(NamedTuple):
    """What has to be repaired to turn the predicted objects into those of the reference (AOGM-D).

    Attributes:
        objects: objects of the reference.
        splits: separations needed; a prediction that matches k objects needs k - 1.
        false_negatives: objects without a match.
        false_positives: predictions without a match.
    """

    objects: int
    splits: int
    false_negatives: int
    false_positives: int

    def det(self, *, split_weight: float = 5.0, negative_weight: float = 10.0, positive_weight: float = 1.0) -> float:
        """DET = 1 - min(AOGM-D, AOGM-D0) / AOGM-D0, where AOGM-D0 is the cost of adding every object by hand.

        Args:
            split_weight: cost of one split.
            negative_weight: cost of adding one missed object.
            positive_weight: cost of deleting one false object.

        Returns:
            The score in [0, 1]; 0.0 if the reference has no object.
        """
        aogm_d0 = negative_weight * self.objects
        if aogm_d0 == 0:
            return 0.0
        aogm_d = (
            split_weight * self.splits + negative_weight * self.false_negatives + positive_weight * self.false_positives
        )
        return 1.0 - min(aogm_d, aogm_d0) / aogm_d0


class _Frame(NamedTuple):
    """Objects of one frame, sorted by id, and the match of every object of the reference."""

    reference_ids: NDArray[np.int64]
    reference_areas: NDArray[np.int64]
    prediction_ids: NDArray[np.int64]
    prediction_unknown: NDArray[np.bool_]  # reaches into unknown pixels
    match: NDArray[np.int64]  # for every reference object the index of its prediction, or -1
    jaccard: NDArray[np.float64]


def ctc_seg(predictions: LabelImages, references: LabelImages, *, field_of_interest: int = 0) -> float:
    """SEG: the mean over all objects of the reference of the Jaccard index with their match, 0 without one.

    False positives cost nothing. The mean is taken over the objects of all frames together, not frame by frame.

    Args:
        predictions: label images (H, W) of integers, 0 is background; a sequence of them or a single one.
        references: as many label images of the same shapes; -1 is unknown.
        field_of_interest: width ``E`` in px of the band along the border; objects wholly inside the band are ignored.

    Returns:
        The score in [0, 1], higher is better; 0.0 if the references have no object.

    Raises:
        ValueError: if there is no frame, if numbers of frames or shapes differ, if an image does not hold whole
            numbers or has ids that are not allowed, or if the band leaves nothing of a frame.

    Example:
        >>> reference = [[1, 1, 0, 2], [1, 1, 0, 2]]
        >>> prediction = [[5, 5, 0, 0], [5, 0, 0, 7]]
        >>> ctc_seg(np.array(prediction), np.array(reference))  # 3/4 and, at exactly one half, no match
        0.375
    """
    objects = ctc_seg_objects(predictions, references, field_of_interest=field_of_interest)
    return math.fsum(score.jaccard for score in objects) / len(objects) if objects else 0.0


def ctc_seg_objects(
    predictions: LabelImages, references: LabelImages, *, field_of_interest: int = 0
) -> list[ObjectScore]:
    """The terms of the mean that is SEG: one entry for every object of the reference, by frame and label id.

    Args, Raises: as for :func:`ctc_seg`.

    Example:
        >>> ctc_seg_objects(np.array([[5, 5, 5, 0]]), np.array([[3, 3, 0, 4]]))
        [ObjectScore(frame=0, reference_id=3, area=2, prediction_id=5, jaccard=0.666...),
         ObjectScore(frame=0, reference_id=4, area=1, prediction_id=None, jaccard=0.0)]
    """
    scores = []
    for number, (prediction, reference) in enumerate(label_image_pairs(predictions, references)):
        frame = _match(prediction, reference, field_of_interest)
        for index, match in enumerate(frame.match.tolist()):
            scores.append(
                ObjectScore(
                    number,
                    int(frame.reference_ids[index]),
                    int(frame.reference_areas[index]),
                    int(frame.prediction_ids[match]) if match >= 0 else None,
                    float(frame.jaccard[index]),
                )
            )
    return scores


def ctc_det(predictions: LabelImages, references: LabelImages, *, field_of_interest: int = 0) -> float:
    """DET = 1 - min(AOGM-D, AOGM-D0) / AOGM-D0 with the weights split 5, false negative 10, false positive 1.

    AOGM-D is the weighted number of repairs that turn the predicted objects into those of the reference, AOGM-D0 the
    same for a prediction without objects.

    The challenge takes the markers of the tracking annotation (``TRA``) as reference: every cell of every frame has
    one, whatever its shape.

    Args:
        predictions: label images (H, W) of integers, 0 is background; a sequence of them or a single one.
        references: as many images of markers of the same shapes.
        field_of_interest: width ``E`` in px of the band along the border; objects wholly inside the band are ignored.

    Returns:
        The score in [0, 1], higher is better; 0.0 if the references have no object.

    Raises:
        ValueError: as for :func:`ctc_seg`.

    Example:
        >>> markers = np.array([[1, 0, 2, 0, 3]])
        >>> ctc_det(np.array([[7, 7, 7, 0, 0]]), markers)  # one to split, one missed: 1 - (5 + 10) / 30
        0.5
    """
    return ctc_det_errors(predictions, references, field_of_interest=field_of_interest).det()


def ctc_det_errors(predictions: LabelImages, references: LabelImages, *, field_of_interest: int = 0) -> DetectionErrors:
    """The errors that DET weighs, summed over all frames.

    Args, Raises: as for :func:`ctc_det`.

    Example:
        >>> ctc_det_errors(np.array([[7, 7, 7, 0, 0]]), np.array([[1, 0, 2, 0, 3]]))
        DetectionErrors(objects=3, splits=1, false_negatives=1, false_positives=0)
    """
    objects = splits = false_negatives = false_positives = 0
    for prediction, reference in label_image_pairs(predictions, references):
        frame = _match(prediction, reference, field_of_interest)
        matched = frame.match[frame.match >= 0]
        matches = np.bincount(matched, minlength=len(frame.prediction_ids))
        objects += len(frame.match)
        splits += int(np.maximum(matches - 1, 0).sum())
        false_negatives += len(frame.match) - len(matched)
        false_positives += int(((matches == 0) & ~frame.prediction_unknown).sum())
    return DetectionErrors(objects, splits, false_negatives, false_positives)


def touching_objects(reference: LabelImage) -> NDArray[np.int64]:
    """Ids of the objects that touch another one: a pixel of one is beside (4 neighbours) a pixel of the other.

    Cells that touch are what segmentation fails on first, so their score is worth to be told apart from that of others.

    Args:
        reference: label image (H, W); 0 is background, -1 unknown.

    Returns:
        The ids, in order.

    Example:
        >>> touching_objects(np.array([[1, 1, 2, 0, 3], [0, 0, 0, 4, 0]]))
        array([1, 2])
    """
    found = []
    for one, other in ((reference[1:], reference[:-1]), (reference[:, 1:], reference[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        found += [one[meet], other[meet]]
    return np.unique(np.concatenate(found)).astype(np.int64)


def op_csb(seg: float, det: float) -> float:
    """OP_CSB = (SEG + DET) / 2, the score that ranks the challenge's segmentation benchmark.

    Args:
        seg: SEG in [0, 1].
        det: DET in [0, 1].

    Raises:
        ValueError: if a score is not in [0, 1].

    Example:
        >>> op_csb(0.75, 1.0)
        0.875
    """
    for name, score in (("seg", seg), ("det", det)):
        if not (is_number(score) and 0.0 <= score <= 1.0):
            raise ValueError(f"{name}={score!r}: a score lies in [0, 1]; take it from ctc_{name}")
    return (seg + det) / 2


def label_image_pairs(
    predictions: LabelImages, references: LabelImages, *, lowest: int = -1, masks: bool = False
) -> list[tuple[LabelImage, LabelImage]]:
    """Pair predicted with reference label images, having made sure that they can be compared.

    Args:
        predictions: label images (H, W) of integers, 0 is background; a sequence of them or a single one.
        references: as many label images of the same shapes; -1 is unknown.
        lowest: smallest value allowed in a reference.
        masks: masks (bool) may have several pieces: for what does not tell cells apart.

    Returns:
        One (prediction, reference) for every frame.

    Raises:
        ValueError: as for :func:`ctc_seg`.
    """
    predicted = _frames("predictions", predictions, lowest=0, masks=masks)
    annotated = _frames("references", references, lowest=lowest, masks=masks)
    if len(predicted) != len(annotated):
        raise ValueError(
            f"len(predictions)={len(predicted)}, len(references)={len(annotated)}: give every frame's prediction its "
            "reference, in the same order"
        )
    for number, (prediction, reference) in enumerate(zip(predicted, annotated, strict=True)):
        if prediction.shape != reference.shape:
            raise ValueError(
                f"predictions[{number}].shape={prediction.shape}: the reference is {reference.shape}; predict at the "
                "size of the image"
            )
    return list(zip(predicted, annotated, strict=True))


def _frames(name: str, images: LabelImages, *, lowest: int, masks: bool) -> list[LabelImage]:
    if not isinstance(images, np.ndarray | Sequence) or isinstance(images, str):
        raise ValueError(f"{name}={images!r}: label images (H, W) are needed, a sequence of them or a single one")
    if isinstance(images, np.ndarray) and images.ndim == 2:
        images = [images]
    frames = [np.asarray(image) for image in images]
    if not frames:
        raise ValueError(f"{name}={images!r}: a score needs at least one frame")
    return [
        check_label_image(f"{name}[{number}]", frame, lowest=lowest, masks=masks) for number, frame in enumerate(frames)
    ]


def check_label_image(name: str, image: NDArray[Any], *, lowest: int, masks: bool = False) -> LabelImage:
    """Make sure that an array is a label image.

    Args:
        name: what to call it in an error.
        image: the array; a mask (bool) becomes one object.
        masks: a mask may have several pieces.
        lowest: smallest id allowed, 0 or, where pixels may be unknown, -1.

    Returns:
        The label image (H, W).

    Raises:
        ValueError: if it is not (H, W), is empty, does not hold integers, has other ids than allowed, or is a mask in
            several pieces, all of which would be one cell.
    """
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"{name}.shape={image.shape}: a label image is (H, W) and not empty; drop the channel axis")
    if np.issubdtype(image.dtype, np.bool_):
        pieces = 1 if masks else ndimage.label(image, np.ones((3, 3)))[1]
        if pieces > 1:
            raise ValueError(
                f"{name}.dtype={image.dtype}: a mask in {pieces} pieces tells no cell from another; number them, "
                "skimage.measure.label(mask), or say that they are one cell, mask.astype(numpy.int32)"
            )
        return image.astype(np.uint8)
    if not np.issubdtype(image.dtype, np.integer):
        nan = np.issubdtype(image.dtype, np.floating) and bool(np.isnan(image).any())
        remedy = "find out where the NaN in it come from" if nan else "cast it, for instance .astype(numpy.int32)"
        raise ValueError(f"{name}.dtype={image.dtype}: label ids are integers; {remedy}")
    smallest, largest = int(image.min()), int(image.max())
    if smallest < lowest:
        allowed = "-1 for unknown, 0 for background and" if lowest < 0 else "0 for background and"
        raise ValueError(f"{name}.min()={smallest}: allowed are {allowed} positive ids; relabel it")
    if largest > _LARGEST_ID:
        raise ValueError(f"{name}.max()={largest}: the largest id allowed is {_LARGEST_ID}; relabel it")
    return image.astype(np.int64) if image.dtype == np.uint64 else image


def _match(prediction: LabelImage, reference: LabelImage, field_of_interest: int) -> _Frame:
    # every count below comes from this one pass over the pixels
    reference_id, prediction_id, pixels = joint_histogram(prediction, reference)
    reference_ids, reference_index = np.unique(reference_id, return_inverse=True)
    prediction_ids, prediction_index = np.unique(prediction_id, return_inverse=True)
    reference_areas = sums(pixels, reference_index, len(reference_ids))
    prediction_areas = sums(pixels, prediction_index, len(prediction_ids))
    unknown = np.isin(prediction_ids, prediction_id[reference_id < 0])

    reference_kept, prediction_kept = reference_ids > 0, prediction_ids > 0
    if field_of_interest:
        inner_reference_id, inner_prediction_id, _ = joint_histogram(
            _field(prediction, field_of_interest), _field(reference, field_of_interest)
        )
        reference_kept &= np.isin(reference_ids, inner_reference_id)
        prediction_kept &= np.isin(prediction_ids, inner_prediction_id)

    # in integers, so that exactly one half is no match
    matched = 2 * pixels > reference_areas[reference_index]
    matched &= reference_kept[reference_index] & prediction_kept[prediction_index]
    union = reference_areas[reference_index] + prediction_areas[prediction_index] - pixels
    rank_of_prediction = np.cumsum(prediction_kept) - 1
    match = np.full(len(reference_ids), -1, dtype=np.int64)
    match[reference_index[matched]] = rank_of_prediction[prediction_index[matched]]
    jaccard = np.zeros(len(reference_ids))
    jaccard[reference_index[matched]] = pixels[matched] / union[matched]
    return _Frame(
        reference_ids[reference_kept],
        reference_areas[reference_kept],
        prediction_ids[prediction_kept],
        unknown[prediction_kept],
        match[reference_kept],
        jaccard[reference_kept],
    )


def joint_histogram(
    prediction: LabelImage, reference: LabelImage
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Reference id, prediction id and number of pixels of every pair of ids that occurs; none is below -1."""
    columns = int(prediction.max()) + 1
    bins = (int(reference.max()) + 2) * columns
    # (reference + 1) * columns + prediction, without a copy of the image for each step
    pair = np.multiply(reference, columns, dtype=np.int64).ravel()
    pair += columns
    pair += prediction.ravel()
    if bins <= 4 * pair.size:
        counts = np.bincount(pair)
        pairs = np.flatnonzero(counts)
        pixels = counts[pairs]
    else:
        pairs, pixels = np.unique(pair, return_counts=True)
    return pairs // columns - 1, pairs % columns, pixels


def sums(values: NDArray[np.int64], index: NDArray[np.intp], length: int) -> NDArray[np.int64]:
    """Sum of the values of each index, in whole numbers."""
    sums = np.zeros(length, dtype=np.int64)
    np.add.at(sums, index, values)
    return sums


def _field(image: LabelImage, field_of_interest: int) -> LabelImage:
    height, width = image.shape
    if not (is_whole(field_of_interest) and 0 <= field_of_interest < min(height, width) / 2):
        raise ValueError(
            f"field_of_interest={field_of_interest!r}: the width of a band that leaves something of an image of "
            f"{image.shape}; it is 0 to {(min(height, width) - 1) // 2} px"
        )
    return image[field_of_interest : height - field_of_interest, field_of_interest : width - field_of_interest]
