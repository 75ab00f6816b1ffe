"""Unused settings of a config, and the error inside MONAI's wrappers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from monai.bundle import ConfigParser

from unet_paper.running import settings


def test_only_what_nothing_refers_to_is_unused() -> None:
    config = {
        "bundle_root": ".",
        "rate": 0.1,
        "rat": 0.2,
        "imports": ["$import math"],
        "train": {
            "trainer": {"_target_": "SupervisedTrainer", "lr": "@rate", "max_epochs": "@train#epochs"},
            "epochs": 3,
            "epoch": 4,
        },
        "run": ["$@train#trainer.run()"],
    }
    assert settings.unused_settings(config) == {"rat": 0.2, "train#epoch": 4}


def test_expressions_and_nested_references_count_as_use() -> None:
    assert settings.unused_settings({"a": [1, 2], "b": {"c": {"d": "$@a[0] + 1"}}, "run": "$print(@b#c#d)"}) == {}


def test_refusal_names_setting_value_and_neighbour() -> None:
    parser = ConfigParser(
        {
            "imports": ["$import unet_paper.running.settings as settings"],
            "learning_rate": 0.1,
            "learnig_rate": 0.2,
            "check": "$settings.refuse_unknown_settings()",
            "run": "$print(@learning_rate, @check)",
        }
    )
    with pytest.raises(RuntimeError) as info:
        parser.get_parsed_content("check")
    assert isinstance(settings.cause(info.value), ValueError)
    assert "--learnig_rate=0.2" in str(settings.cause(info.value))
    assert "learning_rate" in str(settings.cause(info.value)).split("did you mean")[1]


def test_refusal_outside_a_config_says_so() -> None:
    with pytest.raises(RuntimeError, match="within a MONAI config"):
        settings.refuse_unknown_settings()


def test_cause_stops_at_the_first_error_that_is_no_wrapper() -> None:
    low = OSError("low level")
    ours = ValueError("a.tif: truncated")
    ours.__cause__ = low
    wrapper = RuntimeError("applying transform <LoadImaged>")
    wrapper.__cause__ = ours
    outer = RuntimeError("Failed to evaluate ConfigExpression")
    outer.__cause__ = wrapper
    assert settings.cause(outer) is ours
    assert settings.cause(low) is low


def test_the_last_line_printed_is_the_cause(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    settings.explain_errors()
    wrapper = RuntimeError("Failed to evaluate ConfigExpression")
    wrapper.__cause__ = ValueError("tile_size=570: no such size")
    sys.excepthook(type(wrapper), wrapper, None)
    assert capsys.readouterr().err.splitlines()[-1] == "ValueError: tile_size=570: no such size"


@pytest.mark.parametrize(("written", "right"), [("false", "False"), ("true", "True")])
def test_a_boolean_that_the_command_line_left_a_string_is_refused(written: str, right: str) -> None:
    parser = ConfigParser(
        {
            "imports": ["$import unet_paper.running.settings as settings"],
            "flip": written,
            "check": "$settings.refuse_unknown_settings()",
            "run": "$print(@flip, @check)",
        }
    )
    with pytest.raises(RuntimeError) as info:
        parser.get_parsed_content("check")
    assert str(settings.cause(info.value)).endswith(f"write --flip {right}")


def test_a_none_that_monai_would_drop_is_refused(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), **TINY}
    for value in (None, "null"):
        with pytest.raises(RuntimeError) as info:
            run_bundle("training", "train", **given, border=value)
        assert "'border: null' into a YAML file" in str(settings.cause(info.value))
    assert not (tmp_path / "run").exists()
