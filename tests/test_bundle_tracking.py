"""What a run leaves for those who follow it: MLflow's local store, and pictures in TensorBoard."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import monai.bundle
import numpy as np
import pytest
import torch
from conftest import CONFIGS, TINY
from ignite.engine import Engine
from monai.data.meta_tensor import MetaTensor
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unet_paper.running import figures
from unet_paper.running.logbook import Logbook

# MLflow's use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, cells_folder: str) -> Path:
    """Folder of a run that was started with ``--tracking mlflow``."""
    output = tmp_path_factory.mktemp("tracked") / "run"
    settings: dict[str, Any] = {**TINY, "dataset_dir": cells_folder, "output_dir": str(output)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monai.bundle.run(
            run_id="training",
            config_file=str(CONFIGS / "train.yaml"),
            logging_file=False,
            tracking="mlflow",
            save_execute_config=str(output / "config.json"),
            **settings,
        )
    return output


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_mlflow_keeps_params_metrics_and_the_config(tracked: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tracked}/mlruns.db")
    experiment = client.get_experiment_by_name("monai_experiment")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"max_epochs": "2", "epoch_length": "3"}
    for name in ("SEG", "IoU", "pixel_error", "val_loss"):
        history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == [1, 2]
        written = [float(row[name]) for row in table(tracked)]
        assert [metric.value for metric in history] == pytest.approx(written, abs=1e-6), name
    losses = sorted(client.get_metric_history(run.info.run_id, "train_loss"), key=lambda metric: metric.step)
    assert [metric.step for metric in losses] == list(range(1, 7))
    # the table holds the mean of each epoch's three steps
    means = np.mean([[metric.value for metric in losses[start : start + 3]] for start in (0, 3)], axis=1)
    assert means == pytest.approx([float(row["train_loss"]) for row in table(tracked)], rel=1e-4)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.json"]


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def pictures(accumulator: EventAccumulator, tag: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        for event in accumulator.Images(tag)
    ]


def test_tensorboard_shows_every_validation(tracked: Path) -> None:
    accumulator = events(tracked)
    drawn = sorted(path.stem[3:] for path in (tracked / "figures").glob("*.png"))
    assert sorted(accumulator.Tags()["images"]) == drawn
    assert len(drawn) == 2
    for tag in drawn:
        assert [event.step for event in accumulator.Images(tag)] == [3, 6]
        assert all(picture.std() > 0 for picture in pictures(accumulator, tag))
    assert {"train_loss", "train_loss_step", "SEG", "val_loss", "learning_rate"} <= set(accumulator.Tags()["scalars"])
    assert [event.value for event in accumulator.Scalars("SEG")] == pytest.approx(
        [float(row["SEG"]) for row in table(tracked)], abs=1e-6
    )


def test_tensorboard_pictures_hold_the_predicted_cells(tmp_path: Path) -> None:
    cells = np.zeros((1, 40, 40), np.int64)
    cells[0, 5:20, 5:20], cells[0, 22:38, 5:35] = 7, 12
    image = MetaTensor(torch.zeros(1, 40, 40), meta={"filename_or_obj": "01/t005.tif"})
    evaluator = Engine(lambda *_: [{"image": image, "cells": torch.from_numpy(cells)}])
    evaluator.state.batch = [{"image": image}]
    figures.CaseFigures(tmp_path / "figures").attach(evaluator)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    trainer = Engine(lambda *_: None)
    trainer.state.loss_history = [(1, 0.5)]

    def validate() -> None:
        evaluator.run([[{"image": image}]], max_epochs=1)
        evaluator.state.metrics = {"SEG": 0.5}
        state = SimpleNamespace(key_metric_name="SEG", best_metric=0.5, best_metric_epoch=1)
        for name, value in vars(state).items():
            setattr(evaluator.state, name, value)

    trainer.add_event_handler("EPOCH_COMPLETED", lambda _: validate())
    Logbook(tmp_path, evaluator, optimizer).attach(trainer)
    trainer.run([0], max_epochs=1)
    (picture,) = pictures(events(tmp_path), "01_t005")
    seen = {tuple(int(value) for value in colour) for colour in picture.reshape(-1, 3)}
    painted = figures.cell_colours(cells[0])
    for row, column in ((10, 10), (30, 20)):
        assert tuple(int(value) for value in painted[row, column]) in seen
