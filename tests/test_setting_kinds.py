"""Settings of another kind than they take are refused by name; those of every config of the bundle are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, TINY

from unet_paper.running.setting_kinds import refuse_other_kinds
from unet_paper.running.settings import cause

TRAIN = yaml.safe_load((CONFIGS / "train.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("learning_rate", "fast", "a number is needed, such as 0.002"),
        ("max_epochs", True, "a number is needed, such as 32"),
        ("tile_size", [380, 380], "a number is needed, such as 380"),
        ("grey_maximum", "4095 counts", "a number is needed"),
        ("memory_budget", "2GB", "a number is needed"),
        ("ignore_value", "white", "a number is needed"),
        ("grey_mean", ["a"], "a number is needed, such as 0.46"),
        ("scale", 1.2, 'two numbers in brackets are needed, such as "[1.0, 1.0]"'),
        ("scale", [1.2], "two numbers in brackets are needed"),
        ("blur", "0,1", "two numbers in brackets are needed"),
        ("paste_cells", 2, 'two numbers in brackets are needed, such as "[0, 0]"'),
        ("features", 16, 'numbers in brackets are needed, such as "[8, 16, 32, 64, 128]"'),
        ("features", [16, "x"], "numbers in brackets are needed"),
        ("class_weights", 2, 'numbers in brackets are needed, such as "[1, 2]"'),
        ("flip", "perhaps", "true or false is needed"),
        ("resume", 2, "true or false is needed"),
    ],
)
def test_a_value_of_another_kind_is_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match="needed") as info:
        refuse_other_kinds({name: value}, TRAIN)
    assert str(info.value).startswith(f"--{name} {value}: {said}")


@pytest.mark.parametrize(
    ("gpus", "device", "said"),
    [
        (0, "gpu", "no device of PyTorch; say cpu, cuda, or cuda:1"),
        (0, "cuda", "finds no GPU here; leave it out, or say cpu"),
        (2, "cuda:2", "there are 2 GPUs here, cuda:0 to cuda:1"),
        (2, "cuda:1", ""),
        (0, "cpu", ""),
        (0, "$engines.select_device()", ""),
    ],
)
def test_a_device_that_is_not_there_is_named(
    gpus: int, device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if not said:
        refuse_other_kinds({"device": device}, TRAIN)
        return
    with pytest.raises(ValueError, match=said) as info:
        refuse_other_kinds({"device": device}, TRAIN)
    assert str(info.value).startswith(f"--device {device}: ")


def test_what_a_setting_takes_it_takes() -> None:
    given = {
        "learning_rate": np.float64(0.1),
        "max_epochs": np.int64(3),
        "fold": "all",
        "grey_mean": [0.1, 0.2],
        "grey_std": "$@grey_statistics.std",
        "features": (4, 8),
        "scale": ["$1", 2],
        "class_weights": [1.0, 2.0, 3.0],
        "threads": "auto",
        "border": "neighbour",
        "flip": 1,
        "average_decay": None,
        "dropout": {"_target_": "one.of.ones.own"},
        "channel": "DAPI",
    }
    refuse_other_kinds(given, TRAIN)


@pytest.mark.parametrize("name", ["train", "inference", "inference_large"])
def test_no_config_of_the_bundle_is_refused(name: str) -> None:
    base = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for file in sorted(CONFIGS.glob("*.yaml")):
        refuse_other_kinds(yaml.safe_load(file.read_text()) or {}, base)


def test_a_run_with_one_is_refused_before_it_begins(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    """Of a prediction, too, whose config takes its numbers from the weights."""
    given: dict[str, Any] = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    for run_id, config, settings, said in (
        ("training", "train", {**TINY, "exposure": "2"}, "--exposure 2: two numbers in brackets"),
        ("run", "inference", {"magnification": "half"}, "--magnification half: a number is needed"),
        ("run", "inference", {"overwrite": "perhaps"}, "--overwrite perhaps: true or false is needed"),
    ):
        with pytest.raises(RuntimeError) as info:
            run_bundle(run_id, config, **given, **settings)
        assert said in str(cause(info.value))
    assert not (tmp_path / "run").exists()


def test_symmetries_that_there_are_not_are_listed_in_prediction_too(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    given = {"dataset_dir": f"{cells_folder}/01", "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **given, symmetries="flip")
    assert "symmetries='flip': must be one of none, flips, rotations, all" in str(cause(info.value))
