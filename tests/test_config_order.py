"""Config files that lie over one another in the wrong order."""

from pathlib import Path
from typing import Any

import monai.bundle
import pytest
from conftest import CONFIGS
from monai.bundle import ConfigParser

from unet_paper.running import settings
from unet_paper.running.config_order import _LAYER, refuse_wrong_order


def test_all_configs_of_the_bundle_have_a_place() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(_LAYER)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["own", "train"], "train.yaml takes back rate of own.yaml, since it comes after it"),
        (["train", "own", "data_folder"], "the order is train.yaml, data_folder.yaml, own.yaml"),
        (["train", "best_folder", "data_folder"], "data_folder.yaml takes back rate of best_folder.yaml"),
        (["train", "evaluate", "data_folder", "own"], "is train.yaml, data_folder.yaml, evaluate.yaml, own.yaml"),
        (["train", "inference"], "train.yaml and inference.yaml: each stands alone; give one of them"),
        (["train", "data_folder", "data_isbi2012"], "each is a data set"),
    ],
)  # fmt: skip
def test_what_takes_back_the_settings_of_another_is_refused_and_the_order_that_is_named_is_not(
    order: list[str], said: str
) -> None:
    files = {f"{name}.yaml": {"rate": number} for number, name in enumerate(order)}
    with pytest.raises(ValueError) as info:
        refuse_wrong_order(files)
    assert said in str(info.value)
    named = str(info.value).partition("the order is ")[2]
    if named:
        refuse_wrong_order({file: files[file] for file in named.split(", ")})


@pytest.mark.parametrize(
    "order",
    [
        ["train", "data_folder", "best_folder", "own"],
        ["train", "data_folder", "fine_tune", "best_folder"],
        ["train", "data_folder", "own", "best_folder", "evaluate", "robustness"],
        ["train", "data_folder", "data_points", "evaluate", "own"],
        ["inference", "own", "release_u373", "many_images"],
    ],
)
def test_orders_that_lose_nothing_are_taken(order: list[str]) -> None:
    refuse_wrong_order({f"configs/{name}.json": {"rate": number} for number, name in enumerate(order)})


def test_what_changes_nothing_may_come_in_any_order() -> None:
    refuse_wrong_order({"own.yaml": {"rate": 1, "mine": 2}, "train.yaml": {"rate": 1}})


def test_a_run_is_refused_before_it_writes(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("learning_rate: 0.01\n")
    given: dict[str, Any] = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "logging_file": False}
    files = [str(CONFIGS / "train.yaml"), str(own), str(CONFIGS / "data_folder.yaml")]
    with pytest.raises(RuntimeError) as info:
        monai.bundle.run("training", config_file=files, **given)
    assert f"data_folder.yaml takes back learning_rate of {own}" in str(settings.cause(info.value))
    assert not (tmp_path / "run").exists()


def test_the_orders_of_the_readme_are_taken() -> None:
    for names in (
        ["train", "data_isbi2012", "fine_tune", "best_isbi2012"],
        ["inference", "release_hela", "many_images"],
    ):
        files = {f"{name}.yaml": ConfigParser.load_config_file(CONFIGS / f"{name}.yaml") for name in names}
        refuse_wrong_order(files)
