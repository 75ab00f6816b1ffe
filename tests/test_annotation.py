"""Instance images from annotations as they are on disk: binary, ids, markers, and what is unknown."""

import logging
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
from PIL import Image
from scipy import ndimage

from unet_paper.data.annotation import InstancesFromAnnotationd
from unet_paper.data.reader import LabelReader


def instances(image: Any, markers: Any = None, **settings_: Any) -> NDArray[Any]:
    """Instance image (H, W) of an annotation (H, W)."""
    data = {"label": np.asarray(image)[None]}
    if markers is not None:
        data["markers"] = np.asarray(markers)[None]
    result: NDArray[Any] = InstancesFromAnnotationd(**settings_)(data)["label"]
    assert result.dtype == np.int32
    assert result.shape == data["label"].shape
    return result[0]


class TestBinary:
    @pytest.mark.parametrize("foreground", [1, 255, 0.5 * 2])
    def test_components_are_cells(self, foreground: float) -> None:
        annotation = np.array([[1, 0, 1], [0, 1, 1]]) * foreground
        np.testing.assert_array_equal(instances(annotation), [[1, 0, 2], [0, 2, 2]])
        np.testing.assert_array_equal(instances(annotation, connectivity=8), [[1, 0, 1], [0, 1, 1]])

    @settings(max_examples=50, deadline=None)
    @given(image=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
    def test_cells_cover_what_is_not_zero(self, image: NDArray[np.bool_]) -> None:
        found = instances(image.astype(np.uint8) * 255)
        np.testing.assert_array_equal(found > 0, image)
        assert found.max() == ndimage.label(image)[1]

    def test_one_value_is_background_or_cell(self) -> None:
        np.testing.assert_array_equal(instances(np.zeros((2, 3))), 0)
        np.testing.assert_array_equal(instances(np.full((2, 3), 255)), 1)

    def test_ignored_value_is_unknown_and_parts_cells(self) -> None:
        np.testing.assert_array_equal(instances([[255, 7, 255, 0]], ignore_value=7), [[1, -1, 2, 0]])
        np.testing.assert_array_equal(instances([[7, 7]], ignore_value=7), [[-1, -1]])

    @pytest.mark.parametrize("annotation", ["binary", "instances", "either"])
    def test_a_value_below_zero_is_no_cell(self, annotation: Any) -> None:
        with pytest.raises(ValueError, match=r"holds the values -1, 0: .* say --ignore_value -1"):
            instances([[0, -1]], annotation=annotation)
        np.testing.assert_array_equal(instances([[0, -1, 1]], annotation=annotation, ignore_value=-1), [[0, -1, 1]])

    def test_refuses_other_values(self) -> None:
        with pytest.raises(ValueError, match=r"'label' holds the values 0, 1, 2: annotation='binary' takes 0 and one"):
            instances([[0, 1, 2]])
        with pytest.raises(ValueError, match="values 1, 2"):
            instances([[1, 2]])
        with pytest.raises(ValueError, match=r"values 0, 1, 2, 3, 4, \.\.\. \(256 values\)"):
            instances(np.arange(256).reshape(16, 16))


class TestEither:
    @settings(max_examples=50, deadline=None)
    @given(image=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 3)))
    def test_one_value_is_a_mask_and_several_are_ids(self, image: NDArray[np.uint8]) -> None:
        meaning = "binary" if len(np.unique(image[image > 0])) == 1 else "instances"
        np.testing.assert_array_equal(instances(image, annotation="either"), instances(image, annotation=meaning))

    def test_an_ignored_value_is_no_id(self) -> None:
        np.testing.assert_array_equal(instances([[9, 0, 9, 7]], annotation="either", ignore_value=7), [[1, 0, 2, -1]])
        np.testing.assert_array_equal(instances([[9, 8, 9, 7]], annotation="either", ignore_value=7), [[9, 8, 9, -1]])


class TestInstances:
    def test_ids_stay_and_pieces_are_one_cell(self) -> None:
        annotation = np.array([[7, 0, 7, 900], [0, 3, 3, 900]], np.uint16)
        np.testing.assert_array_equal(instances(annotation, annotation="instances"), annotation)

    def test_ignored_value_is_unknown(self) -> None:
        for value in (65535, -1):
            found = instances([[4, value, 0]], annotation="instances", ignore_value=value)
            np.testing.assert_array_equal(found, [[4, -1, 0]])

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            ([[0.0, 1.5]], r"'label' holds 1\.5: annotations are whole numbers"),
            ([[0.0, np.nan]], "'label' holds nan"),
            ([[0, -1]], "cells are above 0; say --ignore_value -1"),
        ],
    )
    def test_refuses_what_are_no_ids(self, annotation: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            instances(annotation, annotation="instances")

    def test_every_large_id_is_a_cell(self) -> None:
        annotation = np.array([[0, 2**32 - 1, 2**32 - 2], [20_000_001, 20_000_002, 0]])
        found = instances(annotation, annotation="instances")
        assert (found == 0).tolist() == (annotation == 0).tolist()
        assert len(np.unique(found)) == 5
        with pytest.raises(ValueError, match="neighbouring ids above 16777216 are one"):
            instances(annotation.astype(np.float32), annotation="instances")

    def test_says_when_it_looks_binary(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "unet_paper.data.annotation"):
            instances([[5, 0, 6, 0, 6], [0, 0, 0, 0, 0]], annotation="instances")
            instances([[255, 255, 0]], annotation="instances")
            assert not caplog.records
            instances([[255, 0, 255]], annotation="instances")
        assert "one id, 255, in 2 pieces" in caplog.text


class TestMarkers:
    def test_markers_of_drawn_cells_change_nothing(self) -> None:
        annotation = [[5, 5, 5, 0, 0, 9]]
        # marker 2 reaches out of its cell, marker 3 has another id than the cell it points at
        found = instances(annotation, [[0, 0, 2, 2, 0, 3]], annotation="instances")
        np.testing.assert_array_equal(found, annotation)

    def test_around_an_undrawn_cell_all_that_is_not_drawn_is_unknown(self) -> None:
        annotation, markers = np.zeros((7, 9), int), np.zeros((7, 9), int)
        markers[3, 4] = 2
        annotation[3, 5:] = 8
        markers[3, 8] = 1
        found = instances(annotation, markers, annotation="instances", unknown_radius=2)
        rows, columns = np.indices(found.shape)
        # all of cell 8 lies on one side, so there is no gap between two cells
        near = (rows - 3) ** 2 + (columns - 4) ** 2 <= 4
        np.testing.assert_array_equal(found, np.where(annotation > 0, annotation, np.where(near, -1, 0)))

    def test_radius_zero_is_the_marker_alone(self) -> None:
        found = instances([[0, 0, 0, 3]], [[0, 6, 6, 1]], annotation="instances", unknown_radius=0)
        np.testing.assert_array_equal(found, [[0, -1, -1, 3]])

    def test_a_narrow_gap_between_drawn_cells_stays_background(self) -> None:
        annotation, markers = [[5, 0, 0, 0, 6, 0, 0, 0]], [[0, 0, 9, 0, 0, 0, 0, 9]]
        for gap, expected in ((4, [[5, 0, -1, 0, 6, -1, -1, -1]]), (3.9, [[5, -1, -1, -1, 6, -1, -1, -1]])):
            found = instances(annotation, markers, annotation="instances", known_gap=gap)
            np.testing.assert_array_equal(found, expected)

    def test_ignored_pixels_are_not_drawn(self) -> None:
        found = instances([[9, 0, 0]], [[1, 0, 0]], annotation="instances", ignore_value=9, unknown_radius=1)
        np.testing.assert_array_equal(found, [[-1, -1, 0]])

    def test_refuses_markers_of_another_size(self) -> None:
        with pytest.raises(ValueError, match=r"'markers' of \(1, 2\) px, 'label' of \(1, 3\) px"):
            instances([[0, 0, 0]], [[0, 1]])

    def test_frame_outside_the_field_of_interest_is_unknown_where_nothing_is_drawn(self) -> None:
        annotation = np.zeros((5, 6), int)
        annotation[0:2, 1] = 4
        found = instances(annotation, annotation="instances", field_of_interest=1)
        expected = np.full((5, 6), -1)
        expected[1:4, 1:5] = 0
        np.testing.assert_array_equal(found, np.where(annotation > 0, annotation, expected))
        with pytest.raises(ValueError, match="field_of_interest=3: leaves nothing"):
            instances(annotation, annotation="instances", field_of_interest=3)

    @settings(max_examples=50, deadline=None)
    @given(
        annotation=hnp.arrays(np.int64, (6, 7), elements=st.integers(0, 3)),
        markers=hnp.arrays(np.int64, (6, 7), elements=st.integers(0, 4)),
        radii=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    )
    def test_drawn_cells_stay_and_a_larger_radius_knows_less(
        self, annotation: NDArray[Any], markers: NDArray[Any], radii: tuple[float, float]
    ) -> None:
        less, more = (instances(annotation, markers, annotation="instances", unknown_radius=r) for r in sorted(radii))
        for found in (less, more):
            np.testing.assert_array_equal(np.where(found > 0, found, 0), annotation)
        assert ((less != -1) | (more == -1)).all()


def test_container_and_meta_information_go_on() -> None:
    label = MetaTensor(torch.tensor([[[0.0, 255.0]]]), meta={"filename_or_obj": "man_seg002.tif"})
    item = InstancesFromAnnotationd("label")({"label": label, "image": 0})
    assert item["image"] == 0
    assert type(item["label"]) is MetaTensor
    assert item["label"].dtype is torch.int32
    assert item["label"].meta["filename_or_obj"] == "man_seg002.tif"
    plain = InstancesFromAnnotationd("label")({"label": torch.tensor([[[0, 255]]])})["label"]
    assert type(plain) is torch.Tensor
    assert plain.tolist() == [[[0, 1]]]


def test_missing_key() -> None:
    assert InstancesFromAnnotationd(allow_missing_keys=True)({"image": 0}) == {"image": 0}
    with pytest.raises(KeyError, match="label"):
        InstancesFromAnnotationd()({"image": 0})


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'label' of shape"):
        InstancesFromAnnotationd()({"label": np.zeros(shape)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"annotation": "mask"},
        {"connectivity": 6},
        {"unknown_radius": -1.0},
        {"known_gap": -1.0},
        {"field_of_interest": -1},
    ],
)
def test_refuses_wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InstancesFromAnnotationd(**wrong)


def test_real_partial_frame_hides_its_undrawn_cells(real_data: Path) -> None:
    """HeLa 01/067: 3 of 18 cells are drawn; what other annotators (silver) call cell must not be background."""
    folder = real_data / "DIC-C2DH-HeLa"
    gold, markers, silver = (
        tifffile.imread(folder / name).astype(np.int32)
        for name in ("01_GT/SEG/man_seg067.tif", "01_GT/TRA/man_track067.tif", "01_ST/SEG/man_seg067.tif")
    )
    found = instances(gold, markers, annotation="instances")
    np.testing.assert_array_equal(np.where(found > 0, found, 0), gold)
    undrawn = (silver > 0) & (gold == 0)
    assert np.mean(found[undrawn] == -1) > 0.99
    assert np.count_nonzero(found == 0) > 10_000
    alone = instances(gold, markers, annotation="instances", unknown_radius=0)
    assert np.mean(alone[undrawn] == -1) < 0.1


def test_real_full_frame_is_known(real_data: Path) -> None:
    folder = real_data / "DIC-C2DH-HeLa" / "01_GT"
    gold = tifffile.imread(folder / "SEG/man_seg002.tif").astype(np.int32)
    markers = tifffile.imread(folder / "TRA/man_track002.tif")
    np.testing.assert_array_equal(instances(gold, markers, annotation="instances"), gold)


def test_colours_are_told_from_classes(tmp_path: Path) -> None:
    colours = np.zeros((40, 40, 3), np.uint8)
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        for row in (2, 14, 26):
            colours[row : row + 8, 3 + 12 * number : 11 + 12 * number] = colour
    Image.fromarray(colours).save(tmp_path / "mask.png")
    grey = {0: 0, 1: 128, 2: 255}
    levels = np.vectorize(grey.get)(np.where(colours.any(axis=2), 1 + (colours[..., 2] > 0), 0)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "levels.png")
    for name, shown in (("mask", "colours, #0000FF, #00FF00, #FF0000"), ("levels", "these are 128, 255")):
        mask = LabelReader()
        pixels = mask.get_data(mask.read(tmp_path / f"{name}.png"))[0][None]
        with pytest.raises(ValueError, match="save them with the values 0, 1, 2 and so on") as caught:
            InstancesFromAnnotationd("label", annotation="instances")({"label": pixels})
        assert shown in str(caught.value)
        assert "out_channels" not in str(caught.value)
