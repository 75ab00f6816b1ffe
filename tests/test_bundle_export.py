"""Export through the bundle, ours and MONAI's, and prediction of whole images by what was exported."""

import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from conftest import CONFIGS
from monai.bundle import ConfigParser, create_workflow
from torch import Tensor, nn

from unet_paper.network import UNet
from unet_paper.release import export
from unet_paper.running import checkpoint
from unet_paper.running.settings import cause

Run = Callable[..., None]
TINY = {"features": [4, 8], "device": "cpu", "cells_preset": "phantom", "grey_mean": 0.46, "grey_std": 0.2}
RELEASED = CONFIGS.parent / "models" / "model.pt"
OVERLAYS = {"inference_torchscript": "model.ts", "inference_onnx": "model.onnx"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network, in half precision as releases are."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    checkpoint.save(UNet(features=[4, 8]).state_dict(), folder / "float.pt")
    checkpoint.export_weights(folder / "float.pt", folder / "model.pt")
    return folder / "model.pt"


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    """Folder with the tiny network in both formats, by ``export.yaml``."""
    files = [str(CONFIGS / f"{name}.yaml") for name in ("inference", "export")]
    for name in OVERLAYS.values():
        settings: dict[str, Any] = {**TINY, "ckpt_path": str(weights), "export_path": str(weights.parent / name)}
        monai.bundle.run(run_id="run", config_file=files, logging_file=False, **settings)
    return weights.parent


def test_prediction_is_the_same_by_every_format(
    run_bundle: Run, exported: Path, weights: Path, em_folder: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**TINY, "dataset_dir": f"{em_folder}/train-volume.tif"}
    run_bundle("run", "inference", **settings, ckpt_path=str(weights), output_dir=str(tmp_path / "eager"))
    expected = tifffile.imread(tmp_path / "eager" / "train-volume_cells.tif")
    assert expected.shape == (8, 96, 96)
    assert expected.any()
    for overlay, name in OVERLAYS.items():
        output = tmp_path / name
        run_bundle("run", "inference", overlay, **settings, ckpt_path=str(exported / name), output_dir=str(output))
        assert np.array_equal(tifffile.imread(output / "train-volume_cells.tif"), expected), name
        probability, eager = (
            tifffile.imread(folder / "train-volume_probability.tif") for folder in (output, tmp_path / "eager")
        )
        np.testing.assert_allclose(probability, eager, rtol=0, atol=1e-5)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grey_mean": 0.5}, "grey_mean 0.46, the config has 0.5"),
        ({"magnification": 0.5}, "magnification 1.0, the config has 0.5"),
        ({"features": [4, 8, 16]}, "levels 2, the config has 3"),
        ({"ckpt_path": "none.ts"}, "none.ts: no such exported network"),
        ({"ckpt_sha256": "0" * 64}, "sha256"),
        ({"strategy": "rows"}, "use strategy='tiles'"),
    ],
)
def test_what_does_not_fit_is_refused(
    overlay: str,
    settings: dict[str, Any],
    message: str,
    run_bundle: Run,
    exported: Path,
    em_folder: str,
    tmp_path: Path,
) -> None:
    given = {**TINY, "ckpt_path": str(exported / OVERLAYS[overlay]), **settings}
    with pytest.raises((RuntimeError, TypeError)) as info:
        run_bundle("run", "inference", overlay, **given, dataset_dir=em_folder, output_dir=str(tmp_path / "out"))
    assert message in str(cause(info.value))


def test_monai_exports_torchscript_that_the_overlay_reads(
    run_bundle: Run, cells_folder: str, real_or_phantom: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.ts"
    monai.bundle.ckpt_export(
        filepath=str(path),
        ckpt_file=str(RELEASED),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.yaml"),
    )
    network = torch.jit.load(path)
    for image in (real_or_phantom, real_or_phantom[..., :188, :204]):
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(image), released()(image), rtol=0, atol=1e-6)
    settings: dict[str, Any] = {"ckpt_path": str(path), "dataset_dir": f"{cells_folder}/01", "device": "cpu"}
    run_bundle("run", "inference", "inference_torchscript", **settings, output_dir=str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*_cells.tif"))) == 4
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", "inference_torchscript", **settings, grey_std=0.1)
    assert "grey_std 0.17, the config has 0.1" in str(cause(info.value))


@pytest.mark.filterwarnings(
    "ignore:.*'dynamic_axes' is not recommended:UserWarning",
    "ignore:from_dynamic_axes_to_dynamic_shapes is deprecated:DeprecationWarning",
    "ignore:unclosed:ResourceWarning",
)
def test_monai_exports_onnx_with_dynamic_axes(
    run_bundle: Run, weights: Path, em_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.onnx"
    monai.bundle.onnx_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(weights),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.yaml"),
        converter_kwargs={
            "input_names": ["image"],
            "output_names": ["pred"],
            "dynamic_axes": {"image": {0: "batch", 2: "height", 3: "width"}},
        },
        features=[4, 8],
    )
    gc.collect()  # MONAI leaves a temporary file open, which would be reported in the next test
    network = UNet(features=[4, 8]).eval()
    checkpoint.load_weights(network, weights)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 60, 84), (2, 1, 86, 60), (1, 1, 200, 300)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = network(image).numpy()
        np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, rtol=0, atol=1e-4)
    settings: dict[str, Any] = {**TINY, "ckpt_path": str(path), "dataset_dir": f"{em_folder}/train-volume.tif"}
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", "inference_onnx", **settings, output_dir=str(tmp_path / "out"))
    assert "carries no grey_mean" in str(cause(info.value))
    assert "does not say how it was trained" not in caplog.text
    run_bundle("run", "inference", "inference_onnx", **settings, expected_facts={}, output_dir=str(tmp_path / "out"))
    assert caplog.text.count(f"ckpt_path={path}: does not say how it was trained") == 1
    assert tifffile.imread(tmp_path / "out" / "train-volume_cells.tif").shape == (8, 96, 96)


@pytest.fixture(scope="module")
def real_stack(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real EM slices, in a file of their own."""
    path = tmp_path_factory.mktemp("real") / "em.tif"
    pages = tifffile.imread(real_data / "isbi2012" / "train-volume.tif")[3:5]
    tifffile.imwrite(path, pages, photometric="minisblack")
    return path


@pytest.fixture(params=["phantom", "real"])
def real_or_phantom(request: pytest.FixtureRequest, em_folder: str) -> Tensor:
    """A page of EM, scaled and normalised as the released network wants it."""
    if request.param == "real":
        pixels = tifffile.imread(request.getfixturevalue("real_stack"))[0, :380, :396]
    else:
        pixels = np.tile(tifffile.imread(f"{em_folder}/train-volume.tif")[0], (3, 3))[:220, :252]
    return torch.from_numpy((pixels / 255 - 0.5) / 0.17)[None, None].float()


def released() -> nn.Module:
    network = UNet(features=checkpoint.features(RELEASED)).eval()
    checkpoint.load_weights(network, RELEASED)
    return network


def test_the_release_on_real_images(run_bundle: Run, real_stack: Path, tmp_path: Path) -> None:
    run_bundle("run", "inference", dataset_dir=str(real_stack), output_dir=str(tmp_path / "eager"), device="cpu")
    expected = tifffile.imread(tmp_path / "eager" / "em_cells.tif")
    pixels = tifffile.imread(real_stack)[0, :188, :204]
    image = torch.from_numpy((pixels / 255 - 0.5) / 0.17)[None, None].float()
    for overlay, name, tolerance in (
        ("inference_torchscript", "model.ts", 1e-6),
        ("inference_onnx", "model.onnx", 1e-4),
    ):
        path = str(tmp_path / name)
        run_bundle("run", "inference", "export", export_path=path, device="cpu")
        loaded = export.load_torchscript(path, {}) if name.endswith("ts") else export.load_onnx(path, 5, {})
        with torch.no_grad():
            torch.testing.assert_close(loaded(image), released()(image), rtol=0, atol=tolerance)
        settings: dict[str, Any] = {"ckpt_path": path, "dataset_dir": str(real_stack), "device": "cpu"}
        run_bundle("run", "inference", overlay, **settings, output_dir=str(tmp_path / overlay))
        cells = tifffile.imread(tmp_path / overlay / "em_cells.tif")
        assert cells.max() == expected.max(), name
        # rounding decides of a pixel whose probability is the threshold to the last digit
        assert (cells != expected).mean() < 1e-5, name


def test_overlays_change_nothing_but_the_network() -> None:
    configs = {
        name: ConfigParser.load_config_file(str(CONFIGS / f"{name}.yaml"))
        for name in ("inference", "inference_torchscript", "inference_onnx", "inference_trt")
    }
    handlers = configs["inference"]["handlers"]
    kept = [handler for handler in handlers if handler["_target_"] != "unet_paper.running.checkpoint.WeightsLoader"]
    assert len(kept) == len(handlers) - 1
    for overlay in ("inference_torchscript", "inference_onnx", "inference_trt"):
        assert configs[overlay]["handlers"] == kept
        assert configs[overlay]["expected_facts"] == configs["inference_onnx"]["expected_facts"]


def test_tensorrt_parses_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, em_folder: str) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    workflow = create_workflow(
        config_file=[str(CONFIGS / f"{name}.yaml") for name in ("inference", "inference_trt")],
        workflow_type="infer",
        logging_file=False,
        dataset_dir=em_folder,
        device="cpu",
    )
    workflow.initialize()
    assert workflow.parser.get_parsed_content("inferer").inferer.tile_size == 572
    with pytest.raises(RuntimeError) as info:
        workflow.run()
    assert re.search("torch_tensorrt is not installed.*NVIDIA", str(cause(info.value)))
