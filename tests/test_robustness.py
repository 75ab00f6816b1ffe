"""Scores under changes of the images: what each change does, and what the workflow writes."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from ignite.engine import Engine
from monai.inferers import SimpleInferer

from unet_paper.running.robustness import (
    AS_THEY_ARE,
    CHANGES,
    CONTACTS,
    DRAWINGS,
    Change,
    ChangedInferer,
    Robustness,
    changed,
)

Run = Callable[..., None]
MEAN, STD = torch.tensor(0.4), torch.tensor(0.05)


def grey(normalised: torch.Tensor) -> torch.Tensor:
    return normalised * STD + MEAN


def images() -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.as_tensor(random.normal(0, 1, (2, 1, 20, 30)), dtype=torch.float32)


def by(of: str, amount: float) -> torch.Tensor:
    """Grey values after a change."""
    return grey(changed(images(), Change(of, amount), MEAN, STD))


def test_each_change_does_what_it_says() -> None:
    before = grey(images())
    torch.testing.assert_close(by("exposure", 0.8), 0.8 * before)
    mean = before.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(by("contrast", 1.4), mean + 1.4 * (before - mean))
    light = by("shading", 1.1) / before
    torch.testing.assert_close(light[..., 0], torch.full_like(light[..., 0], 1.1))
    torch.testing.assert_close(light[..., -1], torch.full_like(light[..., -1], 1 / 1.1))
    assert 0.2 < float(by("blur", 1.0).std() / before.std()) < 0.4  # of white noise 1 / (2 sqrt(pi)) = 0.28 is left
    noise = by("noise", 0.25) - before
    assert float(noise.std()) == pytest.approx(0.25 * 0.05, rel=0.1)
    torch.testing.assert_close(noise, by("noise", 0.25) - before)  # the same noise for every network
    for of in ("scale", "contacts"):
        torch.testing.assert_close(by(of, 2), before)
    with pytest.raises(ValueError, match="'fog': images change in exposure"):
        by("fog", 1)


def test_grey_values_of_channels_have_means_of_their_own() -> None:
    image = torch.ones(1, 2, 4, 4)
    mean, std = torch.tensor([0.2, 0.5]), torch.tensor([0.1, 0.2])
    found = changed(image, Change("exposure", 2.0), mean, std)
    # grey values 0.3 and 0.7 become 0.6 and 1.4
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([4.0, 4.5]))


def test_scores_of_another_scale_have_the_size_of_the_images() -> None:
    sizes = []

    def network(image: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(image.shape[-2:]))
        return image

    scores = ChangedInferer(SimpleInferer(), Change("scale", 0.5), 0.4, 0.05)(images(), network)
    assert sizes == [(10, 15)]
    assert scores.shape == images().shape


def test_every_change_is_one_of_those_said() -> None:
    names = [str(change) for change in (*CHANGES, CONTACTS)]
    assert len(set(names)) == len(names)
    assert names[0] == "exposure x 0.8"
    assert "blur 1 px" in names
    assert names[-1] == "3 cells set against others"


@pytest.fixture
def scored(run_bundle: Run, cells_folder: str, tmp_path: Path) -> Path:
    """A run on the phantom, its evaluation and its robustness."""
    run = tmp_path / "run"
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(run)}
    run_bundle("training", "train", **{**settings, "max_epochs": 1})
    run_bundle("evaluating", "train", "evaluate", **settings)
    run_bundle("evaluating", "train", "evaluate", "robustness", **settings)
    return run


def test_robustness_writes_a_row_a_change_beside_the_evaluation(scored: Path) -> None:
    with (scored / "robustness" / "robustness.csv").open() as file:
        rows = {row.pop("images"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}
    assert list(rows) == [AS_THEY_ARE, *map(str, CHANGES), str(CONTACTS)]
    evaluated = json.loads((scored / "evaluation" / "summary.json").read_text())
    assert rows[AS_THEY_ARE] == pytest.approx(evaluated["scores"], rel=1e-6)
    losses = [row["val_loss"] for row in rows.values()]
    assert len(set(losses)) == len(losses)  # every change changes something
    summary = json.loads((scored / "robustness" / "robustness.json").read_text())
    assert summary["checkpoint"]["sha256"] == evaluated["checkpoint"]["sha256"]
    assert summary["mean_of_changes"]["val_loss"] == pytest.approx(np.mean(losses[1:]))
    assert summary["lowest_of_changes"]["val_loss"] == min(losses[1:])
    assert not list(scored.rglob("*.part"))


def test_changed_images_and_copies_are_the_same_each_time(
    scored: Path, run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(scored), "report_dir": str(tmp_path / "again")}
    run_bundle("evaluating", "train", "evaluate", "robustness", **settings)
    first, again = (
        json.loads((folder / "robustness.json").read_text())["scores"]
        for folder in (scored / "robustness", tmp_path / "again")
    )
    assert again == first


class Scorer:
    """An evaluator that scores 1 as they are and 0.5 when changed."""

    def __init__(self) -> None:
        self.inferer = own = SimpleInferer()
        self.own = own
        self.state = SimpleNamespace(metrics={})

    def run(self) -> None:
        self.state.metrics = {"SEG": 1.0 if self.inferer is self.own else 0.5}


def test_contacts_are_the_mean_over_drawings_where_a_score_is_defined(tmp_path: Path) -> None:
    instances = torch.zeros(1, 60, 90, dtype=torch.int32)
    for number in range(4):
        instances[0, 20:30, 12 + 18 * number : 18 + 18 * number] = number + 1
    batch = {"image": torch.randn(1, 1, 60, 90), "instances": instances[None], "label": instances[None]}
    seen: list[float] = []

    def step(engine: Engine, given: dict[str, torch.Tensor]) -> None:
        assert len(given["instances"].unique()) == 5 + (3 if len(seen) > len(CHANGES) else 0)
        seen.append(float((given["instances"] * torch.arange(90)).sum()))  # where the copies are
        engine.state.metrics = {
            "place": seen[-1],
            "sometimes": seen[-1] if len(seen) % 2 else math.nan,
            "never": math.nan,
        }

    evaluator = Engine(step)
    evaluator.inferer = SimpleInferer()
    runner = SimpleNamespace(
        inferer=evaluator.inferer, state=evaluator.state, add_event_handler=evaluator.add_event_handler
    )
    runner.run = lambda: evaluator.run([{**batch}])
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    Robustness(runner, tmp_path, weights, mean=0.0, std=1.0, weighting=[weighed]).run()
    drawn = seen[1 + len(CHANGES) :]
    assert len(drawn) == len(set(drawn)) == DRAWINGS
    row = json.loads((tmp_path / "robustness.json").read_text())["scores"][str(CONTACTS)]
    defined = [place for number, place in enumerate(seen, 1) if number > 1 + len(CHANGES) and number % 2]
    assert row == pytest.approx({"place": np.mean(drawn), "sometimes": np.mean(defined), "never": None})


def weighed(item: dict[str, Any]) -> dict[str, Any]:
    """What the weighting of a training adds."""
    return {**item, "instances": item["label"], "weight": torch.ones_like(item["image"])}


@pytest.mark.parametrize("secondary", [False, True])
def test_of_several_processes_one_writes(secondary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unet_paper.running.engines.is_secondary", lambda: secondary)
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    folder = tmp_path / "report"
    folder.mkdir()
    scorer = Scorer()
    Robustness(scorer, folder, weights, mean=0.4, std=0.05, annotation="binary").run()
    assert scorer.inferer is scorer.own
    assert bool(list(folder.iterdir())) is not secondary
    if not secondary:
        summary = json.loads((folder / "robustness.json").read_text())
        assert summary["scores"][AS_THEY_ARE] == {"SEG": 1.0}
        assert summary["mean_of_changes"] == summary["lowest_of_changes"] == {"SEG": 0.5}


def test_membranes_get_no_contacts(run_bundle: Run, em_folder: str, tmp_path: Path) -> None:
    settings = {**TINY, "dataset_dir": em_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", "data_isbi2012", **{**settings, "max_epochs": 1})
    run_bundle("evaluating", "train", "data_isbi2012", "evaluate", "robustness", **settings)
    text = (tmp_path / "run" / "robustness" / "robustness.csv").read_text()
    assert "scale x 1.25" in text
    assert str(CONTACTS) not in text
