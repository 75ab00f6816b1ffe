"""Archives of the bundle's releases: NAME_vX.Y.Z.zip, with single-file configs, weights and the code they need.

The same files give the same bytes on every machine: members are sorted, dated 1980 and stored without compression.
"""

import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

import unet_paper
from unet_paper.release import carried_code, contents, registry, served_training
from unet_paper.running import checkpoint, facts

# The model zoo keeps larger files out of its repository.
LARGE = 25 * 2**20
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
# What training goes on with as the weights in the archive were trained.
_OF_TRAINING = (
    "in_channels",
    "out_channels",
    "features",
    "preset",
    "grey_mean",
    "grey_std",
    "cells_preset",
    "magnification",
)
_WEIGHTS = "models/model.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """What one release has of its own, an entry of ``releases.yaml``.

    Args:
        name: name of the bundle.
        weights: file of its weights, relative to the bundle's folder.
        train: overlays after ``train.yaml``.
        inference: overlays after ``inference.yaml``.
        training: settings that the weights were trained with.
        metadata: entries over those of ``metadata.json``.
    """

    name: str
    weights: str
    train: Sequence[str]
    inference: Sequence[str]
    training: Mapping[str, Any]
    metadata: Mapping[str, Any]


def releases(bundle: str | Path) -> dict[str, Release]:
    """Releases of a bundle's folder, by name, from its ``releases.yaml``."""
    table = yaml.safe_load((Path(bundle) / "releases.yaml").read_text(encoding="utf-8"))
    return {name: Release(name=name, **entry) for name, entry in table.items()}


def build(
    bundle: str | Path,
    release: Release,
    output_dir: str | Path,
    *,
    weights: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    base_url: str | None = None,
) -> Path:
    """Build the archive of a release and enter it into ``output_dir/model_info.json``.

    Args:
        bundle: folder of the bundle that all releases are made from.
        release: one of ``releases(bundle)``.
        output_dir: folder for the archive.
        weights: checkpoint of a run to put in, instead of the release's own; brought to half precision.
        settings: settings of inference and training to change, such as ``features`` for other weights.
        base_url: where the content of ``output_dir`` will be served from; without it the entry names the file alone.

    Returns:
        The archive.

    Raises:
        FileNotFoundError: no weights, or an overlay is missing; says how to make them.
        ValueError: the version has no changelog entry or is not the code's; the weights are not those that the config
            names, or do not fit its network; a file is too large for the zoo and there is no ``base_url``.
    """
    bundle, output_dir = Path(bundle), Path(output_dir)
    metadata = _metadata(bundle, release)
    version = metadata["version"]
    with tempfile.TemporaryDirectory() as scratch:
        file = _find_weights(bundle, release, weights)
        if weights is not None:
            told = (
                None if facts.read(file).complete else release_facts(bundle, release, file, settings or {}).to_tensor()
            )
            checkpoint.export_weights(file, Path(scratch) / "model.pt", told)
            file = Path(scratch) / "model.pt"
        content = _configs(bundle, release, file, settings or {}, own=weights is None)
    content["configs/metadata.json"] = _json(metadata)
    content["docs/README.md"] = _readme(release, metadata).encode()
    content["docs/project.md"] = (bundle / "docs" / "README.md").read_bytes()
    content = {**{name: file.read_bytes() for name, file in _files(bundle).items()}, **content}
    if large := _large_files(content, registry.archive_name(release.name, version), base_url):
        content["large_files.yml"] = yaml.safe_dump({"large_files": large}, sort_keys=True).encode()
    output_dir.mkdir(parents=True, exist_ok=True)
    archive = output_dir / f"{registry.archive_name(release.name, version)}.zip"
    _write(archive, {f"{release.name}/{name}": data for name, data in content.items()})
    contents.check_archive(archive, release.name, version)
    registry.enter(archive, base_url)
    return archive


def release_facts(
    bundle: str | Path,
    release: Release,
    weights: str | Path,
    settings: Mapping[str, Any] | None = None,
    dataset_dir: str | Path | None = None,
) -> facts.Facts:
    """Facts of weights that were trained as a release says: by its overlays, and with its settings of training.

    Args:
        bundle: folder of the bundle.
        release: one of ``releases(bundle)``.
        weights: checkpoint; its shapes tell the network's.
        settings: further settings of the training.
        dataset_dir: the data that the weights were trained on; the post-processing is then chosen on the images that
            were held out.
    """
    shape = checkpoint.architecture(checkpoint.read_weights(weights))
    told = {**shape, **release.training, **(settings or {})}
    if dataset_dir is None:
        told |= {"facts#training#images": None, "facts#pixel_size": None}
    else:
        told |= {"dataset_dir": str(dataset_dir), "choose_cells": True, "validate#handlers": ["@validate#cells_choice"]}
    parser = ConfigParser(_merged(Path(bundle), ["train.yaml", *release.train], told))
    found: facts.Facts = parser.get_parsed_content("facts")
    if dataset_dir is not None:
        checkpoint.load_weights(parser.get_parsed_content("network"), weights)
        evaluator = parser.get_parsed_content("validate#evaluator")
        evaluator.run(1)
        found = parser.get_parsed_content("validate#cells_choice").applied(found)
    # what is installed here and computes here says nothing of a training of then
    here = {"versions", "device", *parser.get_parsed_content("machine").record()}
    record = {name: value for name, value in found.training.items() if name not in here}
    return dataclasses.replace(found, training=record)


def _metadata(bundle: Path, release: Release) -> dict[str, Any]:
    base = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    version = base["version"]
    if not base.get("changelog", {}).get(version):
        raise ValueError(f"version={version}: metadata.json has no changelog entry for it; write one")
    if version != unet_paper.__version__:
        raise ValueError(f"version={version}: the code is version {unet_paper.__version__}; make them the same")
    if "_v" in release.name:
        raise ValueError(f"name={release.name!r}: MONAI cuts names at '_v'; choose another")
    return {**base, **release.metadata}


def _find_weights(bundle: Path, release: Release, given: str | Path | None) -> Path:
    file = bundle / release.weights if given is None else Path(given)
    if not file.is_file():
        overlays = ",".join(f"'{bundle / 'configs' / name}'" for name in ("train.yaml", *release.train))
        raise FileNotFoundError(
            f"{release.name}: no weights, {file}; train them with\n"
            f'  python -m monai.bundle run training --config_file "[{overlays}]" --dataset_dir FOLDER '
            f"--output_dir RUN\nand export them with\n  python scripts/export_weights.py RUN/model.pt {file}"
        )
    return file


def _configs(
    bundle: Path, release: Release, weights: Path, settings: Mapping[str, Any], *, own: bool
) -> dict[str, bytes]:
    """The flattened configs, and the weights that they name."""
    checksum = checkpoint.sha256(weights)
    inference = _merged(bundle, ["inference.yaml", *release.inference], settings)
    expected = inference["ckpt_sha256"]
    expected = expected["sha256"] if isinstance(expected, dict) else expected
    if own and checksum != expected:
        raise ValueError(f"ckpt_sha256={expected}: {weights} has {checksum}; fetch it again, or name it in the config")
    released = f"$@bundle_root + '/{_WEIGHTS}'"
    inference["ckpt_path"] = {**inference["ckpt_path"], "released": released, "served": "@served"}
    inference["ckpt_sha256"] = {
        "_target_": "unet_paper.running.checkpoint.released_sha256",
        "path": "@ckpt_path",
        "released": released,
        "sha256": checksum,
        # MONAI Label puts other weights into that file
        "_disabled_": "@served",
    }
    inference["served"] = served_training.SERVED
    known = facts.merged(facts.read(weights), settings)
    network = ConfigParser({**known, "network_def": inference["network_def"]})
    checkpoint.load_weights(network.get_parsed_content("network_def"), weights)

    trained = {key: known[key] for key in _OF_TRAINING if key in known} | {**release.training, **settings}
    train = _merged(bundle, ["train.yaml", *release.train], trained)
    evaluate = _merged(bundle, ["train.yaml", *release.train, "evaluate.yaml"], trained)
    evaluate |= {key: inference[key] for key in ("ckpt_path", "ckpt_sha256", "served")}
    train = served_training.also_served(train, _merged(bundle, ["monai_label.yaml"], {}))
    # monai.bundle.load takes a workflow's type for its file's name, and calls this type both train and training
    configs = {"inference": inference, "train": train, "training": train, "evaluate": evaluate}
    content = {f"configs/{name}.json": _json(carried_code.carry(config)) for name, config in configs.items()}
    return {**content, _WEIGHTS: weights.read_bytes()}


def _merged(bundle: Path, files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    paths = [bundle / "configs" / name for name in files]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such config; releases.yaml names it")
    parser = ConfigParser()
    parser.read_config([str(path) for path in paths])
    parser.update(dict(settings))
    config = parser.get()
    config.pop("_meta_", None)
    return dict(config)


def _files(bundle: Path) -> dict[str, Path]:
    """Files that go into every archive as they are, by their name in it."""
    package = Path(unet_paper.__file__).parent
    files = {"LICENSE": bundle / "LICENSE", "configs/logging.conf": bundle / "configs" / "logging.conf"}
    files |= {f"docs/{path.relative_to(bundle / 'docs').as_posix()}": path for path in (bundle / "docs").rglob("*.*")}
    for path in (*package.rglob("*.py"), package / "py.typed"):
        files[f"{package.name}/{path.relative_to(package).as_posix()}"] = path
    return {name: path for name, path in files.items() if contents.allowed(name) and path.is_file()}


def _large_files(content: Mapping[str, bytes], prefix: str, base_url: str | None) -> list[dict[str, str]]:
    names = sorted(name for name, data in content.items() if len(data) > LARGE)
    if names and base_url is None:
        raise ValueError(f"base_url=None: {names[0]} exceeds {LARGE} bytes; say where {prefix}.zip will be served from")
    return [
        {
            "path": name,
            "url": f"{str(base_url).rstrip('/')}/{prefix}_{Path(name).name}",
            "hash_val": registry.digest(content[name], "sha256"),
            "hash_type": "sha256",
        }
        for name in names
    ]


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write(archive: Path, content: Mapping[str, bytes]) -> None:
    part = archive.with_name(archive.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(content):
            member = zipfile.ZipInfo(name, _DATE)
            member.create_system = 3  # Unix, whatever wrote it
            member.external_attr = _MODE << 16
            target.writestr(member, content[name])
    os.replace(part, archive)


def _readme(release: Release, metadata: Mapping[str, Any]) -> str:
    scores = "\n".join(f"| {name} | {value} |" for name, value in metadata.get("eval_metrics", {}).items())
    results = (
        f"\n## Results\n\nOn held-out images of the training set.\n\n| | |\n|---|---|\n{scores}\n" if scores else ""
    )
    return f"""# {metadata["name"]}

{metadata["description"]} Version {metadata["version"]}.

```
python -m monai.bundle run --config_file {release.name}/configs/inference.json --dataset_dir IMAGES --output_dir OUT
python -m monai.bundle run --config_file {release.name}/configs/train.json --dataset_dir FOLDER --output_dir RUN
python -m monai.bundle run --config_file {release.name}/configs/evaluate.json --dataset_dir FOLDER --output_dir RUN
```

From any folder; nothing but the packages named in `configs/metadata.json` must be installed. Images: one channel, TIFF
(stacks too), PNG, JPEG or NIfTI. Each gets a label image with one id per cell. A config runs code: read it before you
run one from elsewhere.

## Data and weights

{metadata["data_source"]}. No image of it is in this archive; its terms are in `data_license.txt`. How the weights were
made stands in `project.md`, the page of all releases.
{results}
## Limits

{metadata["intended_use"]}. Two dimensions; trained on images of one kind, no claim beyond it.
"""
