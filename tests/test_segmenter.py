"""Cells of arrays: the same bits as the command's files, and errors that say what to give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY
from scipy import ndimage

from unet_paper import Segmenter, cell_table
from unet_paper.instances import PRESETS
from unet_paper.measurements import write_rows
from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.facts import Facts

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know how they were trained: on the green channel, with 12 bits."""
    torch.manual_seed(3)
    network = UNet(features=TINY["features"])
    known = Facts(
        in_channels=1, out_channels=2, features=TINY["features"], preset="paper", dropout=0.0, grey_mean=0.5,
        grey_std=0.2, magnification=0.8, cells_preset="folder", cells=PRESETS["folder"], grey_maximum=4095, channel=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    checkpoint.save({**network.state_dict(), "facts": known.to_tensor()}, path)
    return path


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Segmenter:
    return Segmenter.from_checkpoint(weights, device="cpu")


def test_an_array_gives_the_bits_of_the_command_s_files(
    segmenter: Segmenter, weights: Path, run_bundle: Callable[..., None], tmp_path: Path
) -> None:
    image = RNG.integers(0, 4096, (60, 71, 3), dtype=np.uint16)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", image, photometric="rgb")
    out = tmp_path / "out"
    settings: dict[str, Any] = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(out), "device": "cpu"}
    run_bundle("run", "inference", **settings, ckpt_path=str(weights))
    found = segmenter(image, probability=True)
    assert found.labels.max() > 1
    np.testing.assert_array_equal(found.labels, tifffile.imread(out / "a_cells.tif"))
    np.testing.assert_array_equal(found.probability, tifffile.imread(out / "a_probability.tif"))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        write_rows(found.table, file)
    assert (tmp_path / "table.csv").read_bytes() == (out / "a_cells.csv").read_bytes()


def test_settings_come_before_what_the_weights_say(segmenter: Segmenter, weights: Path) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 71)), 2)
    image = np.interp(noise, (noise.min(), noise.max()), (0, 4095)).astype(np.uint16)
    sizes = np.bincount(segmenter(image).labels.ravel())[1:]
    smallest = int(np.median(sizes)) + 1
    assert len(sizes) > 1
    other = Segmenter.from_checkpoint(weights, device="cpu", min_size=smallest)
    kept = np.bincount(other(image).labels.ravel())[1:]
    assert len(kept) < len(sizes)
    assert (kept >= smallest).all()


def test_the_table_has_the_pixel_size_and_no_probability_unless_asked(segmenter: Segmenter) -> None:
    image = RNG.integers(0, 4096, (50, 52), dtype=np.uint16)
    found = segmenter(image, pixel_size=(0.5, 0.5))
    assert found.probability is None
    np.testing.assert_array_equal(found.table["area_um2"], found.table["area_px"] / 4)
    expected = cell_table(found.labels, image)
    np.testing.assert_array_equal(found.table["max_grey"], expected["max_0"])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\): \(H, W\)"),
        (np.zeros((40, 40, 1), np.uint8), "no channel 1; it has 1"),
        (np.full((40, 40), 9000, np.uint16), "9000, expected 0 to 4095"),
        (np.full((40, 40), np.nan, np.float32), "NaN"),
        (np.ma.masked_equal(np.eye(40, dtype=np.uint16), 1), "40 pixels are masked"),
        (np.zeros((3, 60, 90), np.uint16), r"shape \(3, 60, 90\): .* would be 90 channels; move channels to the end"),
    ],
)
def test_arrays_that_it_cannot_take(segmenter: Segmenter, image: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        segmenter(image)


def test_cells_at_the_border_that_are_left_out_are_said(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    Segmenter.from_checkpoint(weights, device="cpu")
    assert "border are left out" not in caplog.text
    Segmenter.from_checkpoint(weights, device="cpu", cells_preset="dic_hela")
    assert "border are left out" not in caplog.text
    Segmenter.from_checkpoint(weights, device="cpu", field_of_interest=50)
    assert "wholly within 50 px of an image's border are left out" in caplog.text


def test_a_pixel_size_is_two_numbers(segmenter: Segmenter) -> None:
    one: Any = 0.5
    with pytest.raises(ValueError, match=r"pixel_size=0.5: height and width"):
        segmenter(np.zeros((40, 40, 3), np.uint16), pixel_size=one)


def test_channels_beyond_colours_have_numbers(segmenter: Segmenter) -> None:
    image = np.stack([np.full((40, 40), value, np.uint16) for value in range(6)], axis=-1)
    assert [name for name in segmenter(image).table if name.startswith("max_")] == [f"max_{k}" for k in range(6)]


def test_what_there_is_not_is_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"treshold=0.4: inference.yaml has no such setting; did you mean threshold"):
        Segmenter.from_checkpoint(weights, treshold=0.4)
    with pytest.raises(FileNotFoundError, match=r"releases are em, hela or u373"):
        Segmenter.from_checkpoint("nothing.pt")
    with pytest.raises(ValueError, match=r"threshold=2: "):
        Segmenter.from_checkpoint(weights, threshold=2)
    with pytest.raises(ValueError, match=r"cells_preset='fold'"):
        Segmenter.from_checkpoint(weights, cells_preset="fold")


def test_means_and_spreads_of_two_channels(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = UNet(in_channels=2, features=TINY["features"])
    known = Facts(
        in_channels=2, out_channels=2, features=TINY["features"], preset="paper", dropout=0.0, grey_mean=(0.5, 0.4),
        grey_std=(0.2, 0.1), magnification=1.0, cells_preset="folder", cells=PRESETS["folder"],
    )  # fmt: skip
    checkpoint.save({**network.state_dict(), "facts": known.to_tensor()}, tmp_path / "model.pt")
    image = RNG.integers(0, 256, (40, 50, 2), dtype=np.uint8)
    found = Segmenter.from_checkpoint(tmp_path / "model.pt", device="cpu")(image, probability=True)
    # channels that have one mean and spread after they were shifted and stretched
    evened = (image / 255 - [0.5, 0.4]) / [0.2, 0.1] * 0.05 + 0.5
    assert evened.min() > 0
    assert evened.max() < 1
    same = Segmenter.from_checkpoint(tmp_path / "model.pt", device="cpu", grey_mean=0.5, grey_std=0.05)
    expected = same(evened.astype(np.float32), probability=True).probability
    np.testing.assert_allclose(found.probability, expected, atol=0.02)


def test_what_lies_in_the_folder_where_one_stands_changes_nothing(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = RNG.integers(0, 4096, (20, 20, 3), dtype=np.uint16)
    expected = segmenter(image).labels
    monkeypatch.chdir(tmp_path)
    for make in (lambda path: path.mkdir(), lambda path: path.write_text("no image")):
        place = tmp_path / "image"
        make(place)
        np.testing.assert_array_equal(segmenter(image).labels, expected)
        place.rmdir() if place.is_dir() else place.unlink()
