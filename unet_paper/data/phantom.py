"""Phantoms: seeded images that stand for the paper's data sets, written in the layouts of their challenges.

``em_stack`` resembles serial-section electron microscopy of nerve tissue (ISBI 2012): dark membranes around cells of
many sizes, and inside the cells what a network must learn not to take for a membrane. ``touching_cells`` resembles
cells seen by differential interference contrast (DIC-C2DH-HeLa): low contrast, relief shading, clusters whose cells
touch. ``sparse_nuclei`` resembles no data set of the paper: small nuclei with much background between them.
``fluorescent_nuclei`` resembles nuclei in fluorescence, as many laboratories have them in a folder.

Nothing here is copied from a real image, so phantoms may be published and stored anywhere.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.phantom_cells import touching_cells
from unet_paper.data.phantom_em import em_stack
from unet_paper.data.phantom_image import image_shape
from unet_paper.data.phantom_nuclei import fluorescent_nuclei, sparse_nuclei

__all__ = ["em_stack", "fluorescent_nuclei", "sparse_nuclei", "touching_cells", "write"]

_KINDS = ("cells", "nuclei", "em", "folder")

_VERSION = 2  # of the generator: other pixels from the same parameters


def write(
    folder: str | Path,
    kind: str = "cells",
    *,
    frames: int = 16,
    size: int | Sequence[int] = 256,
    sequences: Sequence[str | int] = ("01",),
    seed: int = 0,
) -> str:
    """Write a phantom in the layout of its challenge, or of a folder, or find it there from an earlier call.

    - ``cells``: that of the Cell Tracking Challenge. For each sequence NN, images ``NN/tTTT.tif``, gold instances
      ``NN_GT/SEG/man_segTTT.tif``, a marker of every cell ``NN_GT/TRA/man_trackTTT.tif``. Every fourth gold image, the
      third first, is partial: a third of its cells, at least one, have a marker but no instance.
    - ``nuclei``: the same layout, every nucleus drawn and marked.
    - ``em``: that of ISBI 2012, ``train-volume.tif``, ``train-labels.tif``, ``test-volume.tif``.
    - ``folder``: a folder of one's own, ``images/nucleiNN.tif`` and ``masks/nucleiNN.tif`` with an id a nucleus, pixels
      of 0.5 um; and ``new_images``, a third as many, without masks.

    The folder appears under its name when all of it is written, with the parameters in ``phantom.json``.

    Args:
        folder: where to write; its parents are made. A phantom of the same parameters is left untouched.
        kind: ``cells``, ``nuclei``, ``em`` or ``folder``.
        frames: number of frames of each sequence, of slices of each stack, or of images with masks.
        size: height and width in px, or one number for both.
        sequences: names of the sequences, two digits each; ``em`` and ``folder`` have none.
        seed: of all that is drawn.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown kind, frames, size or sequences that make no phantom.
        FileExistsError: the folder holds something else, which is never overwritten.
    """
    folder = Path(folder).expanduser()
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r}: expected {', '.join(map(repr, _KINDS[:-1]))} or {_KINDS[-1]!r}")
    names = [f"{name:0>2}" for name in sequences]
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"\d\d", name) for name in names):
        raise ValueError(f"sequences={list(sequences)}: expected names of two digits, each once, such as ['01', '02']")
    parameters: dict[str, object] = {
        "kind": kind,
        "frames": frames,
        "size": list(image_shape(frames, size)),
        "sequences": [] if kind in ("em", "folder") else names,
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
        elif kind == "folder":
            _write_folder(whole, frames, size, seed)
        else:
            for name in names:
                _write_sequence(whole, kind, name, frames, size, seed)
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


def _write_em(folder: Path, slices: int, size: int | Sequence[int], seed: int) -> None:
    images, labels = em_stack(slices, size, seed)
    unseen, _ = em_stack(slices, size, seed + 1)
    for name, stack in (("train-volume", images), ("train-labels", labels), ("test-volume", unseen)):
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack", metadata=None)


def _write_folder(folder: Path, frames: int, size: int | Sequence[int], seed: int) -> None:
    unseen = max(1, frames // 3)
    images, instances = fluorescent_nuclei(frames + unseen, size, seed)
    for number, (image, mask) in enumerate(zip(images, instances, strict=True), start=1):
        annotated = number <= frames
        parts = {"images": image, "masks": mask} if annotated else {"new_images": image}
        for kind, pixels in parts.items():
            path = folder / kind / f"nuclei{number:02d}.tif"
            path.parent.mkdir(exist_ok=True)
            # as ImageJ describes a picture with a scale
            tifffile.imwrite(path, pixels, imagej=True, resolution=(2, 2), metadata={"unit": "um"})


def _write_sequence(folder: Path, kind: str, name: str, frames: int, size: int | Sequence[int], seed: int) -> None:
    make = touching_cells if kind == "cells" else sparse_nuclei
    images, instances = make(frames, size, seed + 1000 * int(name))
    rng = np.random.default_rng([seed, int(name)])
    gold, markers = folder / f"{name}_GT" / "SEG", folder / f"{name}_GT" / "TRA"
    for made in (folder / name, gold, markers):
        made.mkdir(parents=True)
    for t, (image, instance) in enumerate(zip(images, instances, strict=True)):
        annotated = instance
        if t % 4 == 2 and kind == "cells":
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
