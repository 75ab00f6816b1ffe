"""The law of blocks: cells and their table, found block by block in any order, are those of the whole image."""

import random
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.instances import DEFAULTS, Connectivity, Settings, label_instances
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
    min_size=st.integers(0, 9),
    fill_holes=st.booleans(),
    field_of_interest=st.integers(0, 2),
    split_thresholds=st.sampled_from([(), (0.6, 0.9)]),
)


@st.composite
def probabilities(draw: st.DrawFn) -> NDArray[np.float32]:
    """Maps from single pixels to blobs that span the image."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=5, max_side=20))
    noise = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.4, 0.55, 0.7, 0.95, 1.0])))
    if draw(st.booleans()):
        noise = ndimage.gaussian_filter(np.random.default_rng(draw(st.integers(0, 99))).random(shape), 1.5)
        noise = np.clip(0.5 + 4 * (noise - noise.mean()), 0, 1).round(2).astype(np.float32)
    return noise


@settings(max_examples=50, deadline=None)
@given(probability=probabilities(), side=st.integers(3, 12), preset=presets, seed=st.integers(0, 999))
def test_blocks_equal_the_whole(probability: NDArray[np.float32], side: int, preset: Settings, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 255, (1, *probability.shape), dtype=np.uint8)
    cells, table, unmeasured = by_blocks(probability, image, side, preset, seed)
    expected = label_instances(probability, **preset)
    np.testing.assert_array_equal(cells, expected)
    assert_equal_tables(table, cell_table(expected, image, probability))
    assert unmeasured == 0
