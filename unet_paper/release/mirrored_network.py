"""A U-Net with all that prediction does around it inside: grey values in, probabilities of the same size out.

Programs that know nothing of valid convolutions run it on whole images or on blocks. Nothing here depends on a size:
TorchScript and ONNX take it as it is. Blocks are seamless where their places and sizes are those of ``block_sizes``:
the poolings of a block then lie where those of the whole image lie.

This module, ``arguments``, ``geometry`` and ``network`` are also the one file of code that a package for BioImage.IO
carries.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.network import UNet


class BlockSizes(NamedTuple):
    """Sides of an image in px: ``smallest`` plus multiples of ``step``; ``halo`` px of every side see the mirror."""

    smallest: int
    step: int
    halo: int


def block_sizes(levels: int = 5, magnification: Fraction | int = 1) -> BlockSizes:
    """Sizes of blocks whose insides equal the same pixels of the whole image.

    A step of the pooling grid, f px of the network's image, is f / magnification px of the image given; steps and halos
    are whole ones of both. The halo covers the margin. Resizing needs more: scores are made of a neighbour's too, which
    may lie on the next step of the grid, and the network's image of source pixels on either side.

    Args:
        levels: resolution levels of the network.
        magnification: of the image before the network.

    >>> block_sizes(), block_sizes(5, Fraction(1, 2))
    (BlockSizes(smallest=208, step=16, halo=96), BlockSizes(smallest=480, step=32, halo=224))
    """
    scale, factor = Fraction(magnification), geometry.pooling_factor(levels)
    step = scale.denominator * factor // math.gcd(factor, scale.numerator)
    reach = geometry.margin(levels) + (0 if scale == 1 else factor + max(1, math.ceil(scale)))
    halo = step * math.ceil(Fraction(reach) / (scale * step))
    return BlockSizes(2 * halo + step, step, halo)


class Resizing(nn.Module):
    """Resizes images by a fixed fraction: ``period`` px become as many as there are rows of ``weights``.

    Args:
        weights: of each of the resized px of a period, those of the source px that it is made of.
        first: the first of these, counted from the period's first px; 0 or before it.
        period: px of the source.
        renormalise: leave out what lies beyond the image; else the pixel at its end is taken for it.

    Shape:
        (B, C, H, W) -> (B, C, H * len(weights) / period, W * len(weights) / period), H and W multiples of the period.

    >>> half = Resizing([[0.5, 0.5]], first=0, period=2, renormalise=False)
    >>> half(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])).tolist()
    [[[[4.0]]]]
    """

    weights: Tensor

    def __init__(self, weights: Sequence[Sequence[float]], *, first: int, period: int, renormalise: bool) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights)[:, None, :, None])
        self.period = period
        self.before = -first
        self.after = max(0, len(weights[0]) + first - period)
        self.renormalise = renormalise

    def forward(self, image: Tensor) -> Tensor:
        """The image resized along both axes."""
        return self._rows(self._rows(image).transpose(2, 3)).transpose(2, 3)

    def _rows(self, image: Tensor) -> Tensor:
        if not self.renormalise:
            return self._weighted(nn.functional.pad(image, [0, 0, self.before, self.after], mode="replicate"))
        inside = torch.ones_like(image[:1, :1, :, :1])
        share = self._weighted(nn.functional.pad(inside, [0, 0, self.before, self.after]))
        return self._weighted(nn.functional.pad(image, [0, 0, self.before, self.after])) / share

    def _weighted(self, padded: Tensor) -> Tensor:
        batch, channels, _, width = padded.shape
        alone = padded.reshape(batch * channels, 1, -1, width)
        phases = nn.functional.conv2d(alone, self.weights, stride=[self.period, 1])
        return phases.transpose(1, 2).reshape(batch, channels, -1, width)


class MirroredNetwork(nn.Module):
    """Probabilities of the classes in an image, of the image's size, from its grey values.

    1. grey values: less ``black``, divided by ``spread``;
    2. resized by ``shrink``;
    3. mirrored at the borders: by the margin before, and by the next multiple of the pooling factor after, so that a
       side on the grid stays there (five levels: 92 and 96 px);
    4. the network, for each of ``views``; what the larger padding added is cut off;
    5. the scores' mean, resized by ``enlarge``, and its soft-max.

    Args:
        network: arguments of the :class:`unet_paper.network.UNet`.
        black: grey value that becomes 0, one for each channel of the image.
        spread: grey values that become 1, one for each channel.
        shrink: arguments of a :class:`Resizing` of the image; None for magnification 1.
        enlarge: arguments of a :class:`Resizing` of the scores.
        views: of test-time averaging, (quarter turns, mirrored before turning).

    Shape:
        (B, C, H, W) -> (B, classes, H, W); H and W multiples of the step of :func:`block_sizes`, longer than the
        mirrored border.
    """

    black: Tensor
    spread: Tensor
    views: list[tuple[int, bool]]

    def __init__(
        self,
        network: dict[str, Any],
        *,
        black: Sequence[float],
        spread: Sequence[float],
        shrink: dict[str, Any] | None = None,
        enlarge: dict[str, Any] | None = None,
        views: Sequence[Sequence[int]] = ((0, 0),),
    ) -> None:
        super().__init__()
        self.network = UNet(**network)
        self.register_buffer("black", torch.tensor(black)[:, None, None])
        self.register_buffer("spread", torch.tensor(spread)[:, None, None])
        self.shrink = Resizing(**shrink) if shrink else nn.Identity()
        self.enlarge = Resizing(**enlarge) if enlarge else nn.Identity()
        self.views = [(int(turns), bool(mirrored)) for turns, mirrored in views]
        levels = self.network.levels
        factor = geometry.pooling_factor(levels)
        self.before = geometry.margin(levels)
        self.after = -(-self.before // factor) * factor
        scale = Fraction(len(shrink["weights"]), shrink["period"]) if shrink else Fraction(1)
        self.step = block_sizes(levels, scale).step
        # a border mirrors what it is shorter than
        self.smallest = self.step * (int(self.after / scale) // self.step + 1)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of the classes, background first.

        Raises:
            ValueError: sides that do not lie on the grid, or are too short to be mirrored.
        """
        for size in image.shape[2:]:
            if size % self.step or size < self.smallest:
                raise ValueError(
                    f"image of {image.shape[2]} x {image.shape[3]} px: its sides must be multiples of {self.step} px, "
                    f"at least {self.smallest}"
                )
        seen = self.shrink((image.float() - self.black) / self.spread)
        scores: list[Tensor] = [
            self._scores(_turned(seen.flip(3) if mirrored else seen, turns), turns, mirrored)
            for turns, mirrored in self.views
        ]
        mean = torch.stack(scores).mean(0) if len(scores) > 1 else scores[0]
        return torch.softmax(self.enlarge(mean), dim=1)

    def _scores(self, seen: Tensor, turns: int, mirrored: bool) -> Tensor:
        border = [self.before, self.after, self.before, self.after]
        scores = self.network(nn.functional.pad(seen, border, mode="reflect"))
        excess = self.before - self.after
        scores = _turned(nn.functional.pad(scores, [0, excess, 0, excess]), 4 - turns)
        return scores.flip(3) if mirrored else scores


def _turned(image: Tensor, turns: int) -> Tensor:
    """``torch.rot90(image, turns, (2, 3))``, which ONNX does not know."""
    for _ in range(turns % 4):
        image = image.transpose(2, 3).flip(2)
    return image
