"""When a run validates, which network is the best, and runs whose validation cannot score."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.distributed as dist
from conftest import TINY
from ignite.engine import Engine, State

from unet_paper.running import validation
from unet_paper.running.engines import TrainingProgress

Run = Callable[..., None]


@pytest.fixture(scope="module")
def half_annotated(cells_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images and masks of a lab; the masks of those that fold 0 of 2 holds out are empty."""
    folder = tmp_path_factory.mktemp("half")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    masks = sorted((Path(cells_folder) / "01_GT" / "SEG").glob("*.tif"))
    for number, mask in enumerate(masks):
        image = Path(cells_folder) / "01" / mask.name.replace("man_seg", "t")
        tifffile.imwrite(folder / "images" / f"{number}.tif", tifffile.imread(image))
        content = tifffile.imread(mask)
        empty = number < len(masks) // 2
        tifffile.imwrite(folder / "masks" / f"{number}.tif", np.zeros_like(content) if empty else content)
    return str(folder)


def test_without_a_cell_to_score_the_score_is_undefined_and_the_latest_network_is_kept(
    run_bundle: Run, half_annotated: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**TINY, "dataset_dir": half_annotated, "output_dir": str(tmp_path / "run"), "annotation": "instances"}
    network = {"features": TINY["features"], "tile_size": TINY["tile_size"], "learning_rate": 0.001}
    run_bundle("training", "train", "data_folder", **{**settings, **network})
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["SEG"] for row in rows] == ["nan", "nan"]
    best, last = (torch.load(tmp_path / "run" / name, weights_only=True) for name in ("model.pt", "last.pt"))
    assert all(torch.equal(value, best[name]) for name, value in last["network"].items())
    assert caplog.text.count("PQ is undefined: no validation image holds a cell") == 1
    run_bundle("evaluating", "train", "data_folder", "evaluate", **settings)
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert summary["scores"]["SEG"] is None


def test_the_last_epoch_is_validated_whatever_the_interval(
    run_bundle: Run, cells_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "steps_per_epoch": 1}
    with caplog.at_level(logging.INFO):
        run_bundle("training", "train", **{**settings, "max_epochs": 3, "val_interval": 100})
    assert (tmp_path / "run" / "model.pt").is_file()
    assert list((tmp_path / "run" / "figures").glob("*.png"))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [row["SEG"] != "" for row in csv.DictReader(file)] == [False, False, True]
    assert "at epoch 3" in caplog.text


class Scores:
    """An evaluator that has these scores, one a validation, and keeps the best as MONAI does."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.state = State()
        self.state.key_metric_name, self.state.metrics = "SEG", {}
        self.state.best_metric, self.state.best_metric_epoch = -1, -1

    def run(self, epoch: int) -> None:
        score = self.scores.pop(0)
        self.state.metrics["SEG"] = score
        if self.state.best_metric_epoch == -1 or validation.is_better(score, self.state.best_metric):
            self.state.best_metric, self.state.best_metric_epoch = score, epoch


NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "patience", "interval", "epochs"),
    [
        ([0.1, 0.5, 0.4, 0.5, 0.9], 2, 1, 4),  # equal is not better
        ([0.1, 0.5, 0.4, 0.6, 0.4, 0.4], 2, 1, 6),
        ([0.5, 0.4, 0.3], None, 1, 3),
        ([0.5, 0.4, 0.4, 0.4], 1, 3, 6),  # validations, not epochs
        ([0.0, 0.0, 0.0, 0.2], 1, 1, 4),  # nothing found yet is no standstill
        ([NAN, NAN, NAN], 1, 1, 3),
        ([0.5, NAN, NAN], 2, 1, 3),
        ([0.5, 0.4], 1, 1, 2),  # the last epoch needs no early end
    ],
)
def test_a_run_ends_when_its_patience_does(
    scores: list[float], patience: int | None, interval: int, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Engine(lambda *_: None)
    evaluator: Any = Scores(*scores)
    validation.Validation(evaluator, interval, patience).attach(trainer)
    most = interval * len(scores)
    with caplog.at_level(logging.INFO):
        trainer.run([0], max_epochs=most)
    assert trainer.state.epoch == epochs
    best = evaluator.state.best_metric_epoch
    said = (
        f"SEG has not risen for {patience} validations, since epoch {best}: training ends at epoch {epochs} of {most}"
    )
    assert (said in caplog.text) is (epochs < most)


@pytest.mark.parametrize("patience", [0, -1])
def test_a_patience_below_one_is_refused(patience: int) -> None:
    evaluator: Any = Scores()
    with pytest.raises(ValueError, match=f"patience={patience}: at least 1 validation; null"):
        validation.Validation(evaluator, patience=patience)


def test_a_run_that_ends_early_has_closed_its_epoch(
    run_bundle: Run, cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "is_better", lambda _score, best: best == -1)
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "steps_per_epoch": 1}
    run_bundle("training", "train", **{**settings, "max_epochs": 9}, patience=1)
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (last["epoch"], last["best_metric_epoch"]) == (2, 1)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (tmp_path / "run" / "model.pt").is_file()


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="val_interval=0"):
        validation.Validation(None, interval=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("images", "fits"), [(1, False), (2, True), (5, True)])
def test_fewer_validation_images_than_processes_are_refused_with_both_numbers(
    images: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    monkeypatch.setattr(dist, "get_rank", lambda *_: 1)
    monkeypatch.setattr(dist, "is_available", lambda: True)
    if fits:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        assert len(validation.share(torch.zeros(images))) == images // 2  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=r"1 validation images for 2 processes.*--nproc_per_node=1.*--folds"):
        validation.share(torch.zeros(images))  # type: ignore[arg-type]


def test_progress_goes_to_the_log_where_no_one_looks_at_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    trainer = Engine(lambda _engine, _batch: None)
    trainer.state.loss_history = [(1, 0.25)]
    TrainingProgress(seconds=0.0).attach(trainer)
    with caplog.at_level(logging.INFO):
        trainer.run([0, 0, 0], max_epochs=2)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("engines")]
    assert lines[0].startswith("training on ")
    assert "2 epochs of 3 steps" in lines[0]
    assert len(lines) == 1 + 6
    assert lines[-1].startswith("epoch 2 of 2, step 6 of 6, loss 0.25;")
