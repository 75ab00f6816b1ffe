"""The mark by which a prediction is told from a file of the user's: it is never overwritten and never predicted."""

import zipfile
from pathlib import Path

import nibabel
import tifffile
from PIL import Image

from unet_paper.data.reader import NIFTI, TIFF, extension

SOFTWARE = "unet_paper"
# how the header of each table begins
TABLES = ("id,area_px,", "page,id,area_px,", "image,page,id,area_px,", "image,page,cells,")
KINDS = ("_cells", "_classes", "_probability", "_overview", "_outlines")


def read_mark(file: Path) -> str:
    """What the program wrote into a file's own field for software; empty where another one did, or nobody."""
    try:
        if extension(file) in TIFF:
            with tifffile.TiffFile(file) as tiff:
                text = str(tiff.pages.first.software)
        elif extension(file) in NIFTI:
            text = nibabel.load(file).header["descrip"].item().decode("latin-1")
        else:
            with Image.open(file) as image:
                text = str(image.info.get("Software", ""))
    except Exception:  # of whatever a decoder raises: a file that cannot be read was not written by us
        return ""
    return text if text.startswith(f"{SOFTWARE} ") else ""


def is_ours(file: Path) -> bool:
    """Whether a file of any kind, image, table, ROIs or page, says of itself that this program wrote it.

    Tables have no room for a mark: one is known by the columns that it begins with.
    """
    if extension(file):
        return bool(read_mark(file))
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                return archive.comment.startswith(f"{SOFTWARE} ".encode())
        with file.open(encoding="utf-8") as text:
            head = text.read(1000)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    if file.suffix == ".csv":
        # of no image at all, a table ends where the columns of the first would follow
        first, _, _ = head.partition("\n")
        return f"{first.rstrip()},".startswith(TABLES)
    return f'"{SOFTWARE} ' in head


def is_output(file: Path) -> bool:
    """Whether a file is a prediction that this program wrote."""
    stem = file.name[: -len(extension(file))]
    return stem.endswith(KINDS) and bool(read_mark(file))
