"""Size of a pixel in micrometres, from what a file says."""

import unicodedata

from unet_paper.data.page import Layout

# of each unit of length as programs write it, one of several too
_MICROMETRES = {
    "pm": 1e-6, "picometer": 1e-6, "picometre": 1e-6, "å": 1e-4, "angstrom": 1e-4, "ångström": 1e-4,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "micron": 1.0, "um": 1.0, "μm": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "m": 1e6, "meter": 1e6, "metre": 1e6, "in": 25400.0, "inch": 25400.0, "inches": 25400.0,
}  # fmt: skip
# Cells differ by as much within one data set, and training scales them so.
TOLERANCE = 1.25
# What printers and screens count in: 72 dots an inch are 353 um, no microscope's pixel. Beyond this size in um such a
# number says how large a picture is printed.
_PRINTED, _LARGEST = (25400.0, 1e4), 10.0


def in_micrometres(unit: str) -> float | None:
    """A unit of length in micrometres; None where it is none that is known.

    >>> in_micrometres("nm"), in_micrometres("Micrometers"), in_micrometres("pixel")
    (0.001, 1.0, None)
    >>> in_micrometres("\\u00b5m") == in_micrometres("\\u03bcm") == 1  # the micro sign, and the Greek letter
    True
    """
    # the micro sign becomes the Greek letter
    word = unicodedata.normalize("NFKC", unit).strip().lower()
    # ms are no length
    return _MICROMETRES.get(word, _MICROMETRES.get(word.removesuffix("s")) if len(word) > 3 else None)


def micrometres(layout: Layout) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None where the file does not tell, or means a printer's dots.

    >>> micrometres(Layout([(4, 4)], pixel_size=(325, 325), unit="nm"))
    (0.325, 0.325)
    >>> micrometres(Layout([(4, 4)], pixel_size=(1 / 72, 1 / 72), unit="inch")) is None
    True
    """
    factor = in_micrometres(layout.unit)
    if layout.pixel_size is None or factor is None:
        return None
    height, width = (side * factor for side in layout.pixel_size)
    if not (0 < height < float("inf") and 0 < width < float("inf")):
        return None
    if factor in _PRINTED and max(height, width) > _LARGEST:
        return None
    # a ratio of integers in the file: 0.32500000001 is not meant
    return float(f"{height:.9g}"), float(f"{width:.9g}")
