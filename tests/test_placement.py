"""Files are whole or not there, whatever happens while they are written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from unet_paper.running import checkpoint, logbook
from unet_paper.running.placement import placed

resource = pytest.importorskip("resource", reason="Windows knows no limit of a file's size")


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_with_file_and_remedy_and_the_old_file_stays(tmp_path: Path) -> None:
    weights, table = tmp_path / "last.pt", tmp_path / "metrics.csv"
    checkpoint.save({"a": torch.zeros(1)}, weights)
    logbook.write_table([{"epoch": 1}], table)
    for path, write in (
        (weights, lambda: checkpoint.save({"a": torch.zeros(10_000)}, weights)),
        (table, lambda: logbook.write_table([{"epoch": number} for number in range(10_000)], table)),
    ):
        old = path.read_bytes()
        with room_for(10_000), pytest.raises(OSError, match=r"no room left.*--output_dir.*kept") as info:
            write()
        assert info.value.errno == errno.EFBIG
        assert info.value.filename == str(path)
        assert path.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "metrics.csv"]


def test_a_file_is_flushed_before_it_is_moved_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushing(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")
        fsync(descriptor)

    def moving(source: Path, target: Path) -> None:
        done.append("move")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", moving)
    with placed(tmp_path / "a") as part:
        part.write_text("new")
    assert done == ["file", "move", "folder"]


def test_an_error_of_other_kind_is_left_as_it_is(tmp_path: Path) -> None:
    def fail() -> None:
        with placed(tmp_path / "a") as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
