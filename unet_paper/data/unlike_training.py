"""Images unlike those that a network was trained on: said in one line, with the numbers of both."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from unet_paper.data.notices import Notices
from unet_paper.data.reader import source_of

logger = logging.getLogger(__name__)


class SayUnlikeTrainingd(MapTransform):
    """Warn of images whose grey values are far from those that the network was trained on; change nothing.

    Far is a mean more than ``deviations`` times ``std`` away, a spread more than ``ratio`` times as wide or as narrow,
    or more than ``saturated`` of the pixels white. Single images of one data set differ, so these are wide; what they
    find are other bit depths, negatives, other stains and microscopes.

    Args:
        keys: keys of images scaled to [0, 1], of any shape.
        mean: of the grey values of the training images, in [0, 1]; one, or one a channel.
        std: their standard deviation.
        deviations: in ``std``.
        ratio: of the standard deviations, above 1.
        saturated: share of white pixels.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        deviations: float = 2.0,
        ratio: float = 3.0,
        saturated: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mean = _average(mean)
        self.std = _average(std)
        self.deviations = deviations
        self.ratio = ratio
        self.saturated = saturated
        self._notices = Notices(logger)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item as it is."""
        item = dict(data)
        for key in self.key_iterator(item):
            pixels = torch.as_tensor(item[key]).to(torch.float32)
            # plain floats: an item may come with its history
            std, mean = (float(v) for v in torch.std_mean(torch.Tensor.as_subclass(pixels, torch.Tensor), correction=0))
            white = int((pixels >= 1).sum()) / pixels.numel()
            if self._is_far(mean, std, white):
                source = source_of(item[key], key)
                share = f", {100 * white:.0f} % of its pixels white" if white > self.saturated else ""
                self._notices.warn(
                    "other grey values",
                    source,
                    f"{source}: grey values unlike those of the training images: mean {mean:.4f}, spread {std:.4f}"
                    f"{share}; the network expects mean {self.mean:.4f}, spread {self.std:.4f} of [0, 1]. Another bit "
                    "depth (--grey_maximum), a negative, other weights (--ckpt_path)?",
                )
        return item

    def _is_far(self, mean: float, std: float, white: float) -> bool:
        spread = std / self.std if self.std > 0 else 1.0
        return (
            abs(mean - self.mean) > self.deviations * self.std
            or not 1 / self.ratio <= spread <= self.ratio
            or white > self.saturated
        )


def _average(value: float | Sequence[float]) -> float:
    return float(torch.as_tensor(value, dtype=torch.float64).mean())
