"""Files that are to be scored: read as they are meant, checked against each other, doubtful things noted.

Notes are sentences about what was assumed or looks wrong although it can be scored; what cannot be scored is a
``ValueError`` that names the file.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from unet_paper.data import photometric
from unet_paper.data.annotation import LARGEST_ID, UNKNOWN, ids_in_pieces, is_inverted, rims_of_cells
from unet_paper.data.datasets import stem
from unet_paper.data.reader import EXTENSIONS, LabelReader, PageReader, extension, page_shapes
from unet_paper.data.unit_range import FULL_SCALE
from unet_paper.data.written_by_us import read_mark
from unet_paper.metrics.ctc import LabelImage

_NUMBER = re.compile(r"\d+")
# what the Cell Tracking Challenge begins the names of its references with
_REFERENCE = ("man_seg", "man_track")
# of 8 bits, and the pieces beside those of other cells from which on ids were plainly given twice
_LARGEST_OF_8_BITS = 255
_TWICE = 3
_CELLS = "_cells"  # what running.predictions ends the names of its label images with


@dataclass(frozen=True)
class Membranes:
    """A stack of binary annotations and one of probabilities."""

    label_path: Path
    prediction_path: Path
    label: NDArray[np.bool_]
    """True in cells, shape (Z, H, W)."""
    probability: NDArray[np.float32]
    """Probability of cell in [0, 1], shape (Z, H, W)."""
    scaled_by: float
    """Grey value of the prediction's file that is probability 1."""
    notes: Sequence[str]

    def sizes(self) -> dict[str, int]:
        """Slices, height and width."""
        return dict(zip(("slices", "height", "width"), self.label.shape, strict=True))

    def described(self) -> str:
        """What was scored, in one line."""
        slices, height, width = self.label.shape
        what = f"{slices} slice{'s' if slices > 1 else ''} of {height} x {width} px"
        return f"{what}, {self.label.mean():.0%} cell in the label; one threshold for all of them"


@dataclass(frozen=True)
class Frames:
    """Label images of cells, predicted and annotated."""

    label_path: Path
    prediction_path: Path
    predictions: Mapping[str, LabelImage]
    """By the key of the frame."""
    references: Mapping[str, LabelImage]
    """For SEG and IoU; no frame where none is annotated."""
    markers: Mapping[str, LabelImage]
    """For DET."""
    notes: Sequence[str] = field(default_factory=tuple)

    def segmented(self) -> tuple[list[LabelImage], list[LabelImage]]:
        """Predictions and references of the frames that have a reference."""
        return [self.predictions[key] for key in self.references], list(self.references.values())

    def marked(self) -> tuple[list[LabelImage], list[LabelImage]]:
        """Predictions and markers of the frames that have markers."""
        return [self.predictions[key] for key in self.markers], list(self.markers.values())

    def sizes(self) -> dict[str, int]:
        """Frames of either kind."""
        return {"frames_segmented": len(self.references), "frames_detected": len(self.markers)}

    def described(self) -> str:
        """What was scored, in one line."""
        return f"frames with reference segmentations: {len(self.references)}, with markers: {len(self.markers)}"


def read_membranes(
    label_path: Path,
    prediction_path: Path,
    *,
    grey_maximum: float | None = None,
    invert_label: bool = False,
    invert_prediction: bool = False,
) -> Membranes:
    """Read an annotation of membranes and a map of probabilities.

    Args:
        label_path: 0 on membrane and 1 or 255 in cells; a stack or a single image.
        prediction_path: probability of cell; of integers the full range is 1.
        grey_maximum: grey value that is probability 1 instead.
        invert_label: membrane is white in the annotation.
        invert_prediction: the prediction is high on membrane.

    Raises:
        FileNotFoundError: no such file.
        ValueError: files that cannot be read or are not of one size, a label that is not binary, probabilities outside
            [0, 1], NaN, colour.
    """
    shapes = page_shapes(label_path), page_shapes(prediction_path)
    if len(shapes[0]) != len(shapes[1]):
        raise ValueError(
            f"{label_path}: {len(shapes[0])} slices, and {prediction_path}: {len(shapes[1])}; score what belongs "
            "together, slice by slice in the same order"
        )
    for z, (wanted, found) in enumerate(zip(*shapes, strict=True)):
        if wanted[:2] != shapes[0][0][:2] or found[:2] != wanted[:2]:
            raise ValueError(
                f"slice {z} of {prediction_path}: {_size(found)} px, of {label_path}: {_size(wanted)} px, the first: "
                f"{_size(shapes[0][0])} px; all slices of both must have one size: predict at the size of the image"
            )
    notes: list[str] = []
    ids = np.stack([_read_page(LabelReader(), label_path, z, len(shapes[0]))[0] for z in range(len(shapes[0]))])
    pages = [_read_page(PageReader(), prediction_path, z, len(shapes[1])) for z in range(len(shapes[1]))]
    grey = np.stack([_grey(pixels, prediction_path) for pixels, _ in pages])
    label = _binary(ids, label_path, grey) ^ invert_label
    probability, scaled_by = _scaled(grey, pages[0][1], prediction_path, grey_maximum, notes)
    if invert_prediction:
        probability = 1 - probability
    notes += _suspicions(label, probability, label_path, prediction_path)
    return Membranes(label_path, prediction_path, label, probability, scaled_by, tuple(notes))


def read_frames(label_path: Path, prediction_path: Path) -> Frames:
    """Read two folders of label images and pair them, by name or else by the last number in the name.

    Args:
        label_path: folder of references, or with the challenge's folders SEG (for SEG) and TRA (for DET) in it.
        prediction_path: folder of predicted label images.

    Raises:
        ValueError: an empty folder, names that do not match, a reference without a prediction, sizes that differ.
    """
    predicted = _cells_alone(_images(prediction_path))
    kinds = [kind for kind in ("SEG", "TRA") if (label_path / kind).is_dir()]
    notes = []
    if kinds:
        pairs = {kind: _paired(_images(label_path / kind), predicted) for kind in kinds}
    else:
        pairs = dict.fromkeys(("SEG", "TRA"), _paired(_images(label_path), predicted))
        notes.append("DET is of the same reference as SEG; the challenge takes the markers of its folder TRA")
    images = {path: _ids(path) for path in sorted({path for kind in pairs.values() for pair in kind for path in pair})}
    read: dict[str, dict[str, LabelImage]] = {"SEG": {}, "TRA": {}}
    by_key = {}
    for kind, of_kind in pairs.items():
        for path, prediction in of_kind:
            if images[prediction].min(initial=0) < 0:
                raise ValueError(
                    f"{prediction}: holds {images[prediction].min()}; of a prediction 0 is background, and cells are "
                    "above 0"
                )
            found, wanted = images[prediction].shape, images[path].shape
            if found != wanted:
                raise ValueError(
                    f"{prediction}: {_size(found)} px, and its reference {path}: {_size(wanted)} px; predict at the "
                    "size of the image"
                )
            read[kind][path.stem] = images[path]
            by_key[path.stem] = images[prediction]
    pairs_read = {(path, prediction) for of_kind in pairs.values() for path, prediction in of_kind}
    notes += _swapped(pairs_read) + _inverted([(images[path], images[one]) for path, one in sorted(pairs_read)])
    used = {prediction for of_kind in pairs.values() for _, prediction in of_kind}
    left = sorted(set(predicted) - used)
    if left:
        names = ", ".join(path.name for path in left[:3]) + (", .." if len(left) > 3 else "")
        notes.append(f"{len(left)} predictions have no reference and are not scored: {names}")
    for side, ids in (
        ("reference", [images[path] for path in sorted({path for path, _ in pairs_read})]),
        ("prediction", [images[path] for path in sorted(used)]),
    ):
        notes += _doubts(side, ids)
        if _looks_like_masks(ids):
            notes.append(
                f"no {side} has more than one id, some more than one piece: masks? Every cell needs its own id, else "
                "all cells of a frame count as one object"
            )
        elif masks := sum(map(_is_mask, ids)):
            notes.append(
                f"{masks} of {len(ids)} {side}s hold one id in pieces: masks among label images? Every cell needs its "
                "own id, else all cells of such a frame count as one object"
            )
    return Frames(label_path, prediction_path, by_key, read["SEG"], read["TRA"], tuple(notes))


def _read_page(
    reader: LabelReader | PageReader, path: Path, page: int, pages: int
) -> tuple[NDArray[Any], dict[str, Any]]:
    return reader.get_data((f"{path}#{page}" if pages > 1 else str(path),))


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _grey(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    if pixels.ndim == 3 and pixels.shape[2] == 3 and photometric.is_grey(pixels):
        return pixels[..., 0]
    if pixels.ndim != 2:
        raise ValueError(
            f"{path}: {pixels.shape[2]} channels a pixel; a prediction is one map, the probability of cell: save that "
            "channel alone"
        )
    return pixels


def _binary(ids: NDArray[np.int64], path: Path, prediction: NDArray[Any]) -> NDArray[np.bool_]:
    highest = int(ids.max())
    cells: NDArray[np.bool_] = ids != 0
    if highest in (0, 1, 255, 65535) and np.array_equal(cells, ids == max(highest, 1)):
        return cells
    values = np.unique(ids)
    listed = ", ".join(map(str, values[:5])) + (", .." if len(values) > 5 else "")
    remedy = "save it as 0 on membrane and 255 in cells, with membrane between any two cells"
    if len(np.unique(prediction[0])) <= 2 < len(values):
        remedy = "the prediction is binary: are the two files swapped? LABEL comes first"
    elif len(values) > 2 and ids.min() >= 0:
        remedy += "; label images, one id a cell, are scored as two folders (SEG, DET)"
    raise ValueError(f"{path}: holds {listed}, and a label of membranes only {{0, 255}} or {{0, 1}}; {remedy}")


def _scaled(
    grey: NDArray[Any], meta: Mapping[str, Any], path: Path, maximum: float | None, notes: list[str]
) -> tuple[NDArray[np.float32], float]:
    """Probabilities, and the grey value that is 1."""
    low, high, dtype = float(grey.min()), float(grey.max()), grey.dtype
    if not np.isfinite(grey).all():
        number = int(grey.size - np.isfinite(grey).sum())
        raise ValueError(f"{path}: {number} pixels are not finite (NaN or infinite); find out where they come from")
    stated = meta.get("full_scale", FULL_SCALE.get(dtype.name))
    if maximum is not None:
        one, why = maximum, "as said"
    elif dtype.kind == "f":
        one, why = 1.0, ""
    elif high <= 1 and low >= 0:
        one, why = 1.0, f"a mask of 0 and 1 in {dtype}"
    elif stated is None:
        raise ValueError(
            f"{path}: {dtype} from {low:g} to {high:g}, whose full range says nothing; give the grey value that is "
            "probability 1, --grey_maximum"
        )
    else:
        one, why = float(stated), f"the full range of {dtype}" if "full_scale" not in meta else "the range it states"
    if not (one > 0 and low >= 0 and high <= one):
        remedy = "apply softmax to logits, or give the grey value that is probability 1, --grey_maximum"
        raise ValueError(f"{path}: values from {low:g} to {high:g}, expected 0 to {one:g}; {remedy}")
    if why:
        notes.append(f"{path}: scaled by {one:g}, {why}")
    if maximum is None and dtype.kind in "ui" and 1 < high <= one / 4:
        notes.append(
            f"{path}: the largest value is {high:g} of {one:g}; if that is probability 1, say --grey_maximum {high:g} "
            "(255 for 8 bits stored in 16)"
        )
    return (grey / np.float32(one)).astype(np.float32) if one != 1 else grey.astype(np.float32), one


def _suspicions(
    label: NDArray[np.bool_], probability: NDArray[np.float32], label_path: Path, prediction_path: Path
) -> list[str]:
    notes = []
    membrane = 1 - float(label.mean())
    if membrane > 0.5:
        notes.append(
            f"{label_path}: {membrane:.0%} of it is membrane (0), more than half: is membrane white in this file? Then "
            "say --invert_label"
        )
    empty = [z for z, cells in enumerate(label) if not cells.any()]
    if empty:
        notes.append(
            f"{label_path}: no cell in slice {', '.join(map(str, empty[:10]))}; V_rand and V_info count it as 0, as "
            "the challenge does"
        )
    if label.any() and not label.all():
        inside, outside = float(probability[label].mean()), float(probability[~label].mean())
        if inside < outside:
            notes.append(
                f"{prediction_path}: lower in the label's cells (mean {inside:.2f}) than on its membrane "
                f"({outside:.2f}): is it the probability of membrane? Then say --invert_prediction"
            )
    if probability.min() == probability.max():
        notes.append(f"{prediction_path}: every pixel is {probability.min():g}; a prediction has two values at least")
    return notes


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_file() and extension(path))
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder}: no image in this folder; supported are {' '.join(EXTENSIONS)}")
    return found


def _cells_alone(paths: Sequence[Path]) -> Sequence[Path]:
    """Of a folder that this package wrote, with maps and overviews, the label images."""
    return [path for path in paths if path.stem.endswith(_CELLS)] or paths


def _paired(references: Sequence[Path], predictions: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(reference, prediction) of every frame, of equal names or else of equal last numbers in their names."""
    rule = "frames are paired by name, or else by the last number in it, such as man_seg007.tif and mask007.tif"
    for key_of in (_name, _frame):
        annotated, predicted = (_by_key(paths, key_of) for paths in (references, predictions))
        if not predicted.keys() & annotated.keys():
            continue
        for key, paths in (*annotated.items(), *((key, predicted[key]) for key in annotated if key in predicted)):
            if len(paths) > 1:
                raise ValueError(f"{paths[0]} and {paths[1].name}: both are frame {key}; {rule}")
        lonely = [paths[0] for key, paths in annotated.items() if key not in predicted]
        if lonely:
            more = f", and for {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise ValueError(f"{lonely[0]}: no prediction for it in {predictions[0].parent}{more}; {rule}")
        return [(paths[0], predicted[key][0]) for key, paths in annotated.items()]
    raise ValueError(
        f"{references[0].parent} and {predictions[0].parent}: no two names match, as {references[0].name} and "
        f"{predictions[0].name}; {rule}"
    )


def _name(path: Path) -> str:
    # .TIF is an ending, too
    return stem(path).removesuffix(_CELLS).lower()


def _frame(path: Path) -> str:
    """The last number in a name; a name without one is not paired by number."""
    numbers = _NUMBER.findall(path.stem)
    return str(int(numbers[-1])) if numbers else path.name


def _by_key(paths: Sequence[Path], key_of: Callable[[Path], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(key_of(path), []).append(path)
    return found


def _ids(path: Path) -> LabelImage:
    pages = len(page_shapes(path))
    if pages > 1:
        raise ValueError(f"{path}: a stack of {pages} pages; SEG and DET are scored here in single frames, one a file")
    ids, _ = LabelReader().get_data((str(path),))
    if ids.min(initial=0) < UNKNOWN:
        raise ValueError(f"{path}: holds {ids.min()}; 0 is background, {UNKNOWN} unknown, and cells are above 0")
    if ids.max(initial=0) > LARGEST_ID:
        # colours of 16 bits, ids of 64: numbered anew, as in training
        cells = np.unique(ids[ids > 0])
        ids = np.where(ids > 0, np.searchsorted(cells, ids) + 1, ids)
    return ids


def _doubts(side: str, images: Sequence[LabelImage]) -> list[str]:
    """What makes ids of a side no cells, although they can be scored."""
    notes = []
    filled = [image for image in images if image.all() and image.min() != image.max()]
    if filled:
        values, counts = np.unique(filled[0], return_counts=True)
        commonest = f"{values[counts.argmax()]}, the commonest id, is taken for a cell"
        meant = "-1 is taken for unknown" if values[0] < 0 else commonest
        notes.append(
            f"no pixel of {len(filled)} {side}s is 0, the background; {meant}: is it the background, as 1 in masks of "
            "ilastik? Then save it as 0"
        )
    if twice := sum(map(_given_twice, images)):
        notes.append(
            f"{twice} of {len(images)} {side}s have more than {_LARGEST_OF_8_BITS} cells and no id above "
            f"{_LARGEST_OF_8_BITS}, several of them shared by cells far apart: ids cut off at 8 bits? Save label "
            "images with 16 or 32 bits"
        )
    rims = 0
    for image in images:
        ids, in_pieces, _ = ids_in_pieces(image)
        odd = max(int(in_pieces.sum()), len(rims_of_cells(image)[1]))
        rims += 2 * odd > max(len(ids), 3)
    if rims:
        notes.append(
            f"most ids of {rims} {side}s lie in pieces or are thin and lie along others: rims of masks that were "
            "interpolated, or classes? Every cell needs one id"
        )
    return notes


def _swapped(pairs: Collection[tuple[Path, Path]]) -> list[str]:
    """What tells that predictions were given as LABEL, or references as PREDICTION."""
    references, predictions = ({pair[side] for pair in pairs} for side in (0, 1))
    given = [path for path in sorted(predictions) if path.stem.startswith(_REFERENCE)]
    if given and not any(path.stem.startswith(_REFERENCE) for path in references):
        return [f"{given[0]}: is a reference by its name, and was given as a prediction: swapped? LABEL comes first"]
    ours = [path for path in sorted(references) if read_mark(path)]
    if ours and not any(map(read_mark, predictions)):
        return [f"{ours[0]}: is a prediction of this program, and was given as the label: swapped? LABEL comes first"]
    return []


def _inverted(pairs: Sequence[tuple[LabelImage, LabelImage]]) -> list[str]:
    """Which side has its background as a cell, and its cells as 0, where the other one has not."""
    notes = []
    for side, images in (
        ("reference", pairs),
        ("prediction", [(prediction, reference) for reference, prediction in pairs]),
    ):
        doubtful = sum(is_inverted(one) and not is_inverted(other) and _exchanged(one, other) for one, other in images)
        if doubtful:
            notes.append(
                f"{doubtful} of {len(images)} {side}s look inverted: one id covers most of the frame, and what the "
                "other side has as cells is 0, the background; save cells as ids above 0 and what is around them as 0"
            )
    return notes


def _exchanged(image: LabelImage, other: LabelImage) -> bool:
    cells = other > 0
    return bool(cells.any() and (image[cells] == 0).mean() > 0.8 and (other[image == 0] > 0).mean() > 0.5)


def _given_twice(image: LabelImage) -> bool:
    """Whether ids of 8 bits were given to several cells: as large as others and far from one another."""
    if image.max(initial=0) != _LARGEST_OF_8_BITS:
        return False
    regions = measure.regionprops(measure.label(np.maximum(image, 0), connectivity=2))
    if len(regions) <= _LARGEST_OF_8_BITS:
        return False
    usual = float(np.median([region.area for region in regions]))
    places: dict[int, list[tuple[float, ...]]] = {}
    for region in regions:
        if 2 * region.area >= usual:
            places.setdefault(int(image[tuple(region.coords[0])]), []).append(region.centroid)
    far = 3 * math.sqrt(usual)
    apart = [place for own in places.values() for place in own[1:] if math.dist(place, own[0]) > far]
    return len(apart) >= _TWICE


def _is_mask(image: LabelImage) -> bool:
    """Whether the only id lies in pieces none of which has half of its pixels."""
    ids, in_pieces, _ = ids_in_pieces(image)
    return len(ids) == 1 and bool(in_pieces[0])


def _looks_like_masks(images: Sequence[LabelImage]) -> bool:
    if not images or any(len(np.unique(image[image > 0])) > 1 for image in images):
        return False
    return any(ndimage.label(image > 0)[1] > 1 for image in images)
