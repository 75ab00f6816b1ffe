"""Size of a pixel in micrometres, from what a file says."""

from unet_paper.data.page import Layout

MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "angstrom": 1e-4,
    "micron": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0,
}  # fmt: skip
# Cells differ by as much within one data set, and training scales them so.
TOLERANCE = 1.25
# What printers and screens count in: 72 dots an inch are 353 um, no microscope's pixel. Beyond this size in um such a
# number says how large a picture is printed.
_PRINTED, _LARGEST = ("inch", "cm"), 10.0


def micrometres(layout: Layout) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None where the file does not tell, or means a printer's dots.

    >>> micrometres(Layout([(4, 4)], pixel_size=(325, 325), unit="nm"))
    (0.325, 0.325)
    >>> micrometres(Layout([(4, 4)], pixel_size=(1 / 72, 1 / 72), unit="inch")) is None
    True
    """
    factor = MICROMETRES.get(layout.unit.strip().lower())
    if layout.pixel_size is None or factor is None:
        return None
    height, width = (side * factor for side in layout.pixel_size)
    if not (0 < height < float("inf") and 0 < width < float("inf")):
        return None
    if layout.unit in _PRINTED and max(height, width) > _LARGEST:
        return None
    # a ratio of integers in the file: 0.32500000001 is not meant
    return float(f"{height:.9g}"), float(f"{width:.9g}")
