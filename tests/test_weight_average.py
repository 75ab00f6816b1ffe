"""A running average of the weights: its numbers, what it leaves alone, and a checkpoint's round trip."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from ignite.engine import Engine
from torch import nn

from unet_paper.running.engines import resumable
from unet_paper.running.weight_average import WeightAverage, WeightAverageHandler

Run = Callable[..., None]


def weights_of(network: nn.Module) -> float:
    return float(next(network.parameters()).detach())


def training(network: nn.Module, average: WeightAverage) -> Engine:
    """Every step adds 1 to the only weight."""

    def step(_engine: Engine, _batch: object) -> None:
        with torch.no_grad():
            next(network.parameters()).add_(1)

    engine = Engine(step)
    WeightAverageHandler(average).attach(engine)
    return engine


def single(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_average_by_hand() -> None:
    network = single(0.0)
    average = WeightAverage(network, 0.3)
    training(network, average).run([0, 1, 2, 3])
    # the first step's weights, then moved by 1 - min(decay, (1 + n) / (10 + n)): 9/11, 9/12, and 1 - 0.3 >= 9/13
    expected = 1.0
    for weight, left in ((2.0, 2 / 11), (3.0, 3 / 12), (4.0, 0.3)):
        expected = left * expected + (1 - left) * weight
    assert weights_of(average.network) == pytest.approx(expected, abs=1e-6)
    assert weights_of(network) == 4.0


def test_a_long_average_forgets_where_it_began() -> None:
    network = single(1000.0)
    average = WeightAverage(network, 0.999)
    engine = training(network, average)
    engine.run(range(50))
    assert abs(weights_of(average.network) - weights_of(network)) < 10


def test_without_a_decay_nothing_is_averaged() -> None:
    network = single(0.0)
    average = WeightAverage(network)
    engine = training(network, average)
    engine.run([0])
    assert average.network is network
    assert not resumable(engine)


def test_state_goes_on() -> None:
    network, other = single(0.0), single(3.0)
    first, second = WeightAverage(network, 0.9), WeightAverage(other, 0.9)
    engine = training(network, first)
    engine.run(range(3))
    resumed = training(other, second)
    resumable(resumed)["weight_average"].load_state_dict(resumable(engine)["weight_average"].state_dict())
    for one in (engine, resumed):
        one.run(range(2))
    assert weights_of(second.network) == weights_of(first.network) != 5.0


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_cannot_be_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"average_decay={decay}"):
        WeightAverage(single(0.0), decay)


def test_what_is_validated_is_kept_and_evaluated(run_bundle: Run, cells_folder: str, tmp_path: Path) -> None:
    settings = {
        **TINY,
        "max_epochs": 1,
        "dataset_dir": cells_folder,
        "average_decay": 0.9,
        "output_dir": str(tmp_path / "run"),
    }
    run_bundle("training", "train", **settings)
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    kept = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    average = last["handlers"]["weight_average"]
    for name in last["network"]:
        assert torch.equal(kept[name], average[f"module.{name}"]), name
    assert any(not torch.equal(kept[name], value) for name, value in last["network"].items())
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    of_training = dict(zip(rows[0].split(","), map(float, rows[-1].split(",")), strict=True))
    # a setting that is given to both must not have evaluation score a network of its own
    run_bundle("evaluating", "train", "evaluate", **settings)
    found = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())["scores"]
    assert found["val_loss"] == pytest.approx(of_training["val_loss"], rel=1e-4)


def test_an_average_that_begins_with_a_resumed_run_begins_with_its_weights(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    """A run was stopped when its steps were done, before their validation: that is of these weights, not of chance."""
    settings = {**TINY, "max_epochs": 1, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **settings)
    last, best = tmp_path / "run" / "last.pt", tmp_path / "run" / "model.pt"
    content = torch.load(last, weights_only=True)
    torch.save({**content, "epoch": 0, "best_metric": -1.0, "best_metric_epoch": -1}, last)
    best.unlink()
    run_bundle("training", "train", **settings, average_decay=0.9, seed=1, resume=True)
    kept = torch.load(best, weights_only=True)
    for name, value in content["network"].items():
        assert torch.equal(kept[name], value), name
