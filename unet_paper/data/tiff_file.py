"""TIFF files as pages: which of their directories are planes, along which axes, and what their tags say of the pixels.

tifffile finds the series (ImageJ, OME, MetaMorph, pyramids, ...); here one of them is chosen, its planes become pages
counted over every axis but the channels, T before Z, and each page is decoded as its tags mean it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_paper.data import photometric
from unet_paper.data.channels import told_names
from unet_paper.data.page import Layout, NotTaken, Page, naming, refuse_impossible_claim
from unet_paper.data.pixel_size import in_micrometres

_ORIENTATION, _COLOUR_MAP, _MAX_SAMPLE, _SMAX_SAMPLE = 274, 320, 281, 341
_SIGNED_OFFSET = 32768
# pages so narrow, so many times higher, and so many of them, are rows of an image with its channels
_FEW, _TIMES, _MANY = 16, 4, 16
# of tag 338: transparency, associated or not; 0 says nothing, and may be a channel
_TRANSPARENT = {1, 2}
# Codecs that change pixel values: old and new JPEG.
_JPEG = (6, 7, 33007, 34892)
_NAME_AXES = "save it with each once, by tifffile with photometric='minisblack', metadata={'axes': 'TZCYX'}"
_SPACES = {"MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "YCBCR"}


@dataclass(frozen=True)
class _Plane:
    """A directory, where it stands for many planes with one of them.

    Attributes:
        page: the directory.
        offset: of the plane, where all of them lie one behind another.
        sample: that the plane is, where samples of a pixel are planes.
    """

    page: Any
    offset: int | None = None
    sample: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or (H, W, C) of colours."""
        return _shape(self.page) if self.sample is None else _shape(self.page)[:2]


@dataclass(frozen=True)
class _Planes:
    """Planes of the chosen series: ``pages[k][c]`` is channel c of page k."""

    pages: list[list[_Plane]]
    axes: str
    sizes: tuple[int, ...]
    left_out: str


def layout(file: Path) -> Layout:
    """Pages, channels and pixel size, from the directories.

    Raises:
        ValueError: truncated, damaged, or a structure that is not planes.
    """
    with _opened(file) as (tiff, directories):
        planes = _planes(tiff, directories)
        names = _channel_names(tiff, planes.pages[0])
        turns = [_orientation(page[0].page) for page in planes.pages]
        shapes = []
        for page in planes.pages:
            shape = page[0].shape
            if len(page) > 1:
                shape = (*shape[:2], len(page))
            elif palette(tiff, page[0].page, 1) is not None:
                shape = (*shape[:2], 3)
            shapes.append(photometric.upright_shape(shape, _orientation(page[0].page)))
        size, spacing, unit = _pixel_size(tiff, planes.pages[0][0].page)
        if size and _orientation(planes.pages[0][0].page) > 4:
            size = size[::-1]
    return Layout(
        shapes,
        axes=planes.axes,
        sizes=planes.sizes,
        channels=names,
        pixel_size=size,
        spacing=spacing,
        unit=unit,
        left_out=planes.left_out,
        orientation=next((turn for turn in turns if turn != 1), 1),
    )


def read(file: Path, number: int) -> Page:
    """One page, upright, its channels last.

    Raises:
        ValueError: as for ``layout``; colours other than grey, RGB and palettes.
    """
    with _opened(file) as (tiff, directories):
        planes = _planes(tiff, directories)
        chosen = planes.pages[number]
        first = chosen[0].page
        _refuse_other_colours(first)
        refuse_impossible_claim(file, _shape(first), first.dtype.itemsize)
        arrays = _decode(tiff, chosen)
        if len({array.shape for array in arrays}) > 1 or (len(arrays) > 1 and arrays[0].ndim > 2):
            raise NotTaken("channels of different sizes or colours")
        pixels = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
        if is_signed_by_imagej(tiff, first):
            pixels = (pixels.astype(np.int32) - _SIGNED_OFFSET).astype(np.int16)
        # complex numbers have no order; they are refused where all numbers are looked at
        highest = float(pixels.max()) if pixels.size and pixels.dtype.kind != "c" else None
        return Page(
            photometric.upright(pixels, _orientation(chosen[0].page)),
            full_scale=full_scale(tiff, first, highest),
            alpha=len(chosen) == 1 and _has_alpha(first) and pixels.ndim == 3 and pixels.shape[2] in (2, 4),
            channels=_channel_names(tiff, chosen),
            palette=palette(tiff, first, len(chosen)),
            white_is_zero=first.photometric.name == "MINISWHITE",
            lossy="JPEG" if int(first.compression) in _JPEG else "",
        )


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, list[Any]]]:
    """An open file and all of its directories."""
    # other files of an OME set are images of their own: each is read as what itself holds
    with naming(file), tifffile.TiffFile(file, _multifile=False) as tiff:
        yield tiff, _complete_directories(tiff)


def _complete_directories(tiff: Any) -> list[Any]:
    """Directories of an open file, all of whose pixel data lie within the file.

    tifffile ends its list of pages at a directory that lies beyond the end of the file: half a stack would pass for a
    whole one.
    """
    pages, handle, form = list(tiff.pages), tiff.filehandle, tiff.tiff
    if not pages:
        raise ValueError("no pages")
    handle.seek(pages[-1].offset)
    tags = int.from_bytes(handle.read(form.tagnosize), "little" if tiff.byteorder == "<" else "big")
    handle.seek(pages[-1].offset + form.tagnosize + tags * form.tagsize)
    following = handle.read(form.offsetsize)
    if len(following) < form.offsetsize or any(following):
        raise ValueError(f"the file ends after {len(pages)} pages, where another one should follow")
    for number, page in enumerate(pages):
        _refuse_incomplete(page, f"page {number}", handle.size)
    return pages


def _refuse_incomplete(page: Any, name: str, size: int) -> None:
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(offset + count > size for offset, count in parts):
        raise ValueError(f"{name} ends beyond the end of the file")
    if int(page.compression) == 1 and sum(page.databytecounts) < page.nbytes * page.bitspersample // (
        8 * page.dtype.itemsize
    ):
        raise ValueError(f"{name} holds {sum(page.databytecounts)} bytes, fewer than its {page.shape} pixels need")
    if not page.is_contiguous and (len(parts) != int(np.prod(page.chunked)) or any(count == 0 for _, count in parts)):
        raise ValueError(f"{name} lacks some of its strips or tiles")


def _planes(tiff: Any, directories: list[Any]) -> _Planes:
    """Planes of the main series: those of the largest, or of all if they are of one kind."""
    series = [s for s in tiff.series if s.pages and not _is_extra(s.pages[0])] or list(tiff.series)
    if not series:
        raise ValueError("no images")
    areas = [_area(s) for s in series]
    pyramids = any(len(s.levels) > 1 or _is_extra(s.pages[0]) for s in tiff.series)
    main = [s for s, area in zip(series, areas, strict=True) if area == max(areas)]
    if len(main) < len(series) and not (pyramids or tiff.is_ome):
        # a plain stack whose pages differ in size
        main = series
    left_out = [f"{len(s.levels) - 1} smaller levels" for s in main if len(s.levels) > 1]
    left_out += [f"image {s.name!r} of {_area(s)} px" for s in series if s not in main]
    found = [_of_series(tiff, s, directories) for s in main]
    if len(found) == 1:
        pages, axes, sizes = found[0]
    else:
        pages = [page for one in found for page in one[0]]
        # pages in the order of the file, not kind by kind
        if not tiff.is_ome:
            pages.sort(key=lambda page: page[0].page.index)
        axes, sizes = "I", (len(pages),)
    height, width = _shape(pages[0][0].page)[:2]
    if width <= _FEW and min(height, len(pages)) >= max(_MANY, _TIMES * width):
        shape = main[0].shape if len(main) == 1 else (len(pages), height, width)
        first = {4: "ZCYX", 5: "TZCYX"}.get(len(shape), "CYX")
        raise NotTaken(
            f"{len(pages)} pages of {height} x {width} px: an image ({', '.join(map(str, shape))}) whose last axis "
            f"is channels, saved as a stack? Save it with the channels before rows and axes {first}, by tifffile with "
            f"photometric='minisblack', metadata={{'axes': '{first}'}}; or one file a channel"
        )
    if len({len(page) for page in pages}) > 1:
        raise NotTaken("pages with different numbers of channels")
    return _Planes(pages, axes if len(pages) > 1 else "", sizes if len(pages) > 1 else (), ", ".join(left_out))


def _is_extra(page: Any) -> bool:
    """A smaller version or a transparency mask of another page."""
    return bool(page.keyframe.is_reduced or page.keyframe.is_mask)


def _area(series: Any) -> int:
    sizes = dict(zip(series.get_axes(False), series.get_shape(False), strict=True))
    return int(sizes["Y"] * sizes["X"]) if {"X", "Y"} <= sizes.keys() else 0


def _of_series(tiff: Any, series: Any, directories: list[Any]) -> tuple[list[list[_Plane]], str, tuple[int, ...]]:
    keyframe = series.keyframe
    own = set(keyframe.axes)
    if not own <= set("YXS") or not {"Y", "X"} <= own:
        raise NotTaken(f"pages with axes {keyframe.axes}, expected one plane a page")
    axes, samples = _axes(series)
    leading = [(axis, size) for axis, size in zip(axes, series.shape, strict=True) if axis not in own]
    count = int(np.prod([size for _, size in leading], dtype=int))
    described = (tiff.imagej_metadata or {}).get("images", 1) if series.kind == "imagej" else 1
    if count == 1 and described > 1:
        leading, count = [("I", described)], described
    planes = _plane_list(tiff, series, count, directories)
    if samples:
        size = keyframe.shape[keyframe.axes.index("S")]
        leading, count = [*leading, (samples, size)], count * size
        planes = [replace(plane, sample=sample) for plane in planes for sample in range(size)]
    letters = [axis for axis, _ in leading]
    if any(letters.count(axis) > 1 for axis in "TZC"):
        raise NotTaken(f"axes {series.axes}, of which one is there twice; {_NAME_AXES}")
    # those without a meaning first; of one letter, as tifffile has it for axes that nobody names, they are one axis
    wanted = sorted(range(len(leading)), key=lambda place: ("TZC".find(letters[place]), letters.index(letters[place])))
    grid = np.arange(count).reshape([size for _, size in leading]).transpose(wanted)
    sizes: dict[str, int] = {}
    for axis, size in (leading[place] for place in wanted):
        sizes[axis] = sizes.get(axis, 1) * size
    pages = [[planes[index] for index in row] for row in grid.reshape(-1, sizes.get("C", 1)).tolist()]
    kept = [axis for axis in sizes if axis != "C" and sizes[axis] > 1]
    return pages, "".join(kept), tuple(sizes[axis] for axis in kept)


def _axes(series: Any) -> tuple[str, str]:
    """Axes of a series, samples of a pixel as S, and the axis that it says them to be, where that is another one.

    tifffile writes arrays (3, H, W) and (4, H, W) as the samples of one RGB page, whatever axes it is told to note.
    """
    keyframe = series.keyframe
    own, count = keyframe.axes, len(keyframe.axes)
    place = own.find("S")
    named = series.axes[-count:]
    samples = named[place] if place >= 0 else ""
    if samples in ("", "S") or named.replace(samples, "S") != own or series.shape[-count:] != keyframe.shape:
        return str(series.axes), ""
    return f"{series.axes[:-count]}{own}", str(samples)


def _plane_list(tiff: Any, series: Any, count: int, directories: list[Any]) -> list[_Plane]:
    if len(series.pages) == count:
        # tifffile gives all pages of a series the tags of one
        return [_Plane(directories[page.index]) for page in series.pages]
    keyframe = series.keyframe
    # a single directory with all planes behind it: ImageJ beyond 4 GB, MetaMorph
    if len(series.pages) == 1 and keyframe.is_contiguous and keyframe.dataoffsets:
        start = keyframe.dataoffsets[0]
        if start + count * keyframe.nbytes <= tiff.filehandle.size:
            return [_Plane(keyframe, start + k * keyframe.nbytes) for k in range(count)]
        raise ValueError(f"its description says {count} planes, the file ends before")
    raise ValueError(f"its description says {count} planes, but it has {len(series.pages)}")


def _shape(page: Any) -> tuple[int, ...]:
    sizes = dict(zip(page.axes, page.shape, strict=True))
    if not set(sizes) <= set("YXS"):
        raise NotTaken(f"pages with axes {page.axes}, expected one plane a page")
    return (sizes["Y"], sizes["X"], sizes["S"]) if "S" in sizes else (sizes["Y"], sizes["X"])


def _decode(tiff: Any, planes: Sequence[_Plane]) -> list[NDArray[Any]]:
    """Pixels of planes; a directory of several is decoded once."""
    whole: dict[tuple[int, int | None], NDArray[Any]] = {}
    for plane in planes:
        place = plane.page.index, plane.offset
        if place not in whole:
            whole[place] = _decode_whole(tiff, plane)
    found = [(whole[plane.page.index, plane.offset], plane.sample) for plane in planes]
    return [array if sample is None else array[..., sample] for array, sample in found]


def _decode_whole(tiff: Any, plane: _Plane) -> NDArray[Any]:
    page = plane.page
    if plane.offset is None:
        array: NDArray[Any] = page.asarray()
    else:
        handle = tiff.filehandle
        handle.seek(plane.offset)
        dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        array = handle.read_array(dtype, int(np.prod(page.shape))).reshape(page.shape)
    return np.moveaxis(array, 0, -1) if page.axes == "SYX" else array


def _refuse_other_colours(page: Any) -> None:
    space = getattr(page.photometric, "name", str(page.photometric))
    if space not in _SPACES or (space == "YCBCR" and int(page.compression) not in _JPEG):
        raise NotTaken(f"colours as {space}; save it as grey or RGB")


def _has_alpha(page: Any) -> bool:
    """Whether the last sample is transparency: it says so, or is the fourth of a pixel in colours."""
    return page.photometric.name == "RGB" or bool(_TRANSPARENT.intersection(map(int, page.extrasamples)))


def _orientation(page: Any) -> int:
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _ome_image(tiff: Any, page: Any) -> list[Any]:
    """Elements of OME-XML of the image that a directory belongs to: a scan may stand beside its macro image."""
    described = [e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if _kind(e) == "Image"]
    number = next((n for n, one in enumerate(tiff.series) if any(p and p.index == page.index for p in one.pages)), 0)
    if len(described) != len(tiff.series):
        named = [e for e in described if e.attrib.get("Name") == tiff.series[number].name]
        return list((named or described)[0].iter()) if described else []
    return list(described[number].iter())


def _kind(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def significant_bits(tiff: Any, page: Any) -> int | None:
    """Bits of a sample that OME-XML says to be in use, of those that a sample of a directory takes."""
    if not tiff.is_ome:
        return None
    pixels = (e for e in _ome_image(tiff, page) if _kind(e) == "Pixels")
    stated = next((element.attrib.get("SignificantBits", "") for element in pixels), "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else None


def is_signed_by_imagej(tiff: Any, page: Any) -> bool:
    """Whether these are signed numbers as ImageJ keeps them: 32768 more, and a calibration that takes it off again."""
    described = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    line = tuple(described.get(name) for name in ("cf", "c0", "c1"))
    return np.dtype(page.dtype) == np.uint16 and line == (0, -_SIGNED_OFFSET, 1)


def full_scale(tiff: Any, page: Any, highest: float | None = None) -> float | None:
    """Grey value that is white, by the bits that a file states, or by a stated maximum that is all ones in bits.

    Any other stated maximum is what one image happens to contain.

    Args:
        tiff, page: as tifffile has them.
        highest: grey value of the image, which cannot be beyond white; None where it is not known yet.

    Returns:
        None where the file states none, or that of its dtype.
    """
    dtype = np.dtype(page.dtype)
    bits = int(page.bitspersample)
    stated = []
    if dtype.kind == "u":
        significant = significant_bits(tiff, page) or bits
        stated += [2.0**used - 1 for used in (bits, significant) if used < 8 * dtype.itemsize]
    if dtype.kind in "uif":
        maxima = (float(np.max(page.tags[tag].value)) for tag in (_SMAX_SAMPLE, _MAX_SAMPLE) if tag in page.tags)
        stated += [maximum for maximum in maxima if maximum in {2.0**n - 1 for n in range(8, 16)}]
    white = next((white for white in stated if highest is None or highest <= white), None)
    return None if dtype.kind == "u" and white == np.iinfo(dtype).max else white


def palette(tiff: Any, page: Any, channels: int) -> NDArray[Any] | None:
    """Colours that the indices of a page stand for.

    Args:
        tiff, page: as tifffile has them.
        channels: of the page that a reader takes, each in a directory of its own.

    Returns:
        Shape (N, 3); None where pixels are grey values: ImageJ gives each channel of a composite a palette, of the
        colour in which it is laid over the others, and an image whose brightness was adjusted one that rises between
        the grey values last shown as black and as white.
    """
    if page.photometric.name != "PALETTE" or channels > 1:
        return None
    colours: NDArray[Any] = page.tags[_COLOUR_MAP].value.T
    return None if tiff.is_imagej and photometric.is_rising_grey(colours) else colours


def _channel_names(tiff: Any, channels: list[_Plane]) -> tuple[str, ...]:
    count = len(channels)
    if count == 1:
        return ()
    names: list[str] = []
    if tiff.is_ome:
        described = (e for e in _ome_image(tiff, channels[0].page) if _kind(e) == "Channel")
        names = [element.attrib.get("Name", "") for element in described]
    elif tiff.is_imagej:
        labels = (tiff.imagej_metadata or {}).get("Labels", [])
        names = [str(label) for label in ([labels] if isinstance(labels, str) else labels)]
    return told_names(names, count)


def _pixel_size(tiff: Any, page: Any) -> tuple[tuple[float, float] | None, float | None, str]:
    """(row, column) size of a pixel, distance of planes, and their unit."""
    if tiff.is_ome:
        for element in _ome_image(tiff, page):
            if _kind(element) == "Pixels":
                return _ome_size(element.attrib)
    tags = page.tags
    values = [tags[code].value for code in (283, 282) if code in tags]
    if len(values) < 2 or not all(above > 0 and below > 0 for above, below in values):
        return None, None, ""
    down, across = (below / above for above, below in values)
    if tiff.is_imagej:
        metadata = tiff.imagej_metadata or {}
        # ImageJ escapes letters beyond ASCII
        unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(metadata.get("unit", "")))
        unit = "micron" if in_micrometres(unit) == 1 else unit
        if unit and unit.lower() not in ("pixel", "pixels"):
            return (down, across), float(metadata["spacing"]) if "spacing" in metadata else None, unit
    unit = {2: "inch", 3: "cm"}.get(int(tags[296].value) if 296 in tags else 2, "")
    return ((down, across), None, unit) if unit else (None, None, "")


def _ome_size(attributes: dict[str, str]) -> tuple[tuple[float, float] | None, float | None, str]:
    sizes = {}
    for axis in "XYZ":
        size = float(attributes.get(f"PhysicalSize{axis}", 0))
        factor = in_micrometres(attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        if size > 0 and factor:
            sizes[axis] = size * factor
    if not {"X", "Y"} <= sizes.keys():
        return None, None, ""
    return (sizes["Y"], sizes["X"]), sizes.get("Z"), "micron"
