"""Probabilities of the classes from the network's scores: the soft-max over the channels of section 3."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from torch import Tensor

from unet_paper.classes import check_num_classes
from unet_paper.magnification import MagnifiedInferer


def class_probabilities(scores: Tensor) -> Tensor:
    """Soft-max over channels, p_k = exp(a_k) / sum of exp(a_j) over all j (section 3), the same for a pixel everywhere.

    ``torch.softmax`` rounds a pixel's probability otherwise where the pixel comes last in memory, so that a part of
    an image would differ from the whole in the last bit.

    Args:
        scores: a, shape (K, H, W), floating point.

    Returns:
        p, shape (K, H, W).

    >>> import torch
    >>> class_probabilities(torch.tensor([[[0.0]], [[0.0]]])).flatten().tolist()
    [0.5, 0.5]
    """
    powers = (scores - scores.amax(dim=0)).contiguous().exp_()
    total = powers[0].clone()
    for power in powers[1:]:
        total += power
    return powers.div_(total)


class ClassProbabilitiesd(MapTransform):
    """Scores (K, H, W) under ``keys`` replaced by :func:`class_probabilities`.

    Args:
        keys: keys of the scores.
        allow_missing_keys: pass over items that lack the key.
    """

    def __init__(self, keys: KeysCollection = "pred", *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Item with probabilities, see the class."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = class_probabilities(item[key])
        return item


def probabilities_of_cells(scores: Tensor) -> Tensor:
    """Of :func:`class_probabilities`, what cells are found in: that of the cell, of several kinds of cells all.

    Args:
        scores: of background and cell, or of background and several kinds of cells, shape (B, K, h, w).

    Returns:
        Shape (B, 1, h, w) for two classes, (B, K, h, w) for more.

    Raises:
        ValueError: for fewer than two classes.
    """
    check_num_classes(scores.shape[1])
    first = 1 if scores.shape[1] == 2 else 0
    return torch.stack([class_probabilities(image)[first:] for image in scores])


class CellProbabilityInferer(MagnifiedInferer):
    """Probability of the cell in whole images: that of an inferer's scores, which are never held as a whole.

    Of more than two classes, all probabilities: :func:`probabilities_of_cells`.

    Args:
        inferer: gives the scores of background and cell, such as :class:`unet_paper.inferer.OverlapTileInferer`.
        magnification: of the images before prediction, see :class:`unet_paper.magnification.MagnifiedInferer`.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Probability, shape (B, 1, H, W) for two classes, of images (B, C, H, W); the rest goes to the inferer."""
        return self.mapped(inputs, network, probabilities_of_cells, *args, **kwargs)


class KeepProbabilityd(MapTransform):
    """What lies under ``keys``, under ``names`` too: the same tensor, not a copy.

    Args:
        keys: keys of the probabilities.
        names: their further names, as many.
        allow_missing_keys: pass over items that lack the key.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        names: KeysCollection = "probability",
        *,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names = ensure_tuple(names)
        if len(self.names) != len(self.keys):
            raise ValueError(f"names={self.names}: one for each of keys={self.keys} is needed")

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Item with both names."""
        item = dict(data)
        for key, name in self.key_iterator(item, self.names):
            item[name] = item[key]
        return item
