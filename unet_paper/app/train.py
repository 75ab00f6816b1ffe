"""``unet-paper train`` and ``evaluate``: which configs a folder of images and masks is trained and scored with."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from unet_paper.app.bundle_command import BundleCommand, path_value

CONFIGS = ("train", "data_folder", "best_folder")
POINTS = "data_points"  # over these, where the check has found points
CHOSEN = "config.yaml"
REPORT = "check.json"
SCORING = "scoring.yaml"


def training(
    folder: Path, settings: Mapping[str, str], overlays: Sequence[Path] = (), start: Path | None = None
) -> BundleCommand:
    """The command that trains on a folder, into ``runs/FOLDER`` if not told otherwise.

    Args:
        folder: with images and masks.
        settings: of the configs, as typed; they come first, then ``overlays``, then what ``checked`` has chosen.
        overlays: config files of one's own.
        start: overlay with the weights to start from, see ``app.starting_weights``.
    """
    own = {"dataset_dir": path_value(folder), "output_dir": path_value(run_folder(folder))}
    chosen = check_folder(folder) / CHOSEN
    ours = [*([chosen] if chosen.is_file() else []), *([] if start is None else [start])]
    by_points = chosen.is_file() and (yaml.safe_load(chosen.read_text("utf-8")) or {}).get("annotation") == "points"
    configs: list[str | Path] = [*CONFIGS, *([POINTS] if by_points else []), *ours, *overlays]
    return BundleCommand("training", configs, {**own, **settings})


def evaluation(folder: Path, settings: Mapping[str, str], overlays: Sequence[Path] = ()) -> BundleCommand:
    """The command that scores what ``training`` of the same folder made, on the images held out there.

    Raises:
        ValueError: another folder of that name was checked since.
    """
    _refuse_check_of_another(folder)
    command = training(folder, settings, overlays)
    configs = list(command.configs)
    chosen, scoring = check_folder(folder) / CHOSEN, check_folder(folder) / SCORING
    if chosen in configs and scoring.is_file():
        configs.insert(configs.index(chosen) + 1, scoring)
    return BundleCommand("evaluating", [*configs, "evaluate"], command.settings)


def _refuse_check_of_another(folder: Path) -> None:
    """Raise where the check's settings, and the images that it lists, are of another folder."""
    place = check_folder(folder)
    try:
        checked = Path(json.loads((place / REPORT).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    # of one that is gone nobody can say that it was not moved
    if checked.exists() and checked.resolve() != folder.resolve():
        raise ValueError(
            f"{place}: of {checked}, another folder of that name than {folder}, and so may be the weights in "
            f"{run_folder(folder)}; check {folder} again, as for its training, and name the folder of its run with "
            f"--output_dir (a run that another one took the place of is {run_folder(folder)}.1, .2, ...)"
        )


def run_folder(folder: Path) -> Path:
    """Where the run of a data set goes.

    >>> str(run_folder(Path("data/nuclei/")))
    'runs/nuclei'
    """
    return Path("runs") / (Path(os.path.abspath(folder)).name or "folder")


def check_folder(folder: Path) -> Path:
    """Where the check of a data set goes.

    >>> str(check_folder(Path("data/nuclei/")))
    'runs/checks/nuclei'
    """
    return Path("runs") / "checks" / (Path(os.path.abspath(folder)).name or "folder")
