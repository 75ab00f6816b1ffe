"""Unused settings of a config, and the error inside MONAI's wrappers."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
from conftest import CONFIGS, TINY
from monai.bundle import ConfigParser

from unet_paper.running import facts, settings
from unet_paper.running.unused_settings import unused_settings


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
    assert unused_settings(config) == {"rat": 0.2, "train#epoch": 4}


def test_expressions_and_nested_references_count_as_use() -> None:
    assert unused_settings({"a": [1, 2], "b": {"c": {"d": "$@a[0] + 1"}}, "run": "$print(@b#c#d)"}) == {}


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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("false", False),
        ("TRUE", True),
        ("True", True),
        ("1e-4", 1e-4),
        ("1e", "1e"),
        (".inf", float("inf")),
        ({"lr": ["2E3"]}, {"lr": [2000.0]}),
    ],
)
def test_truth_values_and_numbers_that_came_as_text_are_taken_for_what_they_are(written: Any, meant: Any) -> None:
    parser = ConfigParser(
        {
            "imports": ["$import unet_paper.running.settings as settings"],
            "flip": written,
            "check": "$settings.refuse_unknown_settings()",
            "run": "$print(@flip, @check)",
        }
    )
    parser.get_parsed_content("check")
    assert parser.get_parsed_content("flip") == meant
    assert type(parser.get_parsed_content("flip")) is type(meant)


def test_a_learning_rate_in_yaml_without_a_point_and_words_for_truth_train(cells_folder: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("learning_rate: 1e-4\nresume: 'no'\nflip: 'on'\n")
    given: dict[str, Any] = {
        **TINY,
        "dataset_dir": cells_folder,
        "output_dir": str(tmp_path / "run"),
        "max_epochs": 1,
        "steps_per_epoch": 1,
    }
    files = [str(CONFIGS / "train.yaml"), str(own)]
    monai.bundle.run("training", config_file=files, logging_file=False, **given)
    told = facts.read(tmp_path / "run" / "model.pt").trained_with
    assert (told("learning_rate"), told("flip")) == (1e-4, True)


@pytest.mark.parametrize(
    ("asked", "configs", "right"),
    [
        ("train", ["train"], "did you mean training?"),
        ("trainning", ["train"], "did you mean training?"),
        ("initialize", ["train"], "training or run"),
        ("levels", ["train"], "training or run"),
        ("evaluating", ["train"], "needs the config evaluate"),
        ("evaluate", ["train", "data_folder", "evaluate"], "did you mean evaluating?"),
        ("training", ["inference"], "evaluating or run"),
        ("handlers", ["inference"], "evaluating or run"),
    ],
)
def test_what_would_run_nothing_is_refused_naming_the_right_id(
    asked: str, configs: list[str], right: str, run_bundle: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as info:
        run_bundle(asked, *configs, dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))
    assert f"run {asked}: would run nothing" in str(settings.cause(info.value))
    assert right in str(settings.cause(info.value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("learnig_rate: 0.01\n", "learnig_rate: 0.01: no part of this config uses it; did you mean learning_rate"),
        ("train#max_epoch: 3\n", "train#max_epoch: 3: no part of this config uses it"),
        ("+train: {traner: 1}\n", "train#traner: 1: no part of this config uses it; did you mean train#trainer"),
        ("rate: 0.01\nlearning_rate: '@rates'\nrates: 0.02\n", "rate: 0.01: no part of this config uses it"),
    ],
)
def test_a_misspelt_setting_in_a_file_of_ones_own_is_refused_naming_the_file(
    own: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(own)
    given = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "logging_file": False}
    with pytest.raises(RuntimeError) as info:
        monai.bundle.run("training", config_file=[str(CONFIGS / "train.yaml"), str(file)], **given)
    assert f"{file}: {said}" in str(settings.cause(info.value))
    assert not (tmp_path / "run").exists()


def test_a_section_that_would_replace_another_is_refused_and_the_remedies_work(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    files = [str(CONFIGS / "train.yaml"), str(own)]
    given = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "mine": ["$print(@train#inferer)"]}
    own.write_text("train: {inferer: {_target_: SimpleInferer}}\n")
    with pytest.raises(RuntimeError) as info:
        monai.bundle.run("mine", config_file=files, logging_file=False, **given)
    said = str(settings.cause(info.value))
    assert said.startswith(f"{own}: train: takes the place of the whole section")
    assert "trainer" in said
    assert "'train#inferer:'" in said
    assert "'+train:'" in said
    for content in ("train#inferer: {_target_: SimpleInferer}\n", "+train: {inferer: {_target_: SimpleInferer}}\n"):
        own.write_text(content)
        monai.bundle.run("mine", config_file=files, logging_file=False, **given)


def test_a_file_of_ones_own_may_have_what_another_config_uses_and_what_an_argument_replaces(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("rate: 0.01\nlearning_rate: '@rate'\nthreshold: 0.4\nckpt_path: '-'\nmine: [$print('mine')]\n")
    given = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "learning_rate": 0.02}
    files = [str(CONFIGS / "train.yaml"), str(own)]
    monai.bundle.run("mine", config_file=files, logging_file=False, **given)


def test_every_entry_of_the_bundles_configs_is_used_by_one_of_them() -> None:
    contents = [ConfigParser.load_config_file(path) for path in sorted(CONFIGS.glob("*.yaml"))]
    assert len(contents) > 20
    for content in contents:
        unused = unused_settings(content, *contents)
        # deeper ones are arguments of a component, or metrics of a list
        assert [name for name in unused if re.fullmatch("((train|validate)#)?[^#]+", name)] == []


def test_a_workflow_of_ones_own_runs(run_bundle: Callable[..., None], tmp_path: Path) -> None:
    run_bundle("mine", "train", mine=["$print('mine')"], dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"))


def test_a_none_that_monai_would_drop_is_refused(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), **TINY}
    for value in (None, "null"):
        with pytest.raises(RuntimeError) as info:
            run_bundle("training", "train", **given, border=value)
        assert "'border: null' into a YAML file" in str(settings.cause(info.value))
    assert not (tmp_path / "run").exists()


def _taken(folder: Path, content: str, own: str = "", **given: Any) -> dict[str, Any]:
    """What becomes of settings that are given, with a config, and a file of one's own over it."""
    names = [line.partition(":")[0] for line in content.splitlines()]
    checking = "imports: [$import unet_paper.running.settings as settings]\n"
    checking += "initialize: [$settings.refuse_unknown_settings()]\n"
    uses = "run: [" + ", ".join(f"'@{name}'" for name in names) + "]\n"
    files = [folder / "config.yaml", folder / "own.yaml"]
    for file, text in zip(files, (checking + content + uses, own or "{}"), strict=True):
        file.write_text(text)
    workflow = monai.bundle.create_workflow(config_file=list(map(str, files)), run_id="run", **given)
    return {name: workflow.parser.get(name) for name in given}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("learning_rate", "fast", "--learning_rate fast: a number is needed, such as 0.002"),
        ("learning_rate", (0, 5), "with a point, not a comma"),
        ("epochs", "ten", "--epochs ten: a number is needed, such as 3"),
        ("resume", "maybe", "--resume maybe: true or false is needed"),
        ("features", 64, "--features 64: two numbers in brackets are needed"),
        ("threshold", "half", "--threshold half: a number is needed"),
    ],
)
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_what_is_no_number_where_one_is_needed_is_named(name: str, value: Any, said: str, tmp_path: Path) -> None:
    config = "learning_rate: 0.002\nepochs: 3\nresume: false\nfeatures: [4, 8]\ngrey_mean: 0.5\nthreshold: null\n"
    with pytest.raises(RuntimeError) as info:
        _taken(tmp_path, config, **{name: value})
    assert said in str(settings.cause(info.value))


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_what_is_of_its_kind_or_an_expression_is_taken(tmp_path: Path) -> None:
    config = (
        "learning_rate: 0.002\nepochs: 3\nresume: false\nfeatures: [4, 8]\ngrey_mean: 0.5\nfold: 0\nthreads: auto\n"
    )
    given = {"learning_rate": 1, "epochs": 1e1, "resume": 1, "features": (2, 4), "grey_mean": [0.1, 0.2], "fold": "all"}
    given |= {"threads": 2}
    taken = _taken(tmp_path, config, "threads: 4\n", **given)
    assert taken == given
    assert type(taken["epochs"]) is int
    expressions = {"learning_rate": "$1 / 1000", "resume": "@epochs", "features": "$[1, 2]"}
    assert _taken(tmp_path, config, **expressions) == expressions


@pytest.mark.parametrize("door", [monai.bundle.create_workflow, monai.bundle.run_workflow])
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_other_doors_of_monai_refuse_what_run_refuses(
    door: Callable[..., Any], cells_folder: str, tmp_path: Path
) -> None:
    """Both drop a None, and would train with the border that was to be left out; and both evaluate a folder's name."""
    mark = tmp_path / "ran"
    given = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), **TINY}
    code = f"$__import__('pathlib').Path({str(mark)!r}).touch()"
    for wrong, said in (
        ({"border": None}, "'border: null' into a YAML file"),
        ({"dataset_dir": code}, "--dataset_dir"),
    ):
        with pytest.raises(RuntimeError) as info:
            door(config_file=str(CONFIGS / "train.yaml"), run_id="training", **{**given, **wrong})
        assert said in str(settings.cause(info.value))
    assert not mark.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["dataset_dir", "output_dir"])
@pytest.mark.parametrize("kind", ["$", "@"])
def test_a_folder_that_monai_would_evaluate_is_refused_before_it_does(
    name: str, kind: str, run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    given = {"dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), **TINY}
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", **{**given, name: f"{kind}__import__('pathlib').Path({str(mark)!r}).touch()"})
    assert f"--{name}" in str(settings.cause(info.value))
    assert f"write --{name} ./" in str(settings.cause(info.value))
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
