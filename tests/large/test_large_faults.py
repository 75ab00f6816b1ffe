"""The law of blocks is able to fail: each fault planted in the joining of blocks is found by it. `make large-test`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_large_cells import presets, probabilities
from test_large_cells import test_blocks_equal_the_whole as law_of_blocks

from unet_paper.label_image import ends_of_squares, regrown
from unet_paper.large import block_cells, faces
from unet_paper.large.block_cells import BlockCells
from unet_paper.large.faces import sides

pytestmark = pytest.mark.large


def unjoined(_grid: Any, _blocks: Any, offsets: NDArray[np.int64], _connectivity: Any) -> NDArray[np.int64]:
    """As ``faces.join``, of blocks that know nothing of each other."""
    return np.arange(int(offsets[-1]) + 1)


def join_holes_unjoined(self: BlockCells, _: int = 0) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_cells, "join", unjoined)
        return JOIN_HOLES(self)


def mirrored_ties(labels: NDArray[np.int32], distance: int) -> NDArray[np.int32]:
    """As ``regrown``, but of cells equally far the right, then the lower one comes first."""
    return np.flip(regrown(np.flip(labels), distance))


def squares_in_the_block_only(foreground: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    squares = ends_of_squares(foreground, width)
    squares[: 2 * (width - 1)] = squares[:, : 2 * (width - 1)] = False
    return squares


JOIN_HOLES = BlockCells.join_holes
# what is wrong: whose attribute, which, and what is there in its place
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "corners are not joined": (faces, "_across_corner", lambda *_: []),
    "faces are not joined": (faces, "_across", lambda *_: []),
    "holes are not joined": (BlockCells, "join_holes", join_holes_unjoined),
    "the halo is one px too small": (BlockCells, "_halo", property(lambda self: 2 * self.settings["regrow"])),
    "the halo is half as wide": (BlockCells, "_halo", property(lambda self: self.settings["regrow"] + 1)),
    "ties go to the other cell": (block_cells, "regrown", mirrored_ties),
    "numbers are not in raster order": (block_cells, "_raster_order", lambda row, _column: np.arange(len(row))),
    "numbers follow the columns": (block_cells, "_raster_order", lambda row, column: np.lexsort((row, column))),
    "components that faces cut are not split": (BlockCells, "split_groups", lambda _self: 0),
    "squares that faces cut are not seen": (block_cells, "ends_of_squares", squares_in_the_block_only),
    "holes at a face are open": (block_cells, "_rim", lambda labels, *_: np.unique(np.concatenate(sides(labels)))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_law_finds_a_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    law: Any = law_of_blocks
    any_image = given(probability=probabilities(), side=st.integers(3, 12), preset=presets, seed=st.integers(0, 999))
    drawn = any_image(law.hypothesis.inner_test)
    # nothing that is found is made smaller: only that something is found counts
    options: Any = {"deadline": None, "database": None, "derandomize": True, "phases": [Phase.generate]}
    searched = settings(max_examples=1000, **options)(drawn)
    with pytest.raises((AssertionError, IndexError)):
        searched()
