"""The ISBI 2012 metrics against the challenge's own scores, definitions written out in Python, and laws."""

import heapq
import itertools
import json
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import entropy

from unet_paper.metrics.em_inputs import THRESHOLDS, V_THRESHOLDS
from unet_paper.metrics.em_kernels import regrow
from unet_paper.metrics.pixel_error import pixel_error, pixel_error_from_statistics, pixel_error_statistics
from unet_paper.metrics.rand_error import rand_error, rand_error_from_statistics, rand_error_statistics, rand_scores
from unet_paper.metrics.v_rand import (
    v_info,
    v_info_from_statistics,
    v_info_statistics,
    v_rand,
    v_rand_from_statistics,
    v_rand_statistics,
    v_statistics,
)
from unet_paper.metrics.warping_error import (
    TopologicalError,
    topological_errors,
    warping_error,
    warping_error_from_statistics,
    warping_error_statistics,
)

Metric = Callable[..., float]
ERRORS: tuple[Metric, ...] = (pixel_error, rand_error, warping_error)
SCORES: tuple[Metric, ...] = (v_rand, v_info)
STATISTICS: dict[Metric, tuple[Callable[..., Any], Callable[..., float]]] = {
    pixel_error: (pixel_error_statistics, pixel_error_from_statistics),
    rand_error: (rand_error_statistics, rand_error_from_statistics),
    warping_error: (warping_error_statistics, warping_error_from_statistics),
    v_rand: (v_rand_statistics, v_rand_from_statistics),
    v_info: (v_info_statistics, v_info_from_statistics),
}
CROSS = ndimage.generate_binary_structure(2, 1)
SQUARE = ndimage.generate_binary_structure(2, 2)

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
# few levels, so that ties are frequent, and thresholds between and on them
LEVELS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


@st.composite
def cases(draw: st.DrawFn, depth: int = 0) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    shape = draw(SHAPES) if not depth else (depth, *draw(SHAPES))
    return draw(arrays(np.float64, shape, elements=LEVELS)), draw(arrays(np.uint8, shape, elements=st.integers(0, 1)))


def em_slice(seed: int, size: int = 96) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """A Voronoi diagram with membranes 3 px wide, and a smooth noisy map of it without two equal values."""
    generator = np.random.default_rng(seed)
    seeds = generator.uniform(0, size, (14, 2))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    owner = np.linalg.norm(grid[:, :, None] - seeds, axis=-1).argmin(axis=-1)
    edge = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    label = ~ndimage.binary_dilation(edge, CROSS)
    noise = ndimage.gaussian_filter(generator.standard_normal(label.shape), 1)
    probability = np.clip(ndimage.gaussian_filter(label.astype(float), 1) + 0.7 * noise, 0.01, 0.99)
    probability += generator.uniform(-1e-3, 1e-3, label.shape)
    return probability, label.astype(np.uint8)


# --- the challenge's own scores -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["p1_shift", "p3_grayprob"])
def oracle(request: pytest.FixtureRequest, real_data: Path) -> tuple[Any, Any, Any, dict[str, Any]]:
    folder, name = real_data / "oracle", request.param
    if not folder.is_dir():
        pytest.skip(f"the challenge's scores are not in {real_data}")
    images = (tifffile.imread(folder / f"{name}_{kind}.tif") for kind in ("proposal", "label", "warped_oracle"))
    return (*images, json.loads((folder / "oracle.json").read_text())["cases"][name])


def test_sweeps_give_the_scores_of_the_challenge(oracle: tuple[Any, Any, Any, dict[str, float]]) -> None:
    probability, label, _, expected = oracle
    ours = {
        "min_splits_mergers_0_0.9_0.1_false_r20": warping_error(probability, label),
        "min_warping_error_0_0.9_0.1": warping_error(probability, label, count="mismatches"),
        "max_rand_fscore_0_0.9_0.1": 1 - rand_error(probability, label),
        "max_pixel_fscore_0_0.9_0.1": 1 - pixel_error(probability, label),
        "max_vrand_thinned_0_1_0.1_macro": v_rand(probability, label),
        "max_vinfo_thinned_0_1_0.1": v_info(probability, label),
    }
    assert ours == pytest.approx({key: expected[key] for key in ours}, abs=1e-9, rel=0)


def test_one_threshold_gives_the_scores_of_the_challenge(oracle: tuple[Any, Any, Any, dict[str, float]]) -> None:
    probability, label, _, expected = oracle
    pairs = rand_scores(probability, label, threshold=0.5)
    restricted = rand_scores(probability, label, threshold=0.5, foreground_restricted=True)
    ours = {
        "warping_error_t0.5": warping_error(probability, label, threshold=0.5, count="mismatches"),
        "rand_error_t0.5": pairs.error,
        "rand_precision_t0.5": pairs.precision,
        "rand_recall_t0.5": pairs.recall,
        "rand_fscore_t0.5": 1 - rand_error(probability, label, threshold=0.5),
        "rand_error_foreground_restricted_t0.5": restricted.error,
        "pixel_fscore_t0.5": 1 - pixel_error(probability, label, threshold=0.5),
        "vrand_thinned_t0.5_macro": v_rand(probability, label, threshold=0.5),
        "vrand_unthinned_t0.5_micro": v_rand(probability, label, threshold=0.5, thinned=False),
        "vinfo_thinned_t0.5": v_info(probability, label, threshold=0.5),
    }
    assert ours == pytest.approx({key: expected[key] for key in ours}, abs=1e-9, rel=0)


def test_warped_label_and_classes_are_those_of_the_challenge(oracle: tuple[Any, Any, Any, dict[str, Any]]) -> None:
    probability, label, warped, expected = oracle
    result = topological_errors(probability, label, threshold=0.5)
    np.testing.assert_array_equal(result.warped, warped > 0)
    assert [list(result.counts.values())] == expected[
        "warp_classes_per_slice_t0.5_MERGE_SPLIT_HOLEADD_OBJDEL_OBJADD_HOLEDEL"
    ]
    assert [np.count_nonzero(result.errors)] == expected["warp_mismatches_per_slice_t0.5"]
    clusters = ndimage.label(result.errors == TopologicalError.MERGE, SQUARE)[1]
    assert clusters / label.size == expected["warping_error_clustered_by_error_t0.5_r20"]


# --- definitions, written out -------------------------------------------------------------------------------------


def components(image: NDArray[Any], structure: NDArray[Any]) -> int:
    return int(ndimage.label(image, structure)[1])


def is_simple(canvas: NDArray[np.uint8], y: int, x: int) -> bool:
    """One foreground component 4-adjacent and one background component 8-adjacent to the centre of 3 x 3."""
    square = canvas[y - 1 : y + 2, x - 1 : x + 2].copy()
    square[1, 1] = 0
    foreground, _ = ndimage.label(square, CROSS)
    square[1, 1] = 1
    return len(set(foreground[CROSS]) - {0}) == 1 and components(square == 0, SQUARE) == 1


def relaxed_by_definition(probability: NDArray[Any], label: NDArray[Any], threshold: float) -> NDArray[np.uint8]:
    canvas, map_ = np.pad(label, 1), np.pad(probability, 1)
    turns = itertools.count()
    queue: list[tuple[float, int, int, int]] = []
    waiting: set[tuple[int, int]] = set()

    def enqueue(y: int, x: int) -> None:
        if (y, x) not in waiting and canvas[y, x] != (map_[y, x] > threshold):
            waiting.add((y, x))
            heapq.heappush(queue, (-abs(map_[y, x] - threshold), next(turns), y, x))

    for x in range(1, canvas.shape[1] - 1):
        for y in range(1, canvas.shape[0] - 1):
            enqueue(y, x)
    while queue:
        _, _, y, x = heapq.heappop(queue)
        waiting.remove((y, x))
        if is_simple(canvas, y, x):
            canvas[y, x] ^= 1
            for dx, dy in itertools.product((-1, 0, 1), repeat=2):
                enqueue(y + dy, x + dx)
    return canvas[1:-1, 1:-1]


def classes_by_definition(warped: NDArray[Any], proposal: NDArray[Any], radius: int) -> NDArray[np.uint8]:
    """Count the components in the square around each error before and after its flip."""
    errors = np.zeros(warped.shape, np.uint8)
    for y, x in zip(*np.nonzero(warped != proposal), strict=True):
        square = (slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1))
        flipped = warped.copy()
        flipped[y, x] ^= 1
        change = components(flipped[square], CROSS) - components(warped[square], CROSS)
        inside = np.pad(warped, 1)[y : y + 3, x : x + 3].sum() - warped[y, x] == 8
        if warped[y, x]:
            classes = (TopologicalError.OBJECT_DELETED, TopologicalError.HOLE_DELETED, TopologicalError.SPLIT)
            errors[y, x] = TopologicalError.HOLE_ADDED if inside else classes[1 + np.sign(change)]
        else:
            classes = (TopologicalError.MERGE, TopologicalError.HOLE_ADDED, TopologicalError.OBJECT_ADDED)
            errors[y, x] = TopologicalError.HOLE_DELETED if inside else classes[1 + np.sign(change)]
    return errors


@settings(max_examples=150, deadline=None)
@given(cases(), LEVELS)
def test_warping_is_the_relaxation_of_its_definition(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float
) -> None:
    np.testing.assert_array_equal(
        topological_errors(*case, threshold=threshold).warped, relaxed_by_definition(*case, threshold)
    )


@pytest.mark.parametrize("seed", range(3))
def test_warping_of_membranes_is_the_relaxation_of_its_definition(seed: int) -> None:
    probability, label = em_slice(seed, 64)
    rounded = np.round(probability, 1)
    warped = topological_errors(rounded, label, threshold=0.7).warped
    np.testing.assert_array_equal(warped, relaxed_by_definition(rounded, label, 0.7))


@settings(max_examples=150, deadline=None)
@given(cases(), LEVELS, st.integers(1, 4))
def test_classes_are_changes_of_the_components(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, radius: int
) -> None:
    result = topological_errors(*case, threshold=threshold, radius=radius)
    expected = classes_by_definition(result.warped, case[0] > threshold, radius)
    np.testing.assert_array_equal(result.errors, expected)
    assert result.counts == {error: np.count_nonzero(expected == error) for error in TopologicalError}
    counted = result.counts[TopologicalError.MERGE] + result.counts[TopologicalError.SPLIT]
    assert warping_error(*case, threshold=threshold, radius=radius) * case[1].size == pytest.approx(counted)


def regrown_by_definition(segments: NDArray[Any]) -> NDArray[Any]:
    grown = np.pad(segments, 1, constant_values=-1)
    steps = ((0, -1), (-1, 0), (1, 0), (0, 1))

    def around(y: int, x: int) -> set[int]:
        return {int(grown[y + dy, x + dx]) for dy, dx in steps} - {0, -1}

    zeros = [(int(y), int(x)) for x, y in zip(*np.nonzero(grown.T == 0), strict=True)]
    queue = deque(pixel for pixel in zeros if around(*pixel))
    seen = set(queue)
    while queue:
        y, x = queue.popleft()
        if len(around(y, x)) == 1:
            (grown[y, x],) = around(y, x)
            for dy, dx in steps:
                if grown[y + dy, x + dx] == 0 and (y + dy, x + dx) not in seen:
                    seen.add((y + dy, x + dx))
                    queue.append((y + dy, x + dx))
    return grown[1:-1, 1:-1]


def segments_of_cell_pixels(proposal: NDArray[Any], label: NDArray[Any], thinned: bool) -> list[tuple[Any, int]]:
    """(segment, cell) of each pixel in a cell; a boundary pixel of the proposal is named by its own position."""
    segments = ndimage.label(proposal, CROSS)[0]
    if thinned:
        segments = regrown_by_definition(segments)
    cells = ndimage.label(label, CROSS)[0]
    return [(int(segments[k]) or k, int(cells[k])) for k in zip(*np.nonzero(cells), strict=True)]


@settings(max_examples=100, deadline=None)
@given(arrays(np.int32, SHAPES, elements=st.integers(0, 3)))
def test_regrowth_is_that_of_its_definition(segments: NDArray[np.int32]) -> None:
    np.testing.assert_array_equal(regrow(segments), regrown_by_definition(segments))


@settings(max_examples=100, deadline=None)
@given(cases(), LEVELS, st.booleans())
def test_v_scores_are_those_of_their_equations(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, thinned: bool
) -> None:
    pixels = segments_of_cell_pixels(case[0] > threshold, case[1], thinned)
    v_rand_expected = v_info_expected = 1.0
    if pixels:
        p, s, t = (
            np.array([list(column).count(value) for value in dict.fromkeys(column)]) / len(pixels)
            for column in (pixels, [i for i, _ in pixels], [j for _, j in pixels])
        )
        v_rand_expected = (p**2).sum() / ((s**2).sum() / 2 + (t**2).sum() / 2)
        if entropy(s) + entropy(t) > 0:
            v_info_expected = (entropy(s) + entropy(t) - entropy(p)) / (entropy(s) / 2 + entropy(t) / 2)
    assert v_rand(*case, threshold=threshold, thinned=thinned) == pytest.approx(v_rand_expected, abs=1e-12)
    assert v_info(*case, threshold=threshold, thinned=thinned) == pytest.approx(v_info_expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(cases(), LEVELS, st.booleans())
def test_rand_scores_count_pairs(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, restricted: bool
) -> None:
    probability, label = case
    if restricted:
        pixels = segments_of_cell_pixels(probability > threshold, label, thinned=False)
    else:
        images = (ndimage.label(image, CROSS)[0].ravel().tolist() for image in (probability > threshold, label))
        pixels = list(zip(*images, strict=True))
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in itertools.combinations(pixels, 2)]
    both, proposal, joined = pairs.count((True, True)), sum(a for a, _ in pairs), sum(b for _, b in pairs)
    scores = rand_scores(probability, label, threshold=threshold, foreground_restricted=restricted)
    assert scores.error == pytest.approx(sum(a != b for a, b in pairs) / max(len(pairs), 1))
    assert scores.precision == pytest.approx(both / proposal if proposal else 1)
    assert scores.recall == pytest.approx(both / joined if joined else 1)
    assert scores.fscore == pytest.approx(2 * both / (proposal + joined) if proposal + joined else 1)
    error = rand_error(probability, label, threshold=threshold, foreground_restricted=restricted)
    assert error == pytest.approx(1 - scores.fscore)


# --- laws ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases(depth=2))
def test_a_perfect_proposal_has_no_error(case: tuple[Any, NDArray[np.uint8]]) -> None:
    label = case[1]
    for metric in (pixel_error, rand_error):
        assert metric(label, label) == 0
        assert metric(label, label, threshold=0.5) == 0
    assert warping_error(label, label, count="mismatches") == 0
    for score in SCORES:
        assert score(label, label) == pytest.approx(1)
        assert score(label, label, thinned=False) == pytest.approx(1)


def test_real_labels_are_perfect_against_themselves(real_data: Path) -> None:
    label = tifffile.imread(real_data / "isbi2012" / "train-labels.tif", key=range(2))
    assert label.shape == (2, 512, 512)
    for metric in ERRORS:
        assert metric(label // 255, label, threshold=0.5) == 0
    for score in SCORES:
        assert score(label // 255, label, threshold=0.5) == pytest.approx(1)


@settings(max_examples=150, deadline=None)
@given(cases(), LEVELS)
def test_the_warped_label_is_homotopic(case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float) -> None:
    warped = topological_errors(*case, threshold=threshold).warped
    assert components(warped, CROSS) == components(case[1], CROSS)
    assert components(np.pad(warped, 1) == 0, SQUARE) == components(np.pad(case[1], 1) == 0, SQUARE)
    agreed = case[1] == (case[0] > threshold)
    np.testing.assert_array_equal(warped[agreed], case[1][agreed])


@settings(max_examples=100, deadline=None)
@given(cases(), LEVELS)
def test_no_simple_point_is_left_to_flip(case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float) -> None:
    result = topological_errors(*case, threshold=threshold)
    np.testing.assert_array_equal(result.errors > 0, result.warped != (case[0] > threshold))
    canvas = np.pad(result.warped, 1)
    assert not any(is_simple(canvas, y + 1, x + 1) for y, x in zip(*np.nonzero(result.errors), strict=True))


SYMMETRIES: list[Callable[[NDArray[Any]], NDArray[Any]]] = [np.flipud, np.fliplr, np.transpose, np.rot90]


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("seed", range(3))
def test_symmetries_of_the_square_keep_warping_without_ties(
    symmetry: Callable[[NDArray[Any]], NDArray[Any]], seed: int
) -> None:
    probability, label = em_slice(seed)
    assert np.unique(np.abs(probability - 0.6)).size == probability.size
    upright = topological_errors(probability, label, threshold=0.6)
    turned = topological_errors(symmetry(probability), symmetry(label), threshold=0.6)
    np.testing.assert_array_equal(turned.warped, symmetry(upright.warped))
    np.testing.assert_array_equal(turned.errors, symmetry(upright.errors))


@settings(max_examples=40, deadline=None)
@given(cases(), LEVELS, st.sampled_from(SYMMETRIES))
def test_symmetries_of_the_square_keep_scores_without_flooding(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, symmetry: Callable[[Any], Any]
) -> None:
    turned = tuple(symmetry(image) for image in case)
    for metric in (pixel_error, rand_error):
        assert metric(*turned, threshold=threshold) == pytest.approx(metric(*case, threshold=threshold), abs=1e-12)
    for score in SCORES:
        upright = score(*case, threshold=threshold, thinned=False)
        assert score(*turned, threshold=threshold, thinned=False) == pytest.approx(upright, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_renaming_and_regrouping_slices_changes_nothing(seed: int) -> None:
    probability, label = (
        np.stack(images) for images in zip(*(em_slice(10 * seed + z, 48) for z in range(4)), strict=True)
    )
    for metric, (statistics, from_statistics) in STATISTICS.items():
        whole = metric(probability, label)
        each = [statistics(p, t) for p, t in zip(probability, label, strict=True)]
        assert from_statistics(each) == pytest.approx(whole, abs=1e-12)
        assert from_statistics(sum(each)) == pytest.approx(whole, abs=1e-12)
        batches = [statistics(probability[:1], label[:1]), statistics(probability[1:], label[1:])]
        assert from_statistics(batches) == pytest.approx(whole, abs=1e-12)
        assert metric(probability[::-1], label[::-1]) == pytest.approx(whole, abs=1e-12)
        assert metric(probability.astype(np.float32), 255 * label) == pytest.approx(
            metric(probability.astype(np.float32), label > 0), abs=0
        )


@pytest.mark.parametrize("metric", [*ERRORS, *SCORES])
def test_the_sweep_is_the_best_single_threshold_of_the_slices_means(metric: Metric) -> None:
    probability, label = (np.stack(images) for images in zip(*(em_slice(z, 48) for z in range(2)), strict=True))
    thresholds = V_THRESHOLDS if metric in SCORES else THRESHOLDS
    means = [
        np.mean([metric(p, t, threshold=th) for p, t in zip(probability, label, strict=True)]) for th in thresholds
    ]
    best = max(means) if metric in SCORES else min(means)
    assert metric(probability, label) == pytest.approx(best, abs=1e-12)
    assert len({round(float(mean), 9) for mean in means}) > 2


def test_v_statistics_holds_both_scores() -> None:
    probability, label = em_slice(0)
    both = v_statistics(probability, label)
    np.testing.assert_array_equal(both[:, (0, 2)], v_rand_statistics(probability, label))
    np.testing.assert_array_equal(both[:, (1, 2)], v_info_statistics(probability, label))


# --- by hand ------------------------------------------------------------------------------------------------------


def test_thresholds_add_up_in_double_precision() -> None:
    assert len(THRESHOLDS) == 10
    assert len(V_THRESHOLDS) == 11
    assert THRESHOLDS[3] == 0.1 + 0.1 + 0.1 != 0.3
    assert V_THRESHOLDS[-1] < 1
    # 0.3 is not above 0.30000000000000004, single 0.1 is above double 0.1
    assert pixel_error_statistics([[0.3]], [[1]], THRESHOLDS[3:4])[0, 0] == 0
    assert pixel_error_statistics(np.float32([[0.1]]), [[1]], THRESHOLDS[1:2])[0, 0] == 1


def test_a_pixel_at_the_threshold_is_membrane() -> None:
    assert pixel_error([[0.5, 0.75]], [[0, 1]], threshold=0.5) == 0


def test_pixel_error_is_the_mean_over_slices() -> None:
    # F = 2 * 1 / (2 * 1 + 1) and 1: pooled over the slices it would be 2 * 3 / (2 * 3 + 1)
    probability = [[[1.0, 1.0]], [[1.0, 1.0]]]
    assert pixel_error(probability, [[[1, 0]], [[1, 1]]], threshold=0.5) == pytest.approx(1 - (2 / 3 + 1) / 2)


def test_v_rand_of_a_cell_cut_by_a_line() -> None:
    # five pixels: segments of 2, 1 (the line) and 2 in one cell; p_ij = s_i
    cut = [[1.0, 1.0, 0.0, 1.0, 1.0]]
    cell = [[1, 1, 1, 1, 1]]
    assert v_rand(cut, cell, threshold=0.5) == pytest.approx((9 / 25) / (9 / 50 + 1 / 2))
    assert v_info(cut, cell, threshold=0.5) == pytest.approx(0, abs=1e-12)


def test_v_info_of_a_merge_of_two_of_three_cells() -> None:
    # H(T) = log 3, segments of two thirds and one third, S is a function of T: I = H(S)
    label = [[1, 0, 1, 0, 1]]
    merged = [[1.0, 1.0, 1.0, 0.0, 1.0]]
    entropy_s = math.log(3) - 2 / 3 * math.log(2)
    assert v_info(merged, label, threshold=0.5) == pytest.approx(2 * entropy_s / (entropy_s + math.log(3)))
    assert v_rand(merged, label, threshold=0.5) == pytest.approx((3 / 9) / ((5 / 9 + 3 / 9) / 2))


def test_thinning_forgives_a_thick_membrane() -> None:
    label = [[1, 1, 1, 0, 1, 1, 1]]
    thick = [[1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]]
    assert v_rand(thick, label, threshold=0.5) == pytest.approx(1)
    # without thinning, two of the six pixels are alone: sum p_ij^2 = sum s_i^2 = 2 * 4 + 2
    assert v_rand(thick, label, threshold=0.5, thinned=False) == pytest.approx(10 / (10 / 2 + 18 / 2))


def membrane_ring(top: int = 5) -> NDArray[np.uint8]:
    """A cell within a square membrane 3 px wide, within another cell."""
    label = np.ones((24, 24), np.uint8)
    label[top : top + 13, 5:18] = 0
    label[top + 3 : top + 10, 8:15] = 1
    return label


def errors_of(probability: NDArray[Any], label: NDArray[Any]) -> dict[str, int]:
    counts = topological_errors(probability, label).counts
    return {error.name: count for error, count in counts.items() if count}


def test_a_shifted_membrane_is_no_error() -> None:
    label, shifted = membrane_ring(), membrane_ring(6)
    assert pixel_error(shifted, label) > 0
    assert warping_error(shifted, label, count="mismatches") == 0
    np.testing.assert_array_equal(topological_errors(shifted, label).warped, shifted)


def test_a_gap_of_one_pixel_is_one_merge() -> None:
    label = membrane_ring()
    gap = label.copy()
    gap[5:8, 11] = 1
    assert errors_of(gap, label) == {"MERGE": 1}
    assert warping_error(gap, label) == 1 / label.size
    assert np.argwhere(topological_errors(gap, label).errors)[0][1] == 11


def test_a_bridge_of_membrane_is_one_split() -> None:
    label = np.ones((9, 30), np.uint8)
    bridge = label.copy()
    bridge[:, 14] = 0
    assert errors_of(bridge, label) == {"SPLIT": 1}
    assert warping_error(bridge, label) == 1 / label.size


def test_holes_and_objects_are_no_splits_and_merges() -> None:
    label = membrane_ring()
    hole = label.copy()
    hole[11, 11] = 0
    assert errors_of(hole, label) == {"HOLE_ADDED": 1}
    assert errors_of(label, hole) == {"HOLE_DELETED": 1}
    island = label.copy()
    island[6, 11] = 1
    assert errors_of(island, label) == {"OBJECT_ADDED": 1}
    assert errors_of(label, island) == {"OBJECT_DELETED": 1}
    for proposal, truth in itertools.permutations((label, hole, island), 2):
        assert warping_error(proposal, truth) == 0
        assert warping_error(proposal, truth, count="mismatches") > 0


def test_radius_tells_whether_a_cut_ring_is_split() -> None:
    ring = np.ones((15, 15), np.uint8)
    ring[1:14, 1:14] = 0
    cut = ring.copy()
    cut[0, 7] = 0
    for radius, error in ((6, TopologicalError.SPLIT), (14, TopologicalError.HOLE_DELETED)):
        assert topological_errors(cut, ring, radius=radius).counts[error] == 1
        assert warping_error(cut, ring, radius=radius) == (error == TopologicalError.SPLIT) / ring.size


def test_the_largest_distance_from_the_threshold_flips_first() -> None:
    # the row can be cut at any of three pixels, the surest two are taken and the least sure stays
    label = np.ones((1, 5), np.uint8)
    probability = np.array([[1.0, 0.4, 0.1, 0.2, 1.0]])
    result = topological_errors(probability, label)
    assert np.count_nonzero(result.errors) == 3
    label = np.array([[1, 0, 0, 0, 1]], np.uint8)
    result = topological_errors(np.array([[1.0, 0.7, 0.6, 0.9, 1.0]]), label)
    np.testing.assert_array_equal(result.errors, [[0, 0, 1, 0, 0]])


# --- bad input ----------------------------------------------------------------------------------------------------

P, T = np.full((4, 4), 0.5), np.eye(4, dtype=np.uint8)
BAD_INPUT: list[tuple[Any, Any, str]] = [
    (P, T[:3], r"label\.shape=\(3, 4\): must equal probability\.shape=\(4, 4\)"),
    (P[0], T[0], r"probability\.shape=\(4,\): must be \(H, W\) or \(Z, H, W\)"),
    (P[None, None], T[None, None], r"probability\.shape=\(1, 1, 4, 4\): must be"),
    (P[None][:0], T[None][:0], r"probability\.shape=\(0, 4, 4\): the stack is empty"),
    (P + 1, T, r"probability=1\.5\.\.1\.5: must be in \[0, 1\]"),
    (P - 1, T, r"probability=-0\.5\.\.-0\.5: must be in \[0, 1\]"),
    (255 * T, T, r"probability=0\.\.255: must be in \[0, 1\]; divide"),
    (np.where(T, np.nan, P), T, r"probability=nan in places"),
    (np.where(T, np.inf, P), T, r"probability=0\.5\.\.inf: must be in"),
    (P.astype(complex), T, r"probability\.dtype=complex128: must be real"),
    (P, 2 * T, r"label=0, 2\.\.: must hold only \{0, 1\} or \{0, 255\}"),
    (P, np.arange(16).reshape(4, 4) * 17, r"label=0, 17, 34, 51, 68\.\.: must hold only"),
    (P, np.where(T, 255, 1), r"label=1, 255\.\.: must hold only"),
    (P, -T.astype(int), r"label=-1, 0\.\.: must hold only"),
    (P, np.where(T, np.nan, 1), r"label=1\.0, nan\.\.: must hold only"),
]


@pytest.mark.parametrize(("probability", "label", "message"), BAD_INPUT)
def test_bad_input_is_refused_by_every_metric_alike(probability: Any, label: Any, message: str) -> None:
    for metric in (*ERRORS, *SCORES, rand_scores, topological_errors, *(pair[0] for pair in STATISTICS.values())):
        with pytest.raises(ValueError, match=message):
            metric(probability, label)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_outside_the_probabilities_is_refused(threshold: float) -> None:
    for metric in (*ERRORS, *SCORES, rand_scores, topological_errors):
        with pytest.raises(ValueError, match=rf"threshold={threshold}: must be in \[0, 1\]"):
            metric(P, T, threshold=threshold)
    for statistics, _ in STATISTICS.values():
        with pytest.raises(ValueError, match="thresholds="):
            statistics(P, T, ())


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="radius=0: must be at least 1"):
        warping_error(P, T, radius=0)
    with pytest.raises(ValueError, match="count='all': must be one of splits_and_merges, mismatches"):
        warping_error_from_statistics(np.ones((1, 3)), count="all")  # type: ignore[arg-type]
    for _, from_statistics in STATISTICS.values():
        with pytest.raises(ValueError, match="statistics"):
            from_statistics([])


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
def test_a_label_without_any_cell_has_the_documented_value(shape: tuple[int, ...]) -> None:
    membrane, cells = np.zeros(shape), np.ones(shape)
    label = np.zeros(shape, np.uint8)
    for proposal in (membrane, cells):
        assert warping_error(proposal, label) == 0
        assert v_rand(proposal, label) == v_info(proposal, label) == 1
        assert rand_error(proposal, label) == 0
    assert pixel_error(membrane, label) == 0
    assert pixel_error(cells, label) == 1


def test_a_label_of_cells_only_is_accepted() -> None:
    ones = np.ones((4, 5))
    for metric in ERRORS:
        assert metric(ones, ones) == 0
        assert metric(ones, 255 * ones.astype(np.uint8)) == 0
    for score in SCORES:
        assert score(ones, ones.astype(bool)) == 1
