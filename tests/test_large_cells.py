"""The law of blocks: cells and their table, found block by block in any order, are those of the whole image."""

import random
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.instances import DEFAULTS, PRESETS, Connectivity, Settings, label_instances
from unet_paper.large import block_cells
from unet_paper.large.block_cells import BlockCells
from unet_paper.large.grid import Grid
from unet_paper.measurements import cell_table, touching_border


class Memory:
    """A workspace without files. Keeps who wrote what: no two tasks may write one pixel of one array."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.arrays: dict[str, NDArray[np.int32]] = {}
        self.found: dict[tuple[str, int], Mapping[str, NDArray[Any]]] = {}

    def array(self, name: str) -> NDArray[np.int32]:
        return self.arrays.setdefault(name, np.full(self.shape, -1, np.int32))

    def facts(self, stage: str, index: int) -> Mapping[str, NDArray[Any]]:
        return self.found[stage, index]


def by_blocks(
    probability: NDArray[Any],
    image: NDArray[Any],
    side: int,
    preset: Settings,
    seed: int,
    memory: int = 2**30,
) -> tuple[NDArray[np.int32], dict[str, NDArray[Any]], int]:
    """Cells, table and number of rows left empty, by blocks done in a random order, some of them twice."""
    grid, workspace = Grid(*probability.shape, side), Memory(probability.shape)
    shuffled = random.Random(seed)

    def blocks() -> BlockCells:
        """A worker of its own: nothing is remembered from task to task."""
        return BlockCells(
            grid, preset, workspace, lambda box: probability[box.slices], lambda box: image[:, *box.slices], memory
        )

    def stage(name: str, count: int) -> None:
        indices = [*range(count), *shuffled.choices(range(count), k=count // 3)] if count else []
        shuffled.shuffle(indices)
        for index in indices:
            workspace.found[name, index] = getattr(blocks(), name)(index)

    stage("label", len(grid))
    stage("join_components", 1)
    stage("split", blocks().split_groups())
    stage("number_parts", 1)
    stage("holes", len(grid) if preset["fill_holes"] else 0)
    stage("join_holes", 1)
    stage("grow", len(grid))
    stage("number_cells", 1)
    stage("relabel", len(grid))
    rows = [dict(workspace.facts("relabel", index)) for index in range(len(grid))]
    unmeasured = sum(int(row.pop("unmeasured")) for row in rows)
    table = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(table["id"])
    table = {name: values[order] for name, values in table.items()}
    table["touches_border"] = touching_border(table, probability.shape)
    return workspace.array("cells"), table, unmeasured


def assert_equal_tables(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name, strict=True)


presets = st.builds(
    lambda **chosen: Settings(**{**DEFAULTS, **chosen}),
    connectivity=st.sampled_from(get_args(Connectivity)),
    regrow=st.integers(0, 3),
    min_size=st.sampled_from([0, 0, 2, 9]),
    fill_holes=st.booleans(),
    field_of_interest=st.integers(0, 2),
    min_width=st.sampled_from([1, 1, 2, 3]),
    split_thresholds=st.sampled_from([(), (0.6, 0.9)]),
    neck=st.sampled_from([0.0, 0.5, 0.9]),
)


@st.composite
def probabilities(draw: st.DrawFn) -> NDArray[np.float32]:
    """Maps from single pixels to blobs that span the image."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=5, max_side=18))
    random_numbers = np.random.default_rng(draw(st.integers(0, 9999)))
    kind = draw(st.sampled_from(["drawn", "pixels", "blobs"]))
    if kind == "drawn":
        return draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.4, 0.55, 0.7, 0.95, 1.0])))
    noise = random_numbers.random(shape)
    if kind == "pixels":
        # sparse enough that one neighbour more or less joins or parts components
        return (
            np.where(noise < draw(st.sampled_from([0.15, 0.3, 0.45, 0.6])), 0.5 + noise, 0).round(1).astype(np.float32)
        )
    noise = ndimage.gaussian_filter(noise, 1.5)
    return np.clip(0.5 + 4 * (noise - noise.mean()), 0, 1).round(2).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(probability=probabilities(), side=st.integers(3, 12), preset=presets, seed=st.integers(0, 999))
def test_blocks_equal_the_whole(probability: NDArray[np.float32], side: int, preset: Settings, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 255, (1, *probability.shape), dtype=np.uint8)
    cells, table, unmeasured = by_blocks(probability, image, side, preset, seed)
    expected = label_instances(probability, **preset)
    np.testing.assert_array_equal(cells, expected)
    assert_equal_tables(table, cell_table(expected, image, probability))
    assert unmeasured == 0


def corner() -> NDArray[np.float32]:
    """A cell across the corner of four blocks of 8 px, one that winds through six of them, one that meets a corner."""
    probability = np.zeros((24, 24), np.float32)
    probability[6:11, 6:11] = 0.9
    probability[13, 1:23] = probability[13:22, 22] = probability[21, 1:23] = 0.95
    probability[3:5, 19:22] = 0.8
    probability[15:17, 7:9] = 0.7
    probability[17, 9] = 0.7  # touches the one before at a corner only
    return probability


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("side", [8, 5])
def test_cells_across_corners_and_larger_than_a_block(connectivity: Connectivity, side: int) -> None:
    probability = corner()
    plain: Settings = {**DEFAULTS, "regrow": PRESETS["phc_u373"]["regrow"]}
    preset: Settings = {**plain, "connectivity": connectivity, "field_of_interest": 2}
    image = np.arange(576, dtype=np.uint16).reshape(1, 24, 24)
    cells, table, _ = by_blocks(probability, image, side, preset, seed=0)
    assert cells.max() == (5 if connectivity == 4 else 4)
    assert np.all(cells[6:11, 6:11] == cells[8, 8])
    assert np.all(cells[13, 1:23] == cells[21, 1])
    np.testing.assert_array_equal(cells, label_instances(probability, **preset))
    assert_equal_tables(table, cell_table(cells, image, probability))


@pytest.mark.parametrize("pixels", [((7, 7), (8, 8)), ((7, 8), (8, 7)), ((3, 7), (4, 8)), ((7, 3), (8, 2))])
def test_pixels_that_touch_across_a_corner_or_aslant_across_a_face(pixels: tuple[tuple[int, int], ...]) -> None:
    probability = np.zeros((16, 16), np.float32)
    for pixel in pixels:
        probability[pixel] = 1
    image = np.zeros((1, 16, 16), np.uint8)
    for connectivity, count in ((4, 2), (8, 1)):
        preset = Settings(**{**DEFAULTS, "connectivity": connectivity, "regrow": 0})  # type: ignore[typeddict-item]
        assert by_blocks(probability, image, 8, preset, seed=0)[0].max() == count


def two_in_one(size: int = 40) -> NDArray[np.float32]:
    """One component with two sure insides, across the corner of four blocks of 16 px."""
    rows, columns = np.indices((size, size))
    insides = [np.hypot(rows - y, columns - x) for y, x in ((16, 12), (18, 27))]
    return np.clip(1.05 - np.minimum(*insides) / 14, 0, 1).astype(np.float32)


def test_a_component_across_a_corner_is_split_as_in_the_whole() -> None:
    probability = two_in_one()
    preset: Settings = {**PRESETS["dic_hela_split"], "min_size": 30, "field_of_interest": 5}
    image = np.zeros((1, *probability.shape), np.uint8)
    cells, table, _ = by_blocks(probability, image, 16, preset, seed=1)
    assert cells.max() == 2
    np.testing.assert_array_equal(cells, label_instances(probability, **preset))
    assert_equal_tables(table, cell_table(cells, image, probability))


def test_a_component_too_large_to_be_split_is_refused_with_its_place() -> None:
    preset: Settings = {**PRESETS["dic_hela_split"], "min_size": 30, "field_of_interest": 5}
    probability = two_in_one()
    image = np.zeros((1, *probability.shape), np.uint8)
    found = label_instances(probability, **{**preset, "split_thresholds": (), "regrow": 0, "fill_holes": False})
    rows, columns = ndimage.find_objects(found)[0]
    place = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
    with pytest.raises(ValueError, match=f"component of {np.sum(found > 0)} px in {place}: .*memory=5000; give more"):
        by_blocks(probability, image, 16, preset, seed=1, memory=5000)


def test_a_cell_too_large_to_be_measured_keeps_what_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cells, "REACH", 0)
    probability = corner()
    image = np.random.default_rng(0).integers(0, 255, (1, 24, 24), dtype=np.uint8)
    # the box of the winding cell has 9 x 22 px, of the others 5 x 5 at most
    memory = 9 * 22 * block_cells.GATHERED_BYTES - 1
    cells, table, unmeasured = by_blocks(probability, image, 8, {**DEFAULTS, "regrow": 0}, seed=0, memory=memory)
    assert unmeasured == 1
    expected = cell_table(cells, image, probability)
    large = int(cells[13, 1]) - 1
    for name, values in expected.items():
        np.testing.assert_array_equal(np.delete(table[name], large), np.delete(values, large), err_msg=name)
    known = ("id", "area_px", "top_px", "left_px", "bottom_px", "right_px", "touches_border", "neighbours")
    for name, values in expected.items():
        assert table[name][large] == values[large] if name in known else np.isnan(table[name][large]), name


def test_nan_is_refused() -> None:
    probability = corner()
    probability[20, 20] = np.nan
    with pytest.raises(ValueError, match="probability holds NaN"):
        by_blocks(probability, np.zeros((1, 24, 24)), 8, DEFAULTS, seed=0)


def test_no_cells_at_all() -> None:
    cells, table, _ = by_blocks(np.zeros((9, 7), np.float32), np.zeros((1, 9, 7)), 4, DEFAULTS, seed=0)
    assert not cells.any()
    assert {len(values) for values in table.values()} == {0}
