"""Cells from probabilities: each step by hand, the laws of all, and what real gold masks come to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import expand_labels

from unet_paper.instances import PRESETS, LabelInstancesd, label_instances
from unet_paper.weight_map import separation_border

probabilities = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)


def picture(text: str) -> NDArray[np.int32]:
    """Label image drawn in text: ``.`` is background, a digit a cell; lines are rows."""
    return np.array([[0 if pixel == "." else int(pixel) for pixel in row] for row in text.split()], np.int32)


def seg(cells: NDArray[Any], gold: NDArray[Any]) -> list[float]:
    """SEG of the Cell Tracking Challenge: Jaccard index of the cell that covers over half of a gold object."""
    scores = []
    for name in np.unique(gold[gold > 0]):
        drawn = gold == name
        found, pixels = np.unique(cells[drawn & (cells > 0)], return_counts=True)
        scores.append(0.0)
        for cell in found[2 * pixels > drawn.sum()]:
            scores[-1] = np.sum(drawn & (cells == cell)) / np.sum(drawn | (cells == cell))
    return scores


def with_names_of(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """Grown cells under the ids that they had before: growing may change which one comes first."""
    names = np.zeros(after.max(initial=0) + 1, before.dtype)
    names[after[before > 0]] = before[before > 0]
    return names[after]


class TestSteps:
    def test_foreground_is_strictly_above_the_threshold(self) -> None:
        probability = np.array([[0.5, np.nextafter(0.5, 1), 0.0, 0.9]])
        np.testing.assert_array_equal(label_instances(probability, regrow=0), [[0, 1, 0, 2]])
        np.testing.assert_array_equal(label_instances(probability, regrow=0, threshold=0.9), 0)

    def test_connectivity(self) -> None:
        corner = picture("1. .1")
        np.testing.assert_array_equal(label_instances(corner, connectivity=4, regrow=0), picture("1. .2"))
        np.testing.assert_array_equal(label_instances(corner, connectivity=8, regrow=0), picture("1. .1"))

    def test_small_cells_go_and_the_rest_is_numbered_anew(self) -> None:
        cells = picture("11.1.111")
        np.testing.assert_array_equal(label_instances(cells, regrow=0, min_size=2), picture("11...222"))
        np.testing.assert_array_equal(label_instances(cells, regrow=0, min_size=3), picture(".....111"))
        np.testing.assert_array_equal(label_instances(cells, regrow=0, min_size=4), picture("........"))

    def test_holes_are_filled_unless_they_reach_the_border_or_another_cell(self) -> None:
        cells = picture(
            """
            11111..
            1...1..
            1.1.111
            1...1.1
            111.1.1
            ..1.1.1
            ..111..
            """
        )
        assert label_instances(cells, regrow=0)[2, 2] == 2
        np.testing.assert_array_equal(
            label_instances(cells, regrow=0, fill_holes=True), label_instances(cells, regrow=0)
        )
        ring = picture("1111. 1..1. 1111.")
        np.testing.assert_array_equal(label_instances(ring, regrow=0, fill_holes=True), picture("1111. 1111. 1111."))
        open_at_the_border = picture("1.11. 1..1. 1111.")
        np.testing.assert_array_equal(
            label_instances(open_at_the_border, regrow=0, fill_holes=True), open_at_the_border
        )

    def test_a_hole_opens_through_a_corner_unless_components_connect_through_it(self) -> None:
        diamond = picture(".1. 1.1 .1.")
        padded = np.pad(diamond, 1)
        assert label_instances(padded, regrow=0, fill_holes=True)[2, 2] == 0
        assert label_instances(padded, regrow=0, fill_holes=True, connectivity=8)[2, 2] == 1

    def test_holes_are_filled_before_sizes_are_compared(self) -> None:
        ring = np.pad(picture("111 1.1 111"), 1)
        assert label_instances(ring, regrow=0, min_size=9).max() == 0
        assert label_instances(ring, regrow=0, min_size=9, fill_holes=True).max() == 1

    def test_a_gap_of_two_pixels_is_shared_and_the_outside_stays(self) -> None:
        np.testing.assert_array_equal(label_instances(picture("..11..11..")), picture("..111222.."))
        np.testing.assert_array_equal(label_instances(picture("..11...11.")), picture("..11...22."))
        np.testing.assert_array_equal(label_instances(picture("..11....11"), regrow=2), picture("..11112222"))
        # equally near: the left one, then the upper one
        np.testing.assert_array_equal(label_instances(picture("1.2")), picture("112"))
        np.testing.assert_array_equal(label_instances(picture("1 . 2")), picture("1 1 2"))

    def test_field_of_interest_drops_cells_wholly_outside(self) -> None:
        cells = picture(
            """
            1.1...
            ..1...
            1...11
            1.....
            1.1...
            ......
            """
        )
        expected = picture(
            """
            ..1...
            ..1...
            ....22
            ......
            ..3...
            ......
            """
        )
        np.testing.assert_array_equal(label_instances(cells, regrow=0, field_of_interest=1), expected)

    @pytest.mark.parametrize(
        "wrong",
        [{"threshold": np.nan}, {"connectivity": 6}, {"regrow": -1}, {"min_size": -1}, {"field_of_interest": 2}],
    )
    def test_refuses_parameters_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            label_instances(np.zeros((4, 9)), **wrong)

    def test_refuses_nan_and_other_shapes(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            label_instances(np.array([[0.1, np.nan]]))
        with pytest.raises(ValueError, match=r"shape \(2, 4, 4\)"):
            label_instances(np.zeros((2, 4, 4)))


class TestLaws:
    @settings(max_examples=150, deadline=None)
    @given(
        probability=probabilities,
        connectivity=st.sampled_from([4, 8]),
        regrow=st.integers(0, 3),
        min_size=st.integers(0, 5),
        fill_holes=st.booleans(),
    )
    def test_cells_only_grow_from_components_and_never_merge(
        self, probability: NDArray[Any], connectivity: Any, regrow: int, min_size: int, fill_holes: bool
    ) -> None:
        cells = label_instances(
            probability, connectivity=connectivity, regrow=regrow, min_size=min_size, fill_holes=fill_holes
        )
        assert cells.dtype == np.int32
        assert set(np.unique(cells)) | {0} == set(range(cells.max() + 1))
        components, count = ndimage.label(probability > 0.5, np.ones((3, 3)) if connectivity == 8 else None)
        filled = label_instances(probability, connectivity=connectivity, regrow=0, fill_holes=fill_holes)
        names: list[int] = []
        for component in range(1, count + 1):
            found = np.unique(cells[components == component])
            # a pixel of a dropped component may lie in a gap that its neighbours take
            dropped = np.sum(filled == filled[components == component][0]) < min_size
            assert len(found) == 1 or dropped
            names += [] if dropped or not found[0] else [int(found[0])]
        assert sorted(names) == list(range(1, cells.max() + 1))

    @settings(max_examples=150, deadline=None)
    @given(probability=probabilities, regrow=st.integers(1, 3))
    def test_regrown_pixels_lie_between_two_cells_and_go_to_the_nearest(
        self, probability: NDArray[Any], regrow: int
    ) -> None:
        before = label_instances(probability, regrow=0)
        after = with_names_of(before, label_instances(probability, regrow=regrow))
        rows, columns = np.indices(before.shape)
        for y, x in np.ndindex(before.shape):
            if before[y, x]:
                assert after[y, x] == before[y, x]
                continue
            away = np.hypot(rows - y, columns - x)
            distances = {cell: away[before == cell].min() for cell in np.unique(before[before > 0])}
            near = sorted(distances.values())
            if len(near) > 1 and near[0] <= regrow and near[1] <= 2 * regrow:
                assert distances[after[y, x]] == near[0]
            else:
                assert after[y, x] == 0

    @settings(max_examples=150, deadline=None)
    @given(probability=probabilities, regrow=st.integers(1, 4))
    def test_regrown_pixels_are_those_that_scikit_image_expands_to(
        self, probability: NDArray[Any], regrow: int
    ) -> None:
        before = label_instances(probability, regrow=0)
        after = with_names_of(before, label_instances(probability, regrow=regrow))
        changed = before != after
        np.testing.assert_array_equal(after[changed], expand_labels(before, regrow)[changed])

    @settings(max_examples=50, deadline=None)
    @given(instances=hnp.arrays(np.int32, (9, 9), elements=st.integers(0, 3)))
    def test_cut_cells_come_back_apart(self, instances: NDArray[np.int32]) -> None:
        cells = label_instances(separation_border(instances, "dilation") > 0)
        for cell in range(1, cells.max() + 1):
            kept = separation_border(instances, "dilation")[cells == cell]
            assert len(np.unique(kept[kept > 0])) == 1


# each 2 x 2 window of a map that an unsure network makes: one, two or three of its four pixels above the threshold
UNSURE = {
    "dots": [[1, 0], [0, 0]],
    "chequerboard": [[1, 0], [0, 1]],
    "stripes": [[1, 1], [0, 0]],
    "mesh": [[1, 1], [1, 0]],
}


class TestUnsureNetworks:
    @pytest.mark.parametrize("pattern", UNSURE)
    @pytest.mark.parametrize("preset", PRESETS)
    def test_no_preset_makes_cells_of_what_repeats_every_second_pixel(self, preset: str, pattern: str) -> None:
        settings = PRESETS[preset]
        above, below = settings["threshold"] + 0.15, settings["threshold"] - 0.15
        tile = np.where(np.array(UNSURE[pattern]), above, below)
        haze = np.tile(tile, (80, 80))
        haze[48:112, 48:112] = 0.0
        haze[50:110, 50:110] = 0.99  # a cell, which stays as it is
        cells = label_instances(haze, **settings)
        assert cells.max() == 1
        np.testing.assert_array_equal(cells == 1, haze == 0.99)

    def test_without_the_rule_the_same_maps_are_thousands_of_cells(self) -> None:
        haze = np.tile(np.where(np.array(UNSURE["chequerboard"]), 0.6, 0.4), (80, 80))
        assert label_instances(haze, **{**PRESETS["folder"], "min_width": 1}).max() == 80 * 80 * 2

    def test_a_component_with_a_square_keeps_every_pixel_and_others_go(self) -> None:
        cells = picture("1.222 1.22. 1..2.")
        expected = picture("..111 ..11. ...1.")
        np.testing.assert_array_equal(label_instances(cells, regrow=0, min_width=2), expected)
        assert label_instances(cells, regrow=0, min_width=3).max() == 0


class TestTransform:
    def test_puts_the_cells_of_class_1_under_the_output_key(self) -> None:
        cells = picture("11.1 ...1 1..1")
        probabilities = np.stack([1 - cells, cells]).astype(np.float32)
        prediction = MetaTensor(torch.from_numpy(probabilities), meta={"filename_or_obj": "a.tif"})
        item = LabelInstancesd(regrow=0)({"pred": prediction, "image": 0})
        assert set(item) == {"pred", "image", "cells"}
        assert item["pred"] is prediction
        assert item["cells"].dtype is torch.int32
        assert item["cells"].meta["filename_or_obj"] == "a.tif"
        np.testing.assert_array_equal(np.asarray(item["cells"]), picture("11.2 ...2 3..2")[None])
        plain = LabelInstancesd("pred", "cells", regrow=0)({"pred": probabilities})["cells"]
        np.testing.assert_array_equal(plain, np.asarray(item["cells"]))
        assert plain.dtype == np.int32

    @pytest.mark.parametrize("preset", PRESETS)
    def test_preset_is_the_functions_arguments(self, preset: str) -> None:
        probability = np.random.default_rng(0).random((120, 130), dtype=np.float32)
        probability[40:80, 40:80] = 1
        found = LabelInstancesd(preset=preset)({"pred": np.stack([1 - probability, probability])})["cells"][0]
        np.testing.assert_array_equal(found, label_instances(probability, **PRESETS[preset]))

    def test_what_is_given_goes_before_the_preset(self) -> None:
        probability = np.ones((120, 130), np.float32)
        probability[:, 3] = 0
        item = {"pred": np.stack([1 - probability, probability])}
        transform = LabelInstancesd(preset="dic_hela", field_of_interest=0, regrow=0)
        np.testing.assert_array_equal(transform(item)["cells"][0], label_instances(probability, regrow=0))
        assert transform(item)["cells"].max() == 2
        assert LabelInstancesd(preset="dic_hela")(item)["cells"].max() == 1

    def test_refuses_wrong_arguments_and_shapes(self) -> None:
        with pytest.raises(ValueError, match="preset='hela': choose one of"):
            LabelInstancesd(preset="hela")
        with pytest.raises(ValueError, match="regrow=-1"):
            LabelInstancesd(regrow=-1)
        with pytest.raises(ValueError, match="output_key="):
            LabelInstancesd("pred", ("cells", "more"))
        with pytest.raises(ValueError, match=r"'pred' of shape \(4, 4\)"):
            LabelInstancesd()({"pred": np.zeros((4, 4))})


@pytest.mark.parametrize(
    ("data_set", "preset", "least"), [("DIC-C2DH-HeLa", "dic_hela", 0.996), ("PhC-C2DH-U373", "phc_u373", 0.998)]
)
def test_perfect_masks_of_real_cells_come_back(real_data: Path, data_set: str, preset: str, least: float) -> None:
    """A binary image of the gold masks, cut by the separation border, gives back the gold cells."""
    cut, uncut = [], []
    for path in sorted((real_data / data_set).glob("*_GT/SEG/man_seg*.tif")):
        gold = tifffile.imread(path).astype(np.int32)
        cut += seg(label_instances(separation_border(gold) > 0, **PRESETS[preset]), gold)
        uncut += seg(label_instances(gold > 0, **PRESETS[preset]), gold)
    assert np.mean(cut) >= least
    if data_set == "DIC-C2DH-HeLa":
        assert np.mean(uncut) < 0.75  # most cells touch: without the border they are one


@settings(max_examples=100, deadline=None)
@given(
    probability=probabilities,
    preset=st.fixed_dictionaries(
        {
            "connectivity": st.sampled_from([4, 8]),
            "regrow": st.integers(0, 3),
            "min_size": st.integers(0, 3),
            "fill_holes": st.booleans(),
            "split_thresholds": st.sampled_from([(), (0.6, 0.9)]),
            "neck": st.sampled_from([0.0, 0.9]),
        }
    ),
)
def test_ids_follow_the_first_pixels_row_by_row(probability: NDArray[Any], preset: dict[str, Any]) -> None:
    cells = label_instances(probability, **preset).ravel()
    assert list(dict.fromkeys(cells[cells > 0].tolist())) == list(range(1, cells.max(initial=0) + 1))


@settings(max_examples=100, deadline=None)
@given(
    probability=probabilities,
    elsewhere=probabilities,
    min_size=st.integers(0, 3),
    connectivity=st.sampled_from([4, 8]),
    way=st.sampled_from([{"split_thresholds": (0.6, 0.9)}, {"neck": 0.9}]),
)
def test_a_component_is_split_the_same_whatever_else_is_in_the_image(
    probability: NDArray[Any], elsewhere: NDArray[Any], min_size: int, connectivity: Any, way: dict[str, Any]
) -> None:
    preset = {"regrow": 0, "min_size": min_size, "connectivity": connectivity, **way}
    alone = label_instances(probability, **preset)
    height, width = probability.shape
    both = np.zeros((elsewhere.shape[0] + 1 + height, max(elsewhere.shape[1], width)), np.float32)
    both[: elsewhere.shape[0], : elsewhere.shape[1]] = elsewhere
    both[-height:, :width] = probability
    below = label_instances(both, **preset)[-height:, :width]
    assert np.array_equal(below > 0, alone > 0)
    pairs = {(int(a), int(b)) for a, b in zip(alone[alone > 0], below[below > 0], strict=True)}
    assert len(pairs) == alone.max() == len({b for _, b in pairs})


@settings(deadline=None)  # the first one loads a compiled kernel
@given(probabilities, st.sampled_from([4, 8]), st.sampled_from([0.0, 0.5, 0.9]))
def test_splitting_takes_no_pixel_and_joins_nothing(probability: NDArray[Any], connectivity: Any, neck: float) -> None:
    settings = {"connectivity": connectivity, "regrow": 0}
    whole = label_instances(probability, **settings)
    parts = label_instances(probability, split_thresholds=(0.6, 0.9), neck=neck, **settings)
    assert np.array_equal(parts > 0, whole > 0)
    for part in range(1, parts.max() + 1):
        assert len(np.unique(whole[parts == part])) == 1


def test_a_weak_border_is_a_border_where_both_sides_are_large() -> None:
    probability = np.full((7, 11), 0.1)
    probability[1:6, 1:10] = 0.7  # one mass above the threshold,
    probability[2:5, 2:5] = probability[2:5, 6:9] = 0.99  # with two sure insides of 9 px
    parted = label_instances(probability, split_thresholds=(0.8,), min_size=9, regrow=0)
    assert parted.max() == 2
    assert set(np.unique(parted[:, 1:5])) == {0, 1}
    assert set(np.unique(parted[:, 6:10])) == {0, 2}
    assert label_instances(probability, split_thresholds=(0.8,), min_size=10, regrow=0).max() == 1


def test_a_cell_that_parts_later_and_one_that_is_never_sure_both_stay() -> None:
    probability = np.array([[0.7, 0.7, 0.1, 0.9, 0.99, 0.9, 0.99, 0.6, 0.8, 0.8]])
    parted = label_instances(probability, split_thresholds=(0.65, 0.95), regrow=0)
    # 0.65 parts the last two pixels from the four before them, 0.95 parts those again
    assert sorted(parted[0, [0, 4, 6, 8]].tolist()) == [1, 2, 3, 4]
    assert (parted[0] > 0).tolist() == [True, True, False] + 7 * [True]


@pytest.mark.parametrize("thresholds", [(0.5,), (0.8, 0.7), (0.4, 0.9), (float("nan"),)])
def test_split_thresholds_that_do_not_rise_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"split_thresholds=.*must rise"):
        label_instances(np.zeros((3, 3)), split_thresholds=thresholds)


def disks(radius: float, apart: float, size: int = 60) -> NDArray[np.float64]:
    """Two disks in a row, whose centres lie ``apart`` px from each other, as a probability of 1."""
    rows, columns = np.indices((size, 2 * size)) - np.array([size / 2, size]).reshape(2, 1, 1)
    return np.asarray((np.hypot(rows, np.abs(columns) - apart / 2) <= radius).astype(float))


@pytest.mark.parametrize("radius", [5, 12, 25])
def test_cells_of_any_size_part_at_a_neck_of_the_same_share_of_their_width(radius: int) -> None:
    # circles of radius r whose centres are 2 a apart meet in a chord of 2 sqrt(r^2 - a^2): 0.71 of 2 r at a = 0.7 r
    joined = disks(radius, 1.4 * radius)
    assert label_instances(joined, regrow=0).max() == 1
    assert label_instances(joined, regrow=0, neck=0.6).max() == 1
    parted = label_instances(joined, regrow=0, neck=0.85)
    np.testing.assert_array_equal(parted > 0, joined > 0)
    assert set(np.unique(parted[:, :59])) == {0, 1}
    assert set(np.unique(parted[:, 62:])) == {0, 2}


def test_a_part_needs_the_size_of_a_cell_and_a_convex_cell_has_no_neck() -> None:
    joined = disks(6, 9)
    half = int(joined.sum()) // 2
    assert label_instances(joined, regrow=0, neck=0.9, min_size=half - 10).max() == 2
    assert label_instances(joined, regrow=0, neck=0.9, min_size=half + 10).max() == 1
    rows, columns = np.indices((60, 60)) - 30
    for long, wide in ((20, 20), (25, 10), (25, 5)):
        ellipse = (rows / long) ** 2 + ((columns + 0.3 * rows) / wide) ** 2 <= 1
        assert label_instances(ellipse.astype(float), regrow=0, neck=0.9).max() == 1


def test_what_will_be_filled_makes_no_neck() -> None:
    cell = disks(12, 0)
    cell[20:41, 58:63] = 0
    assert label_instances(cell, regrow=0, neck=0.9).max() > 1
    assert label_instances(cell, regrow=0, neck=0.9, fill_holes=True).max() == 1


@pytest.mark.parametrize("neck", [-0.1, 1.0, float("nan")])
def test_a_neck_as_wide_as_a_cell_is_refused(neck: float) -> None:
    with pytest.raises(ValueError, match=r"neck=.*0 <= neck < 1"):
        label_instances(np.zeros((3, 3)), neck=neck)
