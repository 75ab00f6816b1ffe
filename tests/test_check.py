"""``unet-paper check``: what it writes, when it looks again, and that no one's changes are lost."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from unet_paper.app import check, train
from unet_paper.app.command_line import main


@pytest.fixture
def nuclei(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images with a square cell each, in an empty folder that one works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "seconds_per_step", lambda *_: 1.0)
    for number in range(4):
        ids = np.zeros((64, 64), np.uint8)
        ids[10 + number : 30, 20:44] = 1
        grey = 40 + 100 * ids + np.random.default_rng(number).integers(0, 9, ids.shape, dtype=np.uint8)
        for kind, pixels in (("images", grey), ("masks", ids)):
            file = tmp_path / "nuclei" / kind / f"n{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return Path("nuclei")


def test_the_page_stands_alone_and_changed_settings_are_kept(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nuclei", "--minutes", "4"]) == 0
    place = Path("runs/checks/nuclei")
    page = (place / "check.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png") == 6  # four thumbnails, plots, a weight map
    report = json.loads((place / "check.json").read_text())
    assert report["findings"] == []
    assert report["summary"]["cells"] == 4
    assert check.is_current(nuclei, place, 4)
    assert check.is_current(nuclei, place, None)
    assert not check.is_current(nuclei, place, 5)
    config = place / "config.yaml"
    config.write_text(config.read_text() + "# mine\n")
    (nuclei / "masks" / "n0.png").write_bytes((nuclei / "masks" / "n1.png").read_bytes())
    assert not check.is_current(nuclei, place, None)
    assert main(["check", "nuclei"]) == 0
    assert "# mine" in (place / "config.yaml.1").read_text()
    assert "had changes of yours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "soon"], "--minutes soon: a time above 0"),
        (["--epochs", "3"], "check takes --minutes"),
        (["--minute", "3"], "--minute: did you mean --minutes? check takes"),
        (["--config_file", "nuclei/mine.yaml"], "--config_file: check takes --minutes"),
    ],
)
@pytest.mark.usefixtures("nuclei")
def test_other_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nuclei/mine.yaml").write_text("max_epochs: 3\n")
    assert main(["check", "nuclei", *words]) == 1
    assert said in capsys.readouterr().err


def test_masks_that_are_photographs_end_a_training_before_it_begins(
    nuclei: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them: check says so and goes on, train does not, checked before or not; all of them: neither does."""
    photograph = np.random.default_rng(5).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(photograph).save(nuclei / "masks" / "n2.png")
    assert main(["check", "nuclei"]) == 0
    for _ in range(2):
        assert main(["train", "nuclei"]) == 1
        assert "nuclei/masks/n2.png: mask is a photograph" in capsys.readouterr().err
    for number in range(4):
        Image.fromarray(photograph).save(nuclei / "masks" / f"n{number}.png")
    assert main(["check", "nuclei"]) == 1
    said = capsys.readouterr().err
    assert "no mask holds a cell" in said
    assert "mask is a photograph: n0.png" in said


def test_a_value_of_masks_may_mean_unknown(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half of each mask that nobody annotated is no cell; the training gets the value, and asks for another look."""
    for file in sorted((nuclei / "masks").iterdir()):
        mask = np.array(Image.open(file))
        mask[40:] = 255
        Image.fromarray(mask).save(file)
    assert main(["check", "nuclei", "--ignore_value", "255"]) == 0
    place = Path("runs/checks/nuclei")
    report = json.loads((place / "check.json").read_text())
    assert report["findings"] == []
    assert report["summary"]["annotation"] == "binary"
    assert report["summary"]["cells"] == 4
    assert report["images"][0]["unknown"] == 24 / 64
    assert "ignore_value: 255" in (place / "config.yaml").read_text()
    assert check.is_current(nuclei, place, None, {"ignore_value": 255})
    assert not check.is_current(nuclei, place, None, {"ignore_value": 254})
    assert main(["check", "nuclei", "--ignore_value", "white"]) == 1
    assert "--ignore_value white: a value of masks is needed" in capsys.readouterr().err


def test_classes_are_looked_at_as_they_are_trained(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the refusal of their masks says to say is taken by check and by train, and stands in the settings."""
    for number, file in enumerate(sorted((nuclei / "masks").iterdir())):
        mask = np.zeros((64, 64), np.uint8)
        mask[4:14, 4:14] = mask[34 : 44 + number, 4:14] = 1
        mask[4:14, 34:44] = mask[34:44, 34:44] = 2
        mask[20:30, 4:14], mask[20:30, 34:44] = 1, 2
        Image.fromarray(mask).save(file)
        grey = 40 + 100 * (mask > 0) + np.random.default_rng(number).integers(0, 9, mask.shape)
        Image.fromarray(grey.astype(np.uint8)).save(nuclei / "images" / file.name)
    assert main(["check", "nuclei"]) == 1
    assert "say --annotation classes --out_channels 3" in capsys.readouterr().err
    assert main(["check", "nuclei", "--annotation", "classes", "--out_channels", "3"]) == 0
    place = Path("runs/checks/nuclei")
    report = json.loads((place / "check.json").read_text())
    assert report["findings"] == []
    assert report["summary"]["cells"] == 24
    assert report["configuration"]["class_weights"] == [1.0, 1.0, 1.0]
    assert check.is_current(nuclei, place, None, {"annotation": "classes", "out_channels": 3})
    assert not check.is_current(nuclei, place, None, {"annotation": "instances"})
    assert main(["check", "nuclei", "--annotation", "class"]) == 1
    assert "--annotation class: choose of" in capsys.readouterr().err


def test_a_rim_of_a_value_of_its_own_is_left_out_as_the_refusal_says(
    nuclei: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells in white with grey rims, as some programs export them: the remedy that is named leads to cells."""
    for file in sorted((nuclei / "masks").iterdir()):
        mask = np.zeros((64, 64), np.uint8)
        for top, left in ((4, 4), (4, 34), (34, 4), (34, 34)):
            mask[top : top + 14, left : left + 14] = 128
            mask[top + 2 : top + 12, left + 2 : left + 12] = 255
        Image.fromarray(mask).save(file)
    assert main(["check", "nuclei"]) == 1
    assert "say --ignore_value 128 if that is the rim" in capsys.readouterr().err
    assert main(["check", "nuclei", "--ignore_value", "128"]) == 0
    report = json.loads(Path("runs/checks/nuclei/check.json").read_text())
    assert (report["summary"]["annotation"], report["summary"]["cells"]) == ("binary", 16)


def test_an_ending_of_one_s_own_pairs_masks(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted((nuclei / "masks").iterdir()):
        file.rename(file.with_stem(f"{file.stem}-zellen"))
    assert main(["check", "nuclei"]) == 1
    assert "--mask_suffix takes another ending" in capsys.readouterr().err
    assert main(["check", "nuclei", "--mask_suffix", "-zellen"]) == 0
    report = json.loads(Path("runs/checks/nuclei/check.json").read_text())
    assert report["configuration"]["mask_suffix"] == "-zellen"
    assert report["summary"]["cells"] == 4


def test_the_check_of_another_folder_of_that_name_is_not_taken_for_one_s_own(
    nuclei: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings list the images that are scored: those of the other folder."""
    shutil.copytree(nuclei, "day2/nuclei")
    assert main(["check", "nuclei"]) == 0
    assert main(["check", "day2/nuclei"]) == 0
    assert main(["evaluate", "nuclei"]) == 1
    said = capsys.readouterr().err
    assert "runs/checks/nuclei: of day2/nuclei, another folder of that name than nuclei" in said
    assert "check nuclei again" in said
    # as is said
    assert main(["check", "nuclei"]) == 0
    train.evaluation(nuclei, {"output_dir": "runs/nuclei.1"})
    assert main(["check", "day2/nuclei"]) == 0
    # a folder that is gone may have been moved here
    shutil.rmtree("day2")
    train.evaluation(nuclei, {})


def test_channels_with_names_are_taken_by_them(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that weights take them from images that have them in another order; what is asked for comes first."""
    for file in sorted((nuclei / "images").iterdir()):
        grey = np.array(Image.open(file))
        names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        tifffile.imwrite(file.with_suffix(".ome.tif"), np.stack([grey, grey // 2]), metadata=names)
        file.unlink()
    assert main(["check", "nuclei"]) == 0
    assert "all channels are taken: images have 2 channels (DAPI, GFP)" in capsys.readouterr().out
    config = Path("runs/checks/nuclei/config.yaml")
    assert yaml.safe_load(config.read_text())["channel"] == ["DAPI", "GFP"]
    assert main(["check", "nuclei", "--channel", "[1, 0]"]) == 0
    assert [line for line in config.read_text().splitlines() if line.startswith("channel:")] == ["channel: [1, 0]"]


def test_channels_are_named_where_all_are_taken(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted((nuclei / "images").iterdir()):
        grey = np.array(Image.open(file))
        Image.fromarray(np.dstack([grey, grey // 2, grey])).save(file)
    assert main(["check", "nuclei"]) == 0
    assert "3 channels (red, green, blue); --channel 0 takes the first" in capsys.readouterr().out
    assert main(["check", "nuclei", "--channel", "green"]) == 0
    assert "channels" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_is_named(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("no folder")
    assert main(["check", str(nuclei)]) == 1
    said = capsys.readouterr().err
    assert "runs/checks/nuclei" in said
    assert "go to a folder that you may write to" in said


def test_a_full_disk_is_said_with_what_helps_a_check(
    nuclei: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(part: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(part))

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["check", str(nuclei)]) == 1
    said = capsys.readouterr().err
    assert "free some room there, or go to a folder that you may write to" in said
    assert "--output_dir" not in said


def test_a_folder_that_may_not_be_looked_into_is_named(
    nuclei: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != nuclei)
    assert main(["check", str(nuclei)]) == 1
    assert "nuclei: you may not look into it" in capsys.readouterr().err


def test_an_image_that_may_not_be_read_is_not_called_damaged(
    nuclei: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Image.open

    def denied(file: Any, *rest: Any) -> Any:
        if Path(file).parts[-2:] == ("images", "n2.png"):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *rest)

    monkeypatch.setattr(Image, "open", denied)
    assert main(["check", str(nuclei)]) == 0
    said = capsys.readouterr().out
    assert "image cannot be read: n2.png: cannot be read: Permission denied; give yourself the right" in said
    assert "damaged" not in said


def test_a_thousand_other_files_beside_the_folders_are_said(nuclei: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1000):
        (nuclei / f"note{number}.txt").touch()
    assert main(["check", "nuclei"]) == 0
    assert "many other files: 1000 files" in capsys.readouterr().out
