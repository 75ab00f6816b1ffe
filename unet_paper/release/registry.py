"""Registries of bundle archives: entries with checksums, and installation that checks before it writes.

A registry is a folder or URL with ``model_info.json``: ``{"NAME_vX.Y.Z": {"checksum": SHA-1, "source": URL}}``, as
MONAI has it. ``monai.bundle.download`` does not look at the checksum; ``install`` does, and at all that it unpacks.

    python -m unet_paper.release.registry install NAME --source FOLDER_OR_URL --bundle_dir FOLDER
    python -m unet_paper.release.registry verify NAME_vX.Y.Z.zip
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from unet_paper.release import download
from unet_paper.release.contents import ARCHIVE_NAME, MAX_BYTES, check_archive, read_json

INFO = "model_info.json"
_DIGESTS = {"checksum": "[0-9a-f]{40}", "sha256": "[0-9a-f]{64}"}
# A registry of thousands of bundles.
MAX_INFO_BYTES = 2**22


def archive_name(name: str, version: str) -> str:
    """Key of an entry, and stem of the archive's file.

    >>> archive_name("unet_em_segmentation", "0.1.0")
    'unet_em_segmentation_v0.1.0'
    """
    return f"{name}_v{version}"


def digest(data: bytes, algorithm: str) -> str:
    """Hexadecimal digest."""
    return hashlib.new(algorithm, data).hexdigest()


def enter(archive: str | Path, base_url: str | None = None) -> dict[str, str]:
    """Write the entry of an archive into the ``model_info.json`` beside it.

    Args:
        archive: ``NAME_vX.Y.Z.zip``.
        base_url: URL of the folder that the archive will be served from; None leaves a source beside the registry.

    Returns:
        The entry: ``checksum`` (SHA-1, as MONAI's), ``sha256`` and ``source``.
    """
    archive = Path(archive)
    data = archive.read_bytes()
    source = archive.name if base_url is None else f"{base_url.rstrip('/')}/{archive.name}"
    entry = {"checksum": digest(data, "sha1"), "sha256": digest(data, "sha256"), "source": source}
    info = archive.with_name(INFO)
    entries = json.loads(info.read_text(encoding="utf-8")) if info.is_file() else {}
    _write(info, {**entries, archive.stem: entry})
    return entry


def github_release(repository: str, version: str) -> str:
    """URL of the folder that the files of a GitHub release are served from, its tag being ``vX.Y.Z``.

    Args:
        repository: ``OWNER/REPOSITORY``.
        version: of the release.

    Raises:
        ValueError: no repository.

    >>> github_release("OWNER/REPOSITORY", "0.2.0")
    'https://github.com/OWNER/REPOSITORY/releases/download/v0.2.0'
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
        raise ValueError(f"github={repository!r}: must be OWNER/REPOSITORY")
    return f"https://github.com/{repository}/releases/download/v{version}"


def write_for_monai(archives: Sequence[str | Path], target: str | Path) -> None:
    """Write the registry that MONAI reads of a repository: that of one tag, with the archives of its release alone.

    ``monai.bundle`` looks for ``models/model_info.json`` in the repository at the tag, sorts versions as text, so that
    0.9.0 comes after 0.10.0, and downloads all of them from the release of that tag.

    Args:
        archives: ``NAME_vX.Y.Z.zip``, each entered into the ``model_info.json`` beside it with an address.
        target: file to write.

    Raises:
        ValueError: an archive without an address; two versions of a bundle.
    """
    found: dict[str, Any] = {}
    for archive in map(Path, archives):
        found[archive.stem] = json.loads(archive.with_name(INFO).read_text(encoding="utf-8"))[archive.stem]
        if "://" not in found[archive.stem]["source"]:
            raise ValueError(f"{archive}: was entered without base_url; MONAI needs an address to download from")
    names = [key.split("_v")[0] for key in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: several versions; a tag has one, see releases.md")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    _write(Path(target), found)


def _write(info: Path, entries: Mapping[str, Any]) -> None:
    part = info.with_name(info.name + ".part")
    part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, info)


def install(name: str, source: str | Path, bundle_dir: str | Path, version: str | None = None) -> Path:
    """Fetch a bundle from a registry, check it, and only then unpack it.

    Args:
        name: name of the bundle.
        source: folder or URL that holds ``model_info.json``.
        bundle_dir: folder to put ``NAME/`` into.
        version: version to take; None takes the highest.

    Returns:
        Folder of the bundle.

    Raises:
        FileExistsError: there is a folder of that name already.
        LookupError: the registry has no such bundle or version.
        FileNotFoundError, TimeoutError: an address that cannot be reached, or not in time.
        ValueError: a malformed registry, an address that it may not name, a wrong checksum, or an archive that
            ``check_archive`` refuses. Nothing has been written.
    """
    if not ARCHIVE_NAME.fullmatch(archive_name(name, "0.0.0")):
        raise ValueError(f"name={name!a}: no name of a bundle; letters, digits and _")
    target = Path(bundle_dir) / name
    if os.path.lexists(target):
        raise FileExistsError(f"{target}: exists already; remove it, or choose another bundle_dir")
    base = download.base_of(source)
    with tempfile.TemporaryFile() as info:
        url = download.address(base, INFO)
        download.fetch(url, info, MAX_INFO_BYTES)
        info.seek(0)
        version, entry = _choose(read_json(info.read(), url), name, version, str(source))
    with tempfile.TemporaryFile() as archive:
        download.fetch(download.address(base, entry["source"]), archive, MAX_BYTES)
        _check_digests(archive, entry)
        check_archive(archive, name, version)
        _unpack(archive, target)
    return target


def _choose(entries: Any, name: str, version: str | None, source: str) -> tuple[str, dict[str, str]]:
    if not isinstance(entries, dict):
        raise ValueError(f"{source}: its {INFO} is no table of archives; do not use it")
    found = {
        match["version"]: entry
        for key, entry in entries.items()
        if (match := ARCHIVE_NAME.fullmatch(key)) and match["name"] == name
    }
    if version is None and found:
        # as numbers: 0.10.0 is above 0.9.0
        version = max(found, key=lambda text: tuple(map(int, text.split("."))))
    if version is None or version not in found:
        has = ", ".join(sorted(key for key in entries if ARCHIVE_NAME.fullmatch(key))[:20]) or "nothing"
        raise LookupError(f"name={name!r}, version={version}: not in {source}, which has {has}")
    entry = found[version]
    _check_entry(entry, f"{source}: the entry of {archive_name(name, version)}")
    return version, entry


def _check_entry(entry: Any, what: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("source"), str):
        raise ValueError(f"{what} lacks a source")
    for key, pattern in _DIGESTS.items():
        # MONAI's own registries have no sha256
        if (value := entry.get(key, "" if key == "checksum" else None)) is not None and not (
            isinstance(value, str) and re.fullmatch(pattern, value)
        ):
            raise ValueError(f"{what} lacks a {key}: {str(value)[:80]!a}")


def _check_digests(archive: Any, entry: dict[str, str]) -> None:
    for key, algorithm in (("checksum", "sha1"), ("sha256", "sha256")):
        archive.seek(0)
        found = hashlib.file_digest(archive, algorithm).hexdigest()
        if found != entry.get(key, found):
            raise ValueError(
                f"{entry['source']}: {algorithm} is {found}, the registry says {entry[key]}; do not use this file"
            )


def _unpack(archive: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as folder, zipfile.ZipFile(archive) as content:
        content.extractall(folder)
        os.rename(folder / target.name, target)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("install", help="fetch, check and unpack a bundle")
    add.add_argument("name", help="name of the bundle")
    add.add_argument("--source", required=True, help="folder or URL that holds model_info.json")
    add.add_argument("--bundle_dir", required=True, help="folder to put NAME/ into")
    add.add_argument("--version", help="X.Y.Z; the highest by default")
    verify = commands.add_parser("verify", help="check an archive without unpacking it")
    verify.add_argument("archive", help="NAME_vX.Y.Z.zip")
    arguments = parser.parse_args()
    try:
        if arguments.command == "verify":
            check_archive(arguments.archive)
            print(f"{arguments.archive}: in order")
        else:
            print(install(arguments.name, arguments.source, arguments.bundle_dir, arguments.version))
    except (OSError, LookupError, ValueError) as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
