"""What MONAI Label asks of a bundle: label images in the axes of its writer, training on what people have drawn.

MONAI Label reads ``inference.yaml`` (``post_transforms``) and a training config with ``monai_label.yaml`` on top; see
``bundle/docs/monai_label.md``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_data_type
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.utils.data import ConcatDataset

from unet_paper.classes import class_of
from unet_paper.data.datasets import pairs
from unet_paper.data.reader import EXTENSIONS, NIFTI, NRRD, LabelReader, PageReader, extension
from unet_paper.release import contents, polygons, terms
from unet_paper.running import checkpoint
from unet_paper.running.facts import Facts
from unet_paper.running.settings import cause
from unet_paper.weight_map import separation_border

logger = logging.getLogger(__name__)

# Formats that lose pixels or have no 16-bit grey values: a label image beside them needs another.
_UNFIT_FOR_LABELS = (".jpg", ".jpeg", ".bmp")
# Formats with axes and an affine of their own, x first.
_VOLUMES = (*NIFTI, *NRRD)
# What programs call the cells: the class that metadata.json gives to channel 1.
CELL = "cell"


class LabelImaged(MapTransform):
    """Label image as MONAI Label writes it: x first, 16 bit, so that the file lies over the image's.

    Our reader puts rows first; MONAI Label's writer reverses all axes, and resizes what differs from the image's shape.
    So the image, of which only the metadata is read from here on, is brought to x first as well. A NIfTI or NRRD image
    (x, y) gets a label image (x, y, 1): the writer gives a volume the affine of its image, a plane none.

    The writer casts to the type that a client asks for (``result_dtype``), 3D Slicer for one byte: ids beyond that type
    would start at 0 again, so 16 bits are written instead.

    Args:
        keys: key of the label image, integers, shape (1, H, W).
        image_key: key of the image that it was predicted from, with metadata of ``PageReader``.
        cell_ids: keep one id per cell; otherwise a mask of 0 and 1, as programs need that show a segment per value. In
            it, cells that touch are parted by the pixels of both that touch, so that they remain two.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`, and a
            mask has the classes in the place of 1.
        allow_missing_keys: pass over items that lack the key.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        image_key: str = "image",
        cell_ids: bool = True,
        num_classes: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.cell_ids = cell_ids
        self.num_classes = num_classes

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
            item[key] = label[..., None] if kind in _VOLUMES else label
            if not _holds(item.get("result_dtype"), int(label.max(initial=0))):
                item["result_dtype"] = "uint16"
        if kind in _UNFIT_FOR_LABELS and not item.get("result_extension"):
            item["result_extension"] = ".png"
        item[self.image_key] = _x_first(image)
        return item

    def _label(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
        if not self.cell_ids:
            return class_of(separation_border(ids), self.num_classes).astype(np.uint16)
        if ids.max(initial=0) >= 2**16:
            raise ValueError(
                f"{ids.max()} cells: a 16-bit label image numbers 65535; ask for a mask: clear the option cell_ids"
            )
        return ids.astype(np.uint16)


def labelled_images(
    data: Sequence[Mapping[str, str]],
    transform: Callable[[Any], Any],
    otherwise: Sequence[Mapping[str, str]] = (),
) -> ConcatDataset[Any]:
    """Dataset of images that people have labelled, read at once.

    One that cannot be read does not stop the others: it is left out, and the log names it.

    Args:
        data: cases with ``image`` and ``label``, files.
        transform: of every case.
        otherwise: cases to take where there are none; with one or two labelled images MONAI Label leaves none for
            validation.

    Raises:
        ValueError: no labelled image, or none that can be read; names the first problem.
    """
    if not data and otherwise:
        logger.warning("no labelled image is left for validation: the scores are those of the training images")
    datasets: list[CacheDataset] = []
    problems: list[str] = []
    for item in data or otherwise:
        try:
            cases = pairs(Path(item["image"]), Path(item["label"]))
            datasets.append(CacheDataset(cases, transform, progress=False))
        except Exception as error:  # a decoder's, a transform's: whatever it is, it concerns this image alone
            problems.append(str(cause(error)))
            logger.warning("left out: %s", problems[-1])
    if not datasets:
        reason = f"none can be read: {problems[0]}" if problems else "save a label with the tag 'final'"
        raise ValueError(f"no labelled image: {reason}; at least one is needed, then train")
    return ConcatDataset(datasets)


def as_label_image(label: Path, image: Path, folder: Path) -> Path:
    """File of a label that training will be able to read, from what a program has sent.

    QuPath's XML and Slicer's segmentations become TIFF files; what can be read stays as it is.

    Args:
        label: what was sent.
        image: the image that it belongs to.
        folder: for a new file.

    Raises:
        ValueError: it cannot be read, is no label image, or has another size than its image; names both.
    """
    shape = PageReader().get_data(str(image))[0].shape[:2]
    if label.suffix.lower() == ".xml":
        try:
            ids: NDArray[Any] = polygons.from_xml(label.read_bytes(), shape, CELL)
        except ValueError as error:
            raise ValueError(f"label of {image.name}: {error}") from error
        return _as_tiff(ids, label, folder)
    if not extension(label):
        raise ValueError(f"label of {image.name}: {label.suffix!a} cannot be read; send {' '.join(EXTENSIONS)} or .xml")
    ids = LabelReader().get_data(str(label))[0]
    if label.name.lower().endswith(".seg.nrrd"):
        # the file knows only how far its segments reach
        missing = [max(0, whole - part) for whole, part in zip(shape, ids.shape, strict=True)]
        ids = np.pad(ids, [(0, n) for n in missing])
    if ids.shape != shape:
        raise ValueError(
            f"label of {image.name}: {ids.shape[0]}x{ids.shape[1]}, and the image has {shape[0]}x{shape[1]} px (HxW)"
        )
    if ids.min(initial=0) < 0:
        raise ValueError(f"label of {image.name}: holds {ids.min()}; ids count from 1, and 0 is the background")
    return _as_tiff(ids, label, folder) if label.name.lower().endswith(".seg.nrrd") else label


def cell_numbers(label: Any) -> list[int]:
    """Numbers of the cells in a label image, without the background.

    >>> cell_numbers(np.array([[0, 2], [7, 2]]))
    [2, 7]
    """
    return [int(number) for number in np.unique(np.asarray(label)) if number > 0]


def within(ids: NDArray[Any], x: int, y: int, width: int, height: int) -> NDArray[Any]:
    """Label image in which only cells whose middle lies in a rectangle are left, whole.

    >>> within(np.array([[1, 1, 0, 2]]), 0, 0, 2, 1)
    array([[1, 1, 0, 0]])
    """
    numbers = cell_numbers(ids)
    middles = ndimage.center_of_mass(ids > 0, ids, numbers) if numbers else []
    inside = [
        number
        for number, (row, column) in zip(numbers, middles, strict=True)
        if y <= row + 0.5 < y + height and x <= column + 0.5 < x + width
    ]
    return np.where(np.isin(ids, inside), ids, 0)


def replace_weights(network: nn.Module, source: Path, target: Path) -> str:
    """Put weights from elsewhere in the place of those in use, if they fit.

    Args:
        network: network that they must fit; it takes them.
        source: what was sent.
        target: weights in use; as they were if these are refused.

    Returns:
        SHA-256 of the new file.

    Raises:
        ValueError: no weights that load without running code, of another network, or not finite.
    """
    contents.check_weights(source.read_bytes(), source.name, state_dict=True)
    checkpoint.load_weights(network, source, setting="weights")
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise ValueError(f"{source.name}: some weights are NaN or infinite; the training that made them diverged")
    text = checkpoint.read_weights_and_facts(source)[1]
    if text is None and target.is_file():
        # weights that say nothing of their training are used as those before them
        text = checkpoint.read_weights_and_facts(target)[1]
    return checkpoint.export_weights(source, target, None if text is None else Facts.from_json(text).to_tensor())


def _as_tiff(array: NDArray[Any], source: Path, folder: Path) -> Path:
    file = folder / f"{source.name.split('.')[0]}.tif"
    unsigned = np.min_scalar_type(int(array.max(initial=0)))
    tifffile.imwrite(file, array.astype(unsigned))
    return file


def _holds(dtype: str | None, largest: int) -> bool:
    """Whether a type that a client asks for holds ids up to ``largest``."""
    return dtype is None or np.can_cast(np.min_scalar_type(largest), np.dtype(str(dtype)))


class PublishWeights:
    """Handler of a trainer that hands the run's best weights to inference when the training is complete.

    A training that fails or is stopped leaves the weights in use as they are.

    Args:
        folder: of the run, with ``model.pt``.
        target: weights file that inference reads; replaced at once, in half precision, as a release holds them.
        enabled: whether to publish at all.
    """

    def __init__(self, folder: str | Path, target: str | Path, enabled: bool = True) -> None:
        self.folder = Path(folder)
        self.target = Path(target)
        self.enabled = enabled

    def attach(self, engine: Engine) -> None:
        """Publish when ``engine`` has run all its epochs."""
        if self.enabled:
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _engine: Engine) -> None:
        checkpoint.export_weights(self.folder / checkpoint.BEST, self.target, self._begun_from_those_in_use())
        logger.info("weights of %s are now %s", self.folder, self.target)

    def _begun_from_those_in_use(self) -> torch.Tensor | None:
        """Facts of the run with what MONAI Label, by no setting of ours, has begun it with; None: as they are."""
        known = Facts.of(checkpoint.read_weights_and_facts(self.folder / checkpoint.BEST)[1])
        if known is None or known.training.get(terms.START) or not self.target.is_file():
            return None
        start = terms.begun_from(self.target, quiet=True)
        return dataclasses.replace(known, training={**known.training, terms.START: start}).to_tensor()


def _x_first(image: MetaTensor) -> MetaTensor:
    """Image (C, H, W) as (C, W, H), or (C, W, H, 1) from NIfTI, with its metadata."""
    turned = MetaTensor(image.as_tensor().transpose(1, 2)).copy_meta_from(image)
    if extension(str(image.meta.get("filename_or_obj", ""))) in _VOLUMES:
        turned = turned[..., None]
    turned.meta["spatial_shape"] = np.asarray(turned.shape[1:])
    for name in ("affine", "original_affine"):
        if name in image.meta:
            # PageReader swapped the columns of x and y
            turned.meta[name] = torch.as_tensor(image.meta[name])[:, [1, 0, 2, 3]]
    return turned
