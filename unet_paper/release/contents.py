"""What an archive of a bundle may hold, checked before any of it is unpacked.

Names are plain ASCII, so that no two are one file on any system, none means something to Windows or to a terminal, and
what one reads is what is there. Weights load without running code. Nothing unpacks to far more than it was.
"""

import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from unet_paper.release import download

# Of an archive as it comes, and of its unpacked files together.
MAX_BYTES = 2**30
MAX_MEMBERS = 2000
# Text shrinks to a tenth; what shrinks to less than this was made to burst.
MAX_RATIO = 100
ARCHIVE_NAME = re.compile(r"(?P<name>[A-Za-z0-9_]{1,100})_v(?P<version>[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6})")
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.+-]{0,98}[A-Za-z0-9_+-])?")
_MAX_DEPTH = 8
# Whatever their extension, these are no files on Windows.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
# What may lie in each folder of a bundle. Code is in one place.
_ALLOWED = {
    ".": ("LICENSE", "large_files.yml"),
    "configs": ("*.json", "*.yaml", "*.yml", "logging.conf"),
    "models": ("*.pt", "*.ts", "*.onnx"),
    "docs": ("*.md", "*.txt", "*.png", "*.svg", "*.jpg"),
    "unet_paper": ("*.py", "py.typed"),
}
_REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt")
# PyTorch colours its errors.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|[^\x20-\x7e\s]")
_END = struct.Struct("<4s4H2LH")  # end of central directory: no comment after it
_ENTRY_BYTES = 46


def allowed(member: str) -> bool:
    """Whether a bundle may hold a file of this name, relative to its folder.

    >>> allowed("unet_paper/network.py"), allowed("configs/sitecustomize.py"), allowed("models/model.pt")
    (True, False, True)
    """
    path = PurePosixPath(member)
    folder = path.parts[0] if len(path.parts) > 1 else "."
    return any(path.match(pattern) for pattern in _ALLOWED.get(folder, ()))


def plain(name: str) -> bool:
    """Whether a name is one file's, and the same, on every system.

    >>> plain("model.pt"), plain("../model.pt"), plain("aux.txt"), plain("a."), plain("e\u0301.md")
    (True, False, False, False, False)
    """
    return bool(_PART.fullmatch(name)) and not _DEVICES.fullmatch(name)


def check_archive(archive: str | Path | IO[bytes], name: str | None = None, version: str | None = None) -> None:
    """Raise unless an archive is a bundle that may be unpacked; unpacks nothing, runs nothing.

    Args:
        archive: file, or an open one.
        name: name that it must have; with None, that of its file.
        version: version that its metadata must have; with None, that of its file.

    Raises:
        FileNotFoundError: no regular file.
        ValueError: no or damaged zip file; names that are not plain, or one file on some system; members outside
            ``NAME/``, links, special files, code out of its place, unknown kinds of files, too many, too large or
            compressed too well; weights that are none; a missing file; another version in ``metadata.json``.
    """
    if name is None or version is None:
        match = ARCHIVE_NAME.fullmatch(Path(str(archive)).stem)
        if match is None:
            raise ValueError(f"{archive}: is not named NAME_vX.Y.Z.zip")
        name, version = name or match["name"], version or match["version"]
    if isinstance(archive, str | Path):
        with download.open_file(archive) as file:
            return check_archive(file, name, version)
    try:
        _check_directory(archive, name)
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            _check_members(members, name)
            if broken := content.testzip():
                raise ValueError(f"{broken}: is damaged; fetch the archive again")
            for member in members:
                _check_weights(content, member, state_dict=member.filename == f"{name}/models/model.pt")
            metadata = read_json(content.read(f"{name}/configs/metadata.json"), f"{name}/configs/metadata.json")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, struct.error) as error:
        raise ValueError(f"{name}: is no archive that can be read ({error}); fetch it again") from error
    if not isinstance(metadata, dict) or metadata.get("version") != version:
        raise ValueError(f"{name}: its metadata.json is not of version {version}; do not use this archive")
    return None


def check_images(archive: IO[bytes], name: str, extensions: Sequence[str]) -> None:
    """Raise unless a zip file holds plainly named images, and nothing that bursts or leads out of its folder.

    Args:
        archive: open file.
        name: what to call it in errors.
        extensions: of images.

    Raises:
        ValueError: no or damaged zip file; anything else in it than images; too many, too large or compressed too well.
    """
    try:
        _check_directory(archive, name)
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            _check_sizes(members, name)
            for member in members:
                reason = _unplain(member) or (
                    None if member.filename.lower().endswith(tuple(extensions)) else "is no image"
                )
                if reason:
                    raise ValueError(f"{member.orig_filename[:200]!a}: {reason}")
            _check_unique(members)
            if broken := content.testzip():
                raise ValueError(f"{broken}: is damaged")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, struct.error) as error:
        raise ValueError(f"{name}: is no zip file that can be read ({error})") from error


def read_json(data: bytes, source: str) -> Any:
    """Content of a JSON file from elsewhere.

    Raises:
        ValueError: no JSON, nested beyond reason, or a name that occurs twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice[:100]!a} occurs twice")
        return content

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: is no JSON ({str(error)[:200]}); do not use it") from error


def _check_directory(archive: IO[bytes], name: str) -> None:
    """Refuse what the list of members says of itself, before ``zipfile`` reads that list."""
    size = archive.seek(0, io.SEEK_END)
    archive.seek(max(0, size - _END.size))
    signature, _, _, _, count, length, start, comment = _END.unpack(archive.read())
    if signature != b"PK\x05\x06" or comment:
        raise zipfile.BadZipFile("no end of a zip file, or something after it")
    # its entries may be more than it says, never more than fit into its length
    if count > MAX_MEMBERS or length > MAX_MEMBERS * (_ENTRY_BYTES + 400):
        raise ValueError(f"{name}: {count} members in {length} bytes, expected at most {MAX_MEMBERS}")
    if start + length + _END.size != size:
        raise zipfile.BadZipFile("something before, after or between its members")
    archive.seek(0)
    if archive.read(4) != b"PK\x03\x04":
        raise zipfile.BadZipFile("something before its first member")


def _check_members(members: list[zipfile.ZipInfo], name: str) -> None:
    _check_sizes(members, name)
    for member in members:
        if reason := _unplain(member) or _misplaced(member, name):
            raise ValueError(f"{member.orig_filename[:200]!a}: {reason}; do not use this archive")
    _check_unique(members)
    for required in _REQUIRED:
        if f"{name}/{required}" not in {member.filename for member in members}:
            raise ValueError(f"{name}: holds no {required}; do not use this archive")


def _check_sizes(members: list[zipfile.ZipInfo], name: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{name}: {len(members)} members, expected at most {MAX_MEMBERS}")
    if (size := sum(member.file_size for member in members)) > MAX_BYTES:
        raise ValueError(f"{name}: unpacks to {size} bytes, expected at most {MAX_BYTES}")
    shrunk = sum(member.compress_size for member in members)
    if size > MAX_RATIO * max(shrunk, 1) or any(m.file_size > MAX_RATIO * m.compress_size + 4096 for m in members):
        raise ValueError(f"{name}: unpacks to more than {MAX_RATIO} times its size; do not use this archive")


def _check_unique(members: list[zipfile.ZipInfo]) -> None:
    """Refuse two members that are one file on some system."""
    files: set[str] = set()
    folders: dict[str, str] = {}
    for member in members:
        path = PurePosixPath(member.filename)
        key, problem = path.as_posix().lower(), None
        if key in files or key in folders:
            problem = "occurs twice"
        for folder in (folder.as_posix() for folder in path.parents):
            if folders.setdefault(folder.lower(), folder) != folder or folder.lower() in files:
                problem = problem or f"occurs twice, {folder} in another case or as a file"
        if problem:
            raise ValueError(f"{member.filename!a}: {problem}; do not use this archive")
        files.add(key)


def _unplain(member: zipfile.ZipInfo) -> str | None:
    path, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    parts = path.split("/")
    # zipfile changes a name that holds a null, or one in an extra field
    if path != member.filename or len(parts) > _MAX_DEPTH or not all(map(plain, parts)):
        return "is not a plain relative path of a file: ASCII letters, digits and _ . - +, the same on every system"
    if kind not in (0, stat.S_IFREG):
        return "is a link, folder or special file"
    if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or compressed in an unusual way"
    return None


def _misplaced(member: zipfile.ZipInfo, name: str) -> str | None:
    parts = member.filename.split("/")
    if parts[0] != name or len(parts) < 2:
        return f"lies outside {name}/"
    if not allowed("/".join(parts[1:])):
        return "does not belong there: code in unet_paper/, and no other kinds of files than a bundle has"
    return None


def check_weights(data: bytes, source: str, *, state_dict: bool) -> None:
    """Raise unless a file of ``torch.save`` loads without running code.

    Args:
        data: content of the file.
        source: what to call it in errors.
        state_dict: it must be a flat dictionary of tensors.

    Raises:
        ValueError: it holds other things than tensors and plain values, or none at all; or unpacks to more than it is.
    """
    # the registry's command needs it for archives alone
    import torch

    try:
        _stored_whole(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(_COLOUR.sub("", str(error)).split())[:200] or type(error).__name__
        raise ValueError(
            f"{source}: are no weights that load without running code ({reason}); do not use it"
        ) from error
    if state_dict and not (
        isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise ValueError(f"{source}: holds no state dict of tensors; do not use it")


def _check_weights(content: zipfile.ZipFile, member: zipfile.ZipInfo, *, state_dict: bool) -> None:
    if member.filename.endswith(".pt"):
        check_weights(content.read(member), member.filename, state_dict=state_dict)
    elif member.filename.endswith(".ts"):
        try:
            names = _stored_whole(content.read(member))
        except (zipfile.BadZipFile, ValueError) as error:
            raise ValueError(f"{member.filename}: is no TorchScript ({error}); do not use it") from error
        # what lacks these is a pickle to torch.load, and TorchScript to nobody
        if not any(part.endswith("/constants.pkl") for part in names) or not any("/code/" in part for part in names):
            raise ValueError(f"{member.filename}: is no TorchScript; do not use it")


def _stored_whole(data: bytes) -> list[str]:
    """Names in the zip file that ``torch.save`` writes; it compresses nothing, so that nothing in it can burst."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = file.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its tensors are compressed, which PyTorch never does")
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("its tensors overlap")
        return [member.filename for member in members]
