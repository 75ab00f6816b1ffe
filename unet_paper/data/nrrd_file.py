"""NRRD files, the format of 3D Slicer, as pages: images, label images, and segmentations (``.seg.nrrd``).

http://teem.sourceforge.net/nrrd/format.html; the fields of a segmentation are those that Slicer documents for its
segmentation files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_paper.data.page import Layout, NotTaken, Page, naming, refuse_impossible_claim, refuse_rows_as_pages
from unet_paper.data.pixel_size import in_micrometres

_NOT_SPATIAL = ("color", "vector", "list", "complex", "quaternion", "stub", "time")
# Signs that bring a direction to that of NIfTI: right, anterior, superior.
_SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
_OFFSET = "Segmentation_ReferenceImageExtentOffset"


def layout(file: Path) -> Layout:
    """Pages and affine, from the header.

    Raises:
        ValueError: damaged, more axes than an image has, or pixels in another file.
    """
    with naming(file):
        header = _header(file)
        channels, (width, height, planes) = _axes(header)
        if _is_segmentation(header):
            channels, (left, top) = 0, _offset(header)
            width, height = width + left, height + top
        shape = (height, width, channels) if channels else (height, width)
        refuse_rows_as_pages(height, width, planes)
        axes = ("Z", (planes,)) if planes > 1 else ("", ())
        size, spacing, unit = _pixel_size(header)
        return Layout(
            [shape] * planes,
            axes=axes[0],
            sizes=axes[1],
            pixel_size=size,
            spacing=spacing,
            unit=unit,
            affine=_affine(header),
        )


def read(file: Path, page: int) -> Page:
    """One plane, rows first.

    Slicer stores of a segmentation the part of the image that holds segments: rows and columns before it are added
    here, those after it are unknown to the file. Segments in one layer keep their values, else they are numbered.

    Raises:
        ValueError: as for ``layout``.
    """
    import nrrd  # slow, and for this format alone

    with naming(file):
        header = _header(file)
        channels, (width, height, planes) = _axes(header)
        refuse_impossible_claim(file, tuple(int(n) for n in header["sizes"]), 1)
        values, _ = nrrd.read(str(file), index_order="F")
        # channels or layers, x, y, z
        plane = values.reshape((max(channels, 1), width, height, planes), order="F")[..., page].swapaxes(1, 2)
        if _is_segmentation(header):
            pixels: NDArray[Any] = _segments(plane, header)
        else:
            pixels = np.moveaxis(plane, 0, -1) if channels else plane[0]
        affine = _affine(header)
        swapped = affine[:, [1, 0, 2, 3]].copy()
        swapped[:, 3] = affine @ [0, 0, page, 1]
        return Page(pixels, affine=swapped)


def _header(file: Path) -> Mapping[str, Any]:
    import nrrd

    header: dict[str, Any] = nrrd.read_header(str(file))
    if any(key in header for key in ("data file", "datafile")):
        raise ValueError("its pixels are in another file, which is not read; save it as one .nrrd file")
    return header


def _axes(header: Mapping[str, Any]) -> tuple[int, tuple[int, int, int]]:
    """Number of channels or layers, 0 where there is no such axis, and X, Y and Z."""
    sizes = tuple(int(n) for n in header["sizes"])
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    first, *others = [any(word in kind for word in _NOT_SPATIAL) for kind in kinds] or [False]
    if any(others):
        raise NotTaken(
            f"axes of kinds {' '.join(kinds)}: channels, or times, must be the first axis, as 3D Slicer "
            "writes them; save each channel or time as a file"
        )
    spatial = sizes[1:] if first else sizes
    if not 2 <= len(spatial) <= 3 or min(sizes) < 1:
        raise ValueError(f"sizes {sizes} of kinds {kinds or 'unknown'}, expected planes: (X, Y) or (X, Y, Z)")
    width, height, planes = (*spatial, 1)[:3]
    return sizes[0] if first else 0, (width, height, planes)


def _is_segmentation(header: Mapping[str, Any]) -> bool:
    return "Segment0_ID" in header or "Segment0_Name" in header


def _offset(header: Mapping[str, Any]) -> tuple[int, int]:
    left, top, *_ = (int(word) for word in str(header.get(_OFFSET, "0 0 0")).split())
    if not (0 <= left < 2**20 and 0 <= top < 2**20):
        raise ValueError(f"{_OFFSET} {header[_OFFSET]}: the segmentation reaches out of its image")
    return left, top


def _segments(layers: NDArray[Any], header: Mapping[str, Any]) -> NDArray[np.int32]:
    """Label image of the layers (L, H, W) of a segmentation."""
    if len(layers) == 1:
        ids = layers[0].astype(np.int32)
    else:
        ids = np.zeros(layers.shape[1:], np.int32)
        for number in range(10**6):
            if f"Segment{number}_ID" not in header and f"Segment{number}_Name" not in header:
                break
            layer = layers[int(header.get(f"Segment{number}_Layer", number))]
            value = header.get(f"Segment{number}_LabelValue")
            ids[layer != 0 if value is None else layer == int(value)] = number + 1
    left, top = _offset(header)
    return np.pad(ids, ((top, 0), (left, 0)))


def _pixel_size(header: Mapping[str, Any]) -> tuple[tuple[float, float] | None, float | None, str]:
    """(row, column) size of a pixel, distance of planes, and their unit, where the header says one."""
    units = {
        str(unit).strip('"') for unit in header.get("space units", header.get("units", [])) if str(unit).strip('"')
    }
    unit = next(iter(units), "")
    if len(units) != 1 or in_micrometres(unit) is None:
        return None, None, ""
    sizes = np.linalg.norm(_affine(header)[:3, :3], axis=0)
    if "space directions" not in header:
        spacings = np.asarray(header.get("spacings", []), float)
        spacings = spacings[np.isfinite(spacings)][:3]
        if len(spacings) < 2:
            return None, None, ""
        sizes[: len(spacings)] = spacings
    across, down, depth = sizes.tolist()
    return (down, across), depth, unit


def _affine(header: Mapping[str, Any]) -> NDArray[np.float64]:
    """Of (x, y, z, 1), as NIfTI has it."""
    affine = np.eye(4)
    given = np.atleast_2d(np.asarray(header.get("space directions", np.eye(3)), dtype=np.float64))
    directions = [direction for direction in given if np.isfinite(direction).all()]
    for axis, direction in enumerate(directions[:3]):
        affine[:3, axis] = 0
        affine[: len(direction), axis] = direction
    origin = np.asarray(header.get("space origin", np.zeros(3)), dtype=np.float64)
    affine[: len(origin), 3] = origin
    signs = _SPACES.get(str(header.get("space", "")).lower(), (1, 1, 1))
    return np.diag([*signs, 1]).astype(np.float64) @ affine
