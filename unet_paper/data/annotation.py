"""From an annotation as it is on disk to an instance image: cells, background, and what is not known."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure
from skimage.segmentation import clear_border

from unet_paper.classes import check_num_classes, instance_ids
from unet_paper.data.notices import Notices
from unet_paper.data.reader import source_of
from unet_paper.nearest_cells import two_nearest_distances

Annotation = Literal["binary", "instances", "either", "classes", "points"]
Connectivity = Literal[4, 8]

UNKNOWN = -1
OPEN = -2  # unknown too, but of an image in which every cell has its point: no cell without one is there
LARGEST_ID = int(np.iinfo(np.int32).max)
# of a mask, below which its ids tell nothing about how they were drawn
_PIXELS_TO_JUDGE = 256
# that pixels may be of, as far as values of masks are taken for them: other values are grey values or colours
_MOST_CLASSES = 16
# what lies within a background that is drawn, px and pieces at least; and area of each by that of its convex hull
_SMALLEST_HOLE, _HOLES, _CONVEX = 20, 5, 0.9
# largest numbers of 8, 16 and 32 bits, with and without a sign
_FULL = (2**8 - 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)

logger = logging.getLogger(__name__)


class InstancesFromAnnotationd(MapTransform):
    """Instance image of an annotation: 0 background, > 0 one id per cell, -1 unknown; int32, shape (1, H, W).

    - ``"binary"``: two values, 0 and another one; every connected component of what is not 0 is a cell.
    - ``"instances"``: the values are the ids. An id may have several components and is one cell.
    - ``"either"``: one value besides 0 is a binary mask, several are ids; for what people draw with programs of both
      kinds.
    - ``"classes"``: the values are classes, 0 the background; every connected component of a class is a cell, with an
      id that says its class (:mod:`unet_paper.classes`). Of two classes this is ``"binary"``.
    - ``"points"``: masks made of points (:mod:`unet_paper.data.points`): ids of their discs, 0 background, -2 open,
      which is unknown, and stays -2. A mask without an open pixel is ``"either"``.

    What would be learnt wrongly is refused: ids most of which lie in pieces or are thin and lie along others (values
    between two others at the rims of an interpolated mask; classes), several values and no background. A mask that is
    one cell all over, one without a cell, an id that is a rim of the others, and one far above them (255), are said.

    Unknown are the pixels of ``ignore_value``, and the cells that an expert marked but did not draw: in the Cell
    Tracking Challenge gold masks (SEG) draw some of the cells, markers (TRA) point at every one. A marker that no drawn
    cell overlaps tells of a cell of unknown outline, so more than the marker is unknown: all that lies within
    ``unknown_radius`` of it and is not drawn. In the challenge's sequences DIC-C2DH-HeLa/01 and PhC-C2DH-U373/01 the
    markers are small disks (HeLa: 517 px in cells of 10,000 px), of which drawn cells reach up to 126 and 98 px away
    (median 75 and 49). A radius of 100 px holds 99.7 % and 100 % of the pixels of a drawn cell on average, and at least
    90 %; 60 px hold 92.6 % and 98 %, the marker alone 5 %. In HeLa frame 067, with 3 of 18 cells drawn, 132,057 px of
    undrawn cells (silver masks) would be learnt as background with the markers alone, 264 with 100 px, and 15,479 px of
    background remain to learn from. Cells of another size need another radius.

    One thing is known there: what lies between two drawn cells at most ``known_gap`` px apart (d1 + d2 of Eq. 2) stays
    background. The border term gives those cells' rims their greatest weights, and with the gap between them unknown
    the network would learn to close it. Were all but two cells of a HeLa frame undrawn, 93 % of such pixels would
    rightly be called background for gaps up to 10 px.

    Markers stop at the field of interest: a cell that lies wholly in the frame around it has neither marker nor mask,
    though it may be visible (HeLa frame 034, top left). With ``field_of_interest`` > 0 all that is not drawn there is
    unknown; by default it is background, for most of it is.

    Args:
        keys: key of the annotation, shape (1, H, W).
        annotation: ``"binary"``, ``"instances"``, ``"either"``, ``"classes"`` or ``"points"``.
        num_classes: background included; more than two need ``"classes"``.
        connectivity: 4 or 8 neighbours make a component of a binary annotation, or of a class.
        markers_key: key of the marker image, shape (1, H, W), 0 or an id per cell; an item without it is taken as fully
            annotated.
        unknown_radius: distance in px from the marker of an undrawn cell within which pixels are unknown.
        known_gap: width in px up to which gaps between drawn cells stay background there; 0 for none.
        field_of_interest: width in px of the frame around the field of interest in which cells are not annotated.
        ignore_value: value of the annotation that says unknown.
        background_value: value of the annotation that says background: 0, in masks of ilastik 1. A value that no pixel
            has, such as -1, says that there is no background. Classes count from it: the next value is class 1.
        allow_missing_keys: pass over items that lack the key.

    Raises:
        ValueError: for a parameter out of range.

    Examples:
        >>> transform = InstancesFromAnnotationd(annotation="instances", unknown_radius=1)
        >>> transform({"label": np.array([[[7, 7, 0, 0, 0]]]), "markers": np.array([[[1, 0, 0, 0, 2]]])})["label"]
        array([[[ 7,  7,  0, -1, -1]]], dtype=int32)
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        annotation: Annotation = "binary",
        num_classes: int = 2,
        connectivity: Connectivity = 4,
        markers_key: str = "markers",
        unknown_radius: float = 100.0,
        known_gap: float = 10.0,
        field_of_interest: int = 0,
        ignore_value: int | None = None,
        background_value: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if annotation not in get_args(Annotation):
            raise ValueError(f"annotation={annotation!r}: choose one of {', '.join(get_args(Annotation))}")
        check_num_classes(num_classes)
        if num_classes > 2 and annotation != "classes":
            remedy = (
                "in MONAI Label no more can be drawn; train with train.yaml, --annotation classes and masks of the "
                "classes' values"
                if annotation == "either"
                else "say --annotation classes for masks whose values are the classes"
            )
            raise ValueError(
                f"out_channels={num_classes}: masks of annotation={annotation!r} tell cells from background, two "
                f"classes; {remedy}"
            )
        if annotation == "classes" and background_value < 0:
            raise ValueError(
                f"background_value={background_value}: with annotation='classes' the background is a class; say which "
                "value of the masks it has"
            )
        if connectivity not in (4, 8):
            raise ValueError(f"connectivity={connectivity}: 4 or 8 neighbours make a component")
        if not unknown_radius >= 0:
            raise ValueError(f"unknown_radius={unknown_radius}: a distance >= 0 px is needed, 0 for the marker alone")
        if not known_gap >= 0:
            raise ValueError(f"known_gap={known_gap}: a width >= 0 px is needed, 0 for none")
        if ignore_value is not None and ignore_value == background_value >= 0:
            raise ValueError(
                f"ignore_value={ignore_value}: is background_value, too, so that there is no background to learn; "
                "say which value of the masks is background, such as --background_value 1, or leave out --ignore_value"
            )
        if field_of_interest < 0:
            raise ValueError(f"field_of_interest={field_of_interest}: a width >= 0 px is needed, 0 for no frame")
        self.annotation = annotation
        self.num_classes = num_classes
        self.connectivity = connectivity
        self.markers_key = markers_key
        self.unknown_radius = unknown_radius
        self.known_gap = known_gap
        self.field_of_interest = field_of_interest
        self.ignore_value = ignore_value
        self.background_value = background_value
        self._notices = Notices(logger)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Item with the instance image in the annotation's place, computed on the host, of its container and device.

        Markers become int32 too.

        Raises:
            ValueError: names the file, for another shape, markers of another size, values that are not whole numbers,
                negative ids, a binary annotation of more than two values, ids without background, ids in pieces, or
                classes that there are not.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            source = source_of(item[key], repr(key))
            annotation = _image(item[key], source)
            instances = self._instances(annotation, source)
            if self.markers_key in item:
                where = source_of(item[self.markers_key], repr(self.markers_key))
                markers = _image(item[self.markers_key], where)
                if markers.shape != instances.shape:
                    raise ValueError(
                        f"{where} of {markers.shape} px, {source} of {instances.shape} px: both must be of the same "
                        "image"
                    )
                instances[(instances == 0) & self._near_undrawn_cells(instances, markers)] = UNKNOWN
                item[self.markers_key] = convert_to_dst_type(
                    _within_range(markers)[None], item[self.markers_key], dtype=torch.int32
                )[0]
            if self.field_of_interest:
                instances[(instances == 0) & self._frame(instances.shape)] = UNKNOWN
            item[key] = convert_to_dst_type(instances[None], item[key], dtype=torch.int32)[0]
        return item

    def _instances(self, annotation: NDArray[np.int64], source: str) -> NDArray[np.int32]:
        ignored = (
            np.zeros(annotation.shape, dtype=bool) if self.ignore_value is None else annotation == self.ignore_value
        )
        if self.annotation == "classes":
            instances = self._of_classes(annotation, ignored, source)
            instances[ignored] = UNKNOWN
            return instances
        if self.annotation == "points" and (left_open := annotation == OPEN).any():
            return self._of_points(annotation, ignored, left_open, source)
        drawn = self._drawn(annotation, ignored, source)
        values = np.unique(drawn[~ignored])
        if len(values) and values[0] < 0:
            raise ValueError(
                f"{source} holds the values {_some(values)}: cells are above 0; say --ignore_value {values[0]} if "
                "that means unknown"
            )
        either = self.annotation in ("either", "points")
        if self.annotation == "binary" or (either and np.count_nonzero(values) == 1):
            if np.count_nonzero(values) > 1:
                raise ValueError(
                    f"{source} holds the values {_some(values)}: annotation='binary' takes 0 and one other; say "
                    "--annotation instances for ids (either, if other masks are black and white), --ignore_value ... "
                    "for unknown pixels, --background_value ... if that is not 0, or threshold the mask"
                )
            instances, _ = ndimage.label(drawn, self._structure, output=np.int32)
        else:
            instances = _within_range(drawn)
            instances[ignored] = 0
            self._check_pieces(instances, source)
            if not self._check_rims(instances, source):
                self._check_id_apart(values[values > 0], instances.size, source)
        instances[ignored] = UNKNOWN
        return instances

    def _of_points(
        self, annotation: NDArray[np.int64], ignored: NDArray[np.bool_], left_open: NDArray[np.bool_], source: str
    ) -> NDArray[np.int32]:
        known = ~(ignored | left_open)
        drawn = np.where(known & (annotation != self.background_value), annotation, 0)
        if (drawn < 0).any():
            raise ValueError(
                f"{source} holds the value {drawn.min()}: of a mask made of points, cells are above 0 and {OPEN} is "
                f"left open; say --ignore_value {drawn.min()} if that means unknown"
            )
        instances = _within_range(drawn)
        instances[ignored] = UNKNOWN
        instances[left_open & ~ignored] = OPEN
        return instances

    def _of_classes(self, annotation: NDArray[np.int64], ignored: NDArray[np.bool_], source: str) -> NDArray[np.int32]:
        classes = np.where(ignored, 0, annotation - self.background_value)
        known = np.unique(annotation[~ignored])
        wrong = known[(known < self.background_value) | (known >= self.background_value + self.num_classes)]
        if len(wrong):
            raise ValueError(self._no_class(int(wrong[-1] if wrong[-1] > self.background_value else wrong[0]), source))
        if not classes.any():
            self._notices.warn("masks without a cell", source, f"{source}: no cell is drawn in this mask")
        elif self.background_value not in known:
            self._notices.warn(
                "no background",
                source,
                f"{source} holds the values {_some(known)}, and no pixel is background ({self.background_value}): say "
                f"--background_value {known[0]} if that is the background",
            )
        instances = np.zeros(classes.shape, np.int32)
        for k in range(1, self.num_classes):
            numbers, _ = ndimage.label(classes == k, self._structure, output=np.int32)
            instances += instance_ids(numbers, k, self.num_classes)
        return instances

    def _no_class(self, value: int, source: str) -> str:
        first, last = self.background_value, self.background_value + self.num_classes - 1
        if value < first:
            return (
                f"{source} holds the value {value}, below that of the background ({first}): say --ignore_value {value} "
                "if it means unknown"
            )
        classes = f"{source} holds the value {value}, and with out_channels={self.num_classes} classes are {first} to"
        if_class = f"say --out_channels {value - first + 1} if that is a class, "
        if value - first >= _MOST_CLASSES:
            if_class = "if that is a class, save classes with the values 0, 1, 2 and so on; say "
        remedies = f"{if_class}--ignore_value {value} if it is unknown"
        if self.num_classes == 2:
            remedies += ", --annotation binary if cells are whatever is not background"
        return f"{classes} {last}: {remedies}"

    def _drawn(self, annotation: NDArray[np.int64], ignored: NDArray[np.bool_], source: str) -> NDArray[np.int64]:
        """The annotation with 0 where it says background or unknown."""
        background = annotation == self.background_value
        known = annotation[~ignored]
        if known.size and annotation.size >= _PIXELS_TO_JUDGE and not background.any() and self.background_value >= 0:
            values, counts = np.unique(known, return_counts=True)
            if len(values) > 1:
                commonest = values[counts.argmax()]
                raise ValueError(
                    f"{source} holds the values {_some(values)}, and no pixel is background "
                    f"({self.background_value}): say --background_value {commonest} if that is the background, as 1 "
                    "in masks of ilastik, or --background_value -1 if there is none"
                )
            self._notices.warn(
                "one cell all over",
                source,
                f"{source}: every pixel is {values[0]}, taken as one cell: say --background_value {values[0]} if that "
                "is the background",
            )
        drawn = np.where(ignored | background, 0, annotation)
        if self.background_value > 0 and bool((annotation == 0).any()):
            # 0 is an id like any other then, and may not vanish
            drawn[(annotation == 0) & ~ignored] = known.max() + 1
        if not drawn.any():
            self._notices.warn("masks without a cell", source, f"{source}: no cell is drawn in this mask")
        return drawn

    @property
    def _structure(self) -> NDArray[np.bool_]:
        return np.asarray(ndimage.generate_binary_structure(2, 1 if self.connectivity == 4 else 2))

    def _check_pieces(self, instances: NDArray[np.int32], source: str) -> None:
        """An id is a cell, mostly in one piece: what lies in many is a rim, a class, or a mask of black and white."""
        ids, in_pieces, total = ids_in_pieces(instances)
        count, broken = len(ids), int(in_pieces.sum())
        if total == count:
            return
        if count > 1 and broken > 1 and 2 * broken > count and instances.size >= _PIXELS_TO_JUDGE:
            remedy = as_classes(ids)
            thin = np.setdiff1d(ids, rims_of_cells(instances)[0])
            if len(thin) == 1 and count == 2:
                # black, grey and white: of grey rims no kind of cells is made
                remedy = f"say --ignore_value {thin[0]} if that is the rim of the others"
            raise ValueError(
                f"{source}: {broken} of its {count} ids lie in pieces, {total} in all, with less than half of their "
                "pixels in one: those are no cells but rims of a mask that was interpolated or saved with losses, or "
                f"classes; {remedy}; else threshold the mask "
                "or save it anew, with one id a cell, or with two values and --annotation binary"
            )
        if count == 1:
            # a drawn cell may be in pieces, so this is no error; with several ids it is no binary image
            self._notices.warn(
                "one id in pieces",
                source,
                f"{source} holds one id, {ids[-1]}, in {total} pieces, taken as one cell: say --annotation binary if "
                "they are cells, either if other masks hold ids",
            )

    def _check_rims(self, instances: NDArray[np.int32], source: str) -> bool:
        """What is nowhere thick and lies along thick cells is the grey of a softened rim, or a border of its own.

        Returns:
            Whether a border was found.
        """
        thick, rims = rims_of_cells(instances)
        if not len(rims) or instances.size < _PIXELS_TO_JUDGE:
            return False
        if len(rims) > max(len(thick), 2):
            raise ValueError(
                f"{source}: {len(rims)} of its {len(thick) + len(rims)} ids are nowhere 3 px wide and lie along the "
                f"others ({_some(rims)}): those are no cells but rims of a mask that was interpolated or saved with "
                "losses; threshold the mask or save it anew, with one id a cell, or with two values and --annotation "
                "binary"
            )
        long = [int(rim) for rim in rims if _is_rim_of_most(instances, int(rim), thick)]
        if long:
            self._notices.warn(
                "a rim as a cell",
                source,
                f"{source}: {long[0]} is nowhere 3 px wide and lies along the other ids, taken as one cell: say "
                f"--ignore_value {long[0]} if it is their rim",
            )
        return bool(long)

    def _check_id_apart(self, ids: NDArray[np.int64], pixels: int, source: str) -> None:
        """The largest number of 8 or 16 bits is what many programs write for what nobody has looked at."""
        apart = id_apart(ids)
        if apart and pixels >= _PIXELS_TO_JUDGE:
            self._notices.warn(
                "an id far above the others",
                source,
                f"{source}: {apart} is far above its other ids, {ids[0]} to {ids[-2]}, taken as one cell: say "
                f"--ignore_value {apart} if it means unknown",
            )

    def _near_undrawn_cells(self, instances: NDArray[np.int32], markers: NDArray[np.int64]) -> NDArray[np.bool_]:
        drawn = np.unique(markers[instances > 0])
        undrawn = (markers > 0) & ~np.isin(markers, drawn)
        if not undrawn.any():
            return undrawn
        near = ndimage.distance_transform_edt(~undrawn) <= self.unknown_radius
        d1, d2 = two_nearest_distances(instances, self.known_gap)
        return np.asarray(undrawn | (near & (d1 + d2 > self.known_gap)))

    def _frame(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        width = self.field_of_interest
        if 2 * width >= min(shape):
            raise ValueError(f"field_of_interest={width}: leaves nothing of an image of {shape} px")
        frame = np.ones(shape, dtype=bool)
        frame[width:-width, width:-width] = False
        return frame


def rims_of_cells(
    instances: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Ids that are somewhere 3 px wide, and those that are not and mostly touch such ones.

    Args:
        instances: shape (H, W); 0 and less is no cell.

    >>> ring = np.pad(np.full((3, 3), 9), 1, constant_values=4)
    >>> rims_of_cells(np.pad(ring, 2))
    (array([9]), array([4]))
    """
    labels = np.maximum(instances, 0)
    ids = np.unique(labels[labels > 0])
    low, high = ndimage.minimum_filter(labels, 3), ndimage.maximum_filter(labels, 3)
    thick = np.unique(labels[(low == high) & (labels > 0)])
    # of a cell that lies within the image in part there is no saying how wide it is
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    thin = np.setdiff1d(ids, np.union1d(thick, edges))
    if not len(thin) or not len(thick):
        return thick, thin[:0]
    wide = np.isin(labels, thick)
    beside = ndimage.binary_dilation(wide, np.ones((3, 3), bool)) & ~wide
    members = np.isin(labels, thin)
    touching = np.bincount(np.searchsorted(thin, labels[members & beside]), minlength=len(thin))
    whole = np.bincount(np.searchsorted(thin, labels[members]), minlength=len(thin))
    return thick, thin[2 * touching > whole]


def _is_rim_of_most(instances: NDArray[np.integer], rim: int, thick: NDArray[np.integer]) -> bool:
    """Whether an id, larger than a speck, lies along at least half of the cells."""
    members = instances == rim
    beside = np.unique(instances[ndimage.binary_dilation(members, np.ones((3, 3), bool)) & ~members])
    return bool(members.sum() >= 16 and 2 * len(np.intersect1d(beside, thick)) >= len(thick))


def id_apart(ids: NDArray[np.integer]) -> int:
    """The largest id, where it is the largest number of its bits and all others are at most half of it; else 0.

    Args:
        ids: of one mask, rising, without 0.

    >>> id_apart(np.array([1, 2, 3, 255])), id_apart(np.array([1, 2, 3])), id_apart(np.arange(1, 256))
    (255, 0, 0)
    """
    if len(ids) < 2 or int(ids[-1]) not in _FULL or 2 * int(ids[-2]) > int(ids[-1]):
        return 0
    return int(ids[-1])


def as_classes(values: NDArray[np.integer]) -> str:
    """What to do if values of a mask are classes.

    >>> as_classes(np.array([1, 2]))
    'say --annotation classes --out_channels 3 if they are classes'
    >>> as_classes(np.array([0xFF, 0xFF0000]))
    'if they are classes, save them with the values 0, 1, 2 and so on: these are colours, #0000FF, #FF0000'
    """
    if values.max() < _MOST_CLASSES:
        return f"say --annotation classes --out_channels {values.max() + 1} if they are classes"
    colours = values.max() > np.iinfo(np.uint16).max
    shown = ", ".join(f"#{value:06X}" if colours else str(value) for value in values[:8])
    return (
        "if they are classes, save them with the values 0, 1, 2 and so on: these are "
        f"{'colours, ' if colours else ''}{shown}{', ...' * (len(values) > 8)}"
    )


def is_inverted(cells: NDArray[np.integer]) -> bool:
    """Whether one cell covers most of the image, and reaches its corners or lies around what has the shape of cells.

    It is the background then, it seems. Gaps between cells that touch have corners that point inwards, cells have none.

    Args:
        cells: shape (H, W), one id a cell; 0 background, -1 unknown.

    >>> is_inverted(np.pad(np.zeros((2, 2), int), 1, constant_values=1))
    True
    """
    if min(cells.shape) < 3:
        return False  # a strip has no inside
    ids, areas = np.unique(cells[cells > 0], return_counts=True)
    if not len(ids) or not 0.4 < areas.max() / cells.size < 0.995:
        return False
    owner = cells == ids[areas.argmax()]
    corners = int(owner[[0, 0, -1, -1], [0, -1, 0, -1]].sum())
    sides = sum(bool(side.any()) for side in (owner[0], owner[-1], owner[:, 0], owner[:, -1]))
    return corners >= 3 or (sides >= 3 and _has_cells_for_holes(cells == 0))


def _has_cells_for_holes(ground: NDArray[np.bool_]) -> bool:
    """Whether most of what is no cell lies in pieces of convex shape."""
    pieces = measure.regionprops(clear_border(measure.label(ground, connectivity=1)))
    pieces = [piece for piece in pieces if piece.area >= _SMALLEST_HOLE]
    return len(pieces) >= _HOLES and float(np.median([piece.solidity for piece in pieces])) >= _CONVEX


def ids_in_pieces(instances: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.bool_], int]:
    """Ids of an instance image, whether each lies in pieces none of which has half of its pixels, and all pieces.

    Args:
        instances: shape (H, W); what touches by a corner is one piece.

    >>> ids_in_pieces(np.array([[4, 0, 4, 0, 4, 0, 7, 7, 0, 7]]))
    (array([4, 7]), array([ True, False]), 5)
    """
    ids, numbered = np.unique(np.maximum(instances, 0), return_inverse=True)
    numbered = numbered.reshape(instances.shape) + (ids[0] > 0 if len(ids) else 0)
    ids = ids[ids > 0]
    # pieces of all ids at once: two pixels are of one piece if they touch and are equal
    pieces, total = measure.label(numbered, background=0, connectivity=2, return_num=True)
    owner = np.zeros(total + 1, np.int64)
    owner[pieces] = numbered
    areas = np.bincount(pieces.ravel(), minlength=total + 1)
    largest = np.zeros(len(ids) + 1, np.int64)
    np.maximum.at(largest, owner[1:], areas[1:])
    whole = np.bincount(numbered.ravel(), minlength=len(ids) + 1)
    return ids, 2 * largest[1:] < whole[1:], int(total)


def _image(annotation: NdarrayOrTensor, source: str) -> NDArray[np.int64]:
    image = convert_data_type(annotation, np.ndarray)[0]
    if image.ndim != 3 or image.shape[0] != 1:
        raise ValueError(f"{source} of shape {tuple(image.shape)}: one channel first is needed, (1, H, W)")
    if np.issubdtype(image.dtype, np.floating):
        whole = np.isfinite(image) & (image == np.round(image))
        if not whole.all():
            raise ValueError(
                f"{source} holds {image[~whole][0]}: annotations are whole numbers; do not scale or interpolate them"
            )
        exact = 2.0 ** (np.finfo(image.dtype).nmant + 1)
        if image.size and np.abs(image).max() >= exact:
            raise ValueError(
                f"{source} holds {image.max():.0f} as {image.dtype}, in which neighbouring ids above {exact:.0f} are "
                "one: load masks with unet_paper.data.reader.LabelReader and dtype=torch.int64"
            )
    return np.asarray(image[0], dtype=np.int64)


def _within_range(ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """Ids as they are, or numbered anew where they are too large."""
    if ids.max(initial=0) > LARGEST_ID:
        ids = np.searchsorted(np.unique(np.append(ids, 0)), ids)
    return ids.astype(np.int32)


def _some(values: NDArray[np.integer]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown}, ... ({len(values)} values)"
