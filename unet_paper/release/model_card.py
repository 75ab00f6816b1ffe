"""What people must know of a release, as tables and as the README of its archive, from the same facts.

The facts are the release's entry in ``releases.yaml``, its ``metadata.json`` and what its weights tell; the sections
are those of the model zoo's template.
"""

from collections.abc import Mapping
from typing import Any

from unet_paper import geometry
from unet_paper.network import UNet
from unet_paper.release import archived_docs
from unet_paper.running.facts import cells
from unet_paper.running.memory import PredictionMemory
from unet_paper.running.tables import markdown_table

# rows of a card, as docs/README.md shows them
_ROWS = ("data", "recipe", "start", "command", "selection", "time", "limits")
_SIDES = (500, 1000, 2000, 5000)
MINIMUM_PYTHON = "3.11"


def card_table(weights: str, card: Mapping[str, Any], licence: str) -> str:
    """The card of a release's weights for ``docs/README.md``.

    >>> rows = dict.fromkeys(("data", "recipe", "start", "command", "selection", "time", "limits"), "x")
    >>> print(card_table("models/a.pt", {"of": "cells", **rows}, "Not Apache-2.0"))
    | | cells: `models/a.pt` |
    |---|---|
    | data | x |
    ...
    | licence | Not Apache-2.0 |
    """
    rows = [(name, f"`{card[name]}`" if name == "command" else card[name]) for name in _ROWS]
    rows.append(("licence", licence))
    return "\n".join([f"| | {card['of']}: `{weights}` |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]) + "\n"


def readme(
    template: str,
    name: str,
    *,
    card: Mapping[str, Any],
    metadata: Mapping[str, Any],
    facts: Mapping[str, Any],
    extras: Mapping[str, Mapping[str, str]],
) -> str:
    """README of an archive.

    Args:
        template: its text, with names in braces.
        name: of the release.
        card: its entry ``card`` in ``releases.yaml``.
        metadata: content of its ``metadata.json``.
        facts: what its weights tell, see ``running.facts``.
        extras: optional packages and their versions, by what they are for.
    """
    values = {
        "name": name,
        "title": metadata["name"],
        "version": metadata["version"],
        "authors": metadata["authors"],
        "tags": ", ".join(card["tags"]),
        "description": metadata["description"],
        "data_source": metadata["data_source"],
        "copyright": metadata["copyright"],
        "weights_license": metadata["weights_license"],
        "intended_use": metadata["intended_use"],
        "references": "\n".join(f"[{k}] {text}" for k, text in enumerate(metadata["references"], start=1)),
        "python": MINIMUM_PYTHON,
        "required": " ".join(required(metadata)),
        "training": _training(card, facts),
        "grey": f"{_listed(facts['grey_mean'])} subtracted, divided by {_listed(facts['grey_std'])}",
        "magnification": f"{facts['magnification']:g}",
        "memory": _memory(facts),
        **_sizes(len(facts["features"])),
        "scores": "\n".join(markdown_table(["score", "value"], _scores(metadata))),
        **{key: card[key] for key in ("images", "data", "layout", "selection", "time", "limits", "start")},
        **{f"pip_{extra}": archived_docs.pinned(versions) for extra, versions in extras.items()},
    }
    return template.format(**values)


def of_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What can be said in a card of weights of which there is no record but their own.

    >>> of_facts({"training": {"data": "plate7", "images": {"training": 18, "validation": 6}}})["data"]
    'plate7; 18 images in training, 6 held out'
    """
    record = facts.get("training", {})
    images = record.get("images") or {}
    count = f"; {images['training']} images in training, {images['validation']} held out" if images else ""
    told = {"data": f"{record.get('data', 'not recorded')}{count}", "recipe": str(record.get("recipe", "not recorded"))}
    if "start" in record:
        told["start"] = _start(record["start"])
    return {**dict.fromkeys(("start", "command", "selection", "time", "limits"), "not recorded"), **told}


def _start(start: Mapping[str, Any] | None) -> str:
    """What weights were begun from, see ``terms.begun_from``."""
    if not start:
        return "chance"
    name = f"the release {start['release']}" if start.get("release") else f"`{start['weights']}`"
    return f"{name} (sha256 `{start['sha256'][:12]}...`)"


def required(metadata: Mapping[str, Any]) -> list[str]:
    """What must be installed, as pip takes it.

    >>> base = {"monai_version": "1", "pytorch_version": "2", "numpy_version": "3"}
    >>> required({**base, "required_packages_version": {"scipy": "4"}})
    ['torch==2', 'monai==1', 'numpy==3', 'scipy==4']
    """
    base = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}
    versions = {package: metadata[key] for package, key in base.items()} | metadata["required_packages_version"]
    return [f"{package}=={version}" for package, version in versions.items()]


def _scores(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(name, str(value)) for name, value in metadata.get("eval_metrics", {}).items()]
    return found or [("not recorded for these weights", "")]


def _steps(epochs: int, steps_per_epoch: int, trained: int | None) -> str:
    """Steps that weights have been trained for, and the plan of their training.

    >>> _steps(200, 50, 400), _steps(2, 50, None)
    ('400 of a training of 10000, 200 epochs of 50', '100, 2 epochs of 50')
    """
    planned = epochs * steps_per_epoch
    done = "" if trained in (None, planned) else f"{trained} of a training of "
    return f"{done}{planned}, {epochs} epochs of {steps_per_epoch}"


def _training(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What the weights say of their training; what they do not say is left out."""
    record = facts.get("training", {})
    steps = record.get("max_epochs"), record.get("steps_per_epoch")
    rows = [
        ("network", f"features {_listed(facts['features'])}, dropout {facts['dropout']:g}, preset {facts['preset']}"),
        ("recipe", record.get("recipe")),
        ("start", card["start"]),
        ("steps", None if None in steps else _steps(*steps, record.get("trained_steps"))),
        ("learning rate", record.get("learning_rate")),
        ("tile", None if "tile_size" not in record else f"{record['tile_size']} px"),
        ("precision", record.get("precision")),
        ("seed", record.get("seed")),
        ("selection", card["selection"]),
    ]
    return "\n".join(markdown_table(["", ""], [(name, str(value)) for name, value in rows if value is not None]))


def _memory(facts: Mapping[str, Any]) -> str:
    """Memory of prediction on a CPU, as it is reckoned, and refused where it is not there, before a prediction."""
    network = UNet(facts["in_channels"], facts["out_channels"], facts["features"], facts["preset"])
    memory = PredictionMemory(
        network=network,
        strategy="rows",
        symmetries=facts["symmetries"],
        magnification=facts["magnification"],
        # weights of an earlier version know fewer settings
        cells=cells(facts["cells_preset"], facts),
    )
    rows = [(f"{side} x {side} px", f"{memory.needed((side, side)) / 2**30:.2f} GiB") for side in _SIDES]
    return "\n".join(markdown_table(["image", "memory"], rows))


def _listed(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, list | tuple) else f"{value:g}"


def _sizes(levels: int) -> dict[str, int]:
    """Smallest input of a network, step of valid inputs and margin, in px."""
    return {
        "smallest": geometry.input_size(1, levels),
        "step": geometry.pooling_factor(levels),
        "margin": geometry.margin(levels),
    }
