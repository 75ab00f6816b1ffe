"""Phantom of serial-section electron microscopy of nerve tissue (ISBI 2012).

Dark membranes around cells of many sizes, and inside the cells what a network must learn not to take for a membrane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_image import Field, Image, Random, image_shape, noise, to_uint8


def em_stack(slices: int, size: int | Sequence[int], seed: int) -> tuple[Image, Image]:
    """EM-like stack and its membrane labels, in two blocks as in ISBI 2012: a smoother one, then a noisier one.

    The blocks show different tissue; within a block the cells go on from slice to slice.

    Args:
        slices: number of slices Z.
        size: height and width in px, or one number for both.
        seed: of all that is drawn; the same seed gives the same bytes.

    Returns:
        Images and labels, (Z, H, W) each; labels are 0 on membranes and 255 inside cells, mitochondria and vesicles
        included.

    Raises:
        ValueError: no slices, or images smaller than 32 px.

    >>> images, labels = em_stack(4, (48, 64), seed=0)
    >>> images.shape, np.unique(labels).tolist()
    ((4, 48, 64), [0, 255])
    """
    shape = image_shape(slices, size)
    rng = np.random.default_rng(seed)
    first = (slices + 1) // 2
    blocks = [
        _em_block(rng, n, shape, blur, grain)
        for n, blur, grain in ((first, 0.8, 9.0), (slices - first, 0.6, 18.0))
        if n
    ]
    return np.concatenate([images for images, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def _em_block(rng: Random, slices: int, shape: tuple[int, int], blur: float, grain: float) -> tuple[Image, Image]:
    """A run of slices through one piece of tissue: (images, labels)."""
    tissue = _Tissue.draw(rng, slices, shape)
    images, labels = [], []
    for z in range(slices):
        owner, to_border = tissue.cut(z)
        slivers = (np.bincount(owner.ravel(), minlength=len(tissue.centres)) < 45)[owner]
        # membranes cut obliquely are wide and pale
        darkness = tissue.contrast[z] * np.exp(-((to_border / (0.85 * tissue.half_width[z] + 0.4)) ** 4))
        darkness = np.maximum(darkness, ndimage.gaussian_filter(slivers.astype(float), 1.0))
        image = tissue.cytoplasm(rng, owner, to_border, z) * (1 - darkness) + 42.0 * darkness
        image += 9.0 * noise(rng, shape, 14.0)
        image = ndimage.gaussian_filter(image, blur) + grain * noise(rng, shape, 0.45)
        images.append(to_uint8(image))
        labels.append(np.where((to_border <= tissue.half_width[z]) | slivers, 0, 255).astype(np.uint8))
    return np.stack(images), np.stack(labels)


@dataclass
class _Tissue:
    """Cells that run through a block: a Voronoi tessellation, anisotropic, weighted, warped and drifting."""

    shape: tuple[int, int]
    centres: Field  # (n, 2) at slice 0
    drift: Field  # (n, 2) px per slice
    metrics: Field  # (n, 2, 2)
    grey: Field  # (n,)
    vesicles: Field  # (n,) per px
    warp: Field  # (2, Z, H, W)
    half_width: Field  # (Z, H, W) of the membranes, px
    contrast: Field  # (Z, H, W) of the membranes
    mitochondria: list[tuple[int, Field, float, Field]]  # cell, offset, angle, half axes

    @classmethod
    def draw(cls, rng: Random, slices: int, shape: tuple[int, int]) -> "_Tissue":
        height, width = shape
        margin = 30
        n = max(6, round((height + 2 * margin) * (width + 2 * margin) / 1350))
        centres = rng.uniform([-margin, -margin], [height + margin, width + margin], (n, 2))
        scale = np.exp(rng.normal(0.0, 0.45, n))
        stretch = np.exp(rng.normal(0.15, 0.25, n))
        angle = rng.uniform(0, np.pi) + rng.normal(0.0, 0.7, n)
        rotation = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], -1).reshape(n, 2, 2)
        axes = np.stack([1 / (scale * stretch), stretch / scale], -1) ** 2
        metrics = np.einsum("nki,nk,nkj->nij", rotation, axes, rotation)
        dark = rng.random(n) < 0.08
        grid = (slices, height, width)
        warp = np.stack([5.0 * noise(rng, grid, (1.2, 14, 14)) + 1.5 * noise(rng, grid, (0.6, 4, 4)) for _ in range(2)])
        tissue = cls(
            shape=shape,
            centres=centres,
            drift=rng.normal(0.0, 1.8, (n, 2)),
            metrics=metrics,
            grey=np.where(dark, 115.0, rng.normal(158.0, 9.0, n)),
            vesicles=np.where(rng.random(n) < 0.5, rng.uniform(0.003, 0.012, n), 0.0),
            warp=warp,
            half_width=np.clip(2.1 + 0.5 * noise(rng, grid, (0.7, 12, 12)), 1.5, 3.0),
            contrast=np.clip(0.95 + 0.22 * noise(rng, grid, (0.5, 9, 9)), 0.45, 1.0),
            mitochondria=[],
        )
        tissue._place_mitochondria(rng, slices)
        return tissue

    def _place_mitochondria(self, rng: Random, slices: int) -> None:
        """In the widest cells of the middle slice, one each."""
        owner, to_border = self.cut(slices // 2)
        room = ndimage.maximum(to_border, owner, np.arange(len(self.centres)))
        for cell in np.argsort(-room)[: max(1, round(owner.size / 14000))]:
            if room[cell] < 9:
                continue
            deepest = np.argmax(np.where(owner == cell, to_border, -1.0))
            at = np.array(np.unravel_index(deepest, self.shape), dtype=float)
            offset = at - self.centres[cell] - self.drift[cell] * (slices // 2)
            half_axes = room[cell] * np.array([rng.uniform(0.6, 0.75), rng.uniform(0.42, 0.55)])
            self.mitochondria.append((int(cell), offset, rng.uniform(0, np.pi), np.minimum(half_axes, [20.0, 14.0])))

    def cut(self, z: int) -> tuple[NDArray[np.int64], Field]:
        """Slice z: the cell of each pixel, and the distance to the nearest border between cells in px."""
        rows, columns = np.indices(self.shape, dtype=float) + self.warp[:, z]
        nearest = np.full(self.shape, np.inf)
        owner = np.zeros(self.shape, dtype=np.int64)
        for cell, (centre, metric) in enumerate(zip(self.centres + self.drift * z, self.metrics, strict=True)):
            y, x = rows - centre[0], columns - centre[1]
            distance = metric[0, 0] * y * y + 2 * metric[0, 1] * y * x + metric[1, 1] * x * x
            closer = distance < nearest
            nearest[closer] = distance[closer]
            owner[closer] = cell
        border = np.zeros(self.shape, dtype=bool)
        border[:-1] |= owner[:-1] != owner[1:]
        border[:, :-1] |= owner[:, :-1] != owner[:, 1:]
        return owner, ndimage.distance_transform_edt(~border)

    def cytoplasm(self, rng: Random, owner: NDArray[np.int64], to_border: Field, z: int) -> Field:
        """Grey values without membranes: texture, granules, vesicles, mitochondria."""
        image = self.grey[owner] + 15.0 * noise(rng, self.shape, 1.3) + 8.0 * noise(rng, self.shape, 3.0)
        inside = to_border > self.half_width[z] + 2.5
        seeds = inside & (rng.random(self.shape) < self.vesicles[owner])
        image += ndimage.convolve(seeds.astype(float), _vesicle(), mode="constant")
        granules = inside & (rng.random(self.shape) < 0.003)
        image -= 500.0 * ndimage.gaussian_filter(granules.astype(float), 1.0)
        for cell, offset, angle, half_axes in self.mitochondria:
            centre = self.centres[cell] + self.drift[cell] * z + offset
            y, x = np.indices(self.shape, dtype=float) - centre[:, None, None]
            u, v = np.cos(angle) * y + np.sin(angle) * x, -np.sin(angle) * y + np.cos(angle) * x
            u, v = u + 0.3 * self.warp[0, z], v + 0.3 * self.warp[1, z]
            radius = np.hypot(u / half_axes[0], v / half_axes[1])
            body = np.clip((1 - radius) * half_axes[1], 0, 1) * ((owner == cell) & (to_border > self.half_width[z] + 1))
            cristae = 16.0 * np.sin(1.5 * u + 1.2 * self.warp[1, z])
            rim = 26.0 * np.exp(-(((1 - radius) * half_axes[1] - 1.2) ** 2))
            image = image * (1 - body) + body * (92.0 + cristae - rim + 6.0 * noise(rng, self.shape, 0.8))
        return image


def _vesicle() -> Field:
    """A dark ring of 3 px radius with a pale lumen."""
    r = np.hypot(*(np.indices((13, 13)) - 6.0))
    return -62.0 * np.exp(-(((r - 3.0) / 0.9) ** 2)) + 12.0 * np.exp(-((r / 1.5) ** 2))
