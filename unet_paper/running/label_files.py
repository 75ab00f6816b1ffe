"""Files that predictions go into: TIFF stacks and NIfTI volumes that keep the pixel size and axes of their images."""

import gzip
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from unet_paper.data.page import Layout
from unet_paper.running.placement import placed

# bytes of pixels up to which a TIFF file keeps the offsets of 32 bits that every program reads
CLASSIC_TIFF = 2**32 - 2**26


class LabelFile(Protocol):
    """A file that is written page by page and appears under its name when it is complete."""

    path: Path

    def append(self, page: NDArray[Any]) -> None:
        """Add one page, shape (H, W)."""

    def close(self) -> None:
        """Complete the file and move it into place."""

    def abandon(self) -> None:
        """Leave no trace of it, and what was in its place as it was."""


class _Abandoned(Exception):
    pass


class TiffStack:
    """TIFF of unsigned integers or float32, one page a plane.

    Integers are uint16 until a page has an id beyond: then all pages become uint32. A stack whose pixels may pass 4 GB
    is a BigTIFF. Where the image has axes or a pixel size, the first page describes them as ImageJ does.

    Args:
        path: of the file.
        layout: of the image that the pages belong to.
        pages: how many there will be.
        mark: for the tag that says which program wrote it.
    """

    def __init__(self, path: Path, layout: Layout, pages: int, mark: str) -> None:
        self.path = path
        self._layout = layout
        self._pages = pages
        self._mark = mark
        self._big = 4 * sum(int(np.prod(shape[:2])) for shape in layout.shapes[:pages]) > CLASSIC_TIFF
        self._exit = ExitStack()
        self._part = self._exit.enter_context(placed(path))
        self._written: list[Any] = []
        self._writer = tifffile.TiffWriter(self._part, bigtiff=self._big)

    def append(self, page: NDArray[Any]) -> None:
        """Add one page.

        Raises:
            OSError: naming the file and what to do: the disk is full.
        """
        try:
            if page.dtype.kind in "iu":
                wide = page.max(initial=0) >= 2**16 or np.uint32 in self._written
                page = page.astype(np.uint32 if wide else np.uint16)
                if wide and np.uint16 in self._written:
                    self._widen()
            self._write(page)
        except BaseException as error:
            self._fail(error)
            raise

    def close(self) -> None:
        """Complete the file and move it into place."""
        try:
            self._writer.close()
        except BaseException as error:
            self._fail(error)
            raise
        self._exit.close()

    def abandon(self) -> None:
        """Leave no trace of it."""
        with suppress(_Abandoned):
            self._fail(_Abandoned())

    def _write(self, page: NDArray[Any]) -> None:
        first = not self._written
        layout: dict[str, Any] = _described(self._layout, self._pages) if first else {}
        # without tifffile's own description, readers take the pages as one stack; level 1: half the time, 1 % larger
        self._writer.write(
            page,
            compression="zlib",
            compressionargs={"level": 1},
            photometric="minisblack",
            metadata=None,
            software=self._mark,
            **layout,
        )
        self._written.append(page.dtype.type)

    def _widen(self) -> None:
        """Write anew, with 32 bits, what was written with 16."""
        self._writer.close()
        narrow = self._part.with_name(self._part.name + ".16")
        self._part.replace(narrow)
        try:
            self._written = []
            self._writer = tifffile.TiffWriter(self._part, bigtiff=self._big)
            with tifffile.TiffFile(narrow) as before:
                for page in before.pages:
                    self._write(page.asarray().astype(np.uint32))
        finally:
            narrow.unlink()

    def _fail(self, error: BaseException) -> None:
        try:
            self._writer.close()
        except OSError:  # what is not written need not be closed well
            self._writer._fh.close()
        self._exit.__exit__(type(error), error, error.__traceback__)


class NiftiVolume:
    """NIfTI of uint16, uint32 or float32, with the affine and pixel sizes of its image.

    Args:
        path: of the file.
        image: the image's own file, whose header is kept.
        pages: how many there will be: all of the image, or one.
        mark: for the header's description.
    """

    def __init__(self, path: Path, image: Path, pages: int, mark: str) -> None:
        self.path = path
        self._image = image
        self._expected = pages
        self._mark = mark
        self._planes: list[NDArray[Any]] = []

    def append(self, page: NDArray[Any]) -> None:
        """Add one page."""
        self._planes.append(page)

    def close(self) -> None:
        """Write the volume and move it into place.

        Raises:
            OSError: naming the file and what to do: the disk is full.
        """
        volume = np.stack(self._planes, axis=-1).swapaxes(0, 1)
        if volume.dtype.kind in "iu":
            volume = volume.astype(np.uint32 if volume.max(initial=0) >= 2**16 else np.uint16)
        image: Any = nibabel.load(self._image)
        whole = int(np.prod(image.shape[2:])) == self._expected
        shape = image.shape if whole else (*image.shape[:2], self._expected)
        header = image.header.copy()
        header.set_data_dtype(volume.dtype)
        header.set_slope_inter(1, 0)
        header["descrip"] = self._mark.encode()
        labels = type(image)(volume.reshape(shape, order="F"), image.affine, header)
        with placed(self.path) as part:
            part.write_bytes(_packed(labels, self.path))

    def abandon(self) -> None:
        """Nothing is written before the end."""
        self._planes = []


def save_picture(picture: NDArray[np.uint8], path: Path, mark: str) -> None:
    """RGB image as PNG, with the mark in its text for software."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", mark)
    with placed(path) as part:
        Image.fromarray(picture).save(part, format="png", compress_level=1, pnginfo=text)


def _packed(image: Any, path: Path) -> bytes:
    content: bytes = image.to_bytes()
    if path.suffix == ".gz":
        return gzip.compress(content, compresslevel=1, mtime=0)
    return content


def _escaped(text: str) -> str:
    """As ImageJ writes letters that a TIFF's tags cannot hold.

    >>> _escaped("\u00c5")
    '\\\\u00C5'
    """
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04X}" for letter in text)


def _described(layout: Layout, pages: int) -> dict[str, Any]:
    """Tags of the first page: pixel size, and the axes if all pages of the image are there."""
    tags: dict[str, Any] = {}
    lines = []
    if layout.pixel_size is not None:
        down, across = layout.pixel_size
        tags["resolution"] = (1 / across, 1 / down)
        tags["resolutionunit"] = {"inch": "INCH", "cm": "CENTIMETER"}.get(layout.unit, "NONE")
        if tags["resolutionunit"] == "NONE":
            lines.append(f"unit={_escaped(layout.unit)}")
    sizes = dict(zip(layout.axes, layout.sizes, strict=True))
    if sizes and set(sizes) <= set("TZ") and pages == len(layout.shapes):
        lines = [f"{name}={sizes[axis]}" for axis, name in (("Z", "slices"), ("T", "frames")) if axis in sizes] + lines
        lines += ["hyperstack=true"] if len(sizes) > 1 else []
        lines += [f"spacing={layout.spacing}"] if layout.spacing is not None else []
    if lines:
        images = [f"images={pages}"] if pages > 1 else []
        tags["description"] = "\n".join(["ImageJ=1.11a", *images, *lines, "loop=false", ""])
    return tags
