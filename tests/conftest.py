"""Fixtures shared by all tests."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import monai.bundle
import pytest
import tifffile
from PIL import Image

from unet_paper.data import phantom

# what is compared is compared in float32 on every machine: a CPU that multiplies bfloat16 would take that by itself
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "bundle" / "configs"

# A network of three levels (margin 20 px) and a few steps: enough to run every wire of a config in seconds.
TINY: dict[str, Any] = {
    "features": [4, 8, 16],
    "tile_size": 92,
    "max_epochs": 2,
    "steps_per_epoch": 3,
    "val_interval": 1,
    "folds": 2,
    "device": "cpu",
}


def script(name: str) -> ModuleType:
    """scripts/NAME.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real labelled images (``UNET_PAPER_DATA``); the test is skipped where it is absent."""
    folder = Path(os.environ.get("UNET_PAPER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real images not found: UNET_PAPER_DATA={folder}")
    return folder


@pytest.fixture(scope="session")
def cells_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small phantom of touching cells in the layout of the Cell Tracking Challenge."""
    return phantom.write(tmp_path_factory.mktemp("cells") / "phantom", kind="cells", frames=4, size=128, seed=1)


@pytest.fixture(scope="session")
def own_folder(cells_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's images and masks: that phantom's frames as PNG and TIFF, paired by name."""
    root, source = tmp_path_factory.mktemp("own") / "cells", Path(cells_folder)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, frame in enumerate(sorted((source / "01").glob("*.tif"))):
        Image.fromarray(tifffile.imread(frame)).save(root / "images" / f"well{number}.png")
        mask = next((source / "01_GT" / "SEG").glob(f"*{frame.stem[1:]}.tif"))
        tifffile.imwrite(root / "masks" / f"well{number}.tif", tifffile.imread(mask))
    return root


@pytest.fixture(scope="session")
def em_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small phantom of membranes in the layout of the ISBI 2012 challenge."""
    return phantom.write(tmp_path_factory.mktemp("em") / "phantom", kind="em", frames=8, size=96, seed=1)


@pytest.fixture
def run_bundle() -> Callable[..., None]:
    """``run_bundle("training", "train", "data_folder", max_epochs=1)``: MONAI's bundle run with settings overridden."""

    def run(run_id: str, *configs: str, **settings: Any) -> None:
        files = [str(CONFIGS / f"{name}.yaml") for name in configs]
        monai.bundle.run(run_id=run_id, config_file=files, logging_file=False, **settings)

    return run
