"""A release alone: a new environment with the packages it names, a folder of its own, and every command of its pages.

Run by `make release-test`, for another release than the first by RELEASE=NAME; installs some gigabytes, takes minutes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT
from scipy.ndimage import label

from unet_paper.data import phantom
from unet_paper.release import archive, archived_docs, registry
from unet_paper.running import checkpoint

pytestmark = [pytest.mark.release, pytest.mark.timeout(3600)]

BUNDLE = ROOT / "bundle"
NAME = os.environ.get("RELEASE", "unet_em_segmentation")
# what cannot run here: no GPU; a server, which make label-test starts; a page in a browser; a cluster
NOT_HERE = re.compile(
    r"trt_export|inference_trt|monailabel|apps/monaibundle|mlflow ui|bioimageio|tensorboard --|SLURM|^#SBATCH|01_GT"
)
# the same commands, done in seconds
SHORT = {
    r" run training ": "--max_epochs 1 --steps_per_epoch 2 --val_interval 1 --tile_size 220 --device cpu",
    r" run evaluating ": "--device cpu",
    r" run (training|evaluating) .*(train|evaluate|fine_tune|_folder)\.json": "--folds 2",
    r" run (--config_file|--engine)": "--device cpu",
    r"train_large\.json": "--side 160 --folds 2",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an installed release, with something of all that its pages call DATA, FOLDER, IMAGES and STORE.tif."""
    dist = tmp_path_factory.mktemp("dist")
    archive.build(BUNDLE, archive.releases(BUNDLE)[NAME], dist)
    folder = registry.install(NAME, dist, tmp_path_factory.mktemp("elsewhere"))
    kind = "em" if "_em_" in NAME else "cells"
    phantom.write(folder / "DATA", kind=kind, frames=8, size=240, seed=1)
    for part in ("IMAGES", "FOLDER/images", "FOLDER/masks"):
        (folder / part).mkdir(parents=True)
    images, masks = phantom.em_stack(4, (240, 260), 4)[:2]
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        tifffile.imwrite(folder / "FOLDER" / "images" / f"{number}.tif", image)
        tifffile.imwrite(folder / "FOLDER" / "masks" / f"{number}.tif", label(mask > 0)[0].astype(np.uint16))
    tifffile.imwrite(folder / "LABEL.tif", masks[0])
    tifffile.imwrite(folder / "PREDICTION.tif", images[0])
    tifffile.imwrite(folder / "IMAGES" / "a.tif", images[0])
    tifffile.imwrite(folder / "STORE.tif", np.tile(images[0], (2, 2)), tile=(128, 128))
    schemas = list(Path(os.environ.get("UNET_PAPER_DATA", ROOT.parent / "shared" / "data")).glob("schema/*.json"))
    if schemas:  # else it is downloaded
        shutil.copy(schemas[0], folder / "schema.json")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a shell in a new virtual environment that knows nothing of the checkout."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=300)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PATH": f"{venv / 'bin'}{os.pathsep}{kept['PATH']}", "DO_NOT_TRACK": "true"}


def commands(page: str) -> list[str]:
    """What a reader types, in the order of the page; Python as one command."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "python" and "monai" in block:
            saved = block + "tifffile.imwrite('python_cells.tif', cells)\n"
            found.append(f"python - <<'END'\n{saved}END")
        elif not language:
            found += [
                line for line in block.splitlines() if re.match(r"(python|torchrun|pip|cp|monailabel|mlflow) ", line)
            ]
    return found


def short(command: str) -> str:
    if command.startswith("python -m unet_paper") or not command.startswith(("python -m", "torchrun")):
        return command
    return " ".join([command, *(settings for kind, settings in SHORT.items() if re.search(kind, command))])


def run(command: str, folder: Path, environment: dict[str, str]) -> str | None:
    """What a command complained of, if it failed."""
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    print(f"{done.returncode:3d} {time.monotonic() - begun:5.0f} s  {command[:160]}", flush=True)
    return None if done.returncode == 0 else f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def test_every_command_of_its_pages_runs(bundle: Path, environment: dict[str, str]) -> None:
    assert run("python -c 'import unet_paper'", bundle.parent, environment) is not None, "an environment that knows us"
    failures = []
    ran = 0
    for page in ("README.md", *archived_docs.PAGES):
        for command in commands((bundle / "docs" / page).read_text()):
            if NOT_HERE.search(command):
                print(f"    not here  {command[:160]}", flush=True)
                continue
            if "STORE.zarr" in command and not (bundle / "STORE.zarr").exists():
                # an image with a label image, as inference_large.json has made it of STORE.tif
                shutil.copytree(bundle / "OUT_LARGE" / "STORE_cells.zarr", bundle / "STORE.zarr")
            failures.append(run(short(command), bundle, environment))
            ran += 1
    assert [failure for failure in failures if failure] == [], "\n\n".join(filter(None, failures))
    assert ran > 25
    check_what_was_written(bundle)


def check_what_was_written(bundle: Path) -> None:
    cells = tifffile.imread(bundle / "OUT" / "a_cells.tif")
    assert cells.shape == (240, 260)
    for other in ("python_cells.tif", "OUT_TS/a_cells.tif", "OUT_ONNX/a_cells.tif", "OUT_OPENVINO/a_cells.tif"):
        assert (tifffile.imread(bundle / other) != cells).mean() < 1e-3, other
    assert (tifffile.imread(bundle / "python_cells.tif") == cells).all()
    for run_folder, weights in (("RUN", "RUN/model.pt"), ("RUN_TWO", "RUN_TWO/model.pt"), ("TUNED", "TUNED/model.pt")):
        scored = json.loads((bundle / run_folder / "evaluation" / "summary.json").read_text())["checkpoint"]
        assert (scored["path"], scored["sha256"]) == (weights, checkpoint.sha256(bundle / weights)), run_folder
    scored = json.loads((bundle / "RELEASED" / "evaluation" / "summary.json").read_text())["checkpoint"]
    assert scored["sha256"] == checkpoint.sha256(BUNDLE / archive.releases(BUNDLE)[NAME].weights)
    tuned = torch.load(bundle / "TUNED" / "model.pt", weights_only=True)
    released = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {name: value.shape for name, value in tuned.items() if name != "facts"} == {
        name: value.shape for name, value in released.items() if name != "facts"
    }
