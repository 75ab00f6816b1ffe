"""Training images with their masks, read once, and what all masks together say that none says alone."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data.dataset import CacheDataset
from numpy.typing import NDArray

from unet_paper.data.annotation import UNKNOWN, Annotation, as_classes, ids_in_pieces, is_inverted
from unet_paper.data.notices import Progress

logger = logging.getLogger(__name__)

# different ids in a whole data set, up to which they may be classes
_VALUES = 8


class ReadOnceDataset(CacheDataset):
    """MONAI's ``CacheDataset``, that says in the log how far reading is where it takes long.

    Args:
        data: cases.
        transform: of every case.
        progress: whether a bar shows how far reading is, too.
    """

    def __init__(
        self, data: Sequence[Mapping[str, str]], transform: Callable[[Any], Any], *, progress: bool = True
    ) -> None:
        self._reading: Progress | None = Progress(logger, "reading images and masks", len(data))
        super().__init__(data, transform, progress=progress)
        self._reading = None  # its lock does not go to the workers of a loader

    def _load_cache_item(self, idx: int) -> Any:
        item = super()._load_cache_item(idx)
        if self._reading is not None:
            self._reading.step()
        return item


class AnnotatedDataset(ReadOnceDataset):
    """A ``ReadOnceDataset`` that judges the masks when it has read them.

    One line says that none of the masks holds a cell, or that in most of them one cell reaches the corners and covers
    most of the image, as a background does. Masks for ``annotation="instances"`` that have the same few ids
    throughout, most of them in pieces none of which has half of their pixels, are black and white, or classes: refused.
    Where this is so of every fourth, it is said. So is an ``ignore_value`` that none of the masks has.

    Args:
        data: cases with ``label``.
        transform: of every case; leaves the instance image under ``instances``, or under ``label`` before the weight
            map.
        annotation: what the masks are, see ``annotation.InstancesFromAnnotationd``.
        ignore_value: value in the masks that is unknown; None: none is.
        progress: whether a bar shows how far reading is.

    Raises:
        ValueError: for such masks.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable[[Any], Any],
        *,
        annotation: Annotation,
        ignore_value: int | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(data, transform, progress=progress)
        read = [item.get("instances", item["label"]) for item in self._cache]
        # with a transform that MONAI does not cache there is nothing to judge yet
        masks = [np.asarray(mask)[0] for mask in read if not isinstance(mask, str)]
        drawn = [mask for mask in masks if (mask > 0).any()]
        if masks and not drawn:
            logger.warning(
                "none of the %d masks holds a cell, beginning with %s: the network can learn background alone; draw "
                "cells, or say --background_value ... if 0 is not the background",
                len(masks),
                data[0]["label"],
            )
        turned = sum(map(is_inverted, drawn)) if annotation in ("binary", "instances") else 0
        if 2 * turned > len(drawn):
            logger.warning(
                "in %d of %d masks one cell covers most of the image and lies around the rest: if that is the "
                "background, say which value it has, --background_value ... (in black and white mostly 255 or 1)",
                turned,
                len(masks),
            )
        if ignore_value is not None and masks and not any((mask == UNKNOWN).any() for mask in masks):
            logger.warning(
                "--ignore_value %d: none of the %d masks has this value, beginning with %s: all of their pixels are "
                "learned from; give the value that unknown pixels have, or leave it out",
                ignore_value,
                len(masks),
                data[0]["label"],
            )
        if annotation == "instances":
            _judge_ids(drawn)


def _judge_ids(masks: Sequence[NDArray[Any]]) -> None:
    """An id that lies in pieces is an exception where ids are cells, and the rule where values are something else."""
    found = [ids_in_pieces(mask)[:2] for mask in masks]
    cells = sum(len(ids) for ids, _ in found)
    in_pieces = sum(int(broken.sum()) for _, broken in found)
    values = sorted({int(number) for ids, broken in found for number in ids[broken]})
    # values of a mask are few and the same in all, unlike ids
    if 4 * in_pieces < cells or not values or len({int(number) for ids, _ in found for number in ids}) > _VALUES:
        return
    remedy = "say --annotation binary, by which every piece is a cell"
    if any(len(ids) > 1 for ids, _ in found):
        remedy = as_classes(np.unique(np.concatenate([ids for ids, _ in found])))
    what = (
        f"annotation='instances': {cells} cells in {len(masks)} masks, and {in_pieces} of them (ids "
        f"{', '.join(map(str, values))}) lie in pieces none of which has half of their pixels"
    )
    if 2 * in_pieces > cells:
        raise ValueError(f"{what}: so do the values of masks that are no ids, each taken for one cell; {remedy}")
    logger.warning("%s: each is taken for one cell; %s", what, remedy)
