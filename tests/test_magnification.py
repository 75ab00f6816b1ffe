"""Prediction at another magnification: sizes, laws, and agreement with resizing by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch.nn.functional import interpolate

from unet_paper.inferer import OverlapTileInferer
from unet_paper.magnification import MagnifiedInferer, resize_axis, resize_taps
from unet_paper.network import UNet


def test_magnification_1_is_the_inferer_itself() -> None:
    torch.manual_seed(0)
    network = UNet(features=(2, 4, 8)).eval()
    image = torch.randn(1, 1, 50, 61)
    inferer = OverlapTileInferer(levels=3)
    assert torch.equal(MagnifiedInferer(inferer=inferer)(image, network), inferer(image, network))


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.3, 0.5, 0.75, 2.0]))
def test_scores_have_the_size_of_the_image_and_constants_stay(height: int, width: int, magnification: float) -> None:
    inferer = MagnifiedInferer(inferer=SimpleInferer(), magnification=magnification)
    scores = inferer(torch.full((2, 1, height, width), 3.0), lambda x: torch.cat((x, -x), dim=1))
    assert scores.shape == (2, 2, height, width)
    torch.testing.assert_close(scores[:, 0], torch.full((2, height, width), 3.0))
    torch.testing.assert_close(scores[:, 1], -scores[:, 0])


def test_the_network_sees_the_image_at_its_magnification() -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x

    ramp = torch.arange(64.0).expand(1, 1, 32, 64)
    scores = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)(ramp, network)
    assert seen == [(1, 1, 16, 32)]
    # a straight line survives both ways, but where the border is repeated
    torch.testing.assert_close(scores[..., 4:-4], ramp[..., 4:-4])


def test_metadata_of_the_image_stays() -> None:
    image = MetaTensor(torch.ones(1, 1, 8, 8), meta={"filename_or_obj": "a.png"})
    scores = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)(image, lambda x: x)
    assert scores.meta["filename_or_obj"] == "a.png"


def test_what_cannot_be_resized_is_refused() -> None:
    with pytest.raises(ValueError, match="inferer='x'"):
        MagnifiedInferer(inferer="x")
    half = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 4, 0\)"):
        half(torch.zeros(1, 1, 4, 0), lambda x: x)


@pytest.mark.parametrize("magnification", [0.0, -1.0, float("nan"), float("inf"), True, "half"])
def test_impossible_magnifications_are_refused(magnification: Any) -> None:
    with pytest.raises(ValueError, match=f"magnification={magnification!r}"):
        MagnifiedInferer(inferer=SimpleInferer(), magnification=magnification)


lengths = st.integers(1, 60)


@given(length=lengths, resized=lengths, antialias=st.booleans())
def test_axes_are_resized_as_torch_does_it(length: int, resized: int, antialias: bool) -> None:
    image = torch.rand(1, 1, 3, length, generator=torch.Generator().manual_seed(length))
    taps = resize_taps(length, resized, 0, resized, antialias=antialias)
    expected = interpolate(image, (3, resized), mode="bilinear", align_corners=False, antialias=antialias)
    torch.testing.assert_close(resize_axis(image, 3, taps), expected, atol=1e-5, rtol=0)


@given(data=st.data(), length=lengths, resized=lengths, antialias=st.booleans())
def test_a_part_is_resized_as_in_the_whole(data: st.DataObject, length: int, resized: int, antialias: bool) -> None:
    start = data.draw(st.integers(0, resized - 1))
    stop = data.draw(st.integers(start + 1, resized))
    image = torch.rand(2, length, 7, generator=torch.Generator().manual_seed(length))
    whole = resize_axis(image, 1, resize_taps(length, resized, 0, resized, antialias=antialias))
    taps = resize_taps(length, resized, start, stop, antialias=antialias)
    first, last = int(taps.sources.min()), int(taps.sources.max())
    part = resize_axis(image[:, first : last + 1, 2:5], 1, taps, first)
    assert torch.equal(part, whole[:, start:stop, 2:5])
