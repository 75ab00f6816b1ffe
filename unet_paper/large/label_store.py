"""Where cells go: an OME-Zarr with its pyramid, written block by block, or a tiled BigTIFF made of it.

The OME-Zarr holds the probability as its image, where one is wanted, and the cells as its label ``labels/cells``. Level
k has every 2^k-th pixel of the labels, so that ids stay ids and the first pixel of each level lies on the first pixel
of the image; the probability is averaged. In 0.5 (Zarr 3) a shard is a block, in 0.4 (Zarr 2) a block is a whole number
of chunks: each is written by one task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from unet_paper.large.grid import Grid
from unet_paper.large.workspace import chunk_side
from unet_paper.running.placement import placed

LabelFormat = Literal["ome-zarr-0.5", "ome-zarr-0.4", "tiff"]
ProbabilityType = Literal["uint8", "float16"]

CELLS = "labels/cells"
# px along the longer side of the smallest level
SMALLEST_LEVEL = 1024
TIFF_TILE = 512


def levels_of(size: tuple[int, int]) -> int:
    """Levels of a pyramid, each half as large as the one before.

    >>> levels_of((1024, 20)), levels_of((1025, 20)), levels_of((20_000, 20_000))
    (1, 2, 6)
    """
    count = 1
    while max(size) > SMALLEST_LEVEL << (count - 1):
        count += 1
    return count


def level_grid(size: tuple[int, int], level: int, block: int) -> Grid:
    """Blocks of a level: as large as those of the image, and fewer."""
    return Grid(-(-size[0] // 2**level), -(-size[1] // 2**level), block)


def create_store(
    path: Path,
    *,
    version: str,
    planes: Sequence[tuple[str, int]],
    size: tuple[int, int],
    block: int,
    pixel_size: Sequence[float] | None,
    probability: ProbabilityType | None,
) -> None:
    """Make an OME-Zarr of zeros.

    Args:
        path: its folder.
        version: of OME-Zarr, ``"0.4"`` or ``"0.5"``.
        planes: name and length of each axis before y and x.
        size: height and width in px.
        block: side of a block in px, which one task writes.
        pixel_size: height and width of a pixel in micrometres.
        probability: dtype of the probability; None for no image.
    """
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    labels = root.create_group("labels")
    cells = labels.create_group("cells")
    described = [(cells, "cells", "uint32")]
    if probability is not None:
        described.append((root, "probability", probability))
    for group, name, dtype in described:
        for level in range(levels_of(size)):
            grid = level_grid(size, level, block)
            shape = (*(length for _, length in planes), grid.height, grid.width)
            _create_level(group, str(level), shape, block, dtype, [*(axis for axis, _ in planes), "y", "x"])
        metadata: dict[str, Any] = {"multiscales": [_multiscale(name, version, planes, size, pixel_size)]}
        if name == "cells":
            metadata["image-label"] = {"version": version} | (
                {"source": {"image": "../../"}} if probability is not None else {}
            )
        _describe(group, metadata, version)
    _describe(labels, {"labels": ["cells"]}, version)


def _create_level(group: Any, name: str, shape: tuple[int, ...], block: int, dtype: str, axes: Sequence[str]) -> None:
    ones = (1,) * (len(shape) - 2)
    side = chunk_side(block)
    new = group.metadata.zarr_format == 3
    group.create_array(
        name,
        shape=shape,
        chunks=(*ones, side, side),
        shards=(*ones, block, block) if new else None,
        dtype=dtype,
        # half the time of the default for a tenth more bytes
        compressors=ZstdCodec(level=1) if new else Zstd(level=1),
        fill_value=0,
        dimension_names=axes if new else None,
        chunk_key_encoding=None if new else {"name": "v2", "separator": "/"},
    )


def _multiscale(
    name: str,
    version: str,
    planes: Sequence[tuple[str, int]],
    size: tuple[int, int],
    pixel_size: Sequence[float] | None,
) -> dict[str, Any]:
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    axes: list[dict[str, str]] = [{"name": axis, "type": "time" if axis == "t" else "space"} for axis, _ in planes]
    axes += [{"name": axis, "type": "space", **unit} for axis in "yx"]
    height, width = (1.0, 1.0) if pixel_size is None else pixel_size
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*(1.0 for _ in planes), height * 2**level, width * 2**level]}
            ],
        }
        for level in range(levels_of(size))
    ]
    multiscale: dict[str, Any] = {"name": name, "axes": axes, "datasets": datasets}
    return multiscale if version == "0.5" else {**multiscale, "version": version}


def _describe(group: Any, metadata: dict[str, Any], version: str) -> None:
    if version == "0.5":
        metadata.get("image-label", {}).pop("version", None)
        group.attrs["ome"] = {"version": version, **metadata}
    else:
        group.attrs.update(metadata)


class PlaneOf:
    """One plane of an array (..., H, W), indexed as if it were all.

    Args:
        array: with axes before y and x.
        plane: index along them.
    """

    def __init__(self, array: Any, plane: Sequence[int]) -> None:
        self._array = array
        self._plane = tuple(plane)

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        return np.asarray(self._array[*self._plane, *index])

    def __setitem__(self, index: tuple[slice, slice], pixels: NDArray[Any]) -> None:
        self._array[*self._plane, *index] = pixels


def write_level(group: Any, plane: Sequence[int], level: int, grid: Grid, index: int, *, average: bool) -> None:
    """One block of a level, from the level above it.

    Args:
        group: with a level a name.
        plane: index along the axes before y and x.
        level: 1 or more.
        grid: blocks of the level.
        index: of the block.
        average: means of 2 x 2 px; otherwise every second pixel.
    """
    larger, smaller = PlaneOf(group[str(level - 1)], plane), PlaneOf(group[str(level)], plane)
    box = grid.box(index)
    rows, columns = (slice(2 * part.start, 2 * part.stop) for part in box.slices)
    pixels = larger[rows, columns]
    if not average:
        smaller[box.slices] = pixels[::2, ::2]
        return
    odd = [(0, length % 2) for length in pixels.shape]
    # 16 bits hold the sum of four values of 8 bits
    even: NDArray[Any] = np.pad(pixels, odd, mode="edge").astype(np.uint16 if pixels.dtype == np.uint8 else np.float32)
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]).astype(np.float32) / 4
    smaller[box.slices] = (np.rint(mean) if pixels.dtype.kind == "u" else mean).astype(pixels.dtype)


def write_tiff(array: Any, path: Path, pixel_size: Sequence[float] | None) -> None:
    """Labels (..., H, W) as a tiled BigTIFF, plane by plane, tile by tile; moved into place when complete.

    Args:
        array: of the labels.
        path: the file.
        pixel_size: height and width of a pixel in micrometres.
    """
    *planes, height, width = array.shape
    resolution = {} if pixel_size is None else {"resolution": [10_000 / side for side in pixel_size[::-1]]}
    with placed(path) as part, tifffile.TiffWriter(part, bigtiff=True) as tiff:
        tiff.write(
            _tiles(array, tuple(planes)),
            shape=(*planes, height, width),
            dtype=array.dtype,
            tile=(TIFF_TILE, TIFF_TILE),
            compression="zlib",
            photometric="minisblack",
            resolutionunit="CENTIMETER" if resolution else None,
            metadata=None,
            **resolution,
        )


def _tiles(array: Any, planes: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    height, width = array.shape[-2:]
    for plane in np.ndindex(planes):
        for top in range(0, height, TIFF_TILE):
            # a row of tiles at a time: a chunk is decoded once or twice, not for each of its tiles
            strip = np.asarray(array[*plane, top : top + TIFF_TILE, :])
            for left in range(0, width, TIFF_TILE):
                tile = strip[:, left : left + TIFF_TILE]
                yield np.pad(tile, [(0, TIFF_TILE - length) for length in tile.shape])
