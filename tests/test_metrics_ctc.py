"""CTC scores: agreement with py-ctcmetrics, laws, and cases worked out by hand."""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tifffile
from ctc_metrics.metrics import det as official_det
from ctc_metrics.metrics import op_csb as official_op_csb
from ctc_metrics.metrics import seg as official_seg
from ctc_metrics.utils.representations import count_acyclic_graph_correction_operations, match
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from unet_paper.metrics import f1, panoptic_quality, point_f1
from unet_paper.metrics.ctc import (
    DetectionErrors,
    ObjectScore,
    ctc_det,
    ctc_det_errors,
    ctc_seg,
    ctc_seg_objects,
    op_csb,
    touching_objects,
)
from unet_paper.metrics.iou import iou

Image = NDArray[np.integer]
Pair = tuple[list[Image], list[Image]]


def official(predictions: Sequence[Image], references: Sequence[Image]) -> tuple[float, DetectionErrors | None]:
    """SEG and the errors of DET as py-ctcmetrics finds them; it reads label images from files only."""
    with tempfile.TemporaryDirectory() as folder:
        matches = []
        for prediction, reference in zip(predictions, references, strict=True):
            paths = str(Path(folder, "reference.tif")), str(Path(folder, "prediction.tif"))
            for path, image in zip(paths, (reference, prediction), strict=True):
                tifffile.imwrite(path, image.astype(np.uint16))
            matches.append(match(*paths))
    labels_ref, labels_comp, mapped_ref, mapped_comp, ious = (list(column) for column in zip(*matches, strict=True))
    seg = official_seg(labels_ref, ious)
    if not sum(map(len, labels_ref)):
        return seg, None
    counts = count_acyclic_graph_correction_operations(None, None, labels_ref, labels_comp, mapped_ref, mapped_comp)
    return seg, DetectionErrors(*(int(counts[key]) for key in ("num_vertices", "NS", "FN", "FP")))


@st.composite
def sequences(draw: st.DrawFn) -> Pair:
    """Up to three small frames; predictions are references with pixels changed, so that matches and ties are common.

    Ids are scattered, so most have several components. Both images keep one background pixel: without one py-ctcmetrics
    takes the smallest id for the background (see test_images_without_background).
    """
    references, predictions = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 6)))
        reference = draw(arrays(np.int32, shape, elements=st.integers(0, 4)))
        edit = draw(arrays(np.int32, shape, elements=st.sampled_from([-1, -1, -1, 0, 1, 2, 9])))
        prediction = np.where(edit < 0, reference, edit)
        reference[0, 0] = prediction[0, 0] = 0
        references.append(reference)
        predictions.append(prediction)
    return predictions, references


@given(sequences())
@settings(max_examples=150, deadline=None)
def test_agrees_with_py_ctcmetrics(pair: Pair) -> None:
    predictions, references = pair
    seg, errors = official(predictions, references)
    assert ctc_seg(predictions, references) == pytest.approx(seg, abs=1e-12)
    if errors is None:
        # py-ctcmetrics divides by zero here
        assert ctc_det(predictions, references) == 0.0
        return
    assert ctc_det_errors(predictions, references) == errors
    det = official_det(
        NS=errors.splits, FN=errors.false_negatives, FP=errors.false_positives, num_vertices=errors.objects
    )
    assert ctc_det(predictions, references) == pytest.approx(det, abs=1e-12)
    assert op_csb(ctc_seg(predictions, references), ctc_det(predictions, references)) == pytest.approx(
        official_op_csb(seg, det), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_py_ctcmetrics_on_blobs(seed: int) -> None:
    """Larger frames with more objects than the property test draws, cut and shifted at random."""
    random = np.random.default_rng(seed)
    references, predictions = [], []
    for _ in range(3):
        reference = np.kron(random.integers(0, 30, (12, 9)), np.ones((8, 8), dtype=np.int64))
        prediction = np.roll(reference, random.integers(-4, 5, 2), (0, 1))
        prediction[random.random(prediction.shape) < 0.2] = 0
        prediction[: random.integers(1, 40)] = random.integers(1, 60)
        reference[0, 0] = prediction[-1, -1] = 0
        references.append(reference)
        predictions.append(prediction)
    seg, errors = official(predictions, references)
    assert 0 < seg < 1
    assert ctc_seg(predictions, references) == pytest.approx(seg, abs=1e-12)
    assert ctc_det_errors(predictions, references) == errors


@pytest.mark.parametrize("dataset", ["DIC-C2DH-HeLa", "PhC-C2DH-U373"])
def test_agrees_with_py_ctcmetrics_on_real_cells(real_data: Path, dataset: str) -> None:
    """The silver against the gold masks, and against the markers, of the first annotated frames."""
    gold = sorted((real_data / dataset / "01_GT" / "SEG").glob("man_seg*.tif"))[:3]
    silver = [real_data / dataset / "01_ST" / "SEG" / path.name for path in gold]
    markers = [real_data / dataset / "01_GT" / "TRA" / path.name.replace("man_seg", "man_track") for path in gold]
    predictions = [tifffile.imread(path) for path in silver]
    for paths in (gold, markers):
        references = [tifffile.imread(path) for path in paths]
        seg, errors = official(predictions, references)
        assert ctc_seg(predictions, references) == pytest.approx(seg, abs=1e-12)
        assert ctc_det_errors(predictions, references) == errors


@pytest.mark.parametrize("dataset", ["DIC-C2DH-HeLa", "PhC-C2DH-U373"])
def test_every_annotated_object_reaches_into_the_field_of_interest(real_data: Path, dataset: str) -> None:
    """The reading of the field of interest: E = 50 px drops none of the objects that the challenge annotated."""
    for path in sorted((real_data / dataset / "01_GT" / "SEG").glob("man_seg*.tif")):
        reference = tifffile.imread(path)
        empty = np.zeros_like(reference)
        assert ctc_seg_objects(empty, reference, field_of_interest=50) == ctc_seg_objects(empty, reference)


@given(sequences(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_ids_do_not_matter(pair: Pair, random: Random) -> None:
    """Neither their order nor their size: large ids take another way through the code."""
    predictions, references = pair
    ids = np.array([0, *random.sample(range(1, 2**31), 9)])
    renamed = [ids[frame] for frame in predictions], [ids[frame] for frame in references]
    assert ctc_seg(*renamed) == ctc_seg(*pair)
    assert ctc_det_errors(*renamed) == ctc_det_errors(*pair)


@given(sequences())
@settings(max_examples=50, deadline=None)
def test_laws(pair: Pair) -> None:
    predictions, references = pair
    objects = sum(len(np.unique(frame[frame > 0])) for frame in references)
    assert ctc_seg(references, references) == ctc_det(references, references) == float(objects > 0)
    assert 0.0 <= ctc_seg(*pair) <= 1.0
    assert 0.0 <= ctc_det(*pair) <= 1.0
    # the scores are sums over frames, and a frame looks the same in a mirror or at twice the size
    assert ctc_seg(predictions[::-1], references[::-1]) == ctc_seg(*pair)
    mirrored = [frame.T for frame in predictions], [frame.T for frame in references]
    doubled = tuple([np.kron(frame, np.ones((2, 2), dtype=frame.dtype)) for frame in frames] for frames in pair)
    for changed in (mirrored, doubled):
        assert ctc_seg(*changed) == pytest.approx(ctc_seg(*pair), abs=1e-12)
        assert ctc_det_errors(*changed) == ctc_det_errors(*pair)
    scores = ctc_seg_objects(*pair)
    assert len(scores) == ctc_det_errors(*pair).objects == objects
    for score in scores:
        annotated = references[score.frame] == score.reference_id
        assert score.area == annotated.sum()
        if score.prediction_id is not None:
            predicted = predictions[score.frame] == score.prediction_id
            assert (predicted & annotated).sum() * 2 > score.area
            assert score.jaccard == (predicted & annotated).sum() / (predicted | annotated).sum()


def test_exactly_one_half_is_no_match() -> None:
    reference = np.array([[1, 1, 1, 1, 0, 0]])
    assert ctc_seg(np.array([[2, 2, 0, 0, 0, 0]]), reference) == 0.0
    assert ctc_det_errors(np.array([[2, 2, 0, 0, 0, 0]]), reference) == DetectionErrors(1, 0, 1, 1)
    assert ctc_seg(np.array([[2, 2, 2, 0, 0, 0]]), reference) == 3 / 4


def test_seg_is_the_mean_over_objects_not_over_frames() -> None:
    references = [np.array([[1, 0]]), np.array([[1, 2, 3, 0]])]
    predictions = [np.array([[1, 0]]), np.array([[0, 0, 0, 4]])]
    assert ctc_seg(predictions, references) == 1 / 4


def test_objects_are_label_ids_not_components() -> None:
    reference = np.array([[1, 0, 1, 0, 1]])
    assert ctc_seg(np.array([[2, 0, 2, 0, 2]]), reference) == 1.0
    # two of its three pixels, as one prediction and as two
    assert ctc_seg(np.array([[2, 0, 2, 0, 0]]), reference) == 2 / 3
    assert ctc_seg(np.array([[2, 0, 3, 0, 0]]), reference) == 0.0


def test_details_of_every_object() -> None:
    references = [np.array([[0, 7, 7, 7], [3, 0, 0, 0]]), np.array([[5, 5, 0, 0], [0, 0, 0, 0]])]
    predictions = [np.array([[0, 2, 2, 0], [0, 0, 0, 0]]), np.array([[9, 9, 9, 9], [0, 0, 4, 0]])]
    assert ctc_seg_objects(predictions, references) == [
        ObjectScore(frame=0, reference_id=3, area=1, prediction_id=None, jaccard=0.0),
        ObjectScore(frame=0, reference_id=7, area=3, prediction_id=2, jaccard=2 / 3),
        ObjectScore(frame=1, reference_id=5, area=2, prediction_id=9, jaccard=1 / 2),
    ]


def test_cells_touch_where_a_pixel_of_one_is_beside_a_pixel_of_the_other() -> None:
    reference = np.array([[1, 1, 0, 3, 0], [0, 2, 0, 0, 4], [-1, 0, 5, 5, 0], [6, 0, 0, 0, 0]])
    # 1 and 2 share an edge; 3, 4 and 5 meet at corners; 6 lies beside unknown pixels
    assert touching_objects(reference).tolist() == [1, 2]
    assert touching_objects(np.zeros((3, 3), dtype=np.int64)).tolist() == []


def test_det_by_hand() -> None:
    # one prediction over three markers, one marker missed, two false predictions: 2 * 5 + 1 * 10 + 2 * 1 of 4 * 10
    markers = np.array([[1, 0, 2, 0, 3, 0, 4, 0, 0, 0]])
    prediction = np.array([[5, 5, 5, 5, 5, 0, 0, 6, 0, 7]])
    assert ctc_det_errors(prediction, markers) == DetectionErrors(
        objects=4, splits=2, false_negatives=1, false_positives=2
    )
    assert ctc_det(prediction, markers) == pytest.approx(1 - 22 / 40, abs=1e-15)


def test_det_is_never_negative() -> None:
    # eleven false predictions cost more than adding the one marker
    assert ctc_det(np.arange(12)[None], np.array([[1] + [0] * 11])) == 0.0


def test_nothing_predicted_and_nothing_to_find() -> None:
    reference, empty = np.array([[1, 2, 0]]), np.zeros((1, 3), dtype=int)
    assert ctc_seg(empty, reference) == ctc_det(empty, reference) == iou(empty, reference) == 0.0
    assert ctc_seg(reference, empty) == ctc_det(reference, empty) == iou(reference, empty) == 0.0
    assert ctc_seg(empty, empty) == ctc_det(empty, empty) == 0.0
    assert iou(empty, empty) == 1.0
    assert ctc_seg_objects(reference, empty) == []


def test_images_without_background() -> None:
    reference, prediction = np.array([[1, 1, 1, 2]]), np.array([[1, 1, 2, 2]])
    assert ctc_seg(prediction, reference) == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-15)
    assert ctc_det_errors(prediction, reference) == DetectionErrors(2, 0, 0, 0)


def test_unknown_pixels() -> None:
    reference = np.array([[1, 1, -1, -1, 0, 0]])
    # they count in the union of SEG, as background does; what reaches into them is not false, what does not is
    spilling = np.array([[1, 1, 1, 2, 2, 3]])
    assert ctc_seg(spilling, reference) == 2 / 3
    assert ctc_seg(spilling, np.maximum(reference, 0)) == 2 / 3
    assert ctc_det_errors(spilling, reference) == DetectionErrors(1, 0, 0, 1)
    assert ctc_det_errors(spilling, np.maximum(reference, 0)) == DetectionErrors(1, 0, 0, 2)
    # IoU leaves them out: {0, 1} against {0, 1, 4, 5}
    assert iou(spilling, reference) == 2 / 4


def test_field_of_interest_drops_what_lies_in_the_band_and_cuts_nothing() -> None:
    reference = np.zeros((9, 9), dtype=int)
    reference[0, 0:4] = 1  # wholly in a band of 2 px
    reference[0:4, 6] = 2  # reaches inside
    prediction = np.zeros((9, 9), dtype=int)
    prediction[0:3, 6] = 5
    prediction[8, 2:7] = 6  # false, wholly in the band
    prediction[4:6, 4] = 7  # false, inside
    assert ctc_seg(prediction, reference) == pytest.approx((3 / 4) / 2, abs=1e-15)
    assert ctc_det_errors(prediction, reference) == DetectionErrors(2, 0, 1, 2)
    assert ctc_seg_objects(prediction, reference, field_of_interest=2) == [ObjectScore(0, 2, 4, 5, 3 / 4)]
    assert ctc_seg(prediction, reference, field_of_interest=2) == 3 / 4
    assert ctc_det_errors(prediction, reference, field_of_interest=2) == DetectionErrors(1, 0, 0, 1)


@given(sequences(), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_field_of_interest_is_erasing_objects_first(pair: Pair, band: int) -> None:
    wide = tuple([np.kron(frame, np.ones((3, 3), dtype=frame.dtype)) for frame in frames] for frames in pair)
    band = min(band, *((min(frame.shape) - 1) // 2 for frame in wide[0]))

    def erased(frame: Image) -> Image:
        inside = frame[band : frame.shape[0] - band, band : frame.shape[1] - band]
        return np.where(np.isin(frame, inside), frame, 0)

    by_hand = tuple([erased(frame) for frame in frames] for frames in wide)
    assert ctc_seg(*wide, field_of_interest=band) == ctc_seg(*by_hand)
    assert ctc_det_errors(*wide, field_of_interest=band) == ctc_det_errors(*by_hand)


@pytest.mark.parametrize("band", [-1, 2, 50])
def test_field_of_interest_that_leaves_nothing_is_refused(band: int) -> None:
    image = np.ones((4, 9), dtype=int)
    with pytest.raises(ValueError, match=rf"field_of_interest={band}: .* 0 to 1 px"):
        ctc_seg(image, image, field_of_interest=band)


def test_iou_counts_the_pixels_of_all_frames_together() -> None:
    references = [np.array([[1, 1, 2, 0]]), np.array([[1, 0, 0, 0]])]
    predictions = [np.array([[3, 3, 3, 0]]), np.array([[0, 0, 0, 1]])]
    assert iou(predictions, references) == 3 / 5
    assert iou(predictions[0] > 0, references[0]) == 1.0


def test_inputs_may_be_one_image_a_stack_or_masks_and_stay_as_they_are() -> None:
    reference = np.array([[[1, 0], [2, 2]]], dtype=np.uint16)
    prediction = np.array([[[4, 0], [0, 3]]], dtype=np.uint8)
    before = reference.copy(), prediction.copy()
    for metric in (ctc_seg, ctc_det, iou):
        assert (
            metric(prediction, reference) == metric(prediction[0], reference[0]) == metric([*prediction], [*reference])
        )
    assert ctc_seg(prediction[0] > 0, reference[0] > 0) == 2 / 3
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(prediction, before[1])


ONE = np.array([[1, 0]])


@pytest.mark.parametrize("metric", [ctc_seg, ctc_det, ctc_seg_objects, ctc_det_errors, iou])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions=[]: a score needs at least one frame"),
        ([ONE, ONE], [ONE], "len(predictions)=2, len(references)=1"),
        ([ONE, ONE.T], [ONE, ONE], "predictions[1].shape=(2, 1): the reference is (1, 2)"),
        ([ONE], [ONE[None]], "references[0].shape=(1, 1, 2): a label image is (H, W)"),
        ([ONE[:0]], [ONE[:0]], "predictions[0].shape=(0, 2)"),
        ([ONE / 2], [ONE], "predictions[0].dtype=float64: label ids are integers; cast it"),
        ([ONE], [ONE * np.nan], "references[0].dtype=float64: label ids are integers; find out where the NaN"),
        ([-ONE], [ONE], "predictions[0].min()=-1: allowed are 0 for background"),
        ([ONE], [ONE * -2], "references[0].min()=-2: allowed are -1 for unknown"),
        (3, [ONE], "predictions=3: label images (H, W) are needed"),
        ([ONE], None, "references=None: label images"),
        ([ONE * 2**31], [ONE], "predictions[0].max()=2147483648: the largest id allowed is 2147483647"),
    ],
)
def test_bad_input(
    metric: Callable[..., float], predictions: list[Image], references: list[Image], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        metric(predictions, references)


def test_a_mask_in_pieces_is_no_label_image_but_where_cells_are_not_told_apart() -> None:
    two = np.array([[1, 0, 2]])
    for metric in (ctc_seg, ctc_det, f1, panoptic_quality, point_f1):
        for pair in ((two > 0, two), (two, two > 0)):
            with pytest.raises(ValueError, match=r"dtype=bool: a mask in 2 pieces .* skimage.measure.label\(mask\)"):
                metric(*pair)
        assert metric(ONE > 0, ONE > 0) == 1
    assert iou(two > 0, two) == 1


@pytest.mark.parametrize("field_of_interest", [-1, 1.5, "1", float("nan")])
def test_a_band_that_is_no_number_of_pixels_is_refused(field_of_interest: Any) -> None:
    image = np.ones((9, 9), int)
    with pytest.raises(ValueError, match=f"field_of_interest={field_of_interest!r}: .* 0 to 4 px"):
        ctc_seg(image, image, field_of_interest=field_of_interest)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), "1"])
def test_op_csb_refuses_what_is_no_score(score: Any) -> None:
    with pytest.raises(ValueError, match=r"seg=.*: a score lies in \[0, 1\]"):
        op_csb(score, 0.5)
    with pytest.raises(ValueError, match=r"det=.*: a score lies in \[0, 1\]"):
        op_csb(0.5, score)
