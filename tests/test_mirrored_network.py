"""The network with prediction inside equals our prediction: whole images, blocks, every magnification and averaging."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from unet_paper import magnification
from unet_paper.inferer import OverlapTileInferer
from unet_paper.network import UNet
from unet_paper.probability import probabilities_of_cells
from unet_paper.release import bioimage_io
from unet_paper.release.mirrored_network import BlockSizes, MirroredNetwork, Resizing, block_sizes

FEATURES = [4, 8, 16]
HALF, TWO_THIRDS = Fraction(1, 2), Fraction(2, 3)


def test_grey_values_that_a_package_cannot_describe_are_refused() -> None:
    with pytest.raises(ValueError, match=r"grey_log=0\.02.*--grey_log null"):
        bioimage_io.Wrapped.of(_network(), _facts(grey_log=0.02))


def _facts(**changes: Any) -> dict[str, Any]:
    facts = {"preset": "paper", "grey_mean": 0.4, "grey_std": 0.2, "grey_minimum": 0, "grey_maximum": None}
    return {**facts, "magnification": 1.0, "symmetries": "none", **changes}


def _network(channels: int = 1, classes: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(channels, classes, FEATURES, dropout=0.0).eval()


def _ours(network: UNet, image: Tensor, facts: dict[str, Any]) -> Tensor:
    """Probability of the cell as the configs for inference compute it."""
    inferer = magnification.MagnifiedInferer(
        inferer=OverlapTileInferer(levels=network.levels, tile_size=92, symmetries=facts["symmetries"]),
        magnification=facts["magnification"],
    )
    scaled = image / (facts["grey_maximum"] or 255)
    with torch.no_grad():
        return probabilities_of_cells(inferer((scaled - facts["grey_mean"]) / facts["grey_std"], network))


def _grey(height: int, width: int, channels: int = 1, white: int = 255) -> Tensor:
    return torch.randint(0, white + 1, (1, channels, height, width), generator=torch.Generator().manual_seed(1)).float()


def test_sizes_of_blocks_are_those_of_the_paper() -> None:
    assert block_sizes() == BlockSizes(smallest=208, step=16, halo=96)
    # half the magnification: 92 px of margin, 16 to the next step of the grid, 1 px that resizing averages over are 109
    # px; on the grid 112 px, which are 224 px of the image; a step of 16 px is 32 px of it
    assert block_sizes(5, HALF) == BlockSizes(smallest=480, step=32, halo=224)
    # three levels: a margin of 20 px on a grid of 4 px
    assert block_sizes(3) == BlockSizes(smallest=44, step=4, halo=20)
    # 4 px of the network are 6 px of the image; 20 + 4 + 1 px are 28 on the grid, 42 of the image
    assert block_sizes(3, TWO_THIRDS) == BlockSizes(smallest=90, step=6, halo=42)
    assert block_sizes(3, Fraction(2)).step == 2


@pytest.mark.parametrize("scale", [1, HALF, TWO_THIRDS, Fraction(2)])
@pytest.mark.parametrize("symmetries", ["none", "all"])
def test_whole_images_equal_ours_to_their_borders(scale: Fraction, symmetries: str) -> None:
    network, facts = _network(), _facts(magnification=float(scale), symmetries=symmetries)
    wrapped = bioimage_io.Wrapped.of(network, facts)
    step = wrapped.sizes.step
    image = _grey(18 * step, 23 * step)
    with torch.no_grad():
        found = wrapped.network(image)
    assert found.shape == (1, 2, *image.shape[2:])
    torch.testing.assert_close(found[:, 1:], _ours(network, image, facts), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))


@pytest.mark.parametrize("scale", [1, HALF, TWO_THIRDS])
@pytest.mark.parametrize("symmetries", ["none", "all"])
def test_the_inside_of_a_block_equals_the_whole_image(scale: Fraction, symmetries: str) -> None:
    wrapped = bioimage_io.Wrapped.of(_network(), _facts(magnification=float(scale), symmetries=symmetries))
    smallest, step, halo = wrapped.sizes
    image = _grey(smallest + 4 * step, smallest + 3 * step)
    top, left, bottom, right = step, 2 * step, step + smallest, 2 * step + smallest
    with torch.no_grad():
        whole = wrapped.network(image)
        block = wrapped.network(image[:, :, top:bottom, left:right])
    inside = block[:, :, halo:-halo, halo:-halo]
    assert inside.shape[2:] == (step, step)
    expected = whole[:, :, top + halo : bottom - halo, left + halo : right - halo]
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-6)
    # what is mirrored there is not what is there
    assert not torch.allclose(block, whole[:, :, top:bottom, left:right], atol=1e-3)


def test_several_channels_and_classes_and_another_scale() -> None:
    network = _network(channels=2, classes=3)
    facts = _facts(grey_mean=[0.3, 0.5], grey_std=[0.1, 0.2], grey_maximum=4095)
    wrapped = bioimage_io.Wrapped.of(network, facts)
    image = _grey(48, 44, channels=2, white=4095)
    told = {**facts, "grey_mean": torch.tensor([[[0.3]], [[0.5]]]), "grey_std": torch.tensor([[[0.1]], [[0.2]]])}
    with torch.no_grad():
        torch.testing.assert_close(wrapped.network(image), _ours(network, image, told), rtol=0, atol=2e-5)
    assert wrapped.grey_range == (0, 4095)


@pytest.mark.parametrize("scale", [HALF, TWO_THIRDS, Fraction(3, 2), Fraction(1, 8)])
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_is_that_of_the_inferer(scale: Fraction, antialias: bool) -> None:
    image = torch.rand(2, 3, 7 * scale.denominator, 9 * scale.denominator, generator=torch.Generator().manual_seed(0))
    expected = image
    for dim in (2, 3):
        length = int(image.shape[dim] * scale)
        taps = magnification.resize_taps(image.shape[dim], length, 0, length, antialias=antialias)
        expected = magnification.resize_axis(expected, dim, taps)
    found = Resizing(**bioimage_io.resizing(scale, antialias=antialias))(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scripted", [False, True])
def test_a_size_off_the_grid_is_refused_with_those_that_fit(scripted: bool) -> None:
    network: Any = bioimage_io.Wrapped.of(_network(), _facts()).network
    network = torch.jit.script(network) if scripted else network
    for height, width in ((46, 48), (20, 48), (48, 16)):
        with pytest.raises(
            (ValueError, torch.jit.Error), match=f"{height} x {width} px: .* multiples of 4 px, at least 24"
        ):
            network(torch.zeros(1, 1, height, width))
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 24, 24)).shape == (1, 2, 24, 24)


def test_dropout_of_training_is_none_of_its_own() -> None:
    network = UNet(features=FEATURES, dropout=0.5)
    wrapped = bioimage_io.Wrapped.of(network, _facts()).network
    assert not any(isinstance(module, torch.nn.Dropout) for module in wrapped.modules())
    assert isinstance(wrapped, MirroredNetwork)
    assert not wrapped.training


@pytest.mark.parametrize(("value", "nearest"), [(0.37, "0.375"), (0.01, "0.125"), (0.701, "0.7143")])
def test_a_magnification_that_is_no_simple_fraction_is_refused_with_the_nearest(value: float, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"magnification={value}: .* --magnification {nearest}"):
        bioimage_io.fraction(value)


def test_every_magnification_that_we_choose_is_taken() -> None:
    from unet_paper.app.configuration import MAGNIFICATIONS

    for value in MAGNIFICATIONS:
        assert float(bioimage_io.fraction(value)) == pytest.approx(value, rel=1e-3)


def test_a_magnification_near_a_simple_fraction_is_taken_for_it_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert bioimage_io.fraction(1.12) == Fraction(9, 8)  # of the release for U373 cells
    assert "magnification=1.12: the package resizes by 9/8, 1.125, in its place" in caplog.text
    caplog.clear()
    assert bioimage_io.fraction(0.3333) == Fraction(1, 3)
    assert not caplog.text
