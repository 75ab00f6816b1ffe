"""Grey values less their mean in the training images, divided by their spread there, with little memory besides."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import NormalizeIntensityd

# of an image that are normalised at a time
BAND_PIXELS = 2**20


class NormaliseBandsd(NormalizeIntensityd):
    """MONAI's ``NormalizeIntensityd`` with a given ``subtrahend`` and ``divisor``, some rows at a time.

    Every pixel gets the value that it gets there; a large image is not held three times.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Item with its images (C, H, W) normalised, float32."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key].to(torch.float32, copy=True)
            step = max(1, BAND_PIXELS // max(1, image.shape[-1]))
            for rows in image.as_subclass(torch.Tensor).split(step, dim=-2):
                rows.copy_(torch.as_tensor(self.normalizer(rows)))
            item[key] = image
        return item
