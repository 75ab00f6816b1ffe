"""Tables of a folder of predictions: a row an image in ``summary.csv``, a row a cell in ``cells.csv``."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unet_paper.data.unlike_training import UNLIKE
from unet_paper.measurements import Columns, write_rows
from unet_paper.running.doubt import doubt
from unet_paper.running.placement import placed

Row = dict[str, Any]
# column of a table of cells of several kinds: the name of each cell's class
CLASS = "class"
# of an image, in this order; what is not known of any image is left out
_WORDS = ("image", "page")
# figures of a number that a person reads
_FIGURES = 6


class TableOfImage(NamedTuple):
    """Where the cells of an image stand."""

    image: str
    path: Path


def summary_row(
    image: str,
    page: int | str,
    labels: NDArray[Any],
    probability: NDArray[Any] | None,
    table: Columns,
    pixel_size: tuple[float, float] | None,
    unlike_training: str = "",
) -> Row:
    """What ``summary.csv`` says of an image.

    Args:
        image: name of the file.
        page: number in its stack, from 0; empty for an image of one page.
        labels: label image, shape (H, W).
        probability: of the cell, shape (H, W); None where it is not known.
        table: of its cells, see :func:`unet_paper.measurements.cell_table`.
        pixel_size: height and width of a pixel in micrometres.
        unlike_training: in what its grey values are not those of the training images, in words.
    """
    row: Row = {"image": image, "page": page, "cells": len(table["id"])}
    row["area_px_mean"] = _rounded(_mean(table["area_px"]))
    row["area_px_median"] = _rounded(float(np.median(table["area_px"]))) if row["cells"] else ""
    if "area_um2" in table:
        row["area_um2_mean"] = _rounded(_mean(table["area_um2"]))
    row["covered"] = _rounded(float(np.mean(labels > 0)))
    row["touching_border"] = int(np.sum(table["touches_border"]))
    if probability is not None:
        row["probability_mean"] = _rounded(_mean(table["mean_probability"]))
        row["doubt"] = _rounded(doubt(probability))
    if unlike_training:
        row[UNLIKE] = unlike_training
    if pixel_size is not None:
        row["pixel_height_um"], row["pixel_width_um"] = pixel_size
    return row


def read_summary(path: Path) -> list[Row]:
    """Rows of a ``summary.csv``, with columns that somebody added; none where there is no such file.

    Raises:
        ValueError: what was a number is none; names file and line.
    """
    if not path.is_file():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        for line in lines:
            # of fields without a column, the name is None
            row = {name: _value(name, text) for name, text in line.items() if name is not None}
            for name, kinds in (("cells", (int,)), ("doubt", (int, float))):
                if not isinstance(row.get(name, 0), kinds) and (name, row[name]) != ("doubt", ""):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: {name} is {row[name]!r}, no number any more; move the file "
                        "away, and the same run writes it anew"
                    )
            rows.append(row)
    return rows


def write_summary(rows: Sequence[Row], path: Path) -> None:
    """Write ``summary.csv``, a column for whatever is known of any image."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["image", "page", "cells"]
    with placed(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        write_rows({name: [row.get(name, "") for row in rows] for name in names}, file)


def write_cells(pages: Sequence[Columns], path: Path) -> None:
    """Write the table of one image; in that of a stack each cell says its page."""
    with placed(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(pages):
            numbered = {"page": np.full(len(table["id"]), number)} if len(pages) > 1 else {}
            write_rows({**numbered, **table}, file, header=number == 0)


def join_cells(tables: Iterable[TableOfImage], path: Path) -> None:
    """Write ``cells.csv``: the tables of all images below each other, with the columns that any has."""
    found = [table for table in tables if table.path.is_file()]
    names = dict.fromkeys(("image", "page", "id", "area_px"))
    for table in found:
        with table.path.open(encoding="utf-8", newline="") as file:
            names |= dict.fromkeys(next(csv.reader(file), []))
    with placed(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(names), restval="", lineterminator="\n")
        writer.writeheader()
        for table in found:
            with table.path.open(encoding="utf-8", newline="") as rows:
                writer.writerows({"image": table.image, **row} for row in csv.DictReader(rows))


def measurements_by_cell(table: Columns) -> dict[int, dict[str, float]]:
    """A table as numbers by cell, without what is not known or infinite: JSON has no word for it."""
    columns: Mapping[str, list[Any]] = {
        name: values.tolist() for name, values in table.items() if name not in ("id", CLASS)
    }
    return {
        int(number): {name: float(values[k]) for name, values in columns.items() if math.isfinite(values[k])}
        for k, number in enumerate(table["id"].tolist())
    }


def class_by_cell(table: Columns) -> dict[int, str]:
    """Names of the cells' classes, where there are several kinds of cells."""
    return dict(zip(table["id"].tolist(), table[CLASS].tolist(), strict=True)) if CLASS in table else {}


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _rounded(value: float) -> float | str:
    return float(f"{value:.{_FIGURES}g}") if value == value else ""


def _value(name: str, text: str | None) -> Any:
    """A number where it was written as one, so that a column of somebody's stays as it is."""
    if not text or name == "image":
        return text or ""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text
