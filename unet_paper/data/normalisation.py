"""Grey values less their mean in the training images, divided by their spread there, with little memory besides."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import NormalizeIntensityd

from unet_paper.data.reader import source_of

# of an image that are normalised at a time
BAND_PIXELS = 2**20


class NormaliseBandsd(NormalizeIntensityd):
    """MONAI's ``NormalizeIntensityd`` with a given mean and spread, some rows at a time.

    Every pixel gets the value that it gets there; a large image is not held three times.

    Args:
        keys: keys of images.
        subtrahend: the mean, one number or one a channel; setting ``grey_mean``.
        divisor: the spread, one number or one a channel; setting ``grey_std``.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        subtrahend: float | Sequence[float],
        divisor: float | Sequence[float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, _by_channel(subtrahend), _by_channel(divisor), allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Item with its images (C, H, W) normalised, float32.

        Raises:
            ValueError: naming the image, which has other channels than there are means or spreads.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key].to(torch.float32, copy=True)
            for setting, given in (("grey_mean", self.normalizer.subtrahend), ("grey_std", self.normalizer.divisor)):
                if isinstance(given, np.ndarray) and len(given) != len(image):
                    raise ValueError(
                        f"{source_of(item[key], key)}: has {len(image)} channels, and {setting}="
                        f"{given.ravel().tolist()} {len(given)} numbers; give one for all, or one a channel"
                    )
            step = max(1, BAND_PIXELS // max(1, image.shape[-1]))
            for rows in image.as_subclass(torch.Tensor).split(step, dim=-2):
                rows.copy_(torch.as_tensor(self.normalizer(rows)))
            item[key] = image
        return item


def _by_channel(values: float | Sequence[float]) -> Any:
    return values if np.isscalar(values) else np.asarray(values, np.float32).reshape(-1, 1, 1)
