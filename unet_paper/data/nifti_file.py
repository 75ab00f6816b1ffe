"""NIfTI files as pages: one for each plane along z (and time), x to the right and y down."""

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from unet_paper.data.page import Layout, NotTaken, Page, naming, refuse_impossible_claim, refuse_rows_as_pages

_UNITS = {"meter": "m", "mm": "mm", "micron": "micron"}


def layout(file: Path) -> Layout:
    """Pages, pixel size and affine, from the header.

    Raises:
        ValueError: damaged, colour pixels, or more than four axes.
    """
    with naming(file):
        image = nibabel.load(file)
        width, height, planes, times = _axes(image.shape)
        refuse_rows_as_pages(height, width, planes)
        if image.get_data_dtype().names:
            raise NotTaken(f"colour pixels {image.get_data_dtype().names}, expected one number a pixel")
        zooms = [float(z) for z in image.header.get_zooms()]
        unit = _UNITS.get(image.header.get_xyzt_units()[0], "")
        affine = np.asarray(image.affine, dtype=np.float64)
    leading = [(axis, size) for axis, size in zip("TZ", (times, planes), strict=True) if size > 1]
    return Layout(
        [(height, width)] * (planes * times),
        axes="".join(axis for axis, _ in leading),
        sizes=tuple(size for _, size in leading),
        pixel_size=(zooms[1], zooms[0]) if unit else None,
        spacing=zooms[2] if unit and len(zooms) > 2 else None,
        unit=unit,
        affine=affine,
    )


def read(file: Path, page: int) -> Page:
    """One plane, rows first.

    The affine takes (row, column, 0, 1): the columns of x and y are swapped, and the plane is where the file puts it.

    Raises:
        ValueError: as for ``layout``; a ``.nii.gz`` whose checksum is wrong.
    """
    with naming(file):
        stat = file.stat()
        values, affine = _volume(file, stat.st_size, stat.st_mtime_ns)
        _, _, planes, _ = _axes(values.shape)
        plane = values.reshape((*values.shape[:2], -1), order="F")[:, :, page].T
        swapped = affine[:, [1, 0, 2, 3]].copy()
        swapped[:, 3] = affine @ [0, 0, page % planes, 1]
        return Page(plane, affine=swapped)


@lru_cache(maxsize=1)
def _volume(file: Path, _size: int, _changed: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    image: Any = nibabel.load(file)
    refuse_impossible_claim(file, image.shape, image.get_data_dtype().itemsize)
    if file.name.lower().endswith(".gz"):
        needed = int(image.dataobj.offset + np.prod(image.shape) * image.get_data_dtype().itemsize)
        with gzip.open(file) as packed:
            raw = packed.read(needed)
            # nibabel reads what it needs and stops before the checksum, which stands at the end
            while packed.read(2**20):
                pass
        image = type(image).from_bytes(raw)
    if image.get_data_dtype().names:
        raise NotTaken(f"colour pixels {image.get_data_dtype().names}, expected one number a pixel")
    return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)


def _axes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """X, Y, Z and T of a shape."""
    if len(shape) < 2 or any(n != 1 for n in shape[4:]):
        raise NotTaken(f"shape {shape}, expected planes: (X, Y), (X, Y, Z) or (X, Y, Z, T)")
    width, height, planes, times = (*shape[:4], 1, 1)[:4]
    return width, height, planes, times
