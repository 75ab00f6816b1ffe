"""The magnification follows the pixel size: by how much, and when it does not."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import SimpleInferer

from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, LabelInstancesd
from unet_paper.magnification import MagnifiedInferer
from unet_paper.probability import CellProbabilityInferer
from unet_paper.running.pixel_size_step import PixelSizeStep


def magnification(file: Path, trained: float | None) -> float:
    """At which magnification an image of a file is predicted by a network that was trained at magnification 0.5."""
    engine = SimpleNamespace(inferer=MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5))
    given = engine.inferer

    def step(at_work: Any, _batch: Any) -> float:
        return float(at_work.inferer.magnification)

    batch = {"image": MetaTensor(torch.zeros(1, 1, 4, 4), meta={"filename_or_obj": [str(file)]})}
    found = PixelSizeStep(step, trained)(engine, batch)
    assert engine.inferer is given
    return float(found)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of pixels of 0.65 um, as ImageJ writes it."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 4), np.uint8), imagej=True, resolution=(1 / 0.65,) * 2, metadata={"unit": "um"})
    return path


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(0.325, 1.0), (1.3, 0.25), (0.65, 0.5), (0.54, 0.5), (0.79, 0.5), (0.5, 0.65), (None, 0.5)],
)
def test_it_follows_beyond_a_quarter(image: Path, trained: float | None, expected: float) -> None:
    assert magnification(image, trained) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("trained", [None, 0.35])
def test_pixels_that_are_not_square_are_said(
    trained: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for height, width in ((0.5, 0.25), (0.5, 0.45)):
        path = tmp_path / f"{width}.tif"
        resolution = (1 / width, 1 / height)
        tifffile.imwrite(path, np.zeros((4, 4), np.uint8), imagej=True, resolution=resolution, metadata={"unit": "um"})
    assert magnification(tmp_path / "0.25.tif", trained) == 0.5
    (said,) = caplog.messages
    assert "0.25.tif: pixels of 0.5 x 0.25 um (height, width) are not square" in said
    assert "is stretched 2 times" in said
    magnification(tmp_path / "0.45.tif", None)
    assert len(caplog.messages) == 1


def test_it_says_so_and_stays_where_the_file_tells_nothing(
    image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tmp_path / "b.tif"
    tifffile.imwrite(plain, np.zeros((4, 4), np.uint8))
    with caplog.at_level(logging.WARNING):
        assert magnification(plain, 0.1) == 0.5
        assert caplog.messages == []
        magnification(image, 0.325)
    (line,) = caplog.messages
    assert "a.tif: pixels of 0.65 um, in training 0.325 um: magnified 2 times" in line


def test_what_the_inferer_gives_stays_what_it_is(image: Path) -> None:
    engine = SimpleNamespace(inferer=CellProbabilityInferer(inferer=OverlapTileInferer(levels=2)))
    batch = {"image": MetaTensor(torch.zeros(1, 1, 4, 4), meta={"filename_or_obj": [str(image)]})}
    assert isinstance(PixelSizeStep(lambda at_work, _: at_work.inferer, 0.325)(engine, batch), CellProbabilityInferer)


def test_the_smallest_cell_follows_too(image: Path) -> None:
    """Pixels twice as large as in training: a square of 2 px is a cell where it would not be of the same size."""
    probability = torch.zeros(1, 1, 12, 12)
    probability[..., 1:5, 1:5] = probability[..., 8:10, 8:10] = 1
    engine = SimpleNamespace(inferer=CellProbabilityInferer(inferer=OverlapTileInferer(levels=2)))
    batch = {"image": MetaTensor(torch.zeros(1, 1, 4, 4), meta={"filename_or_obj": [str(image)]})}
    label = LabelInstancesd("pred", "pred", preset={**PRESETS["folder"], "min_size": 12})

    def cells(trained: float | None) -> int:
        output = PixelSizeStep(lambda *_: {"pred": probability}, trained)(engine, batch)
        (item,) = decollate_batch(output)
        return int(label(item)["pred"].max())

    assert cells(None) == 1
    assert cells(0.325) == 2
    assert cells(1.3) == 0
