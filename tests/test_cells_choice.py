"""Post-processing chosen on validation images: by hand-made maps, and recorded with the weights of a run."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from conftest import CONFIGS, TINY
from numpy.typing import NDArray

from unet_paper.instances import PRESETS
from unet_paper.metrics.monai_metrics import F1, PQ, CTCSeg, RandError, VRand
from unet_paper.running import facts
from unet_paper.running.cells_choice import CellsChoice
from unet_paper.running.doubt import trust, trust_in_words
from unet_paper.running.settings import cause

Run = Callable[..., None]


def validated(metric: Any, probability: NDArray[Any], reference: NDArray[Any], preset: str = "folder") -> CellsChoice:
    """A choice after one validation of one image."""
    choice = CellsChoice({"score": metric}, PRESETS[preset])
    pred = torch.from_numpy(np.stack([1 - probability, probability]).astype(np.float32))
    output = [{"pred": pred, "instances": torch.from_numpy(reference[None])}]
    choice._keep(SimpleNamespace(state=SimpleNamespace(output=output)))
    choice.choose()
    return choice


def two_cells(between: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two cells of 6 x 6 px with a gap of one column of this probability between them; the rest of a cell is 0.95."""
    probability, reference = np.full((8, 15), 0.02), np.zeros((8, 15), np.int32)
    for number, columns in ((1, slice(1, 7)), (2, slice(8, 14))):
        probability[1:7, columns], reference[1:7, columns] = 0.95, number
    probability[1:7, 7] = between
    return probability, reference


@pytest.mark.parametrize("metric", [CTCSeg(), VRand()])
@pytest.mark.parametrize(("between", "expected"), [(0.2, 0.5), (0.55, 0.6), (0.75, 0.8)])
def test_the_lowest_threshold_that_parts_the_cells_is_chosen(metric: Any, between: float, expected: float) -> None:
    choice = validated(metric, *two_cells(between), "isbi2012")
    assert choice.chosen is not None
    assert choice.chosen["threshold"] == expected
    assert choice.record["value"] == pytest.approx(1.0)
    assert (choice.record["value_as_given"] < 1) == (expected != 0.5)
    assert choice.record["images"] == 1


def test_of_thresholds_that_find_the_same_cells_panoptic_quality_takes_the_one_with_the_best_outlines() -> None:
    probability, reference = np.full((16, 16), 0.02), np.zeros((16, 16), np.int32)
    # a cell of 8 x 8 px in a halo of a pixel; and beside the halo, at all thresholds, nothing
    probability[3:13, 3:13], probability[4:12, 4:12], reference[4:12, 4:12] = 0.75, 0.95, 1
    chosen = {name: validated(metric(), probability, reference).chosen for name, metric in (("F1", F1), ("PQ", PQ))}
    assert chosen["F1"] is not None
    assert chosen["F1"]["threshold"] < 0.75  # 64 of 100 px are a match: all thresholds are one to it
    assert chosen["PQ"] is not None
    assert chosen["PQ"]["threshold"] > 0.75


def test_the_smallest_cell_is_half_of_the_smallest_annotated() -> None:
    choice = validated(CTCSeg(), *two_cells(0.1))
    assert choice.chosen is not None
    assert choice.chosen["min_size"] == 18
    assert choice.record["largest_cell"] == 36


def test_thresholds_stay_below_those_that_split() -> None:
    choice = CellsChoice({"SEG": CTCSeg()}, PRESETS["dic_hela_split"])
    splitting = [tried for tried in choice.candidates if tried["split_thresholds"]]
    assert max(tried["threshold"] for tried in splitting) < 0.6


def test_cells_that_no_threshold_parts_are_split_at_their_neck() -> None:
    rows, columns = np.indices((24, 44))
    reference = np.zeros((24, 44), np.int32)
    for number, centre in ((1, 14), (2, 29)):
        reference[np.hypot(rows - 12, columns - centre) <= 9] = number
    choice = validated(CTCSeg(), np.where(reference > 0, 0.9, 0.02), reference)
    assert choice.chosen is not None
    assert choice.chosen["neck"] > 0
    assert choice.record["value_as_given"] <= 0.5
    assert choice.record["value"] > 0.9


@pytest.mark.parametrize("between", [0.2, 0.55, 0.75])
def test_of_an_error_the_lowest_is_chosen(between: float) -> None:
    """The same thresholds as for V_rand, of which higher is better."""
    right, error = (validated(metric, *two_cells(between), "isbi2012") for metric in (VRand(), RandError()))
    assert right.chosen is not None
    assert error.chosen is not None
    assert error.chosen["threshold"] == right.chosen["threshold"]
    assert error.record["value"] == min(tried["value"] for tried in error.record["curve"])


def test_an_evaluator_that_would_keep_the_worst_network_is_refused_and_the_remedy_works(
    cells_folder: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    handler = "{_target_: IgniteMetricHandler, metric_fn: {_target_: unet_paper.metrics.monai_metrics.PixelError},"
    handler += " output_transform: \"$monai.handlers.from_engine(['pred', 'instances'])\"}"
    own.write_text(f"validate#key_metric: {{pixels: {handler}}}\n")
    files = [str(CONFIGS / "train.yaml"), str(own)]
    settings = {**TINY, "max_epochs": 2, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    with pytest.raises((RuntimeError, ValueError)) as info:
        monai.bundle.run(run_id="training", config_file=files, logging_file=False, **settings)
    message = str(cause(info.value))
    assert "of pixels (PixelError) lower is better" in message
    with own.open("a") as file:
        file.write(message.split("'")[1] + "\n")
    monai.bundle.run(run_id="training", config_file=files, logging_file=False, **settings)
    with (tmp_path / "run" / "metrics.csv").open() as table:
        values = [float(row["pixels"]) for row in csv.DictReader(table)]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["best_metric"] == min(values)


def _facts() -> facts.Facts:
    return facts.Facts(
        in_channels=1, out_channels=2, features=[2, 4], preset="paper", dropout=0.0, grey_mean=0.4, grey_std=0.1,
        magnification=1.0, cells_preset="folder", cells=PRESETS["folder"],
    )  # fmt: skip


def test_an_undefined_score_chooses_nothing() -> None:
    probability, reference = two_cells(0.1)
    choice = validated(CTCSeg(), probability, np.zeros_like(reference))
    assert choice.chosen is None


def test_a_run_records_what_it_chose_and_prediction_takes_it(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    run_bundle("training", "train", **settings, choose_cells=True)
    told = facts.read(tmp_path / "run" / "model.pt")
    record = told.trained_with("cells_choice")
    assert record["score"] == "SEG"
    assert record["images"] == 2
    assert record["value"] >= record["value_as_given"]
    assert told["cells"]["min_size"] >= PRESETS["phantom"]["min_size"]
    assert facts.cells(told["cells_preset"], told) == told["cells"]


def test_a_resumed_run_goes_on_with_what_was_chosen_for_its_best_network(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    settings = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "choose_cells": True}
    run_bundle("training", "train", **{**settings, "max_epochs": 1})
    last = tmp_path / "run" / "last.pt"
    before = facts.read(last)
    content = torch.load(last, weights_only=True)
    # no later network is the better one, so that nothing is chosen anew
    torch.save({**content, "best_metric": 0.999}, last)
    run_bundle("training", "train", **{**settings, "max_epochs": 2}, resume=True)
    now = facts.read(last)
    assert torch.load(last, weights_only=True)["epoch"] == 2
    assert before.trained_with("cells_choice") is not None
    assert now.trained_with("cells_choice") == before.trained_with("cells_choice")
    assert now["cells"] == before["cells"]


def test_of_another_post_processing_no_choice_is_taken_up() -> None:
    probability, reference = two_cells(0.1)
    chosen = validated(CTCSeg(), probability, reference)
    before = chosen.applied(_facts())
    for active, preset, expected in (
        (True, "folder", chosen.chosen),
        (True, "phantom", None),
        (False, "folder", None),
    ):
        resumed = CellsChoice({"SEG": CTCSeg()}, PRESETS["folder"], active=active)
        resumed.take_up(before, preset)
        assert (resumed.chosen is None) == (expected is None)
        assert resumed.applied(_facts()) == (before if expected else _facts())


def test_it_records_how_well_doubt_tells_the_error() -> None:
    """Six images of two cells, joined in the doubtful ones; then doubt that tells nothing."""
    choice = CellsChoice({"SEG": CTCSeg()}, PRESETS["folder"], thresholds=(0.5,))
    output = []
    for between, sure in zip((0.1, 0.2, 0.3, 0.7, 0.8, 0.9), (0.95, 0.9, 0.85, 0.7, 0.65, 0.6), strict=True):
        probability, reference = two_cells(between)
        probability[probability == 0.95] = max(sure, between + 0.01) if between > 0.5 else sure
        pred = torch.from_numpy(np.stack([1 - probability, probability]).astype(np.float32))
        output.append({"pred": pred, "instances": torch.from_numpy(reference[None])})
    choice._keep(SimpleNamespace(state=SimpleNamespace(output=output)))
    choice.choose()
    found = choice.record["doubt"]
    assert (found["score"], found["images"]) == ("SEG", 6)
    assert found["correlation"] > 0.5
    assert "went together" in trust_in_words(found)
    assert trust([0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.9, 0.5, 0.1, 0.9])["correlation"] < 0.4
    assert "Do not rely" in trust_in_words({**found, "correlation": 0.1})
    few = trust([0.1, 0.2], [0.9, 0.8])
    assert few == {"images": 2, "correlation": None}
    assert "too few" in trust_in_words({**few, "score": "SEG"})
    assert trust_in_words(None) == ""


def test_sizes_of_cells_take_no_memory_for_ids_that_are_not_there() -> None:
    probability, reference = two_cells(0.1)
    choice = validated(CTCSeg(), probability, np.where(reference > 0, reference + 2_000_000_000, 0))
    assert choice._annotated_sizes() == (36, 36)
