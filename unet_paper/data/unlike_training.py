"""Images unlike those that a network was trained on: said in one line, with the numbers of both."""

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from unet_paper.data.grey_statistics import GreyRanges, grey_features
from unet_paper.data.notices import Notices
from unet_paper.data.reader import source_of

__all__ = ["UNLIKE", "SayUnlikeTrainingd", "unlike"]

UNLIKE = "unlike_training"  # in an image's metadata, in what its grey values are, in words

logger = logging.getLogger(__name__)

# How far outside the range of many training images a feature is unlike them: levels in parts of their contrast,
# contrast in doublings, the others as they are; within one real set of those at hand they differ by 0.01 to 0.03.
_LEVEL, _DOUBLINGS = 0.25, 0.7
_TOLERANCE = {"balance": 0.05, "detail": 0.03, "white": 0.1}
# of 16 bits, below which a contrast is none
_NO_CONTRAST = 1 / 512
# ratio of contrasts from which a set is one of few cells and many, in which an image without any is no stranger
_FEW_OR_MANY = 2.0


class SayUnlikeTrainingd(MapTransform):
    """Warn of images whose grey values are far from those that the network was trained on; change no pixel.

    What is said stands in the image's metadata, too (:data:`UNLIKE`, empty of others), for tables of predictions.

    Far is what lies well outside the ranges of the training images (``ranges``): images of one data set differ, those
    of fluorescence a hundred times in their mean, and of few images the range tells little. What is found are
    negatives, other bit depths, stains and microscopes. A turned sign of images that look alike in both, such as those
    of differential interference contrast, is not.

    Of weights that know the mean and spread of all their pixels only, far is a mean more than ``deviations`` times
    ``std`` away, a spread more than ``ratio`` times as wide or as narrow, or more than ``saturated`` of the pixels
    white.

    Args:
        keys: keys of images scaled to [0, 1], shape (C, H, W).
        mean: of the grey values of the training images, in [0, 1]; one, or one a channel.
        std: their standard deviation.
        ranges: of ``data.grey_statistics``, of the training images; None: not known.
        deviations: in ``std``.
        ratio: of the standard deviations, above 1.
        saturated: share of white pixels.
        allow_missing_keys: skip keys that an item lacks.

    Raises:
        ValueError: ranges that are none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        ranges: GreyRanges | None = None,
        deviations: float = 2.0,
        ratio: float = 3.0,
        saturated: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if ranges is not None and not isinstance(ranges, Mapping):
            raise ValueError(
                f"expected_grey_values={ranges!r}: ranges by name are needed, as grey_statistics gives them, or null, "
                "by which mean and spread alone are compared"
            )
        self.mean = _average(mean)
        self.std = _average(std)
        self.ranges = ranges
        self.deviations = deviations
        self.ratio = ratio
        self.saturated = saturated
        self._notices = Notices(logger)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item as it is."""
        item = dict(data)
        for key in self.key_iterator(item):
            said = self._by_mean(item[key]) if self.ranges is None else unlike(grey_features(item[key]), self.ranges)
            if isinstance(item[key], MetaTensor):
                item[key].meta[UNLIKE] = said
            if said:
                source = source_of(item[key], key)
                self._notices.warn(
                    "other grey values",
                    source,
                    f"{source}: grey values unlike those of the training images: {said}, of [0, 1]. Another bit depth "
                    "(--grey_maximum), a negative, another microscope, other weights (--ckpt_path)?",
                )
        return item

    def _by_mean(self, image: Any) -> str:
        pixels = torch.as_tensor(image).to(torch.float32)
        # plain floats: an item may come with its history
        std, mean = (float(v) for v in torch.std_mean(torch.Tensor.as_subclass(pixels, torch.Tensor), correction=0))
        white = int((pixels >= 1).sum()) / pixels.numel()
        if not self._is_far(mean, std, white):
            return ""
        share = f", {100 * white:.0f} % of its pixels white" if white > self.saturated else ""
        return (
            f"mean {mean:.4f}, spread {std:.4f}{share}; the network expects mean {self.mean:.4f}, spread {self.std:.4f}"
        )

    def _is_far(self, mean: float, std: float, white: float) -> bool:
        spread = std / self.std if self.std > 0 else 1.0
        return (
            abs(mean - self.mean) > self.deviations * self.std
            or not 1 / self.ratio <= spread <= self.ratio
            or white > self.saturated
        )


def unlike(features: Mapping[str, Sequence[float]], ranges: GreyRanges) -> str:
    """Which features of an image lie far outside their ranges in the training images, in words; empty if none does.

    Args:
        features: of ``grey_statistics.grey_features``.
        ranges: of ``grey_statistics.grey_statistics``.
    """
    channels = len(features["contrast"])
    if len(ranges["contrast"][0]) != channels:
        return ""  # refused elsewhere
    said = []
    for channel in range(channels):
        where = f" in channel {channel}" if channels > 1 else ""
        of_channel = {
            name: (values[channel], *(limits[channel] for limits in ranges[name])) for name, values in features.items()
        }
        said += [
            f"{name}{where} {value:.3g} (there {low:.3g} to {high:.3g})"
            for name, (value, low, high) in _outside(of_channel, int(ranges["images"])).items()
        ]
    return ", ".join(said)


def _outside(features: Mapping[str, tuple[float, float, float]], images: int) -> dict[str, tuple[float, float, float]]:
    """Features that lie outside; of each its value, and the lowest and highest of the training."""
    value, low, high = (max(number, _NO_CONTRAST) for number in features["contrast"])
    contrast = math.sqrt(low * high)
    far = {name: found for name, found in features.items() if _is_outside(name, *found, contrast, images)}
    no_cell = high > _FEW_OR_MANY * low and value < low
    return {} if no_cell and not {"dark", "middle"} & far.keys() else far


def _is_outside(name: str, value: float, low: float, high: float, contrast: float, images: int) -> bool:
    # beyond the range of n images lie about two of n + 1 others of their set
    width, margin = 0.5 + 2 / images, 1 + 2 / images
    if name == "contrast":
        value, low, high = (math.log2(max(number, 0.0) + _NO_CONTRAST) for number in (value, low, high))
        margin, width = _DOUBLINGS, 0.5 * width
    else:
        margin *= _TOLERANCE.get(name, _LEVEL * contrast)
    margin += width * (high - low)
    return not low - margin <= value <= high + margin


def _average(value: float | Sequence[float]) -> float:
    return float(torch.as_tensor(value, dtype=torch.float64).mean())
