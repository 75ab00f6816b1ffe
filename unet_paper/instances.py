"""From a probability map to cells: threshold, connected components, and what each data set needs after that."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction

from unet_paper import label_image
from unet_paper.classes import label_each_class
from unet_paper.flooding import flood
from unet_paper.label_image import (
    Connectivity,
    areas,
    bands,
    holding_a_square,
    keep,
    number_in_raster_order,
    structure,
)


class Settings(TypedDict):
    """Keyword arguments of :func:`label_instances`."""

    threshold: float
    split_thresholds: Sequence[float]
    neck: float
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
# phc_u373_split: a network that has learnt contacts from pasted cells lets the probability sink between two cells, but
# seldom below 0.5; chosen on held-out frames, as they are and with cells set against others.
# min_width: up-convolutions of 2 x 2 make the four pixels of each 2 x 2 window in four ways. Where the network is
# unsure, on haze, these differ by more than the image does, and the map is a chequerboard, stripes, or a mesh, of
# period 2. No 2 x 2 window of such a map is all above a threshold; of a cell some are.
_PLAIN = Settings(
    threshold=0.5,
    split_thresholds=(),
    neck=0.0,
    connectivity=4,
    regrow=1,
    min_size=0,
    fill_holes=False,
    field_of_interest=0,
    min_width=2,
)
# what to do about a frame wider than the image
WHOLE_FIELD = "--field_of_interest 0 takes the whole image"
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
    "phc_u373_split": {
        **_PLAIN,
        "threshold": 0.4,
        "split_thresholds": (0.5, 0.6, 0.7, 0.8, 0.9),
        "neck": 0.4,
        "min_size": 501,
        "fill_holes": True,
        "field_of_interest": 50,
    },
    "phc_u373_released": {**_PLAIN, "connectivity": 8, "regrow": 0, "min_size": 501, "field_of_interest": 50},
    "folder": _PLAIN,
    # where cells touch: a network that has learned for minutes knows that there are cells before it knows the borders
    # between them
    "folder_split": {**_PLAIN, "neck": 0.95, "fill_holes": True},
    # the narrow network of the phantom run is unsure of thin borders: on its own training frames necks separate best
    "phantom": {**_PLAIN, "neck": 0.8, "min_size": 50},
}

DEFAULTS: Settings = {**_PLAIN, "min_width": 1}


def label_instances(
    probability: ArrayLike,
    *,
    threshold: float = 0.5,
    split_thresholds: Sequence[float] = (),
    neck: float = 0.0,
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
       component that falls into several at a higher threshold, of at least ``min_size`` px and with such a square, is
       that many cells, parted by a watershed of the probability from these; with ``neck``, what is narrower between two
       parts of at least ``min_size`` px than in either of them is two cells, parted where it is narrowest;
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
        neck: cells part where a component is narrower than this fraction of the narrower part's width, below 1; 0
            leaves them whole. 0.9 leaves convex cells of 8 px and more across alone; thinner ones have necks that are
            the pixels'.
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
        neck=neck,
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
    if any(np.isnan(probability[rows]).any() for rows in bands(probability.shape)):
        raise ValueError("probability holds NaN: the network that made it has diverged, or its input held NaN")
    labels: NDArray[np.int32]
    foreground = probability > threshold
    labels, count = ndimage.label(foreground, structure(connectivity), output=np.int32)
    if min_width > 1:
        count = keep(labels, holding_a_square(labels, count, foreground, min_width))
    del foreground
    if splits(settings):
        labels, count = split(labels, probability, settings)
    if fill_holes:
        label_image.fill_holes(labels, connectivity)
    if min_size:
        keep(labels, areas(labels, count) >= min_size)
    if regrow:
        labels = label_image.regrown(labels, regrow)
    if field_of_interest:
        frame = field_of_interest
        if 2 * frame >= min(labels.shape):
            raise ValueError(
                f"field_of_interest={frame}: leaves nothing of an image of {labels.shape} px; {WHOLE_FIELD}"
            )
        keep(labels, areas(labels[frame:-frame, frame:-frame], count) > 0)
    number_in_raster_order(labels)
    return labels


class LabelInstancesd(MapTransform):
    """Cells of the probabilities under ``keys``, put under ``output_key``, by :func:`label_instances`.

    The network's two probabilities (2, H, W), or that of the cell alone (1, H, W), become a label image int32
    (1, H, W) of the same container, device and meta information. Those of more classes become ids that say their class,
    see :mod:`unet_paper.classes`. Computed on the host.

    Args:
        keys: key of the probability of the cell, or of those of background and cell, or of background and several kinds
            of cells.
        output_key: key of the label image; as many as ``keys``.
        preset: name in :data:`PRESETS`, or all settings themselves, for what is not given; None takes the defaults of
            :func:`label_instances`.
        threshold: see :func:`label_instances`, as the following.
        split_thresholds: see there.
        neck: see there.
        connectivity: see there.
        regrow: see there.
        min_size: see there.
        fill_holes: see there.
        field_of_interest: see there.
        min_width: see there.
        area_scale_key: key of a number by which areas in px differ from those that ``min_size`` was chosen for, since
            pixels have another size; 1 for items that lack it.
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
        neck: float | None = None,
        connectivity: Connectivity | None = None,
        regrow: int | None = None,
        min_size: int | None = None,
        fill_holes: bool | None = None,
        field_of_interest: int | None = None,
        min_width: int | None = None,
        area_scale_key: str = "area_scale",
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
            neck=base["neck"] if neck is None else neck,
            connectivity=base["connectivity"] if connectivity is None else connectivity,
            regrow=base["regrow"] if regrow is None else regrow,
            min_size=base["min_size"] if min_size is None else min_size,
            fill_holes=base["fill_holes"] if fill_holes is None else fill_holes,
            field_of_interest=base["field_of_interest"] if field_of_interest is None else field_of_interest,
            min_width=base["min_width"] if min_width is None else min_width,
        )
        self.area_scale_key = area_scale_key
        check_settings(self.settings)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Item with the label image, see the class.

        Raises:
            ValueError: for another shape than (K, H, W) with one class or more, NaN, or what is no probability.
        """
        item = dict(data)
        for key, output_key in self.key_iterator(item, self.output_keys):
            prediction = item[key]
            if prediction.ndim != 3 or prediction.shape[0] < 1:
                raise ValueError(
                    f"{key!r} of shape {tuple(prediction.shape)}: probabilities of background and cell, shape "
                    "(2, H, W), of the cell, or of background and several kinds of cells, are needed"
                )
            of_cells = convert_data_type(prediction[1:] if len(prediction) > 1 else prediction, np.ndarray)[0]
            low, high = of_cells.min(initial=0), of_cells.max(initial=1)
            # a sum of single precision may be a little more than 1
            if low < 0 or high > 1.001:
                raise ValueError(
                    f"{key!r}: values from {low:g} to {high:g} are no probabilities; unet_paper.probability makes them "
                    "from scores"
                )
            smallest = smallest_cell(self.settings["min_size"], float(item.get(self.area_scale_key, 1)))
            settings = Settings(**{**self.settings, "min_size": smallest})
            cells = label_each_class(of_cells, partial(label_instances, **settings))
            item[output_key] = convert_to_dst_type(cells[None], prediction, dtype=torch.int32)[0]
        return item


def smallest_cell(min_size: int, area_scale: float) -> int:
    """Smallest cell in px where areas are ``area_scale`` times those that ``min_size`` was chosen for.

    >>> smallest_cell(40, 0.25), smallest_cell(3, 0.01), smallest_cell(0, 4.0)
    (10, 1, 0)
    """
    return max(1, round(min_size * area_scale)) if min_size else 0


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
    if not 0 <= settings["neck"] < 1:
        raise ValueError(f"neck={settings['neck']}: a fraction of a cell's width, 0 <= neck < 1; 0 splits nothing")
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


def splits(settings: Settings) -> bool:
    """Whether components may part."""
    return bool(len(settings["split_thresholds"]) or settings["neck"])


def split(
    labels: NDArray[np.int32],
    probability: NDArray[Any],
    settings: Settings,
    whole: Collection[int] = (),
) -> tuple[NDArray[np.int32], int]:
    """Components parted where they fall into several at a higher threshold, each for itself.

    Args:
        labels: components 1 .. n, shape (H, W); changed in place.
        probability: of the cell, shape (H, W).
        settings: ``split_thresholds``, ``neck``, ``min_size``, ``min_width`` and ``connectivity`` count.
        whole: components left as they are.

    Returns:
        The labels, in which the first part of a component keeps its number and the others have numbers above n; and
        the highest number.
    """
    boxes = ndimage.find_objects(labels)
    count, whole = len(boxes), set(whole)
    for number, box in enumerate(boxes, start=1):
        if box is None or number in whole:
            continue
        parts = split_component(labels[box] == number, probability[box], settings)
        for rows in bands(parts.shape):
            more = parts[rows] > 1
            labels[box][rows][more] = count - 1 + parts[rows][more]
        count += int(parts.max()) - 1
    return labels, count


def split_component(component: NDArray[np.bool_], probability: NDArray[Any], settings: Settings) -> NDArray[np.int32]:
    """Parts 1 .. k of one component: where it falls into several at higher thresholds, and then at its necks.

    Args:
        component: its pixels in its bounding box, shape (h, w).
        probability: of the cell there, shape (h, w).
        settings: see :func:`split`.
    """
    enough = np.count_nonzero(component) >= max(2 * settings["min_size"], 3)
    if enough and len(settings["split_thresholds"]):
        parts = _parted_by_thresholds(component, probability, settings)
    else:
        parts = component.astype(np.int32)
    if not enough:
        return parts
    if settings["neck"]:
        count = int(parts.max())
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            further = _parted_at_necks(parts[box] == number, settings)
            parts[box][further > 1] = count - 1 + further[further > 1]
            count += int(further.max()) - 1
        number_in_raster_order(parts)
    return parts


def _parted_by_thresholds(
    component: NDArray[np.bool_], probability: NDArray[Any], settings: Settings
) -> NDArray[np.int32]:
    """Parts of one component by a watershed of the probability from where it falls into several."""
    around, smallest = structure(settings["connectivity"]), settings["min_size"]
    seeds = component.astype(np.int32)
    above, parts = np.empty_like(component), np.empty_like(seeds)
    for threshold in settings["split_thresholds"]:
        np.greater(probability, threshold, out=above)
        np.logical_and(above, component, out=above)
        count = int(ndimage.label(above, around, output=parts))
        if settings["min_width"] > 1:
            count = keep(parts, holding_a_square(parts, count, above, settings["min_width"]))
        count = keep(parts, areas(parts, count) >= smallest)
        # the one part of the lower threshold in which each lies; none where that was too small
        owner = np.zeros(count + 1, np.int32)
        for rows in bands(parts.shape):
            owner[parts[rows]] = seeds[rows]
        owner[0] = 0
        falls_apart = np.bincount(owner[owner > 0], minlength=int(seeds.max()) + 1) > 1
        if falls_apart.any():
            first = seeds.max()
            for rows in bands(parts.shape):
                inner = np.where(parts[rows] > 0, first + parts[rows], 0)
                np.copyto(seeds[rows], inner, where=falls_apart[seeds[rows]])
    del above, parts
    number_in_raster_order(seeds)
    if seeds.max() == 1:
        return component.astype(np.int32)
    flood(seeds, component, probability, diagonal=settings["connectivity"] == 8)
    return seeds


def _parted_at_necks(component: NDArray[np.bool_], settings: Settings) -> NDArray[np.int32]:
    """Parts of one component by a watershed of its width, the distance to its edge, from where it is wide.

    A part is a maximum of the width that no path leads away from to a higher one without a neck. Widths are compared
    by their logarithm, so that cells of any size part alike.
    """
    around, smallest = structure(settings["connectivity"]), max(settings["min_size"], 1)
    # what will be filled makes no neck
    solid = ndimage.binary_fill_holes(component) if settings["fill_holes"] else component
    # beyond the box lies no component: what comes out does not depend on where in an image it is; and a distance in
    # whole pixels has steps, which are no necks
    width = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(solid, 1)), 1.0, mode="constant")[1:-1, 1:-1]
    height = np.where(solid, np.log(np.maximum(width, 0.1)), -10.0)
    flooded = reconstruction(height + np.log(settings["neck"]), height, method="dilation", footprint=around)
    highest = local_maxima(flooded, footprint=around) & solid
    tops, count = ndimage.label(highest, around, output=np.int32)
    while count > 1:
        parts = tops.copy()
        flood(parts, solid, height, diagonal=settings["connectivity"] == 8)
        parts[~component] = 0
        sizes = areas(parts, count)
        if sizes[1:].min() >= smallest:
            return parts
        kept = np.arange(count + 1) != 1 + int(sizes[1:].argmin())
        count = keep(tops, kept)
    return component.astype(np.int32)
