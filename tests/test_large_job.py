"""Runs in blocks, from a store to a store: equal to the whole, interrupted, refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, label_instances
from unet_paper.large.job import LargePrediction
from unet_paper.magnification import MagnifiedInferer
from unet_paper.measurements import cell_table
from unet_paper.network import UNet
from unet_paper.probability import class_probabilities
from unet_paper.running import checkpoint

NETWORK: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "features": [4, 8, 16], "preset": "paper"}
MEAN, STD = 0.5, 0.17
MICROMETRES = {"y": 0.25, "x": 0.5}


def picture(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    blurred = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3, axes=(-2, -1))
    return ((blurred - blurred.min()) / np.ptp(blurred) * 255).astype(np.uint8)


def write_store(path: Path, pixels: NDArray[Any], axes: str = "yx", version: str = "0.5", chunk: int = 64) -> Path:
    """An OME-Zarr with one level."""
    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    chunks = (1,) * (pixels.ndim - 2) + (chunk, chunk)
    root.create_array("0", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, fill_value=0)[...] = pixels
    described = [
        {"name": axis, "type": {"t": "time", "c": "channel"}.get(axis, "space")}
        | ({"unit": "micrometer"} if axis in "yx" else {})
        for axis in axes
    ]
    scale = {"type": "scale", "scale": [MICROMETRES.get(axis, 1.0) for axis in axes]}
    multiscale = {"axes": described, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    if version == "0.5":
        root.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        root.attrs["multiscales"] = [{**multiscale, "version": version}]
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    checkpoint.save(UNet(**NETWORK).state_dict(), path)
    return path


def whole_probability(pixels: NDArray[np.uint8], weights: Path, magnification: float = 1.0) -> NDArray[np.float32]:
    """Of the whole image in memory, in the same tiles."""
    network = UNet(**NETWORK).eval().to(memory_format=torch.channels_last)
    checkpoint.load_weights(network, weights)
    image = (torch.from_numpy(pixels.astype(np.float32) / 255) - MEAN) / STD
    inferer = MagnifiedInferer(magnification=magnification, inferer=OverlapTileInferer(levels=3, tile_size=92))
    with torch.no_grad():
        return class_probabilities(inferer(image[None, None], network)[0])[1].numpy()


def cells_of(out: Path, name: str = "image") -> NDArray[Any]:
    return np.asarray(zarr.open_group(out / f"{name}_cells.zarr", mode="r")["labels/cells/0"])


def table_of(out: Path, name: str = "image") -> dict[str, list[float]]:
    with (out / f"{name}_cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) for row in rows] for column in rows[0]}


Job = Callable[..., LargePrediction]


@pytest.fixture
def job(weights: Path, tmp_path: Path) -> Job:
    def make(dataset_dir: Path, **settings: Any) -> LargePrediction:
        given = {
            "output_dir": tmp_path / "out",
            "ckpt_path": weights,
            "network": NETWORK,
            "grey_mean": MEAN,
            "grey_std": STD,
            "tile_size": 92,
            "tiles": 2,
            "block": 64,
        }
        return LargePrediction(dataset_dir=dataset_dir, **{**given, **settings})

    return make


@pytest.mark.parametrize("magnification", [1.0, 0.5])
def test_blocks_equal_the_whole_with_a_network(job: Job, weights: Path, tmp_path: Path, magnification: float) -> None:
    pixels = picture((150, 170))
    probability = whole_probability(pixels, weights, magnification)
    # the thresholds of dic_hela_split belong to a trained network: this one's are set to where its cells are
    middle = float(np.median(probability))
    cells = {
        **PRESETS["dic_hela_split"],
        "threshold": middle,
        "split_thresholds": [middle + 0.01, middle + 0.02],
        "min_size": 20,
        "field_of_interest": 5,
    }
    store = write_store(tmp_path / "image.zarr", pixels)
    summary = job(store, magnification=magnification, cells=cells).run()
    expected = label_instances(probability, **cells)  # type: ignore[arg-type]
    assert summary is not None
    assert summary["cells"] == expected.max() > 20
    np.testing.assert_array_equal(cells_of(tmp_path / "out"), expected)
    table = cell_table(expected, pixels, probability, pixel_size=(0.25, 0.5))
    assert table_of(tmp_path / "out") == {name: values.astype(float).tolist() for name, values in table.items()}
    assert not (tmp_path / "out" / "image_work").exists()
