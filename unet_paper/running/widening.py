"""Weights of a narrow network as the start of a wider one that computes the same (Net2Net, arXiv:1511.05641)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def factor(narrow: Sequence[int], wide: Sequence[int]) -> int | None:
    """By how much a network of ``wide`` features is a multiple of one of ``narrow``; None where it is none.

    >>> factor([16, 32], [32, 64]), factor([16, 32], [16, 32]), factor([16, 32], [32, 96]), factor([16, 32], [32])
    (2, None, None, None)
    """
    if not narrow or len(narrow) != len(wide):
        return None
    ratios = {after / before for before, after in zip(narrow, wide, strict=True)}
    (ratio, *others) = ratios
    return int(ratio) if not others and ratio > 1 and ratio.is_integer() else None


def widened(weights: Mapping[str, Tensor], factor: int) -> dict[str, Tensor]:
    """State dict of a :class:`unet_paper.network.UNet` with more features and the output of a narrower one.

    Every feature becomes several copies of itself, and what a layer took from it is shared out among them. The shares
    are drawn at random for every weight, by PyTorch's generator: copies with equal shares would stay alike in training.

    Args:
        weights: state dict of the narrower network.
        factor: how many times as many features, in every level.

    Returns:
        State dict of the wider network. Its output differs from the narrower one's by rounding, and by what dropout
        drops.

    >>> from unet_paper.network import UNet
    >>> _ = UNet(features=[4, 8]).load_state_dict(widened(UNet(features=[2, 4]).state_dict(), 2))
    """
    wide = {}
    for name, value in weights.items():
        out_dim, in_dim = (1, 0) if name.startswith("up.") and value.dim() > 1 else (0, 1)
        if not name.startswith("classifier."):
            value = value.repeat_interleave(factor, dim=out_dim)
        if value.dim() > 1 and name != "contracting.0.0.weight":
            value = _shared_out(value, factor, in_dim)
        wide[name] = value
    return wide


def _shared_out(weight: Tensor, factor: int, dim: int) -> Tensor:
    shares = 0.5 + torch.rand(*weight.shape[: dim + 1], factor, *weight.shape[dim + 1 :])
    shares /= shares.sum(dim + 1, keepdim=True)
    return (weight.unsqueeze(dim + 1) * shares).flatten(dim, dim + 1)
