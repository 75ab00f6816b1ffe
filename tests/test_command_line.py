"""The command ``unet-paper``: what it prints is what it runs, what it refuses, what its help says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import CONFIGS, ROOT, TINY
from PIL import Image

from unet_paper.app import check, help_text, lean_import
from unet_paper.app.bundle_command import path_value
from unet_paper.app.command_line import COMMANDS, MODULES, Request, main
from unet_paper.network import UNet
from unet_paper.running import checkpoint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that one works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "seconds_per_step", lambda *_: 1.0)
    return tmp_path


def typed(settings: dict[str, Any]) -> list[str]:
    """Settings as one types them; logging, which belongs to the whole process, is left to pytest."""
    given = {**settings, "logging_file": False}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def test_the_readme_s_commands_lead_from_a_folder_to_counted_cells(
    here: Path, own_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As they stand there, with a tiny network; then the same in Python, and the scores."""
    readme = (ROOT / "README.md").read_text()
    block = readme[readme.index("## Your own images") :].split("```")[1]
    typed_there = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("unet-paper")]
    assert [words[0] for words in typed_there][-2:] == ["train", "predict"]
    (here / "cells").symlink_to(own_folder)
    (here / "new_images").symlink_to(own_folder / "images")
    tiny = {"train": typed(TINY), "predict": typed({"device": "cpu"})}
    for words in typed_there:
        assert main([*words, *tiny.get(words[0], [])]) == 0
    said = capfd.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("python -m monai.bundle run training")]
    assert shlex.split(lines[0])[shlex.split(lines[0]).index("--max_epochs") + 1] == str(TINY["max_epochs"])
    assert "weights: runs/cells/model.pt" in said
    out = here / "runs" / "predictions" / "new_images"
    for name in re.findall(
        r"`((?:NAME|[a-z]+)[._][\w.]+)`", readme[readme.index("| beside") : readme.index("`--outputs")]
    ):
        assert (out / name.replace("NAME", "well0")).is_file(), name
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    scope: dict[str, Any] = {"image": np.asarray(Image.open(own_folder / "images" / "well0.png"))}
    exec(code[1], scope)
    np.testing.assert_array_equal(scope["found"].labels, tifffile.imread(out / "well0_cells.tif"))
    assert main(["evaluate", "cells", *typed(TINY)]) == 0
    assert (here / "runs" / "cells" / "evaluation" / "summary.json").is_file()


# by weights that know nothing of themselves
UNTOLD = {"grey_mean": 0.5, "grey_std": 0.2, "cells_preset": "folder"}


@pytest.fixture
def weights(here: Path) -> str:
    torch.manual_seed(3)
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), here / "weights.pt")
    return "weights.pt"


def test_the_printed_line_does_the_same_in_a_shell(here: Path, weights: str, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "2024").mkdir()  # a folder that MONAI would take for a number
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "2024" / "a b.png")
    asked = ["predict", "2024", "--weights", weights, "--device", "cpu", *typed(UNTOLD)]
    assert main(asked) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("python -m monai.bundle"))
    ours = (here / "runs" / "predictions" / "2024" / "a b_cells.tif").read_bytes()
    (here / "runs").rename(here / "before")
    words = shlex.split(line)
    run = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=here, check=False)
    assert run.returncode == 0, run.stderr
    assert (here / "runs" / "predictions" / "2024" / "a b_cells.tif").read_bytes() == ours


def test_help_says_the_defaults_of_the_configs_and_loads_nothing_heavy() -> None:
    check = (
        "import sys; from unet_paper.app.command_line import main; main(['--help']); "
        "main(['predict', '--help']); main(['train', '--help']); "
        "print([name for name in ('torch', 'monai', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "[]"
    settings = (CONFIGS / "inference.yaml").read_text()
    (preset,) = [text.split()[1] for text in settings.splitlines() if text.startswith("strategy:")]
    assert f"--strategy       tiles; rows: in less time and memory [{preset}]" in run.stdout


LEAN = """
import sys
from unet_paper.app import lean_import
lean_import.import_monai()
print(*(name for name in lean_import.UNUSED if name in sys.modules))
import monai.bundle, pandas, matplotlib.pyplot
from scipy.signal import hilbert
from sklearn.metrics import silhouette_score
from unet_paper.running import prediction_job, cell_outputs, figures, engines
"""


def test_commands_load_nothing_that_only_monai_looks_for_and_hide_it_from_nobody() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    run = subprocess.run(
        [sys.executable, "-c", LEAN],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert run.stdout == "\n"


def test_tracking_keeps_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "mlflow" in lean_import.unused(["max_epochs", "4", "images: 3"])
    for asked in (["tracking", "mlflow"], ["_target_: monai.handlers.mlflow_handler.MLFlowHandler"]):
        assert set(lean_import.UNUSED) - set(lean_import.unused(asked)) == {"mlflow"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a.db")
    assert "mlflow" not in lean_import.unused([])


def test_score_reads_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "no.tif", "none.tif"]) == 2
    assert "no.tif" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(help_text.TOPICS))
def test_what_help_names_is_a_setting(name: str) -> None:
    topic = help_text.TOPICS[name]
    assert set(topic.settings) - set(help_text.defaults(topic.configs)) <= {"weights", "minutes", "start"} | (
        set(check.ASKED) if name == "check" else set()
    )
    assert len(topic.settings) <= 11
    assert (name in COMMANDS) != (name in MODULES)


def test_what_follows_a_command_is_a_place_or_a_setting() -> None:
    request = Request.parsed(["a", "--max-epochs", "4", "--shift=-3", "--resume", "--flip", "false"])
    assert [str(place) for place in request.places] == ["a"]
    assert request.settings == {"max_epochs": "4", "shift": "-3", "resume": "True", "flip": "False"}


@pytest.mark.parametrize("name", ["2024", "1,2", "[a]", "$x", "@x", "%x", "-x", 'a"b', "None", "a b", "x#1.tif", "{a}"])
def test_a_folder_of_any_name_stays_one(name: str) -> None:
    """Through fire, which makes Python values of what it is given."""
    from fire.parser import DefaultParseValue

    value = DefaultParseValue(path_value(name))
    assert isinstance(value, str)
    assert Path(value) == Path(name)
    assert value[0] not in "$@%-"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["trian"], 2, "commands are check, train"),
        (["train"], 2, "FOLDER is missing"),
        (["train", "a", "b"], 1, "one FOLDER is needed, given: a b"),
        (["predict", "nowhere"], 1, "nowhere: no such file or folder"),
        (["predict", "."], 1, "unet-paper train FOLDER"),
        (["predict", ".", "--weights", "u37"], 1, "releases are em, hela or u373"),
        (["train", ".", "--config_file", "mine.yaml"], 1, "mine.yaml: no such config file"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_is_said_in_a_line(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--max_epoch", "3"], "did you mean max_epochs"), (["--fold", "99"], "fold=99")],
)
def test_the_configs_own_refusal_is_the_last_line(
    words: list[str], said: str, here: Path, own_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(own_folder), *typed(TINY), *words]) == 1
    assert said in capfd.readouterr().err.splitlines()[-1]
    assert not (here / "runs" / "cells" / "model.pt").exists()


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_request: Request) -> int:
        raise KeyError("oops")

    monkeypatch.setitem(COMMANDS, "demo", broken)
    with pytest.raises(KeyError):
        main(["demo"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_command_with_a_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_request: Request) -> int:
        signal.raise_signal(number)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    monkeypatch.setitem(COMMANDS, "demo", interrupted)
    assert main(["demo"]) == 128 + number
    assert f"unet-paper demo: stopped by {signal.Signals(number).name}\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_images_of_two_folders_of_one_name_are_predicted_apart(
    here: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``images`` of one data set and of another: neither takes the other's place, and each goes on in its own."""
    asked = ["--weights", weights, "--device", "cpu", *typed(UNTOLD), "--outputs", "[summary]"]
    for number, name in enumerate(("cells", "nuclei")):
        (here / name / "images").mkdir(parents=True)
        Image.fromarray(np.full((40, 50 + number), 90, np.uint8)).save(here / name / "images" / "a.png")
    for name in ("cells", "nuclei", "cells", "nuclei"):
        assert main(["predict", f"{name}/images", *asked]) == 0
    assert "runs/predictions/images holds predictions of images in" in capsys.readouterr().out
    found = {path.parent.name: tifffile.imread(path).shape for path in here.glob("runs/predictions/*/a_cells.tif")}
    assert found == {"images": (40, 50), "nuclei_images": (40, 51)}


def test_the_newest_run_is_taken_but_not_the_phantom_s(make_run: Callable[..., Path]) -> None:
    from unet_paper.app.predict import newest_weights

    make_run("old", 100)
    make_run("new", 200)
    make_run("phantom_cells", 300)
    assert newest_weights() == Path("runs/new/model.pt")


@pytest.fixture
def make_run(here: Path) -> Callable[..., Path]:
    def make(name: str, time: int) -> Path:
        file = here / "runs" / name / "model.pt"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        os.utime(file, (time, time))
        return file

    return make


def test_demo_goes_from_a_folder_to_new_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it hands to ``train`` and ``predict``, which are run elsewhere."""
    asked: list[Request] = []
    for name in ("_train", "_predict"):
        monkeypatch.setattr(f"unet_paper.app.command_line.{name}", asked.append)
    monkeypatch.setattr("unet_paper.app.demo._IMAGES", 3)
    assert main(["demo", "--max_epochs", "1", "--device", "cpu"]) == 0
    training, prediction = asked
    folder = training.place("FOLDER")
    assert [len(list((here / folder / part).iterdir())) for part in ("images", "masks", "new_images")] == [3, 3, 1]
    assert training.settings["max_epochs"] == "1"
    assert prediction.place("IMAGES") == folder / "new_images"
    assert prediction.settings["weights"] == training.settings["output_dir"]
    assert prediction.settings["device"] == "cpu"
