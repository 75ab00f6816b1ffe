"""Probabilities of the classes from the network's scores: the soft-max over the channels of section 3."""

from collections.abc import Hashable, Mapping

from monai.config import KeysCollection
from monai.transforms.transform import MapTransform
from torch import Tensor


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
