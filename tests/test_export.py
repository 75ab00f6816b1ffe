"""Exported networks equal the eager one at every valid size, carry their facts, and refuse what does not fit."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unet_paper.network import UNet
from unet_paper.release import export
from unet_paper.running import checkpoint

FEATURES = (4, 8)
FACTS = {"grey_mean": 0.46, "grey_std": 0.045, "cells_preset": "phantom"}
# by hand for two levels: a bottleneck of 3 px belongs to an input of 2 (3 + 4 + 4) - 4 px and an output of 2 px
SMALLEST, STEP, MARGIN = 18, 2, 8
TOLERANCE = {".ts": 1e-6, ".onnx": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights, and its two exports."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    checkpoint.save(UNet(features=FEATURES).state_dict(), folder / "model.pt")
    for suffix in TOLERANCE:
        export.export_network(UNet(features=FEATURES), folder / f"model{suffix}", folder / "model.pt", FACTS)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.pt", "model.ts"]
    return folder


@pytest.fixture(scope="module")
def eager(folder: Path) -> nn.Module:
    network = UNet(features=FEATURES).eval()
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    return network


@pytest.fixture(scope="module")
def exported(folder: Path) -> dict[str, nn.Module]:
    return {
        ".ts": export.load_torchscript(folder / "model.ts", FACTS),
        ".onnx": export.load_onnx(folder / "model.onnx", 2, FACTS),
    }


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 3), rows=st.integers(0, 20), columns=st.integers(0, 20), seed=st.integers(0, 99))
def test_exported_equals_eager_at_every_valid_size(
    eager: nn.Module, exported: dict[str, nn.Module], batch: int, rows: int, columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 1, SMALLEST + STEP * rows, SMALLEST + STEP * columns, generator=generator)
    with torch.no_grad():
        expected = eager(image)
        for suffix, network in exported.items():
            torch.testing.assert_close(network(image), expected, rtol=0, atol=TOLERANCE[suffix])


@pytest.mark.parametrize("suffix", TOLERANCE)
def test_the_file_carries_its_facts(suffix: str, folder: Path) -> None:
    facts = export.embedded_facts(folder / f"model{suffix}")
    assert FACTS.items() <= facts.items()
    assert (facts["in_channels"], facts["out_channels"], facts["features"], facts["levels"]) == (1, 2, [4, 8], 2)
    assert (facts["smallest_input"], facts["input_step"], facts["margin"]) == (SMALLEST, STEP, MARGIN)
    assert facts["weights_sha256"] == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    # whoever scales by the words needs each of the numbers
    assert all(
        name in facts["scaling"] for name in ("grey_minimum", "grey_maximum", "grey_log", "grey_mean", "grey_std")
    )


def test_the_onnx_graph_names_its_valid_sizes(folder: Path) -> None:
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    dimensions = [dimension.dim_param or dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim]
    assert (graph.input[0].name, graph.output[0].name) == ("image", "pred")
    assert dimensions == ["batch", 1, "2*k + 4", "2*l + 4"]


@pytest.mark.parametrize("suffix", TOLERANCE)
def test_a_size_that_does_not_pool_is_refused(suffix: str, exported: dict[str, nn.Module]) -> None:
    with pytest.raises((ValueError, torch.jit.Error), match="nearest 20 and 22"):
        exported[suffix](torch.zeros(1, 1, 20, 21))


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"grey_mean": 0.5}, "grey_mean 0.46, the config has 0.5"),
        ({"levels": 5}, "levels 2, the config has 5"),
        ({"colour": "red"}, "carries no colour"),
    ],
)
def test_other_facts_are_refused(expected: dict[str, Any], message: str, folder: Path) -> None:
    loaders: list[Callable[[], object]] = [
        lambda: export.load_torchscript(folder / "model.ts", expected),
        lambda: export.load_onnx(folder / "model.onnx", 2, expected),
    ]
    for load in loaders:
        with pytest.raises(ValueError, match=message):
            load()


def test_another_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for suffix in TOLERANCE:
        broken = tmp_path / f"model{suffix}"
        broken.write_bytes(b"not a network")
        with pytest.raises(ValueError, match=str(broken)):
            export.embedded_facts(broken)
        with pytest.raises(FileNotFoundError, match="none"):
            export.embedded_facts(tmp_path / f"none{suffix}")
    with pytest.raises(ValueError, match="sha256"):
        export.load_torchscript(folder / "model.ts", {}, "0" * 64)
    with pytest.raises(ValueError, match="sha256"):
        export.load_onnx(folder / "model.onnx", 2, {}, "0" * 64)
    own = checkpoint.sha256(folder / "model.ts")
    assert isinstance(export.load_torchscript(folder / "model.ts", {}, own), nn.Module)


def test_nothing_is_written_of_what_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.ts or \.onnx"):
        export.export_network(UNet(features=FEATURES), tmp_path / "model.pth", folder / "model.pt", FACTS)
    with pytest.raises(ValueError, match=r"\[4, 8\]"):
        export.export_network(UNet(features=(4, 8, 16)), tmp_path / "model.ts", folder / "model.pt", FACTS)
    with pytest.raises(ValueError, match="sha256"):
        export.export_network(UNet(features=FEATURES), tmp_path / "model.ts", folder / "model.pt", FACTS, "0" * 64)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnxruntime", "onnxscript", "torch_tensorrt"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"onnxruntime is not installed.*; install onnx onnxscript onnxruntime"):
        export.load_onnx(folder / "model.onnx", 2, {})
    with pytest.raises(ImportError, match=r"onnxscript is not installed.*; install onnx onnxscript onnxruntime"):
        export.export_network(UNet(features=FEATURES), tmp_path / "model.onnx", folder / "model.pt", FACTS)
    with pytest.raises(ImportError, match="torch_tensorrt is not installed"):
        export.load_tensorrt(folder / "model.ts", 92, 2, {})


def test_onnx_refuses_autocast(exported: dict[str, nn.Module]) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="precision"):
        exported[".onnx"](torch.zeros(1, 1, SMALLEST, SMALLEST))


class Engine(nn.Module):
    """As TensorRT's are: one size, and nothing else."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[2] == self.size, "another size than the engine's"
        assert image.shape[3] == self.size, "another size than the engine's"
        return self.network(image)


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(0, 12), columns=st.integers(0, 12))
def test_smaller_tiles_pass_through_an_engine_of_one_size(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    network = UNet(features=FEATURES).double().eval()
    fixed = export.FixedSizeNetwork(Engine(network, 92), 92, levels=2)
    image = torch.randn(1, 1, SMALLEST + STEP * rows, SMALLEST + STEP * columns, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fixed(image), network(image), rtol=0, atol=1e-12)


def test_an_engine_of_one_size_refuses_larger_tiles() -> None:
    with pytest.raises(ValueError, match="takes 92 px"):
        export.FixedSizeNetwork(nn.Identity(), 92, levels=2)(torch.zeros(1, 1, 44, 96))
    with pytest.raises(ValueError, match="nearest 90 and 92"):
        export.FixedSizeNetwork(nn.Identity(), 91, levels=2)


def test_an_engine_file_is_loaded_with_its_facts(
    eager: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what trt_export writes, but for the engine: TorchScript with the config as MONAI stores it
    config = {"features": [4, 8], "grey_mean": 0.5, "network_def": {"_target_": "unet_paper.network.UNet"}}
    path = tmp_path / "model_trt.ts"
    scripted = torch.jit.script(Engine(eager, 92).eval())
    torch.jit.save(scripted, str(path), _extra_files={"inference.json": json.dumps(config)})
    monkeypatch.setitem(sys.modules, "torch_tensorrt", ModuleType("torch_tensorrt"))
    network = export.load_tensorrt(path, 92, 2, {"levels": 2, "grey_mean": 0.5})
    image = torch.randn(1, 1, 60, 72)
    with torch.no_grad():
        torch.testing.assert_close(network(image), eager(image), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"grey_mean 0\.5, the config has 0\.4"):
        export.load_tensorrt(path, 92, 2, {"grey_mean": 0.4})
