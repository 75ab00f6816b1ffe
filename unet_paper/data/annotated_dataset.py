"""Training images with their masks, read once, and what all masks together say that none says alone."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data.dataset import CacheDataset
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.annotation import Annotation

logger = logging.getLogger(__name__)


class AnnotatedDataset(CacheDataset):
    """MONAI's ``CacheDataset``, that judges the masks when it has read them.

    One line says that none of the masks holds a cell. Refused are masks for ``annotation="instances"`` that all hold
    the same one id, most of them in pieces none of which has half of its pixels: black and white, in which the cells
    are the pieces.

    Args:
        data: cases with ``label``.
        transform: of every case; leaves the instance image under ``instances``, or under ``label`` before the weight
            map.
        annotation: what the masks are, see ``annotation.InstancesFromAnnotationd``.
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
        progress: bool = True,
    ) -> None:
        super().__init__(data, transform, progress=progress)
        masks = [np.asarray(item["instances" if "instances" in item else "label"])[0] for item in self._cache]
        drawn = [mask for mask in masks if (mask > 0).any()]
        if masks and not drawn:
            logger.warning(
                "none of the %d masks holds a cell, beginning with %s: the network can learn background alone; draw "
                "cells, or say --background_value ... if 0 is not the background",
                len(masks),
                data[0]["label"],
            )
        if annotation == "instances" and drawn:
            self._refuse_black_and_white(drawn)

    def _refuse_black_and_white(self, drawn: Sequence[NDArray[Any]]) -> None:
        ids = {int(number) for mask in drawn for number in (mask[mask > 0].min(), mask.max())}
        in_pieces = sum(_lies_in_pieces(mask > 0) for mask in drawn) if len(ids) == 1 else 0
        if 2 * in_pieces > len(drawn):
            raise ValueError(
                f"annotation='instances': each of {len(drawn)} masks holds one id, {ids.pop()}, and in {in_pieces} of "
                "them it lies in pieces, none of which has half of its pixels: so are masks in black and white, and "
                "each would be trained as one cell; say --annotation binary, by which every piece is a cell"
            )


def _lies_in_pieces(cell: NDArray[np.bool_]) -> bool:
    """Whether no piece, corners included, has half of the pixels."""
    pieces, _ = ndimage.label(cell, np.ones((3, 3)))
    areas = np.bincount(pieces.ravel())[1:]
    return bool(2 * areas.max() < areas.sum())
