"""The table of the cells of a large image, put together row of blocks by row of blocks.

Cells are numbered by their first pixels, row by row, and a cell's row in the table comes from the block in which its
bounding box begins: the cells of a row of blocks have numbers above those of all rows of blocks before it. So no more
than one row of blocks is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_paper.measurements import Columns, physical_columns, touching_border, write_rows
from unet_paper.running.placement import placed

# what a task notes beside its rows
_NOTES = ("seconds", "unmeasured")


def write_table(
    path: Path,
    rows_of_blocks: Iterable[Sequence[Mapping[str, NDArray[Any]]]],
    size: tuple[int, int],
    pixel_size: tuple[float, float] | None,
) -> tuple[int, int]:
    """Write the table that :func:`unet_paper.measurements.cell_table` gives for the whole image.

    Args:
        path: of the file; ``.csv``, or ``.parquet``.
        rows_of_blocks: what :meth:`unet_paper.large.block_cells.BlockCells.relabel` found, block by block.
        size: height and width of the image in px.
        pixel_size: height and width of a pixel in micrometres.

    Returns:
        Number of cells, and of those that were too large to be measured whole.
    """
    cells = unmeasured = 0
    with placed(path) as part, _Writer(part, path.suffix) as writer:
        for blocks in rows_of_blocks:
            unmeasured += sum(int(block["unmeasured"]) for block in blocks)
            names = [name for name in blocks[0] if name not in _NOTES]
            columns: Columns = {name: np.concatenate([block[name] for block in blocks]) for name in names}
            order = np.argsort(columns["id"], kind="stable")
            columns = {name: values[order] for name, values in columns.items()}
            neighbours = columns.pop("neighbours")
            columns["touches_border"] = touching_border(columns, size)
            columns["neighbours"] = neighbours
            writer.write({**columns, **physical_columns(columns, pixel_size)})
            cells += len(order)
    return cells, unmeasured


class _Writer:
    """A table written part by part."""

    def __init__(self, path: Path, suffix: str) -> None:
        self._path = path
        self._parquet = suffix == ".parquet"
        self._file: Any = None
        self._begun = False

    def __enter__(self) -> _Writer:
        if not self._parquet:
            self._file = self._path.open("w", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, columns: Columns) -> None:
        """Append rows."""
        if not self._parquet:
            write_rows(columns, self._file, header=not self._begun)
        else:
            import pyarrow
            import pyarrow.parquet

            rows = pyarrow.table({name: pyarrow.array(values, from_pandas=True) for name, values in columns.items()})
            if self._file is None:
                self._file = pyarrow.parquet.ParquetWriter(self._path, rows.schema)
            self._file.write_table(rows)
        self._begun = True
