"""The wheel in an empty environment: the command, training, prediction, packages that BioImage.IO's library runs.

Run by `make release-test`; installs some gigabytes, takes minutes.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import hatchling.build
import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT

from unet_paper.data import phantom
from unet_paper.inferer import OverlapTileInferer
from unet_paper.network import UNet
from unet_paper.probability import CellProbabilityInferer
from unet_paper.release import archive
from unet_paper.release.bioimage_io import fraction
from unet_paper.release.mirrored_network import block_sizes
from unet_paper.running import checkpoint, facts

pytestmark = [pytest.mark.release, pytest.mark.timeout(3600)]

BUNDLE = ROOT / "bundle"
RELEASES = archive.releases(BUNDLE)


class Environment:
    """A virtual environment with the wheel in it, and a folder to work in that is no checkout."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True, timeout=300)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            wheel = folder / hatchling.build.build_wheel(str(folder))
        # the newest of everything that the ranges allow
        self.run("pip", "install", "--quiet", f"{wheel}[bioimageio]", timeout=2400)

    def run(self, *words: str, timeout: int = 1200) -> str:
        """What a command of the environment prints; its errors too."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [str(self.bin / words[0]), *words[1:]]
        run = subprocess.run(
            command,
            cwd=self.work,
            env=kept,
            timeout=timeout,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert run.returncode == 0, run.stdout
        return run.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


def test_the_demo_runs_from_another_folder(environment: Environment) -> None:
    said = environment.run("unet-paper", "demo", "--max_epochs", "1")
    assert str(environment.bin.parent) in said, "the configs are those of the wheel"
    cells = list((environment.work / "runs" / "demo" / "predictions").glob("*_cells.tif"))
    assert len(cells) == len(list((environment.work / "runs" / "demo" / "demo_nuclei" / "new_images").iterdir())) > 0


def test_training_and_prediction_take_nothing_but_a_folder(environment: Environment) -> None:
    folder = environment.work / "cells"
    images, masks = phantom.touching_cells(6, 160, seed=3)
    for part, pixels in (("images", images), ("masks", masks)):
        (folder / part).mkdir(parents=True)
        for number, page in enumerate(pixels):
            tifffile.imwrite(folder / part / f"{number}.tif", page)
    environment.run("unet-paper", "train", "cells", "--max_epochs", "1", "--steps_per_epoch", "2")
    assert (environment.work / "runs" / "cells" / "report.html").is_file()
    environment.run("unet-paper", "predict", "cells/images")
    with (environment.work / "runs" / "predictions" / "images" / "summary.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 6
    environment.run("unet-paper", "predict", "cells/images", "--weights", "u373", "--output_dir", "by_release")
    assert len(list((environment.work / "by_release").glob("*_cells.tif"))) == 6


@pytest.fixture(scope="module")
def packages(environment: Environment) -> dict[str, Path]:
    """A package for BioImage.IO of each release, written by the wheel."""
    configs = next(environment.bin.parent.glob("lib/python*/site-packages/unet_paper/bundle/configs"))
    files = {name: environment.work / f"{name}.zip" for name in RELEASES}
    for name, file in files.items():
        listed = ["inference.yaml", *RELEASES[name].inference, "export_bioimage_io.yaml"]
        merged = str([str(configs / config) for config in listed])
        environment.run("python", "-m", "monai.bundle", "run", "--config_file", merged, "--export_path", str(file))
    return files


@pytest.mark.parametrize("name", RELEASES)
def test_bioimageio_test_passes(name: str, environment: Environment, packages: dict[str, Path]) -> None:
    report = environment.work / f"{name}.json"
    said = environment.run("bioimageio", "test", str(packages[name]), "--summary", str(report))
    content = json.loads(report.read_text())
    assert content["status"] == "passed", said
    assert "❌" not in said
    for kind in ("onnx", "pytorch_state_dict", "torchscript"):
        assert f"Reproduce test outputs from test inputs ({kind})" in {detail["name"] for detail in content["details"]}


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize("on_the_grid", [True, False])
def test_blocks_by_bioimageio_equal_ours_inside(
    name: str, on_the_grid: bool, environment: Environment, packages: dict[str, Path]
) -> None:
    weights = BUNDLE / RELEASES[name].weights
    known = facts.read(weights)
    network = UNet(known["in_channels"], known["out_channels"], known["features"], known["preset"], 0.0).eval()
    checkpoint.load_weights(network, weights)
    scale = fraction(known["magnification"])  # by which the package resizes: 9/8 for 1.12
    smallest, step, halo = block_sizes(network.levels, scale)
    # two whole blocks that write four steps each, beside what is less than a halo from a border
    side = smallest + 3 * step
    inner = side - 2 * halo
    # off every grid of the network, but a whole number of its px: else ours resizes by a little more, or less
    off_the_grid = 0 if on_the_grid else 3 * scale.denominator
    assert on_the_grid or off_the_grid % step
    shape = tuple(halo + 2 * inner + halo + off_the_grid for _ in range(2))
    image = phantom.touching_cells(1, shape, seed=5)[0][0].astype(np.float32)
    np.save(environment.work / "image.npy", image[None, None])
    said = environment.run(
        "python",
        str(Path(__file__).with_name("blocks_by_bioimageio.py")),
        str(packages[name]),
        "image.npy",
        str(side),
        "blocks.npy",
    )
    assert "Traceback" not in said
    blocks = np.load(environment.work / "blocks.npy")[0, 1]
    inferer = CellProbabilityInferer(inferer=OverlapTileInferer(levels=network.levels), magnification=float(scale))
    grey = (torch.from_numpy(image[None, None]) / 255 - known["grey_mean"]) / known["grey_std"]
    with torch.no_grad():
        ours = inferer(grey, network)[0, 0].numpy()
    assert blocks.shape == ours.shape == shape
    # the last block of an image off the grid ends with the image, and so lies off the grid
    inside = slice(halo, shape[0] - max(halo, inner))
    assert inside.stop - inside.start >= inner
    np.testing.assert_allclose(blocks[inside, inside], ours[inside, inside], rtol=0, atol=1e-4)
