"""Archives of the bundle's releases: NAME_vX.Y.Z.zip, with single-file configs, weights and the code they need.

The same files give the same bytes on every machine: members are sorted, dated 1980 and stored without compression.
"""

import dataclasses
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

import unet_paper
from unet_paper.network import UNet
from unet_paper.release import (
    archived_configs,
    archived_docs,
    contents,
    export,
    model_card,
    registry,
    scripted_network,
    terms,
)
from unet_paper.running import checkpoint, facts

logger = logging.getLogger(__name__)

# The model zoo keeps larger files out of its repository, and a list of where they are in it.
LARGE = 25 * 2**20
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
_WEIGHTS = archived_configs.WEIGHTS
_SCRIPTED = "models/model.ts"
_TEMPLATE = "archive_readme.md"
_EXTRAS = "optional_packages.yaml"


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
        card: what people must know of the weights, for :mod:`unet_paper.release.model_card`.
        narrow: file of weights of a narrower network that they were begun from; not in the archive.
    """

    name: str
    weights: str
    train: Sequence[str]
    inference: Sequence[str]
    training: Mapping[str, Any]
    metadata: Mapping[str, Any]
    card: Mapping[str, Any]
    narrow: str | None = None


def releases(bundle: str | Path) -> dict[str, Release]:
    """Releases of a bundle's folder, by name, from its ``releases.yaml``."""
    table = yaml.safe_load((Path(bundle) / "releases.yaml").read_text(encoding="utf-8"))
    return {name: Release(name=name, **entry) for name, entry in table.items()}


def release_of(bundle: str | Path, weights: str | Path) -> Release:
    """The release that weights of a run could take the place in: that whose own were trained on the same data.

    Args:
        bundle: folder of the bundle.
        weights: checkpoint of a run.

    Raises:
        FileNotFoundError: no weights.
        ValueError: they do not tell of their data, or no release or more than one was trained on it.
    """
    data = facts.read(weights, setting="weights").trained_with("data")
    table = releases(bundle)
    own = {name: Path(bundle) / release.weights for name, release in table.items()}
    trained_on = {name: facts.read(file).trained_with("data") for name, file in own.items() if file.is_file()}
    same = [name for name, name_data in trained_on.items() if data is not None and name_data == data]
    if len(same) != 1:
        known = ", ".join(f"{name} {of}" for name, of in trained_on.items())
        raise ValueError(
            f"weights={weights}: trained on {data or 'data that they do not tell of'}, which no one release is alone "
            f"({known}); say whose place they take, with --release {next(iter(table))} or another"
        )
    return table[same[0]]


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
        base_url: where the content of ``output_dir`` will be served from; without it the entry names the file alone,
            and files too large for the zoo are in the archive, said so, and in no list.

    Returns:
        The archive.

    Raises:
        FileNotFoundError: no weights, or an overlay is missing; says how to make them.
        ValueError: the version has no changelog entry or is not the code's; the weights are not those that the config
            names, or do not fit its network.
    """
    bundle, output_dir = Path(bundle), Path(output_dir)
    metadata = _metadata(bundle, release)
    version = metadata["version"]
    with tempfile.TemporaryDirectory() as scratch:
        file = _find_weights(bundle, release, weights)
        if weights is None:
            _check_sha256(bundle, release, file)
        else:
            told = (
                None if facts.read(file).complete else release_facts(bundle, release, file, settings or {}).to_tensor()
            )
            checkpoint.export_weights(file, Path(scratch) / "model.pt", told)
            file = Path(scratch) / "model.pt"
        configs = archived_configs.archived(
            bundle,
            file,
            train=release.train,
            inference=release.inference,
            training=release.training,
            settings=settings or {},
        )
        known = facts.read(file)
        if weights is not None:
            release, metadata = _of_other_weights(release, metadata, known)
        content = {
            **_files(bundle),
            **_models(file, metadata, known),
            **_docs(bundle, release, metadata, known),
        }
    content |= {f"configs/{name}.json": _json(config) for name, config in configs.items()}
    content["configs/metadata.json"] = _json(metadata)
    _check_docs(content)
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
        told |= {"facts#training#images": None, "facts#pixel_size": None, "facts#grey_ranges": None}
    else:
        told |= {"dataset_dir": str(dataset_dir), "choose_cells": True, "validate#handlers": ["@validate#cells_choice"]}
    parser = ConfigParser(archived_configs.merged(Path(bundle), ["train.yaml", *release.train], told))
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
    optional = {name: version for extra in _extras(bundle).values() for name, version in extra.items()}
    listed = {**base, **release.metadata}
    # beside the required ones
    place = list(listed).index("required_packages_version") + 1
    entries = list(listed.items())
    return dict([*entries[:place], ("optional_packages_version", optional), *entries[place:]])


def _extras(bundle: Path) -> dict[str, dict[str, str]]:
    """Packages that are needed for one thing only, by what they are for."""
    return dict(yaml.safe_load((bundle / _EXTRAS).read_text(encoding="utf-8")))


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


def _check_sha256(bundle: Path, release: Release, weights: Path) -> None:
    """Refuse weights that are not those that the release's config names."""
    inference = archived_configs.merged(bundle, ["inference.yaml", *release.inference], {})
    expected = inference["ckpt_sha256"]["sha256"]
    if (checksum := checkpoint.sha256(weights)) != expected:
        raise ValueError(f"ckpt_sha256={expected}: {weights} has {checksum}; fetch it again, or name it in the config")


def _models(weights: Path, metadata: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, bytes]:
    """The weights, and their network in TorchScript as ``monai.bundle.load(load_ts_module=True)`` takes it."""
    state = checkpoint.read_weights(weights)
    network = checkpoint.architecture(state)
    network["dropout"] = told["dropout"]
    carried = {**told, **export.network_facts(UNet(**network)), "weights_sha256": checkpoint.sha256(weights)}
    extra = {export.FACTS: _json(carried).decode(), export.MONAI_METADATA: _json(metadata).decode()}
    return {_WEIGHTS: weights.read_bytes(), _SCRIPTED: scripted_network.torchscript(network, state, extra)}


def _of_other_weights(
    release: Release, metadata: Mapping[str, Any], told: Mapping[str, Any]
) -> tuple[Release, dict[str, Any]]:
    """A release whose card and metadata claim nothing of its own weights where others take their place."""
    kept = {name: value for name, value in metadata.items() if name not in ("eval_metrics", "weights_license")}
    kept["weights_license"] = "Under the terms of the images that they were trained on"
    if begun_under := terms.of_facts(told):
        kept["weights_license"] += f"; they were begun from other weights, whose terms hold besides: {begun_under}"
    card = {**release.card, **model_card.of_facts(told)}
    return dataclasses.replace(release, card=card), kept


def _docs(bundle: Path, release: Release, metadata: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, bytes]:
    """README and pages, and the pictures that these show."""
    docs = bundle / "docs"
    files = archived_configs.sources(release.train, release.inference)
    extras = _extras(bundle)
    template = (bundle / _TEMPLATE).read_text(encoding="utf-8")
    pages = {
        "README.md": model_card.readme(
            template, release.name, card=release.card, metadata=metadata, facts=told, extras=extras
        )
    }
    for name in archived_docs.PAGES:
        pages[name] = archived_docs.archived((docs / name).read_text(encoding="utf-8"), files, extras)
    content = {f"docs/{name}": text.encode() for name, text in pages.items()}
    for picture in {name for text in pages.values() for name in archived_docs.pictures(text)}:
        content[f"docs/{picture}"] = (docs / picture).read_bytes()
    content["docs/data_license.txt"] = (docs / "data_license.txt").read_bytes()
    return content


def _check_docs(content: Mapping[str, bytes]) -> None:
    """Refuse pages that name what is not in the archive."""
    for name in sorted(content):
        if name.endswith(".md") and (gone := archived_docs.missing(content[name].decode(), content)):
            raise ValueError(
                f"{name}: names {', '.join(gone)}, which this archive does not hold; mark it as the checkout's"
            )


def _files(bundle: Path) -> dict[str, bytes]:
    """Files that go into every archive as they are, by their name in it."""
    package = Path(unet_paper.__file__).parent
    files = {"LICENSE": bundle / "LICENSE", "configs/logging.conf": bundle / "configs" / "logging.conf"}
    for path in (*package.rglob("*.py"), package / "py.typed"):
        files[f"{package.name}/{path.relative_to(package).as_posix()}"] = path
    return {name: path.read_bytes() for name, path in files.items() if contents.allowed(name) and path.is_file()}


def _large_files(content: Mapping[str, bytes], prefix: str, base_url: str | None) -> list[dict[str, str]]:
    names = sorted(name for name, data in content.items() if len(data) > LARGE)
    if base_url is None:
        for name in names:
            logger.warning(
                "%s: %d MiB in the archive; the model zoo wants files over %d MiB listed in large_files.yml with their "
                "address (--base_url)",
                f"{prefix}: {name}",
                len(content[name]) >> 20,
                LARGE >> 20,
            )
        return []
    return [
        {
            "path": name,
            "url": f"{base_url.rstrip('/')}/{prefix}_{Path(name).name}",
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
