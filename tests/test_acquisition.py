"""Laws of RandAcquisition(d): each change alone, by what it must leave and what it must do."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose
from scipy import ndimage

from unet_paper.acquisition import RandAcquisition, RandAcquisitiond, blurred

ALL: dict[str, Any] = {"contrast": (0.7, 1.4), "shading": 0.05, "blur": (0.0, 1.5), "noise_std": 0.01}


def picture(channels: int = 1, size: int = 64) -> torch.Tensor:
    random = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(random.random((channels, size, size)), (0, 3, 3))
    return torch.as_tensor(0.3 + smooth, dtype=torch.float32)


def test_nothing_is_changed_unless_asked_for() -> None:
    image = picture()
    assert RandAcquisition().set_random_state(seed=0)(image) is image


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_contrast_keeps_the_mean_and_multiplies_distances_from_it(seed: int) -> None:
    image = picture(channels=2)
    result = RandAcquisition(contrast=(0.5, 2.0)).set_random_state(seed=seed)(image)
    factor = result.std(dim=(1, 2)) / image.std(dim=(1, 2))
    assert ((factor > 0.499) & (factor < 2.001)).all()
    mean = image.mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(
        torch.as_tensor(result), mean + factor[:, None, None] * (image - mean), atol=1e-5, rtol=0
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_shading_is_smooth_light_of_the_stated_strength(seed: int) -> None:
    image = picture()
    light = (RandAcquisition(shading=0.05).set_random_state(seed=seed)(image) / image).log()
    # ten coefficients of Legendre polynomials, none of which leaves [-1, 1]
    assert light.abs().max() <= 10 * 0.05 + 1e-5
    # of third degree along each axis: fourth differences of a line vanish
    for axis in (1, 2):
        assert torch.as_tensor(light).double().diff(n=4, dim=axis).abs().max() < 1e-5


def test_shading_differs_from_tile_to_tile() -> None:
    transform = RandAcquisition(shading=0.05).set_random_state(seed=0)
    assert not torch.equal(transform(picture()), transform(picture()))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_blur_is_a_gaussian_that_mirrors_the_border(sigma: float) -> None:
    image = picture(channels=2)
    # MONAI's kernel integrates the Gaussian over each pixel, which widens it by a twelfth of a px^2
    widened = (sigma**2 + 1 / 12) ** 0.5
    expected = ndimage.gaussian_filter(image.double().numpy(), (0, widened, widened), mode="mirror")
    assert np.abs(blurred(image, sigma).numpy() - expected).max() < 0.02 * float(image.std())
    # no dark rim, as black beyond the border would give: a constant stays one
    torch.testing.assert_close(
        blurred(torch.full((1, 20, 20), 0.4), sigma), torch.full((1, 20, 20), 0.4), atol=1e-4, rtol=0
    )


def test_blur_takes_from_noise_and_leaves_the_mean() -> None:
    image = torch.as_tensor(np.random.default_rng(0).normal(0.4, 0.1, (1, 200, 200)), dtype=torch.float32)
    spread = [float(RandAcquisition(blur=(s, s)).set_random_state(seed=0)(image).std()) for s in (0.5, 1.0, 2.0)]
    assert spread[0] > spread[1] > spread[2] > 0
    # of white noise a Gaussian of sigma leaves 1 / (2 sqrt(pi) sigma)
    assert spread[2] == pytest.approx(0.1 / (2 * np.pi**0.5 * 2), rel=0.1)


def test_noise_is_white_and_of_many_strengths_up_to_the_stated_one() -> None:
    transform = RandAcquisition(noise_std=0.02).set_random_state(seed=1)
    flat = torch.full((1, 100, 100), 0.5)
    drawn = [transform(flat) - flat for _ in range(30)]
    spread = np.array([float(noise.std()) for noise in drawn])
    assert spread.max() <= 0.0205
    assert spread.min() < 0.005 < 0.015 < spread.max()
    strongest = np.asarray(drawn[int(spread.argmax())])[0]
    assert abs(np.corrcoef(strongest[:, 1:].ravel(), strongest[:, :-1].ravel())[0, 1]) < 0.05


def test_a_seed_tells_everything_and_the_argument_stays() -> None:
    image = picture()
    before = image.clone()
    transform = Compose([RandAcquisitiond(keys="image", **ALL)])
    first, second = (transform.set_random_state(seed=7)({"image": image})["image"] for _ in range(2))
    other = transform.set_random_state(seed=8)({"image": image})["image"]
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(image, before)
    assert first.shape == image.shape
    assert first.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast": (0.0, 1.0)}, r"contrast=\(0.0, 1.0\): factors .* 0 < low <= high"),
        ({"contrast": (2.0, 1.0)}, r"contrast=\(2.0, 1.0\)"),
        ({"blur": (-1.0, 1.0)}, r"blur=\(-1.0, 1.0\): px, 0 <= low <= high"),
        ({"shading": -0.1}, "shading=-0.1: expected 0"),
        ({"noise_std": float("nan")}, "further_noise_std=nan"),
        ({"noise_std": True}, "further_noise_std=True: .*noise_std"),
        ({"shading": float("inf")}, "shading=inf"),
        ({"contrast": 2.0}, "contrast=2.0: factors"),
        ({"contrast": (1.0, float("inf"))}, r"contrast=\(1.0, inf\)"),
        ({"blur": (1.0,)}, r"blur=\(1.0,\): px"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAcquisition(**options)


def test_images_that_cannot_be_changed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image: shape \(8, 8\).*channel first"):
        RandAcquisition(shading=0.1)(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"torch.uint8: .*floating point"):
        RandAcquisition(blur=(1.0, 1.0))(torch.zeros(1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"sigma of 3 px reaches 12 px, .*\(1, 12, 40\); blur less"):
        RandAcquisition(blur=(3.0, 3.0))(torch.zeros(1, 12, 40))
    assert RandAcquisition(blur=(3.0, 3.0))(torch.zeros(1, 13, 40)).shape == (1, 13, 40)
