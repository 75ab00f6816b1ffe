"""OME-Zarr folders as pages: the full-resolution level of a single image that fits into memory."""

from pathlib import Path
from typing import Any

import numpy as np

from unet_paper.data.page import Layout, NotTaken, Page, naming


def layout(file: Path) -> Layout:
    """Pages, channels and pixel size, from the metadata.

    Raises:
        ModuleNotFoundError: Zarr is not installed.
        ValueError: no OME-Zarr image.
    """
    store = _opened(file)
    planes = store.planes()
    shape = store.size if store.channels == 1 else (*store.size, store.channels)
    sizes = tuple(int(store.array.shape[store.axes.index(axis)]) for axis in store.plane_axes)
    several = len(planes) > 1
    return Layout(
        [shape] * len(planes),
        axes=store.plane_axes.upper() if several else "",
        sizes=sizes if several else (),
        channels=store.channel_names if store.channels > 1 else (),
        pixel_size=store.pixel_size,
        unit="micron" if store.pixel_size else "",
        left_out=store.left_out,
    )


def read(file: Path, number: int) -> Page:
    """One page, its channels last.

    Raises:
        ModuleNotFoundError, ValueError: as for ``layout``; chunks that cannot be decoded.
    """
    store = _opened(file)
    with naming(file):
        height, width = store.size
        pixels = store.read(store.planes()[number], slice(0, height), slice(0, width))
    names = store.channel_names if store.channels > 1 else ()
    if len(pixels) == 1:
        return Page(pixels[0], full_scale=store.full_scale)
    return Page(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), full_scale=store.full_scale, channels=names)


def _opened(file: Path) -> Any:
    try:
        from unet_paper.data.image_store import open_image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{file}: OME-Zarr needs Zarr: pip install 'unet_paper[large]'") from error
    if not file.is_dir():
        raise NotTaken(f"{file}: an OME-Zarr image is a folder")
    try:
        return open_image(file)
    except ValueError as error:
        # what it calls the setting of prediction in blocks
        raise ValueError(str(error).removeprefix("dataset_dir=")) from error
