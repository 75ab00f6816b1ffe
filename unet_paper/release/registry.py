"""Registries of bundle archives: entries with checksums, and installation that checks before it writes.

A registry is a folder or URL with ``model_info.json``: ``{"NAME_vX.Y.Z": {"checksum": SHA-1, "source": URL}}``, as
MONAI has it. ``monai.bundle.download`` does not look at the checksum; ``install`` does. Standard library only.

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
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

INFO = "model_info.json"
# Of an archive as it comes, and of its unpacked files together.
MAX_BYTES = 2**30
MAX_MEMBERS = 2000
_NAME = re.compile(r"(?P<name>[A-Za-z0-9_]+)_v(?P<version>\d+\.\d+\.\d+)")
# What may lie in each folder of a bundle. Code is in one place.
_ALLOWED = {
    ".": ("LICENSE", "large_files.yml"),
    "configs": ("*.json", "*.yaml", "*.yml", "logging.conf"),
    "models": ("*.pt", "*.ts", "*.onnx"),
    "docs": ("*.md", "*.txt", "*.png", "*.svg", "*.jpg"),
    "unet_paper": ("*.py", "py.typed"),
}
_REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt")


def archive_name(name: str, version: str) -> str:
    """Key of an entry, and stem of the archive's file.

    >>> archive_name("unet_em_segmentation", "0.1.0")
    'unet_em_segmentation_v0.1.0'
    """
    return f"{name}_v{version}"


def digest(data: bytes, algorithm: str) -> str:
    """Hexadecimal digest."""
    return hashlib.new(algorithm, data).hexdigest()


def allowed(member: str) -> bool:
    """Whether a bundle may hold a file of this name, relative to its folder.

    >>> allowed("unet_paper/network.py"), allowed("configs/sitecustomize.py"), allowed("models/model.pt")
    (True, False, True)
    """
    path = PurePosixPath(member)
    folder = path.parts[0] if len(path.parts) > 1 else "."
    return any(path.match(pattern) for pattern in _ALLOWED.get(folder, ()))


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
    entries[archive.stem] = entry
    part = info.with_name(info.name + ".part")
    part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, info)
    return entry


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
        ValueError: wrong checksum, or an archive that ``check_archive`` refuses. Nothing has been written.
    """
    target = Path(bundle_dir) / name
    if os.path.lexists(target):
        raise FileExistsError(f"{target}: exists already; remove it, or choose another bundle_dir")
    base = _base(source)
    with contextlib.closing(_open(urllib.parse.urljoin(base, INFO))) as file:
        version, entry = _choose(json.loads(file.read(MAX_BYTES)), name, version, str(source))
    with tempfile.TemporaryFile() as archive:
        with contextlib.closing(_open(_address(base, entry["source"]))) as file:
            _copy(file, archive, f"{entry['source']}: is larger than {MAX_BYTES} bytes")
        _check_digests(archive, entry)
        check_archive(archive, name, version)
        _unpack(archive, target)
    return target


def check_archive(archive: str | Path | IO[bytes], name: str | None = None, version: str | None = None) -> None:
    """Raise unless an archive is a bundle that may be unpacked; unpacks nothing.

    Args:
        archive: file, or an open one.
        name: name that it must have; with None, that of its file.
        version: version that its metadata must have; with None, that of its file.

    Raises:
        ValueError: no or damaged zip file; members outside ``NAME/``, links, special files, code out of its place,
            unknown kinds of files, too many or too large; a missing file; another version in ``metadata.json``.
    """
    if name is None or version is None:
        match = _NAME.fullmatch(Path(str(archive)).stem)
        if match is None:
            raise ValueError(f"{archive}: is not named NAME_vX.Y.Z.zip")
        name, version = name or match["name"], version or match["version"]
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            _check_members(members, name)
            if broken := content.testzip():
                raise ValueError(f"{broken}: is damaged; fetch the archive again")
            metadata = json.loads(content.read(f"{name}/configs/metadata.json"))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(f"{name}: is no archive that can be read ({error}); fetch it again") from error
    if not isinstance(metadata, dict) or metadata.get("version") != version:
        raise ValueError(f"{name}: its metadata.json is not of version {version}; do not use this archive")


def _check_members(members: list[zipfile.ZipInfo], name: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{name}: {len(members)} members, expected at most {MAX_MEMBERS}")
    if (size := sum(member.file_size for member in members)) > MAX_BYTES:
        raise ValueError(f"{name}: unpacks to {size} bytes, expected at most {MAX_BYTES}")
    seen: set[str] = set()
    for member in members:
        path = member.filename
        reason = _objection(member, name)
        if path.casefold() in seen:
            reason = "occurs twice"
        if reason:
            raise ValueError(f"{path!r}: {reason}; do not use this archive")
        seen.add(path.casefold())
    for required in _REQUIRED:
        if f"{name}/{required}".casefold() not in seen:
            raise ValueError(f"{name}: holds no {required}; do not use this archive")


def _objection(member: zipfile.ZipInfo, name: str) -> str | None:
    path, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    parts = path.split("/")
    if "\\" in path or "\0" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        return "is not a plain relative path of a file"
    if kind not in (0, stat.S_IFREG):
        return "is a link, folder or special file"
    if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or compressed in an unusual way"
    if parts[0] != name or len(parts) < 2:
        return f"lies outside {name}/"
    if not allowed("/".join(parts[1:])):
        return "does not belong there: code in unet_paper/, and no other kinds of files than a bundle has"
    return None


def _base(source: str | Path) -> str:
    if re.match(r"(https?|file)://", str(source)):
        return str(source).rstrip("/") + "/"
    return Path(source).resolve().as_uri() + "/"


def _open(url: str) -> Any:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"source={url}: must be a folder, or a http, https or file URL")
    try:
        return urllib.request.urlopen(url, timeout=60)
    except urllib.error.URLError as error:
        raise FileNotFoundError(f"{url}: cannot be fetched ({error.reason}); check --source") from error


def _choose(entries: Any, name: str, version: str | None, source: str) -> tuple[str, dict[str, str]]:
    found = {
        match["version"]: entry
        for key, entry in dict(entries).items()
        if (match := _NAME.fullmatch(key)) and match["name"] == name
    }
    if version is None and found:
        # as numbers: 0.10.0 is above 0.9.0
        version = max(found, key=lambda text: tuple(map(int, text.split("."))))
    if version is None or version not in found:
        has = ", ".join(sorted(entries)) or "nothing"
        raise LookupError(f"name={name!r}, version={version}: not in {source}, which has {has}")
    entry = found[version]
    if not (isinstance(entry, dict) and entry.get("checksum") and entry.get("source")):
        raise ValueError(f"{source}: the entry of {archive_name(name, version)} lacks checksum or source")
    return version, entry


def _address(base: str, source: str) -> str:
    """URL of an archive; a registry from elsewhere cannot point into this machine's files."""
    url = urllib.parse.urljoin(base, source)
    if not base.startswith("file:") and url.startswith("file:"):
        raise ValueError(f"source={source}: a registry at {base} names a local file; do not use it")
    return url


def _copy(source: IO[bytes], target: IO[bytes], problem: str) -> None:
    size = 0
    while chunk := source.read(2**20):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ValueError(problem)
        target.write(chunk)


def _check_digests(archive: Any, entry: dict[str, str]) -> None:
    for key, algorithm in (("checksum", "sha1"), ("sha256", "sha256")):
        archive.seek(0)
        found = hashlib.file_digest(archive, algorithm).hexdigest()
        # MONAI's own registries have no sha256
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
