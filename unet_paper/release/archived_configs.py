"""Configs of an archive: complete in one file each, or overlays on these, made from the configs of the checkout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from unet_paper.release import carried_code, served_training
from unet_paper.running import checkpoint, facts

WEIGHTS = "models/model.pt"
# Overlays of the archive, and the complete config that each lies over.
OVERLAYS: Mapping[str, str] = {
    "export": "inference",
    "export_bioimage_io": "inference",
    "many_images": "inference",
    "inference_torchscript": "inference",
    "inference_onnx": "inference",
    "inference_trt": "inference",
    "multi_gpu_train": "train",
    "multi_gpu_evaluate": "evaluate",
    "robustness": "evaluate",
}
# What training goes on with as the weights in the archive were trained.
_OF_TRAINING = (
    "in_channels",
    "out_channels",
    "features",
    "preset",
    "grey_mean",
    "grey_std",
    "grey_log",
    "cells_preset",
    "magnification",
)
# What another training takes from it: the network, not what belongs to the images.
_OF_NETWORK = ("features", "preset", "dropout")
# Configs that read weights: a run's own first, then those of the archive.
_OF_WEIGHTS = ("inference", "inference_large", "evaluate", "evaluate_folder")


def sources(train: Sequence[str], inference: Sequence[str]) -> dict[str, list[str]]:
    """Complete configs of an archive by name, and the files of the checkout that each is merged from.

    Args:
        train: overlays of the release after ``train.yaml``.
        inference: overlays of the release after ``inference.yaml``.
    """
    own = ["train.yaml", "data_folder.yaml"]
    return {
        "inference": ["inference.yaml", *inference],
        "inference_large": ["inference_large.yaml", *inference],
        "train": ["train.yaml", *train],
        # monai.bundle.load takes a workflow's type for its file's name, and calls this type both train and training
        "training": ["train.yaml", *train],
        "evaluate": ["train.yaml", *train, "evaluate.yaml"],
        "train_folder": [*own, "best_folder.yaml"],
        "fine_tune": [*own, "fine_tune.yaml"],
        "evaluate_folder": [*own, "evaluate.yaml"],
        "train_large": ["train.yaml", "data_large.yaml", "best_folder.yaml"],
    }


def archived(
    bundle: Path,
    weights: Path,
    *,
    train: Sequence[str],
    inference: Sequence[str],
    training: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """All configs of an archive, by name.

    Args:
        bundle: folder of the bundle that all releases are made from.
        weights: what becomes ``models/model.pt``.
        train: overlays of the release after ``train.yaml``.
        inference: overlays of the release after ``inference.yaml``.
        training: settings that the weights were trained with.
        settings: of inference and training, to change.

    Raises:
        FileNotFoundError: an overlay is missing.
        ValueError: the weights do not fit the network of the config.
    """
    files = sources(train, inference)
    told = facts.merged(facts.read(weights), settings)
    trained = {key: told[key] for key in _OF_TRAINING if key in told} | {**training, **settings}
    network = {key: trained.get(key, told.get(key)) for key in _OF_NETWORK}
    given: dict[str, Mapping[str, Any]] = {
        **dict.fromkeys(("inference", "inference_large"), settings),
        **dict.fromkeys(("train", "training"), trained),
        **dict.fromkeys(("train_folder", "train_large"), network),
    }
    plain = {name: merged(bundle, files[name], given.get(name, {})) for name in files}
    parser = ConfigParser({**told, "network_def": plain["inference"]["network_def"]})
    checkpoint.load_weights(parser.get_parsed_content("network_def"), weights)

    sha256 = checkpoint.sha256(weights)
    complete = {name: dict(config) for name, config in plain.items()}
    for name in _OF_WEIGHTS:
        complete[name] |= _own_or_archived(sha256)
    complete["fine_tune"] |= _pretrained(sha256)
    differences = merged(bundle, ["monai_label.yaml"], {})
    for name in ("train", "training"):
        complete[name] = served_training.also_served(complete[name], differences)
    return {name: carried_code.carry(config) for name, config in complete.items()} | {
        name: carried_code.carry_overlay(merged(bundle, [f"{name}.yaml"], {}), plain[base])
        for name, base in OVERLAYS.items()
    }


def merged(bundle: Path, files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Content of configs, each over those before it, and settings over all.

    Raises:
        FileNotFoundError: one is missing.
    """
    paths = [bundle / "configs" / name for name in files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such config; releases.yaml names it")
    if len(paths) == 1 and not settings:
        # an overlay alone: its "section#name" belongs to a section that is not here
        content = ConfigParser.load_config_file(str(paths[0]))
    else:
        parser = ConfigParser()
        parser.read_config([str(path) for path in paths])
        parser.update(dict(settings))
        content = parser.get()
    content.pop("_meta_", None)
    return dict(content)


def _own_or_archived(sha256: str) -> dict[str, Any]:
    released = f"$@bundle_root + '/{WEIGHTS}'"
    return {
        "served": served_training.SERVED,
        "ckpt_path": {
            "_target_": "unet_paper.running.checkpoint.own_or_released",
            "folder": "@output_dir",
            "released": released,
            "served": "@served",
        },
        # MONAI Label puts other weights into that file
        "ckpt_sha256": {**_checked("ckpt_path", released, sha256), "_disabled_": "@served"},
    }


def _pretrained(sha256: str) -> dict[str, Any]:
    released = f"$@bundle_root + '/{WEIGHTS}'"
    return {"pretrained": released, "pretrained_sha256": _checked("pretrained", released, sha256)}


def _checked(setting: str, released: str, sha256: str) -> dict[str, Any]:
    return {
        "_target_": "unet_paper.running.checkpoint.released_sha256",
        "path": f"@{setting}",
        "released": released,
        "sha256": sha256,
    }
