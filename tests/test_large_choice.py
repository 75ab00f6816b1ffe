"""The command ``predict`` takes large images in blocks by itself."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from unet_paper.app import predict


def chosen(images: Path) -> str:
    return str(predict.prediction(images, {"weights": "em"}).configs[0])


def test_an_ome_zarr_goes_in_blocks_and_a_folder_does_not(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "new.zarr", mode="w", zarr_format=3)
    zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    (tmp_path / "folder").mkdir()
    assert chosen(tmp_path / "new.zarr") == chosen(tmp_path / "old.zarr") == "inference_large"
    assert chosen(tmp_path / "folder") == "inference"


def test_a_tiff_goes_in_blocks_above_a_number_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 30, 40), np.uint8), photometric="minisblack")
    monkeypatch.setattr(predict, "LARGE", 1200)
    assert chosen(tmp_path / "a.tif") == "inference"
    monkeypatch.setattr(predict, "LARGE", 1199)
    assert chosen(tmp_path / "a.tif") == "inference_large"
    assert "predicted in blocks (inference_large.yaml)" in capsys.readouterr().out
