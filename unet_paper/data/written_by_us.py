"""The mark by which a prediction is told from a file of the user's: it is never overwritten and never predicted."""

from pathlib import Path

import nibabel
import tifffile
from PIL import Image

from unet_paper.data.reader import NIFTI, TIFF, extension

SOFTWARE = "unet_paper"
KINDS = ("_cells", "_probability", "_overview")


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


def is_output(file: Path) -> bool:
    """Whether a file is a prediction that this program wrote."""
    stem = file.name[: -len(extension(file))]
    return stem.endswith(KINDS) and bool(read_mark(file))
