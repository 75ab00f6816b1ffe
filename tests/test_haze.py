"""Haze through a network that learnt nuclei: where it is unsure its map is a mesh of pixels, which no preset counts."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data import phantom
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, label_instances
from unet_paper.loss import PixelWeightedCrossEntropy
from unet_paper.network import UNet

_STEPS, _TILE, _MARGIN = 80, 92, 20
_MEAN, _STD = 0.05, 0.08


@pytest.fixture(scope="module")
def scores() -> NDArray[np.float64]:
    """Score of the cell less that of the background, of an image of smooth haze, by a network of a few steps."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network, loss = UNet(features=(4, 8, 16)), PixelWeightedCrossEntropy()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    images, cells = phantom.fluorescent_nuclei(6, 128, seed=2)
    grey = (torch.from_numpy(images).float() / 255 - _MEAN) / _STD
    labels = torch.from_numpy((cells > 0).astype(np.int64))
    for _ in range(_STEPS):
        number, (top, left) = rng.integers(len(grey)), rng.integers(0, 128 - _TILE + 1, 2)
        tile = grey[None, number : number + 1, top : top + _TILE, left : left + _TILE]
        inside = slice(top + _MARGIN, top + _TILE - _MARGIN), slice(left + _MARGIN, left + _TILE - _MARGIN)
        label = labels[number][inside][None, None]
        optimizer.zero_grad()
        loss(network(tile), label, torch.ones(label.shape)).backward()
        optimizer.step()
    haze = ndimage.gaussian_filter(rng.standard_normal((160, 160)), 25)
    haze = 0.03 + 0.2 * (haze - haze.min()) / np.ptp(haze)
    with torch.no_grad():
        image = torch.from_numpy((haze - _MEAN) / _STD).float()[None, None]
        found = OverlapTileInferer(levels=3)(image, network.eval())[0].double()
    return (found[1] - found[0]).numpy()


def unsure(scores: NDArray[np.float64], at: float, threshold: float) -> NDArray[np.float64]:
    """Probability of the map, moved so that this percentage of the pixels lies below a threshold."""
    return np.asarray(1 / (1 + np.exp(np.percentile(scores, at) - scores) * (1 - threshold) / threshold))


def specks(cells: NDArray[Any]) -> int:
    """Cells of one or two pixels."""
    return int(np.count_nonzero(np.isin(np.bincount(cells.ravel())[1:], (1, 2))))


def test_the_map_is_a_mesh_of_pixels(scores: NDArray[np.float64]) -> None:
    """Without which the next test would prove nothing."""
    assert specks(label_instances(unsure(scores, 80, 0.5), regrow=0)) > 100


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("at", [20, 50, 80, 95])
def test_no_preset_makes_cells_of_it(preset: str, at: float, scores: NDArray[np.float64]) -> None:
    settings = {**PRESETS[preset], "min_size": 0, "field_of_interest": 0}
    cells = label_instances(unsure(scores, at, settings["threshold"]), **settings)
    assert specks(cells) == 0
    assert cells.max() <= 12
