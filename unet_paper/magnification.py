"""Prediction at another magnification than that of the images."""

import math
from collections.abc import Callable
from typing import Any

from monai.inferers.inferer import Inferer
from torch import Tensor
from torch.nn.functional import interpolate


class MagnifiedInferer(Inferer):
    """Resizes images before an inferer and its scores back after it.

    A network sees what its input tile holds, 572 px: of cells a third of that wide it sees few, and most of its
    convolutions look at their insides. At half the magnification it sees four times the area in the same time.
    Falk et al. (2019, doi:10.1038/s41592-018-0261-2) bring images to one pixel size in the same way. The network must
    have been trained at this magnification (``scale`` of ``RandElasticDeformationd``).

    Args:
        inferer: predicts the resized images; its output has the size of its input.
        magnification: size of the network's images / size of the images given, in each direction; 1 changes nothing.

    Raises:
        ValueError: for a magnification that is not a positive number.

    Examples:
        >>> import torch
        >>> from monai.inferers import SimpleInferer
        >>> half = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)
        >>> half(torch.ones(1, 1, 5, 8), lambda x: x * x.shape[-1])[0, 0, 0, 0].item()
        4.0
    """

    def __init__(self, *, inferer: Inferer, magnification: float = 1.0) -> None:
        super().__init__()
        if not 0 < magnification < math.inf:
            raise ValueError(f"magnification={magnification}: a number > 0 is needed, 0.5 halves the images")
        self.inferer = inferer
        self.magnification = magnification

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, K, H, W) of images (B, C, H, W); ``args`` and ``kwargs`` go to the inferer, see there."""
        if self.magnification == 1:
            return self.inferer(inputs, network, *args, **kwargs)
        size = tuple(inputs.shape[-2:])
        resized = tuple(max(1, round(length * self.magnification)) for length in size)
        small = interpolate(inputs, resized, mode="bilinear", align_corners=False, antialias=True)
        scores = self.inferer(small, network, *args, **kwargs)
        return interpolate(scores, size, mode="bilinear", align_corners=False)
