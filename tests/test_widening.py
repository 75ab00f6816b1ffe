"""A narrow network's weights as the start of a wider one: the same output at first, more to learn with."""

import logging
from pathlib import Path
from typing import get_args

import pytest
import torch

from unet_paper.network import Preset, UNet
from unet_paper.running import checkpoint, widening

NARROW = (2, 3, 5)


def networks(factor: int, preset: Preset) -> tuple[UNet, UNet]:
    torch.manual_seed(3)
    narrow = UNet(in_channels=3, out_channels=4, features=NARROW, preset=preset, dropout=0.0)
    for parameter in narrow.parameters():  # biases start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    wide = UNet(3, 4, [factor * features for features in NARROW], preset, dropout=0.0)
    wide.load_state_dict(widening.widened(narrow.state_dict(), factor))
    return narrow, wide


@pytest.mark.parametrize("preset", get_args(Preset))
@pytest.mark.parametrize("factor", [2, 3])
def test_the_output_is_that_of_the_narrow_network(factor: int, preset: Preset) -> None:
    narrow, wide = networks(factor, preset)
    image = torch.randn(1, 3, 60, 76)
    expected = narrow(image)
    assert expected.std() > 0.1
    torch.testing.assert_close(wide(image), expected, rtol=1e-4, atol=1e-4)


def test_copies_learn_different_things() -> None:
    _, wide = networks(2, "paper")
    optimizer = torch.optim.Adam(wide.parameters(), lr=0.01)
    before = wide.contracting[0][0].weight.detach().clone()
    assert torch.equal(before[0::2], before[1::2])
    for _ in range(2):
        optimizer.zero_grad()
        wide(torch.randn(1, 3, 60, 60)).square().mean().backward()
        optimizer.step()
    after = wide.contracting[0][0].weight.detach()
    assert (after[0::2] - after[1::2]).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_training_starts_from_narrower_weights_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    narrow, _ = networks(2, "paper")
    checkpoint.save(narrow.state_dict(), tmp_path / "narrow.pt")
    wide = UNet(3, 2, (4, 6, 10))
    own_classifier = wide.classifier.weight.detach().clone()
    with caplog.at_level(logging.WARNING):
        checkpoint.start_from(wide, tmp_path / "narrow.pt")
    assert "narrow.pt has fewer features: this network starts from 2 copies of each" in caplog.text
    # another number of classes as well
    assert torch.equal(wide.classifier.weight, own_classifier)
    assert torch.equal(wide.contracting[0][0].weight[0::2], narrow.contracting[0][0].weight)


def test_predicting_with_a_wider_network_is_refused(tmp_path: Path) -> None:
    narrow, wide = networks(2, "paper")
    checkpoint.save(narrow.state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(ValueError, match=r"narrow.pt: belongs to another architecture.*\[2, 3, 5\]"):
        checkpoint.load_weights(wide, tmp_path / "narrow.pt")
