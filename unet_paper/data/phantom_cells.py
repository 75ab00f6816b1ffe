"""Phantom of cells seen by differential interference contrast (DIC-C2DH-HeLa).

Low contrast, relief shading, clusters whose cells touch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_image import Field, Image, Random, image_shape, noise, to_uint8

_HARMONICS = np.arange(2, 7)
_PATCH = 97  # px, side of the texture that a cell carries along


def touching_cells(frames: int, size: int | Sequence[int], seed: int) -> tuple[Image, NDArray[np.uint16]]:
    """DIC-like cells that move slowly and touch one another, and their instances.

    Args:
        frames: number of frames T.
        size: height and width in px, or one number for both.
        seed: of all that is drawn; the same seed gives the same bytes.

    Returns:
        Images (T, H, W), and instances (T, H, W): 0 background, a cell keeps its id > 0 in all frames.

    Raises:
        ValueError: no frames, or images smaller than 32 px.

    >>> images, instances = touching_cells(2, 64, seed=0)
    >>> images.shape, instances.dtype.name
    ((2, 64, 64), 'uint16')
    """
    shape = image_shape(frames, size)
    rng = np.random.default_rng(seed)
    cells = _Cells.draw(rng, shape)
    shading = 3.0 * noise(rng, shape, 60.0)
    images, instances = [], []
    for _ in range(frames):
        image, instance = cells.render(shape)
        images.append(to_uint8(118.0 + shading + image + 3.0 * noise(rng, shape, 0.5)))
        instances.append(instance)
        cells.move(rng, shape)
    return np.stack(images), np.stack(instances)


@dataclass
class _Cells:
    """Cells as star-shaped outlines with a texture of their own each."""

    centres: Field  # (n, 2)
    velocity: Field  # (n, 2) px per frame
    radius: Field  # (n,) px
    aspect: Field  # (n,)
    angle: Field  # (n,)
    outline: NDArray[np.complex128]  # (n, harmonics), relative to the radius
    nucleus: Field  # (n, 2), offset relative to the radius
    texture: Field  # (n, _PATCH, _PATCH)

    @classmethod
    def draw(cls, rng: Random, shape: tuple[int, int]) -> "_Cells":
        n = max(3, round(shape[0] * shape[1] / 2800))
        cells = cls(
            centres=np.empty((n, 2)),
            velocity=rng.normal(0.0, 0.7, (n, 2)),
            radius=rng.uniform(18.0, 26.0, n),
            aspect=np.clip(np.exp(rng.normal(0.12, 0.15, n)), 0.75, 1.5),
            angle=rng.uniform(0, 2 * np.pi, n),
            outline=_outline(rng, n),
            nucleus=rng.normal(0.0, 0.12, (n, 2)),
            texture=np.stack([_cell_texture(rng) for _ in range(n)]),
        )
        clusters = _spread(rng, max(1, round(n / 6)), shape)
        members = rng.integers(len(clusters), size=n)
        cells.centres = clusters[members] + rng.normal(0.0, 25.0, (n, 2))
        for _ in range(60):
            cells._settle(shape, clusters[members])
        return cells

    def _settle(self, shape: tuple[int, int], towards: Field | None = None) -> None:
        """Push cells apart that overlap too much, and, where a goal is given, together."""
        if towards is not None:
            self.centres += 0.02 * (towards - self.centres)
        gap = self.centres[:, None] - self.centres[None]
        distance = np.linalg.norm(gap, axis=-1) + np.eye(len(gap)) * 1e6
        wanted = 0.89 * (self.radius[:, None] + self.radius[None])
        push = np.clip(wanted - distance, 0, None) / distance
        self.centres += 0.25 * (gap * push[..., None]).sum(1)
        self.centres = np.clip(self.centres, -4.0, np.array(shape) + 3.0)

    def move(self, rng: Random, shape: tuple[int, int]) -> None:
        """One frame on: centres drift, outlines and angles change a little."""
        self.velocity = 0.8 * self.velocity + rng.normal(0.0, 0.5, self.velocity.shape)
        self.centres = self.centres + self.velocity
        self.angle = self.angle + rng.normal(0.0, 0.03, len(self.angle))
        self.outline = 0.95 * self.outline + np.sqrt(1 - 0.95**2) * _outline(rng, len(self.angle))
        self._settle(shape)

    def render(self, shape: tuple[int, int]) -> tuple[Field, NDArray[np.uint16]]:
        """Grey values around 0, and instances."""
        level = np.full(shape, 1.0)  # 0 in a cell's centre, 1 on its outline
        second = np.full(shape, 1.0)  # the same for the next cell, or the background
        instance = np.zeros(shape, dtype=np.uint16)
        texture = np.zeros(shape)
        nucleus = np.full(shape, np.inf)
        for cell in range(len(self.centres)):
            window, u, v = self._local(cell, shape)
            theta = np.arctan2(v, u)
            bumps = np.einsum("k,khw->hw", self.outline[cell], np.exp(1j * _HARMONICS[:, None, None] * theta)).real
            outline = self.radius[cell] * np.clip(1 + bumps, 0.6, 1.4)
            own = np.hypot(u / self.aspect[cell], v * self.aspect[cell]) / outline
            wins = own < level[window]
            second[window] = np.minimum(second[window], np.maximum(level[window], own))
            level[window][wins] = own[wins]
            instance[window][wins] = cell + 1
            at = np.stack([v, u]) + _PATCH // 2
            texture[window][wins] = ndimage.map_coordinates(self.texture[cell], at, order=1, mode="grid-wrap")[wins]
            offset = self.nucleus[cell] * self.radius[cell]
            nucleus[window][wins] = (np.hypot(u - offset[0], v - offset[1]) / (0.42 * self.radius[cell]))[wins]
        instance = _largest_components(instance)
        inside = instance > 0
        height = np.where(inside, np.clip(1 - level**2, 0, 1) ** 0.5 + 0.1 * np.exp(-((nucleus / 0.95) ** 6)), 0.0)
        relief = sum(ndimage.gaussian_filter(height, 0.9, order=order) for order in ((0, 1), (1, 0)))
        # the nucleus is smoother than the cytoplasm, which is coarsest along the outline
        envelope = ndimage.gaussian_filter(np.where(inside, np.where(nucleus < 1, 0.5, 0.7 + 0.5 * level**3), 0.0), 1.0)
        # second - level grows twice as fast from a contact as from a free rim: contacts are fainter
        lines = np.exp(-(((second - level) * 22 / 1.7) ** 2)) + 0.6 * np.exp(-(((nucleus - 1) * 9 / 1.2) ** 2))
        lines = ndimage.gaussian_filter(lines * inside, 0.5)
        halo = ndimage.gaussian_filter(lines, 1.8)
        return 60.0 * relief + 1.2 * envelope * texture - 60.0 * lines + 36.0 * halo, instance

    def _local(self, cell: int, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Field, Field]:
        """The part of the frame that a cell can reach, and coordinates (u, v) there along its own axes, in px."""
        reach = 2.1 * self.radius[cell]
        low = np.clip(np.floor(self.centres[cell] - reach), 0, shape).astype(int)
        high = np.clip(np.ceil(self.centres[cell] + reach), 0, shape).astype(int)
        rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
        y, x = rows - self.centres[cell, 0], columns - self.centres[cell, 1]
        c, s = np.cos(self.angle[cell]), np.sin(self.angle[cell])
        return (slice(low[0], high[0]), slice(low[1], high[1])), c * y + s * x, -s * y + c * x


def _outline(rng: Random, n: int) -> NDArray[np.complex128]:
    """Complex amplitudes of the outlines' harmonics, relative to the radius."""
    real, imaginary = rng.standard_normal((2, n, len(_HARMONICS))) * 0.13 / _HARMONICS
    return np.asarray(real + 1j * imaginary, dtype=np.complex128)


def _spread(rng: Random, n: int, shape: tuple[int, int]) -> Field:
    """n points in the frame, far from one another."""
    points = [rng.uniform(0.2, 0.8, 2) * shape]
    while len(points) < n:
        candidates = rng.uniform(0.05, 0.95, (10, 2)) * shape
        distances = np.linalg.norm(candidates[:, None] - np.array(points)[None], axis=-1).min(1)
        points.append(candidates[np.argmax(distances)])
    return np.array(points)


def _cell_texture(rng: Random) -> Field:
    """Granular cytoplasm with a few vesicles, dark with a bright halo."""
    patch = (_PATCH, _PATCH)
    vesicles = (rng.random(patch) < rng.uniform(0.001, 0.005)).astype(float)
    spots = ndimage.gaussian_filter(vesicles, 1.3, mode="wrap") - 0.6 * ndimage.gaussian_filter(
        vesicles, 2.4, mode="wrap"
    )
    return rng.uniform(6.0, 11.0) * noise(rng, patch, 0.9) - 400.0 * spots


def _largest_components(instances: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Keep the largest 4-connected piece of each cell."""
    kept = np.zeros_like(instances)
    for cell, window in enumerate(ndimage.find_objects(instances), start=1):
        if window is None:
            continue
        pieces, n = ndimage.label(instances[window] == cell)
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel(), minlength=n + 1)[1:]))
        kept[window][pieces == largest] = cell
    return kept
