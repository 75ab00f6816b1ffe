r"""Random grey-value variation.

Ronneberger et al. (2015), section 3.1, name grey-value variation among the augmentations and give no ranges. As in the
authors' released code, every channel gets a random smooth, rising curve through (0, black), (1/2, middle), (1, white):

    black ~ U(0, 0.1),  white ~ U(0.9, 1),  middle ~ U over all values that keep the mean slope of either half,
    2 (middle - black) and 2 (white - middle), within 0.8 .. 1.2.

The released code smooths the broken line through the three points with a Gaussian of 1/8; here the curve is the
parabola through them, with c = middle - (black + white) / 2:

    y(x) = black + (white - black) x + 4 c x (1 - x),   x the grey value, clamped to [0, 1]

so grey values stay within [black, white].
"""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from unet_paper.arguments import is_number, is_range

# grey values that no image scaled to [0, 1] has: the brightest have twice its white, and interpolation overshoots
_FAR = 10


class RandGreyValues(RandomizableTransform):
    """Random smooth, rising grey-value curve, one for each channel (formula: see the module).

    Args:
        black: range of the value that 0 is mapped to.
        white: range of the value that 1 is mapped to.
        slope: range of the mean slope of the curve's lower and upper half.
        noise_std: standard deviation of white Gaussian noise added after the curve, in grey values (not in the paper:
            0). With noise, values may leave [0, 1]: nothing is clipped.
        exposure: range of a factor of all grey values of a channel before the curve, as many below 1 as above (not in
            the paper: 1 to 1), for images of one set taken with very different exposures.

    Raises:
        ValueError: for a range that is not (low, high), or a number that is none; for black and white so far apart or
            so close that no curve has slopes in ``slope``, or that a curve could fall.

    >>> import torch
    >>> transform = RandGreyValues(black=(0.1, 0.1), white=(0.9, 0.9), slope=(0.8, 0.8))
    >>> transform(torch.tensor([[[0.0, 0.25, 1.0]]]))
    tensor([[[0.1000, 0.3000, 0.9000]]])
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self,
        *,
        black: tuple[float, float] = (0.0, 0.1),
        white: tuple[float, float] = (0.9, 1.0),
        slope: tuple[float, float] = (0.8, 1.2),
        noise_std: float = 0.0,
        exposure: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(prob=1.0)
        for name, given in {"black": black, "white": white, "slope": slope, "exposure": exposure}.items():
            if not is_range(given):
                raise ValueError(f"{name}={given!r}: a range (low, high) of numbers with low <= high is needed")
        if not exposure[0] > 0:
            raise ValueError(f"exposure={exposure}: factors are greater than 0")
        smallest, largest = white[0] - black[1], white[1] - black[0]
        rounding = 1e-9
        if slope[0] > smallest + rounding or slope[1] < largest - rounding:
            raise ValueError(
                f"slope={slope}: must include {smallest:g} .. {largest:g}, the contrasts that "
                f"black={black} and white={white} allow"
            )
        if 2 * slope[0] < largest:
            raise ValueError(f"slope={slope}: a curve could fall; the lower limit must be at least {largest / 2:g}")
        if not (is_number(noise_std) and noise_std >= 0):
            raise ValueError(f"noise_std={noise_std!r}: a standard deviation in grey values, 0 or more")
        self.black = black
        self.white = white
        self.slope = slope
        self.noise_std = noise_std
        self.exposure = exposure
        self.levels: NDArray[np.float64] | None = None
        self.factors: NDArray[np.float64] | None = None
        self._noise_seed = 0

    def randomize(self, channels: int) -> None:
        """Draws ``levels``, (black, middle, white) a channel, shape (3, channels), ``factors`` and the noise's seed."""
        black = self.R.uniform(*self.black, size=channels)
        white = self.R.uniform(*self.white, size=channels)
        contrast = white - black
        # both halves within slope: 2 |c| <= slope[1] - contrast and 2 |c| <= contrast - slope[0]
        largest = np.maximum(np.minimum(self.slope[1] - contrast, contrast - self.slope[0]), 0) / 2
        middle = (black + white) / 2 + largest * self.R.uniform(-1, 1, size=channels)
        self.levels = np.stack((black, middle, white))
        self._noise_seed = int(self.R.randint(2**31))
        # drawn last, and only where asked for: without it, runs see what they saw before there was such a thing
        low, high = np.log(self.exposure)
        self.factors = np.exp(self.R.uniform(low, high, size=channels)) if high > low or low != 0 else None

    def __call__(self, image: NdarrayOrTensor, *, randomize: bool = True) -> Tensor:
        """Maps the grey values.

        Args:
            image: shape (C, H, W), floating point, grey values in [0, 1].
            randomize: draw new curves.

        Returns:
            plain float32 tensor on the same device, shape (C, H, W).

        Raises:
            ValueError: for integer grey values (scale them to [0, 1] first) or another shape; in the host's memory also
                for values far from [0, 1], all of which the curve would make black or white, or NaN.
        """
        x: Tensor = convert_to_tensor(image, track_meta=False)
        if x.ndim != 3:
            raise ValueError(f"image: shape {tuple(x.shape)}, must be channel first (C, H, W)")
        if not x.is_floating_point():
            raise ValueError(f"image: dtype {x.dtype}, must be floating point, scaled to [0, 1]")
        # a GPU would have to be waited for
        if x.device.type == "cpu" and x.numel():
            low, high = (float(value) for value in x.aminmax())
            if not -_FAR <= low <= high <= _FAR:  # NaN is not, either
                raise ValueError(f"image: grey values from {low:g} to {high:g}, must be scaled to [0, 1]")
        if randomize:
            self.randomize(x.shape[0])
        if self.levels is None or self.levels.shape[1] != x.shape[0]:
            raise RuntimeError(f"randomize=False: nothing drawn for {x.shape[0]} channels, call randomize first")
        black, middle, white = self.levels
        bend = 4 * middle - 2 * (black + white)
        coefficients = np.stack((black, white - black + bend, -bend)).astype(np.float32)[..., None, None]
        # non_blocking: a GPU takes its copy at once; the host does not wait until the GPU has done all before it
        constant, linear, quadratic = torch.from_numpy(coefficients).to(x.device, non_blocking=True)
        x = x.float()
        if self.factors is not None:
            x = x * torch.from_numpy(self.factors.astype(np.float32)[:, None, None]).to(x.device, non_blocking=True)
        x = x.clamp(0, 1)
        y = torch.addcmul(linear, quadratic, x).mul_(x).add_(constant)
        if self.noise_std > 0:
            # drawn on the host: a seed gives the same noise on every device
            noise = np.random.default_rng(self._noise_seed).standard_normal(x.shape, dtype=np.float32)
            y.add_(torch.from_numpy(noise).to(x.device, non_blocking=True), alpha=self.noise_std)
        return y


class RandGreyValuesd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandGreyValues`; every key gets curves of its own.

    Args:
        keys: images to change.
        black, white, slope, noise_std, exposure: see :class:`RandGreyValues`.
        allow_missing_keys: pass over keys that an item lacks.
    """

    backend = RandGreyValues.backend

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        *,
        black: tuple[float, float] = (0.0, 0.1),
        white: tuple[float, float] = (0.9, 1.0),
        slope: tuple[float, float] = (0.8, 1.2),
        noise_std: float = 0.0,
        exposure: tuple[float, float] = (1.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.change = RandGreyValues(black=black, white=white, slope=slope, noise_std=noise_std, exposure=exposure)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandGreyValuesd":
        """Seeds the draws (MONAI's ``Randomizable``)."""
        super().set_random_state(seed, state)
        self.change.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Changes the item's images; values become plain float32 tensors on the same device."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.change(item[key])
        return item
