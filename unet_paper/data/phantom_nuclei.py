"""Phantom of small, sparse nuclei in fluorescence: about a hundredth of the pixels is cell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_image import Image, image_shape, noise, to_uint8

_RADIUS = (2.2, 4.0)  # px
_ONE_IN = 2000  # px of the image a nucleus
_GAP = 4.0  # px between two of them


def sparse_nuclei(frames: int, size: int | Sequence[int], seed: int) -> tuple[Image, NDArray[np.uint16]]:
    """Bright nuclei of a few px, far from one another on a dim, uneven ground, and their instances.

    Frames have nothing to do with one another.

    Args:
        frames: number of frames T.
        size: height and width in px, or one number for both.
        seed: of all that is drawn; the same seed gives the same bytes.

    Returns:
        Images (T, H, W), and instances (T, H, W): 0 background, nuclei from 1.

    Raises:
        ValueError: no frames, or images smaller than 32 px.

    >>> images, instances = sparse_nuclei(2, 64, seed=0)
    >>> images.shape, instances.dtype.name
    ((2, 64, 64), 'uint16')
    """
    shape = image_shape(frames, size)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    images, instances = [], []
    for _ in range(frames):
        instance, light = np.zeros(shape, np.uint16), np.zeros(shape)
        for _ in range(max(2, shape[0] * shape[1] // _ONE_IN)):
            radius, aspect, angle = rng.uniform(*_RADIUS), rng.uniform(1, 1.5), rng.uniform(0, np.pi)
            centre = rng.uniform(radius + 2, np.array(shape) - radius - 2)
            y, x = rows - centre[0], columns - centre[1]
            along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
            distance = np.hypot(along / aspect, across * aspect)
            if not instance[distance <= radius + _GAP].any():
                instance[distance <= radius] = instance.max() + 1
                light += rng.uniform(40, 110) * (distance <= radius)
        seen = ndimage.gaussian_filter(light, 1.2)
        ground = 30.0 + 6.0 * noise(rng, shape, 20.0) + 4.0 * noise(rng, shape, 0.6)
        images.append(to_uint8(ground + seen))
        instances.append(instance)
    return np.stack(images), np.stack(instances)
