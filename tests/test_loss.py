"""Eq. 1 against its definition, and what a weighted mean must do."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional as F

from unet_paper.loss import PixelWeightedCrossEntropy


def batch(classes: int = 2, size: tuple[int, int] = (5, 7), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, *size, generator=generator, dtype=torch.float64) * 4
    label = torch.randint(classes, (3, 1, *size), generator=generator, dtype=torch.uint8)
    weight = torch.rand(3, 1, *size, generator=generator) * 11
    return logits.requires_grad_(), label, weight


def eq1(logits: Tensor, label: Tensor, weight: Tensor) -> float:
    """The sum of Eq. 1 with the sign it needs, pixel by pixel, its softmax as the paper writes it."""
    scores, classes, weights = logits.detach().numpy(), label.numpy(), weight.double().numpy()
    energy = 0.0
    for b, _, y, x in np.ndindex(classes.shape):
        p = np.exp(scores[b, :, y, x]) / np.exp(scores[b, :, y, x]).sum()
        energy -= weights[b, 0, y, x] * np.log(p[classes[b, 0, y, x]])
    return energy


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_sum_is_eq1(classes: int) -> None:
    logits, label, weight = batch(classes)
    assert PixelWeightedCrossEntropy("sum")(logits, label, weight).item() == pytest.approx(eq1(logits, label, weight))


@pytest.mark.parametrize("classes", [2, 5])
def test_weight_sum_is_eq1_over_the_weights(classes: int) -> None:
    logits, label, weight = batch(classes)
    expected = eq1(logits, label, weight) / weight.double().sum().item()
    assert PixelWeightedCrossEntropy()(logits, label, weight).item() == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(classes=st.integers(2, 4), seed=st.integers(0, 999), height=st.integers(1, 6), width=st.integers(1, 6))
def test_equal_weights_give_plain_cross_entropy(classes: int, seed: int, height: int, width: int) -> None:
    logits, label, weight = batch(classes, (height, width), seed)
    for weight_value in (1.0, 0.25):
        loss = PixelWeightedCrossEntropy()(logits, label, torch.full_like(weight, weight_value))
        torch.testing.assert_close(loss, F.cross_entropy(logits, label[:, 0].long()))


def test_scaling_the_weights_changes_the_sum_only() -> None:
    logits, label, weight = batch()
    mean, total = PixelWeightedCrossEntropy("weight_sum"), PixelWeightedCrossEntropy("sum")
    torch.testing.assert_close(mean(logits, label, 8 * weight), mean(logits, label, weight))
    torch.testing.assert_close(total(logits, label, 8 * weight), 8 * total(logits, label, weight))


@pytest.mark.parametrize("reduction", ["weight_sum", "sum"])
def test_gradient_agrees_with_finite_differences(reduction: Any) -> None:
    logits, label, weight = batch(3, (2, 3))
    weight[0, 0, 0, 0] = 0
    loss = PixelWeightedCrossEntropy(reduction)
    assert torch.autograd.gradcheck(lambda scores: loss(scores, label, weight.double()), (logits,))


@pytest.mark.parametrize("reduction", ["weight_sum", "sum"])
def test_no_gradient_where_the_weight_is_zero(reduction: Any) -> None:
    logits, label, weight = batch()
    weight[..., ::2] = 0
    PixelWeightedCrossEntropy(reduction)(logits, label, weight).backward()
    assert logits.grad is not None
    assert (logits.grad[..., ::2] == 0).all()
    assert (logits.grad[..., 1::2] != 0).all()


def test_pixels_without_weight_do_not_change_the_loss() -> None:
    logits, label, weight = batch()
    weight[..., 0] = 0
    torch.testing.assert_close(
        PixelWeightedCrossEntropy()(logits, label, weight),
        PixelWeightedCrossEntropy()(logits[..., 1:], label[..., 1:], weight[..., 1:]),
    )


@pytest.mark.parametrize("reduction", ["weight_sum", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_batch_without_weight_gives_zero_and_no_gradient(reduction: Any, dtype: torch.dtype) -> None:
    logits, label, weight = batch()
    logits = logits.detach().to(dtype).requires_grad_()
    loss = PixelWeightedCrossEntropy(reduction)(logits, label, torch.zeros_like(weight))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[[3e4]], [[-3e4]]]], requires_grad=True)
    loss = PixelWeightedCrossEntropy()(logits, torch.ones(1, 1, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, 1))
    loss.backward()
    assert loss.item() == 6e4
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_single(dtype: torch.dtype) -> None:
    logits, label, weight = batch(size=(40, 40))
    half = logits.detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PixelWeightedCrossEntropy("sum")(half, label, weight)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, PixelWeightedCrossEntropy("sum")(half.float(), label, weight))


def test_label_and_weight_may_come_without_channel_and_in_any_integer_type() -> None:
    logits, label, weight = batch()
    expected = PixelWeightedCrossEntropy()(logits, label, weight)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        torch.testing.assert_close(
            PixelWeightedCrossEntropy()(logits, label[:, 0].to(dtype), weight[:, 0]), expected, rtol=0, atol=0
        )


def test_channels_last_and_meta_tensors_give_a_plain_scalar() -> None:
    logits, label, weight = batch()
    loss = PixelWeightedCrossEntropy()(
        MetaTensor(logits.detach().to(memory_format=torch.channels_last)), MetaTensor(label), MetaTensor(weight)
    )
    assert type(loss) is Tensor
    torch.testing.assert_close(loss, PixelWeightedCrossEntropy()(logits, label, weight).detach())


def test_refuses_a_label_of_the_input_size() -> None:
    logits, label, weight = torch.zeros(1, 2, 388, 388), torch.zeros(1, 1, 572, 572).byte(), torch.ones(1, 1, 388, 388)
    with pytest.raises(ValueError, match=r"label of shape \(1, 1, 572, 572\).*388 for an input of 572"):
        PixelWeightedCrossEntropy()(logits, label, weight)
    with pytest.raises(ValueError, match=r"weight of shape \(1, 1, 388, 1\)"):
        PixelWeightedCrossEntropy()(logits, label[..., :388, :388], weight[..., :1])


@pytest.mark.parametrize("shape", [(3, 2, 5, 7), (3, 5, 8), (1, 5, 7), (5, 7)])
def test_refuses_shapes_that_would_broadcast_or_not_fit(shape: tuple[int, ...]) -> None:
    logits, _, weight = batch()
    with pytest.raises(ValueError, match="label of shape"):
        PixelWeightedCrossEntropy()(logits, torch.zeros(shape, dtype=torch.uint8), weight)


def test_refuses_what_is_no_class() -> None:
    logits, label, weight = batch()
    with pytest.raises(ValueError, match=r"label of type torch\.float32"):
        PixelWeightedCrossEntropy()(logits, label.float(), weight)
    with pytest.raises(ValueError, match="label holds 2 to 2: classes 0 to 1"):
        PixelWeightedCrossEntropy()(logits, torch.full_like(label, 2), weight)
    with pytest.raises(ValueError, match="label holds -1 to -1"):
        PixelWeightedCrossEntropy()(logits, torch.full_like(label, -1, dtype=torch.int8), weight)
    with pytest.raises(ValueError, match="logits of shape"):
        PixelWeightedCrossEntropy()(logits[0], label, weight)


def test_refuses_another_reduction() -> None:
    with pytest.raises(ValueError, match="reduction='mean'"):
        PixelWeightedCrossEntropy("mean")  # type: ignore[arg-type]
