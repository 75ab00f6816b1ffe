"""One plane of an image file, what its file says of itself, and one error for whatever a decoder says."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# A decoder allocates what a header claims: beyond this many bytes the file must hold a plausible share of them. No
# codec in use turns one byte into more than 2,800 of an image but by repeating a constant.
_CLAIM, _RATIO = 2**28, 4096


class NotTaken(ValueError):
    """A file is whole, but not of a kind that is taken."""


@dataclass(frozen=True)
class Page:
    """One decoded plane.

    Attributes:
        pixels: upright, shape (H, W) or (H, W, C).
        full_scale: grey value that is white, where the file states one that its dtype does not (12 bits: 4095).
        alpha: whether the last channel is an alpha channel.
        channels: names of the channels, where the file has any.
        palette: colours of indices, shape (N, 3), where ``pixels`` are indices.
        white_is_zero: whether 0 is white.
        lossy: the codec, where it does not keep values.
        affine: of (row, column, 0, 1), shape (4, 4).
    """

    pixels: Array
    full_scale: float | None = None
    alpha: bool = False
    channels: tuple[str, ...] = ()
    palette: Array | None = None
    white_is_zero: bool = False
    lossy: str = ""
    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))


@dataclass(frozen=True)
class Layout:
    """What the headers of a file say.

    Attributes:
        shapes: of every page, upright: (H, W), or (H, W, C) for colour or channels.
        axes: of the pages, outermost first, such as ``"TZ"``; empty for one page.
        sizes: pages along each of ``axes``.
        channels: names of the channels.
        pixel_size: (row, column) distance of pixels in ``unit``; None where unknown.
        spacing: distance of planes along Z in ``unit``; None where unknown.
        unit: of both, ``"micron"``, ``"nm"``, ``"inch"``, ...
        affine: of a NIfTI file, as stored: of (x, y, z, 1), shape (4, 4).
        left_out: what the file holds besides, in words.
        orientation: tag 274 of TIFF and EXIF, by which the pages are upright; 1 where there is none.
    """

    shapes: list[tuple[int, ...]]
    axes: str = ""
    sizes: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    spacing: float | None = None
    unit: str = ""
    affine: NDArray[np.float64] | None = None
    left_out: str = ""
    orientation: int = 1


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Decoders raise anything from struct.error to SyntaxError, or only log what is wrong: make it one error.

    Raises:
        ValueError: names the file, what was found and what to do.
    """
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.addHandler(complaints)
    if logger.getEffectiveLevel() > logging.WARNING:
        logger.setLevel(logging.WARNING)
    try:
        yield
        if complaints.said:
            raise ValueError(complaints.said[0])
    except NotTaken as error:
        raise ValueError(f"{file}: {error}") from error
    except PermissionError as error:
        raise ValueError(
            f"{file}: cannot be read: {error.strerror}; give yourself the right to read it, or copy it elsewhere"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{file}: cannot be read: {_plain(error)}; truncated, damaged or of another format than its name says? "
            "Copy or export it again"
        ) from error
    finally:
        logger.removeHandler(complaints)
        logger.setLevel(level)


class _Complaints(logging.Handler):
    """Warnings and errors that this thread logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.said.append(record.getMessage())


def _plain(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.removesuffix(".")


def refuse_impossible_claim(file: Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Raise if a file is too small for the image that its header claims, before memory is asked for.

    Raises:
        ValueError: names the claim and the size of the file.
    """
    claimed, held = int(np.prod(shape, dtype=object)) * itemsize, file.stat().st_size
    if claimed > _CLAIM and claimed > _RATIO * held:
        raise ValueError(
            f"its header claims {shape[0]} x {shape[1]} px, {claimed / 2**30:.1f} GiB, in a file of {held} bytes"
        )


def refuse_rows_as_pages(height: int, width: int, pages: int) -> None:
    """Raise for a volume whose planes are single rows or columns: a slice of it that stands along another axis.

    Raises:
        NotTaken: names the size.
    """
    if pages > 1 and min(height, width) == 1 < max(height, width):
        raise NotTaken(
            f"{pages} planes of {height} x {width} px: a slice along another axis than z, whose rows would be images; "
            "save it as a plane along x and y, or as TIFF or PNG"
        )
