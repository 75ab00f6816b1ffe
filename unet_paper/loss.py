"""Pixel-weighted cross entropy of Ronneberger et al. (2015), Eq. 1."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["weight_sum", "sum"]


class PixelWeightedCrossEntropy(torch.nn.Module):
    r"""Cross entropy over a pixel-wise softmax, weighted by a map: Ronneberger et al. (2015), Eq. 1.

    With a_k(x) the logit of class k at pixel x, l(x) the true class and w(x) the weight,

    .. math:: p_k(x) = \exp(a_k(x)) / \sum_{k'} \exp(a_{k'}(x)), \qquad E = -\sum_x w(x) \log p_{l(x)}(x).

    The paper prints neither the sign nor a normalisation. ``"sum"`` is E; ``"weight_sum"`` is E over the sum of w, as
    in the authors' released code, so that the size of tiles and batches leaves the learning rate alone. A batch without
    any weight gives 0 and no gradient.

    Computed in log space, and in float32 for half-precision logits.

    Args:
        reduction: ``"weight_sum"`` or ``"sum"``.

    Raises:
        ValueError: for another reduction.

    Examples:
        >>> logits = torch.tensor([[[[0.0, 5.0]], [[0.0, -5.0]]]])  # two classes, two pixels
        >>> label, weight = torch.tensor([[[[1, 1]]]]), torch.tensor([[[[3.0, 0.0]]]])
        >>> PixelWeightedCrossEntropy()(logits, label, weight)  # the second pixel does not count: log 2
        tensor(0.6931)
    """

    def __init__(self, reduction: Reduction = "weight_sum") -> None:
        super().__init__()
        if reduction not in ("weight_sum", "sum"):
            raise ValueError(f"reduction={reduction!r}: choose 'weight_sum' or 'sum'")
        self.reduction = reduction

    def forward(self, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            logits: shape (B, C, H, W), the network's output.
            label: true classes 0 .. C-1, of an integer type, shape (B, 1, H, W) or (B, H, W).
            weight: w(x) >= 0, shape (B, 1, H, W) or (B, H, W).

        Returns:
            Scalar, float32 (float64 for float64 logits).

        Raises:
            ValueError: for shapes that do not fit, labels that are no integers or, on the CPU, out of range.
        """
        # a MetaTensor would carry its meta information through every operation, and into the loss
        logits, label, weight = (tensor.as_subclass(Tensor) for tensor in (logits, label, weight))
        label, weight = _plane(label, logits, "label"), _plane(weight, logits, "weight")
        if label.is_floating_point() or label.is_complex():
            raise ValueError(
                f"label of type {label.dtype}: classes are integers; interpolate labels by nearest neighbour"
            )
        # on a GPU the answer would have to be waited for; there, the kernel itself refuses such a class
        if (
            label.device.type == "cpu"
            and label.numel()
            and not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]
        ):
            raise ValueError(
                f"label holds {int(label.min())} to {int(label.max())}: classes 0 to {logits.shape[1] - 1} are known; "
                "mark pixels to ignore by weight 0"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            weight = weight.to(logits.dtype)
            total = (weight * F.cross_entropy(logits, label.long(), reduction="none")).sum()
            if self.reduction == "sum":
                return total
            # without any weight the total is 0, and 0 over the smallest number is 0, with gradient 0
            return total / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def _plane(tensor: Tensor, logits: Tensor, name: str) -> Tensor:
    """The tensor without its channel, shape (B, H, W), that of the logits."""
    if logits.ndim != 4:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: (B, C, H, W) is needed")
    plane = tensor.squeeze(1) if tensor.ndim == 4 and tensor.shape[1] == 1 else tensor
    batch, _, height, width = logits.shape
    if plane.shape != (batch, height, width):
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)}: logits of shape {tuple(logits.shape)} need "
            f"({batch}, 1, {height}, {width}); label and weight have the size of the network's output, 388 for an "
            "input of 572, not that of its input"
        )
    return plane
