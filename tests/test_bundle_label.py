"""What MONAI Label's bundle app does with our configs, step by step, without MONAI Label: no step may change a pixel.

The steps are those of MONAI Label 0.8.5 (``tasks/infer/bundle.py``, ``transform/post.py``, ``transform/writer.py``,
``tasks/train/bundle.py``); ``make label-test`` runs the real server.
"""

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from conftest import CONFIGS, TINY
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import Image

from unet_paper.data import phantom
from unet_paper.data.reader import PageReader, extension
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, Settings
from unet_paper.network import FACTS, UNet
from unet_paper.release import served_training
from unet_paper.running import checkpoint, facts

FEATURES = TINY["features"]
HEIGHT, WIDTH = 50, 71


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle as MONAI Label finds it: one flat file each for inference and for training, and weights."""
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    monkeypatch.setattr(served_training, "is_served", lambda: True)
    training = ["train", "data_folder", "best_folder"]
    for name, files in (("inference", ["inference"]), ("train", training)):
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / f"{file}.yaml") for file in files])
        parser["features"] = FEATURES
        config = parser.get()
        if name == "inference":
            config["ckpt_sha256"] = None  # as in an archive that MONAI Label serves
        else:
            differences = ConfigParser.load_config_file(str(CONFIGS / "monai_label.yaml"))
            config |= {"grey_mean": 0.5, "grey_std": 0.17}  # an archive's training has those of its weights
            config = served_training.also_served(config, differences | {"tile_size": 92, "steps_per_epoch": 2})
        ConfigParser.export_config_file(config, str(root / "configs" / f"{name}.json"), fmt="json", indent=1)
    torch.manual_seed(3)
    weights = {name: value.half() for name, value in UNet(features=FEATURES).state_dict().items()}
    known = {"in_channels": 1, "out_channels": 2, "features": FEATURES, "preset": "paper", "dropout": 0.0}
    prediction = {"grey_mean": 0.5, "grey_std": 0.17, "cells_preset": "isbi2012", "magnification": 1.0}
    # an untrained network makes specks, which a trained one's cells are not
    cells: Settings = {**PRESETS["isbi2012"], "min_width": 1}
    weights[FACTS] = facts.Facts(**known, **prediction, cells=cells).to_tensor()
    checkpoint.save(weights, root / "models" / "model.pt")
    return root


def grey(dtype: type = np.uint8) -> Any:
    cells, _ = phantom.touching_cells(1, (HEIGHT, WIDTH), seed=5)
    return (cells[0].astype(np.float64) * np.iinfo(dtype).max / 255).round().astype(dtype)


WRITERS = {
    "eight.png": lambda path: Image.fromarray(grey()).save(path),
    "eight.tif": lambda path: tifffile.imwrite(path, grey()),
    "sixteen.tif": lambda path: tifffile.imwrite(path, grey(np.uint16)),
    "volume.nii.gz": lambda path: nibabel.save(nibabel.Nifti1Image(grey().T[..., None], np.diag([2.0, 3, 1, 1])), path),
    "plane.nii": lambda path: nibabel.save(nibabel.Nifti1Image(grey().T, np.diag([-1.0, -1, 1, 1])), path),
}


def infer(bundle: Path, image: Path, cell_ids: bool = True, inferer: Any = None) -> tuple[Path, np.ndarray]:
    """As MONAI Label infers; returns the label file that it answers with, and the image that was restored from."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(bundle), "device": "cpu"})
    parser["displayable_configs"].update(cell_ids=cell_ids)
    parser.parse()
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=False)
    network.eval()
    data: dict[str, Any] = {"image": str(image), "image_path": str(image)}
    for transform in parser.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    with torch.no_grad():
        data["pred"] = (inferer or parser.get_parsed_content("inferer"))(data["image"][None], network)[0]
    # of "postprocessing" and "post_transforms" it takes the last that is there
    post: Compose = parser.get_parsed_content("post_transforms")
    for transform in post.transforms:
        data = transform(data)
    predicted, meta = data["pred"], data["image"].meta
    restored = predicted.shape[1:]
    assert tuple(restored) == tuple(meta["spatial_shape"][-len(restored) :]), "MONAI Label would resize the prediction"
    return _write(data, bundle / f"answer{extension(image)}"), predicted


def _write(data: dict[str, Any], path: Path) -> Path:
    """As MONAI Label's writer: x first, and of the affine what belongs to a volume."""
    label = data["pred"]
    if label.ndim > 2:
        nibabel.save(nibabel.Nifti1Image(label, np.asarray(data["image"].meta["original_affine"])), path)
    elif extension(path) == ".png":
        Image.fromarray(label.transpose().copy()).save(path)
    else:
        tifffile.imwrite(path, label.transpose().copy())
    return path


def direct(bundle: Path, image: Path) -> Any:
    out = bundle / "direct"
    monai.bundle.run(
        run_id="run",
        config_file=str(CONFIGS / "inference.yaml"),
        logging_file=False,
        dataset_dir=str(image),
        output_dir=str(out),
        ckpt_path=str(bundle / "models" / "model.pt"),
        features=FEATURES,
        device="cpu",
    )
    (labels,) = out.glob("*_cells.[tn]*")
    return tifffile.imread(labels) if labels.suffix == ".tif" else np.asarray(nibabel.load(labels).dataobj).T.squeeze()


@pytest.mark.parametrize("name", WRITERS)
def test_the_answer_lies_over_the_image_and_equals_direct_inference(name: str, bundle: Path, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    answer, predicted = infer(bundle, tmp_path / name)
    expected = direct(bundle, tmp_path / name)
    assert expected.max() > 2
    assert predicted.dtype == np.uint16
    np.testing.assert_array_equal(PageReader().get_data(str(answer))[0], expected)
    if ".nii" in name:
        label, image = nibabel.load(answer), nibabel.load(tmp_path / name)
        assert label.shape == (WIDTH, HEIGHT, 1)
        np.testing.assert_allclose(label.affine, image.affine)
        np.testing.assert_array_equal(np.asarray(label.dataobj)[..., 0].T, expected)


def test_as_a_mask_the_cells_remain_apart(bundle: Path, tmp_path: Path) -> None:
    WRITERS["eight.png"](tmp_path / "eight.png")
    ids = PageReader().get_data(str(infer(bundle, tmp_path / "eight.png")[0]))[0]
    mask = PageReader().get_data(str(infer(bundle, tmp_path / "eight.png", cell_ids=False)[0]))[0]
    assert np.unique(mask).tolist() == [0, 1]
    assert not mask[ids == 0].any()
    rows, columns = np.nonzero((ids[:, 1:] != ids[:, :-1]) & (ids[:, 1:] > 0) & (ids[:, :-1] > 0))
    assert not mask[rows, columns].any()
    assert not mask[rows, columns + 1].any()


def test_a_prediction_of_the_networks_own_size_would_be_resized(bundle: Path, tmp_path: Path) -> None:
    """Valid convolutions lose a margin: the config needs an inferer that gives back the image's size."""
    WRITERS["eight.png"](tmp_path / "eight.png")

    class Valid(OverlapTileInferer):
        def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
            scores = super().__call__(inputs, network, *args, **kwargs)
            return scores[:, :, 20:-20, 20:-20].softmax(dim=1)

    with pytest.raises(AssertionError, match="would resize"):
        infer(bundle, tmp_path / "eight.png", inferer=Valid(levels=3))


@pytest.fixture
def drawn(tmp_path: Path) -> list[dict[str, str]]:
    """Images and the labels that two programs save for them: ids in a TIFF, a mask in a NIfTI file."""
    images, instances = phantom.touching_cells(2, 96, seed=2)
    cases = []
    for number, kind in enumerate(("tif", "nii.gz")):
        image, label = tmp_path / f"{number}.png", tmp_path / f"{number}.{kind}"
        Image.fromarray(images[number]).save(image)
        if kind == "tif":
            tifffile.imwrite(label, instances[number])
        else:
            nibabel.save(nibabel.Nifti1Image((instances[number] > 0).astype(np.uint8).T[..., None], np.eye(4)), label)
        cases.append({"image": str(image), "label": str(label)})
    return cases


def train(
    bundle: Path, cases: list[dict[str, str]], validation: list[dict[str, str]], epochs: int, run_id: str = "run"
) -> None:
    """As MONAI Label trains: our handlers with its loader of the weights in use put before them."""
    config = ConfigParser.load_config_file(bundle / "configs" / "train.json")
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(bundle / "models" / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    monai.bundle.run(
        run_id=run_id,
        init_id=None,
        final_id=None,
        config_file=str(bundle / "configs" / "train.json"),
        logging_file=False,
        **{
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": epochs,
            "train#dataset#data": cases,
            "validate#dataset#data": validation,
            "device": "cpu",
            "train#handlers": [loader, *config["train"]["handlers"]],
        },
    )


def test_training_starts_from_the_weights_in_use_and_replaces_them(bundle: Path, drawn: list[dict[str, str]]) -> None:
    before = checkpoint.read_weights(bundle / "models" / "model.pt")
    train(bundle, drawn, [], epochs=2)
    run = bundle / "runs" / "monai_label"
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3, "a row an epoch, also where no image is left for validation"
    after = checkpoint.read_weights(bundle / "models" / "model.pt")
    assert after.keys() == before.keys()
    distance = max(float((after[name] - before[name]).abs().max()) for name in before)
    # Adam moves a weight by about the learning rate a step: 4 steps of 3e-4 from these weights, not from random ones
    assert 0 < distance < 2e-3
    best = torch.load(run / "model.pt", weights_only=True)
    assert json.loads(bytes(best.pop(FACTS)))["grey_mean"] == 0.5
    for name, value in best.items():
        torch.testing.assert_close(after[name], value.half().float(), rtol=0, atol=0)

    # the rate falls to zero over the epochs that were asked for, not over those of the config
    last = torch.load(run / "last.pt", weights_only=True)
    assert last["lr_scheduler"]["total_iters"] == 4
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_the_run_id_that_slicer_leaves_empty_trains_too(bundle: Path, drawn: list[dict[str, str]]) -> None:
    before = checkpoint.sha256(bundle / "models" / "model.pt")
    train(bundle, drawn, [], epochs=1, run_id="")
    assert len((bundle / "runs" / "monai_label" / "metrics.csv").read_text().splitlines()) == 2
    assert checkpoint.sha256(bundle / "models" / "model.pt") != before


def test_a_label_that_cannot_be_read_does_not_stop_the_others(
    bundle: Path, drawn: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    Path(drawn[0]["label"]).write_bytes(b"no image")
    train(bundle, drawn, [], epochs=1)
    assert len((bundle / "runs" / "monai_label" / "metrics.csv").read_text().splitlines()) == 2
    (said,) = {record.getMessage() for record in caplog.records if "left out" in record.getMessage()}
    assert drawn[0]["label"] in said


def test_another_training_moves_the_earlier_run_aside(bundle: Path, drawn: list[dict[str, str]]) -> None:
    run = bundle / "runs" / "monai_label"
    run.mkdir(parents=True)
    (run / "last.pt").write_text("earlier")
    train(bundle, drawn[:1], drawn[1:], epochs=1)
    assert (bundle / "runs" / "monai_label.1" / "last.pt").read_text() == "earlier"
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


def test_training_without_a_label_says_what_to_do(bundle: Path) -> None:
    with pytest.raises(RuntimeError) as info:
        train(bundle, [], [], epochs=1)
    assert "save a label" in str(info.getrepr())
