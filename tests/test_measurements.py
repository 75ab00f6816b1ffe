"""The table of cells: values by hand, and the law that a cell's row depends on its own pixels alone."""

import csv
import io
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

from unet_paper import cell_shapes, label_image
from unet_paper.measurements import (
    cell_table,
    measure_cells,
    neighbour_pairs,
    write_rows,
)

LABELS = np.array([[1, 1, 0, 0, 0], [1, 1, 4, 0, 9], [0, 0, 4, 0, 9], [0, 0, 0, 0, 9]], np.int32)


def test_values_by_hand() -> None:
    image = np.stack([np.arange(20).reshape(4, 5), np.full((4, 5), 3)]).astype(np.uint8)
    probability = np.where(LABELS == 1, 0.75, 0.5)
    table = cell_table(LABELS, image, probability, pixel_size=(0.5, 0.5), channel_names=["dic", "dapi"])
    assert {name: values.tolist() for name, values in table.items()} == {
        "id": [1, 4, 9],
        "area_px": [4, 2, 3],
        "top_px": [0, 1, 1],
        "left_px": [0, 2, 4],
        "bottom_px": [2, 3, 4],
        "right_px": [2, 3, 5],
        "centroid_y_px": [0.5, 1.5, 2.0],
        "centroid_x_px": [0.5, 2.0, 4.0],
        "perimeter_px": [4.0, 0.0, 1.0],  # Benkrid and Crookes: 1 a pixel of the outline, 0 for the ends of a line
        "eccentricity": [0.0, 1.0, 1.0],
        "solidity": [1.0, 1.0, 1.0],
        "mean_dic": [3.0, 9.5, 14.0],  # (0 + 1 + 5 + 6) / 4, (7 + 12) / 2, (9 + 14 + 19) / 3
        "max_dic": [6.0, 12.0, 19.0],
        "mean_dapi": [3.0, 3.0, 3.0],
        "max_dapi": [3.0, 3.0, 3.0],
        "mean_probability": [0.75, 0.5, 0.5],
        "touches_border": [True, False, True],
        "neighbours": [1, 1, 0],
        "area_um2": [1.0, 0.5, 0.75],
        "centroid_y_um": [0.25, 0.75, 1.0],
        "centroid_x_um": [0.25, 1.0, 2.0],
        "perimeter_um": [2.0, 0.0, 0.5],
    }


def test_pixels_that_are_not_square_give_no_perimeter() -> None:
    table = cell_table(LABELS, pixel_size=(0.5, 0.25))
    assert table["area_um2"].tolist() == [0.5, 0.25, 0.375]
    assert table["centroid_x_um"].tolist() == [0.125, 0.5, 1.0]
    assert "perimeter_um" not in table


def test_no_cells_no_rows() -> None:
    table = cell_table(np.zeros((3, 4), np.uint32), np.ones((3, 4)), np.ones((3, 4)), pixel_size=(1, 1))
    assert set(map(len, table.values())) == {0}
    assert list(table) == list(cell_table(LABELS, LABELS, LABELS, pixel_size=(1, 1)))


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)),
    before=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    seed=st.integers(0, 9),
)
def test_a_cell_measured_in_a_part_is_measured_as_in_the_whole(
    labels: NDArray[np.uint32], before: tuple[int, int], seed: int
) -> None:
    padding = [(before[0], 3), (before[1], 2)]
    whole = np.pad(labels, padding)
    image = np.random.default_rng(seed).random(whole.shape, dtype=np.float32)
    part = image[before[0] : before[0] + labels.shape[0], before[1] : before[1] + labels.shape[1]]
    expected, found = measure_cells(whole, image), measure_cells(labels, part, origin=before)
    assert list(expected) == list(found)
    for name, values in expected.items():
        assert values.tobytes() == found[name].tobytes(), name


def drawn_cells(kind: str, seed: int) -> NDArray[np.integer]:
    """Label images of single pixels, winding shapes, shapes without gaps between them, or ellipses over each other."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 90, 2).tolist())
    noise = ndimage.gaussian_filter(random.random(shape), random.uniform(1, 6))
    if kind == "pixels":
        return random.integers(0, 5, shape, dtype=np.uint8)
    if kind == "winding":
        return np.asarray(ndimage.label(noise > np.median(noise))[0], np.int32)
    if kind == "tessellation":
        return (1 + np.digitize(noise, np.quantile(noise, [0.2, 0.4, 0.6, 0.8]))).astype(np.uint16)
    labels, (rows, columns) = np.zeros(shape, np.int32), np.indices(shape)
    for number in range(1, 8):
        (y, x), (a, b), angle = random.integers(0, shape), random.uniform(1, 25, 2), random.uniform(0, np.pi)
        along = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
        across = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
        labels[(along / a) ** 2 + (across / b) ** 2 <= 1] = 1000 * number
    return labels


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["pixels", "winding", "tessellation", "ellipses"]), seed=st.integers(0, 9999))
def test_all_cells_at_once_have_the_values_that_scikit_image_gives_each(kind: str, seed: int) -> None:
    labels = drawn_cells(kind, seed)
    values = np.random.default_rng(seed).random(labels.shape)
    expected = [
        (
            (cell.label, cell.area, *cell.bbox, cell.intensity_max),
            (*cell.centroid, cell.perimeter, cell.eccentricity, cell.solidity, cell.intensity_mean),
        )
        for cell in regionprops(labels, intensity_image=values)
    ]
    found = measure_cells(labels, values)
    names = ("id", "area_px", "top_px", "left_px", "bottom_px", "right_px", "max_0")
    exact = np.stack([found[name] for name in names], axis=1)
    np.testing.assert_array_equal(exact, np.array([row[0] for row in expected]).reshape(-1, 7))
    names = ("centroid_y_px", "centroid_x_px", "perimeter_px", "eccentricity", "solidity", "mean_0")
    real = np.stack([found[name] for name in names], axis=1)
    # scikit-image takes the root of a difference of like numbers: of a round cell its eccentricity is 1e-8, not 0
    np.testing.assert_allclose(real, np.array([row[1] for row in expected]).reshape(-1, 6), rtol=1e-12, atol=1e-7)


def test_cells_do_not_depend_on_how_many_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = drawn_cells("winding", 5)
    values = np.random.default_rng(0).random(labels.shape, dtype=np.float32)
    together = measure_cells(labels, values)
    monkeypatch.setattr(cell_shapes, "_TOGETHER", 30)
    for module in ("cell_shapes", "measurements"):
        bands = partial(label_image.bands, pixels=3 * labels.shape[1])
        monkeypatch.setattr(f"unet_paper.{module}.bands", bands)
    for name, alone in measure_cells(labels, values).items():
        assert alone.tobytes() == together[name].tobytes(), name


@settings(max_examples=40, deadline=None)
@given(labels=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 4)))
def test_neighbours_are_those_within_one_step(labels: NDArray[np.int32]) -> None:
    pairs = set()
    for y, x in np.ndindex(labels.shape):
        around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        pairs |= {tuple(sorted((int(labels[y, x]), int(other)))) for other in around.ravel()}
    expected = sorted(list(pair) for pair in pairs if 0 < pair[0] < pair[1])
    assert neighbour_pairs(labels).tolist() == expected


def test_rows_read_back_as_they_were() -> None:
    columns: dict[str, Any] = {
        "id": np.array([1, 2**40]),
        "x": np.array([0.1, np.nan]),
        "touches_border": np.array([True, False]),
    }
    file = io.StringIO()
    write_rows(columns, file)
    write_rows(columns, file, header=False)
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert rows[0] == ["id", "x", "touches_border"]
    assert rows[1:] == 2 * [["1", "0.1", "1"], [str(2**40), "", "0"]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": np.zeros((2, 2))}, r"labels of shape \(2, 2\), float64"),
        ({"labels": np.zeros(3, int)}, r"labels of shape \(3,\)"),
        ({"labels": LABELS, "image": np.zeros((5, 4))}, r"image of shape \(5, 4\)"),
        ({"labels": LABELS, "image": LABELS, "channel_names": ["a", "b"]}, "has 1 channels"),
        ({"labels": LABELS, "pixel_size": (0.0, 1.0)}, r"pixel_size=\(0.0, 1.0\)"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cell_table(**wrong)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["GFP", "GFP", "DAPI"], ["GFP_0", "GFP_1", "DAPI"]),
        (["GFP", "GFP", "GFP_1"], ["GFP_0", "GFP_1_1", "GFP_1"]),
        (["GFP", "probability", "DAPI"], ["GFP", "probability_1", "DAPI"]),
    ],
)
def test_each_channel_has_columns_of_its_own(names: list[str], columns: list[str]) -> None:
    image = np.stack([np.full(LABELS.shape, value) for value in (10, 20, 30)])
    table = cell_table(LABELS, image, np.full(LABELS.shape, 0.5), channel_names=names)
    assert [name for name in table if name.startswith("mean_")] == [
        f"mean_{name}" for name in (*columns, "probability")
    ]
    assert [table[f"max_{name}"][0] for name in columns] == [10, 20, 30]
    assert table["mean_probability"].tolist() == [0.5, 0.5, 0.5]
