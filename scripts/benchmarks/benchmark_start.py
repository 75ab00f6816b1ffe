"""Times the start: from the command to the first training step, and to the first prediction, beside bare imports.

``unet-paper`` imports MONAI without the optional packages that MONAI alone looks for (``app.lean_import``); MONAI's
own commands import them all.

Each repetition is a process of its own, run as a user runs it; wall time. What MONAI, torch and Ignite take to be
imported is nobody's to avoid; the rest is ours.
"""

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import benchmarking
import torch

from unet_paper.data import phantom
from unet_paper.network import UNet
from unet_paper.running import checkpoint

CONFIGS = benchmarking.ROOT / "bundle" / "configs"
FEATURES = [2, 4, 8, 16, 32]
IMPORTS = "import torch, monai.bundle, monai.engines, monai.handlers, monai.transforms, monai.data, monai.inferers"

LEAN = f"from unet_paper.app import lean_import; lean_import.import_monai(); {IMPORTS}"


def run(*command: str, folder: Path) -> None:
    """A Python process that must succeed."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def slowest_imports(folder: Path, count: int = 12) -> str:
    """The modules of which the import of our package's parts takes longest themselves, from ``-X importtime``."""
    ours = "from unet_paper.running import engines, figures, logbook; from unet_paper.metrics import monai_metrics"
    command = [sys.executable, "-X", "importtime", "-c", f"{IMPORTS}; {ours}"]
    report = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    packages: dict[str, int] = {}
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", report):
        package = name.split(".")[0]
        packages[package] = packages.get(package, 0) + int(own)
    longest = sorted(packages.items(), key=lambda item: -item[1])[:count]
    return ", ".join(f"{name} {microseconds / 1e6:.2f} s" for name, microseconds in longest)


def main() -> int:
    """Measure, print and write."""
    arguments = benchmarking.parse_arguments(__doc__, threads=os.cpu_count() or 1)
    report = benchmarking.Report("start", "Start", packages=("monai",), quick=arguments.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = phantom.write(folder / "cells", frames=8, size=188)
        weights = folder / "weights.pt"
        torch.manual_seed(0)
        checkpoint.save(UNet(features=FEATURES).state_dict(), weights)
        bundle = ("-m", "monai.bundle", "run")
        small = (f"--features={FEATURES}", "--device=cpu")
        one_step = ("--max_epochs=1", "--steps_per_epoch=1", "--val_interval=2", "--tile_size=188")
        train = (*bundle, "training", f"--config_file={CONFIGS / 'train.yaml'}", f"--dataset_dir={data}")
        told = ("--grey_mean=0.46", "--grey_std=0.045", "--cells_preset=phantom")
        anew = ("--overwrite=True",)
        infer = (*bundle, f"--config_file={CONFIGS / 'inference.yaml'}", f"--dataset_dir={data}/01/t000.tif", *anew)
        ours = ("-m", "unet_paper", "predict", f"{data}/01/t000.tif", f"--weights={weights}", *small, *told, *anew)
        calls = {
            "bare imports: torch and what MONAI's bundles need of MONAI": partial(run, "-c", IMPORTS, folder=folder),
            "training: one step of a tiny network": partial(run, *train, *small, *one_step, folder=folder),
            "inference: one small image": partial(run, *infer, *small, f"--ckpt_path={weights}", *told, folder=folder),
            "the same by unet-paper predict": partial(run, *ours, folder=folder),
            "imports of unet-paper: MONAI without what it only looks for": partial(run, "-c", LEAN, folder=folder),
        }
        rows = benchmarking.compare(calls, 1 if arguments.quick else 5)
        report.notes.append(f"Longest imports, each module's own time, by package: {slowest_imports(folder)}.")
    report.rows += rows.values()
    report.notes.append("Ratio: time over that of the bare imports.")
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
