"""Laws of RandGreyValues(d); values worked out by hand from the formula."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose

from unet_paper.grey_values import RandGreyValues, RandGreyValuesd


def drawn_levels(count: int, **options: Any) -> np.ndarray:
    transform = RandGreyValues(**options).set_random_state(seed=0)
    transform.randomize(count)
    assert transform.levels is not None
    return transform.levels


def test_curve_by_hand() -> None:
    """y(1/4) = 0.1 + 0.8 / 4 + 4 * 0.1 * 3/16 = 0.375, y(3/4) = 0.1 + 0.6 + 0.075 = 0.775."""
    transform = RandGreyValues()
    transform.levels = np.array([[0.1], [0.6], [0.9]])
    curve = transform(torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]]), randomize=False)
    torch.testing.assert_close(curve, torch.tensor([[[0.1, 0.375, 0.6, 0.775, 0.9]]]))


@given(st.integers(0, 100_000))
@settings(max_examples=50, deadline=None)
def test_curve_rises_through_the_three_levels(seed: int) -> None:
    transform = RandGreyValues().set_random_state(seed=seed)
    x = torch.linspace(0, 1, 101).expand(3, 1, 101)
    y = transform(x)
    assert transform.levels is not None
    assert (y.diff(dim=-1) > 0).all()
    np.testing.assert_allclose(y[:, 0, [0, 50, 100]].T.numpy(), transform.levels, atol=1e-6)


def test_draws_follow_the_stated_ranges() -> None:
    black, middle, white = drawn_levels(2000)
    assert scipy.stats.kstest(black, scipy.stats.uniform(0, 0.1).cdf).pvalue > 0.01
    assert scipy.stats.kstest(white, scipy.stats.uniform(0.9, 0.1).cdf).pvalue > 0.01
    slopes = np.stack((2 * (middle - black), 2 * (white - middle)))
    assert slopes.min() >= 0.8 - 1e-12
    assert slopes.max() <= 1.2 + 1e-12
    contrast = white - black
    room = np.minimum(1.2 - contrast, contrast - 0.8)
    assert scipy.stats.kstest((slopes[0] - contrast) / room, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_ranges_of_one_value_are_exact() -> None:
    image = torch.as_tensor(np.random.default_rng(0).random((2, 30, 40), dtype=np.float32))
    identity = RandGreyValues(black=(0, 0), white=(1, 1), slope=(1, 1))
    torch.testing.assert_close(identity(image), image, atol=1e-6, rtol=0)


def test_values_outside_0_1_are_clamped() -> None:
    transform = RandGreyValues().set_random_state(seed=0)
    low, high, below, above = transform(torch.tensor([[[0.0, 1.0, -0.3, 1.2]]]))[0, 0]
    assert (below, above) == (low, high)


def test_channels_and_keys_get_curves_of_their_own() -> None:
    image = torch.full((3, 4, 4), 0.5)
    result = RandGreyValuesd(("image", "second")).set_random_state(seed=0)({"image": image, "second": image})
    values = torch.cat((result["image"][:, 0, 0], result["second"][:, 0, 0]))
    assert len(values.unique()) == 6
    assert (result["image"] == result["image"][:, :1, :1]).all()


@pytest.mark.parametrize("noise_std", [0.0, 0.05])
def test_same_seed_same_result(noise_std: float) -> None:
    image = torch.full((1, 50, 50), 0.5)

    def run(seed: int) -> list[torch.Tensor]:
        chain = Compose([RandGreyValuesd(noise_std=noise_std)]).set_random_state(seed=seed)
        return [chain({"image": image})["image"] for _ in range(2)]

    first, second = run(1)
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(run(1), (first, second), strict=True))
    assert not torch.equal(run(2)[0], first)


def test_noise_is_gaussian_and_not_clipped() -> None:
    transform = RandGreyValues(black=(0, 0), white=(1, 1), slope=(1, 1), noise_std=0.1).set_random_state(seed=0)
    noise = transform(torch.ones(1, 100, 100)).numpy().ravel() - 1
    assert scipy.stats.kstest(noise, scipy.stats.norm(0, 0.1).cdf).pvalue > 0.01
    assert noise.max() > 0


EXACT: dict[str, Any] = {"black": (0, 0), "white": (1, 1), "slope": (1, 1)}


def test_exposure_multiplies_every_grey_value_of_a_channel_before_the_curve() -> None:
    image = torch.tensor([[[0.0, 0.1, 0.3, 0.8]]]).repeat(2, 1, 1)
    transform = RandGreyValues(**EXACT, exposure=(0.5, 2.0)).set_random_state(seed=3)
    bright = transform(image)
    factors = transform.factors
    assert factors is not None
    assert factors[0] != factors[1]
    expected = (image.numpy() * factors[:, None, None]).clip(0, 1)
    np.testing.assert_allclose(bright.numpy(), expected, atol=1e-6)
    doubled = RandGreyValues(exposure=(2.0, 2.0))
    doubled.levels = np.array([[0.1], [0.6], [0.9]])
    doubled.factors = np.array([2.0])
    # 1/8 becomes 1/4, which the curve by hand takes to 0.375; 0.8 is white
    curve = doubled(torch.tensor([[[0.125, 0.8]]]), randomize=False)
    torch.testing.assert_close(curve, torch.tensor([[[0.375, 0.9]]]))


def test_exposures_below_and_above_one_are_as_many() -> None:
    transform = RandGreyValues(exposure=(0.25, 4.0)).set_random_state(seed=0)
    transform.randomize(2000)
    assert transform.factors is not None
    logs = np.log(transform.factors) / np.log(4)
    assert scipy.stats.kstest(logs, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_without_exposure_all_is_drawn_as_before_there_was_such_a_thing() -> None:
    image = torch.linspace(0, 1, 64).reshape(1, 8, 8)
    plain, same, other = (
        RandGreyValues(noise_std=0.1, **exposure).set_random_state(seed=5)
        for exposure in ({}, {"exposure": (1.0, 1.0)}, {"exposure": (0.9, 1.1)})
    )
    assert torch.equal(plain(image), same(image))
    assert plain.factors is None
    other(image)
    assert np.array_equal(other.levels, plain.levels)
    # and of several images in a row
    assert torch.equal(plain(image), same(image))


@pytest.mark.parametrize("image", [np.zeros((1, 4, 4)), torch.zeros(1, 4, 4).half(), MetaTensor(torch.zeros(1, 4, 4))])
def test_result_is_a_plain_float32_tensor(image: Any) -> None:
    result = RandGreyValues()(image)
    assert type(result) is torch.Tensor
    assert result.dtype == torch.float32


def test_everything_happens_on_the_device_of_the_data() -> None:
    """The meta device stands for any other: mixing it with CPU tensors would raise."""
    assert RandGreyValues(noise_std=0.1)(torch.empty(1, 8, 8, device="meta")).device.type == "meta"


def test_input_and_other_keys_stay_untouched() -> None:
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    item = {"image": image, "label": torch.ones(1, 8, 8)}
    assert RandGreyValuesd()(item)["label"] is item["label"]
    assert torch.equal(image, kept)
    assert RandGreyValuesd(allow_missing_keys=True)({"label": image})["label"] is image


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"black": (0.1, 0.0)}, r"black=\(0.1, 0.0\): a range"),
        ({"slope": (0.9, 1.2)}, r"slope=\(0.9, 1.2\): must include 0.8 .. 1"),
        ({"slope": (0.8, 0.9)}, r"slope=\(0.8, 0.9\): must include 0.8 .. 1"),
        ({"slope": (0.4, 1.2)}, "slope=.*could fall; the lower limit must be at least 0.5"),
        ({"noise_std": -1.0}, "noise_std=-1.0"),
        ({"noise_std": float("inf")}, "noise_std=inf"),
        ({"noise_std": True}, "noise_std=True"),
        ({"black": 0.1}, "black=0.1: a range"),
        ({"white": (1.0,)}, r"white=\(1.0,\): a range"),
        ({"slope": (0.8, 1.2, 1.3)}, r"slope=\(0.8, 1.2, 1.3\): a range"),
        ({"exposure": (1.0, float("inf"))}, r"exposure=\(1.0, inf\): a range"),
        ({"exposure": (2.0, 0.5)}, r"exposure=\(2.0, 0.5\): a range"),
        ({"exposure": (0.0, 1.0)}, r"exposure=\(0.0, 1.0\): factors are greater than 0"),
    ],
)
@pytest.mark.parametrize("transform", [RandGreyValues, RandGreyValuesd])
def test_bad_arguments_are_named(transform: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(**options)


def test_bad_data_are_named() -> None:
    with pytest.raises(ValueError, match=r"image: dtype torch.uint8, must be floating point, scaled to \[0, 1\]"):
        RandGreyValues()(torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"image: shape \(4, 4\), must be channel first"):
        RandGreyValues()(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"image: grey values from 0 to 255, must be scaled to \[0, 1\]"):
        RandGreyValues()(torch.tensor([[[0.0, 255.0]]]))
    with pytest.raises(ValueError, match=r"image: grey values from nan"):
        RandGreyValues()(torch.tensor([[[0.0, float("nan")]]]))
    with pytest.raises(RuntimeError, match="nothing drawn for 1 channels"):
        RandGreyValues()(torch.zeros(1, 4, 4), randomize=False)
