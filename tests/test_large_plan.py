"""Who reads and writes what: tiles make up the image, and no two tasks of a stage write one chunk."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unet_paper import geometry
from unet_paper.inferer import plan_spans
from unet_paper.large.block_prediction import BlockPrediction, TileGrid
from unet_paper.large.grid import Box, Grid
from unet_paper.large.label_store import level_grid, levels_of
from unet_paper.large.workspace import chunk_side

lengths = st.integers(1, 700)


class Recorder:
    """An array that remembers the boxes written to it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.written: list[tuple[slice, ...]] = []

    def __setitem__(self, index: tuple[slice, ...], pixels: np.ndarray) -> None:
        assert pixels.shape[-2:] == tuple(part.stop - part.start for part in index[-2:])
        self.written.append(index[-2:])


class Cropped(nn.Module):
    """A network that returns the centre of its input."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.margin = geometry.margin(levels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m = self.margin
        return torch.cat([x, x], dim=1)[:, :, m : x.shape[2] - m, m : x.shape[3] - m]


@settings(max_examples=60, deadline=None)
@given(
    height=lengths,
    width=lengths,
    magnification=st.sampled_from([1.0, 0.5]),
    extra=st.integers(0, 12),
    levels=st.integers(2, 4),
    tiles=st.integers(1, 4),
)
def test_predicted_blocks_make_up_the_image_and_share_no_chunk(
    height: int, width: int, magnification: float, extra: int, levels: int, tiles: int
) -> None:
    tile_size = geometry.input_size(geometry.pooling_factor(levels) * (4 + extra), levels)
    grid = TileGrid(height, width, magnification, tile_size, levels, tiles)
    assert grid.stride % geometry.pooling_factor(levels) == 0
    scores = Recorder((1 if magnification == 1 else 2, *grid.seen))
    blocks = BlockPrediction(grid, Cropped(levels), lambda box: torch.zeros(1, *box.shape), scores, torch.device("cpu"))
    writers: Counter[tuple[int, int]] = Counter()
    covered = np.zeros(grid.seen, int)
    side = chunk_side(grid.blocks.side)
    for index in range(len(grid.blocks)):
        before = len(scores.written)
        blocks.predict(index)
        for rows, columns in scores.written[before:]:
            covered[rows, columns] += 1
            writers.update(
                (row, column)
                for row in range(rows.start // side, -(-rows.stop // side))
                for column in range(columns.start // side, -(-columns.stop // side))
            )
    assert np.all(covered == 1)
    assert set(writers.values()) == {1}


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 2000), extra=st.integers(0, 12), levels=st.integers(2, 5), tiles=st.integers(1, 5))
def test_blocks_have_the_tiles_of_the_whole_image(length: int, extra: int, levels: int, tiles: int) -> None:
    tile_size = geometry.input_size(geometry.pooling_factor(levels) * (4 + extra), levels)
    grid = TileGrid(length, 1, 1.0, tile_size, levels, tiles)
    together = [span for index in range(len(grid.blocks)) for span in grid.spans(index)[0]]
    assert together == plan_spans(length, tile_size, levels)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 4000), width=st.integers(1, 4000), block=st.integers(16, 200).map(lambda n: 16 * n))
def test_blocks_of_every_level_are_whole_numbers_of_chunks(height: int, width: int, block: int) -> None:
    side = chunk_side(block)
    assert block % side == 0
    assert side == block or side >= 16
    for level in range(levels_of((height, width))):
        grid = level_grid((height, width), level, block)
        assert (grid.height, grid.width) == (-(-height // 2**level), -(-width // 2**level))
        assert sum(np.prod(grid.box(index).shape) for index in range(len(grid))) == grid.height * grid.width
        for index in range(len(grid)):
            box = grid.box(index)
            assert box.top % side == box.left % side == 0
            assert all(end % side == 0 or end == last for end, last in zip(box[2:], grid.image[2:], strict=True))


def test_covering_blocks_are_those_with_pixels_in_the_box() -> None:
    grid = Grid(11, 13, 4)
    for box in (Box(0, 0, 11, 13), Box(3, 3, 5, 4), Box(4, 8, 8, 12), Box(10, 12, 11, 13)):
        touching = [index for index in range(len(grid)) if min(grid.box(index).meet(box).shape) > 0]
        assert list(grid.covering(box)) == touching
