"""The inference and evaluation workflows on tiny networks: outputs, bad input, and what they share with training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import CONFIGS, TINY
from monai.bundle import ConfigParser, create_workflow
from numpy.typing import NDArray
from PIL import Image

from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import label_instances
from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.settings import cause

Run = Callable[..., None]
FEATURES = TINY["features"]
# weights that know nothing of their training need these
TOLD: dict[str, Any] = {"cells_preset": "phantom", "grey_mean": 0.5, "grey_std": 0.17, "device": "cpu"}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(3)
    checkpoint.save(UNet(features=FEATURES).state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 70), dtype=np.uint8)).save(folder / "a.png")
    tifffile.imwrite(folder / "b.tif", rng.integers(0, 65535, (40, 45), dtype=np.uint16))
    tifffile.imwrite(folder / "stack.tif", rng.integers(0, 255, (3, 33, 64), dtype=np.uint8), photometric="minisblack")
    return folder


EXPLICIT: dict[str, Any] = {
    "precision": "float32",
    "memory_format": torch.channels_last,
    "strategy": "tiles",
    "engine": "torch",
    "threads": 1,
}


@pytest.mark.parametrize("explicit", [True, False])
def test_every_image_gets_a_label_image_of_its_size(
    run_bundle: Run, weights: str, images: Path, tmp_path: Path, explicit: bool
) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {"dataset_dir": str(images), "output_dir": str(out), "ckpt_path": weights}
    settings |= EXPLICIT if explicit else {"precision": "float32"}
    run_bundle("run", "inference", **settings, features=FEATURES, **TOLD)
    kinds = ("_cells.tif", "_probability.tif", "_overview.png", "_outlines.png", "_cells.csv", "_rois.zip", ".geojson")
    written = {f"{name}{kind}" for name in ("a", "b", "stack") for kind in kinds}
    of_all = {"predictions.json", "cells.csv", "summary.csv", "predictions.html"}
    assert {path.name for path in out.iterdir()} == written | of_all
    shapes = {name: tifffile.imread(out / f"{name}_cells.tif").shape for name in ("a", "b", "stack")}
    assert shapes == {"a": (50, 70), "b": (40, 45), "stack": (3, 33, 64)}

    # against the parts put together by hand
    network = UNet(features=FEATURES).eval().to(memory_format=torch.channels_last)
    network.load_state_dict(torch.load(weights, weights_only=True))
    pixels = torch.from_numpy(tifffile.imread(images / "stack.tif")[2].astype(np.float32) / 255)
    pixels = (pixels - 0.5) / 0.17
    with torch.no_grad():
        logits = OverlapTileInferer(levels=3)(pixels[None, None], network)
    probability = torch.softmax(logits, dim=1)[0, 1].numpy()
    # what the machine chooses may round differently
    found = tifffile.imread(out / "stack_probability.tif")[2]
    np.testing.assert_allclose(found, probability, rtol=0, atol=1e-6 if explicit else 1e-4)
    cells = tifffile.imread(out / "stack_cells.tif")[2]
    assert np.array_equal(cells > 0, label_instances(probability, **_phantom()) > 0)


def plain_tiles(image: NDArray[np.float32], network: UNet, output: int, margin: int, step: int) -> torch.Tensor:
    """Scores by section 3.1 and Fig. 2 as they were first written: mirror, cut, predict, put together; no inferer.

    Args:
        image: normalised grey values, (H, W).
        network: loses ``margin`` px at every side.
        output: px that a tile predicts; the last one of a row or column only what is left, to a multiple of ``step``.
        margin: px.
        step: the pooling grid.
    """
    height, width = image.shape
    mirrored = np.pad(image, ((margin, margin + step), (margin, margin + step)), mode="reflect")
    scores = torch.empty(2, height, width)
    for top in range(0, height, output):
        for left in range(0, width, output):
            rows, columns = min(output, height - top), min(output, width - left)
            # 4k + 40: what valid 3 x 3 convolutions, pooled twice, take
            read_rows, read_columns = (-(-n // step) * step + 2 * margin for n in (rows, columns))
            tile = torch.from_numpy(mirrored[top : top + read_rows, left : left + read_columns].copy())
            with torch.no_grad():
                predicted = network(tile[None, None])[0]
            scores[:, top : top + rows, left : left + columns] = predicted[:, :rows, :columns]
    return scores


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_with_everything_set_the_bits_are_those_of_the_plain_way(
    run_bundle: Run, weights: str, tmp_path: Path, layout: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (403, 431), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    settings: dict[str, Any] = {**EXPLICIT, "memory_format": layout, "symmetries": "none", "outputs": ["probability"]}
    settings |= {"dataset_dir": str(tmp_path / "a.tif"), "output_dir": str(tmp_path / "out"), "ckpt_path": weights}
    run_bundle("run", "inference", **settings, features=FEATURES, **TOLD)

    network = UNet(features=FEATURES).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
    image = (torch.from_numpy(pixels.astype(np.float32)) / 255 - TOLD["grey_mean"]) / TOLD["grey_std"]
    background, cell = plain_tiles(image.numpy(), network, output=388, margin=20, step=4)
    largest = torch.maximum(background, cell)
    powers = (background - largest).exp(), (cell - largest).exp()
    probability = (powers[1] / (powers[0] + powers[1])).numpy()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a_probability.tif"), probability)
    expected = label_instances(probability, **_phantom())
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a_cells.tif"), expected)


def _phantom() -> dict[str, Any]:
    from unet_paper.instances import PRESETS

    preset = PRESETS["phantom"]
    return dict(preset) if isinstance(preset, dict) else preset.__dict__


def test_one_page_of_a_stack_can_be_named(run_bundle: Run, weights: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {"dataset_dir": f"{images}/stack.tif#1", "output_dir": str(out), "ckpt_path": weights}
    run_bundle("run", "inference", **settings, features=FEATURES, **TOLD)
    (label,) = out.glob("*_cells.tif")
    assert tifffile.imread(label).shape == (33, 64)


def test_evaluation_writes_a_row_a_case_and_a_summary(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **settings)
    trained = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    run_bundle("evaluating", "train", "evaluate", **settings)
    report = tmp_path / "run" / "evaluation"
    summary = json.loads((report / "summary.json").read_text())
    assert summary["checkpoint"]["sha256"] == checkpoint.sha256(tmp_path / "run" / "model.pt")
    assert summary["conventions"]["folds"] == 2
    rows = (report / "cases.csv").read_text().splitlines()
    assert len(rows) == 1 + summary["cases"] == 3
    assert len(list((report / "figures").glob("*.png"))) == 2
    # the best checkpoint scores what it scored in training
    best = max(float(dict(zip(trained[0].split(","), row.split(","), strict=True))["SEG"]) for row in trained[1:])
    assert summary["scores"]["SEG"] == pytest.approx(best, abs=1e-12)


def test_properties_are_complete(images: Path, weights: str, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(CONFIGS / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(images),
        output_dir=str(tmp_path / "out"),
        ckpt_path=weights,
        **TOLD,
    )
    assert workflow.check_properties() == []
    assert not (tmp_path / "out").exists()


def test_what_training_and_inference_share_is_the_same() -> None:
    train, inference = (ConfigParser.load_config_file(str(CONFIGS / f"{name}.yaml")) for name in ("train", "inference"))
    for name in ("network_def", "network", "levels"):
        assert train[name] == inference[name], name

    def of_image(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the preprocessing does to the image."""
        kept = []
        for transform in transforms:
            keys = transform["keys"] if isinstance(transform["keys"], list) else [transform["keys"]]
            if "image" in keys:
                kept.append({**transform, "keys": "image"})
                kept[-1].pop("allow_missing_keys", None)
        return kept

    transforms = train["train"]["deterministic_transforms"] + train["train"]["normalising_transforms"]
    learned = of_image(transforms)
    assert learned == of_image(inference["preprocessing"]["transforms"])

    def steps(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The post-processing of probabilities, but for the name of the result."""
        names = ("KeepProbabilityd", "ClassProbabilitiesd")
        return [{**step, "output_key": None} for step in transforms if not step["_target_"].endswith(names)]

    validated = steps(train["validate"]["postprocessing"]["transforms"])
    assert validated == steps(inference["postprocessing"]["transforms"])
    assert inference["inferer"]["inferer"].pop("progress")
    # a loss is of scores; inference keeps the probability alone
    assert train["validate"]["inferer"].pop("_target_") == "unet_paper.magnification.MagnifiedInferer"
    assert inference["inferer"].pop("_target_") == "unet_paper.probability.CellProbabilityInferer"
    assert train["validate"]["inferer"] == inference["inferer"]


@pytest.mark.parametrize(
    ("name", "array", "named"),
    [
        ("colour.png", np.arange(4800, dtype=np.uint8).reshape(40, 40, 3), "colour.png"),
        ("nan.tif", np.full((40, 40), np.nan, np.float32), "nan.tif"),
        ("nothing.txt", None, "images"),
    ],
)
def test_bad_images_are_named(name: str, array: Any, named: str, run_bundle: Run, weights: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    if array is None:
        (folder / name).write_text("")
    elif name.endswith(".png"):
        Image.fromarray(array).save(folder / name)
    else:
        tifffile.imwrite(folder / name, array)
    settings: dict[str, Any] = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "out"), "ckpt_path": weights}
    with pytest.raises((RuntimeError, ValueError, FileNotFoundError)) as info:
        run_bundle("run", "inference", **settings, **TOLD)
    assert named in str(cause(info.value))
    assert not list((tmp_path / "out").glob("*.tif")) if (tmp_path / "out").exists() else True


def test_a_checkpoint_that_does_not_fit_is_refused(run_bundle: Run, weights: str, images: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**TOLD, "dataset_dir": str(images), "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **settings, ckpt_path=str(tmp_path / "none.pt"), features=FEATURES)
    assert "none.pt" in str(cause(info.value))
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **settings, ckpt_path=weights, features=[4, 8, 32])
    assert "[4, 8, 16]" in str(cause(info.value))
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **settings, ckpt_path=weights, features=FEATURES, ckpt_sha256="0" * 64)
    assert "sha256" in str(cause(info.value))
    # the lock of the run that failed in this process is hidden
    assert all(path.name.startswith(".") for path in (tmp_path / "out").iterdir())


def test_the_released_weights_are_the_ones_the_config_names(run_bundle: Run, images: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset_dir": str(images / "a.png"), "device": "cpu"}
    run_bundle("run", "inference", **settings, output_dir=str(tmp_path / "out"))
    assert tifffile.imread(tmp_path / "out" / "a_cells.tif").shape == (50, 70)
    released = CONFIGS.parent / "models" / "model.pt"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(released.read_bytes() + b"0")
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **settings, output_dir=str(tmp_path / "other"), bundle_root=str(tmp_path))
    assert "sha256" in str(cause(info.value))
