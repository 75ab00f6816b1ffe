"""Grey values of any file to [0, 1], the range that networks, statistics and augmentation know."""

import logging
import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from unet_paper.data.hot_pixels import at_most
from unet_paper.data.notices import Notices
from unet_paper.data.reader import source_of

logger = logging.getLogger(__name__)

FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}
ROUNDING = 1e-5


class ScaleToUnitRanged(MapTransform):
    """Grey values to [0, 1] by the full scale of the file; never by what one image happens to contain.

    The full scale is what the file states (12 bits a sample: 4095), or else that of its dtype: 255 for uint8, 65535 for
    uint16. Floating point must lie in [0, 1] already. Anything else needs ``maximum``, and so do images that use a part
    of their dtype's range without saying so, such as 12-bit data in uint16 (``maximum=4095``): one line says so. Hot
    pixels, at most one in 10,000 beyond black or white, are cut off there, which a line says, too. An image scaled
    before stays as it is.

    Args:
        keys: keys of images of any shape.
        maximum: grey value that becomes 1, for all images; the full scale where None. Setting ``grey_maximum``.
            Unsigned integers may go up to twice as far, in the same scale, which is said; and so are files whose own
            white is less.
        minimum: grey value that becomes 0, for all images. Setting ``grey_minimum``.
        logarithm: of [0, 1], below which grey values stay in proportion and above which equal factors become equal
            steps: x becomes log(1 + x / logarithm) / log(1 + 1 / logarithm). For images of which some are many times
            as bright as others; None leaves all in proportion. Setting ``grey_log``.
        allow_missing_keys: skip keys that an item lacks.

    Raises:
        ValueError: a maximum that is not above the minimum, or no ``logarithm`` above 0.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        maximum: float | None = None,
        minimum: float = 0.0,
        logarithm: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if logarithm is not None and not logarithm > 0:
            raise ValueError(f"grey_log={logarithm}: a grey value above 0, with 1 as white, or null")
        if maximum is not None and not maximum > minimum:
            raise ValueError(
                f"grey_maximum={maximum}: the grey value that becomes 1 must be above grey_minimum={minimum}"
            )
        self.maximum = maximum
        self.minimum = minimum
        self.logarithm = logarithm
        self._notices = Notices(logger)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images as float32 in [0, 1].

        Raises:
            ValueError: the scale is unknown, or more than a few hot pixels lie outside of it, or any that is infinite;
                names file, range and remedy.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._scale(item[key], source_of(item[key], key))
        return item

    def _scale(self, image: Any, source: str) -> torch.Tensor:
        tensor = image if isinstance(image, torch.Tensor) else torch.as_tensor(image)
        meta: dict[str, Any] = tensor.meta if isinstance(tensor, MetaTensor) else {}
        if "scaled_by" in meta:
            return tensor
        dtype = meta.get("stored_dtype", str(tensor.dtype).removeprefix("torch."))
        stated = meta.get("full_scale", 1.0 if dtype.startswith("float") else FULL_SCALE.get(dtype))
        maximum = stated if self.maximum is None else self.maximum
        low, high = (float(v) for v in torch.aminmax(tensor))
        # what a program stores as a float may be beside its limits by rounding
        slack = ROUNDING * (maximum - self.minimum) if maximum is not None and dtype.startswith("float") else 0.0
        # what is brighter than any image in training keeps its scale: the range of a camera is guessed from images
        reach = 2.0 if self.maximum is not None and dtype.startswith("uint") else 1.0
        remedy = (
            "give the grey values that become white and black in all images, --grey_maximum and, where not 0, "
            "--grey_minimum"
        )
        if maximum is None:
            raise ValueError(
                f"{source}: grey values of {dtype} from {low:g} to {high:g}, whose full scale is unknown; {remedy}"
            )
        lowest, highest = self.minimum - slack, reach * maximum + slack
        if not (low >= lowest and high <= highest):
            beyond = int(torch.count_nonzero((tensor < lowest) | (tensor > highest)))
            if beyond <= at_most(meta.get("pixels_in_all", tensor.numel())) and math.isfinite(low + high):
                self._notices.warn(
                    "hot pixels",
                    source,
                    f"{source}: {beyond} pixels are beyond {lowest:g} to {highest:g}, up to "
                    f"{low if low < lowest else high:g}: taken for hot ones, and cut off there",
                )
                tensor = tensor.clamp(lowest, highest)
                low, high = max(low, lowest), min(high, highest)
        if not (low >= lowest and high <= highest):
            raise ValueError(
                f"{source}: grey values of {dtype} from {low:g} to {high:g}, expected {self.minimum:g} to {maximum:g}; "
                f"{remedy}"
            )
        if self.maximum is None and "full_scale" not in meta:
            self._say_unused_bits(dtype, high, source)
        if self.maximum is not None:
            self._say_other_bits(dtype, high, meta.get("full_scale", FULL_SCALE.get(dtype)), source)
        scaled = (tensor.to(torch.float32) - self.minimum).div_(maximum - self.minimum)
        if slack:
            scaled = scaled.clamp_(0, 1)
        if self.logarithm is not None:
            scaled = _logarithmic(scaled, self.logarithm)
        if isinstance(scaled, MetaTensor):
            scaled.meta["scaled_by"] = maximum
        return scaled

    def _say_other_bits(self, dtype: str, high: float, full: float | None, source: str) -> None:
        """White of the file and ``maximum`` contradict one another: one may be of another export than the other."""
        if full is not None and self.maximum is not None and full < self.maximum:
            self._notices.warn(
                "fewer bits",
                source,
                f"{source}: its {dtype} grey values end at {full:g}, and grey_maximum={self.maximum:g} is taken for "
                "white: export it with as many bits as the images of the training, or say "
                f"--grey_maximum {full:g} if white is {full:g} in all images",
            )
        elif self.maximum is not None and high > self.maximum and not dtype.startswith("float"):
            self._notices.warn(
                "grey values beyond white",
                source,
                f"{source}: grey values up to {high:g}, beyond grey_maximum={self.maximum:g}, taken in the same scale",
            )

    def _say_unused_bits(self, dtype: str, high: float, source: str) -> None:
        bits = max(int(high).bit_length(), 1)
        unused = next((n for n in (8, 10, 12, 14) if bits <= n), None) if dtype == "uint16" else None
        if dtype == "uint8" and bits <= 4:
            unused = 4
        if unused and high > 0:
            self._notices.warn(
                "unused bits",
                source,
                f"{source}: the largest of its {dtype} grey values is {high:g}, and {FULL_SCALE[dtype]:g} is taken "
                f"for white: if the image has {unused} bits, say --grey_maximum {2**unused - 1}",
            )


def _logarithmic(scaled: torch.Tensor, knee: float) -> torch.Tensor:
    """Grey values in [0, 1], as equal steps for equal factors above ``knee``; in place, some at a time.

    In double precision: what single precision makes of one grey value depends on its place in the image.
    """
    flat = scaled.contiguous().view(-1)
    for start in range(0, len(flat), 2**20):
        part = flat[start : start + 2**20]
        part.copy_(part.double().div_(knee).log1p_().div_(math.log1p(1 / knee)))
    return flat.view(scaled.shape)
