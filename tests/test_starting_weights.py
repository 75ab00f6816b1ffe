"""Where a training starts from: the nearest release if it is no worse than chance; and the terms that go with it."""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY
from ignite.engine import Engine

from unet_paper.app import check, starting_weights
from unet_paper.app.command_line import main
from unet_paper.app.starting_weights import Outcome, Score
from unet_paper.app.train import CONFIGS
from unet_paper.network import UNet
from unet_paper.release import archive, bioimage_io_card, model_card, monai_label, terms
from unet_paper.release.terms import Released
from unet_paper.running import checkpoint, facts
from unet_paper.running.bundle_folder import bundle_folder

Run = Callable[..., None]
TERMS = "Free on Sundays, see docs/data_license.txt"
# 1020 steps: a trial of 51, a twentieth
SETTINGS = {"features": "[4, 8, 16]", "tile_size": "92", "device": "cpu", "magnification": "1.0"}
STEPS = {"max_epochs": "102", "steps_per_epoch": "10"}


@pytest.fixture(scope="module")
def good(own_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know such cells: trained on them for longer than a trial."""
    import monai.bundle

    folder = tmp_path_factory.mktemp("good")
    settings = {name: yaml.safe_load(value) for name, value in SETTINGS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        configs = [str(bundle_folder() / "configs" / f"{name}.yaml") for name in CONFIGS]
        monai.bundle.run(
            run_id="training",
            config_file=configs,
            logging_file=False,
            **settings,
            dataset_dir=str(own_folder),
            output_dir="run",
            dropout=0.0,
            class_weights=[1.0, 1.0],
            learning_rate=0.003,
            max_epochs=1,
            steps_per_epoch=300,
            val_interval=1,
        )
    return folder / "run" / "model.pt"


OUTCOME = Outcome("cells", 1, "SEG", 51, 1, Score(0.5, 0.5), Score(0.4, 0.5))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know nothing, and from which a training does not recover in a few steps."""
    torch.manual_seed(0)
    network = UNet(features=[4, 8, 16])
    state = {name: 3 * torch.randn_like(value) for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("noise") / "noise.pt"
    checkpoint.save(state, path)
    return path


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[Released]:
    """The bundle's releases, which a test fills in."""
    found: list[Released] = []
    monkeypatch.setattr(terms, "released", lambda *_: found)
    return found


@pytest.fixture
def here(own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that one works in, with the cells, which have been checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "seconds_per_step", lambda *_: 1.0)
    (tmp_path / "cells").symlink_to(own_folder)
    check.checked(Path("cells"), {})
    return tmp_path


def chosen(settings: dict[str, str] | None = None) -> tuple[Path | None, str]:
    given = {**SETTINGS, **STEPS, "logging_file": "False"} if settings is None else settings
    return starting_weights.choose(Path("cells"), dict(given))


@pytest.mark.usefixtures("here")
def test_of_two_releases_the_nearest_is_tried_and_kept(
    released: list[Released], good: Path, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released += [Released("noise", noise, "none"), Released("good", good, TERMS)]
    start, said = chosen()
    assert start == Path("runs/checks/cells/start.yaml")
    assert "start from the release good: after 51 steps" in said
    assert "the nearest of 2" in said
    text = start.read_text()
    overlay = yaml.safe_load(text)
    assert overlay == {
        "pretrained": str(good.resolve()),
        "pretrained_sha256": checkpoint.sha256(good),
        # two starts of 51 steps each took the time of 11 epochs of 10
        "max_epochs": 102 - 11,
    }
    assert TERMS in text
    record = json.loads(start.with_name("start.json").read_text())
    assert record["from_release"]["value"] >= record["from_chance"]["value"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["checks"]  # no run, no pictures
    monkeypatch.setattr(starting_weights, "_tried", lambda *_: pytest.fail("tried again"))
    resumed = {**SETTINGS, **STEPS, "logging_file": "False", "resume": "True"}
    assert chosen() == chosen(resumed) == (start, said)


@pytest.mark.usefixtures("here")
def test_of_a_deeper_release_the_upper_levels_are_tried(released: list[Released], good: Path) -> None:
    released.append(Released("good", good, TERMS))
    start, said = chosen({**SETTINGS, **STEPS, "features": "[4, 8]", "tile_size": "84", "logging_file": "False"})
    assert start is not None
    assert "after 51 steps" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("settings", [{"features": "[8, 16, 32]"}, {"features": "[8, 16]", "tile_size": "84"}])
def test_of_a_narrower_release_copies_are_tried(settings: dict[str, str], released: list[Released], good: Path) -> None:
    released.append(Released("good", good, TERMS))
    start, said = chosen({**SETTINGS, **STEPS, **settings, "logging_file": "False"})
    assert start is not None
    assert "start from the release good: after 51 steps" in said


def test_upper_levels_are_those_of_the_deeper_network() -> None:
    """The weights that the shallower network has are the deeper one's of the same resolution."""
    torch.manual_seed(2)
    deep, shallow = UNet(features=[2, 4, 8, 16]), UNet(features=[2, 4])
    shallow.load_state_dict(checkpoint.upper_levels(deep.state_dict(), 2))
    for level in range(2):
        assert torch.equal(shallow.contracting[level][0].weight, deep.contracting[level][0].weight)
    assert torch.equal(shallow.up[0].weight, deep.up[2].weight)
    assert torch.equal(shallow.expanding[0][2].weight, deep.expanding[2][2].weight)
    assert torch.equal(shallow.classifier.bias, deep.classifier.bias)


@pytest.mark.usefixtures("here")
def test_a_release_that_is_worse_than_chance_is_not_kept(released: list[Released], noise: Path) -> None:
    released.append(Released("noise", noise, TERMS))
    start, said = chosen()
    assert start is not None
    assert "start from chance: after 51 steps" in said
    assert yaml.safe_load(start.read_text()) == {"max_epochs": 102 - 11}
    assert TERMS not in start.read_text()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": "[4, 9]", "tile_size": "84"}, "no release has a network of 4, 9 features for 1 channel"),
        ({"in_channels": "3"}, "no release has a network of 4, 8, 16 features for 3 channels"),
        ({"fold": "all"}, "no image is held out"),
        ({"max_epochs": "4"}, "a trial of 2 steps"),
        ({"resume": "True"}, "a run that goes on has its start already"),
        ({"start": "chance"}, "start from chance, as asked for"),
        ({"pretrained": "mine.pt"}, ""),
    ],
)
def test_where_nothing_is_tried_it_is_said(
    settings: dict[str, str],
    said: str,
    released: list[Released],
    noise: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting_weights, "_tried", lambda *_: pytest.fail("tried"))
    released.append(Released("noise", noise, TERMS))
    start, line = chosen({**SETTINGS, **STEPS, "logging_file": "False", **settings})
    assert start is None
    assert said in line
    assert bool(said) == bool(line)
    assert not Path("runs/checks/cells/start.yaml").exists()


@pytest.mark.usefixtures("here")
def test_a_release_that_cannot_be_read_is_named_and_left_out(
    released: list[Released], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    released += [Released("torn", tmp_path / "torn.pt", ""), Released("gone", tmp_path / "gone.pt", "")]
    assert chosen()[0] is None
    said = capsys.readouterr().out
    assert f"the release torn is left out: release={tmp_path / 'torn.pt'}" in said
    assert f"the release gone is left out: release={tmp_path / 'gone.pt'}: no such" in said


def test_a_start_may_be_asked_for_by_name_or_file(released: list[Released], noise: Path, tmp_path: Path) -> None:
    released.append(Released("em", noise, TERMS))
    for asked, expected in (("em", noise), (str(noise), noise)):
        settings = {"start": asked}
        assert starting_weights.choose(tmp_path, settings)[0] is None
        assert settings == {"pretrained": str(expected)}
    with pytest.raises(ValueError, match="two starts; give one"):
        starting_weights.choose(tmp_path, {"start": "em", "pretrained": "a.pt"})
    with pytest.raises(FileNotFoundError, match=r"--start ems: no such file.*give em, chance or a file"):
        starting_weights.choose(tmp_path, {"start": "ems"})


@pytest.mark.usefixtures("here")
def test_of_a_release_in_two_widths_a_training_starts_from_that_which_fits(
    released: list[Released], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / "wide.pt"
    checkpoint.save(UNet(features=[12, 24, 48]).state_dict(), wide)
    released.append(Released("cells", wide, TERMS, narrow=good))
    tried: list[Path] = []
    monkeypatch.setattr(starting_weights, "_tried", lambda _, fitting, __: tried.append(fitting[0].weights) or OUTCOME)
    chosen()
    assert tried == [good]
    asked = {**SETTINGS, **STEPS, "logging_file": "False", "start": "cells"}
    starting_weights.choose(Path("cells"), asked)
    assert asked["pretrained"] == str(good)
    asked = {**SETTINGS, **STEPS, "logging_file": "False", "start": "cells", "features": "[12, 24, 48]"}
    starting_weights.choose(Path("cells"), asked)
    assert asked["pretrained"] == str(wide)
    start = terms.begun_from(good, quiet=True)
    assert start is not None
    assert (start["release"], start["terms"]) == ("cells", TERMS)


def test_terms_of_a_release_begun_from_itself_are_said_once(
    good: Path, tmp_path: Path, released: list[Released]
) -> None:
    told = facts.Facts.of(checkpoint.read_weights_and_facts(good)[1])
    assert told is not None
    for earlier in (TERMS, f"{TERMS}; of what that was begun from"):
        record = {**told.training, "start": {"weights": "a.pt", "sha256": "0" * 64, "terms": earlier}}
        path = tmp_path / "later.pt"
        state = checkpoint.read_weights(good) | {"facts": replace(told, training=record).to_tensor()}
        checkpoint.save(state, path)
        released[:] = [Released("cells", path, TERMS)]
        start = terms.begun_from(path, quiet=True)
        assert start is not None
        assert start["terms"] == earlier


def test_a_start_that_diverged_or_scored_less_is_worse() -> None:
    diverged = Score(math.nan, math.inf)
    assert not diverged.no_worse_than(Score(0.0, 1.0))
    assert not diverged.no_worse_than(diverged)
    assert Score(0.1, 9.0).no_worse_than(diverged)
    assert Score(0.2, 9.0).no_worse_than(Score(0.1, 1.0))
    assert not Score(0.1, 1.0).no_worse_than(Score(0.2, 9.0))
    # undefined on images without cells: the loss tells
    assert Score(math.nan, 0.1).no_worse_than(Score(math.nan, 0.2))
    assert not Score(math.nan, 0.3).no_worse_than(Score(math.nan, 0.2))
    outcome = Outcome("em", 1, "F1", 50, 2, Score(0.1, 0.2), Score(0.1, 0.2))
    assert outcome.kept
    assert not replace(outcome, from_release=Score(0.1, 0.3)).kept


@pytest.mark.usefixtures("here")
def test_ctrl_c_ends_a_trial_and_leaves_nothing(
    released: list[Released], noise: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[int] = []
    step = torch.optim.Adam.step

    def interrupted(self: torch.optim.Adam, *given: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, *given)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    released.append(Released("noise", noise, TERMS))
    words = [word for name, value in {**SETTINGS, **STEPS}.items() for word in (f"--{name}", value)]
    assert main(["train", "cells", *words, "--logging_file", "False"]) == 128 + signal.SIGINT
    signal.signal(signal.SIGINT, before)
    assert len(steps) == 3
    assert "unet-paper train: stopped by SIGINT" in capsys.readouterr().err
    assert not Path("runs/cells").exists()
    assert not list(Path("runs/checks/cells").glob("start*"))


@pytest.mark.usefixtures("here")
def test_terms_go_from_a_release_to_the_run_its_report_and_its_packages(
    released: list[Released], good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    released.append(Released("sunday", good, TERMS))
    short = {**TINY, "max_epochs": 1, "start": "sunday", "logging_file": "False", "magnification": "1.0"}
    words = [word for name, value in short.items() for word in (f"--{name}", str(value))]
    assert main(["train", "cells", *words]) == 0
    run = Path("runs/cells")
    assert f"--pretrained {good}" in capfd.readouterr().out
    known = facts.read(run / "model.pt")
    assert known.trained_with("start") == {
        "weights": "model.pt",
        "sha256": checkpoint.sha256(good),
        "release": "sunday",
        "data": "cells",
        "terms": TERMS,
    }
    page = (run / "report.html").read_text()
    assert f"Terms of their data, which go with the weights of this run: {TERMS}" in page
    assert "start from sunday, as asked for" in page
    # weights for a release, and another training from those, which has no need to know the release
    checkpoint.export_weights(run / "model.pt", "half.pt")
    released.clear()
    again = terms.begun_from("half.pt")
    assert again is not None
    assert (again["release"], again["terms"]) == (None, TERMS)
    assert model_card.of_facts(known)["start"].startswith("the release sunday")
    card = bioimage_io_card.card(bundle_folder(), run / "model.pt", known)
    assert "Free on Sundays" in bioimage_io_card._licence(card)
    assert card.missing() == ["--authors", "--license"]
    (release,) = [one for name, one in archive.releases(bundle_folder()).items() if name == "unet_em_segmentation"]
    _, metadata = archive._of_other_weights(release, release.metadata, known)
    assert metadata["weights_license"].endswith(TERMS)


def test_what_monai_label_trains_keeps_the_terms_of_what_was_in_use(
    good: Path, tmp_path: Path, released: list[Released]
) -> None:
    """It loads those weights itself, and the run's own facts say nothing of them."""
    (tmp_path / "models").mkdir()
    target = tmp_path / "models" / "model.pt"
    target.write_bytes(good.read_bytes())
    released.append(Released("sunday", good, TERMS))
    (tmp_path / "model.pt").write_bytes(good.read_bytes())
    for _ in range(2):  # the second goes on from what the first has made, which is no release
        monai_label.PublishWeights(tmp_path, target)(Engine(lambda *_: None))
        assert terms.of_facts(facts.read(target)) == TERMS


def test_a_run_that_goes_on_keeps_what_it_began_with(
    run_bundle: Run, cells_folder: str, good: Path, tmp_path: Path, released: list[Released]
) -> None:
    """Though the command that goes on names no weights."""
    released.append(Released("sunday", good, TERMS))
    few = {"steps_per_epoch": 1, "folds": 4}
    settings: dict[str, Any] = {**TINY, **few, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **{**settings, "max_epochs": 1}, pretrained=str(good))
    run_bundle("training", "train", **settings, resume=True)
    start = facts.read(tmp_path / "run" / "last.pt").trained_with("start")
    assert start["terms"] == TERMS


def test_releases_of_the_bundle_have_terms_and_a_copy_of_one_is_known_for_it(tmp_path: Path) -> None:
    found = {one.name: one for one in terms.released()}
    assert {"em", "hela", "u373"} == set(found)
    copy = tmp_path / "copy.pt"
    copy.write_bytes(found["u373"].weights.read_bytes())
    start = terms.begun_from(copy)
    assert start is not None
    assert start["release"] == "u373"
    # and those of the weights that it was itself begun from
    assert start["terms"] == f"{found['u373'].terms}; {found['em'].terms}"
    assert "Cell Tracking Challenge" in start["terms"]
    assert terms.begun_from(None) is None
