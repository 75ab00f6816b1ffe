"""What others read of the stores that runs in blocks leave: skipped where their readers are not installed."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import zarr

from unet_paper.large import label_store

SIZE = (300, 260)
PLANES = [[], [("t", 2), ("z", 3)]]


def written(path: Path, version: str, planes: list[tuple[str, int]], probability: Any) -> Path:
    label_store.create_store(
        path,
        version=version,
        planes=planes,
        size=SIZE,
        block=128,
        pixel_size=[0.25, 0.5],
        probability=probability,
    )
    zarr.open_group(path, mode="r+")["labels/cells/0"][..., 3:5, 6] = 70_000
    return path


@pytest.fixture(autouse=True)
def _small_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_store, "SMALLEST_LEVEL", 100)


@pytest.mark.parametrize("planes", PLANES, ids=["plane", "t z"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("probability", [*get_args(label_store.ProbabilityType), None])
def test_stores_are_valid_ome_zarr(
    version: str, planes: list[tuple[str, int]], probability: Any, tmp_path: Path
) -> None:
    models = pytest.importorskip("ome_zarr_models")
    path = written(tmp_path / "out.zarr", version, planes, probability)
    expected = {"labels": "Labels", "labels/cells": "ImageLabel"} | ({"": "Image"} if probability else {})
    root = zarr.open_group(path, mode="r")
    for group, kind in expected.items():
        found = models.open_ome_zarr(root[group] if group else root)
        assert type(found).__name__ == kind
        assert type(found).__module__.startswith(f"ome_zarr_models.v{version.replace('.', '')}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("planes", PLANES, ids=["plane", "t z"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_and_napari_open_image_and_cells(version: str, planes: list[tuple[str, int]], tmp_path: Path) -> None:
    pytest.importorskip("ome_zarr")
    napari = pytest.importorskip("napari_ome_zarr")
    path = written(tmp_path / "out.zarr", version, planes, "uint8")
    layers = napari.napari_get_reader(str(path))(str(path))
    kinds = {kind: (data, settings) for data, settings, kind in layers}
    assert set(kinds) == {"image", "labels"}
    shapes = [level.shape for level in kinds["labels"][0]]
    length = tuple(count for _, count in planes)
    assert shapes == [(*length, 300, 260), (*length, 150, 130), (*length, 75, 65)]
    cells = np.asarray(kinds["labels"][0][0])
    assert np.argwhere(cells == 70_000)[:2, -2:].tolist() == [[3, 6], [4, 6]]
    scale = np.broadcast_to(kinds["labels"][1]["scale"], len(length) + 2)
    np.testing.assert_allclose(scale[-2:], [0.25, 0.5])
