"""PNG, JPEG and BMP files as pages."""

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from unet_paper.data import photometric
from unet_paper.data.page import Layout, NotTaken, Page, naming, refuse_impossible_claim

_ORIENTATION = 274
_ALPHA = ("LA", "PA", "La", "RGBA", "RGBa")
# types of colours of a PNG: grey; RGB, grey and RGB with alpha
_PNG_GREY, _PNG_COLOURS = 0, (2, 4, 6)
# Pillow's modes whose channels are samples of one picture; others (CMYK, LAB, HSV) are another space of colours.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F", "LA", "PA", "RGB", "RGBA")


def layout(file: Path) -> Layout:
    """Shape and pixel size, from the header; damage that checksums show.

    Raises:
        ValueError: damaged, of another format, or animated.
    """
    with naming(file), _open(file) as image:
        orientation = _orientation(image, file)
        # a palette's colours, not its indices, are the image
        bands = {"P": 3, "PA": 4}.get(image.mode, len(image.getbands()))
        shape: tuple[int, ...] = (image.height, image.width) if bands == 1 else (image.height, image.width, bands)
        dpi = image.info.get("dpi")
        image.verify()
        shape = photometric.upright_shape(shape, orientation)
    size = None
    if dpi and all(float(d) > 0 for d in dpi):
        across, down = (1 / float(d) for d in dpi)
        size = (across, down) if orientation > 4 else (down, across)
    return Layout([shape], pixel_size=size, unit="inch" if size else "", orientation=orientation)


def read(file: Path) -> Page:
    """The image, upright.

    Raises:
        ValueError: as for ``layout``; or another space of colours than grey and RGB.
    """
    with naming(file):
        with _open(file) as image:
            # Pillow checks the sums of a PNG file only here, and an image is spent by it
            image.verify()
        with _open(file) as image:
            if image.mode not in _MODES:
                raise NotTaken(f"colours as {image.mode}; save it as grey or RGB")
            alpha = image.mode in _ALPHA
            palette = _palette(image) if image.mode == "P" else None
            if "transparency" in image.info and palette is None and not alpha:
                raise NotTaken("one of its grey values or colours is transparent; save it without transparency")
            bits, colour = _png_samples(file)
            pixels = _sixteen_bits(file) if bits == 16 and colour in _PNG_COLOURS else np.asarray(image)
            if bits in (2, 4) and colour == _PNG_GREY:
                # Pillow stretches them to 255, and would do so to ids
                step = 255 // (2**bits - 1)
                pixels, palette = pixels // step, np.arange(0, 256, step, dtype=np.uint8)[:, None].repeat(3, axis=1)
            pixels = photometric.upright(pixels, _orientation(image, file))
            lossy = "JPEG" if image.format in ("JPEG", "MPO") else ""
    return Page(pixels, alpha=alpha, palette=palette, lossy=lossy)


def _open(file: Path) -> Any:
    image: Any
    limit = Image.MAX_IMAGE_PIXELS
    # the limit on what a header may claim is ours, and does not refuse a scan of 400 million pixels
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(file)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    try:
        refuse_impossible_claim(file, (image.height, image.width), len(image.getbands()))
        # a JPEG may hold a second picture (MPO), a preview of the first
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise NotTaken(f"{image.n_frames} pictures in one file; save each as a file, or as a TIFF stack")
    except BaseException:
        image.close()
        raise
    return image


def _orientation(image: Any, file: Path) -> int:
    if image.format != "PNG":
        return int(image.getexif().get(_ORIENTATION, 1)) or 1
    # Pillow decodes a PNG file to its end for this
    exif = Image.Exif()
    with file.open("rb") as handle:
        handle.seek(8)
        while len(head := handle.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                exif.load(handle.read(length))
                break
            handle.seek(length + 4, 1)
    return int(exif.get(_ORIENTATION, 1)) or 1


def _palette(image: Any) -> Any:
    mode, values = image.palette.getdata()
    components = len(mode.split(";")[0])
    colours = np.frombuffer(values, np.uint8).reshape(-1, components)[:, :3]
    if mode.startswith("BGR"):  # of BMP
        colours = colours[:, ::-1]
    if "transparency" in image.info:
        opacity = image.info["transparency"]
        full = np.full(256, 255, np.uint8)
        if isinstance(opacity, bytes):
            full[: len(opacity)] = np.frombuffer(opacity, np.uint8)
        else:
            full[opacity] = 0
        return np.concatenate([colours, full[: len(colours), None]], axis=1)
    return colours


def _png_samples(file: Path) -> tuple[int, int]:
    """Bits of a sample and type of colours of a PNG file; 0 and 0 of another one."""
    with file.open("rb") as handle:
        header = handle.read(26)
    return (header[24], header[25]) if header[:8] == b"\x89PNG\r\n\x1a\n" else (0, 0)


def _sixteen_bits(file: Path) -> Any:
    """Pillow keeps 8 of 16 bits a colour."""
    return imagecodecs.png_decode(file.read_bytes())
