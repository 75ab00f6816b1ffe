"""Phantoms: seeded images that stand for the paper's data sets, written in the layouts of their challenges.

``em_stack`` resembles serial-section electron microscopy of nerve tissue (ISBI 2012): dark membranes around cells of
many sizes, and inside the cells what a network must learn not to take for a membrane. ``touching_cells`` resembles
cells seen by differential interference contrast (DIC-C2DH-HeLa): low contrast, relief shading, clusters whose cells
touch.

Nothing here is copied from a real image, so phantoms may be published and stored anywhere.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["em_stack", "touching_cells", "write"]

Image = NDArray[np.uint8]
Field = NDArray[np.float64]
Random = np.random.Generator

_VERSION = 2  # of the generator: other pixels from the same parameters


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
    shape = _shape(slices, size)
    rng = np.random.default_rng(seed)
    first = (slices + 1) // 2
    blocks = [
        _em_block(rng, n, shape, blur, noise)
        for n, blur, noise in ((first, 0.8, 9.0), (slices - first, 0.6, 18.0))
        if n
    ]
    return np.concatenate([images for images, _ in blocks]), np.concatenate([labels for _, labels in blocks])


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
    shape = _shape(frames, size)
    rng = np.random.default_rng(seed)
    cells = _Cells.draw(rng, shape)
    shading = 3.0 * _noise(rng, shape, 60.0)
    images, instances = [], []
    for _ in range(frames):
        image, instance = cells.render(shape)
        images.append(_to_uint8(118.0 + shading + image + 3.0 * _noise(rng, shape, 0.5)))
        instances.append(instance)
        cells.move(rng, shape)
    return np.stack(images), np.stack(instances)


def write(
    folder: str | Path,
    kind: str = "cells",
    *,
    frames: int = 16,
    size: int | Sequence[int] = 256,
    sequences: Sequence[str | int] = ("01",),
    seed: int = 0,
) -> str:
    """Write a phantom in the layout of its challenge, or find it there from an earlier call.

    - ``cells``: that of the Cell Tracking Challenge. For each sequence NN, images ``NN/tTTT.tif``, gold instances
      ``NN_GT/SEG/man_segTTT.tif``, a marker of every cell ``NN_GT/TRA/man_trackTTT.tif``. Every fourth gold image, the
      third first, is partial: a third of its cells, at least one, have a marker but no instance.
    - ``em``: that of ISBI 2012, ``train-volume.tif``, ``train-labels.tif``, ``test-volume.tif``.

    The folder appears under its name when all of it is written, with the parameters in ``phantom.json``.

    Args:
        folder: where to write; its parents are made. A phantom of the same parameters is left untouched.
        kind: ``cells`` or ``em``.
        frames: number of frames of each sequence, or of slices of each stack.
        size: height and width in px, or one number for both.
        sequences: names of the sequences of ``cells``, two digits each; ``em`` has none.
        seed: of all that is drawn.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown kind, frames, size or sequences that make no phantom.
        FileExistsError: the folder holds something else, which is never overwritten.
    """
    folder = Path(folder).expanduser()
    if kind not in ("cells", "em"):
        raise ValueError(f"kind={kind!r}: expected 'cells' or 'em'")
    names = [f"{name:0>2}" for name in sequences]
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"\d\d", name) for name in names):
        raise ValueError(f"sequences={list(sequences)}: expected names of two digits, each once, such as ['01', '02']")
    parameters: dict[str, object] = {
        "kind": kind,
        "frames": frames,
        "size": list(_shape(frames, size)),
        "sequences": names if kind == "cells" else [],
        "seed": seed,
        "version": _VERSION,
    }
    if _holds(folder, parameters):
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        whole = scratch / "phantom"
        whole.mkdir()
        if kind == "em":
            _write_em(whole, frames, size, seed)
        else:
            for name in names:
                _write_sequence(whole, name, frames, size, seed)
        (whole / "phantom.json").write_text(json.dumps(parameters, indent=2) + "\n")
        try:
            os.replace(whole, folder)
        except OSError:
            # another process, of a distributed run, wrote it in the meantime
            if not _holds(folder, parameters):
                raise
    finally:
        shutil.rmtree(scratch)
    return str(folder)


# --- what both kinds share ---


def _holds(folder: Path, parameters: dict[str, object]) -> bool:
    """Whether a folder holds the phantom of these parameters; False where there is nothing yet.

    Raises:
        FileExistsError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    description = folder / "phantom.json"
    found = description.read_text() if description.is_file() else "no phantom.json"
    try:
        if json.loads(found) == parameters:
            return True
    except json.JSONDecodeError:
        pass
    raise FileExistsError(
        f"{folder}: holds something else than the phantom {json.dumps(parameters)} ({' '.join(found.split())}); "
        "choose another folder, or remove this one"
    )


def _shape(frames: int, size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if frames < 1:
        raise ValueError(f"frames={frames}: at least one is needed")
    if min(height, width) < 32:
        raise ValueError(f"size={size}: height and width must be at least 32 px to hold a few cells")
    return height, width


def _noise(rng: Random, shape: tuple[int, ...], sigma: float | Sequence[float]) -> Field:
    """Gaussian random field of unit variance with correlation length sigma (px, one or one for each axis)."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-12)


def _to_uint8(image: Field) -> Image:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- EM ---


def _em_block(rng: Random, slices: int, shape: tuple[int, int], blur: float, noise: float) -> tuple[Image, Image]:
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
        image += 9.0 * _noise(rng, shape, 14.0)
        image = ndimage.gaussian_filter(image, blur) + noise * _noise(rng, shape, 0.45)
        images.append(_to_uint8(image))
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
        warp = np.stack(
            [5.0 * _noise(rng, grid, (1.2, 14, 14)) + 1.5 * _noise(rng, grid, (0.6, 4, 4)) for _ in range(2)]
        )
        tissue = cls(
            shape=shape,
            centres=centres,
            drift=rng.normal(0.0, 1.8, (n, 2)),
            metrics=metrics,
            grey=np.where(dark, 115.0, rng.normal(158.0, 9.0, n)),
            vesicles=np.where(rng.random(n) < 0.5, rng.uniform(0.003, 0.012, n), 0.0),
            warp=warp,
            half_width=np.clip(2.1 + 0.5 * _noise(rng, grid, (0.7, 12, 12)), 1.5, 3.0),
            contrast=np.clip(0.95 + 0.22 * _noise(rng, grid, (0.5, 9, 9)), 0.45, 1.0),
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
        image = self.grey[owner] + 15.0 * _noise(rng, self.shape, 1.3) + 8.0 * _noise(rng, self.shape, 3.0)
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
            image = image * (1 - body) + body * (92.0 + cristae - rim + 6.0 * _noise(rng, self.shape, 0.8))
        return image


def _vesicle() -> Field:
    """A dark ring of 3 px radius with a pale lumen."""
    r = np.hypot(*(np.indices((13, 13)) - 6.0))
    return -62.0 * np.exp(-(((r - 3.0) / 0.9) ** 2)) + 12.0 * np.exp(-((r / 1.5) ** 2))


def _write_em(folder: Path, slices: int, size: int | Sequence[int], seed: int) -> None:
    images, labels = em_stack(slices, size, seed)
    unseen, _ = em_stack(slices, size, seed + 1)
    for name, stack in (("train-volume", images), ("train-labels", labels), ("test-volume", unseen)):
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack", metadata=None)


# --- cells ---

_HARMONICS = np.arange(2, 7)
_PATCH = 97  # px, side of the texture that a cell carries along


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
    return rng.uniform(6.0, 11.0) * _noise(rng, patch, 0.9) - 400.0 * spots


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


def _write_sequence(folder: Path, name: str, frames: int, size: int | Sequence[int], seed: int) -> None:
    images, instances = touching_cells(frames, size, seed + 1000 * int(name))
    rng = np.random.default_rng([seed, int(name)])
    gold, markers = folder / f"{name}_GT" / "SEG", folder / f"{name}_GT" / "TRA"
    for made in (folder / name, gold, markers):
        made.mkdir(parents=True)
    for t, (image, instance) in enumerate(zip(images, instances, strict=True)):
        annotated = instance
        if t % 4 == 2:
            ids = np.unique(instance)[1:]
            left_out = rng.choice(ids, max(1, len(ids) // 3), replace=False)
            annotated = np.where(np.isin(instance, left_out), 0, instance).astype(np.uint16)
        for path, pixels in (
            (folder / name / f"t{t:03d}.tif", image),
            (gold / f"man_seg{t:03d}.tif", annotated),
            (markers / f"man_track{t:03d}.tif", _markers(instance)),
        ):
            tifffile.imwrite(path, pixels, compression="lzw", photometric="minisblack", metadata=None)


def _markers(instances: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Each cell eroded to the pixels at least half as deep as its deepest."""
    markers = np.zeros_like(instances)
    for cell, window in enumerate(ndimage.find_objects(instances), start=1):
        if window is not None:
            depth = ndimage.distance_transform_edt(np.pad(instances[window] == cell, 1))[1:-1, 1:-1]
            markers[window][depth >= depth.max() / 2] = cell
    return markers
