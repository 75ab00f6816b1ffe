"""Image files to arrays with rows first, and the checks that an image passes before it meets the network.

``PageReader`` is what the configs hand to MONAI's ``LoadImaged``::

    - {_target_: LoadImaged, keys: [image, label], reader: {_target_: unet_paper.data.reader.PageReader}}
    - {_target_: EnsureChannelFirstd, keys: [image, label]}
    - {_target_: unet_paper.data.reader.CheckImaged, keys: image, channels: 1}
    - {_target_: unet_paper.data.reader.ScaleToUnitRanged, keys: image}

``LoadImaged`` may keep its default ``dtype`` (float32): MONAI turns uint16 into int32 even with ``dtype=None``, so the
reader notes the file's own dtype in the metadata (``stored_dtype``), where ``ScaleToUnitRanged`` finds it.
"""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from PIL import Image

__all__ = ["EXTENSIONS", "CheckImaged", "PageReader", "ScaleToUnitRanged", "extension", "page_shapes", "split_page"]

TIFF = (".tif", ".tiff")
RASTER = (".png", ".jpg", ".jpeg", ".bmp")
NIFTI = (".nii.gz", ".nii")
EXTENSIONS = (*TIFF, *RASTER, *NIFTI)

# MONAI writes "::" for "#" in every setting, addresses on its command line included
_PAGE = re.compile(r"(?P<file>.+\.tiff?)(?:#|::)(?P<page>\d+)", re.IGNORECASE)
_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}


def extension(path: str | Path) -> str:
    """Extension of an image file, lower case, ``.nii.gz`` in one piece; empty where the format is not supported.

    >>> extension("a/Slice.TIF"), extension("b.nii.gz"), extension("c.czi")
    ('.tif', '.nii.gz', '')
    """
    name = Path(path).name.lower()
    return next((e for e in EXTENSIONS if name.endswith(e) and name != e), "")


def split_page(path: str | Path) -> tuple[Path, int | None]:
    """File and page of an address; pages count from 0, and only ``.tif#7`` and ``.tiff#7`` address one.

    >>> split_page("train-volume.tif#7")
    (PosixPath('train-volume.tif'), 7)
    >>> split_page("train-volume.tif::7")
    (PosixPath('train-volume.tif'), 7)
    >>> split_page("well#3.png")
    (PosixPath('well#3.png'), None)
    """
    match = _PAGE.fullmatch(str(path))
    return (Path(match["file"]), int(match["page"])) if match else (Path(path), None)


def page_shapes(path: str | Path) -> list[tuple[int, ...]]:
    """Shape of every page of an image file, read from its headers: (H, W), or (H, W, C) for colour.

    Truncated TIFF and PNG files are found here, without decoding a pixel.

    Args:
        path: the file, without a page.

    Returns:
        One shape for each page; formats other than TIFF have one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a supported format, truncated or damaged.
    """
    file = Path(path).expanduser()
    kind = _existing(file)
    with _naming(file):
        if kind in TIFF:
            with tifffile.TiffFile(file) as tiff:
                return [_tiff_shape(page) for page in _complete_pages(tiff)]
        if kind in NIFTI:
            return [_plane(nibabel.load(file).shape)[::-1]]
        with Image.open(file) as image:
            shape = (image.height, image.width)
            bands = len(image.getbands())
            image.verify()
        return [shape if bands == 1 else (*shape, bands)]


class PageReader(ImageReader):
    """Reader for ``LoadImaged``: one TIFF page, PNG, JPEG, BMP or plane of NIfTI as (H, W) or (H, W, C), rows first.

    A page of a TIFF stack is addressed as ``"train-volume.tif#7"``, counted from 0. Pixel values are those of the file:
    palettes and inverted lookup tables are not applied; 1-bit images become 0 and 255. The first axis of a NIfTI file
    is x, so it is swapped with the second, in the affine too.

    Decoding happens in ``get_data``: ``LoadImage`` catches what ``read`` raises and goes on to readers that would take
    the first page of a stack, or transpose the image, without a word.
    """

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Whether all files have a supported extension."""
        return all(extension(split_page(f)[0]) for f in _as_tuple(filename))

    def read(self, data: Sequence[str | Path] | str | Path) -> tuple[str | Path, ...]:
        """Pass the file names on to ``get_data``."""
        return _as_tuple(data)

    def get_data(self, img: Sequence[str | Path] | str | Path) -> tuple[NDArray[Any], dict[str, Any]]:
        """Decode one image.

        Args:
            img: what ``read`` returned: the address of one image.

        Returns:
            The array, (H, W) or (H, W, C), and its metadata: ``affine`` and ``original_affine`` (4, 4),
            ``spatial_shape``, ``original_channel_dim``, ``stored_dtype``, and for a page of a stack ``patch_index``,
            which ``SaveImage`` appends to the name of its output.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a supported format, truncated or damaged; a stack without a page; a page out of range.
        """
        addresses = _as_tuple(img)
        if len(addresses) != 1:
            names = ", ".join(map(str, addresses))
            raise ValueError(f"{len(addresses)} files for one image ({names}): give one file, or one page of a stack")
        file, page = split_page(addresses[0])
        file = file.expanduser()
        kind = _existing(file)
        affine = np.eye(4)
        if kind in TIFF:
            array = _read_tiff(file, page)
        elif kind in NIFTI:
            array, affine = _read_nifti(file)
        else:
            with _naming(file), Image.open(file) as image:
                array = np.asarray(image)
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        meta: dict[str, Any] = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(array.shape[:2]),
            "original_channel_dim": "no_channel" if array.ndim == 2 else -1,
            "stored_dtype": array.dtype.name,
        }
        if page is not None:
            meta["patch_index"] = page
        return array, meta


class CheckImaged(MapTransform):
    """Refuse an image that the network cannot take: other channels, no pixels, NaN or infinite values.

    Args:
        keys: keys of channel-first images (C, H, W).
        channels: number of channels that the network takes.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(self, keys: KeysCollection, *, channels: int = 1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item as it is.

        Raises:
            ValueError: names the file, what is wrong with it and the remedy.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            _check(torch.as_tensor(item[key]), _source(item[key], key), self.channels)
        return item


class ScaleToUnitRanged(MapTransform):
    """Grey values to [0, 1] by the full scale of the file's dtype; never by what one image happens to contain.

    uint8 is divided by 255 and uint16 by 65535. Floating point must lie in [0, 1] already. Anything else needs
    ``maximum``, and so do images that use a part of their dtype's range, such as 12-bit data in uint16
    (``maximum=4095``). An image scaled before stays as it is.

    Args:
        keys: keys of images of any shape.
        maximum: grey value that becomes 1, for all images; the full scale of the stored dtype where None.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(self, keys: KeysCollection, *, maximum: float | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if maximum is not None and not maximum > 0:
            raise ValueError(f"maximum={maximum}: the grey value that becomes 1 must be positive")
        self.maximum = maximum

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images as float32 in [0, 1].

        Raises:
            ValueError: the scale is unknown, or a pixel lies outside of it; names file, range and remedy.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._scale(item[key], _source(item[key], key))
        return item

    def _scale(self, image: Any, source: str) -> torch.Tensor:
        tensor = image if isinstance(image, torch.Tensor) else torch.as_tensor(image)
        meta: dict[str, Any] = tensor.meta if isinstance(tensor, MetaTensor) else {}
        if "scaled_by" in meta:
            return tensor
        dtype = meta.get("stored_dtype", str(tensor.dtype).removeprefix("torch."))
        maximum = self.maximum or (1.0 if dtype.startswith("float") else _FULL_SCALE.get(dtype))
        remedy = "give the grey value that becomes 1: ScaleToUnitRanged(maximum=...)"
        if maximum is None:
            raise ValueError(f"{source}: the full scale of {dtype} images is unknown; {remedy}")
        scaled = tensor.to(torch.float32) / maximum
        low, high = (float(v) for v in torch.aminmax(tensor))
        if not (low >= 0 and high <= maximum):
            raise ValueError(
                f"{source}: grey values of {dtype} from {low:g} to {high:g}, expected 0 to {maximum:g}; {remedy}, "
                "and shift negative values first"
            )
        if isinstance(scaled, MetaTensor):
            scaled.meta["scaled_by"] = maximum
        return scaled


def _as_tuple(names: Sequence[str | Path] | str | Path) -> tuple[str | Path, ...]:
    return (names,) if isinstance(names, str | Path) else tuple(names)


def _existing(file: Path) -> str:
    """Extension of a file that exists and has a supported one."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    if not file.is_file():
        raise ValueError(f"{file}: a folder, expected an image file")
    kind = extension(file)
    if not kind:
        raise ValueError(f"{file}: unknown extension; supported are {' '.join(EXTENSIONS)}")
    return kind


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Decoders raise anything from struct.error to SyntaxError; make it one error that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{file}: cannot be read: {error}; truncated, damaged or of another format than its name says? "
            "Copy or export it again"
        ) from error


def _complete_pages(tiff: Any) -> list[Any]:
    """Pages of an open TIFF file whose directories and pixel data all lie within the file.

    tifffile ends its list of pages at a directory that lies beyond the end of the file: half a stack would pass for a
    whole one.
    """
    pages, handle, layout = list(tiff.pages), tiff.filehandle, tiff.tiff
    if not pages:
        raise ValueError("no pages")
    handle.seek(pages[-1].offset)
    tags = int.from_bytes(handle.read(layout.tagnosize), "little" if tiff.byteorder == "<" else "big")
    handle.seek(pages[-1].offset + layout.tagnosize + tags * layout.tagsize)
    following = handle.read(layout.offsetsize)
    if len(following) < layout.offsetsize or any(following):
        raise ValueError(f"the file ends after {len(pages)} pages, where another one should follow")
    for number, page in enumerate(pages):
        if any(
            offset + count > handle.size for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            raise ValueError(f"page {number} ends beyond the end of the file")
    return pages


def _tiff_shape(page: Any) -> tuple[int, ...]:
    shape = dict(zip(page.axes, page.shape, strict=True))
    if not set(shape) <= set("YXS"):
        raise ValueError(f"pages with axes {page.axes}, expected one plane a page")
    return (shape["Y"], shape["X"], shape["S"]) if "S" in shape else (shape["Y"], shape["X"])


def _read_tiff(file: Path, page: int | None) -> NDArray[Any]:
    with _naming(file), tifffile.TiffFile(file) as tiff:
        pages = _complete_pages(tiff)
        last = len(pages) - 1
        if (page is None and last == 0) or (page is not None and page <= last):
            chosen = pages[page or 0]
            _tiff_shape(chosen)
            array: NDArray[Any] = chosen.asarray()
            return np.moveaxis(array, 0, -1) if chosen.axes == "SYX" else array
    if page is None:
        raise ValueError(
            f"{file}: a stack of {last + 1} pages; address one of them, {file.name}#0 to {file.name}#{last}"
        )
    raise ValueError(f"{file}#{page}: page out of range; the file has pages 0 to {last}")


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(X, Y) of a NIfTI shape; only single planes are images here."""
    if len(shape) < 2 or any(n != 1 for n in shape[2:]):
        raise ValueError(f"shape {shape}, expected one plane (X, Y) or (X, Y, 1)")
    return shape[:2]


def _read_nifti(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    with _naming(file):
        image = nibabel.load(file)
        values = np.asanyarray(image.dataobj)
        if values.dtype.names:
            raise ValueError(f"colour pixels {values.dtype.names}, expected one number a pixel")
        return values.reshape(_plane(values.shape)).T, np.asarray(image.affine, dtype=np.float64)[:, [1, 0, 2, 3]]


def _source(image: Any, key: Hashable) -> str:
    """The file that an image came from, or else its key."""
    return str(image.meta.get("filename_or_obj", key)) if isinstance(image, MetaTensor) else str(key)


def _check(image: torch.Tensor, source: str, channels: int) -> None:
    if image.ndim != 3:
        raise ValueError(
            f"{source}: shape {tuple(image.shape)}, expected (channels, H, W); call EnsureChannelFirstd first"
        )
    if image.numel() == 0:
        raise ValueError(f"{source}: shape {tuple(image.shape)} holds no pixels; remove the file or export it again")
    if image.shape[0] != channels:
        convert = "to greyscale" if channels == 1 else f"to {channels} channels"
        raise ValueError(
            f"{source}: {image.shape[0]} channels, the network takes {channels}; convert the image {convert}, "
            f"or train a network with in_channels={image.shape[0]}"
        )
    if image.is_floating_point() and not bool(torch.isfinite(image).all()):
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{source}: {bad} pixels are NaN or infinite; replace them before training or prediction")
