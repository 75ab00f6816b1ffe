"""The ISBI 2012 metrics against definitions written out in Python, and laws; see also test_challenge_scores.py."""

import itertools
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
from unet_paper.metrics.em_kernels import components as numbered_components
from unet_paper.metrics.em_kernels import joint_sums, regrow
from unet_paper.metrics.pixel_error import (
    pixel_error,
    pixel_error_from_statistics,
    pixel_error_statistics,
    pixel_scores,
)
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
    """A Voronoi diagram with membranes 3 px wide, and a smooth noisy map of it, far apart in single precision too."""
    generator = np.random.default_rng(seed)
    seeds = generator.uniform(0, size, (14, 2))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    owner = np.linalg.norm(grid[:, :, None] - seeds, axis=-1).argmin(axis=-1)
    edge = ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3)
    label = ~ndimage.binary_dilation(edge, CROSS)
    noise = ndimage.gaussian_filter(generator.standard_normal(label.shape), 1)
    probability = np.clip(ndimage.gaussian_filter(label.astype(float), 1) + 0.7 * noise, 0.01, 0.99)
    probability += generator.uniform(-1e-3, 1e-3, label.shape)
    # evenly spaced, so that rounding to single precision makes no two alike; sqrt: none mirrored at a threshold
    spaced = np.sqrt(np.linspace(1e-4, 0.98, label.size))
    ranked = np.empty(label.size)
    ranked[np.argsort(probability, axis=None)] = spaced
    return ranked.reshape(label.shape), label.astype(np.uint8)


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
    """Pass by pass over the whole list, as the challenge does it."""
    canvas, map_ = np.pad(label, 1), np.pad(probability.astype(np.float32), 1).astype(np.float64)
    height, width = label.shape
    places = [(y, x) for x in range(1, width + 1) for y in range(1, height + 1)]
    differing = [place for place in places if canvas[place] != (map_[place] > threshold)]
    differing.sort(key=lambda place: -np.float32(abs(map_[place] - threshold)))
    left = None
    while left != len(differing):
        left = len(differing)
        for y, x in differing:
            if is_simple(canvas, y, x):
                canvas[y, x] ^= 1
        differing = [place for place in differing if canvas[place] != (map_[place] > threshold)]
    return canvas[1:-1, 1:-1]


def ids_around(ids: NDArray[Any], y: int, x: int) -> list[int]:
    """Of the up to 8 neighbours that are in the image."""
    rows, columns = range(max(y - 1, 0), min(y + 2, ids.shape[0])), range(max(x - 1, 0), min(x + 2, ids.shape[1]))
    return [int(ids[place]) for place in itertools.product(rows, columns) if place != (y, x)]


def classes_by_definition(warped: NDArray[Any], proposal: NDArray[Any], radius: int) -> NDArray[np.uint8]:
    """The rules for the 8 neighbours of each error, and for the square around a cell pixel."""
    errors = np.zeros(warped.shape, np.uint8)
    cells = ndimage.label(warped, CROSS)[0]
    for y, x in zip(*np.nonzero(warped != proposal), strict=True):
        found = set(ids_around(cells, y, x))
        if found <= {0}:
            errors[y, x] = TopologicalError.OBJECT_DELETED if warped[y, x] else TopologicalError.OBJECT_ADDED
        elif len(found) == 1:
            errors[y, x] = TopologicalError.HOLE_ADDED if warped[y, x] else TopologicalError.HOLE_DELETED
        elif not warped[y, x]:
            errors[y, x] = TopologicalError.HOLE_ADDED if len(found - {0}) == 1 else TopologicalError.MERGE
        else:
            without = warped.copy()
            without[y, x] = 0
            if 1 <= radius <= min(warped.shape):
                square = np.pad(without, radius)[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
                parts = set(ids_around(ndimage.label(square, CROSS)[0], radius, radius))
            else:
                parts = set(ids_around(ndimage.label(without, CROSS)[0], y, x))
            errors[y, x] = TopologicalError.SPLIT if len(parts) > 2 else TopologicalError.HOLE_DELETED
    return errors


def clusters_by_definition(errors: NDArray[Any], warped: NDArray[Any]) -> dict[TopologicalError, int]:
    """Components of each class; merges and holes added on cells 8-connected, the rest 4-connected."""
    structures = {
        (error, on_cell): SQUARE
        if error == TopologicalError.MERGE or (error == TopologicalError.HOLE_ADDED and on_cell)
        else CROSS
        for error in TopologicalError
        for on_cell in (False, True)
    }
    return {
        error: sum(components((errors == error) & (warped == on), structures[error, on]) for on in (False, True))
        for error in TopologicalError
    }


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
@given(cases(), LEVELS, st.integers(0, 10))
def test_classes_are_those_of_their_rules(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, radius: int
) -> None:
    result = topological_errors(*case, threshold=threshold, radius=radius)
    expected = classes_by_definition(result.warped, case[0] > threshold, radius)
    np.testing.assert_array_equal(result.errors, expected)
    assert result.counts == {error: np.count_nonzero(expected == error) for error in TopologicalError}
    clusters = clusters_by_definition(expected, result.warped)
    assert result.clusters == clusters
    for count, classes in (("splits_and_merges", list(TopologicalError)[:2]), ("mismatches", list(TopologicalError))):
        error = warping_error(*case, threshold=threshold, radius=radius, count=count, clustered=True)
        assert error * case[1].size == pytest.approx(sum(clusters[found] for found in classes))
    counted = result.counts[TopologicalError.MERGE] + result.counts[TopologicalError.SPLIT]
    assert warping_error(*case, threshold=threshold, radius=radius) * case[1].size == pytest.approx(counted)


def regrown_by_definition(segments: NDArray[Any]) -> NDArray[Any]:
    if not segments.any():
        return np.ones_like(segments)
    grown = np.pad(segments, 1, constant_values=-1)
    steps = ((0, -1), (-1, 0), (1, 0), (0, 1))

    def around(y: int, x: int) -> set[int]:
        return {int(grown[y + dy, x + dx]) for dy, dx in steps} - {0, -1}

    zeros = [(int(y), int(x)) for x, y in zip(*np.nonzero(grown.T == 0), strict=True)]
    queue = deque(pixel for pixel in zeros if around(*pixel))
    seen = set(queue)
    while queue:
        y, x = queue.popleft()
        for dy, dx in steps:
            if grown[y + dy, x + dx] == 0 and (y + dy, x + dx) not in seen:
                seen.add((y + dy, x + dx))
                queue.append((y + dy, x + dx))
        if len(around(y, x)) == 1:
            (grown[y, x],) = around(y, x)
    return grown[1:-1, 1:-1]


def segments_of_cell_pixels(proposal: NDArray[Any], label: NDArray[Any], thinned: bool) -> list[tuple[Any, int]]:
    """(segment, cell) of each pixel in a cell; a boundary pixel of the proposal is named by its own position."""
    segments = ndimage.label(proposal, CROSS)[0]
    if thinned:
        segments = regrown_by_definition(segments)
    cells = ndimage.label(label, CROSS)[0]
    return [(int(segments[k]) or k, int(cells[k])) for k in zip(*np.nonzero(cells), strict=True)]


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)))
def test_components_are_those_of_scipy(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(numbered_components(image), ndimage.label(image, CROSS)[0])


@settings(max_examples=100, deadline=None)
@given(arrays(np.int32, SHAPES, elements=st.sampled_from([0, 0, 0, 1, 2, 3])))
def test_regrowth_is_that_of_its_definition(segments: NDArray[np.int32]) -> None:
    np.testing.assert_array_equal(regrow(segments), regrown_by_definition(segments))


@settings(max_examples=100, deadline=None)
@given(cases(), LEVELS, st.booleans())
def test_v_scores_are_those_of_their_equations(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float, thinned: bool
) -> None:
    pixels = segments_of_cell_pixels(case[0] > threshold, case[1], thinned)
    v_rand_expected = v_info_expected = 0.0
    if pixels:
        p, s, t = (
            np.array([list(column).count(value) for value in dict.fromkeys(column)]) / len(pixels)
            for column in (pixels, [i for i, _ in pixels], [j for _, j in pixels])
        )
        v_rand_expected = (p**2).sum() / ((s**2).sum() / 2 + (t**2).sum() / 2)
        if len(s) > 1 and len(t) > 1:
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
    with_cells = sum(1 for cell in label if cell.any()) / len(label)
    with_several = sum(1 for cell in label if components(cell, CROSS) > 1) / len(label)
    for thinned in (True, False):
        assert v_rand(label, label, thinned=thinned) == pytest.approx(with_cells)
        assert v_info(label, label, thinned=thinned) == pytest.approx(with_several)
        for score in SCORES:
            assert score(label, label, thinned=thinned, undefined=1) == pytest.approx(1)
        micro = v_rand(label, label, thinned=thinned, average="micro")
        assert micro == pytest.approx(1 if with_cells == 1 else 0)


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
def test_a_relaxed_label_is_a_fixed_point(
    case: tuple[NDArray[np.float64], NDArray[np.uint8]], threshold: float
) -> None:
    first = topological_errors(*case, threshold=threshold)
    again = topological_errors(case[0], first.warped, threshold=threshold)
    np.testing.assert_array_equal(again.warped, first.warped)
    np.testing.assert_array_equal(again.errors, first.errors)


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


@settings(max_examples=25, deadline=None)
@given(cases(depth=5), st.lists(st.integers(0, 2), min_size=5, max_size=5), st.permutations(range(5)))
def test_no_score_depends_on_how_slices_are_dealt_out(
    case: tuple[NDArray[Any], NDArray[Any]], owners: list[int], order: list[int]
) -> None:
    """As to processes, in whatever order, some of them without a slice: sums of counts are what is added up."""
    probability, label = case
    for metric, (statistics, from_statistics) in STATISTICS.items():
        shares = []
        for owner in range(3):
            slices = [z for z in order if owners[z] == owner]
            if slices:
                shares.append(statistics(probability[slices], label[slices]))
        whole = metric(probability, label)
        assert from_statistics(sum(shares)) == pytest.approx(whole, abs=0 if metric in ERRORS else 1e-12)
        assert from_statistics(shares) == pytest.approx(whole, abs=0 if metric in ERRORS else 1e-12)


def counts_of_pairs(segments: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.int64]:
    """Pairs of different pixels joined by both, by the first, by the second, from a table of overlaps."""
    table = np.zeros((segments.max() + 1, cells.max() + 1), np.int64)
    np.add.at(table, (segments.ravel(), cells.ravel()), 1)
    sizes = (table, table.sum(axis=1), table.sum(axis=0))
    return np.array([(size * (size - 1) // 2).sum() for size in sizes])


def pooled_fscore(counts: list[NDArray[np.int64]]) -> float:
    both, proposal, label = np.sum(counts, axis=0)
    return float(2 * both / (proposal + label))


def test_one_threshold_is_chosen_for_the_whole_stack() -> None:
    """Counts of the F-scores pooled over slices, the others averaged, and only then the best threshold."""
    stacks = [np.stack(images) for images in zip(*(em_slice(z, 48) for z in range(3)), strict=True)]
    probability, label = stacks[0].astype(np.float32), stacks[1]
    probability[1] **= 2  # with a best threshold of its own
    pixels, pairs, means = [], [], {metric: [] for metric in (warping_error, *SCORES)}
    for threshold in V_THRESHOLDS:
        proposal = probability.astype(np.float64) > threshold
        sides = [np.array([(p & (t > 0)).sum(), p.sum(), t.sum()]) for p, t in zip(proposal, label, strict=True)]
        pixels.append(pooled_fscore(sides))
        images = [
            (ndimage.label(p, CROSS)[0], ndimage.label(t, CROSS)[0]) for p, t in zip(proposal, label, strict=True)
        ]
        pairs.append(pooled_fscore([counts_of_pairs(*both) for both in images]))
        for metric, mean in means.items():
            single = [metric(p, t, threshold=threshold) for p, t in zip(probability, label, strict=True)]
            mean.append(np.mean(single))
    assert pixel_error(probability, label) == pytest.approx(1 - max(pixels[:-1]), abs=1e-12)
    assert rand_error(probability, label) == pytest.approx(1 - max(pairs[:-1]), abs=1e-12)
    assert warping_error(probability, label) == pytest.approx(min(means[warping_error][:-1]), abs=1e-12)
    for score in SCORES:
        assert score(probability, label) == pytest.approx(max(means[score]), abs=1e-12)
    slices = [1 - pixel_error(p, t) for p, t in zip(probability, label, strict=True)]
    assert np.mean(slices) > max(pixels)  # no threshold is the best of every slice, and a mean is not pooled


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, SHAPES, elements=st.integers(0, 4)), st.permutations(range(1, 5)), st.booleans())
def test_the_order_of_segments_does_not_matter(segments: NDArray[np.int32], names: list[int], restricted: bool) -> None:
    renamed = np.array([0, *names], np.int32)
    np.testing.assert_array_equal(regrow(renamed[segments]), renamed[regrow(segments)] if segments.any() else 1)
    cells = np.roll(segments, 1)
    sums = joint_sums(segments, cells, restricted)
    np.testing.assert_allclose(joint_sums(renamed[segments], cells, restricted), sums, rtol=1e-12)
    np.testing.assert_allclose(joint_sums(segments, renamed[cells], restricted), sums, rtol=1e-12)


def test_v_statistics_holds_both_scores() -> None:
    probability, label = em_slice(0)
    of_rand, of_info = v_statistics(probability, label)
    np.testing.assert_array_equal(of_rand, v_rand_statistics(probability, label))
    np.testing.assert_array_equal(of_info, v_info_statistics(probability, label))


# --- by hand ------------------------------------------------------------------------------------------------------


def test_thresholds_add_up_in_double_precision() -> None:
    assert len(THRESHOLDS) == 10
    assert len(V_THRESHOLDS) == 11
    assert THRESHOLDS[3] == 0.1 + 0.1 + 0.1 != 0.3
    assert V_THRESHOLDS[-1] < 1
    # single 0.1 is 0.10000000149, above double 0.1, single 0.7 is 0.69999998808, below 0.7; a map is kept in single
    # precision as in a file, whatever it was computed in
    for dtype in (np.float32, np.float64):
        assert pixel_error_statistics(dtype([[0.1]]), [[1]], THRESHOLDS[1:2])[0, 0] == 1
        assert pixel_error_statistics(dtype([[0.7]]), [[1]], THRESHOLDS[7:8])[0, 0] == 0


def test_a_pixel_at_the_threshold_is_membrane() -> None:
    assert pixel_error([[0.5, 0.75]], [[0, 1]], threshold=0.5) == 0


def test_f_scores_pool_the_slices() -> None:
    # one true, one false positive; two true positives: the mean of the F-scores would be (2 / 3 + 1) / 2
    probability = [[[1.0, 1.0]], [[1.0, 1.0]]]
    label = [[[1, 0]], [[1, 1]]]
    assert pixel_error(probability, label, threshold=0.5) == pytest.approx(1 - 2 * 3 / (2 * 3 + 1))
    scores = pixel_scores(probability, label)
    assert scores == pytest.approx((1 / 4, 3 / 4, 1, 6 / 7))
    # three cell pixels and one of membrane, all joined: 3 of 6 pairs; then 6 of 6
    probability, label = np.ones((2, 1, 4)), np.array([[[1, 1, 1, 0]], [[1, 1, 1, 1]]])
    pairs = rand_scores(probability, label)
    assert pairs == pytest.approx(((3 / 6 + 0) / 2, 9 / 12, 1, 2 * 9 / (12 + 9)))
    assert rand_error(probability, label) == pytest.approx(1 - 18 / 21)


def test_v_rand_of_slices_pooled_and_averaged() -> None:
    # two cells joined, 8 / (16/2 + 8/2) of pixels; one cell of ten pixels found
    probability = np.array([[[1.0] * 5 + [0.0] * 5], [[1.0] * 10]])
    label = np.array([[[1, 1, 0, 1, 1] + [0] * 5], [[1] * 10]])
    assert v_rand(probability, label, threshold=0.5) == pytest.approx((2 / 3 + 1) / 2)
    micro = v_rand(probability, label, threshold=0.5, average="micro")
    assert micro == pytest.approx((8 + 100) / ((16 + 100) / 2 + (8 + 100) / 2))


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
    whole = ((0, TopologicalError.HOLE_DELETED), (16, TopologicalError.HOLE_DELETED))
    for radius, error in ((6, TopologicalError.SPLIT), (14, TopologicalError.HOLE_DELETED), *whole):
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


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, True])
def test_a_threshold_outside_the_probabilities_is_refused(threshold: float) -> None:
    for metric in (*ERRORS, *SCORES, rand_scores, topological_errors):
        with pytest.raises(ValueError, match=rf"threshold={threshold}: must be in \[0, 1\]"):
            metric(P, T, threshold=threshold)
    for statistics, _ in STATISTICS.values():
        with pytest.raises(ValueError, match="thresholds="):
            statistics(P, T, ())


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="average='mean': must be one of macro, micro"):
        v_rand(P, T, average="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count='all': must be one of splits_and_merges, mismatches"):
        warping_error_from_statistics(np.ones((1, 5)), count="all")  # type: ignore[arg-type]
    for radius in (1.5, math.nan, "20", True):
        for metric in (warping_error, topological_errors):
            with pytest.raises(ValueError, match=f"radius={radius!r}: a whole number of px"):
                metric(P, T, radius=radius)
    for _, from_statistics in STATISTICS.values():
        with pytest.raises(ValueError, match="statistics"):
            from_statistics([])


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
def test_a_label_without_any_cell_has_the_documented_value(shape: tuple[int, ...]) -> None:
    membrane, cells = np.zeros(shape), np.ones(shape)
    label = np.zeros(shape, np.uint8)
    for proposal in (membrane, cells):
        assert warping_error(proposal, label) == 0
        assert v_rand(proposal, label) == v_info(proposal, label) == v_rand(proposal, label, average="micro") == 0
        assert v_rand(proposal, label, undefined=1) == v_info(proposal, label, undefined=1) == 1
        assert rand_error(proposal, label) == 0
    assert pixel_error(membrane, label) == 0
    assert pixel_error(cells, label) == 1


def test_a_slice_without_a_cell_counts() -> None:
    label = np.stack([membrane_ring(), np.zeros((24, 24), np.uint8)])
    assert v_rand(label, label) == pytest.approx(0.5)
    assert v_info(label, label) == pytest.approx(0.5)
    assert v_rand(label, label, average="micro") == 0


def test_a_proposal_without_any_cell_is_one_segment() -> None:
    label = np.array([[1, 1, 0, 1, 1]])
    assert v_rand(np.zeros((1, 5)), label, threshold=0.5) == pytest.approx(8 / (16 / 2 + 8 / 2))
    assert v_rand(np.zeros((1, 5)), label, threshold=0.5, thinned=False) == pytest.approx(4 / (4 / 2 + 8 / 2))


def test_a_label_of_cells_only_is_accepted() -> None:
    ones = np.ones((4, 5))
    for metric in ERRORS:
        assert metric(ones, ones) == 0
        assert metric(ones, 255 * ones.astype(np.uint8)) == 0
    assert v_rand(ones, ones.astype(bool)) == 1
    assert v_info(ones, ones.astype(bool)) == 0  # there is nothing to tell of one cell
    assert v_info(ones, ones.astype(bool), undefined=1) == 1
