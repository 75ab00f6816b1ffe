"""Files of microscopes, ``.czi``, ``.nd2`` and ``.lif``, as pages, through BioIO and its plug-ins.

They are no dependency of this package: ``pip install 'unet_paper[bioio]'`` brings them. Every scene, time and depth is
a page, scene by scene; all channels belong to it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from unet_paper.data.page import Layout, NotTaken, Page, naming

EXTENSIONS = (".czi", ".nd2", ".lif")


def layout(file: Path) -> Layout:
    """Pages, channels and pixel size, from the metadata.

    Raises:
        ModuleNotFoundError: BioIO, or its plug-in for this kind of file, is not installed; names the remedy.
        ValueError: the file cannot be read.
    """
    image = _opened(file)
    with naming(file):
        shapes: list[tuple[int, ...]] = []
        sizes: list[tuple[int, int]] = []
        for scene in image.scenes:
            image.set_scene(scene)
            channels = _channels(image)
            shape = (int(image.dims.Y), int(image.dims.X))
            sizes.append((int(image.dims.T), int(image.dims.Z)))
            shapes += [shape if channels == 1 else (*shape, channels)] * (sizes[-1][0] * sizes[-1][1])
        image.set_scene(image.scenes[0])
        size, spacing = _pixel_size(image)
        names = _names(image)
    along = [(axis, length) for axis, length in zip("TZ", sizes[0], strict=True) if length > 1]
    axes = "".join(axis for axis, _ in along) if len(sizes) == 1 else "I"
    counts = tuple(length for _, length in along) if len(sizes) == 1 else (len(shapes),)
    several = len(shapes) > 1
    return Layout(
        shapes,
        axes=axes if several else "",
        sizes=counts if several else (),
        channels=names,
        pixel_size=size,
        spacing=spacing,
        unit="micron" if size else "",
    )


def read(file: Path, number: int) -> Page:
    """One page, its channels last.

    Raises:
        ModuleNotFoundError, ValueError: as for ``layout``.
    """
    image = _opened(file)
    with naming(file):
        for scene in image.scenes:
            image.set_scene(scene)
            times, depths = int(image.dims.T), int(image.dims.Z)
            if number < times * depths:
                break
            number -= times * depths
        axes = "YXS" if "S" in image.dims.order else "CYX"
        time, depth = divmod(number, depths)
        pixels = np.asarray(image.get_image_dask_data(axes, T=time, Z=depth).compute())
        if axes == "CYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape[-1] == 1:
            return Page(np.ascontiguousarray(pixels[..., 0]))
        return Page(np.ascontiguousarray(pixels), channels=_names(image))


def _opened(file: Path) -> Any:
    missing = f"{file}: {file.suffix.lower()} files are read by BioIO: pip install 'unet_paper[bioio]'"
    try:
        import bioio
        import bioio_base.exceptions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{missing}, or export the image as OME-TIFF") from error
    try:
        with naming(file):
            return bioio.BioImage(file)
    except ValueError as error:
        if isinstance(error.__cause__, bioio_base.exceptions.UnsupportedFileFormatError):
            raise ModuleNotFoundError(f"{missing} (its plug-in for these is not installed)") from error
        raise


def _channels(image: Any) -> int:
    colours = int(image.dims.S) if "S" in image.dims.order else 1
    channels = int(image.dims.C)
    if colours > 1 and channels > 1:
        raise NotTaken(f"{channels} channels of {colours} colours each; export the channels that are meant")
    return max(colours, channels)


def _names(image: Any) -> tuple[str, ...]:
    if _channels(image) == 1 or "S" in image.dims.order:
        return ()
    given = image.channel_names or ()
    return tuple(str(name) for name in given) if len(given) == _channels(image) else ()


def _pixel_size(image: Any) -> tuple[tuple[float, float] | None, float | None]:
    """(row, column) size of a pixel and distance of planes in micrometres, the unit of BioIO's plug-ins."""
    sizes = image.physical_pixel_sizes
    if not sizes.Y or not sizes.X:
        return None, None
    return (float(sizes.Y), float(sizes.X)), float(sizes.Z) if sizes.Z else None
