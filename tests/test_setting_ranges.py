"""Values that settings cannot have: refused by the setting's name, with a remedy that is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from unet_paper import Segmenter
from unet_paper.data.channels import channel_numbers
from unet_paper.data.unlike_training import SayUnlikeTrainingd
from unet_paper.network import UNet
from unet_paper.running import checkpoint, settings
from unet_paper.running.setting_ranges import refuse_impossible_values

WRONG = [
    ({"max_epochs": 1.5}, "--max_epochs 1.5: a whole number of at least 1 is needed", {"max_epochs": 1}),
    ({"max_epochs": 0}, "--max_epochs 0: a whole number of at least 1", {"max_epochs": 1}),
    ({"steps_per_epoch": 0}, "--steps_per_epoch 0: a whole number of at least 1", {"steps_per_epoch": 1}),
    ({"batch_size": 0}, "--batch_size 0: a whole number of at least 1", {"batch_size": 1}),
    ({"patience": 2.5}, "--patience 2.5: a whole number of at least 1", {"patience": 2}),
    ({"seed": 0.5}, "--seed 0.5: a whole number of at least 0", {"seed": 0}),
    ({"ignore_value": -1.5}, "--ignore_value -1.5: a whole number is needed", {"ignore_value": -1}),
    ({"features": [4, 8.5]}, "--features [4, 8.5]: whole numbers of at least 1 are needed", {"features": [4, 8]}),
    ({"paste_cells": [0, 1.5]}, "whole numbers of at least 0 are needed", {"paste_cells": [0, 1]}),
    ({"fold": 0.5}, "--fold 0.5: a whole number is needed", {"fold": "block"}),
    ({"grey_mean": 90}, "1 for white is needed; 90 of 255 is 0.353", {"grey_mean": 0.353}),
    ({"grey_mean": 900, "grey_maximum": 4095}, "900 of 4095 is 0.220", {"grey_mean": 0.22}),
    ({"grey_mean": -3}, "--grey_mean -3: from 0 for black to 1", {"grey_mean": 0}),
    ({"grey_mean": [0.1, 0.2], "in_channels": 1}, "2 numbers for in_channels=1: give one", {"grey_mean": 0.1}),
    ({"grey_std": 0}, "--grey_std 0: a number above 0 is needed", {"grey_std": 0.1}),
    ({"grey_std": [0.1, -1.0]}, "from 0 for black to 1", {"grey_std": [0.1, 0.1]}),
    ({"learning_rate": float("nan")}, "--learning_rate nan: a number is needed", {"learning_rate": 1}),
    ({"learning_rate": -0.1}, "--learning_rate -0.1: 0 or more is needed", {"learning_rate": 0.0}),
    ({"pixel_size": -1}, "--pixel_size -1: a number above 0 is needed", {"pixel_size": 0.1}),
    ({"displacement_std": -1}, "--displacement_std -1: 0 or more is needed", {"displacement_std": 0}),
    ({"class_weights": [0, 0]}, "give at least one class a weight above 0", {"class_weights": [0, 1]}),
    ({"weight_preset": "fast"}, "--weight_preset fast: choose one of falk2019, paper", {"weight_preset": "paper"}),
    ({"blur": [2, 1]}, '--blur [2, 1]: the lower limit comes first, "[1, 2]"', {"blur": [1, 2]}),
    ({"tile_size": 570, "features": 5 * [1]}, "valid sizes are 16k+60, nearest 556 and 572", {"tile_size": 556}),
    ({"blur": [0, 200], "tile_size": 188, "features": [4, 8]}, "--blur [0, 200]: ", {"blur": [0, 20]}),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "said", "remedy"), WRONG)
def test_what_cannot_be_is_refused_by_its_setting_and_the_remedy_is_not(
    wrong: dict[str, Any], said: str, remedy: dict[str, Any]
) -> None:
    with pytest.raises(ValueError) as info:
        refuse_impossible_values(wrong)
    assert said in str(info.value)
    refuse_impossible_values(wrong | remedy)


def test_what_may_be_is_left_alone() -> None:
    refuse_impossible_values({"seed": None, "fold": "all", "threads": "auto", "features": "$@facts['features']"})
    refuse_impossible_values({"val_interval": 10**9, "checkpoint_minutes": float("inf"), "ignore_value": -1})
    refuse_impossible_values({"rotate": [-20, 20], "resume": True, "class_weights": None})


def test_training_and_prediction_refuse_before_anything_is_written(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "out")}
    for config, run in (("train", "training"), ("inference", "run")):
        tiny = TINY if config == "train" else {}
        with pytest.raises(RuntimeError) as info:
            run_bundle(run, config, **{**tiny, **given, "grey_std": -1.0})
        assert "--grey_std -1.0: " in str(settings.cause(info.value))
        assert not (tmp_path / "out").exists()


def test_the_segmenter_refuses_by_the_argument() -> None:
    with pytest.raises(ValueError, match=r"^grey_mean=90: .* 90 of 255 is 0.353"):
        Segmenter.from_checkpoint("u373", grey_mean=90)


@pytest.mark.parametrize("idle", [{"expected_sha256": "0" * 64}, {"reinitialise": ["classifier"]}])
def test_what_is_said_of_weights_that_are_not_given_is_refused(idle: dict[str, Any]) -> None:
    network = UNet(features=[2, 4])
    with pytest.raises(ValueError, match="has no effect without weights to start from; give --pretrained FILE"):
        checkpoint.start_from(network, None, **idle)
    checkpoint.start_from(network, None)


def test_ranges_and_channels_of_another_kind_are_named() -> None:
    with pytest.raises(ValueError, match="expected_grey_values='wide': ranges by name are needed"):
        SayUnlikeTrainingd("image", mean=0.5, std=0.1, ranges="wide")
    with pytest.raises(ValueError, match=r"a.tif: no channel 1.5; it has 3.*: --channel 0 to 2"):
        channel_numbers(1.5, ["a", "b", "c"], 3, "a.tif")
