"""What ``unet-paper --help`` says: commands, the settings that matter, and their defaults as the configs have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from unet_paper.app.bundle_command import config_path
from unet_paper.app.demo import MINUTES
from unet_paper.app.train import CONFIGS


@dataclass(frozen=True)
class Topic:
    """Help on one command.

    Attributes:
        what: it does, in a line.
        place: what must follow it.
        configs: from which defaults are read.
        settings: those that matter, and what each is.
        chosen: defaults that the command itself chooses.
    """

    what: str
    place: str = ""
    configs: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)


TOPICS: dict[str, Topic] = {
    "check": Topic(
        "look at a folder of images and masks once, and choose the settings to train it with",
        "FOLDER",
        (),
        {
            "minutes": "that training may take on this machine",
            "channel": "number or name of the channel to take, or several: [0,2]",
            "annotation": "what masks hold: instances, one id a cell; binary; either; classes; points",
            "out_channels": "number of classes, background included, with classes",
            "ignore_value": "value in masks of pixels that are not annotated",
            "background_value": "value in masks that is background",
            "mask_suffix": "what a mask's name has after its image's",
            "point_radius": "px around a point of a cell that are sure to be cell",
            "magnification": "of the images before the network",
        },
        {
            "minutes": "30",
            "annotation": "as found",
            "out_channels": "2",
            "background_value": "0",
            "mask_suffix": "as found",
            "point_radius": "by how near points are",
            "magnification": "by the size of the cells",
        },
    ),
    "train": Topic(
        "learn from a folder of images and masks",
        "FOLDER",
        CONFIGS,
        {
            "minutes": "that training may take on this machine, about",
            "output_dir": "where the run goes",
            "max_epochs": "epochs",
            "start": "chance, a release (em, hela, u373) or a file of weights",
            "learning_rate": "of the optimiser",
            "features": "channels of each level of the network",
            "tile_size": "px of the input tile",
            "magnification": "of the images before the network",
            "mask_suffix": "what a mask's name has after its image's",
            "fold": "which of `folds` runs of images is held out for validation; all: none",
            "resume": "go on from the last checkpoint",
        },
        {
            "minutes": "30",
            "output_dir": "runs/FOLDER",
            "start": "the nearest release that fits, if a short trial finds it no worse than chance",
            **dict.fromkeys(("max_epochs", "learning_rate", "features"), "chosen by check"),
            **dict.fromkeys(("tile_size", "magnification", "mask_suffix", "fold"), "chosen by check"),
        },
    ),
    "predict": Topic(
        "count and outline the cells of images, a folder or one file",
        "IMAGES",
        ("inference",),
        {
            "weights": "file, folder of a run, or a release: em, hela, u373",
            "output_dir": "where predictions go",
            "cells_preset": "post-processing",
            "magnification": "of the images before the network",
            "channel": "number or name of the channel to take, or several: [0,2]",
            "grey_maximum": "grey value that is white in all images",
            "symmetries": "averaged over: none, flips, rotations, all",
            "strategy": "tiles; rows: in less time and memory",
            "precision": "float32, bfloat16",
            "device": "cpu, cuda:0",
        },
        {"weights": "the newest run in runs", "output_dir": "runs/predictions/IMAGES"},
    ),
    "evaluate": Topic(
        "score what `train FOLDER` learned, on the images held out there",
        "FOLDER",
        (*CONFIGS, "evaluate"),
        {
            "output_dir": "the run",
            "report_dir": "where scores and figures go",
            "ckpt_path": "weights",
            "fold": "which of `folds` runs of images was held out",
            "folds": "how many there are",
            "cells_preset": "post-processing",
            "magnification": "of the images before the network",
            "symmetries": "averaged over: none, flips, rotations, all",
            "strategy": "tiles; rows: in less time and memory",
            "device": "cpu, cuda:0",
        },
        {"output_dir": "runs/FOLDER", "report_dir": "output_dir/evaluation", "ckpt_path": "output_dir/model.pt"},
    ),
    "demo": Topic(
        "the whole road on a phantom of nuclei: check, train, score, predict, in minutes",
        "",
        CONFIGS,
        {
            "minutes": "that training may take on this machine, about",
            "max_epochs": "epochs",
            "steps_per_epoch": "steps of one epoch",
            "device": "cpu, cuda:0",
        },
        {"minutes": MINUTES, **dict.fromkeys(("max_epochs", "steps_per_epoch"), "chosen by check")},
    ),
    "score": Topic("score files of cells or membranes against annotations, without any network"),
}


def overview() -> str:
    """Help on all commands."""
    calls = {f"{name} {topic.place}".strip(): topic.what for name, topic in TOPICS.items()}
    return "\n".join(
        [
            "unet-paper COMMAND ...    the U-Net of 2015, from a folder of images to counted cells",
            "",
            *_columns(calls),
            "",
            "Each prints the command of MONAI that it stands for. Every setting of the configs can be given, with two",
            "dashes: --max_epochs 40. unet-paper COMMAND --help shows those that matter.",
        ]
    )


def of_command(name: str) -> str:
    """Help on one command, with the defaults that its configs have now."""
    topic = TOPICS[name]
    values = defaults(topic.configs)
    lines = {
        f"--{setting}": f"{what} [{topic.chosen.get(setting) or shown(values.get(setting))}]"
        for setting, what in topic.settings.items()
    }
    files = ", ".join(str(config_path(config)) for config in topic.configs)
    more = "--config_file FILE.yaml lays settings of your own over these. All settings: " + files
    return "\n".join(
        [
            f"unet-paper {name} {topic.place}".rstrip() + " [--setting value ...]",
            f"    {topic.what}",
            "",
            *_columns(lines),
            *(["", more] if files else []),
        ]
    )


def defaults(configs: Sequence[str]) -> dict[str, Any]:
    """Top-level settings of configs that lie over one another."""
    merged: dict[str, Any] = {}
    for config in configs:
        merged |= yaml.safe_load(config_path(config).read_text("utf-8"))
    return merged


def shown(value: Any) -> str:
    """A default as help shows it.

    >>> shown(0.5), shown(None), shown("$engines.select_device()"), shown("$@facts['grey_mean']")
    ('0.5', 'none', 'chosen by the machine', 'as the weights were trained')
    """
    if value is None or value == "":
        return "none"
    if isinstance(value, str) and value.startswith("$"):
        return "as the weights were trained" if "facts" in value else "chosen by the machine"
    return str(value)


def _columns(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows)) + 2
    return [f"  {left:{width}}{right}" for left, right in rows.items()]
