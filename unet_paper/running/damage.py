"""Damaged checkpoints, and files of another kind in their place: found before a number in them is believed.

PyTorch writes a checkpoint as a zip archive with a CRC-32 of every tensor, and does not look at it when it loads: a
flipped bit or a zeroed block becomes another weight without a word.
"""

import zipfile
from pathlib import Path

_ARCHIVE = b"PK\x03\x04"
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched ('git lfs pull')"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
)
_CHUNK = 2**20


def check_intact(path: str | Path, name: str) -> None:
    """Raise unless a file is a whole checkpoint of PyTorch, every byte of it as it was written.

    Args:
        path: the file.
        name: what errors call it.

    Raises:
        ValueError: for an empty, truncated or damaged file, and for one of another kind, saying which.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{name}: is empty; a copy or download was cut short: fetch the file again")
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(_ARCHIVE) and not zipfile.is_zipfile(path):
        kind = next((kind for magic, kind in _KINDS if start.startswith(magic)), None)
        if path.suffix.lower() in (".onnx", ".safetensors", ".npz", ".keras", ".h5"):
            kind = f"a file of another kind ({path.suffix})"
        if kind is not None:
            raise ValueError(f"{name}: is {kind}, not a checkpoint of PyTorch")
        return  # written by a PyTorch before 1.6, without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            damaged = _first_damaged(archive)
    except Exception as error:  # whatever a reader of damaged archives comes upon
        raise ValueError(
            f"{name}: is damaged or cut short at {size} bytes ({type(error).__name__}: {error}); fetch the file again, "
            "or take an earlier checkpoint"
        ) from error
    if damaged is not None:
        raise ValueError(
            f"{name}: is damaged, {damaged} does not have its checksum; fetch the file again, or take an earlier "
            "checkpoint"
        )
    if any("/code/" in member for member in members):
        raise ValueError(f"{name}: is a network in TorchScript; use it with the overlay inference_torchscript")
    if not any(member.endswith("data.pkl") for member in members):
        raise ValueError(
            f"{name}: is a zip archive of {len(members)} files ({', '.join(members[:2])}), not a checkpoint of PyTorch"
        )


def _first_damaged(archive: zipfile.ZipFile) -> str | None:
    for member in archive.infolist():
        try:
            with archive.open(member) as content:
                while content.read(_CHUNK):
                    pass
        except zipfile.BadZipFile:
            return member.filename
    return None
