"""Cells set against one another: contacts made on purpose, for data in which few cells touch.

Not in the paper. Its border term (Eq. 2) weighs the pixels between touching cells, so a network learns to part cells
only where some touch. In the sequence PhC-C2DH-U373/01 no two annotated cells do, in the next sequence one in seven
does, and a network that was trained on the first joins them. ``RandPasteCells`` cuts annotated cells out with a halo
of their own background, and sets each against another cell so that the two touch: the separation border and the
weight map, computed afterwards, then have something to part.

Where a copy has room beside a standing cell is counted for every place at once: a correlation of the copy's pixels with
those that are taken is 0 where it fits, and one of its rim with the standing cell is the length of their contact. Among
the places that fit, the longer the contact, the likelier. Crowded images, where few directions are free, thus get
contacts, too.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import correlate

from unet_paper.arguments import is_number, is_range, is_whole
from unet_paper.classes import NUMBER_ANEW, check_num_classes, class_of, next_id, whole_ids

Scalar = TypeVar("Scalar", bound=np.generic)

# standing cells that are tried for one copy before it is given up
ATTEMPTS = 8


class Cutting(NamedTuple):
    """A cell with its surroundings, as it was cut out.

    Attributes:
        image: grey values of the window, shape (C, h, w).
        cell: its pixels, shape (h, w).
        opacity: 1 on the cell, falling to 0 at the end of the halo, 0 on other cells; shape (h, w).
        class_index: its class.
    """

    image: NDArray[np.float32]
    cell: NDArray[np.bool_]
    opacity: NDArray[np.float32]
    class_index: int


class RandPasteCells(Randomizable):
    """Copies cells of an image and sets each against another cell of it.

    A cell is copied only if its halo holds no unknown pixel and lies within the image, and set only where it covers no
    other cell and no unknown pixel, wholly inside the image. Its grey values are shifted by the difference of the
    median background of the two places, so that a halo leaves no edge where the light is uneven. What finds no place
    is left out: an image in which nothing fits, or without a cell, stays as it is.

    Args:
        count: smallest and largest number of cells to paste into an image, both possible.
        halo: px of surroundings that fade out around a copy.
        gap: largest distance in px between a copy and the cell that it is set against; 0: they touch.
        turn: copies are turned by multiples of 90 degrees and mirrored. Not for DIC, which lights cells from one side.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`.

    Raises:
        ValueError: for a count that is no range (low, high) of whole numbers >= 0, a halo that is no whole number of px
            >= 1, gap < 0, a turn that is neither true nor false, or fewer than two classes.
    """

    def __init__(
        self,
        *,
        count: tuple[int, int] = (2, 4),
        halo: int = 9,
        gap: float = 0.0,
        turn: bool = True,
        num_classes: int = 2,
    ) -> None:
        if not (is_range(count) and all(map(is_whole, count)) and count[0] >= 0):
            raise ValueError(f"count={count!r}: two whole numbers (low, high) with 0 <= low <= high are needed")
        if not (is_whole(halo) and halo >= 1):
            raise ValueError(f"halo={halo!r}: a whole number of px, at least 1, is needed")
        if not (is_number(gap) and gap >= 0):
            raise ValueError(f"gap={gap!r}: a distance >= 0 px is needed, 0 for cells that touch")
        if turn not in (0, 1):
            raise ValueError(f"turn={turn!r}: True or False is needed")
        check_num_classes(num_classes)
        self.count = (int(count[0]), int(count[1]))
        self.halo = int(halo)
        self.gap = gap
        self.turn = turn
        self.num_classes = num_classes

    def randomize(self) -> None:
        """Draws the number of cells; where they go depends on what is there and is drawn as they are set."""
        self._number = int(self.R.randint(self.count[0], self.count[1] + 1))

    def __call__(
        self, image: NDArray[np.floating], instances: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.signedinteger]]:
        """Image and instances with more cells in them; the arguments are not changed.

        Args:
            image: grey values, shape (C, H, W).
            instances: instance image, shape (H, W): 0 background, -1 unknown, every cell its own id > 0.

        Returns:
            Image, shape (C, H, W), and instances, shape (H, W), int32, or int64 where the ids need it; cells keep their
            ids, copies have ids above the largest one.

        Raises:
            ValueError: for shapes that do not belong together, an image with NaN, a mask in place of instances, or
                values that are no ids, see :func:`unet_paper.classes.whole_ids`.
        """
        image, instances = np.asarray(image), np.asarray(instances)
        if image.ndim != 3 or instances.ndim != 2 or image.shape[1:] != instances.shape:
            raise ValueError(
                f"image of shape {image.shape}, instances of {instances.shape}: (C, H, W) and (H, W) needed"
            )
        if not np.isfinite(image).all():
            raise ValueError("image: holds NaN or infinite grey values; find out where they come from")
        labels = self._with_room(whole_ids(instances))
        self.randomize()
        grey = image.astype(np.float32)
        ids = np.unique(labels[labels > 0])
        # by rank: an id may be far larger than there are pixels
        places = ndimage.find_objects(np.where(labels > 0, np.searchsorted(ids, labels) + 1, 0))
        windows = dict(zip(ids.tolist(), places, strict=True))
        if not self._number or not len(ids):
            return grey, labels
        background = float(np.median(grey[:, labels == 0])) if (labels == 0).any() else 0.0
        for _ in range(self._number):
            for source in self.R.permutation(ids):
                cutting = self._cut(grey, labels, int(source), windows[int(source)], background)
                if cutting is not None:
                    break
            else:
                break
            for standing in self.R.permutation(ids)[:ATTEMPTS]:
                corner = self._beside(cutting.cell, labels, int(standing), windows[int(standing)])
                if corner is not None:
                    _set(grey, labels, cutting, corner, self.num_classes)
                    break
        return grey, labels

    def _with_room(self, ids: NDArray[np.integer]) -> NDArray[np.signedinteger]:
        """A copy of the ids, of a type that holds those of all copies, too."""
        largest = int(ids.max(initial=0)) + (self.count[1] + 1) * (self.num_classes - 1)
        if largest > np.iinfo(np.int64).max:
            raise ValueError(f"instances hold the id {ids.max()}: no id is left above it for a copy; {NUMBER_ANEW}")
        usual = np.iinfo(np.int32)
        return ids.astype(np.int32 if usual.min <= ids.min(initial=0) and largest <= usual.max else np.int64)

    def _cut(
        self,
        grey: NDArray[np.float32],
        labels: NDArray[np.signedinteger],
        number: int,
        window: tuple[slice, slice],
        background: float,
    ) -> Cutting | None:
        """The cell with its halo; None if the halo leaves the image or holds unknown pixels."""
        rows, columns = (slice(side.start - self.halo, side.stop + self.halo) for side in window)
        if min(rows.start, columns.start) < 0 or rows.stop > labels.shape[0] or columns.stop > labels.shape[1]:
            return None
        around = labels[rows, columns]
        cell = around == number
        distance = ndimage.distance_transform_edt(~cell)
        near = distance <= self.halo
        if (around[near] < 0).any():
            return None
        opacity = np.clip(1 - distance / (self.halo + 1), 0, 1).astype(np.float32)
        opacity[(around > 0) & ~cell] = 0
        surroundings = near & (around == 0)
        image = grey[:, rows, columns].copy()
        if surroundings.any():
            # as it would look on the image's usual background; _set shifts it to that of its place
            image -= np.median(image[:, surroundings], axis=1)[:, None, None] - background
        if self.turn:
            turns, mirrored = int(self.R.randint(4)), bool(self.R.randint(2))
            image, opacity = _turned(image, turns, mirrored), _turned(opacity, turns, mirrored)
            cell = _turned(cell, turns, mirrored)
        return Cutting(image, cell, opacity, int(class_of(np.array(number), self.num_classes)))

    def _beside(
        self, cell: NDArray[np.bool_], labels: NDArray[np.signedinteger], number: int, window: tuple[slice, slice]
    ) -> tuple[int, int] | None:
        """Upper left corner of the window of a copy beside a standing cell; None where there is no room."""
        gap = self.R.uniform(0, self.gap)
        margin = int(gap) + 1
        box = ndimage.find_objects(cell.astype(np.uint8))[0]
        distance = ndimage.distance_transform_edt(~np.pad(cell[box], margin))
        taken, rim = distance <= gap, (distance > gap) & (distance <= gap + 1)
        # what lies around the standing cell, as far as a copy and its halo reach; beyond the image nothing fits
        reach = [side + self.halo for side in taken.shape]
        first = [max(0, side.start - reach[axis]) for axis, side in enumerate(window)]
        around = labels[first[0] : window[0].stop + reach[0], first[1] : window[1].stop + reach[1]]
        if any(whole < part for whole, part in zip(around.shape, cell[box].shape, strict=True)):
            return None
        blocked = around > 0
        if (around < 0).any():
            blocked |= ndimage.distance_transform_edt(around >= 0) <= self.halo
        overlap, contact = (
            np.rint(correlate(np.pad(one, margin).astype(np.float32), other.astype(np.float32), "valid", "fft"))
            for one, other in ((blocked, taken), (around == number, rim))
        )
        length = np.where(overlap == 0, contact, 0).ravel()
        if not length.any():
            return None
        place = np.unravel_index(self.R.choice(len(length), p=length / length.sum()), contact.shape)
        row, column = (int(place[axis]) + first[axis] - box[axis].start for axis in (0, 1))
        return row, column


def _set(
    grey: NDArray[np.float32],
    labels: NDArray[np.signedinteger],
    cutting: Cutting,
    corner: tuple[int, int],
    num_classes: int,
) -> None:
    """Paste in place, where the copy fits."""
    height, width = cutting.cell.shape
    top, left = corner
    # the halo may reach over the image's edge
    inside = (
        slice(max(0, -top), min(height, labels.shape[0] - top)),
        slice(max(0, -left), min(width, labels.shape[1] - left)),
    )
    place = slice(top + inside[0].start, top + inside[0].stop), slice(left + inside[1].start, left + inside[1].stop)
    cell, opacity, there = cutting.cell[inside], cutting.opacity[inside].copy(), labels[place]
    opacity[there > 0] = 0
    # the light of this place: its background against that of the whole image, on which the cutting stands
    halo = (opacity > 0) & ~cell
    image = cutting.image[:, inside[0], inside[1]]
    if halo.any():
        image = image + np.median((grey[:, place[0], place[1]] - image)[:, halo], axis=1)[:, None, None]
    grey[:, place[0], place[1]] += opacity * (image - grey[:, place[0], place[1]])
    there[cell] = next_id(labels, cutting.class_index, num_classes)


def _turned(array: NDArray[Scalar], turns: int, mirrored: bool) -> NDArray[Scalar]:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)


class RandPasteCellsd(Randomizable, MapTransform):
    """Dictionary version of :class:`RandPasteCells`; before the weight map, so that it knows the contacts made.

    Args:
        keys: key of the image, shape (C, H, W).
        label_key: key of the instance image, shape (1, H, W).
        count, halo, gap, turn, num_classes: see :class:`RandPasteCells`.
        allow_missing_keys: pass over items that lack the key.

    Raises:
        ValueError: for more than one image, since the cells of the label belong to one, and as :class:`RandPasteCells`.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        label_key: str = "label",
        count: tuple[int, int] = (2, 4),
        halo: int = 9,
        gap: float = 0.0,
        turn: bool = True,
        num_classes: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys={self.keys}: one image is needed, in which the cells of {label_key!r} lie")
        self.label_key = label_key
        self.paste = RandPasteCells(count=count, halo=halo, gap=gap, turn=turn, num_classes=num_classes)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandPasteCellsd":
        """Seeds the draws (MONAI's ``Randomizable``)."""
        super().set_random_state(seed, state)
        self.paste.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Item with cells pasted into image and label, computed on the host.

        The label keeps its type, unless that does not hold the ids of the copies: then it is of int32 or int64.

        Raises:
            ValueError: as a call of :class:`RandPasteCells`, or for a label of several channels.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            image = convert_data_type(item[key], np.ndarray)[0]
            instances = convert_data_type(item[self.label_key], np.ndarray)[0]
            if instances.ndim != 3 or len(instances) != 1:
                raise ValueError(f"{self.label_key}: shape {instances.shape}, one channel first is needed, (1, H, W)")
            grey, labels = self.paste(image, instances[0])
            item[key] = convert_to_dst_type(grey, item[key])[0]
            held = np.array_equal(labels.astype(instances.dtype), labels)
            kind = None if held else labels.dtype
            item[self.label_key] = convert_to_dst_type(labels[None], item[self.label_key], dtype=kind)[0]
        return item
