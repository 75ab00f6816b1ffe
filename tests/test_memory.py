"""Memory of prediction: what there is, what an image takes, what is refused before work; pieces equal the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import NormalizeIntensity

from unet_paper import label_image
from unet_paper.data.normalisation import NormaliseBandsd
from unet_paper.inferer import SYMMETRIES, OverlapTileInferer, Strategy, Symmetries
from unet_paper.instances import PRESETS, LabelInstancesd, label_instances
from unet_paper.magnification import MagnifiedInferer
from unet_paper.mosaic import View
from unet_paper.network import UNet
from unet_paper.probability import CellProbabilityInferer, KeepProbabilityd, class_probabilities, probabilities_of_cells
from unet_paper.running.memory import PredictionMemory, available_memory

MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 800 kB\n"


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "kilobytes"),
    [
        ({}, 800),
        ({"proc__self__cgroup": "0::/\n"}, 800),
        (
            {
                "proc__self__cgroup": "0::/job\n",
                "sys__fs__cgroup__job__memoryDOTmax": "max\n",
                "sys__fs__cgroup__job__memoryDOTcurrent": "4096\n",
                # a parent's limit holds for its children
                "sys__fs__cgroup__memoryDOTmax": f"{500 * 1024}\n",
                "sys__fs__cgroup__memoryDOTcurrent": f"{300 * 1024}\n",
                "sys__fs__cgroup__memoryDOTstat": f"anon 7\ninactive_file {100 * 1024}\nactive_file 9\n",
            },
            300,
        ),
        (
            {
                "proc__self__cgroup": "5:cpu:/\n4:memory:/job\n",
                "sys__fs__cgroup__memory__job__memoryDOTlimit_in_bytes": f"{700 * 1024}\n",
                "sys__fs__cgroup__memory__job__memoryDOTusage_in_bytes": f"{650 * 1024}\n",
                "sys__fs__cgroup__memory__job__memoryDOTstat": "inactive_file 999999\ntotal_inactive_file 10240\n",
                "sys__fs__cgroup__memory__memoryDOTlimit_in_bytes": "9223372036854771712\n",
                "sys__fs__cgroup__memory__memoryDOTusage_in_bytes": "12345\n",
            },
            60,
        ),
    ],
)
def test_available_memory_is_the_least_that_system_and_cgroups_leave(
    files: dict[str, str], kilobytes: int, tmp_path: Path
) -> None:
    assert available_memory(tree(tmp_path, proc__meminfo=MEMINFO, **files)) == kilobytes * 1024


def test_a_system_that_does_not_say_refuses_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == float("inf")


def memory(root: Path, **settings: Any) -> PredictionMemory:
    given: dict[str, Any] = {
        "network": UNet(features=(2, 4, 8)),
        "strategy": "tiles",
        "symmetries": "none",
        "magnification": 1.0,
        "cells": PRESETS["isbi2012"],
        "root": root,
    }
    return PredictionMemory(**{**given, **settings})


def test_what_does_not_fit_is_refused_with_the_estimate_and_the_road_that_fits(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__meminfo="MemAvailable: 20000 kB\n")
    large, small = tmp_path / "large.tif", tmp_path / "small.tif"
    tifffile.imwrite(large, np.zeros((2000, 1000), np.uint8))
    tifffile.imwrite(small, np.zeros((200, 100), np.uint8))
    on_gpu = memory(root, device="cuda:0")  # the network's activations are elsewhere
    on_gpu.refuse(str(small), 1)
    # 13 bytes for each of 2 million pixels are 0.024 GiB
    with pytest.raises(MemoryError, match=r"large\.tif: 2000 x 1000 px take about 0\.02\d GiB .* 0\.019 GiB are"):
        on_gpu.refuse(str(large), 1)
    with pytest.raises(MemoryError, match="inference_large"):
        on_gpu.refuse(str(large), 1)


def test_the_estimate_grows_with_what_takes_memory(tmp_path: Path) -> None:
    plain = memory(tmp_path).needed((1000, 1000))
    assert memory(tmp_path).needed((1000, 1000, 4)) > plain
    assert memory(tmp_path).needed((1000, 1000), volume=10) > plain
    for more in ({"cells": PRESETS["dic_hela_split"]}, {"symmetries": "all"}, {"strategy": "whole"}):
        assert memory(tmp_path, **more).needed((1000, 1000)) > plain
    assert memory(tmp_path, device="cuda:0").needed((1000, 1000)) == 13_000_000


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_reads_and_places_as_the_turned_image_would(turns: int, mirrored: bool) -> None:
    image = torch.arange(2 * 3 * 7 * 5.0).view(2, 3, 7, 5)
    seen = torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3))
    view = View(image, turns, mirrored)
    assert view.shape == tuple(seen.shape)
    rows, columns = torch.tensor([1, 2, 4, 0]), torch.tensor([2, 0])
    assert torch.equal(view.read(slice(0, 2), rows, columns), seen.index_select(2, rows).index_select(3, columns))
    at_rows, at_columns, piece = view.place(seen[:, :, 1:4, 2:4], 1, 2)
    assert torch.equal(image[:, :, at_rows, at_columns], piece)


@pytest.mark.parametrize("symmetries", SYMMETRIES)
@pytest.mark.parametrize("strategy", ["tiles", "whole", "rows"])
@pytest.mark.parametrize("magnification", [1.0, 0.5])
def test_probability_by_pieces_equals_that_of_the_scores_bit_for_bit(
    strategy: Strategy, symmetries: Symmetries, magnification: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_paper.mosaic.BAND_PIXELS", 700)
    torch.manual_seed(0)
    network = UNet(features=(2, 4, 8)).eval()
    image = torch.rand(1, 1, 75, 102)
    size = {} if strategy == "whole" else {"tile_size": 92 if strategy == "tiles" else 24}
    inferer = OverlapTileInferer(levels=3, strategy=strategy, symmetries=symmetries, **size)
    with torch.no_grad():
        scores = MagnifiedInferer(inferer=inferer, magnification=magnification)(image, network)
        expected = class_probabilities(scores[0])[1:]
        found = CellProbabilityInferer(inferer=inferer, magnification=magnification)(MetaTensor(image), network)
    assert torch.equal(found[0], expected)


def test_one_class_and_scores_are_refused_and_of_more_classes_all_are_kept() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        probabilities_of_cells(torch.zeros(1, 1, 4, 4))
    three = torch.rand(1, 3, 4, 4)
    assert torch.equal(probabilities_of_cells(three)[0], class_probabilities(three[0]))
    with pytest.raises(ValueError, match="are no probabilities"):
        LabelInstancesd()({"pred": torch.full((2, 4, 4), 3.0)})
    with pytest.raises(ValueError, match="one for each"):
        KeepProbabilityd("pred", ("a", "b"))


def test_the_cell_alone_gives_the_cells_of_both_classes() -> None:
    probability = np.random.default_rng(0).random((40, 30), np.float32)
    both, alone = (
        LabelInstancesd(preset="folder")({"pred": array})["cells"]
        for array in (np.stack([1 - probability, probability]), probability[None])
    )
    np.testing.assert_array_equal(both, alone)


def test_the_probability_is_kept_without_a_copy() -> None:
    probability = torch.rand(1, 4, 4)
    assert KeepProbabilityd()({"pred": probability})["probability"] is probability


@pytest.mark.parametrize("preset", ["dic_hela_split", "phc_u373", "folder"])
def test_cells_do_not_depend_on_the_bands_they_are_worked_on_in(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    probability = np.kron(rng.random((25, 20)), np.ones((4, 4))) * 0.8 + 0.2 * rng.random((100, 80))
    settings: Any = {**PRESETS[preset], "min_size": 9, "field_of_interest": 5, "regrow": 2}
    whole = label_instances(probability, **settings)
    monkeypatch.setattr(label_image, "BAND_PIXELS", 160)
    assert whole.max() > 9
    np.testing.assert_array_equal(label_instances(probability, **settings), whole)


def test_normalising_in_bands_gives_the_bits_of_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unet_paper.data.normalisation.BAND_PIXELS", 50)
    image = MetaTensor(torch.rand(2, 17, 23), meta={"filename_or_obj": "a.tif"})
    before = image.clone()
    found = NormaliseBandsd("image", subtrahend=0.47, divisor=0.043)({"image": image})["image"]
    assert torch.equal(found, NormalizeIntensity(subtrahend=0.47, divisor=0.043)(before))
    assert torch.equal(image, before), "the image may be cached"
    assert found.meta["filename_or_obj"] == "a.tif"


def test_a_magnified_inferer_maps_pieces_of_any_inferer() -> None:
    half = MagnifiedInferer(inferer=SimpleInferer(), magnification=0.5)
    image = torch.rand(1, 1, 9, 14)
    found = half.mapped(image, lambda x: torch.cat([x, -x], dim=1), lambda scores: scores[:, :1] * 2)
    assert torch.equal(found, half(image, lambda x: x) * 2)


def test_each_channel_has_its_own_mean_and_spread() -> None:
    image = torch.rand(2, 5, 7)
    mean, spread = [0.5, 0.25], (0.2, 0.1)
    found = NormaliseBandsd("image", subtrahend=mean, divisor=spread)({"image": image})["image"]
    expected = torch.stack([(image[c] - mean[c]) / spread[c] for c in range(2)])
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"a.tif: has 1 channels, and grey_mean=\[0.5, 0.25\] 2 numbers"):
        NormaliseBandsd("image", subtrahend=mean, divisor=0.2)(
            {"image": MetaTensor(image[:1], meta={"filename_or_obj": "a.tif"})}
        )
