"""Archives that a registry could offer and that must not be unpacked."""

import functools
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attacking import Arena, Outcome, Trial, attack, refusal

NAME, VERSION = "unet_em_segmentation", "0.1.0"
MARK = "UNET_PAPER_ATTACK_MARK"


class _Code:
    """What a pickle runs when it is loaded: it makes the file named by an environment variable."""

    def __reduce__(self) -> Any:
        return exec, (f"import os; open(os.environ['{MARK}'], 'w').close()",)


def weights(content: Any = None) -> bytes:
    """A file of ``torch.save``: a state dict unless other content is given."""
    import torch

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)} if content is None else content, buffer)
    return buffer.getvalue()


def hostile_pickle() -> bytes:
    """A weights file that runs code where it is loaded without ``weights_only``."""
    return weights(_Code())


@functools.cache
def bundle() -> dict[str, bytes]:
    """The least that a bundle holds, by name in the archive."""
    files = {
        "LICENSE": b"Apache-2.0\n",
        "configs/metadata.json": json.dumps({"version": VERSION}).encode(),
        "configs/inference.json": b"{}\n",
        "models/model.pt": weights(),
    }
    return {f"{NAME}/{name}": data for name, data in files.items()}


def zipped(
    content: Mapping[str, bytes],
    change: Callable[[zipfile.ZipInfo], None] | None = None,
    *,
    only: str = "",
    deflate: bool = False,
) -> bytes:
    """An archive; ``change`` is applied to the members whose names end with ``only``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in content.items():
            member = zipfile.ZipInfo(name)
            # ZipInfo has made it tame
            member.filename = name
            member.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
            if change is not None and name.endswith(only):
                change(member)
            file.writestr(member, data)
    return buffer.getvalue()


def publish(folder: Path, data: bytes, *, name: str = NAME, version: str = VERSION) -> Path:
    """A registry in ``folder`` that vouches for an archive of these bytes."""
    import hashlib

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_v{version}.zip"
    path.write_bytes(data)
    entry = {algorithm: hashlib.new(algorithm, data).hexdigest() for algorithm in ("sha1", "sha256")}
    entry = {"checksum": entry["sha1"], "sha256": entry["sha256"], "source": path.name}
    (folder / "model_info.json").write_text(json.dumps({path.stem: entry}))
    return path


def _members() -> Iterator[tuple[str, str]]:
    """What is wrong with a name, and the name of an additional member."""
    yield "parent folder", f"{NAME}/../escaped.md"
    yield "parent folder, twice", f"{NAME}/docs/../../../escaped.md"
    yield "absolute", "/tmp/escaped.md"
    yield "backslashes", f"{NAME}\\docs\\a.md"
    yield "backslash and parent folder", f"{NAME}\\..\\..\\escaped.md"
    yield "drive letter", "C:/escaped.md"
    yield "drive letter in the bundle", f"{NAME}/docs/C:a.md"
    yield "stream of NTFS", f"{NAME}/docs/a.md:hidden.md"
    yield "UNC path", "//server/share/a.md"
    yield "empty part", f"{NAME}//docs/a.md"
    yield "dot part", f"{NAME}/./docs/a.md"
    yield "folder", f"{NAME}/docs/"
    yield "outside the bundle", "other/docs/a.md"
    yield "beside the bundle", "sitecustomize.py"
    yield "code at the top", f"{NAME}/sitecustomize.py"
    yield "code among configs", f"{NAME}/configs/hook.py"
    yield "code among weights", f"{NAME}/models/model.py"
    yield "shadow of a package", f"{NAME}/torch/__init__.py"
    yield "compiled code", f"{NAME}/unet_paper/fast.so"
    yield "code that starts with Python", f"{NAME}/unet_paper/start.pth"
    yield "program among docs", f"{NAME}/docs/figures.exe"
    yield "other case", f"{NAME}/license"
    yield "other case of the weights", f"{NAME}/models/MODEL.pt"
    yield "other case of a folder", f"{NAME}/Models/other.pt"
    yield "other case of the bundle", f"{NAME.upper()}/docs/a.md"
    yield "null", f"{NAME}/docs/a.md\0.txt"
    for what, character in (
        ("line break", "\n"),
        ("escape", "\x1b"),
        ("delete", "\x7f"),
        ("control character of Latin-1", "\x85"),
        ("right-to-left override", "\u202e"),
        ("right-to-left mark", "\u200f"),
        ("isolate", "\u2066"),
        ("zero-width space", "\u200b"),
        ("byte-order mark", "\ufeff"),
        ("line separator", "\u2028"),
        ("accent as a character of its own", "e\u0301"),
        ("full-width letter", "\uff41"),
        ("Kelvin sign", "\u212a"),
        ("slash look-alike", "\u2215"),
    ):
        yield what, f"{NAME}/docs/a{character}b.md"
    for device in ("CON", "nul", "AUX", "COM1", "lpt9", "CONIN$"):
        yield f"device of Windows, {device}", f"{NAME}/docs/{device}.md"
    yield "folder named like a device", f"{NAME}/unet_paper/aux/a.py"
    yield "trailing dot", f"{NAME}/docs/folder./a.md"
    yield "trailing space", f"{NAME}/docs/folder /a.md"
    yield "leading space", f"{NAME}/docs/ a.md"
    yield "wildcard", f"{NAME}/docs/a*.md"
    yield "very long", f"{NAME}/docs/{'a' * 300}.md"
    yield "very deep", f"{NAME}/docs/{'a/' * 200}b.md"


def _pairs() -> Iterator[tuple[str, list[str]]]:
    """Members that are one file on some machine."""
    yield "the same name twice", ["docs/a.md", "docs/a.md"]
    yield "names that differ by case", ["docs/a.md", "docs/A.md"]
    yield "folders that differ by case", ["docs/a/x.md", "docs/A/y.md"]
    yield "names that differ by normalisation", ["docs/\u00e9.md", "docs/e\u0301.md"]
    yield "names that differ by sharp s", ["docs/stra\u00dfe.md", "docs/strasse.md"]
    yield "a file and a folder", ["docs/a.md", "docs/a.md/b.md"]


def archives() -> Iterator[tuple[str, bytes]]:
    """What is wrong with an archive, and its bytes."""
    good = bundle()
    for what, name in _members():
        yield f"member: {what}", zipped({**good, name: b"x\n"})
    for what, names in _pairs():
        content = list(good.items()) + [(f"{NAME}/{name}", b"x\n") for name in names]
        yield f"members: {what}", _zipped_pairs(content)
    for kind in ("S_IFLNK", "S_IFIFO", "S_IFCHR", "S_IFBLK", "S_IFSOCK", "S_IFDIR"):

        def mark(member: zipfile.ZipInfo, mode: int = getattr(stat, kind)) -> None:
            member.create_system, member.external_attr = 3, (mode | 0o777) << 16

        yield f"special file {kind}", zipped({**good, f"{NAME}/LICENSE": b"/etc/passwd"}, mark, only="LICENSE")
    for name in ("models/model.pt", "models/other.pt", "models/model.ts"):
        yield f"pickle that runs code, {name}", zipped({**good, f"{NAME}/{name}": hostile_pickle()})
    import pickle

    yield "bare pickle that runs code", zipped({**good, f"{NAME}/models/model.pt": pickle.dumps(_Code())})
    yield "weights that are text", zipped({**good, f"{NAME}/models/model.pt": b"no weights"})
    yield "weights that are no state dict", zipped({**good, f"{NAME}/models/model.pt": weights([1, 2])})
    yield "bomb of zeros", zipped({**good, f"{NAME}/docs/a.txt": bytes(32 * 2**20)}, deflate=True)
    yield "bomb of zeros as weights", zipped({**good, f"{NAME}/models/other.pt": bytes(32 * 2**20)}, deflate=True)
    yield "many members", zipped({**good, **{f"{NAME}/docs/{number}.md": b"" for number in range(3000)}})
    for required in good:
        yield f"without {required}", zipped({name: data for name, data in good.items() if name != required})
    for what, text in (
        ("another version", b'{"version": "9.9.9"}'),
        ("no JSON", b"{"),
        ("a list", b"[]"),
        ("deep JSON", b"[" * 100_000),
        ("no UTF-8", b'{"version": "\xff"}'),
        ("NaN", b'{"version": NaN}'),
    ):
        yield f"metadata: {what}", zipped({**good, f"{NAME}/configs/metadata.json": text})
    whole = zipped(good)
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        yield f"cut at {share:.1%}", whole[: int(len(whole) * share)]
    yield "no zip file", b"<html>not found</html>" * 100
    yield "another file before it", b"#!/bin/sh\nexit\n" + whole
    damaged = bytearray(whole)
    damaged[whole.index(b"Apache")] ^= 1
    yield "one changed byte", bytes(damaged)
    yield "a central directory that lies about sizes", _lying(whole)


def _zipped_pairs(content: list[tuple[str, bytes]]) -> bytes:
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, data in content:
            file.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _lying(whole: bytes) -> bytes:
    """The archive whose directory says that its first member has one byte."""
    data = bytearray(whole)
    entry = whole.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1).to_bytes(4, "little")
    return bytes(data)


@attack("hostile archives", short=True)
def hostile_archives(arena: Arena) -> Iterator[Trial]:
    """Each is published with the right checksums and installed."""
    registry = arena.module("release.registry", "registry")
    bundles, mark = arena.folder / "bundles", arena.folder / "mark"
    bundles.mkdir()
    os.environ[MARK] = str(mark)
    publish(arena.folder / "good", zipped(bundle()))
    found = registry.install(NAME, arena.folder / "good", arena.folder / "installed")
    yield Trial("a good archive", Outcome.SURVIVED if (found / "LICENSE").is_file() else Outcome.LOST)
    for number, (what, data) in enumerate(archives()):
        source = arena.folder / "sources" / str(number)
        publish(source, data)
        trial = refusal(what, lambda source=source: registry.install(NAME, source, bundles), arena.folder)
        yield Trial(what, Outcome.LOST, "its code ran") if mark.exists() else trial
        mark.unlink(missing_ok=True)
        for left in bundles.iterdir():
            _remove(left)
        _remove(source)


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
