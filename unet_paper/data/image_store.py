"""Images that are read block by block: OME-Zarr, and TIFF files through their chunks.

OME-Zarr 0.4 and 0.5 (https://ngff.openmicroscopy.org), the full-resolution level of a group's first image, with axes
out of t, c, z, y, x, from a folder or from a URL that fsspec knows, which is only read. TIFF and BigTIFF through
``tifffile``'s Zarr view, the full-resolution level of the largest series; uncompressed ones are mapped. Every plane,
that is every time and every depth, is a case; all channels of it belong to it.

Chunks that a store lacks are, as Zarr defines it, the fill value: writers leave out empty ones. ``missing_chunks=
"refuse"`` is for stores that have been copied and may have lost some.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from unet_paper.data import tiff_file
from unet_paper.data.channels import Channel, channel_numbers, told_names, usual_names
from unet_paper.data.pixel_size import in_micrometres, micrometres

MissingChunks = Literal["fill", "refuse"]
VERSIONS = ("0.4", "0.5")
TIFF = (".tif", ".tiff", ".btf", ".tf8")
# a chunk larger than this is decoded for every block that touches it
LARGEST_CHUNK = 2**28
# of a URL, to notice that it has changed
_CHUNKS_READ = 8
_ORIENTATION = 274

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageStore:
    """One image, opened but not read.

    Attributes:
        address: where it lies.
        array: takes indices as NumPy arrays do.
        axes: of the array, out of "t", "c", "z", "y", "x".
        pixel_size: height and width of a pixel in micrometres, None where unknown.
        full_scale: grey value that is white, where the file states another one than its dtype.
        channel_names: where the metadata name them.
        identity: what tells this image from others: address, shape, dtype, and a hash of its headers.
        left_out: what the file or group holds besides, in words.
    """

    address: str
    array: Any
    axes: str
    pixel_size: tuple[float, float] | None = None
    full_scale: float | None = None
    channel_names: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    left_out: str = ""

    def say_left_out(self) -> None:
        """Warn of what is not read; for those that begin with an image, not for each that opens it."""
        if self.left_out:
            logger.warning("%s: left out %s", self.address, self.left_out)

    def state(self) -> str:
        """What changes where pixels are written anew under the same headers.

        Of a file its size and time of modification, of a folder those of all chunks of the image; of a URL a hash of
        the pixels of a few chunks, spread over the image: where sizes and times are not told, reading all would be the
        only proof.
        """
        path = Path(self.address)
        if path.is_file():
            return _hash(_stamp(path))
        if "://" not in self.address:
            folder = Path(self.array.store.root) / self.array.path
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            return _hash([[str(file.relative_to(folder)), *_stamp(file)] for file in files])
        chunks = [-(-length // side) for length, side in zip(self.array.shape, self.array.chunks, strict=True)]
        total = int(np.prod(chunks))
        read = hashlib.sha256()
        for number in sorted({int(place) for place in np.linspace(0, total - 1, _CHUNKS_READ)}):
            at = np.unravel_index(number, chunks)
            box = (slice(k * side, (k + 1) * side) for k, side in zip(at, self.array.chunks, strict=True))
            read.update(np.ascontiguousarray(self.array[tuple(box)]).tobytes())
        return read.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return int(self.array.shape[self.axes.index("y")]), int(self.array.shape[self.axes.index("x")])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the channels in tables, as small images have them."""
        return self.channel_names if self.channels > 1 and self.channel_names else usual_names(self.channels)

    @property
    def plane_axes(self) -> str:
        """Axes along which planes are counted."""
        return "".join(axis for axis in self.axes if axis in "tz")

    def planes(self) -> list[tuple[int, ...]]:
        """Index of every plane along ``plane_axes``."""
        sizes = [self.array.shape[self.axes.index(axis)] for axis in self.plane_axes]
        return list(itertools.product(*map(range, sizes)))

    def numbers(self, channel: Channel | None) -> list[int]:
        """Numbers of the channels that a number, a name, several or None (all) stand for.

        Raises:
            ValueError: naming the channels that there are.
        """
        if channel is None:
            return list(range(self.channels))
        return channel_numbers(channel, self.channel_names, self.channels, self.address)

    def read(
        self, plane: Sequence[int], rows: slice, columns: slice, channels: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """Grey values as stored, shape (C, h, w).

        Args:
            plane: its index along ``plane_axes``.
            rows: of the pixels.
            columns: of the pixels.
            channels: which channels; all where None.
        """
        wanted = {**dict(zip(self.plane_axes, plane, strict=True)), "y": rows, "x": columns}
        pixels = np.asarray(self.array[tuple(wanted.get(axis, slice(None)) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in "cyx"]
        if "c" not in left:
            pixels, left = pixels[None], ["c", *left]
        pixels = pixels.transpose([left.index(axis) for axis in "cyx"])
        return pixels if channels is None else pixels[list(channels)]


def open_image(address: str | Path, missing_chunks: MissingChunks = "fill") -> ImageStore:
    """Open an OME-Zarr or a TIFF file; reads headers only.

    Args:
        address: folder of an OME-Zarr image, a URL of one, or a TIFF file.
        missing_chunks: ``"fill"``: absent chunks hold the fill value; ``"refuse"``: they are an error.

    Raises:
        FileNotFoundError: no such file or folder.
        ConnectionError: a URL that cannot be read.
        ValueError: another format, no metadata, levels that do not fit, absent chunks that are refused.
    """
    if missing_chunks not in get_args(MissingChunks):
        raise ValueError(f"missing_chunks={missing_chunks!r}: must be one of {', '.join(get_args(MissingChunks))}")
    address = str(address)
    if "://" not in address:
        path = Path(address).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"dataset_dir={address}: no such file or folder")
        if path.is_file():
            return _open_tiff(path)
        address = str(path)
    return _open_zarr(address, missing_chunks)


def _open_zarr(address: str, missing_chunks: MissingChunks) -> ImageStore:
    try:
        node: Any = zarr.open(address, mode="r")
    except ImportError as error:
        raise ModuleNotFoundError(
            f"dataset_dir={address}: {error}; install what fsspec reads such addresses with: pip install "
            "'fsspec[http]' for http and https, s3fs for s3, gcsfs for gs"
        ) from error
    except Exception as error:
        kind: type[Exception] = ConnectionError if "://" in address else ValueError
        raise kind(
            f"dataset_dir={address}: no Zarr group can be read there ({type(error).__name__}: {error}); give the "
            "folder or URL of an OME-Zarr image, the one that holds zarr.json or .zattrs"
        ) from error
    if isinstance(node, zarr.Array):
        raise ValueError(
            f"dataset_dir={address}: a bare Zarr array without the metadata of an image; give the OME-Zarr group that "
            "it is a level of, or write one (ome_zarr.writer.write_image)"
        )
    attributes = dict(node.attrs)
    metadata = attributes.get("ome", attributes)
    for part, remedy in (
        ("plate", "give the image of one field, such as STORE.zarr/A/1/0"),
        ("well", "give the image of one field, such as WELL/0"),
        ("bioformats2raw.layout", "give one of its images, such as STORE.zarr/0"),
    ):
        if part in metadata and "multiscales" not in metadata:
            raise ValueError(f"dataset_dir={address}: holds many images ({part}); {remedy}")
    if not metadata.get("multiscales"):
        raise ValueError(
            f"dataset_dir={address}: no OME-Zarr metadata (multiscales) in the group; which axis is which is not "
            "known: write it again with a tool that writes OME-Zarr 0.4 or 0.5"
        )
    multiscale = metadata["multiscales"][0]
    version = str(metadata.get("version", multiscale.get("version", "")))
    if version not in VERSIONS:
        raise ValueError(
            f"dataset_dir={address}: OME-Zarr version {version or 'unknown'}; read are {', '.join(VERSIONS)}"
        )
    axes = "".join(str(axis["name"]).lower() for axis in multiscale["axes"])
    if not {"y", "x"} <= set(axes) or not set(axes) <= set("tczyx") or len(set(axes)) != len(axes):
        raise ValueError(f"dataset_dir={address}: axes {axes}, expected y and x, and t, c, z where there are any")
    array = _full_resolution(address, node, multiscale, axes)
    if missing_chunks == "refuse" or "://" not in address:
        _say_missing(address, array, missing_chunks)
    identity = {
        "address": address,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "headers": _hash([attributes, array.metadata.to_dict()]),
    }
    labels = [str(channel.get("label") or "") for channel in metadata.get("omero", {}).get("channels", ())]
    names = told_names(labels, array.shape[axes.index("c")] if "c" in axes else 1) if any(labels) else ()
    others = [f"image {(one.get('name') or number)!r}" for number, one in enumerate(metadata["multiscales"][1:], 1)]
    return ImageStore(
        address,
        array,
        axes,
        _pixel_size(multiscale, axes),
        channel_names=names,
        identity=identity,
        left_out=", ".join(others),
    )


def _full_resolution(address: str, node: Any, multiscale: Mapping[str, Any], axes: str) -> Any:
    """The first level; all levels must be smaller versions of it."""
    levels = []
    for dataset in multiscale["datasets"]:
        try:
            levels.append(node[dataset["path"]])
        except KeyError as error:
            raise ValueError(
                f"dataset_dir={address}: the metadata name a level {dataset['path']!r} that is not there; copy the "
                "store again"
            ) from error
    shapes = [level.shape for level in levels]
    for shape in shapes:
        if len(shape) != len(axes):
            raise ValueError(f"dataset_dir={address}: a level of shape {shape}, but axes {axes}")
    for larger, smaller in itertools.pairwise(shapes):
        one_image = all(
            (there <= here) if axis in "zyx" else there == here
            for axis, here, there in zip(axes, larger, smaller, strict=True)
        )
        if not one_image:
            raise ValueError(
                f"dataset_dir={address}: levels of shapes {', '.join(map(str, shapes))}: not versions of one image, "
                "the largest first; write the pyramid again"
            )
    return levels[0]


def _pixel_size(multiscale: Mapping[str, Any], axes: str) -> tuple[float, float] | None:
    scale = [1.0] * len(axes)
    found = False
    for transformation in (
        *multiscale["datasets"][0].get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ):
        if transformation.get("type") == "scale" and "scale" in transformation:
            scale = [a * float(b) for a, b in zip(scale, transformation["scale"], strict=True)]
            found = True
    units = {str(axis["name"]).lower(): in_micrometres(axis.get("unit") or "") for axis in multiscale["axes"]}
    if not found or units["y"] is None or units["x"] is None:
        return None
    return scale[axes.index("y")] * units["y"], scale[axes.index("x")] * units["x"]


def _say_missing(address: str, array: Any, missing_chunks: MissingChunks) -> None:
    piece, chunk = array.shards or array.chunks, array.chunks
    counted = int(np.prod([-(-length // side) for length, side in zip(array.shape, piece, strict=True)]))
    held = int(np.prod([whole // part for whole, part in zip(piece, chunk, strict=True)]))
    missing = counted - int(array.nchunks_initialized) // held
    if missing <= 0:
        return
    if missing_chunks == "refuse":
        raise ValueError(
            f"dataset_dir={address}: {missing} of {counted} chunks are missing; copy the store again, or set "
            f"missing_chunks: fill to take them for {array.fill_value}"
        )
    logger.warning(
        "%s: %d of %d chunks are missing, taken for the fill value %s", address, missing, counted, array.fill_value
    )


def _open_tiff(path: Path) -> ImageStore:
    if path.suffix.lower() not in TIFF:
        raise ValueError(f"dataset_dir={path}: read in blocks are OME-Zarr folders and TIFF files ({' '.join(TIFF)})")
    try:
        with tifffile.TiffFile(path) as tiff:
            series = max(tiff.series, key=lambda one: one.size)
            page, number = series.keyframe, tiff.series.index(series)
            shape, given = series.get_shape(True), series.get_axes(True)
            mapped = series.dataoffset is not None and not page.is_tiled and page.compression == 1
            description = tiff.pages[0].description
            _refuse_unusual(path, tiff, page, dict(zip(given, shape, strict=True)).get("C", 1))
            # a block beyond it is refused when it is read: all of the image is not looked at before
            full_scale = tiff_file.full_scale(tiff, page)
    except (OSError, tifffile.TiffFileError, IndexError) as error:
        raise ValueError(
            f"dataset_dir={path}: cannot be read as TIFF: {error}; truncated or damaged? Copy it again"
        ) from error
    axes = given.lower().replace("s", "c").replace("q", "z").replace("i", "z")
    if len(set(axes)) != len(axes) or not set(axes) <= set("tczyx"):
        raise ValueError(
            f"dataset_dir={path}: axes {given}, expected Y, X and T, C, Z where there are any, each once; save it by "
            "tifffile with photometric='minisblack' and its own of metadata={'axes': 'TZCYX'}, or predict it with the "
            "config inference"
        )
    if mapped:
        array: Any = tifffile.memmap(path, series=number, mode="r").reshape(shape)
    else:
        _refuse_large_chunks(path, page)
        array = _TiffPixels(path, number, shape, page.dtype)
    status = path.stat()
    identity = {
        "address": str(path),
        "shape": list(shape),
        "dtype": str(page.dtype),
        "headers": _hash([status.st_size, status.st_mtime_ns, description]),
    }
    known = tiff_file.layout(path)
    planes = int(np.prod([size for axis, size in zip(axes, shape, strict=True) if axis in "tz"], dtype=int))
    if planes != len(known.shapes):
        raise ValueError(
            f"dataset_dir={path}: holds {len(known.shapes)} pages in several images or sizes, of which blocks would "
            f"take {planes}; save each image as a file of its own, or predict it with the config inference"
        )
    channels = shape[axes.index("c")] if "c" in axes else 1
    names = tuple(known.channels) if len(known.channels) == channels else ()
    return ImageStore(str(path), array, axes, micrometres(known), full_scale, names, identity, known.left_out)


class _TiffPixels:
    """The largest level of a series, decoded where it is asked for; the file is open no longer than that."""

    def __init__(self, path: Path, series: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self._path, self._series = path, series

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        with tifffile.TiffFile(self._path) as tiff:
            store = tiff.series[self._series].aszarr(level=0, squeeze=True)
            return np.asarray(zarr.open_array(store, mode="r")[index])


def _refuse_unusual(path: Path, tiff: Any, page: Any, channels: int) -> None:
    """What would have to be undone before pixels are what they look like."""
    unusual = [
        what
        for what, found in (
            ("an orientation tag", page.tags.valueof(_ORIENTATION, 1) != 1),
            ("a palette", tiff_file.palette(tiff, page, channels) is not None),
            ("0 as white", page.photometric.name == "MINISWHITE"),
            ("signed numbers of ImageJ", tiff_file.is_signed_by_imagej(tiff, page)),
            (f"{page.bitspersample} bits a sample", page.bitspersample not in (8, 16, 32, 64)),
        )
        if found
    ]
    if unusual:
        raise ValueError(
            f"dataset_dir={path}: has {' and '.join(unusual)}, which the config inference understands and blocks do "
            "not; save it upright, in grey, 0 as black, 8 or 16 bits a sample, in tiles"
        )


def _refuse_large_chunks(path: Path, page: Any) -> None:
    chunk = int(np.prod(page.chunks)) * page.dtype.itemsize
    if chunk > LARGEST_CHUNK:
        raise ValueError(
            f"dataset_dir={path}: compressed in pieces of {page.chunks} px, {chunk} bytes, each of which would be "
            "decoded for every block; save it as OME-Zarr, or in tiles: tifffile.imwrite(..., tile=(512, 512))"
        )


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
