"""``unet-paper predict``: by which weights, and where to."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from unet_paper.app.bundle_command import BundleCommand, config_path, path_value
from unet_paper.running.bundle_folder import bundle_folder

WEIGHTS = "model.pt"
# that running.prediction_job writes, which imports PyTorch
RECORD = "predictions.json"
# pixels of one image: prediction in one piece takes 45 bytes each, 3 GB
LARGE = 2**26
_ZARR = ("zarr.json", ".zattrs", ".zgroup")


def prediction(images: Path, settings: Mapping[str, str], overlays: Sequence[Path] = ()) -> BundleCommand:
    """The command that predicts a folder of images or one file, into ``runs/predictions/NAME`` if not told otherwise.

    An OME-Zarr, or one file of more pixels than :data:`LARGE`, is predicted in blocks (``inference_large.yaml``).

    Args:
        images: the folder or the file.
        settings: of the configs, as typed, and ``weights``: a file, the folder of a run, or a release's name. Without
            it those of the newest run in ``runs``, said in one line.
        overlays: config files of one's own.

    Raises:
        FileNotFoundError: no such weights, or none at all.
    """
    given = dict(settings)
    weights = given.pop("weights", None)
    own = {"dataset_dir": path_value(images), "output_dir": path_value(output_folder(images))}
    configs: list[str | Path] = ["inference_large" if in_blocks(images) else "inference"]
    if weights is not None or "ckpt_path" not in given:
        release, chosen = weights_of(str(newest_weights()) if weights is None else weights)
        configs += release
        own |= {name: path_value(path) for name, path in chosen.items()}
    return BundleCommand("run", [*configs, *overlays], {**own, **given})


def in_blocks(images: Path) -> bool:
    """Whether images are predicted in blocks: an OME-Zarr folder, or a file with a large page, which is said."""
    from unet_paper.data.reader import TIFF, extension, page_shapes  # PyTorch: not for --help

    if images.is_dir():
        return any((images / name).is_file() for name in _ZARR)
    if not images.is_file() or extension(images) not in TIFF:
        return False
    pixels = max((height * width for height, width, *_ in page_shapes(images)), default=0)
    if pixels > LARGE:
        print(f"{images}: {pixels / 1e6:.0f} million pixels, predicted in blocks (inference_large.yaml)")
    return pixels > LARGE


def weights_of(weights: str) -> tuple[list[str | Path], dict[str, str]]:
    """Overlays on ``inference.yaml`` and settings that name weights.

    Args:
        weights: a file, the folder of a run, or a release's name.

    Raises:
        FileNotFoundError: no such weights.
    """
    if weights in releases():
        overlays, released = releases()[weights]
        # named, so that those of a run in the folder of the predictions do not come first
        return overlays, {"ckpt_path": str(released)}
    return [], {"ckpt_path": str(weights_file(weights))}


def output_folder(images: Path) -> Path:
    """Where the predictions of a folder or file go: by its name, and that of its folder where another one has that.

    >>> str(output_folder(Path("data/well3.tif"))), str(output_folder(Path("data/plate/")))
    ('runs/predictions/well3', 'runs/predictions/plate')
    """
    place = Path(os.path.abspath(images))
    first = chosen = Path("runs") / "predictions" / (place.name.split(".")[0] or "images")
    source = str((place if place.is_dir() else place.parent).resolve())
    for folder in place.parents:
        others = _images_from(chosen)
        if not others or source in others:
            break
        chosen = chosen.with_name(f"{folder.name or 'images'}_{chosen.name}")
    if chosen != first:
        print(f"{first} holds predictions of images in {_images_from(first)[0]}; those of {images} go to {chosen}")
    return chosen


def _images_from(predictions: Path) -> list[str]:
    """Folders of the images whose predictions a folder holds; none where it does not say."""
    try:
        return list(json.loads((predictions / RECORD).read_text("utf-8"))["images_from"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def releases() -> dict[str, tuple[list[str | Path], Path]]:
    """Releases that lie in the bundle, by names long and short: overlays on ``inference.yaml``, and weights."""
    listed = bundle_folder() / "releases.yaml"
    known: dict[str, tuple[list[str | Path], Path]] = {}
    for name, release in (yaml.safe_load(listed.read_text("utf-8")) if listed.is_file() else {}).items():
        overlays: list[str | Path] = [config.removesuffix(".yaml") for config in release["inference"]]
        known[name] = overlays, bundle_folder() / release["weights"]
        known[name.removeprefix("unet_").removesuffix("_segmentation")] = known[name]
    return known


def weights_file(weights: str) -> Path:
    """The file that ``--weights`` names.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(weights).expanduser()
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {weights}: no such file, no run's folder with a {WEIGHTS}, and no release; "
            f"releases are {_short_names()}"
        )
    return path


def newest_weights() -> Path:
    """Weights of the newest run in ``runs``, but for those of the phantom; says which.

    Raises:
        FileNotFoundError: if there is none.
    """
    phantom = Path(yaml.safe_load(config_path("train").read_text("utf-8"))["output_dir"])
    found = [path for path in Path("runs").glob(f"*/{WEIGHTS}") if path.parent != phantom]
    if not found:
        raise FileNotFoundError(
            f"no weights: no runs/*/{WEIGHTS} here; train first (unet-paper train FOLDER), or name a file, a run's "
            f"folder or a release, --weights {_short_names()}"
        )
    newest = max(found, key=lambda path: path.stat().st_mtime)
    others = f" of {len(found)} here" if len(found) > 1 else ""
    print(f"weights: {newest}, the newest run{others}; others with --weights FILE")
    return newest


def _short_names() -> str:
    names = [name for name in releases() if not name.startswith("unet_")]
    return ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else "".join(names)
