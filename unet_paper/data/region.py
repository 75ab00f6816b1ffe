"""Annotated regions of images that are not loaded: addresses of boxes in an OME-Zarr or a large TIFF, and their cases.

A region is addressed as ``STORE.zarr[0,3][1024:2048,0:1024]``: the plane along the axes before y and x, then rows and
columns. ``PageReader`` and ``LabelReader`` of :mod:`unet_paper.data.reader` read such addresses as they read files; no
more than the chunks of the region is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unet_paper.data.page import Page

if TYPE_CHECKING:
    from unet_paper.data.image_store import ImageStore

_ADDRESS = re.compile(
    r"(?P<store>.+)\[(?P<plane>[\d,]*)\]\[(?P<top>\d+):(?P<bottom>\d+),(?P<left>\d+):(?P<right>\d+)\]"
)


class Region(NamedTuple):
    """A box of one plane of a store."""

    store: str
    plane: tuple[int, ...]
    rows: slice
    columns: slice

    def __str__(self) -> str:
        plane = ",".join(map(str, self.plane))
        rows, columns = (f"{part.start}:{part.stop}" for part in (self.rows, self.columns))
        return f"{self.store}[{plane}][{rows},{columns}]"


def parse(address: str | Path) -> Region | None:
    """The region that an address names; None for the address of a file.

    >>> str(parse("a.zarr[0,3][1024:2048,0:1024]"))
    'a.zarr[0,3][1024:2048,0:1024]'
    >>> parse("a.tif") is None
    True
    """
    match = _ADDRESS.fullmatch(str(address))
    if match is None:
        return None
    plane = tuple(int(index) for index in match["plane"].split(",") if index)
    rows, columns = (slice(int(match[a]), int(match[b])) for a, b in (("top", "bottom"), ("left", "right")))
    return Region(match["store"], plane, rows, columns)


def read(region: Region) -> Page:
    """Pixels of a region, (h, w) or (h, w, C).

    Raises:
        FileNotFoundError, ConnectionError, ValueError: see :func:`unet_paper.data.image_store.open_image`.
    """
    store = _opened(region.store)
    pixels = np.moveaxis(store.read(region.plane, region.rows, region.columns), 0, -1)
    names = store.channel_names if store.channels > 1 else ()
    return Page(pixels[..., 0] if store.channels == 1 else pixels, full_scale=store.full_scale, channels=names)


def annotated_regions(image: str | Path, label: str | Path, side: int = 1024) -> list[dict[str, str]]:
    """Cases of all squares of a large image in which something is annotated; reads the label, square by square.

    Args:
        image: OME-Zarr or TIFF file.
        label: of the same size and planes; 0 is background or not annotated.
        side: of a square in px; the last ones of a row or column may be smaller.

    Returns:
        Cases with ``image`` and ``label``, plane by plane, row by row.

    Raises:
        ValueError: sizes or planes that differ, a label with several channels, nothing annotated.
    """
    if side < 1:
        raise ValueError(f"side={side}: at least 1 px")
    pictures, labels = _opened(str(image)), _opened(str(label))
    if pictures.size != labels.size or pictures.planes() != labels.planes():
        raise ValueError(
            f"{image} has {pictures.size[0]}x{pictures.size[1]} px in {len(pictures.planes())} planes, {label} has "
            f"{labels.size[0]}x{labels.size[1]} px in {len(labels.planes())}; image and label must have one size"
        )
    if labels.channels != 1:
        raise ValueError(f"{label}: has {labels.channels} channels; save labels with one channel")
    for store in (pictures, labels):
        store.say_left_out()
    cases = [
        {"image": str(Region(str(image), plane, rows, columns)), "label": str(Region(str(label), plane, rows, columns))}
        for plane in labels.planes()
        for rows, columns in _squares(labels.size, side)
        if labels.read(plane, rows, columns).any()
    ]
    if not cases:
        raise ValueError(f"{label}: nothing is annotated, all of its pixels are 0")
    return cases


def _squares(size: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield slice(top, min(top + side, size[0])), slice(left, min(left + side, size[1]))


def _opened(address: str) -> ImageStore:
    try:
        from unet_paper.data.image_store import open_image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{address}: images in regions need Zarr: pip install zarr fsspec") from error
    return open_image(address)
