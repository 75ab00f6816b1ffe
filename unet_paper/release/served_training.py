"""One training config for both: whoever runs it by MONAI's command line, and MONAI Label, which reads ``train.json``.

``also_served`` is for the packager; the rest is what the config it makes calls.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from unet_paper.data.annotated_dataset import AnnotatedDataset, ReadOnceDataset
from unet_paper.data.annotation import Annotation
from unet_paper.release import monai_label

_HERE = __name__
# Setting of a config that tells whether MONAI Label runs it.
SERVED = {"_target_": f"{_HERE}.is_served"}
# What MONAI Label sets elsewhere than the config does.
_SET_THERE = {
    "@max_epochs": "@train#trainer#max_epochs",
    "@training_cases": "@train#dataset#data",
    "@validation_cases": "@validate#dataset#data",
}
_REFERENCES = re.compile(rf"({'|'.join(_SET_THERE)})\b")


def also_served(config: Mapping[str, Any], differences: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a training that MONAI Label can start too.

    Args:
        config: merged content of ``train.yaml`` and its overlays.
        differences: settings that have another value there (``monai_label.yaml``).

    Returns:
        The same training, with each of these settings chosen when it runs; inside MONAI Label the images that people
        have labelled are trained on, and the best weights replace those in use.
    """
    changed = _redirected(dict(config))
    changed["served"] = SERVED
    for name, value in differences.items():
        chosen = {"_target_": f"{_HERE}.choose", "served": "@served", "there": value, "otherwise": config[name]}
        changed[name] = chosen
    for name in ("training_cases", "validation_cases"):
        # their folder is not there
        changed[name] = {**config[name], "_disabled_": "@served"}
    sections = {name: dict(changed[name]) for name in ("train", "validate")}
    for name, section in sections.items():
        section["dataset"] = {
            "_target_": f"{_HERE}.cases",
            "data": section["dataset"]["data"],
            "transform": f"@{name}#preprocessing",
            "served": "@served",
            **{key: "@annotation" for key in ("annotation",) if key in section["dataset"]},
        }
    sections["validate"]["dataset"]["otherwise"] = "@train#dataset#data"
    publish = {
        "_target_": "unet_paper.release.monai_label.PublishWeights",
        "folder": "@output_dir",
        "target": "$@bundle_root + '/models/model.pt'",
        "enabled": "@served",
    }
    sections["train"]["handlers"] = [*sections["train"]["handlers"], publish]
    return {**changed, **sections}


def is_served() -> bool:
    """Whether MONAI Label runs this process, or started it for one of several GPUs."""
    return "monailabel" in sys.modules or ("MONAI_LABEL_APP_DIR" in os.environ and "LOCAL_RANK" in os.environ)


def choose(served: bool, there: Any, otherwise: Any) -> Any:
    """Value of a setting inside MONAI Label, and otherwise.

    >>> choose(False, 0.0003, 0.002)
    0.002
    """
    return there if served else otherwise


def cases(
    data: Sequence[Mapping[str, str]] | None,
    transform: Callable[[Any], Any],
    served: bool,
    otherwise: Sequence[Mapping[str, str]] | None = None,
    annotation: Annotation | None = None,
) -> Dataset[Any]:
    """Dataset of cases: of MONAI Label's, those that can be read; else all, or an error.

    Masks for training are judged all together, see ``data.annotated_dataset``.
    """
    if served:
        return monai_label.labelled_images(data or (), transform, otherwise or ())
    if annotation is not None:
        return AnnotatedDataset(data or (), transform, annotation=annotation, progress=False)
    return ReadOnceDataset(data or (), transform, progress=False)


def _redirected(config: Any) -> Any:
    """Config whose references to epochs and cases lead to where MONAI Label puts its own."""
    if isinstance(config, str):
        return _REFERENCES.sub(lambda match: _SET_THERE[match[1]], config)
    if isinstance(config, list):
        return [_redirected(item) for item in config]
    if isinstance(config, dict):
        # the trainer's epochs and the datasets' cases are the places themselves
        return {
            key: value if key in ("max_epochs", "data") and str(value) in _SET_THERE else _redirected(value)
            for key, value in config.items()
        }
    return config
