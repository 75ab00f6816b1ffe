"""Damaged checkpoints and files of another kind: refused by name, never loaded as other weights."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unet_paper.network import UNet
from unet_paper.running import checkpoint, damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "last.pt"
    torch.manual_seed(0)
    network = UNet(features=[2, 4])
    checkpoint.save({"network": network.state_dict(), "optimizer": {"state": {}}, "epoch": 3}, path)
    return path.read_bytes()


def loads(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the file is taken; fails if it is taken for other weights."""
    found, refusal = expected, ""
    try:
        found = checkpoint.read_weights(path)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert path.name in refusal
        return False
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    return True


def test_flipped_bits_and_zeroed_blocks_never_load_as_other_weights(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(whole)
    expected = checkpoint.read_weights(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole)))
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refused += not loads(path, expected)
    assert refused > 100
    for start in rng.integers(len(whole) - 512, size=30):
        damaged = bytearray(whole)
        damaged[start : start + 512] = bytes(512)
        path.write_bytes(damaged)
        loads(path, expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_says_so(share: float, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"last.pt: is (empty|damaged or cut short)"):
        checkpoint.read_weights(path)


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    picture, text = io.BytesIO(), b"<!DOCTYPE html><title>404</title>"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(picture, format="png")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    kinds = {"PNG": picture.getvalue(), "web page": text, "Git LFS": pointer, "not a checkpoint": b"\x00" * 200}
    for number, (kind, content) in enumerate(kinds.items()):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{number}.pt: .*{kind}"):
            checkpoint.read_weights(path)
    with zipfile.ZipFile(tmp_path / "masks.pt", "w") as archive:
        archive.writestr("masks/a.txt", "0")
    with pytest.raises(ValueError, match="zip archive of 1 files"):
        checkpoint.read_weights(tmp_path / "masks.pt")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "scripted.pt"))
    with pytest.raises(ValueError, match="TorchScript"):
        checkpoint.read_weights(tmp_path / "scripted.pt")


def test_weights_from_before_zip_files_are_taken(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    damage.check_intact(tmp_path / "old.pt", "old.pt")
    assert torch.equal(checkpoint.read_weights(tmp_path / "old.pt")["a"], torch.ones(2))
