"""Regions of large images: what is read, which are cases, and a training on them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from conftest import TINY
from monai.transforms import LoadImaged
from test_large_job import picture, write_store

from unet_paper.data import datasets, region
from unet_paper.data.phantom_cells import touching_cells
from unet_paper.data.reader import LabelReader, PageReader


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Path, Path]:
    """Two channels, two planes, and a label of which two squares of 64 px hold something."""
    pixels = picture((2, 2, 150, 170))
    label = np.zeros((2, 150, 170), np.uint16)
    label[0, 70:80, 5:9] = 70
    label[1, 149, 169] = 65535
    image = write_store(tmp_path / "image.zarr", pixels, "czyx")
    tifffile.imwrite(tmp_path / "label.tif", label, tile=(64, 64), metadata={"axes": "ZYX"}, ome=True)
    return image, tmp_path / "label.tif"


def test_cases_are_the_annotated_squares(annotated: tuple[Path, Path]) -> None:
    image, label = annotated
    cases = datasets.large(image, "all", label=label, side=64)
    assert cases == [
        {"image": f"{image}[0][64:128,0:64]", "label": f"{label}[0][64:128,0:64]"},
        {"image": f"{image}[1][128:150,128:170]", "label": f"{label}[1][128:150,128:170]"},
    ]
    assert datasets.large(image, "training", label=label, side=64, folds=2, fold=0) == cases[1:]
    assert datasets.large(image, "validation", label=label, side=64, folds=2, fold=0) == cases[:1]


def test_further_images_of_a_group_are_named(annotated: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    image, label = annotated
    root = zarr.open_group(image, mode="r+")
    metadata = dict(root.attrs["ome"])
    metadata["multiscales"].append({**metadata["multiscales"][0]})
    root.attrs["ome"] = metadata
    with caplog.at_level(logging.WARNING):
        datasets.large(image, "all", label=label, side=64)
    assert f"{image}: left out image 1" in caplog.text


def test_the_readers_read_regions(annotated: tuple[Path, Path]) -> None:
    image, label = annotated
    case = datasets.large(image, "all", label=label, side=64)[1]
    found = LoadImaged("image", reader=PageReader(channel=1))(case)["image"]
    np.testing.assert_array_equal(found, picture((2, 2, 150, 170))[1, 1, 128:, 128:])
    ids = LoadImaged("label", reader=LabelReader(), dtype=np.int64)(case)["label"]
    assert ids[-1, -1] == 65535
    assert np.count_nonzero(ids) == 1


def test_no_more_than_the_chunks_of_a_region_is_read(annotated: tuple[Path, Path]) -> None:
    image, _ = annotated
    # the first channel's second plane, its last chunk of the first row: half written
    (image / "0" / "c" / "0" / "1" / "0" / "2").write_bytes(b"damaged")
    assert region.read(region.Region(str(image), (1,), slice(0, 64), slice(0, 128))).pixels.shape == (64, 128, 2)
    with pytest.raises(RuntimeError, match=r"[Zz]std"):
        region.read(region.Region(str(image), (1,), slice(0, 64), slice(128, 170)))


def test_what_does_not_fit_is_refused(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    image, label = annotated
    with pytest.raises(ValueError, match="image and label must have one size"):
        datasets.large(image, "all", label=write_store(tmp_path / "b.zarr", picture((150, 171))))
    with pytest.raises(ValueError, match="has 2 channels; save labels with one channel"):
        datasets.large(image, "all", label=image)
    with pytest.raises(ValueError, match="nothing is annotated"):
        datasets.large(image, "all", label=write_store(tmp_path / "c.zarr", np.zeros((2, 150, 170), np.uint8), "zyx"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.large(image, "all", label=tmp_path / "none.tif")
    with pytest.raises(ValueError, match="folds=4: 2 annotated regions"):
        datasets.large(image, "training", label=label, side=64)


def test_a_network_is_trained_on_regions(tmp_path: Path, run_bundle: Callable[..., None]) -> None:
    images, instances = touching_cells(1, 192, seed=0)
    image = write_store(tmp_path / "image.zarr", np.asarray(images[0]))
    labels = zarr.open_group(image, mode="r+").create_group("labels")
    write_store(tmp_path / "cells.zarr", np.asarray(instances[0]))
    (tmp_path / "cells.zarr").rename(image / "labels" / "cells")
    assert "cells" in labels
    settings: dict[str, Any] = {**TINY, "dataset_dir": str(image), "output_dir": str(tmp_path / "run"), "side": 96}
    run_bundle("training", "train", "data_large", **settings)
    assert (tmp_path / "run" / "model.pt").is_file()
