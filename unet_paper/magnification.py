"""Prediction at another magnification than that of the images.

Images are resized as ``torch.nn.functional.interpolate`` does it (bilinear, with antialiasing on the way to the
network). It is done here with weights that are worked out in double precision from a pixel's place in the whole image,
and with sums in a fixed order: a part of an image, resized alone, is bit for bit that part of the resized image, which
:mod:`unet_paper.large` relies on and ``interpolate`` does not promise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from torch import Tensor

from unet_paper.arguments import is_number
from unet_paper.mosaic import Pointwise, check_images, in_bands


class Taps(NamedTuple):
    """What pixels [start, stop) of a resized axis are made of: source pixels and their weights, shape (taps, n)."""

    sources: Tensor
    weights: Tensor


def magnified_length(length: int, magnification: float) -> int:
    """Size in px of an axis at another magnification, at least 1."""
    return max(1, round(length * magnification))


def resize_taps(length: int, resized: int, start: int, stop: int, *, antialias: bool) -> Taps:
    """Bilinear resizing of an axis, pixels [start, stop) of the result.

    A pixel of the result lies at x = (i + 1/2) s - 1/2 of the source, s = length / resized. Source pixels count by a
    triangle around it, of half-width 1, or s where antialiasing and s > 1; those beyond the end are left out with
    antialiasing, and taken from the end's pixel without it.

    Args:
        length: px of the source axis.
        resized: px of the result.
        start: first pixel wanted.
        stop: end of the pixels wanted, exclusive.
        antialias: whether a smaller result averages over all of the source.

    >>> resize_taps(4, 2, 0, 2, antialias=False).weights.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    scale = length / resized
    centre = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * scale - 0.5
    width = max(scale, 1.0) if antialias else 1.0
    first = torch.floor(centre - width).to(torch.int64) + 1
    sources = first + torch.arange(math.ceil(2 * width) + 1)[:, None]
    weights = (1 - (sources - centre).abs() / width).clamp(min=0)
    if antialias:
        weights = torch.where((sources >= 0) & (sources < length), weights, 0)
        weights /= weights.sum(dim=0)
    needed = weights.amax(dim=1) > 0
    return Taps(sources[needed].clamp(0, length - 1), weights[needed].to(torch.float32))


def resize_axis(image: Tensor, dim: int, taps: Taps, first: int = 0) -> Tensor:
    """An axis of an image resized.

    Args:
        image: any shape, floating point; along ``dim`` the source from pixel ``first`` on, as far as it is needed.
        dim: the axis.
        taps: what the result is made of.
        first: see ``image``.
    """
    shape = [1] * image.dim()
    shape[dim] = -1
    result: Tensor | None = None
    for sources, weights in zip(taps.sources.to(image.device), taps.weights.to(image), strict=True):
        # product, then sum: one operation that did both could round otherwise at the ends of a row
        product = image.index_select(dim, sources - first) * weights.view(shape)
        result = product if result is None else result.add_(product)
    assert result is not None
    return result


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
        ValueError: for a magnification that is not a positive number, or an inferer that cannot be called.

    Examples:
        >>> import torch
        >>> from monai.inferers import SimpleInferer
        >>> half = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)
        >>> half(torch.ones(1, 1, 5, 8), lambda x: x * x.shape[-1])[0, 0, 0, 0].item()
        4.0
    """

    def __init__(self, *, inferer: Inferer, magnification: float = 1.0) -> None:
        super().__init__()
        if not callable(inferer):
            raise ValueError(f"inferer={inferer!r}: must be an inferer, such as OverlapTileInferer()")
        if not (is_number(magnification) and magnification > 0):
            raise ValueError(f"magnification={magnification!r}: a number > 0 is needed, 0.5 halves the images")
        self.inferer = inferer
        self.magnification = magnification

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Scores (B, K, H, W) of images (B, C, H, W); ``args`` and ``kwargs`` go to the inferer, see there."""
        if self.magnification == 1:
            return self.inferer(inputs, network, *args, **kwargs)
        return self.mapped(inputs, network, None, *args, **kwargs)

    def mapped(
        self, inputs: Tensor, network: Callable[..., Tensor], function: Pointwise | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Like a call, with what a function makes of the scores in their place.

        See :meth:`unet_paper.inferer.OverlapTileInferer.mapped`, which the inferer needs for magnification 1.
        """
        if self.magnification == 1:
            found: Tensor = self.inferer.mapped(inputs, network, function, *args, **kwargs)
            return found
        check_images(inputs)
        size = tuple(inputs.shape[-2:])
        resized = tuple(magnified_length(length, self.magnification) for length in size)
        small = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        for dim, length in zip((-2, -1), resized, strict=True):
            taps = resize_taps(small.shape[dim], length, 0, length, antialias=True)
            small = resize_axis(small, small.dim() + dim, taps)
        scores = self.inferer(small, network, *args, **kwargs)
        del small
        result = in_bands(lambda rows: _enlarged(scores, size, rows, function), (len(scores), *size))
        return MetaTensor(result).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else result


def _enlarged(scores: Tensor, size: tuple[int, ...], rows: slice, function: Pointwise | None) -> Tensor:
    """Some rows of scores (B, K, h, w) brought to a size (H, W), and what a function makes of them."""
    down = resize_taps(scores.shape[2], size[0], rows.start, rows.stop, antialias=False)
    across = resize_taps(scores.shape[3], size[1], 0, size[1], antialias=False)
    first, last = int(down.sources.min()), int(down.sources.max())
    band = resize_axis(resize_axis(scores[:, :, first : last + 1], 2, down, first), 3, across)
    return band if function is None else function(band)
