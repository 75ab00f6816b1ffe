"""The scores of 40 made-up cases, as the challenge's own classes gave them: every value, at every threshold.

``challenge_scores.npz`` holds the labels and proposals, ``challenge_scores.json`` what the metric classes of Fiji's
Trainable Segmentation (commit 41c7083, on ImageJ 1.53t) made of them: ``sweep_*`` has a value per threshold, and
``*_per_slice`` per threshold and slice; ``quirks`` says what follows from a corner of the Java code.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_paper.metrics.em_inputs import THRESHOLDS, V_THRESHOLDS
from unet_paper.metrics.pixel_error import pixel_error, pixel_scores
from unet_paper.metrics.rand_error import rand_error, rand_scores
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import topological_errors, warping_error

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "challenge_scores.json").read_text())
Images = tuple[NDArray[np.float32], NDArray[np.bool_]]

# A conversion of ImageJ turns a label slice that is all cell into one without a cell before components are found, so
# that Java calls each of its errors OBJECT_ADDED. By the rules they are holes and deleted objects.
ALL_CELL = {"r46_edge_all_cell", "r50_edge_all_cell_both"}
EXEMPT = {
    "sweep_class_image_crc32_per_slice",
    "sweep_warp_classes_per_slice_MERGE_SPLIT_HOLEADD_OBJDEL_OBJADD_HOLEDEL",
    "sweep_warp_clusters_per_slice_r20_MERGE_SPLIT_HOLEADD_OBJDEL_OBJADD_HOLEDEL",
    "sweep_warping_error_clustered_by_error_r20",
}
# the Rand index throws in Java where a slice has no cell; of a label without a cell nothing is left to restrict to
NULL = {"sweep_rand_error", "sweep_rand_error_foreground_restricted"}

SWEPT: dict[str, Callable[..., float]] = {
    "min_splits_mergers_0_0.9_0.1_false_r20": warping_error,
    "min_splits_mergers_0_0.9_0.1_true_r20": lambda p, t: warping_error(p, t, clustered=True),
    "min_warping_error_0_0.9_0.1": lambda p, t: warping_error(p, t, count="mismatches"),
    "max_rand_fscore_0_0.9_0.1": lambda p, t: 1 - rand_error(p, t),
    "max_pixel_fscore_0_0.9_0.1": lambda p, t: 1 - pixel_error(p, t),
    "max_vrand_thinned_0_1_0.1_macro": v_rand,
    "max_vrand_thinned_0_1_0.1_micro": lambda p, t: v_rand(p, t, average="micro"),
    "max_vinfo_thinned_0_1_0.1": v_info,
}


@pytest.fixture(scope="module", params=EXPECTED)
def case(request: pytest.FixtureRequest) -> tuple[str, NDArray[np.float32], NDArray[np.bool_]]:
    name = request.param
    with np.load(HERE / "challenge_scores.npz") as images:
        return name, images[f"{name}/proposal"], images[f"{name}/label"]


def at_thresholds(p: NDArray[np.float32], t: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """What is compared at each of the thresholds 0, 0.1 .. 0.9."""
    for threshold in THRESHOLDS:
        pairs, pixels = rand_scores(p, t, threshold=threshold), pixel_scores(p, t, threshold=threshold)
        restricted = rand_scores(p, t, threshold=threshold, foreground_restricted=True)
        found = [topological_errors(*images, threshold=threshold) for images in slices_of(p, t)]
        yield {
            "sweep_splits_mergers_error_r20": warping_error(p, t, threshold=threshold),
            "sweep_splits_mergers_error_clustered_r20": warping_error(p, t, threshold=threshold, clustered=True),
            "sweep_warping_error": warping_error(p, t, threshold=threshold, count="mismatches"),
            "sweep_warping_error_clustered_by_error_r20": warping_error(
                p, t, threshold=threshold, count="mismatches", clustered=True
            ),
            "sweep_warped_label_crc32_per_slice": [crc32(errors.warped) for errors in found],
            "sweep_class_image_crc32_per_slice": [crc32(errors.errors) for errors in found],
            "sweep_warp_classes_per_slice_MERGE_SPLIT_HOLEADD_OBJDEL_OBJADD_HOLEDEL": [
                list(errors.counts.values()) for errors in found
            ],
            "sweep_warp_clusters_per_slice_r20_MERGE_SPLIT_HOLEADD_OBJDEL_OBJADD_HOLEDEL": [
                list(errors.clusters.values()) for errors in found
            ],
            "sweep_rand_error": pairs.error,
            "sweep_rand_error_foreground_restricted": restricted.error,
            "sweep_rand_precision": pairs.precision,
            "sweep_rand_recall": pairs.recall,
            "sweep_rand_fscore": pairs.fscore,
            "sweep_pixel_error": pixels.error,
            "sweep_pixel_precision": pixels.precision,
            "sweep_pixel_recall": pixels.recall,
            "sweep_pixel_fscore": pixels.fscore,
        }


def at_v_thresholds(p: NDArray[np.float32], t: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """What is compared at each of the thresholds 0, 0.1 .. 1."""
    for threshold in V_THRESHOLDS:
        yield {
            "sweep_vrand_thinned_macro": v_rand(p, t, threshold=threshold),
            "sweep_vrand_thinned_micro": v_rand(p, t, threshold=threshold, average="micro"),
            "sweep_vrand_unthinned_micro": v_rand(p, t, threshold=threshold, average="micro", thinned=False),
            "sweep_vinfo_thinned": v_info(p, t, threshold=threshold),
            "sweep_vinfo_unthinned": v_info(p, t, threshold=threshold, thinned=False),
            "sweep_vrand_thinned_per_slice": [v_rand(*images, threshold=threshold) for images in slices_of(p, t)],
            "sweep_vinfo_thinned_per_slice": [v_info(*images, threshold=threshold) for images in slices_of(p, t)],
        }


def slices_of(p: NDArray[np.float32], t: NDArray[np.bool_]) -> list[Images]:
    shape = (-1, *p.shape[-2:])
    return list(zip(p.reshape(shape), t.reshape(shape), strict=True))


def crc32(image: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(image))


def test_swept_scores(case: tuple[str, Any, Any]) -> None:
    name, *images = case
    ours = {key: metric(*images) for key, metric in SWEPT.items()}
    assert ours == pytest.approx({key: EXPECTED[name][key] for key in SWEPT}, abs=1e-9, rel=0)


@pytest.mark.parametrize("thresholds", [at_thresholds, at_v_thresholds])
def test_values_at_every_threshold(
    case: tuple[str, Any, Any], thresholds: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    name, *images = case
    for place, ours in enumerate(thresholds(*images)):
        compared = ours.keys() - (EXEMPT if name in ALL_CELL else set())
        for key in compared:
            expected = EXPECTED[name][key][place]
            if key in NULL and expected is None:
                assert 0 <= ours[key] <= 1
            elif "crc32" in key or "_warp_" in key:
                assert ours[key] == expected, (key, place)
            else:
                assert ours[key] == pytest.approx(expected, abs=1e-9, rel=0), (key, place)


def test_every_value_is_compared_and_what_is_exempt_is_named() -> None:
    """No value of the files is left out without a word, and each exemption belongs to a case that `quirks` names."""
    with np.load(HERE / "challenge_scores.npz") as images:
        first = (images[f"{next(iter(EXPECTED))}/{kind}"] for kind in ("proposal", "label"))
        p, t = first
    compared = {*SWEPT, *next(at_thresholds(p, t)), *next(at_v_thresholds(p, t))}
    assert len(EXPECTED) == 40
    for name, values in EXPECTED.items():
        assert values.keys() - {"quirks"} == compared
        assert any("is all cell" in quirk for quirk in values.get("quirks", ())) == (name in ALL_CELL)
        null = {key for key in compared if any(value is None for value in np.ravel(values[key]))}
        assert null <= NULL
        if "sweep_rand_error_foreground_restricted" in null:
            assert any("has no cell" in quirk for quirk in values["quirks"])


def test_errors_of_a_slice_that_is_all_cell_are_of_the_classes_of_the_rules() -> None:
    with np.load(HERE / "challenge_scores.npz") as images:
        p, t = (images[f"r46_edge_all_cell/{kind}"] for kind in ("proposal", "label"))
    assert t.all()
    counts = topological_errors(p, t, threshold=0.5).counts
    assert counts == {error: counts[error] if error.name == "HOLE_ADDED" else 0 for error in counts}
    assert sum(counts.values()) == round(EXPECTED["r46_edge_all_cell"]["sweep_warping_error"][5] * t.size)
