"""Terms that go with weights: those of the data of every release that they were begun from, however many runs ago."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unet_paper.running import checkpoint, facts
from unet_paper.running.bundle_folder import bundle_folder

logger = logging.getLogger(__name__)

START = "start"  # entry of the record of a training, see ``begun_from``


class Released(NamedTuple):
    """Weights of a release.

    Attributes:
        name: the short one: ``em``, ``hela``, ``u373``.
        weights: their file.
        terms: of the data that they have learnt from.
        narrow: of a narrower network, that they were begun from, for trainings of that width; None: there are none.
    """

    name: str
    weights: Path
    terms: str
    narrow: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Both, the release's own first."""
        return [self.weights, *([self.narrow] if self.narrow else [])]


def released(bundle: Path | None = None) -> list[Released]:
    """Weights of the releases of a bundle, or of the one that an archive is.

    Args:
        bundle: its folder; None: that of this package.
    """
    folder = bundle_folder() if bundle is None else bundle
    table = folder / "releases.yaml"
    if table.is_file():
        listed = yaml.safe_load(table.read_text(encoding="utf-8"))
        return [
            Released(
                short_name(name),
                folder / entry["weights"],
                entry["metadata"]["weights_license"],
                folder / entry["narrow"] if "narrow" in entry else None,
            )
            for name, entry in listed.items()
        ]
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    weights = folder / "models" / "model.pt"
    return [Released("release", weights, metadata["weights_license"])] if "weights_license" in metadata else []


def short_name(release: str) -> str:
    """Name of a release as one types it.

    >>> short_name("unet_hela_segmentation")
    'hela'
    """
    return release.removeprefix("unet_").removesuffix("_segmentation")


def begun_from(path: str | Path | None, quiet: bool = False) -> dict[str, Any] | None:
    """What a training records of the weights that it begins with; their terms are said, in one line.

    Args:
        path: checkpoint; None: the training begins from chance.
        quiet: another process says it.

    Returns:
        ``weights``, the file's name, and its ``sha256``; ``release``, its short name, if it is one; ``data`` that the
        weights were trained on, and ``terms``, where they are known: of a release, and of all that these weights were
        themselves begun from. None from chance.

    Raises:
        FileNotFoundError, ValueError: as ``facts.read``.
    """
    if path is None:
        return None
    known = facts.read(path, setting="pretrained")
    digest = checkpoint.sha256(path)
    same = (one for one in released() if any(file.is_file() and _same(file, path, digest) for file in one.files))
    release = next(same, None)
    earlier = of_facts(known)
    # what a release was begun from may be itself, some steps ago
    terms = [*([release.terms] if release and release.terms not in earlier else []), *([earlier] if earlier else [])]
    found = {
        "weights": Path(path).name,
        "sha256": digest,
        "release": release.name if release else None,
        "data": known.trained_with("data"),
        "terms": "; ".join(terms) or None,
    }
    if terms and not quiet:
        logger.warning(
            "pretrained=%s: terms of its data go with all weights that are trained from it: %s", path, found["terms"]
        )
    return found


def of_facts(known: Mapping[str, Any]) -> str:
    """Terms of what weights were begun from, as their facts tell; empty where they tell of none.

    >>> of_facts({"training": {"start": {"weights": "a.pt", "terms": "not for sale"}}}), of_facts({"training": {}})
    ('not for sale', '')
    """
    start = (known.get("training") or {}).get(START) or {}
    return str(start.get("terms") or "")


def _same(weights: Path, path: str | Path, digest: str) -> bool:
    return weights.resolve() == Path(path).resolve() or checkpoint.sha256(weights) == digest
