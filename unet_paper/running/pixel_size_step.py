"""Images of another pixel size than those of the training: brought to the size that cells had there."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from unet_paper.data.notices import Notices
from unet_paper.data.pixel_size import TOLERANCE, micrometres
from unet_paper.data.reader import layout, split_page
from unet_paper.instances import Settings, smallest_cell

logger = logging.getLogger(__name__)

AREA_SCALE = "area_scale"


class PixelSizeStep:
    """``iteration_update`` of an evaluator, whose magnification follows the pixel size of each image.

    An image of pixels twice as large as in training shows cells half as many pixels wide: it is magnified by 2, on top
    of what the network was trained with. Falk et al. (2019, doi:10.1038/s41592-018-0261-2) do so. Where the sizes
    differ by no more than a quarter, or one is not known, nothing changes; else a line says what is done, and the
    output has under ``area_scale`` by how much a cell's area in px differs from that in training, a quarter here, for
    the smallest cell of the post-processing.

    Args:
        step: what predicts by ``engine.inferer``, a :class:`unet_paper.magnification.MagnifiedInferer`.
        pixel_size: of the training images in micrometres; None: not known.
    """

    def __init__(self, step: Callable[[Any, Any], Any], pixel_size: float | None = None) -> None:
        self.step = step
        self.pixel_size = pixel_size
        self._notices = Notices(logger)

    def __call__(self, engine: Any, batch: Any) -> Any:
        inferer = engine.inferer
        ratio = self._ratio(batch["image"].meta)
        if ratio == 1:
            return self.step(engine, batch)
        engine.inferer = type(inferer)(inferer=inferer.inferer, magnification=inferer.magnification * ratio)
        try:
            output = self.step(engine, batch)
        finally:
            engine.inferer = inferer
        # one for each image, as MONAI takes an output apart
        if isinstance(output, dict):
            output[AREA_SCALE] = torch.full((len(batch["image"]),), ratio**-2)
        return output

    def _ratio(self, meta: Any) -> float:
        """How much larger the image's pixels are than those of the training; 1 where that makes no difference."""
        address = meta["filename_or_obj"]
        address = address if isinstance(address, str) else address[0]
        size = meta.get("pixel_size_um") or (None if "in_memory" in meta else _of_file(address))
        return magnified(address, size, self.pixel_size, self._notices)


def magnified(
    address: str, size: Sequence[float] | None, trained: float | None, notices: Notices | None = None
) -> float:
    """How much larger an image's pixels are than those of the training; 1 where that makes no difference.

    Args:
        address: name of the image, for the line that says what is done.
        size: height and width of its pixels in micrometres; None: not known.
        trained: side of the training images' pixels in micrometres; None: not known.
        notices: says the line; None: one of its own.
    """
    if size is not None and max(size) > TOLERANCE * min(size) > 0:
        file = str(split_page(address)[0])
        (notices or Notices(logger)).warn(
            "pixels that are not square",
            file,
            f"{file}: pixels of {size[0]:.4g} x {size[1]:.4g} um (height, width) are not square: what the "
            f"network sees is stretched {max(size) / min(size):.3g} times; unless those of the training were, too, "
            "resample it to square pixels first",
        )
    if trained is None or size is None:
        return 1.0
    height, width = (float(side) / trained for side in size)
    ratio = (height * width) ** 0.5
    if 1 / TOLERANCE <= ratio <= TOLERANCE:
        return 1.0
    (notices or Notices(logger)).warn(
        "another pixel size",
        address,
        f"{address}: pixels of {(own := ratio * trained):.4g} um, in training {trained:.4g} um: "
        f"magnified {ratio:.3g} times, and min_size is {ratio**-2:.3g} times as many px; --pixel_size {own:.4g} "
        "leaves it as it is",
    )
    return ratio


def rescaled(cells: Settings, ratio: float) -> Settings:
    """Post-processing for images whose pixels are ``ratio`` times as large as those of the training.

    >>> from unet_paper.instances import PRESETS
    >>> rescaled({**PRESETS["folder"], "min_size": 40}, 2.0)["min_size"]
    10
    """
    return {**cells, "min_size": smallest_cell(cells["min_size"], ratio**-2)}


def _of_file(address: str) -> tuple[float, float] | None:
    file = Path(split_page(address)[0])
    return micrometres(layout(file)) if file.exists() else None
