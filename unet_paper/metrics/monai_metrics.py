"""The scores of both challenges as MONAI metrics, for validation while training and for evaluation.

Each class can stand in a config inside ``monai.handlers.IgniteMetricHandler``::

    key_val_metric:
      ctc_seg:
        _target_: IgniteMetricHandler
        metric_fn: {_target_: unet_paper.metrics.monai_metrics.CTCSeg, field_of_interest: 50}
        output_transform: "$monai.handlers.from_engine(['cells', 'instances'])"

The ISBI scores take the probabilities (``pred``) in the place of ``cells``; with one of the three errors as key metric,
lower is better and the evaluator needs ``metric_cmp_fn: {_target_: operator.lt, _mode_: callable}``.

What a metric keeps of an image is one row of counts or sums, never the score itself. ``aggregate`` merges the rows of
all batches and all processes and computes the score from them once, so that it equals the score of one call of the
function on all images: SEG is a mean over objects, and the ISBI scores pool all slices before they choose a
threshold. Each image must therefore go to one process only, as with ``DistributedSampler(even_divisible=False)``; a
process may well have none. ``get_buffer``, which ``IgniteMetricHandler`` keeps as the metric's details, holds the score
of every single image.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import ignite.distributed as idist
import numpy as np
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unet_paper.classes import cell_probability, check_num_classes, class_of
from unet_paper.metrics.ctc import (
    DetectionErrors,
    LabelImage,
    check_label_image,
    ctc_det_errors,
    ctc_seg_objects,
    op_csb,
    touching_objects,
)
from unet_paper.metrics.em_inputs import THRESHOLDS, V_THRESHOLDS, Statistics, sweep
from unet_paper.metrics.f1 import f1_counts
from unet_paper.metrics.iou import iou_counts
from unet_paper.metrics.panoptic_quality import panoptic_counts
from unet_paper.metrics.pixel_error import pixel_error_from_statistics, pixel_error_statistics
from unet_paper.metrics.point_f1 import point_f1_counts
from unet_paper.metrics.rand_error import rand_error_from_statistics, rand_error_statistics
from unet_paper.metrics.v_rand import (
    v_info_from_statistics,
    v_info_statistics,
    v_rand_from_statistics,
    v_rand_statistics,
)
from unet_paper.metrics.warping_error import warping_error_from_statistics, warping_error_statistics

__all__ = [
    "F1",
    "PQ",
    "CTCDet",
    "CTCSeg",
    "ISBIMetric",
    "ImageRowsMetric",
    "IoU",
    "OfClasses",
    "PixelError",
    "PointF1",
    "RandError",
    "VInfo",
    "VRand",
    "WarpingError",
    "by_class",
    "op_csb_if_defined",
    "pairs_by_class",
]

Images = Tensor | Sequence[Tensor]


class ImageRowsMetric(CumulativeIterationMetric):
    """A score that is computed from one row of statistics per image; subclasses say which row and which score.

    Calling it with the predictions and references of a batch, (B, C, H, W) tensors or lists of (C, H, W), adds their
    rows and returns them, float64 on the CPU wherever the images are.
    """

    channels: ClassVar[int]
    """Channels of a prediction; a reference has one."""
    lower_is_better: ClassVar[bool] = False
    """Whether the score is an error."""

    def takes(self, channels: int) -> bool:
        """Whether a prediction may have so many channels."""
        return channels == self.channels

    # of monai.metrics.Cumulative, which has no types
    _buffers: list[list[Tensor]] | None
    _synced_tensors: list[Tensor] | None
    _synced: bool

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Shape of the statistics of one image."""

    @abstractmethod
    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Statistics of one image, from a prediction (C, H, W) and a reference (H, W)."""

    @abstractmethod
    def score(self, rows: Statistics) -> float:
        """The score of the images with the given rows, shape (N, ...); NaN if they hold nothing to be scored."""

    def aggregate(self) -> Tensor:
        """The score of all images since the last reset, on all processes: a float64 tensor without dimensions.

        It is NaN if no image has anything to be scored, as SEG and DET of images without an object: the score is not
        defined, and no network is better than another.

        Raises:
            ValueError: if there was no image at all.
        """
        rows = self._rows()
        if not len(rows):
            raise ValueError(f"{type(self).__name__} was given no image: call it on a batch before aggregate()")
        return rows.new_tensor(self.score(rows.numpy()))

    def per_image(self) -> Tensor:
        """The score of every image alone, shape (N,), float64: process by process, in the order of the calls.

        It is NaN for an image that has nothing to be scored.
        """
        rows = self._rows()
        return rows.new_tensor([self.score(row[None]) for row in rows.numpy()])

    def get_buffer(self) -> Tensor:
        """The score of every image, shape (N, 1), as MONAI's ``MetricsSaver`` writes it, one line per image."""
        return self.per_image()[:, None]

    def _rows(self) -> Tensor:
        rows = super().get_buffer()
        return torch.zeros((0, *self.row_shape), dtype=torch.float64) if rows is None else rows

    def _sync(self) -> None:
        if self._buffers is None and not self._synced and idist.get_world_size() > 1:
            # the other processes wait for this one even if it had no image
            nothing = torch.zeros((0, *self.row_shape), dtype=torch.float64)
            self._synced_tensors = [evenly_divisible_all_gather(nothing, concat=True)]
            self._synced = True
        else:
            super()._sync()

    def _compute_list(self, y_pred: Images, y: Images | None = None, **kwargs: Any) -> Any:
        if y is not None and len(y_pred) != len(y):
            raise ValueError(f"len(y_pred)={len(y_pred)}, len(y)={len(y)}: give every prediction its reference")
        references = y if y is None else [torch.as_tensor(image) for image in y]
        return super()._compute_list([torch.as_tensor(image) for image in y_pred], references, **kwargs)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            raise ValueError("y=None: a score needs the reference; let output_transform return (y_pred, y)")
        expected = (y_pred.shape[0], 1, *y_pred.shape[2:])
        if y_pred.ndim != 4 or not self.takes(y_pred.shape[1]):
            raise ValueError(
                f"y_pred.shape={tuple(y_pred.shape)}: {type(self).__name__} takes (B, {self.channels}, H, W)"
            )
        if tuple(y.shape) != expected:
            raise ValueError(f"y.shape={tuple(y.shape)}: the reference of this y_pred has the shape {expected}")
        # NumPy has no bfloat16
        predicted = y_pred.float() if y_pred.dtype == torch.bfloat16 else y_pred
        predictions, references = predicted.cpu().numpy(), y[:, 0].cpu().numpy()
        rows = [self.row(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)]
        return torch.from_numpy(np.stack(rows))


class ISBIMetric(ImageRowsMetric):
    """A score of the ISBI 2012 challenge of probabilities (2, H, W), given reference instances (1, H, W).

    Channel 1 is the cell; of more than two classes, all but the background are. An unknown pixel counts as membrane on
    which prediction and reference agree.

    Args:
        statistics: sums of a slice, (thresholds, columns), from (probability, label, thresholds).
        from_statistics: the score from the sums of several slices.
        thresholds: in [0, 1].
        columns: number of sums.
    """

    channels = 2

    def __init__(
        self,
        statistics: Callable[[ArrayLike, ArrayLike, Sequence[float]], Statistics],
        from_statistics: Callable[[Statistics], float],
        thresholds: tuple[float, ...],
        columns: int,
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.from_statistics = from_statistics
        self.thresholds = thresholds
        self.columns = columns

    def takes(self, channels: int) -> bool:
        """Whether there is background and at least one class of cells."""
        return channels >= self.channels

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Thresholds, columns."""
        return len(self.thresholds), self.columns

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Sums of the slice at every threshold."""
        check_label_image("y", reference, lowest=-1)
        probability = np.where(reference < 0, 0, cell_probability(prediction))
        return self.statistics(probability, reference > 0, self.thresholds)

    def score(self, rows: Statistics) -> float:
        """Best over the thresholds of the sums over all slices."""
        return self.from_statistics(rows)


class PixelError(ISBIMetric):
    """Pixel error (:func:`unet_paper.metrics.pixel_error.pixel_error`), lower is better.

    Args:
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.
    """

    lower_is_better = True

    def __init__(self, *, threshold: float | None = None) -> None:
        super().__init__(pixel_error_statistics, pixel_error_from_statistics, sweep(threshold, THRESHOLDS), columns=4)


class RandError(ISBIMetric):
    """Rand error (:func:`unet_paper.metrics.rand_error.rand_error`), lower is better.

    Args:
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.
        foreground_restricted: see there.
    """

    lower_is_better = True

    def __init__(self, *, threshold: float | None = None, foreground_restricted: bool = False) -> None:
        statistics = partial(rand_error_statistics, foreground_restricted=foreground_restricted)
        super().__init__(statistics, rand_error_from_statistics, sweep(threshold, THRESHOLDS), columns=3)


class WarpingError(ISBIMetric):
    """Warping error (:func:`unet_paper.metrics.warping_error.warping_error`), lower is better.

    Args:
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 0.9.
    """

    lower_is_better = True

    def __init__(self, *, threshold: float | None = None) -> None:
        super().__init__(
            warping_error_statistics, warping_error_from_statistics, sweep(threshold, THRESHOLDS), columns=5
        )


class VRand(ISBIMetric):
    """V_rand (:func:`unet_paper.metrics.v_rand.v_rand`), higher is better.

    Args:
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
    """

    def __init__(self, *, threshold: float | None = None) -> None:
        super().__init__(v_rand_statistics, v_rand_from_statistics, sweep(threshold, V_THRESHOLDS), columns=6)


class VInfo(ISBIMetric):
    """V_info (:func:`unet_paper.metrics.v_rand.v_info`), higher is better.

    Args:
        threshold: one threshold in [0, 1] instead of the challenge's sweep 0, 0.1 .. 1.
    """

    def __init__(self, *, threshold: float | None = None) -> None:
        super().__init__(v_info_statistics, v_info_from_statistics, sweep(threshold, V_THRESHOLDS), columns=3)


def pairs_by_class(
    prediction: LabelImage, reference: LabelImage, num_classes: int, of_class: int | None = None
) -> list[tuple[LabelImage, LabelImage]]:
    """Prediction and reference of each class of cells; unknown pixels are unknown in all of them.

    Args:
        prediction: label image, shape (H, W).
        reference: label image, shape (H, W); -1 is unknown.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`.
        of_class: that one alone.
    """
    if num_classes == 2:
        return [(prediction, reference)]
    predicted, annotated = class_of(prediction, num_classes), class_of(reference, num_classes)
    wanted = range(1, num_classes) if of_class is None else (of_class,)
    return [
        (np.where(predicted == k, prediction, 0), np.where((annotated == k) | (reference < 0), reference, 0))
        for k in wanted
    ]


class OfClasses(ImageRowsMetric):
    """A score of cells that may be of several classes: of all of them, or of one.

    The cells of a class are compared with those of the same class alone, and what is counted is added up.

    Args:
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`.
        of_class: 1 .. ``num_classes`` - 1 for the cells of one class alone; None: of all.

    Raises:
        ValueError: for fewer than two classes, or a class that there is not.
    """

    channels = 1

    def __init__(self, *, num_classes: int = 2, of_class: int | None = None) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if of_class is not None and not 1 <= of_class < num_classes:
            raise ValueError(f"of_class={of_class}: classes of cells are 1 to {num_classes - 1}")
        self.num_classes = num_classes
        self.of_class = of_class

    def pairs(self, prediction: LabelImage, reference: LabelImage) -> list[tuple[LabelImage, LabelImage]]:
        """Prediction and reference of each class that counts, shape (H, W)."""
        return pairs_by_class(prediction, reference, self.num_classes, self.of_class)


class CTCSeg(OfClasses):
    """SEG (:func:`unet_paper.metrics.ctc.ctc_seg`) of predicted cells (1, H, W), given reference instances (1, H, W).

    Args:
        field_of_interest: width in px of the band along the border; objects wholly inside the band are ignored.
        num_classes: see :class:`OfClasses`; a cell that was found as one of another class was not found.
        of_class: see there.
        only: ``"touching"`` for the objects of the reference that touch another one, ``"separate"`` for those that do
            not, see :func:`unet_paper.metrics.ctc.touching_objects`; None: all, which is SEG.

    Raises:
        ValueError: for other objects.

    Example:
        >>> metric = CTCSeg()
        >>> _ = metric(torch.tensor([[[[1, 1, 0, 0]]]]), torch.tensor([[[[3, 3, 0, 4]]]]))
        >>> _ = metric(torch.tensor([[[[1, 1, 1, 2]]]]), torch.tensor([[[[3, 3, 0, 0]]]]))
        >>> metric.aggregate().item(), metric.per_image().tolist()
        (0.555..., [0.5, 0.666...])
    """

    row_shape = (2,)

    def __init__(
        self,
        *,
        field_of_interest: int = 0,
        num_classes: int = 2,
        of_class: int | None = None,
        only: Literal["touching", "separate"] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, of_class=of_class)
        if only not in (None, "touching", "separate"):
            raise ValueError(f"only={only!r}: expected touching, separate, or null for all objects")
        self.field_of_interest = field_of_interest
        self.only = only

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Sum of the Jaccard indices, number of objects."""
        touching = set() if self.only is None else set(touching_objects(reference).tolist())
        objects = [
            score.jaccard
            for cells, annotated in self.pairs(prediction[0], reference)
            for score in ctc_seg_objects(cells, annotated, field_of_interest=self.field_of_interest)
            if self.only is None or (score.reference_id in touching) == (self.only == "touching")
        ]
        return np.array([sum(objects), len(objects)], dtype=np.float64)

    def score(self, rows: Statistics) -> float:
        """Mean Jaccard index of all objects."""
        # fsum, so that the order of the images, and with it the number of processes, makes no difference
        objects = rows[:, 1].sum()
        return float(math.fsum(rows[:, 0]) / objects) if objects else float("nan")


class CTCDet(OfClasses):
    """DET (:func:`unet_paper.metrics.ctc.ctc_det`) of predicted cells (1, H, W), given markers or instances (1, H, W).

    Args:
        field_of_interest: width in px of the band along the border; objects wholly inside the band are ignored.
        num_classes: see :class:`OfClasses`; a cell that was found as one of another class was not found.
        of_class: see there.
    """

    row_shape = (4,)

    def __init__(self, *, field_of_interest: int = 0, num_classes: int = 2, of_class: int | None = None) -> None:
        super().__init__(num_classes=num_classes, of_class=of_class)
        self.field_of_interest = field_of_interest

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Objects, splits, false negatives, false positives."""
        errors = [
            ctc_det_errors(cells, annotated, field_of_interest=self.field_of_interest)
            for cells, annotated in self.pairs(prediction[0], reference)
        ]
        return np.array(errors, dtype=np.float64).sum(axis=0)

    def score(self, rows: Statistics) -> float:
        """DET of the summed errors."""
        errors = DetectionErrors(*(int(count) for count in rows.sum(axis=0)))
        return errors.det() if errors.objects else float("nan")


class IoU(OfClasses):
    """IoU (:func:`unet_paper.metrics.iou.iou`) of predicted cells (1, H, W), given instances (1, H, W).

    Of several classes it is the mean of the IoU of each. A class of which no image has a pixel, predicted or annotated,
    is not defined and does not count; if that is so of all, neither is the mean.

    Args:
        num_classes: see :class:`OfClasses`.
        of_class: see there.
    """

    def __init__(self, *, num_classes: int = 2, of_class: int | None = None) -> None:
        super().__init__(num_classes=num_classes, of_class=of_class)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Classes, intersection and union."""
        return (2,) if self.num_classes == 2 else (self.num_classes - 1 if self.of_class is None else 1, 2)

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Pixels of the intersection and of the union, of each class."""
        counts = [iou_counts(cells, annotated) for cells, annotated in self.pairs(prediction[0], reference)]
        return np.array(counts, dtype=np.float64).reshape(self.row_shape)

    def score(self, rows: Statistics) -> float:
        """Intersection over union of the summed pixels."""
        if self.num_classes == 2:
            intersection, union = rows.sum(axis=0)
            return float(intersection / union) if union else 1.0
        present = [(intersection, union) for intersection, union in rows.sum(axis=0) if union]
        return float(np.mean([i / u for i, u in present])) if present else float("nan")


class F1(OfClasses):
    """F1 (:func:`unet_paper.metrics.f1.f1`) of predicted cells (1, H, W), given reference instances (1, H, W).

    Args:
        threshold: of the intersection over union above which two cells are one.
        num_classes: see :class:`OfClasses`; a cell that was found as one of another class was not found.
        of_class: see there.
    """

    row_shape = (3,)

    def __init__(self, *, threshold: float = 0.5, num_classes: int = 2, of_class: int | None = None) -> None:
        super().__init__(num_classes=num_classes, of_class=of_class)
        self.threshold = threshold

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Matches, predicted cells, annotated cells."""
        counts = [f1_counts(*pair, threshold=self.threshold) for pair in self.pairs(prediction[0], reference)]
        return np.array(counts, dtype=np.float64).sum(axis=0)

    def score(self, rows: Statistics) -> float:
        """F1 of the summed counts; not defined without an annotated cell, as SEG and DET are not."""
        matched, found, annotated = rows.sum(axis=0)
        return float(2 * matched / (found + annotated)) if annotated else float("nan")


class PQ(OfClasses):
    """Panoptic quality (:mod:`unet_paper.metrics.panoptic_quality`) of predicted cells, given reference instances.

    Args:
        num_classes: see :class:`OfClasses`; a cell that was found as one of another class was not found.
        of_class: see there.
    """

    row_shape = (3,)

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Sum of the overlaps of the matches, predicted cells, annotated cells."""
        counts = [panoptic_counts(*pair) for pair in self.pairs(prediction[0], reference)]
        return np.array(counts, dtype=np.float64).sum(axis=0)

    def score(self, rows: Statistics) -> float:
        """PQ of the summed counts; not defined without an annotated cell, as F1 is not."""
        overlap, found, annotated = rows.sum(axis=0)
        return float(2 * overlap / (found + annotated)) if annotated else float("nan")


class PointF1(ImageRowsMetric):
    """F1 of points found (:func:`unet_paper.metrics.point_f1.point_f1`) by predicted cells (1, H, W)."""

    channels = 1
    row_shape = (3,)

    def row(self, prediction: NDArray[Any], reference: LabelImage) -> Statistics:
        """Matches, predicted cells, annotated cells."""
        return np.array(point_f1_counts(prediction[0], reference), dtype=np.float64)

    def score(self, rows: Statistics) -> float:
        """F1 of the summed counts; not defined without an annotated cell, as F1 is not."""
        matched, found, annotated = rows.sum(axis=0)
        return float(2 * matched / (found + annotated)) if annotated else float("nan")


def op_csb_if_defined(seg: float, det: float) -> float:
    """OP_CSB (:func:`unet_paper.metrics.ctc.op_csb`) of two scores of this module, NaN where either is not defined.

    Args:
        seg: SEG of :class:`CTCSeg`.
        det: DET of :class:`CTCDet`.

    >>> op_csb_if_defined(0.75, 1.0), op_csb_if_defined(float("nan"), 1.0)
    (0.875, nan)
    """
    return float("nan") if math.isnan(seg) or math.isnan(det) else op_csb(float(seg), float(det))


def by_class(names: Sequence[str], **metrics: Callable[..., ImageRowsMetric]) -> dict[str, IgniteMetricHandler]:
    """Handlers that score each class of cells alone, for an evaluator's ``additional_metrics``; none for two classes.

    Args:
        names: of the classes, background first.
        metrics: name of a score, and what makes it, which takes ``num_classes`` and ``of_class``.

    Returns:
        ``{"SCORE_CLASS": handler}``, of ``cells`` and ``instances`` of the engine's output.

    >>> sorted(by_class(["background", "round", "very long"], IoU=IoU))
    ['IoU_round', 'IoU_very_long']
    """
    if len(names) == 2:
        return {}
    return {
        # tables and boards take no other characters
        re.sub(r"[^\w-]+", "_", f"{score} {name}"): IgniteMetricHandler(
            metric_fn=metric(num_classes=len(names), of_class=k),
            output_transform=from_engine(["cells", "instances"]),
        )
        for score, metric in metrics.items()
        for k, name in enumerate(names)
        if k
    }
