"""From a probability map to cells: threshold, connected components, and what each data set needs after that."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import disk
from skimage.segmentation import watershed

from unet_paper.classes import label_each_class

Connectivity = Literal[4, 8]


class Settings(TypedDict):
    """Keyword arguments of :func:`label_instances`."""

    threshold: float
    split_thresholds: Sequence[float]
    connectivity: Connectivity
    regrow: int
    min_size: int
    fill_holes: bool
    field_of_interest: int
    min_width: int


# isbi2012: cells are bounded by annotated membrane, so no border was cut and none is given back.
# dic_hela, phc_u373: the field of interest of the Cell Tracking Challenge is 50 px inside the image for both.
# phc_u373_released: what the authors' released code does: 8-connected components, 500 px or less dropped, no holes
# filled. It merges cells that meet at a corner of the two-sided border (gold HeLa masks: SEG 0.938 instead of 0.999),
# so phc_u373 is 4-connected and gives the border back; on U373 gold masks both reach SEG 1.
# dic_hela_split: a network that is unsure of thin borders joins cells there that it knows to be several, and misses
# half of flat cells at 0.5; chosen on the training frames of three folds.
# min_width: up-convolutions of 2 x 2 make the four pixels of each 2 x 2 window in four ways. Where the network is
# unsure, on haze, these differ by more than the image does, and the map is a chequerboard, stripes, or a mesh, of
# period 2. No 2 x 2 window of such a map is all above a threshold; of a cell some are.
_PLAIN = Settings(
    threshold=0.5,
    split_thresholds=(),
    connectivity=4,
    regrow=1,
    min_size=0,
    fill_holes=False,
    field_of_interest=0,
    min_width=2,
)
PRESETS: Mapping[str, Settings] = {
    "isbi2012": {**_PLAIN, "regrow": 0},
    "dic_hela": {**_PLAIN, "field_of_interest": 50},
    "dic_hela_split": {
        **_PLAIN,
        "threshold": 0.3,
        "split_thresholds": (0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
        "min_size": 1500,
        "fill_holes": True,
        "field_of_interest": 50,
    },
    "phc_u373": {**_PLAIN, "min_size": 501, "field_of_interest": 50},
    "phc_u373_released": {**_PLAIN, "connectivity": 8, "regrow": 0, "min_size": 501, "field_of_interest": 50},
    "folder": _PLAIN,
    # where cells touch: on a phantom of dense nuclei, 500 steps, F1 0.754 instead of 0.616 at the same threshold
    "folder_split": {**_PLAIN, "split_thresholds": (0.6, 0.7, 0.8, 0.9, 0.95, 0.98), "fill_holes": True},
    # the narrow network of the phantom run is unsure of thin borders: on its own training frames 0.7 separates best
    "phantom": {**_PLAIN, "threshold": 0.7, "min_size": 50},
}

DEFAULTS: Settings = {**_PLAIN, "min_width": 1}


def label_instances(
    probability: ArrayLike,
    *,
    threshold: float = 0.5,
    split_thresholds: Sequence[float] = (),
    connectivity: Connectivity = 4,
    regrow: int = 1,
    min_size: int = 0,
    fill_holes: bool = False,
    field_of_interest: int = 0,
    min_width: int = 1,
) -> NDArray[np.int32]:
    """Cells of a probability map, in this order:

    1. foreground where the probability is above the threshold;
    2. its connected components, without those that hold no square of ``min_width`` px; with ``split_thresholds``, a
       component that falls into several of at least ``min_size`` px at a higher threshold is that many cells, parted by
       a watershed of the probability from these;
    3. holes of a component filled: background that does not reach the image's border and touches this component only;
    4. components of fewer than ``min_size`` px dropped;
    5. the separation border given back: of a gap between two components at most 2 ``regrow`` px wide, every pixel
       within ``regrow`` px of a component goes to the nearest. Components never merge, and pixels that do not lie
       between two of them stay background: only there did the separation border take pixels away;
    6. components that lie wholly outside the field of interest dropped, the image without a frame of
       ``field_of_interest`` px, as the Cell Tracking Challenge does;
    7. the rest numbered in the order of their first pixels, row by row.

    What becomes of a component depends on its surroundings only, never on where in the image it lies or what else is
    there: :mod:`unet_paper.large` finds the same cells block by block.

    Args:
        probability: probability of class 1, the cell, shape (H, W).
        threshold: foreground is strictly above it.
        split_thresholds: rising thresholds above ``threshold`` at which cells may part; none leaves components whole.
        connectivity: 4 or 8 neighbours of a pixel make a component.
        regrow: px by which components grow into the gaps between them, 0 for none.
        min_size: px that a component needs, 0 keeps all.
        fill_holes: whether to fill holes.
        field_of_interest: width of the frame in px, 0 for none.
        min_width: px of the side of the square that must fit into a component, 1 keeps all; all presets have 2, which
            leaves out the chequerboards of an unsure network.

    Returns:
        Label image, shape (H, W): 0 background, cells 1 .. n in raster order of their first pixels.

    Raises:
        ValueError: for NaN probabilities, another shape, or a parameter out of range.

    Examples:
        >>> label_instances(np.array([[0.9, 0.8, 0.2, 0.7]])).tolist()
        [[1, 1, 1, 2]]
        >>> label_instances(np.array([[0.9, 0.8, 0.2, 0.7]]), regrow=0, min_size=2).tolist()
        [[1, 1, 0, 0]]
    """
    settings = Settings(
        threshold=threshold,
        split_thresholds=split_thresholds,
        connectivity=connectivity,
        regrow=regrow,
        min_size=min_size,
        fill_holes=fill_holes,
        field_of_interest=field_of_interest,
        min_width=min_width,
    )
    check_settings(settings)
    probability = np.asarray(probability)
    if probability.ndim != 2:
        raise ValueError(f"probability of shape {probability.shape}: one map, shape (H, W), is needed")
    if np.isnan(probability).any():
        raise ValueError("probability holds NaN: the network that made it has diverged, or its input held NaN")
    labels: NDArray[np.int32]
    foreground = probability > threshold
    labels, count = ndimage.label(foreground, structure(connectivity), output=np.int32)
    if min_width > 1:
        labels, count = keep(labels, holding_a_square(labels, count, foreground, min_width))
    if len(split_thresholds):
        labels, count = split(labels, probability, settings)
    if fill_holes:
        labels = _filled(labels, connectivity)
    if min_size:
        labels = _keep(labels, np.bincount(labels.ravel(), minlength=count + 1) >= min_size)
    if regrow:
        labels = regrown(labels, regrow)
    if field_of_interest:
        frame = field_of_interest
        if 2 * frame >= min(labels.shape):
            raise ValueError(f"field_of_interest={frame}: leaves nothing of an image of {labels.shape} px")
        inside = labels[frame:-frame, frame:-frame]
        labels = _keep(labels, np.bincount(inside.ravel(), minlength=count + 1) > 0)
    return _in_raster_order(labels)


class LabelInstancesd(MapTransform):
    """Cells of the probabilities under ``keys``, put under ``output_key``, by :func:`label_instances`.

    The network's two probabilities (2, H, W) become a label image int32 (1, H, W) of the same container, device and
    meta information. Those of more classes become ids that say their class, see :mod:`unet_paper.classes`. Computed on
    the host.

    Args:
        keys: key of the probabilities of background and cell, or of background and several kinds of cells.
        output_key: key of the label image; as many as ``keys``.
        preset: name in :data:`PRESETS`, or all settings themselves, for what is not given; None takes the defaults of
            :func:`label_instances`.
        threshold: see :func:`label_instances`, as the following.
        split_thresholds: see there.
        connectivity: see there.
        regrow: see there.
        min_size: see there.
        fill_holes: see there.
        field_of_interest: see there.
        min_width: see there.
        allow_missing_keys: pass over items that lack the key.

    Raises:
        ValueError: for an unknown preset, a parameter out of range, or numbers of keys that differ.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        output_key: KeysCollection = "cells",
        *,
        preset: str | Settings | None = None,
        threshold: float | None = None,
        split_thresholds: Sequence[float] | None = None,
        connectivity: Connectivity | None = None,
        regrow: int | None = None,
        min_size: int | None = None,
        fill_holes: bool | None = None,
        field_of_interest: int | None = None,
        min_width: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys = ensure_tuple(output_key)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"output_key={self.output_keys}: one for each of keys={self.keys} is needed")
        if isinstance(preset, str) and preset not in PRESETS:
            raise ValueError(f"preset={preset!r}: choose one of {sorted(PRESETS)} or None")
        base = DEFAULTS if preset is None else PRESETS[preset] if isinstance(preset, str) else preset
        self.settings = Settings(
            threshold=base["threshold"] if threshold is None else threshold,
            split_thresholds=base["split_thresholds"] if split_thresholds is None else split_thresholds,
            connectivity=base["connectivity"] if connectivity is None else connectivity,
            regrow=base["regrow"] if regrow is None else regrow,
            min_size=base["min_size"] if min_size is None else min_size,
            fill_holes=base["fill_holes"] if fill_holes is None else fill_holes,
            field_of_interest=base["field_of_interest"] if field_of_interest is None else field_of_interest,
            min_width=base["min_width"] if min_width is None else min_width,
        )
        check_settings(self.settings)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Item with the label image, see the class.

        Raises:
            ValueError: for another shape than (K, H, W) with two classes or more, or NaN.
        """
        item = dict(data)
        for key, output_key in self.key_iterator(item, self.output_keys):
            prediction = item[key]
            if prediction.ndim != 3 or prediction.shape[0] < 2:
                raise ValueError(
                    f"{key!r} of shape {tuple(prediction.shape)}: probabilities of background and cell, shape "
                    "(2, H, W), or of background and several kinds of cells, are needed"
                )
            of_cells = convert_data_type(prediction[1:], np.ndarray)[0]
            cells = label_each_class(of_cells, partial(label_instances, **self.settings))
            item[output_key] = convert_to_dst_type(cells[None], prediction, dtype=torch.int32)[0]
        return item


def check_settings(settings: Settings) -> None:
    """Refuse settings of :func:`label_instances` that are out of range.

    Raises:
        ValueError: naming the setting, its value and what would be right.
    """
    if not np.isfinite(settings["threshold"]):
        raise ValueError(f"threshold={settings['threshold']}: a finite number is needed")
    rising = (settings["threshold"], *settings["split_thresholds"])
    if any(not lower < higher for lower, higher in itertools.pairwise(rising)):
        raise ValueError(f"split_thresholds={list(rising[1:])}: must rise, all above threshold={settings['threshold']}")
    if settings["connectivity"] not in (4, 8):
        raise ValueError(f"connectivity={settings['connectivity']}: 4 or 8 neighbours make a component")
    for name, pixels in (
        ("regrow", settings["regrow"]),
        ("min_size", settings["min_size"]),
        ("field_of_interest", settings["field_of_interest"]),
    ):
        if pixels < 0:
            raise ValueError(f"{name}={pixels}: a number of pixels >= 0 is needed, 0 switches it off")
    if settings["min_width"] < 1:
        raise ValueError(f"min_width={settings['min_width']}: a number of pixels >= 1 is needed, 1 switches it off")


def structure(connectivity: Connectivity) -> NDArray[np.bool_]:
    """Neighbourhood of 4 or 8 pixels, shape (3, 3)."""
    return np.asarray(ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2))


def holding_a_square(
    labels: NDArray[np.int32], count: int, foreground: NDArray[np.bool_], width: int
) -> NDArray[np.bool_]:
    """Which components hold a square of foreground, ``width`` px wide.

    Args:
        labels: components 1 .. ``count`` of the foreground, shape (H, W), or a part of it around which nothing is cut.
        count: of components.
        foreground: shape (H, W).
        width: of the square in px.

    Returns:
        Shape (count + 1,); [0] is the background, False.

    >>> board = np.array([[1, 0, 1, 1], [0, 1, 1, 1]], bool)
    >>> holding_a_square(*ndimage.label(board), board, 2).tolist()
    [False, False, True]
    """
    squares = ndimage.binary_erosion(foreground, np.ones((width, width), bool))
    held = np.bincount(labels[squares], minlength=count + 1) > 0
    held[0] = False
    return np.asarray(held)


def keep(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Labels of which ``kept`` is true, numbered anew, and how many they are; the rest is background."""
    return _keep(labels, kept), int(np.count_nonzero(kept[1:]))


def _keep(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Labels of which ``kept`` is true, numbered anew; the rest is background."""
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.asarray(numbers[labels])


def _in_raster_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels numbered 1 .. n in the order of their first pixels."""
    flat = labels.ravel()
    # a first pixel differs from the one before it
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[::-1] if flat.size else np.empty(0, int)
    first = np.full(int(flat.max(initial=0)) + 1, flat.size)
    first[flat[starts]] = starts  # from the last to the first: the first stays
    first[0] = -1
    numbers = np.empty_like(first, dtype=np.int32)
    numbers[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return np.asarray(numbers[labels])


def split(
    labels: NDArray[np.int32],
    probability: NDArray[Any],
    settings: Settings,
    whole: Collection[int] = (),
) -> tuple[NDArray[np.int32], int]:
    """Components parted where they fall into several at a higher threshold, each for itself.

    Args:
        labels: components 1 .. n, shape (H, W).
        probability: of the cell, shape (H, W).
        settings: ``split_thresholds``, ``min_size`` and ``connectivity`` count.
        whole: components left as they are.

    Returns:
        Labels in which the first part of a component keeps its number and the others have numbers above n; and the
        highest number.
    """
    boxes = ndimage.find_objects(labels)
    count, parted, whole = len(boxes), labels.copy(), set(whole)
    for number, box in enumerate(boxes, start=1):
        if box is None or number in whole:
            continue
        parts = split_component(labels[box] == number, probability[box], settings)
        more = parts > 1
        parted[box][more] = count - 1 + parts[more]
        count += int(parts.max()) - 1
    return parted, count


def split_component(component: NDArray[np.bool_], probability: NDArray[Any], settings: Settings) -> NDArray[np.int32]:
    """Parts 1 .. k of one component, by a watershed of the probability from where it falls into several.

    Args:
        component: its pixels in its bounding box, shape (h, w).
        probability: of the cell there, shape (h, w).
        settings: see :func:`split`.
    """
    around, smallest = structure(settings["connectivity"]), settings["min_size"]
    seeds = component.astype(np.int32)
    if seeds.sum() < max(2 * smallest, 3):
        return seeds
    for threshold in settings["split_thresholds"]:
        parts, count = ndimage.label(component & (probability > threshold), around, output=np.int32)
        parts = _keep(parts, np.bincount(parts.ravel(), minlength=count + 1) >= smallest)
        inside = (parts > 0) & (seeds > 0)
        owner_and_part = np.unique(np.stack([seeds[inside], parts[inside]]), axis=1)
        owners, numbers = np.unique(owner_and_part[0], return_counts=True)
        several = owners[numbers > 1]
        if len(several):
            seeds = np.where(np.isin(seeds, several), np.where(inside, seeds.max() + parts, 0), seeds)
    seeds = _in_raster_order(seeds)
    if seeds.max() == 1:
        return component.astype(np.int32)
    return np.asarray(watershed(-probability, seeds, connectivity=around, mask=component), np.int32)


def lowest_and_highest(
    labels: NDArray[np.int32], footprint: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lowest and highest label > 0 under the footprint around each pixel; where there is none, lowest > highest = 0.

    Args:
        labels: shape (H, W).
        footprint: neighbourhood, shape (2 r + 1, 2 r + 1).
    """
    none = np.iinfo(np.int32).max
    height, width = labels.shape
    reach = footprint.shape[0] // 2
    around = np.pad(labels, reach)
    present = np.where(around > 0, around, none)
    lowest, highest = np.full_like(labels, none), np.zeros_like(labels)
    # whole images shifted, not windows: a tenth of the time of ndimage.minimum_filter with a footprint
    for row, column in np.argwhere(footprint):
        seen = slice(row, row + height), slice(column, column + width)
        np.minimum(lowest, present[seen], out=lowest)
        np.maximum(highest, around[seen], out=highest)
    return lowest, highest


def _filled(labels: NDArray[np.int32], connectivity: Connectivity) -> NDArray[np.int32]:
    # what separates 4-connected components is 8-connected background, and the other way round
    gaps, count = ndimage.label(labels == 0, structure(8 if connectivity == 4 else 4))
    lowest, highest = lowest_and_highest(labels, structure(4))
    index = np.arange(count + 1)
    owner = np.asarray(ndimage.maximum(highest, gaps, index), dtype=np.int32)
    hole = np.asarray(ndimage.minimum(lowest, gaps, index)) == owner
    for rim in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        hole[rim] = False
    hole[0] = False
    return np.where(hole[gaps], owner[gaps], labels)


def regrown(labels: NDArray[np.int32], distance: int) -> NDArray[np.int32]:
    """Labels grown into the gaps between them, see :func:`label_instances`.

    What becomes of a pixel depends on those within 2 ``distance`` px.

    Args:
        labels: shape (H, W).
        distance: px by which labels grow.
    """
    lowest, highest = lowest_and_highest(labels, disk(2 * distance, dtype=bool))
    rows, columns = np.nonzero((labels == 0) & (lowest < highest))
    around = np.pad(labels, distance)
    nearest = np.zeros_like(labels, shape=rows.shape)
    # only where a gap is: far fewer pixels than a distance transform of the image visits
    for row, column in _nearest_first(distance):
        found = around[rows + row + distance, columns + column + distance]
        nearest = np.where(nearest == 0, found, nearest)
    grown = labels.copy()
    grown[rows, columns] = nearest
    return grown


def _nearest_first(distance: int) -> list[tuple[int, int]]:
    """Steps (rows, columns) up to this far; of equally far ones the left, then the upper comes first."""
    reach = range(-distance, distance + 1)
    steps = [(row, column) for column in reach for row in reach if row * row + column * column <= distance * distance]
    return sorted(steps, key=lambda step: step[0] ** 2 + step[1] ** 2)
