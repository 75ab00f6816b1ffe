"""A part of an image held out for validation, where there are too few images to hold out one."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import NDArray

from unet_paper.data.annotation import UNKNOWN


class HoldOutBlockd(MapTransform):
    """Make a quarter of an image unknown to training, and the rest unknown to validation.

    The quarter is that of the image's four whose share of the cells is nearest to a fourth, so that there is something
    to score in it and to learn outside; where all cells lie in one of the four, a block of that size lies across them.
    Training sees its grey values, but neither learns nor is scored there.

    An item without a ``block`` (``training`` or ``validation``, see ``data.datasets.folder``) stays as it is.

    Args:
        keys: instance images, (1, H, W), 0 background, -1 unknown.
        allow_missing_keys: pass over items that lack the key.

    Example:
        >>> item = {"label": np.array([[[1, 0], [0, 0]]]), "block": "training"}
        >>> HoldOutBlockd("label")(item)["label"].tolist()
        [[[1, -1], [0, 0]]]
    """

    def __init__(self, keys: KeysCollection = "label", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its labels as that part of it sees them.

        Raises:
            ValueError: for another ``block``.
        """
        item = dict(data)
        if "block" not in item:
            return item
        if item["block"] not in ("training", "validation"):
            raise ValueError(f"block={item['block']!r}: training or validation")
        for key in self.key_iterator(item):
            labels = np.array(convert_data_type(item[key], np.ndarray)[0])
            inside = held_out_block(labels[0])
            labels[0][inside if item["block"] == "training" else ~inside] = UNKNOWN
            item[key] = convert_to_dst_type(labels, item[key])[0]
        return item


def held_out_block(instances: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the held-out quarter of an instance image lies."""
    height, width = instances.shape
    halves = [(slice(0, height // 2), slice(height // 2, height)), (slice(0, width // 2), slice(width // 2, width))]
    quarters = [(rows, columns) for rows in halves[0] for columns in halves[1]]
    cells = int(np.count_nonzero(instances > 0))
    # there must be something to score in it, and something to learn outside; if not both, something to learn
    for blocks in (quarters, _across(height, width)):
        inside_of = [int(np.count_nonzero(instances[block] > 0)) for block in blocks]
        whole = [number for number, count in enumerate(inside_of) if 0 < count < cells]
        if whole:
            chosen = blocks[min(whole, key=lambda number: abs(inside_of[number] - cells / 4))]
            break
    else:
        chosen = min(quarters, key=lambda block: int(np.count_nonzero(instances[block] > 0)))
    inside = np.zeros(instances.shape, bool)
    inside[chosen] = True
    return inside


def _across(height: int, width: int) -> list[tuple[slice, slice]]:
    """Blocks of half the height and width all over an image."""
    starts = [range(0, side - side // 2 + 1, max(1, side // 16)) for side in (height, width)]
    return [(slice(top, top + height // 2), slice(left, left + width // 2)) for top in starts[0] for left in starts[1]]
