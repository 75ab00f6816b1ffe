"""Names with characters that a command line or a config gives a meaning."""

import sys
from pathlib import Path
from typing import Any

import fire
import numpy as np
import pytest
import tifffile
from conftest import CONFIGS, TINY
from fire.parser import DefaultParseValue
from monai.bundle.scripts import run
from PIL import Image

from unet_paper.running.given_paths import as_given
from unet_paper.running.settings import cause

# what is typed -> the path that is meant
NAMES = {
    "out #2": "out #2",
    "a#b": "a#b",
    "'run #1'": "run #1",
    "7": "7",
    "007": "007",
    "1e5": "1e5",
    "1_000": "1_000",
    "a,b": "a,b",
    "[x]": "[x]",
    "True": "True",
    "100%": "100%",
    "a@b": "a@b",
    "a$b": "a$b",
    "with spaces": "with spaces",
    "größe é": "größe é",
}


@pytest.mark.parametrize("typed", NAMES)
@pytest.mark.parametrize("equals", [False, True])
def test_every_name_arrives(typed: str, equals: bool) -> None:
    parsed = DefaultParseValue(typed)
    config = {"output_dir": parsed.replace("#", "::") if isinstance(parsed, str) else parsed, "learning_rate": 1}
    arguments = [f"--output_dir={typed}"] if equals else ["--output_dir", typed]
    found = as_given(config, ["run", *arguments, "--learning_rate", "1"])
    assert found.get("output_dir", config["output_dir"]) == NAMES[typed]
    assert set(found) <= {"output_dir"}


@pytest.mark.parametrize("character", "$@%")
def test_a_first_character_with_a_meaning_is_refused(character: str) -> None:
    name = f"{character}data"
    with pytest.raises(ValueError, match=rf"--dataset_dir \{character}data: begins with \{character}.*\./\{character}"):
        as_given({"dataset_dir": name}, ["--dataset_dir", name])
    assert as_given({"dataset_dir": f"./{name}"}, ["--dataset_dir", f"./{name}"]) == {}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("output_dir", "~/out", r"--output_dir ~/out: ~ is your home folder to a shell alone"),
        ("ckpt_path", "~someone/model.pt", r"--ckpt_path ~someone/model.pt: ~ is"),
        ("output_dir", "", "--output_dir '': names no folder"),
        ("dataset_dir", " ", "--dataset_dir ' ': names no folder"),
    ],
)
def test_what_would_be_another_folder_than_meant_is_refused(name: str, text: str, said: str) -> None:
    for arguments in ([f"--{name}={text}"], []):  # typed, or given in Python
        with pytest.raises(ValueError, match=said):
            as_given({name: text}, arguments)


def test_expressions_of_configs_stay() -> None:
    config = {"ckpt_path": "$@bundle_root + '/models/model.pt'", "dataset_dir": {"_target_": "write"}}
    assert as_given(config, ["--ckpt_path", "$@bundle_root + '/models/model.pt'"]) == {}


def test_a_double_colon_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a::b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_given({"dataset_dir": "a::b", "output_dir": "c::d"}, []) == {"output_dir": "c#d"}


def command(monkeypatch: pytest.MonkeyPatch, run_id: str, configs: list[str], **settings: Any) -> None:
    """MONAI's command line, in this process."""
    files = [str(CONFIGS / f"{name}.yaml") for name in configs]
    typed = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    arguments = ["run", run_id, "--config_file", str(files), "--logging_file", "False", *typed]
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
    fire.Fire({"run": run}, command=arguments)


def test_training_and_prediction_with_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path("a#b 7%")
    rng = np.random.default_rng(0)
    cells = np.zeros((64, 64), np.uint8)
    cells[10:30, 10:30], cells[35:60, 20:50] = 1, 2
    names = ["well#0.png", "well#1.png", "$x.png", "@y z.png", "é%1.png", "3.png"]
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
        for name in names:
            grey = rng.integers(60, 90, (64, 64)) + 90 * (cells > 0) if kind == "images" else cells
            Image.fromarray(grey.astype(np.uint8)).save(data / kind / name)
    settings = {**TINY, "max_epochs": 1, "grey_mean": 0.4, "grey_std": 0.2}
    command(monkeypatch, "training", ["train", "data_folder"], dataset_dir=data, output_dir="out #2", **settings)
    assert (tmp_path / "out #2" / "model.pt").is_file()
    assert len(list((tmp_path / "out #2" / "figures").glob("*.png"))) == 3
    model = tmp_path / "out #2" / "model.pt"
    command(
        monkeypatch, "run", ["inference"], dataset_dir=data / "images", output_dir="7", ckpt_path=model, device="cpu"
    )
    for name in names:
        assert tifffile.imread(tmp_path / "7" / f"{name[:-4]}_cells.tif").shape == (64, 64)
    with pytest.raises(RuntimeError) as info:
        command(monkeypatch, "run", ["inference"], dataset_dir="$open('x','w')", output_dir="8", device="cpu")
    assert "which MONAI evaluates" in str(cause(info.value))
    assert {path.name for path in tmp_path.iterdir()} == {"a#b 7%", "out #2", "7"}
