"""The network in OpenVINO, against PyTorch's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from unet_paper.data import phantom
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, label_instances
from unet_paper.network import Preset, UNet
from unet_paper.running import checkpoint, openvino_engine
from unet_paper.running.openvino_engine import OpenVinoEngine, OpenVinoNetwork

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
@pytest.mark.parametrize("features", [(3,), (4, 8), (4, 8, 16, 32, 64)])
def test_scores_of_every_valid_size_and_batch(features: Sequence[int], preset: Preset) -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=2, out_channels=3, features=features, preset=preset).eval()
    copy = OpenVinoNetwork(network)
    step = 2 ** (len(features) - 1)
    smallest = {1: 5, 2: 20, 5: 188}[len(features)]
    for batch, rows, columns in ((1, 0, 0), (2, 1, 3), (1, 2, 0)):
        image = torch.randn(batch, 2, smallest + rows * step, smallest + columns * step)
        expected = network(image).detach()
        torch.testing.assert_close(copy(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_images_of_any_size_through_the_inferer() -> None:
    torch.manual_seed(0)
    network = UNet(features=(4, 8, 16)).eval()
    images = torch.rand(2, 1, 61, 83)
    with torch.no_grad():
        expected = OverlapTileInferer(levels=3, strategy="whole")(images, network)
        for options in ({}, {"tile_size": 92}, {"symmetries": "all"}, {"memory_budget": 2_000_000}):
            result = OverlapTileInferer(levels=3, engine=OpenVinoEngine(), **options)(images, network)
            plain = OverlapTileInferer(levels=3, **options)(images, network) if "symmetries" in options else expected
            torch.testing.assert_close(result, plain, rtol=0, atol=1e-5)


def test_released_weights_give_the_same_cells_on_the_phantom(tmp_path: Path) -> None:
    weights = ROOT / "bundle" / "models" / "model.pt"
    network = UNet(features=checkpoint.features(weights)).eval()
    checkpoint.load_weights(network, weights)
    phantom.write(tmp_path / "em", kind="em", frames=1, size=200, seed=3)
    pixels = tifffile.imread(tmp_path / "em" / "train-volume.tif").astype(np.float32)
    image = (torch.from_numpy(pixels.reshape(-1, *pixels.shape[-2:])[0]) / 255 - 0.5) / 0.17
    with torch.no_grad():
        found, expected = (
            torch.softmax(OverlapTileInferer(engine=engine)(image[None, None], network), dim=1)[0, 1].numpy()
            for engine in (OpenVinoEngine(), None)
        )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert 0.05 < float((expected > 0.5).mean()) < 0.95
    preset = PRESETS["isbi2012"]
    settings = preset if isinstance(preset, dict) else preset.__dict__
    assert np.array_equal(label_instances(found, **settings), label_instances(expected, **settings))


def test_built_once_for_the_same_weights_and_anew_for_others() -> None:
    network = UNet(features=(3, 4)).eval()
    engine = OpenVinoEngine()
    first = engine(network)
    assert engine(network) is first
    with torch.autocast("cpu", torch.bfloat16):
        assert engine(network) is not first
    image = torch.rand(1, 1, 20, 20)
    network.initialise()
    changed = engine(network)
    assert isinstance(changed, OpenVinoNetwork)
    torch.testing.assert_close(changed(image), network(image), rtol=0, atol=1e-4)
    network.load_state_dict(UNet(features=(3, 4)).state_dict())
    assert engine(network) is not changed


def test_a_signal_after_two_networks_is_survived() -> None:
    script = (
        "import faulthandler, gc, signal, torch\n"
        "from unet_paper.network import UNet\n"
        "from unet_paper.running.openvino_engine import OpenVinoNetwork\n"
        "faulthandler.enable()\n"  # gives the process a stack for signal handlers, as pytest does
        "signal.signal(signal.SIGUSR1, lambda *_: print('received'))\n"
        "first, second = (OpenVinoNetwork(UNet(features=(3,)).eval()) for _ in range(2))\n"
        "del first\n"
        "gc.collect()\n"
        "del second\n"
        "gc.collect()\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "received\n"), done.stderr


def test_in_training_mode_pytorch_computes() -> None:
    network = UNet(features=(3, 4)).train()
    assert OpenVinoEngine()(network) is network


def test_what_it_cannot_take_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="got Conv2d; use --engine torch"):
        OpenVinoEngine()(nn.Conv2d(1, 1, 3))
    with pytest.raises(ValueError, match="the network is on meta; use --engine torch"):
        OpenVinoEngine()(UNet(features=(3, 4)).eval().to("meta"))
    with pytest.raises(ValueError, match="570: valid sizes"):
        OpenVinoNetwork(UNet(features=(1, 1, 1, 1, 1)))(torch.zeros(1, 1, 570, 572))
    with pytest.raises(ValueError, match="must be torch or openvino"):
        openvino_engine.prediction_engine("onnx")
    with pytest.raises(ValueError, match="takes no engine"):
        OverlapTileInferer(strategy="rows", engine=OpenVinoEngine())
    assert openvino_engine.prediction_engine("torch") is None
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install openvino or use --engine torch"):
        openvino_engine.prediction_engine("openvino")
