"""What a run in blocks leaves on the way: arrays in chunks, and a marker with its findings for each task that is done.

A marker is moved into place after the task's pixels are written, and names the plan. A killed run goes on with the
tasks that have none; a task that is done twice writes the same twice. Two tasks never write one chunk: the chunks of an
array divide the blocks of the tasks that write it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from unet_paper.running.placement import placed

# px, of arrays that are read with a halo
LARGEST_CHUNK_SIDE = 512


def chunk_side(block: int, largest: int = LARGEST_CHUNK_SIDE) -> int:
    """Largest side of a chunk of which a block holds whole numbers.

    >>> chunk_side(2048), chunk_side(1536), chunk_side(300), chunk_side(1042)
    (512, 512, 300, 521)
    """
    # a prime has no other divisor than itself: chunks a little too large are better than tiny ones
    sides = [side for side in range(1, block + 1) if block % side == 0]
    fitting = [side for side in sides if side <= largest]
    return fitting[-1] if fitting[-1] * 4 > min(largest, block) else next(side for side in sides if side > largest)


class DiskWorkspace:
    """Arrays and findings of one plane, in a folder.

    Args:
        folder: where they lie.
        fingerprint: of the plan.
        cells: array (H, W) that takes the final numbers.
    """

    def __init__(self, folder: Path, fingerprint: str, cells: Any = None) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self._arrays: dict[str, Any] = {} if cells is None else {"cells": cells}

    def create(self, name: str, shape: tuple[int, ...], block: int, dtype: str) -> None:
        """Make an array; blocks of the tasks that will write it have sides of ``block`` px."""
        side = chunk_side(block)
        zarr.create_array(
            self.folder / f"{name}.zarr",
            shape=shape,
            chunks=(*shape[:-2], side, side),
            dtype=dtype,
            fill_value=0,
            # read and written many times: what zarr takes by default costs more time than the disk does
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
            overwrite=True,
        )

    def array(self, name: str) -> Any:
        """An array that was made."""
        if name not in self._arrays:
            self._arrays[name] = zarr.open_array(self.folder / f"{name}.zarr", mode="r+")
        return self._arrays[name]

    def done(self, stage: str, index: int) -> bool:
        """Whether a task is done.

        Raises:
            ValueError: a marker of another plan.
        """
        return self._marker(stage, index).is_file() and bool(self.facts(stage, index))

    def facts(self, stage: str, index: int) -> Mapping[str, NDArray[Any]]:
        """What a task found."""
        file = self._marker(stage, index)
        with np.load(file, allow_pickle=False) as found:
            facts = {name: found[name] for name in found.files}
        if str(facts.pop("plan")) != self.fingerprint:
            raise ValueError(f"{file}: the marker of another plan; remove the output folder, or choose another")
        return facts

    def finish(self, stage: str, index: int, facts: Mapping[str, NDArray[Any]]) -> None:
        """Mark a task as done."""
        marker = self._marker(stage, index)
        # of a task that was given up and done again by another, both may come here at once: each writes its own file
        own = marker.with_name(f"{index}.{uuid.uuid4().hex}")
        with placed(own) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, plan=np.array(self.fingerprint), **facts)
        os.replace(own, marker)

    def _marker(self, stage: str, index: int) -> Path:
        return self.folder / "done" / stage / f"{index}.npz"
