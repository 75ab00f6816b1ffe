"""The training workflow: every config on a tiny phantom, interruption and resumption, and what stops it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import CONFIGS, TINY
from monai.bundle import create_workflow
from PIL import Image

from unet_paper.data import datasets, phantom
from unet_paper.running.settings import cause
from unet_paper.running.unused_settings import unused_settings

Run = Callable[..., None]

# and an average of all weights that there were
EVERYTHING_RANDOM: dict[str, Any] = {
    "dropout": 0.3,
    "flip": True,
    "paste_cells": [1, 2],
    "exposure": [0.8, 1.25],
    "contrast": [0.7, 1.4],
    "shading": 0.05,
    "blur": [0.0, 1.0],
    "further_noise_std": 0.01,
    "average_decay": 0.9,
}


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    """Equal to the last bit, tensors, containers and numbers alike."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("run_id", ["training", "run"])
def test_training_leaves_checkpoints_tables_curves_and_pictures(
    run_id: str, run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    run_bundle(run_id, "train", **TINY, dataset_dir=cells_folder, output_dir=str(tmp_path / "run"))
    folder = tmp_path / "run"
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert state(folder)["iteration"] == 6
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert {"train_loss", "val_loss", "SEG", "IoU", "pixel_error", "learning_rate"} <= set(rows[0])
    validation = datasets.ctc(cells_folder, "validation", fold=0, folds=2)
    assert len(list((folder / "figures").glob("*.png"))) == len(validation)
    for picture in [folder / "curves.png", *(folder / "figures").glob("*.png")]:
        assert np.asarray(Image.open(picture)).std() > 0
    assert list((folder / "tensorboard").iterdir())
    assert not list(folder.rglob("*.part"))


def test_overlays_run(run_bundle: Run, cells_folder: str, em_folder: str, tmp_path: Path) -> None:
    common = {**TINY, "max_epochs": 1}
    run_bundle("training", "train", "data_isbi2012", **common, dataset_dir=em_folder, output_dir=str(tmp_path / "em"))
    for name in ("data_dic_hela", "data_phc_u373"):
        run_bundle("training", "train", name, **common, dataset_dir=cells_folder, output_dir=str(tmp_path / name))
    own = tmp_path / "own"
    for kind, source in (("images", "01"), ("masks", "01_GT/SEG")):
        (own / kind).mkdir(parents=True)
        for number, file in enumerate(sorted((Path(cells_folder) / source).iterdir())):
            tifffile.imwrite(own / kind / f"well{number}.tif", tifffile.imread(file))
    run_bundle("training", "train", "data_folder", **common, dataset_dir=str(own), output_dir=str(tmp_path / "folder"))
    for name in ("em", "data_dic_hela", "data_phc_u373", "folder"):
        assert (tmp_path / name / "model.pt").is_file(), name


def test_resumed_equals_uninterrupted_bit_for_bit(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    # the same schedule, though one run is told to stop half way
    settings = {**TINY, "dataset_dir": cells_folder, "lr_scheduler#total_iters": 12, **EVERYTHING_RANDOM}
    run_bundle("training", "train", **{**settings, "max_epochs": 4}, output_dir=str(tmp_path / "whole"))
    run_bundle("training", "train", **{**settings, "max_epochs": 2}, output_dir=str(tmp_path / "parts"))
    assert state(tmp_path / "parts")["epoch"] == 2
    run_bundle("training", "train", **{**settings, "max_epochs": 4}, output_dir=str(tmp_path / "parts"), resume=True)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    scores = [
        [line.split(",", 3)[3] for line in (tmp_path / name / "metrics.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert scores[0] == scores[1]  # all columns but epoch, step and seconds


def test_another_seed_gives_another_run(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    settings = {**TINY, "max_epochs": 1, "dataset_dir": cells_folder}
    for seed in (0, 1):
        run_bundle("training", "train", **settings, seed=seed, output_dir=str(tmp_path / str(seed)))
    first, second = (state(tmp_path / str(seed))["network"]["classifier.weight"] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_killed_run_resumes(cells_folder: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(CONFIGS / "train.yaml")]
    settings = {**TINY, "max_epochs": 1000, "val_interval": 1000, "dataset_dir": cells_folder}
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command += ["--output_dir", "run"]
    folder = tmp_path / "run"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (folder / "last.pt").is_file():
            assert process.poll() is None, "training ended by itself"
            assert time.monotonic() < deadline, "no checkpoint after two minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = state(folder)["epoch"]
    # the last --max_epochs counts
    command += ["--resume", "True", "--max_epochs", str(before + 1)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"epoch {before}, step {3 * before}" in done.stdout
    assert state(folder)["epoch"] == before + 1


def test_a_second_run_moves_the_first_aside(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    settings = {**TINY, "max_epochs": 1, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **settings)
    first = state(tmp_path / "run")
    run_bundle("training", "train", **settings, seed=5)
    assert_same(state(tmp_path / "run.1"), first)


def test_nan_loss_stops_training_and_keeps_the_last_good_checkpoint(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **{**settings, "max_epochs": 1})
    good = state(tmp_path / "run")
    diverging = {**settings, "max_epochs": 3, "learning_rate": 1e30, "resume": True}
    # the schedule of the checkpoint would bring its own learning rate back
    torch.save(
        {
            **good,
            "optimizer": {**good["optimizer"], "param_groups": [{**good["optimizer"]["param_groups"][0], "lr": 1e30}]},
        },
        tmp_path / "run" / "last.pt",
    )
    kept = state(tmp_path / "run")
    with pytest.raises(Exception, match="Failed to evaluate") as info:
        run_bundle("training", "train", **diverging)
    assert isinstance(cause(info.value), FloatingPointError)
    assert "--resume" in str(cause(info.value))
    assert_same(state(tmp_path / "run"), kept)


def test_properties_are_complete() -> None:
    for overlay in (None, "data_isbi2012", "data_dic_hela", "data_phc_u373", "data_folder"):
        files = [str(CONFIGS / f"{name}.yaml") for name in ("train", overlay) if name]
        workflow = create_workflow(config_file=files, workflow_type="train", logging_file=False)
        assert set(workflow.parser.get()) >= {"bundle_root", "device", "dataset_dir", "network"}
        assert unused_settings(workflow.parser.get()) == {}


def test_check_properties_is_clean(cells_folder: str, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(CONFIGS / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=cells_folder,
        output_dir=str(tmp_path / "run"),
        **TINY,
    )
    assert workflow.check_properties() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [("learnig_rate", 0.1, "learning_rate"), ("train#sampling", 1, "train#sampler"), ("feature", [8], "features")],
)
def test_a_misspelt_setting_is_refused(setting: str, value: Any, hint: str, run_bundle: Run) -> None:
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", **{setting: value})
    message = str(cause(info.value))
    assert f"--{setting}={value!r}" in message
    assert hint in message


def test_an_override_may_make_other_settings_useless(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    """MONAI Label replaces the lists of cases, after which nothing uses the split."""
    cases = datasets.ctc(cells_folder, "all")[:2]
    data = {"train#dataset#data": cases, "validate#dataset#data": cases}
    settings = {**TINY, "max_epochs": 1, "output_dir": str(tmp_path / "run")}
    run_bundle("run", "train", **settings, **data)
    assert (tmp_path / "run" / "model.pt").is_file()


def broken_sets(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Data folders with something wrong, and what the error must name."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40] = 1

    def make(name: str, images: dict[str, Any], masks: dict[str, Any]) -> Path:
        for kind, files in (("images", images), ("masks", masks)):
            (tmp_path / name / kind).mkdir(parents=True)
            for file, array in files.items():
                tifffile.imwrite(tmp_path / name / kind / file, array)
        return tmp_path / name

    good = {"a.tif": mask, "b.tif": mask}
    nan = np.full((64, 64), np.nan, np.float32)
    sets = {
        "lonely image": (make("image", {"a.tif": image, "b.tif": image}, {"a.tif": mask}), "b.tif"),
        "lonely mask": (make("mask", {"a.tif": image}, good), "b.tif"),
        "other shape": (make("shape", {"a.tif": image, "b.tif": image[:50]}, good), "b.tif"),
        "empty": (make("empty", {}, {}), "images"),
        "colour": (
            make(
                "rgb",
                {"a.tif": np.stack([image, image, image.T], -1), "b.tif": np.stack([image, image, image.T], -1)},
                good,
            ),
            ".tif",
        ),
        "not a number": (make("nan", {"a.tif": nan, "b.tif": nan}, good), ".tif"),
        "missing": (tmp_path / "nowhere", "nowhere"),
    }
    truncated = make("truncated", {"a.tif": image, "b.tif": image}, good)
    content = (truncated / "images" / "b.tif").read_bytes()
    (truncated / "images" / "b.tif").write_bytes(content[: len(content) // 2])
    sets["truncated"] = (truncated, "b.tif")
    return sets


def test_broken_data_is_named_and_leaves_no_run_behind(run_bundle: Run, tmp_path: Path) -> None:
    for problem, (folder, named) in broken_sets(tmp_path).items():
        with pytest.raises((RuntimeError, ValueError, FileNotFoundError)) as info:
            run_bundle(
                "training", "train", "data_folder", **TINY, dataset_dir=str(folder), output_dir=str(tmp_path / "run")
            )
        message = str(cause(info.value))
        assert named in message, (problem, message)
        assert not (tmp_path / "run" / "last.pt").exists()


def test_an_output_folder_that_is_a_file_is_refused(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", **TINY, dataset_dir=cells_folder, output_dir=str(tmp_path / "taken"))
    assert isinstance(cause(info.value), NotADirectoryError)
    assert "--output_dir" in str(cause(info.value))


def by_two_processes(run_id: str, configs: list[str], folder: Path, settings: dict[str, Any]) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "monai.bundle",
    ]
    command += ["run", run_id, "--config_file", str([str(CONFIGS / f"{name}.yaml") for name in configs])]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_and_evaluate(run_bundle: Run, tmp_path: Path) -> None:
    data = phantom.write(tmp_path / "phantom", kind="cells", frames=6, size=128, seed=1)
    settings = {**TINY, "dataset_dir": data, "output_dir": "run"}
    by_two_processes("training", ["train", "multi_gpu_train"], tmp_path, settings)
    run = tmp_path / "run"
    assert state(run)["iteration"] == 6
    with (run / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    # three cases, of which one process has two: rows, pictures and scores as by one process
    by_two_processes("evaluating", ["train", "evaluate", "multi_gpu_evaluate"], tmp_path, settings)
    alone = {**settings, "output_dir": str(run), "report_dir": str(tmp_path / "alone")}
    run_bundle("evaluating", "train", "evaluate", **alone)
    first, second = (
        json.loads((folder / "summary.json").read_text()) for folder in (run / "evaluation", tmp_path / "alone")
    )
    assert first["cases"] == second["cases"] == 3
    assert first["split"]["scored_cases"] == second["split"]["scored_cases"]
    for name, score in second["scores"].items():
        assert first["scores"][name] == pytest.approx(score, abs=1e-6), name
    rows = [
        list(csv.DictReader((folder / "cases.csv").read_text().splitlines()))
        for folder in (run / "evaluation", tmp_path / "alone")
    ]
    assert len({tuple(row.items()) for row in rows[1]}) == 3
    assert rows[0] == rows[1]
    pictures = [sorted(path.name for path in (run / "evaluation").rglob("*.png"))]
    assert pictures == [sorted(path.name for path in (tmp_path / "alone").rglob("*.png"))]
