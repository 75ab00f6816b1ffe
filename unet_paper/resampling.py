"""Values of an image at the points of a sampling grid: interpolated for images, of the nearest pixel for labels.

Beyond its edge the image is mirrored, any distance.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def nearest_index(grid: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Index row * W + column of the pixel nearest to each point of a grid, mirrored as by ``grid_sample``.

    One index serves every dtype: through ``grid_sample``, a label in float64 and a weight in float32 would part ways
    between two pixels, and a large label would be converted as a whole.

    Args:
        grid: (x, y), shape (h, w, 2), see :meth:`unet_paper.elastic_deformation.Deformation.grid`.
        image_size: (H, W) of the image, px.

    Returns:
        shape (h, w), int32.

    >>> nearest_index(torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [2.0, -2.0]]]), (3, 5))
    tensor([[ 0, 14,  7]], dtype=torch.int32)
    """
    row, column = (
        _mirrored((grid[..., axis] + 1) * ((length - 1) / 2), length).round_().to(torch.int32)
        for axis, length in zip((1, 0), image_size, strict=True)
    )
    return row * image_size[1] + column


def _mirrored(position: Tensor, length: int) -> Tensor:
    period = 2 * max(length - 1, 1)
    return torch.sub(position, torch.round(position / period), alpha=period).abs_()


def sample(image: Tensor, grid: Tensor, mode: Interpolation) -> Tensor:
    """Values of an image at the points of a grid; beyond its edge the image is mirrored, any distance.

    Coordinates are float32: good to about 1e-4 px in an image of 512 px.

    Args:
        image: shape (C, H, W), any dtype.
        grid: (x, y), shape (h, w, 2), see :meth:`unet_paper.elastic_deformation.Deformation.grid`.
        mode: "nearest", "bilinear" or "bicubic".

    Returns:
        shape (C, h, w), dtype of ``image`` (interpolated values of an integer image are rounded).
    """
    if mode == "nearest":
        index = nearest_index(grid, (image.shape[1], image.shape[2]))
        return image.flatten(1).index_select(1, index.flatten()).view(-1, *index.shape)
    values = image if image.dtype == torch.float64 else image.float()
    sampled = functional.grid_sample(
        values[None], grid[None].to(values.dtype), mode=mode, padding_mode="reflection", align_corners=True
    )[0]
    return (sampled if image.is_floating_point() else sampled.round_()).to(image.dtype)
