"""Grey values of a data set: their mean and spread, and how single images of it differ from one another."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from unet_paper.data.channels import Channel
from unet_paper.data.datasets import Case
from unet_paper.data.notices import Progress
from unet_paper.data.reader import CheckImaged, PageReader
from unet_paper.data.unit_range import ScaleToUnitRanged

__all__ = ["GreyRanges", "GreyStatistics", "grey_features", "grey_statistics"]

# "images": how many; of each feature the lowest and the highest of an image, a number for each channel
GreyRanges = Mapping[str, Any]

# of an image: larger ones are looked at in a grid of squares
_PIXELS, _SQUARES, _SIDE = 2**20, 4, 256
# px of the neighbourhood whose mean a pixel is compared with
_NEIGHBOURHOOD = 9

logger = logging.getLogger(__name__)


class GreyStatistics(NamedTuple):
    """Of the grey values of a data set, in [0, 1].

    Attributes:
        mean: of all pixels of all images.
        std: their standard deviation.
        ranges: within which :func:`grey_features` of its images lie.
    """

    mean: float
    std: float
    ranges: GreyRanges


def grey_statistics(
    cases: Sequence[Case],
    *,
    grey_minimum: float = 0.0,
    grey_maximum: float | None = None,
    grey_log: float | None = None,
    channel: Channel | None = None,
    channels: int = 1,
) -> GreyStatistics:
    """Mean and standard deviation of all grey values of a data set, and ranges of its images, in one pass over them.

    Args:
        cases: see ``data.datasets``.
        grey_minimum: grey value that is black, as the setting of training and inference.
        grey_maximum: grey value that is white, or None for the full scale of the files.
        grey_log: above which grey values are taken by their logarithm, or None.
        channel: to take from images with several, one or a list.
        channels: of an image that the network takes.

    Raises:
        ValueError: no cases; images that ``unet_paper.data.reader`` refuses; images of one grey value alone.
    """
    if not cases:
        raise ValueError(
            "cases=[]: no images to learn from; put some into the data folder, in MONAI Label save a label first"
        )
    load = Compose(
        [
            LoadImaged("image", reader=PageReader(channel)),
            EnsureChannelFirstd("image"),
            CheckImaged("image", channels=channels),
            ScaleToUnitRanged("image", minimum=grey_minimum, maximum=grey_maximum, logarithm=grey_log),
        ]
    )
    pixels, total, squares = 0, 0.0, 0.0
    features = []
    progress = Progress(logger, "measuring grey values", len(cases))
    for case in cases:
        progress.step()
        loaded = load({"image": case["image"]})["image"]
        features.append(grey_features(loaded))
        image = loaded.double()
        pixels += image.numel()
        total += float(image.sum())
        squares += float((image**2).sum())
    mean = total / pixels
    std = float(max(squares / pixels - mean**2, 0.0) ** 0.5)
    if std < 1e-6:  # far below a step of 16 bits
        raise ValueError(f"{cases[0]['image']} and all others hold one grey value, {mean:g}: nothing to learn from")
    logger.info("grey values of %d images: mean %.4f, standard deviation %.4f", len(cases), mean, std)
    return GreyStatistics(mean, std, _ranges(features))


def grey_features(image: ArrayLike) -> dict[str, list[float]]:
    """What tells images of one data set from those of another, as far as grey values go; a number for each channel.

    Images of fluorescence hold one cell or a hundred, dim or bright, so their means differ a hundred times; what they
    have in common is better seen in these:

    - ``dark``, ``middle``, ``bright``: 0.5, 50 and 99.5 % of the pixels lie below;
    - ``contrast``: from dark to bright;
    - ``balance``: where the middle lies between the two, 0 to 1: low for bright cells on a dark ground;
    - ``detail``: of what is left when the mean of 9 x 9 px around is taken away, whether bright (1) or dark (-1) is
      the rarer and stronger: dark lines or bright ones;
    - ``white``: share of pixels that are 1 or more.

    Args:
        image: grey values in [0, 1], shape (C, H, W); of large images a grid of squares is looked at.

    >>> features = grey_features(np.linspace(0, 1, 101).reshape(1, 1, 101))
    >>> [round(features[name][0], 3) for name in ("dark", "middle", "bright", "balance")]
    [0.005, 0.5, 0.995, 0.5]
    """
    tensor = torch.as_tensor(image)
    features = [_of_channel(_sample(torch.Tensor.as_subclass(channel, torch.Tensor))) for channel in tensor]
    return {name: [feature[name] for feature in features] for name in features[0]}


def _sample(channel: torch.Tensor) -> list[NDArray[np.float32]]:
    height, width = channel.shape
    if height * width <= _PIXELS:
        return [channel.to(torch.float32).cpu().numpy()]
    tops, lefts = (np.linspace(0, max(size - _SIDE, 0), _SQUARES).astype(int).tolist() for size in (height, width))
    boxes = [(slice(top, top + _SIDE), slice(left, left + _SIDE)) for top in tops for left in lefts]
    return [channel[box].to(torch.float32).cpu().numpy() for box in boxes]


def _of_channel(parts: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    values = np.concatenate([part.ravel() for part in parts])
    fine = np.concatenate([(part - ndimage.uniform_filter(part, _NEIGHBOURHOOD)).ravel() for part in parts])
    dark, middle, bright = (float(value) for value in np.percentile(values, (0.5, 50, 99.5)))
    below, above = (float(value) for value in np.percentile(fine, (0.5, 99.5)))
    return {
        "dark": dark,
        "middle": middle,
        "bright": bright,
        "contrast": bright - dark,
        "balance": (middle - dark) / (bright - dark) if bright > dark else 0.5,
        "detail": (above + below) / (above - below) if above > below else 0.0,
        "white": float(np.mean(values >= 1)),
    }


def _ranges(features: Sequence[Mapping[str, Sequence[float]]]) -> GreyRanges:
    found: dict[str, Any] = {"images": len(features)}
    for name in features[0]:
        values = np.array([feature[name] for feature in features])
        found[name] = [[float(f"{value:.6g}") for value in extreme] for extreme in (values.min(0), values.max(0))]
    return found
