"""What MONAI Label asks of a bundle: label images in the axes of its writer, training on what people have drawn.

MONAI Label reads ``inference.yaml`` (``post_transforms``) and a training config with ``monai_label.yaml`` on top; see
``bundle/docs/monai_label.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_data_type
from numpy.typing import NDArray

from unet_paper.data.datasets import pairs
from unet_paper.data.reader import NIFTI, extension
from unet_paper.running import checkpoint
from unet_paper.weight_map import separation_border

logger = logging.getLogger(__name__)

# Formats that lose pixels or have no 16-bit grey values: a label image beside them needs another.
_UNFIT_FOR_LABELS = (".jpg", ".jpeg", ".bmp")


class LabelImaged(MapTransform):
    """Label image as MONAI Label writes it: x first, 16 bit, so that the file lies over the image's.

    Our reader puts rows first; MONAI Label's writer reverses all axes, and resizes what differs from the image's shape.
    So the image, of which only the metadata is read from here on, is brought to x first as well. A NIfTI image (x, y)
    gets a label image (x, y, 1): the writer gives a volume the affine of its image, a plane none.

    Args:
        keys: key of the label image, integers, shape (1, H, W).
        image_key: key of the image that it was predicted from, with metadata of ``PageReader``.
        cell_ids: keep one id per cell; otherwise a mask of 0 and 1, as programs need that show a segment per value. In
            it, cells that touch are parted by the pixels of both that touch, so that they remain two.
        allow_missing_keys: pass over items that lack the key.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        image_key: str = "image",
        cell_ids: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.cell_ids = cell_ids

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Item with the label image, (W, H) or for NIfTI (W, H, 1), uint16, and the image with its axes reversed.

        Raises:
            ValueError: for another shape than (1, H, W), or more cells than 16 bits can number.
        """
        item = dict(data)
        image = item[self.image_key]
        kind = extension(str(image.meta.get("filename_or_obj", "")))
        for key in self.key_iterator(item):
            ids = convert_data_type(item[key], np.ndarray)[0]
            if ids.ndim != 3 or ids.shape[0] != 1:
                raise ValueError(f"{key!r} of shape {tuple(ids.shape)}: a label image of shape (1, H, W) is needed")
            label = self._label(ids[0]).T
            item[key] = label[..., None] if kind in NIFTI else label
        if kind in _UNFIT_FOR_LABELS:
            item["result_extension"] = ".png"
        item[self.image_key] = _x_first(image)
        return item

    def _label(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
        if not self.cell_ids:
            return (separation_border(ids) > 0).astype(np.uint16)
        if ids.max(initial=0) >= 2**16:
            raise ValueError(f"{ids.max()} cells: a 16-bit label image numbers 65535; ask for a mask (cell_ids=False)")
        return ids.astype(np.uint16)


def labelled_images(
    data: Sequence[Mapping[str, str]],
    transform: Callable[[Any], Any],
    otherwise: Sequence[Mapping[str, str]] = (),
) -> CacheDataset:
    """Dataset of images that people have labelled, checked before any is read.

    Args:
        data: cases with ``image`` and ``label``, files.
        transform: of every case.
        otherwise: cases to take where there are none; with one or two labelled images MONAI Label leaves none for
            validation.

    Raises:
        ValueError: no labelled image; a label of another size than its image.
    """
    if not data and otherwise:
        logger.warning("no labelled image is left for validation: the scores are those of the training images")
    cases = [case for item in data or otherwise for case in pairs(Path(item["image"]), Path(item["label"]))]
    if not cases:
        raise ValueError("no labelled image: save a label with the tag 'final' for at least one image, then train")
    return CacheDataset(cases, transform, progress=False)


class PublishWeights:
    """Handler of a trainer that hands the run's best weights to inference when the training is complete.

    A training that fails or is stopped leaves the weights in use as they are.

    Args:
        folder: of the run, with ``model.pt``.
        target: weights file that inference reads; replaced at once, in half precision, as a release holds them.
    """

    def __init__(self, folder: str | Path, target: str | Path) -> None:
        self.folder = Path(folder)
        self.target = Path(target)

    def attach(self, engine: Engine) -> None:
        """Publish when ``engine`` has run all its epochs."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _engine: Engine) -> None:
        checkpoint.export_weights(self.folder / checkpoint.BEST, self.target)
        logger.info("weights of %s are now %s", self.folder, self.target)


def _x_first(image: MetaTensor) -> MetaTensor:
    """Image (C, H, W) as (C, W, H), or (C, W, H, 1) from NIfTI, with its metadata."""
    turned = MetaTensor(image.as_tensor().transpose(1, 2)).copy_meta_from(image)
    if extension(str(image.meta.get("filename_or_obj", ""))) in NIFTI:
        turned = turned[..., None]
    turned.meta["spatial_shape"] = np.asarray(turned.shape[1:])
    for name in ("affine", "original_affine"):
        if name in image.meta:
            # PageReader swapped the columns of x and y
            turned.meta[name] = torch.as_tensor(image.meta[name])[:, [1, 0, 2, 3]]
    return turned
