"""Phantoms of nuclei in fluorescence: small and sparse, about a hundredth of the pixels; and dim or bright ellipses on
a dark ground, few or many, some of which touch.

A third, in clusters that overlap, is :mod:`unet_paper.data.phantom_clustered_nuclei`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_image import Field, Image, Random, image_shape, noise, to_uint8

# of sparse ones
_RADIUS = (2.2, 4.0)  # px
_ONE_IN = 2000  # px of the image a nucleus
_GAP = 4.0  # px between two of them

# of the others: px; the smallest and the largest semi-axis
_SEMI_AXES = (6.0, 12.0)
# grey values of the brightest nucleus and of the ground, of 255
_BRIGHT, _GROUND = (40.0, 160.0), (6.0, 14.0)
# px for each nucleus where they are densest, and where they are sparsest
_DENSEST, _SPARSEST = 900.0, 9000.0


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


def fluorescent_nuclei(frames: int, size: int | Sequence[int], seed: int) -> tuple[Image, NDArray[np.uint16]]:
    """Images of nuclei and their instances; each image has its own exposure and number of nuclei.

    Args:
        frames: number of images N.
        size: height and width in px, or one number for both.
        seed: of all that is drawn; the same seed gives the same bytes.

    Returns:
        Images (N, H, W), and instances (N, H, W): 0 background, 1 .. n nuclei.

    Raises:
        ValueError: no frames, or images smaller than 32 px.

    >>> images, instances = fluorescent_nuclei(2, 64, seed=0)
    >>> images.shape, instances.dtype.name
    ((2, 64, 64), 'uint16')
    """
    shape = image_shape(frames, size)
    rng = np.random.default_rng(seed)
    drawn = [_image(rng, shape) for _ in range(frames)]
    return np.stack([image for image, _ in drawn]), np.stack([instances for _, instances in drawn])


def _image(rng: Random, shape: tuple[int, int]) -> tuple[Image, NDArray[np.uint16]]:
    count = max(1, round(shape[0] * shape[1] / np.exp(rng.uniform(np.log(_DENSEST), np.log(_SPARSEST)))))
    instances = np.zeros(shape, np.uint16)
    light = np.zeros(shape)
    texture = 1 + 0.15 * noise(rng, shape, 2.0)
    for number in range(1, count + 1):
        inside = _ellipse(rng, shape) & (instances == 0)
        whole = ndimage.label(inside)[0]
        # of one that others cut apart, the largest piece
        sizes = np.bincount(whole.ravel())[1:]
        if not sizes.size or sizes.max() < 60:
            continue
        inside = whole == 1 + int(sizes.argmax())
        instances[inside] = number
        light[inside] = rng.uniform(0.5, 1.0)
    bright = np.exp(rng.uniform(np.log(_BRIGHT[0]), np.log(_BRIGHT[1])))
    grey = rng.uniform(*_GROUND) + bright * ndimage.gaussian_filter(light * texture, 1.0)
    # of photons, two a grey value
    return to_uint8(rng.poisson(np.clip(2 * grey, 0, None)) / 2), _renumbered(instances)


def _ellipse(rng: Random, shape: tuple[int, int]) -> NDArray[np.bool_]:
    centre, (long, short) = rng.uniform(0, 1, 2) * shape, rng.uniform(*_SEMI_AXES, 2)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = rows - centre[0], columns - centre[1]
    u: Field = (y * np.cos(angle) + x * np.sin(angle)) / long
    v: Field = (x * np.cos(angle) - y * np.sin(angle)) / short
    return np.asarray(u**2 + v**2 < 1)


def _renumbered(instances: NDArray[np.uint16]) -> NDArray[np.uint16]:
    ids = np.unique(instances)
    return np.searchsorted(ids, instances).astype(np.uint16) + np.uint16(ids[0] > 0)
