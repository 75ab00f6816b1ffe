"""Phantom of nuclei seen by fluorescence: dim to bright on black, alone or in clusters that touch and overlap.

Like the fluorescence images of the 2018 Data Science Bowl in what makes them hard: the brightest image is twenty times
as bright as the dimmest, one image holds a nucleus and another a hundred, and neighbours overlap in projection, so that
their light adds up and no dark line parts them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_image import Field, Image, Random, image_shape, noise, to_uint8

_HARMONICS = np.arange(2, 6)
_SPECK = 12  # px; what the frame leaves of a nucleus is no nucleus below this


@dataclass(frozen=True)
class _Look:
    """What the nuclei of one image have in common."""

    count: int
    diameter: float  # px
    spread: float  # of the diameters, standard deviation of the logarithm
    light: float  # grey values of a typical nucleus above the background
    blur: float  # px
    clustering: float  # fraction of the nuclei that lie against others
    background: float
    haze: float  # of the light


def nuclei(
    frames: int, size: int, seed: int, *, diameters: tuple[float, float] = (10.0, 30.0), spread: float = 0.15
) -> tuple[list[Image], list[NDArray[np.uint16]]]:
    """Images of nuclei, each drawn with a brightness, a density and a sharpness of its own, and their instances.

    Args:
        frames: number of images.
        size: height and width, px.
        seed: of all that is drawn; the same seed gives the same bytes.
        diameters: range of the typical diameter of an image's nuclei, px.
        spread: of the diameters within an image, standard deviation of their logarithm.

    Returns:
        Images (H, W), and instances (H, W): 0 background, each nucleus an id > 0.

    Raises:
        ValueError: no frames, or images smaller than 32 px.

    >>> images, instances = nuclei(2, 64, seed=0)
    >>> images[0].shape, instances[0].dtype.name, bool(instances[0].any())
    ((64, 64), 'uint16', True)
    """
    shape = image_shape(frames, size)
    rng = np.random.default_rng(seed)
    drawn = [_draw(rng, shape, _look(rng, shape, diameters, spread)) for _ in range(frames)]
    return [image for image, _ in drawn], [instances for _, instances in drawn]


def _look(rng: Random, shape: tuple[int, int], diameters: tuple[float, float], spread: float) -> _Look:
    diameter = rng.uniform(*diameters)
    # as many as cover 45 % of the frame at most: 1 .. 120 of 10 to 30 px in 256 px
    room = 0.45 * shape[0] * shape[1] / (np.pi / 4 * diameter**2)
    return _Look(
        count=max(1, round(max(room, 1.0) ** rng.uniform() ** 0.6)),
        diameter=diameter,
        spread=spread,
        light=float(np.exp(rng.uniform(np.log(11.0), np.log(220.0)))),
        blur=rng.uniform(0.8, 2.0),
        clustering=rng.uniform(0.2, 0.9),
        background=rng.uniform(2.0, 9.0),
        haze=rng.uniform(0.0, 0.12),
    )


def _draw(rng: Random, shape: tuple[int, int], look: _Look) -> tuple[Image, NDArray[np.uint16]]:
    radii = look.diameter / 2 * np.exp(rng.normal(0.0, look.spread, look.count))
    centres = _places(rng, shape, radii, look.clustering)
    light = np.zeros(shape)
    nearest = np.ones(shape)  # 0 in a nucleus' centre, 1 on its outline
    instances = np.zeros(shape, np.uint16)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        window, level = _nucleus(rng, shape, centre, radius)
        dome = np.clip(1 - level**2, 0, 1) ** rng.uniform(0.15, 0.45)
        texture = 1 + 0.1 * noise(rng, level.shape, 1.5)
        own = look.light * float(np.exp(rng.normal(0.0, 0.3))) * (rng.uniform(1.5, 3.0) if rng.random() < 0.04 else 1.0)
        defocus = rng.uniform(1.0, 2.5) if rng.random() < 0.15 else 0.0
        light[window] += own * ndimage.gaussian_filter(dome * texture, defocus) if defocus else own * dome * texture
        wins = level < nearest[window]
        nearest[window][wins] = level[wins]
        instances[window][wins] = number
    sharp = ndimage.gaussian_filter(light, look.blur)
    glow = look.haze * (
        ndimage.gaussian_filter(light, look.diameter) + 0.3 * look.light * (1 + noise(rng, shape, 50.0))
    )
    seen = look.background + sharp + np.clip(glow, 0, None)
    # photons: the brighter, the noisier; and the camera's own
    counted = seen + rng.standard_normal(shape) * np.sqrt(0.5 + 0.02 * seen + (0.015 * seen) ** 2)
    return to_uint8(counted), _without_specks(instances)


def _places(rng: Random, shape: tuple[int, int], radii: Field, clustering: float) -> Field:
    """Centres, some of them so near to another that the two touch or overlap a little."""
    centres: list[Field] = []
    for radius in radii:
        best, gap = rng.uniform(-0.2 * radius, np.array(shape) + 0.2 * radius), -np.inf
        for _ in range(25):
            at = rng.uniform(-0.2 * radius, np.array(shape) + 0.2 * radius)
            if centres and rng.random() < clustering:
                other = int(rng.integers(len(centres)))
                angle, reach = rng.uniform(0, 2 * np.pi), (radii[other] + radius) * rng.uniform(0.75, 1.05)
                at = np.clip(centres[other] + reach * np.array([np.sin(angle), np.cos(angle)]), 0, np.array(shape) - 1)
            if not centres:
                best = at
                break
            distances = np.linalg.norm(np.array(centres) - at, axis=1) / (radii[: len(centres)] + radius)
            if distances.min() > 0.72:
                best = at
                break
            if distances.min() > gap:
                best, gap = at, float(distances.min())
        centres.append(best)
    return np.array(centres)


def _nucleus(rng: Random, shape: tuple[int, int], centre: Field, radius: float) -> tuple[tuple[slice, slice], Field]:
    """The part of the frame that a nucleus can reach, and there 0 in its centre and 1 on its outline."""
    aspect, angle = float(np.clip(np.exp(rng.normal(0.15, 0.15)), 0.8, 1.7)) ** 0.5, rng.uniform(0, np.pi)
    bumps = rng.standard_normal((2, len(_HARMONICS))) * 0.07 / _HARMONICS
    reach = 1.9 * radius + 8
    low = np.clip(np.floor(centre - reach), 0, np.array(shape) - 1).astype(int)
    high = np.clip(np.ceil(centre + reach), 1, shape).astype(int)
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
    y, x = rows - centre[0], columns - centre[1]
    u, v = np.cos(angle) * y + np.sin(angle) * x, -np.sin(angle) * y + np.cos(angle) * x
    theta = np.arctan2(v, u)
    turns = _HARMONICS[:, None, None] * theta
    outline = radius * (
        1 + np.einsum("k,khw->hw", bumps[0], np.cos(turns)) + np.einsum("k,khw->hw", bumps[1], np.sin(turns))
    )
    level = np.hypot(u / aspect, v * aspect) / np.maximum(outline, 0.4 * radius)
    return (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))), level


def _without_specks(instances: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The largest piece of each nucleus, if it is more than a speck."""
    kept, number = np.zeros_like(instances), 0
    for nucleus, window in enumerate(ndimage.find_objects(instances), start=1):
        if window is None:
            continue
        pieces, _ = ndimage.label(instances[window] == nucleus)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= _SPECK:
            number += 1
            kept[window][pieces == 1 + int(sizes.argmax())] = number
    return kept
