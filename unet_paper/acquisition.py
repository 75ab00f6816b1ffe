"""Light, optics and camera as they may be on another day: random changes of an image's acquisition.

Not in the paper, which varies grey values alone (``grey_values.py``). Two sequences of one microscope differ in how
evenly they are lit, how strong their contrast is, how well they are focused and how noisy they are; a network that has
seen one sequence alone takes all of that for granted. Of each tile, in this order:

- shading: every grey value times exp(p), p a sum of products of Legendre polynomials, of at most third degree along
  either axis of the tile, whose ten coefficients are drawn from [-shading, shading];
- contrast: distances from the mean grey value of the channel times a factor;
- blur: a Gaussian;
- noise: white Gaussian noise, of a standard deviation that is drawn, too.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from monai.transforms import (
    MapTransform,
    RandBiasField,
    RandGaussianNoise,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityFixedMean,
)
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor

from unet_paper.arguments import is_number, is_range

Range = tuple[float, float]


def blurred(image: Tensor, sigma: float) -> Tensor:
    """An image (C, H, W) after a Gaussian filter, mirrored at its border; MONAI's transform takes black beyond it.

    Args:
        image: floating point.
        sigma: px, > 0.

    Raises:
        ValueError: for an image that is smaller than half of the filter.
    """
    kernel = gaussian_1d(torch.tensor(sigma), truncated=4.0).to(image)
    if len(kernel) // 2 >= min(image.shape[1:]):
        raise ValueError(
            f"blur: a sigma of {sigma:.3g} px reaches {len(kernel) // 2} px, more than there are in an image of shape "
            f"{tuple(image.shape)}; blur less"
        )
    return separable_filtering(image[None], [kernel, kernel], mode="reflect")[0]


class _RandBlur(RandomizableTransform):
    def __init__(self, sigma: Range) -> None:
        super().__init__(prob=1.0)
        self.sigma = sigma

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        sigma = self.R.uniform(*self.sigma)
        return blurred(convert_to_tensor(img), sigma) if sigma > 0 else img


class RandAcquisition(RandomizableTransform):
    """Random shading, contrast, blur and noise (in this order, see the module), by MONAI's transforms.

    Args:
        contrast: range of the factor, low > 0; (1, 1) leaves it.
        shading: largest coefficient, >= 0; 0 leaves the light as it is. At 0.05 a corner is some 10 % brighter.
        blur: range of the Gaussian's sigma in px, >= 0; (0, 0) leaves the image sharp.
        noise_std: largest standard deviation, in grey values, >= 0; 0 adds none.

    Raises:
        ValueError: for a number or a range that cannot be.

    >>> import torch
    >>> RandAcquisition()(torch.ones(1, 2, 2)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self, *, contrast: Range = (1.0, 1.0), shading: float = 0.0, blur: Range = (0.0, 0.0), noise_std: float = 0.0
    ) -> None:
        super().__init__(prob=1.0)
        if not (is_range(contrast) and contrast[0] > 0):
            raise ValueError(f"contrast={contrast!r}: factors (low, high) with 0 < low <= high are needed")
        if not (is_range(blur) and blur[0] >= 0):
            raise ValueError(f"blur={blur!r}: px, 0 <= low <= high, are needed")
        for name, value, hint in (
            ("shading", shading, ""),
            ("further_noise_std", noise_std, " (in Python: noise_std)"),
        ):
            if not (is_number(value) and value >= 0):
                raise ValueError(f"{name}={value!r}: expected 0, for none, or more{hint}")
        self.steps: list[Any] = []
        if shading:
            self.steps.append(RandBiasField(coeff_range=(-shading, shading), prob=1.0))
        if tuple(contrast) != (1, 1):
            factors = (contrast[0] - 1, contrast[1] - 1)
            self.steps.append(RandScaleIntensityFixedMean(factors=factors, channel_wise=True, prob=1.0))
        if any(blur):
            self.steps.append(_RandBlur(blur))
        if noise_std:
            self.steps.append(RandGaussianNoise(std=noise_std, prob=1.0))

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandAcquisition":
        """Seeds the draws (MONAI's ``Randomizable``)."""
        super().set_random_state(seed, state)
        for step in self.steps:
            step.set_random_state(seed=int(self.R.randint(2**32, dtype=np.uint32)))
        return self

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """The image, shape (C, H, W), changed; nothing is clipped.

        Raises:
            ValueError: for integer grey values or another shape, or a blur that an image is too small for.
        """
        found = convert_to_tensor(img)
        if found.ndim != 3 or not found.is_floating_point():
            raise ValueError(
                f"image: shape {tuple(found.shape)}, {found.dtype}: must be channel first (C, H, W), floating point"
            )
        for step in self.steps:
            img = step(img)
        return img


class RandAcquisitiond(Randomizable, MapTransform):
    """Dictionary version of :class:`RandAcquisition`.

    Args:
        keys: images to change, shape (C, H, W).
        contrast, shading, blur, noise_std: see :class:`RandAcquisition`.
        allow_missing_keys: pass over keys that an item lacks.
    """

    backend = RandAcquisition.backend

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        *,
        contrast: Range = (1.0, 1.0),
        shading: float = 0.0,
        blur: Range = (0.0, 0.0),
        noise_std: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.change = RandAcquisition(contrast=contrast, shading=shading, blur=blur, noise_std=noise_std)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandAcquisitiond":
        """Seeds the draws (MONAI's ``Randomizable``)."""
        super().set_random_state(seed, state)
        self.change.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Changes the item's images."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.change(item[key])
        return item
