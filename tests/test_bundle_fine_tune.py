"""Fine-tuning: starts from the weights it is given, all of them, and is ahead of a run that starts from chance."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch
from conftest import CONFIGS, TINY
from monai.bundle import ConfigParser

from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.settings import cause

Run = Callable[..., None]
RELEASED = CONFIGS.parent / "models" / "model.pt"
# Five levels, as the release has, on the phantom's small images.
RELEASE = {"tile_size": 220, "max_epochs": 1, "steps_per_epoch": 6, "val_interval": 1, "folds": 4, "device": "cpu"}
OWN = {name: value for name, value in TINY.items() if name != "features"}
PARTS = ["contracting", "up", "expanding", "classifier"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "own.pt"
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def own_images(em_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as a lab has it: images, and masks in black and white."""
    folder = tmp_path_factory.mktemp("own")
    for kind, source in (("images", "train-volume.tif"), ("masks", "train-labels.tif")):
        (folder / kind).mkdir()
        for number, page in enumerate(tifffile.imread(f"{em_folder}/{source}")):
            tifffile.imwrite(folder / kind / f"slice{number}.tif", page)
    return str(folder)


def test_the_release_is_ahead_of_chance(run_bundle: Run, own_images: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**RELEASE, "dataset_dir": own_images, "annotation": "binary"}
    for name, parts in (("release", []), ("chance", PARTS)):
        output = str(tmp_path / name)
        run_bundle("training", "train", "data_folder", "fine_tune", **settings, reinitialise=parts, output_dir=output)
    release, chance = rows(tmp_path / "release"), rows(tmp_path / "chance")
    assert float(release[0]["train_loss"]) < float(chance[0]["train_loss"])
    assert float(release[-1]["val_loss"]) < float(chance[-1]["val_loss"])
    assert float(release[-1]["IoU"]) > float(chance[-1]["IoU"])
    assert checkpoint.features(tmp_path / "release" / "model.pt") == checkpoint.features(RELEASED)


def test_a_run_begins_with_exactly_the_given_weights(
    run_bundle: Run, weights: str, cells_folder: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**OWN, "dataset_dir": cells_folder, "pretrained": weights, "max_epochs": 1}
    # a learning rate of 0 leaves them as they are
    run_bundle("training", "train", "fine_tune", **settings, learning_rate=0.0, output_dir=str(tmp_path / "run"))
    found, given = (torch.load(path, weights_only=True) for path in (tmp_path / "run" / "model.pt", weights))
    assert found.keys() == {*given.keys(), "facts"}
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_resumed_equals_uninterrupted_bit_for_bit(
    run_bundle: Run, weights: str, cells_folder: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**OWN, "dataset_dir": cells_folder, "pretrained": weights}
    settings["lr_scheduler#total_iters"] = 6
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_bundle("training", "train", "fine_tune", **{**settings, "max_epochs": 2}, output_dir=str(whole))
    run_bundle("training", "train", "fine_tune", **{**settings, "max_epochs": 1}, output_dir=str(parts))
    run_bundle("training", "train", "fine_tune", **{**settings, "max_epochs": 2}, output_dir=str(parts), resume=True)
    found, expected = (torch.load(folder / "last.pt", weights_only=True) for folder in (parts, whole))
    assert found["iteration"] == expected["iteration"] == 6
    for name, value in expected["network"].items():
        assert torch.equal(found["network"][name], value), name
    for number, state in expected["optimizer"]["state"].items():
        assert all(torch.equal(found["optimizer"]["state"][number][name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"features": [4, 8, 32]},
            r"pretrained=.*contracting.2.0.weight.*\(16, 8, 3, 3\).*\(32, 8, 3, 3\).*\[4, 8, 16\]",
        ),
        ({"in_channels": 3}, r"pretrained=.*contracting.0.0.weight has shape \(4, 1, 3, 3\) there and \(4, 3, 3, 3\)"),
        ({"pretrained_sha256": "0" * 64}, "pretrained=.*sha256"),
        ({"pretrained": "none.pt"}, "pretrained=none.pt: no such checkpoint.*--pretrained FILE"),
        ({"reinitialise": ["head"]}, "reinitialise=head: .* contracting, up, expanding, classifier"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, run_bundle: Run, weights: str, cells_folder: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {**OWN, "dataset_dir": cells_folder, "pretrained": weights, **settings}
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", "fine_tune", **given, output_dir=str(tmp_path / "run"))
    with pytest.raises(type(cause(info.value)), match=message):
        raise cause(info.value)
    assert not (tmp_path / "run").exists()


def test_a_part_can_be_learnt_anew(weights: str) -> None:
    torch.manual_seed(1)
    network = UNet(out_channels=3, features=TINY["features"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint.load_weights(network, weights, reinitialise=["classifier"])
    given = torch.load(weights, weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("classifier.") else given[name]), name


def test_weights_are_loaded_after_the_seed_and_before_anything_is_written() -> None:
    train, fine_tune = (ConfigParser.load_config_file(str(CONFIGS / f"{name}.yaml")) for name in ("train", "fine_tune"))
    steps = [step.split("(")[0] for step in train["run"]]
    order = ["$torch.manual_seed", "$checkpoint.start_from", "$run_folder.open_run_folder", "$interruption.run"]
    assert [step for step in steps if step in order] == order
    assert "run" not in fine_tune
    assert train["pretrained"] is None


def test_the_checksum_is_that_of_the_release() -> None:
    configs = [ConfigParser.load_config_file(str(CONFIGS / f"{name}.yaml")) for name in ("fine_tune", "inference")]
    assert configs[0]["pretrained_sha256"]["sha256"] == configs[1]["ckpt_sha256"]["sha256"]
    assert configs[0]["pretrained_sha256"]["sha256"] == checkpoint.sha256(RELEASED)
