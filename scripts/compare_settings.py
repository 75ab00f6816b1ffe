"""Trains and scores a network for each variant of a study, and writes one table: what was tried and what it gave.

    python scripts/compare_settings.py scripts/studies/isbi2012.yaml --data FOLDER --doc bundle/docs/choices.md

A study is a YAML file: the configs and settings that all variants share, the folds to hold out, and the variants, each
a choice, its value and the settings that differ. A variant with ``of`` trains nothing: it scores the networks of
another one with other settings. With ``robustness`` every network is also scored on changed images (robustness.yaml):
a column says of which images, such as "blur 2 px" or "mean of changes", and which score. What has been scored is not
done again, so that an interrupted study goes on when it is started again; what earlier rules of the metrics scored is
scored anew. Written to ``--output_dir/STUDY``: a run of each variant and fold, and results.csv; with ``--doc`` also the
table, between the lines ``<!-- STUDY:begin -->`` and ``<!-- STUDY:end -->`` of that file.
"""

import argparse
import json
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import torch
import yaml
from reproduce_tables import CONFIGS, EM_SCORES
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.morphology import disk
from skimage.segmentation import expand_labels
from torch import Tensor

from unet_paper.metrics.ctc import touching_objects
from unet_paper.metrics.em_inputs import RULES
from unet_paper.running import logbook
from unet_paper.running.tables import markdown_table, replace_block

logger = logging.getLogger("compare_settings")

KEYS = {"title", "data", "configs", "settings", "folds", "scores", "variants"}
OPTIONAL_KEYS = {"robustness"}
COLUMN_KEYS = {"images", "score"}
# over which changes a column goes, and what robustness.json calls it
OVER_CHANGES = {"mean of changes": "mean_of_changes", "lowest of changes": "lowest_of_changes"}
VARIANT_KEYS = {"choice", "value", "settings", "of"}


def read_study(path: Path) -> dict[str, Any]:
    """A study from its file, with names for its variants.

    Raises:
        ValueError: keys that are missing or unknown, two variants of one name, ``of`` naming no variant that trains.
    """
    study: dict[str, Any] = yaml.safe_load(path.read_text())
    if not KEYS <= set(study) <= KEYS | OPTIONAL_KEYS:
        expected = f"{', '.join(sorted(KEYS))}, and perhaps {', '.join(OPTIONAL_KEYS)}"
        raise ValueError(f"{path}: expected the keys {expected}; found {', '.join(sorted(study))}")
    for column in study.setdefault("robustness", []):
        if set(column) != COLUMN_KEYS:
            raise ValueError(f"{path}: robustness has {column}: expected {', '.join(sorted(COLUMN_KEYS))}")
    named: dict[str, dict[str, Any]] = {}
    for variant in study["variants"]:
        if not {"choice", "value"} <= set(variant) <= VARIANT_KEYS:
            raise ValueError(f"{path}: variant {variant}: has choice and value, and may have settings and of")
        name = re.sub(r"[^a-z0-9.]+", "_", f"{variant['choice']} {variant['value']}".lower()).strip("_")
        if name in named:
            raise ValueError(f"{path}: two variants {name!r}; give one another value")
        if "of" in variant and "of" in named.get(variant["of"], {"of": None}):
            raise ValueError(f"{path}: variant {name!r} is of {variant['of']!r}; expected an earlier one that trains")
        named[name] = {"settings": {}, **variant}
    study["variants"] = named
    return study


def score(study: Mapping[str, Any], name: str, fold: int, data: Path, folder: Path) -> dict[str, float]:
    """Scores of one variant on one held-out fold; trains and evaluates unless that has been done.

    Args:
        study: what ``read_study`` returned.
        name: of the variant.
        fold: which to hold out.
        data: folder that holds the data set's folder.
        folder: where the study's runs go.
    """
    variant = study["variants"][name]
    trained = variant.get("of", name)
    run = folder / trained / f"fold_{fold}"
    report = run / "evaluation" if trained == name else folder / name / f"fold_{fold}"
    summary = report / "summary.json"
    if not (summary.is_file() and scored_by_rules_of_now(json.loads(summary.read_text()))):
        shared = {"dataset_dir": str(data / study["data"]), "fold": fold, "output_dir": str(run), **study["settings"]}
        configs = [str(CONFIGS / f"{config}.yaml") for config in study["configs"]]
        logger.info("%s, fold %d", name, fold)
        if trained == name:
            settings = {**shared, **variant["settings"], "resume": True}
            monai.bundle.run("training", config_file=[*configs, overlay(settings, folder / f"{name}.yaml")])
        settings = {**shared, **study["variants"][trained]["settings"], **variant["settings"]}
        settings["report_dir"] = str(report)
        configs.append(str(CONFIGS / "evaluate.yaml"))
        monai.bundle.run("evaluating", config_file=[*configs, overlay(settings, folder / f"{name}.yaml")])
        if study["robustness"]:
            settings["report_dir"] = str(report / "robustness")
            configs.append(str(CONFIGS / "robustness.yaml"))
            monai.bundle.run("evaluating", config_file=[*configs, overlay(settings, folder / f"{name}.yaml")])
    found: dict[str, float] = json.loads(summary.read_text())["scores"]
    if study["robustness"]:
        content = json.loads((report / "robustness" / "robustness.json").read_text())
        rows = content["scores"] | {name: content[key] for name, key in OVER_CHANGES.items()}
        found |= {_heading(column): rows[column["images"]][column["score"]] for column in study["robustness"]}
    return found


def _heading(column: Mapping[str, str]) -> str:
    return f"{column['score']}, {column['images']}"


def scored_by_rules_of_now(summary: Mapping[str, Any]) -> bool:
    """Whether an evaluation's summary holds scores of ISBI 2012 by the present rules, or none of them."""
    return all(metric.get("rules") == RULES for metric in summary["metrics"].values() if "thresholds" in metric)


def unknown_if_touching(cells: Tensor) -> Tensor:
    """Instance images, shape (1, H, W), in which cells that touch another one are unknown: for studies of contacts."""
    instances = np.asarray(cells)
    return torch.from_numpy(np.where(np.isin(instances, touching_objects(instances[0])), -1, instances))


def without_rim(cells: Tensor, width: int) -> Tensor:
    """Instance images, shape (1, H, W), in which cells lose what is not farther than ``width`` px from their outline.

    What is unknown stays so, and cells that the image's edge cuts lose nothing there.
    """
    instances = np.asarray(cells)[0]
    neighbourhood = disk(width)
    lowest, highest = (found(instances, footprint=neighbourhood) for found in (minimum_filter, maximum_filter))
    inside = (instances < 0) | (lowest == highest)
    return torch.from_numpy(np.where(inside, instances, 0)[None])


def grown(cells: Tensor, by: int) -> Tensor:
    """Instance images, shape (1, H, W), with cells grown by so many px, where no other one is nearer."""
    return torch.from_numpy(expand_labels(np.asarray(cells)[0], by)[None])


def overlay(settings: Mapping[str, Any], path: Path) -> str:
    """A config file of these settings: as arguments MONAI would drop those that are None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(settings)))
    return str(path)


def table(study: Mapping[str, Any], results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown table of a study: mean, and with several folds standard deviation, of every score.

    Args:
        study: what ``read_study`` returned.
        results: scores of every fold, by variant.
    """
    body = []
    columns = [*study["scores"], *map(_heading, study["robustness"])]
    for name, folds in results.items():
        variant = study["variants"][name]
        cells = [_mean_and_spread([scores[column] for scores in folds]) for column in columns]
        body.append([str(variant["choice"]), str(variant["value"]), *cells])
    settings = ", ".join(f"`{name}: {value}`" for name, value in study["settings"].items())
    head = [f"**{study['title']}**", "", f"Configs {', '.join(study['configs'])}; {settings}.", ""]
    rules = f"; metric rules {RULES}" if set(EM_SCORES) & set(study["scores"]) else ""
    folds = f"Scored on fold {', '.join(map(str, study['folds']))}, held out{rules}."
    return "\n".join([*head, *markdown_table(["choice", "value", *columns], body), "", folds]) + "\n"


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study, or what is left of it, and write its table after every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file of the study")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the challenges' folders (data)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/studies"), help="where to write (runs/studies)")
    parser.add_argument("--doc", type=Path, help="file in which to replace the study's table")
    given = parser.parse_args(arguments)
    study = read_study(given.study)
    folder = (given.output_dir / given.study.stem).resolve()
    results: dict[str, list[dict[str, float]]] = {}
    for name in study["variants"]:
        results[name] = [score(study, name, fold, given.data.resolve(), folder) for fold in study["folds"]]
        rows = [
            {"variant": variant, "fold": fold, **scores}
            for variant, folds in results.items()
            for fold, scores in zip(study["folds"], folds, strict=True)
        ]
        logbook.write_table(rows, folder / "results.csv")
    text = table(study, results)
    if given.doc is not None:
        replace_block(given.doc, text, given.study.stem)
    print(text)


if __name__ == "__main__":
    main()
