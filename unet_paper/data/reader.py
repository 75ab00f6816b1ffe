"""Image files to arrays with rows first, and the checks that an image passes before it meets the network.

``PageReader`` is what the configs hand to MONAI's ``LoadImaged`` for images, ``LabelReader`` for masks and markers::

    - {_target_: LoadImaged, keys: image, reader: {_target_: unet_paper.data.reader.PageReader}}
    - {_target_: LoadImaged, keys: label, reader: {_target_: unet_paper.data.reader.LabelReader}, dtype: $torch.int64}
    - {_target_: EnsureChannelFirstd, keys: [image, label]}
    - {_target_: unet_paper.data.reader.CheckImaged, keys: image, channels: 1}
    - {_target_: unet_paper.data.unit_range.ScaleToUnitRanged, keys: image}

For images ``LoadImaged`` may keep its default ``dtype`` (float32): MONAI turns uint16 into int32 even with
``dtype=None``, so the reader notes the file's own dtype in the metadata (``stored_dtype``), where
:mod:`unet_paper.data.unit_range` finds it. Ids need int64: float32 has none above 16,777,216.
"""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from unet_paper.data import (
    microscope_file,
    nifti_file,
    nrrd_file,
    photometric,
    raster_file,
    region,
    tiff_file,
    zarr_image,
)
from unet_paper.data.channels import Channel, channel_numbers, usual_names
from unet_paper.data.page import Layout, Page

__all__ = [
    "EXTENSIONS",
    "CheckImaged",
    "LabelReader",
    "PageReader",
    "extension",
    "is_image",
    "layout",
    "page_shapes",
    "refuse_transparency",
    "source_of",
    "split_page",
]

TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
RASTER = (".png", *JPEG, ".bmp")
NIFTI = (".nii.gz", ".nii")
NRRD = (".nrrd",)
ZARR = (".zarr",)
EXTENSIONS = (*TIFF, *RASTER, *NIFTI, *NRRD, *ZARR, *microscope_file.EXTENSIONS)

# MONAI writes "::" for "#" in every setting, addresses on its command line included
_PAGE = re.compile(r"(?P<file>.+\.(?:tiff?|nii(?:\.gz)?|nrrd|zarr|czi|nd2|lif))(?:#|::)(?P<page>\d+)", re.IGNORECASE)
# Formats whose files may hold several pages.
_PAGED = {
    **dict.fromkeys(TIFF, tiff_file),
    **dict.fromkeys(NIFTI, nifti_file),
    **dict.fromkeys(NRRD, nrrd_file),
    **dict.fromkeys(ZARR, zarr_image),
    **dict.fromkeys(microscope_file.EXTENSIONS, microscope_file),
}


def extension(path: str | Path) -> str:
    """Extension of an image file, lower case, ``.nii.gz`` in one piece; empty where the format is not supported.

    >>> extension("a/Slice.TIF"), extension("b.nii.gz"), extension("c.doc")
    ('.tif', '.nii.gz', '')
    """
    name = Path(path).name.lower()
    return next((e for e in EXTENSIONS if name.endswith(e) and name != e), "")


def is_image(path: Path) -> bool:
    """Whether a path is an image by its name: no folder, or for OME-Zarr one."""
    kind = extension(path)
    return bool(kind) and path.is_dir() == (kind in ZARR)


def split_page(path: str | Path) -> tuple[Path, int | None]:
    """File and page of an address; pages count from 0, and only those of formats that hold several have one.

    >>> split_page("train-volume.tif#7")
    (PosixPath('train-volume.tif'), 7)
    >>> split_page("train-volume.tif::7")
    (PosixPath('train-volume.tif'), 7)
    >>> split_page("well#3.png")
    (PosixPath('well#3.png'), None)
    """
    match = _PAGE.fullmatch(str(path))
    return (Path(match["file"]), int(match["page"])) if match else (Path(path), None)


def layout(path: str | Path) -> Layout:
    """What the headers of an image file say: its pages, their axes, channels and pixel size.

    Truncated TIFF files, and PNG files that are truncated or damaged, are found here, without decoding a pixel.

    Args:
        path: the file, without a page.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a supported format, truncated or damaged.
    """
    file = Path(path).expanduser()
    kind = _existing(file)
    return raster_file.layout(file) if kind in RASTER else _PAGED[kind].layout(file)


def page_shapes(path: str | Path) -> list[tuple[int, ...]]:
    """Shape of every page of an image file, as ``layout`` has it: (H, W), or (H, W, C) for colour or channels."""
    return layout(path).shapes


class _Reader(ImageReader):
    """What ``PageReader`` and ``LabelReader`` share: the way from an address to one decoded page.

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
            ``spatial_shape``, ``original_channel_dim``, ``stored_dtype``, ``full_scale`` and ``channel_names`` where
            the file has them, ``transparent`` where its last channel is transparency that varies and no channel was
            chosen, and for a page of a stack ``patch_index``, which ``SaveImage`` appends to the name of its output.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a supported format, truncated or damaged; a stack without a page; a page out of range.
        """
        addresses = _as_tuple(img)
        if len(addresses) != 1:
            given = ", ".join(map(str, addresses))
            raise ValueError(f"{len(addresses)} files for one image ({given}): give one file, or one page of a stack")
        file, number = split_page(addresses[0])
        file = file.expanduser()
        part = region.parse(addresses[0])
        page = _decode(file, number) if part is None else region.read(part)
        if page.pixels.dtype.kind not in "buif":
            raise ValueError(f"{file}: {page.pixels.dtype} pixels; save one real number a pixel and channel")
        array, names, transparent = self._meant(page, str(addresses[0]))
        meta: dict[str, Any] = {
            "affine": page.affine,
            "original_affine": page.affine.copy(),
            "spatial_shape": np.asarray(array.shape[:2]),
            "original_channel_dim": "no_channel" if array.ndim == 2 else -1,
            "stored_dtype": array.dtype.name,
        }
        if page.full_scale is not None:
            meta["full_scale"] = page.full_scale
        if names:
            meta["channel_names"] = list(names)
        if transparent:
            meta["transparent"] = True
        if number is not None:
            meta["patch_index"] = number
        return np.ascontiguousarray(array), meta

    def _meant(self, page: Page, source: str) -> tuple[NDArray[Any], tuple[str, ...], bool]:
        """The pixels as they are meant, (H, W) or (H, W, C), names of their channels, whether the last is no image."""
        raise NotImplementedError


class PageReader(_Reader):
    """Reader for ``LoadImaged``: one page of an image file as a viewer shows it, (H, W) or (H, W, C), rows first.

    A page of a TIFF stack is addressed as ``"train-volume.tif#7"``, counted from 0; in files with several channels a
    page has all of them. Orientation tags, palettes and "0 is white" are applied, a constant alpha channel is left
    out, one that varies is told in the metadata and refused by ``CheckImaged``, 1-bit images become 0 and 255. The
    first axis of a NIfTI or NRRD file is x, so it is swapped with the second, in the affine too.

    Args:
        channel: number (from 0) or name of the channel to take from images with several, or a list of such: they become
            the network's, in this order; all where None.
    """

    def __init__(self, channel: Channel | None = None) -> None:
        super().__init__()
        self.channel = channel

    def _meant(self, page: Page, source: str) -> tuple[NDArray[Any], tuple[str, ...], bool]:
        pixels, alpha = page.pixels, page.alpha
        names: tuple[str, ...] = page.channels
        if page.palette is not None:
            pixels, alpha = photometric.through_palette(pixels, page.palette), page.palette.shape[1] == 4
            if alpha is False and photometric.is_grey(pixels):
                pixels = pixels[..., 0]
        if page.white_is_zero:
            pixels = _inverted(pixels, page.full_scale, source)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8) * 255
        opaque = photometric.without_constant_alpha(pixels, alpha)
        pixels, transparent = opaque, alpha and opaque.shape == pixels.shape
        if pixels.ndim == 3 and not names:
            names = usual_names(pixels.shape[2])
        if self.channel is None:
            return pixels, names if pixels.ndim == 3 else (), transparent
        count = pixels.shape[2] if pixels.ndim == 3 else 1
        numbers = channel_numbers(self.channel, names if pixels.ndim == 3 else (), count, source)
        if pixels.ndim == 2:
            return pixels, (), False
        if len(numbers) == 1:
            return pixels[..., numbers[0]], (), False
        return pixels[..., numbers], tuple(names[number] for number in numbers), False


class LabelReader(_Reader):
    """Reader for ``LoadImaged``: masks and markers, whose pixels are ids and no grey values; (H, W), int64.

    Palettes are not applied: the indices are the ids; one that shows black for another index than 0 leaves open what
    the background is. Three equal channels are one; other colours become one id each
    (black 0, white 16777215). Orientation tags are applied, as for images. What cannot hold ids is refused: JPEG,
    transparency, channels, files in which 0 is white, numbers that are not whole or too large for their dtype.
    """

    def _meant(self, page: Page, source: str) -> tuple[NDArray[Any], tuple[str, ...], bool]:
        pixels = page.pixels
        if page.lossy:
            raise ValueError(
                f"{source}: a mask in {page.lossy}, which changes values: every grey at a rim would be a cell of its "
                "own; save masks as PNG or TIFF from where they were drawn"
            )
        if page.white_is_zero:
            raise ValueError(
                f"{source}: a mask in which 0 is white (MINISWHITE): what is the background? Save it with 0 as black "
                "and background, in ImageJ by Image > Lookup Tables > Invert LUT"
            )
        if page.palette is not None:
            _refuse_white_background(pixels, page.palette, source)
        if pixels.ndim == 3 and page.channels:
            raise ValueError(
                f"{source}: a mask of {pixels.shape[2]} channels ({', '.join(page.channels)}): which one holds ids? "
                "Save that one alone"
            )
        if pixels.ndim == 3:
            pixels = _ids_of_colours(photometric.without_constant_alpha(pixels, page.alpha), source)
        if pixels.dtype.kind == "f":
            _refuse_fractions(pixels, source)
        if pixels.dtype == np.uint64 and pixels.size and int(pixels.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{source}: ids up to {int(pixels.max())}; save it with ids of 32 bits")
        return pixels.astype(np.int64), (), False


class CheckImaged(MapTransform):
    """Refuse an image that the network cannot take: other channels, transparency, no pixels, NaN or infinite values.

    Grey stored as three equal channels becomes one where the network takes one.

    Args:
        keys: keys of channel-first images (C, H, W).
        channels: number of channels that the network takes.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(self, keys: KeysCollection, *, channels: int = 1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item, with an image of equal channels as one of them and all else as it is.

        Raises:
            ValueError: names the file, what is wrong with it and the remedy.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            tensor = torch.as_tensor(image)
            refuse_transparency(image, source_of(image, key))
            if self.channels == 1 and tensor.ndim == 3 and len(tensor) == 3 and _equal(tensor):
                item[key] = image = image[:1]
            _check(torch.as_tensor(image), image, source_of(image, key), self.channels)
        return item


def refuse_transparency(image: Any, source: str) -> None:
    """Raise for an image, channels first, whose last channel is transparency that varies: no grey values of anything.

    Args:
        image: with the metadata of ``PageReader``.
        source: its file, for the error.

    Raises:
        ValueError: names the file and how its channels are taken nevertheless.
    """
    if isinstance(image, MetaTensor) and image.meta.get("transparent"):
        count = len(image)
        low, high = (float(value) for value in torch.aminmax(image[-1].as_tensor()))
        colours = ' or "[0, 1, 2]"' if count == 4 else ""
        raise ValueError(
            f"{source}: {count} channels, the last one transparency from {low:g} to {high:g}, which is no grey value "
            f"of the image: save it without transparency; or take what is stored, --channel 0{colours}, or, where the "
            f'last one is a stain, --channel "{list(range(count))}"'
        )


def source_of(image: Any, key: Hashable) -> str:
    """The file that an image came from, or else its key."""
    return str(image.meta.get("filename_or_obj", key)) if isinstance(image, MetaTensor) else str(key)


def _as_tuple(names: Sequence[str | Path] | str | Path) -> tuple[str | Path, ...]:
    return (names,) if isinstance(names, str | Path) else tuple(names)


def _existing(file: Path) -> str:
    """Extension of a file that exists and has a supported one."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    kind = extension(file)
    if not file.is_file() and kind not in ZARR:
        raise ValueError(f"{file}: a folder, expected an image file")
    if not kind:
        raise ValueError(f"{file}: unknown extension; supported are {' '.join(EXTENSIONS)}")
    return kind


def _decode(file: Path, number: int | None) -> Page:
    kind = _existing(file)
    if kind in RASTER:
        return raster_file.read(file)
    module = _PAGED[kind]
    count = len(module.layout(file).shapes)
    if number is None and count > 1:
        raise ValueError(
            f"{file}: a stack of {count} pages; address one of them, {file.name}#0 to {file.name}#{count - 1}"
        )
    if number is not None and number >= count:
        raise ValueError(f"{file}#{number}: page out of range; the file has pages 0 to {count - 1}")
    return module.read(file, number or 0)


def _inverted(pixels: NDArray[Any], full_scale: float | None, source: str) -> NDArray[Any]:
    """Grey values of an image in which 0 is white."""
    if pixels.dtype == bool:
        return ~pixels
    if pixels.dtype.kind != "u":
        raise ValueError(f"{source}: {pixels.dtype} pixels in which 0 is white; save it with 0 as black")
    white = np.iinfo(pixels.dtype).max if full_scale is None else int(full_scale)
    return (white - pixels).astype(pixels.dtype)


def _ids_of_colours(pixels: NDArray[Any], source: str) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 3 and photometric.is_grey(pixels):
        return pixels[..., 0]
    if pixels.shape[2] == 3 and pixels.dtype in (np.uint8, np.uint16):
        return photometric.colour_ids(pixels)
    raise ValueError(
        f"{source}: a mask of {pixels.shape[2]} channels, transparent or not of one picture; save one channel of ids, "
        "or RGB with one colour a cell and black as background"
    )


def _refuse_white_background(indices: NDArray[Any], palette: NDArray[Any], source: str) -> None:
    """A palette that shows index 0 in a colour and another index in black: the background is one or the other."""
    used = [int(index) for index in np.unique(indices) if index < len(palette)]
    black = [index for index in used if not palette[index, :3].any()]
    if 0 in used and black and 0 not in black:
        raise ValueError(
            f"{source}: a mask whose palette shows {black[0]} in black and 0 in the colour "
            f"{tuple(int(value) for value in palette[0, :3])}: which is the background? Save it in grey, without a "
            "palette, 0 as background"
        )


def _refuse_fractions(pixels: NDArray[Any], source: str) -> None:
    whole = np.isfinite(pixels) & (pixels == np.round(pixels))
    if not whole.all():
        raise ValueError(
            f"{source}: holds {pixels[~whole][0]}: annotations are whole numbers; do not scale or interpolate them"
        )
    exact = 2.0 ** (np.finfo(pixels.dtype).nmant + 1)
    if pixels.size and np.abs(pixels).max() >= exact:
        raise ValueError(
            f"{source}: ids up to {pixels.max():.0f} as {pixels.dtype}, in which neighbouring ids above {exact:.0f} "
            "are one; save it as uint32"
        )


def _equal(image: torch.Tensor) -> bool:
    return bool((image[0] == image[1]).all()) and bool((image[0] == image[2]).all())


def _check(tensor: torch.Tensor, image: Any, source: str, channels: int) -> None:
    if tensor.ndim != 3:
        raise ValueError(
            f"{source}: shape {tuple(tensor.shape)}, expected (channels, H, W); call EnsureChannelFirstd first"
        )
    if tensor.numel() == 0:
        raise ValueError(f"{source}: shape {tuple(tensor.shape)} holds no pixels; remove the file or export it again")
    if tensor.shape[0] != channels:
        names = list(image.meta.get("channel_names", [])) if isinstance(image, MetaTensor) else []
        named = f" ({', '.join(map(str, names))})" if names else ""
        choose = f"take one with --channel 0 to {len(tensor) - 1}, " if channels == 1 else ""
        if 1 < channels < len(tensor):
            choose = f'take {channels} with --channel "{list(range(channels))}", '
        convert = "to greyscale" if channels == 1 else f"to {channels} channels"
        raise ValueError(
            f"{source}: {len(tensor)} channels{named}, the network takes {channels}; {choose}convert the image "
            f"{convert}, or train a network with --in_channels {len(tensor)}"
        )
    # the extremes are finite where all values are: no second image for a mask
    if tensor.is_floating_point() and not all(math.isfinite(value) for value in torch.aminmax(tensor)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{source}: {bad} pixels are NaN or infinite; replace them before training or prediction")
