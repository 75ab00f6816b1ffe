"""A folder belongs to one run: the second is refused, the dead hold nothing, and no earlier run is overwritten."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from unet_paper.running import lock, run_folder
from unet_paper.running.lock import FolderInUseError

# what the lock of another process looks like from here, without the seconds that importing PyTorch takes
HOLDER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
lock.FolderLock(Path(sys.argv[2])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    run_folder._close_all()


def holder(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock.__file__, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_the_second_run_is_refused_naming_the_first_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = holder(folder)
    (folder / "last.pt").write_bytes(b"first")
    for resume in (False, True):
        with pytest.raises(FolderInUseError) as info:
            run_folder.open_run_folder(folder, resume)
        for named in (str(folder), f"process {process.pid} on ", "started 20", "--output_dir"):
            assert named in str(info.value)
    with pytest.raises(FolderInUseError):
        run_folder.open_output_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    kill(process)
    run_folder.open_run_folder(folder, resume=True)
    assert (folder / "last.pt").read_bytes() == b"first"


def test_no_folder_is_moved_while_a_run_works_inside_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.pt").write_bytes(b"first")
    process = holder(tmp_path / "run" / "evaluation")
    with pytest.raises(FolderInUseError, match="evaluation"):
        run_folder.open_run_folder(tmp_path / "run")
    kill(process)
    run_folder.open_run_folder(tmp_path / "run")
    assert (tmp_path / "run.1" / "model.pt").read_bytes() == b"first"


@pytest.mark.parametrize("number", [38, 95])  # ENOSYS, ENOTSUP of Linux
def test_without_locks_of_the_system_the_record_decides(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_self: FileLock) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    process = holder(tmp_path)
    with pytest.raises(FolderInUseError, match=f"process {process.pid} on "):
        run_folder.open_run_folder(tmp_path)
    kill(process)
    run_folder.open_run_folder(tmp_path)
    run_folder.close_run_folder(tmp_path)
    assert list(tmp_path.glob(f"{lock.RECORD}*")) == []


def test_a_run_on_another_machine_is_alive_as_long_as_it_renews_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the locks of one machine do not count on another, which nothing but the record can tell."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "WATCH", 0.5)
    record: dict[str, Any] = {"host": "elsewhere", "pid": 7, "since": "today", "command": "x", "token": "t", "beat": 0}
    (tmp_path / lock.RECORD).write_text(json.dumps(record))
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.1):
            record["beat"] += 1
            (tmp_path / "new").write_text(json.dumps(record))
            os.replace(tmp_path / "new", tmp_path / lock.RECORD)

    other = threading.Thread(target=renew)
    other.start()
    with pytest.raises(FolderInUseError, match="process 7 on elsewhere"):
        run_folder.open_run_folder(tmp_path)
    stop.set()
    other.join()
    run_folder.open_run_folder(tmp_path)
    first = json.loads((tmp_path / lock.RECORD).read_text())
    time.sleep(0.2)
    assert json.loads((tmp_path / lock.RECORD).read_text())["beat"] > first["beat"]


def test_another_thread_of_this_process_is_another_run(tmp_path: Path) -> None:
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        run_folder.open_run_folder(tmp_path)
        ready.set()
        done.wait(10)

    first = threading.Thread(target=work, name="first")
    first.start()
    assert ready.wait(10)
    with pytest.raises(FolderInUseError, match="thread first"):
        run_folder.open_run_folder(tmp_path)
    done.set()
    first.join()
    run_folder.open_run_folder(tmp_path)  # that of a thread which ended without a word


@pytest.mark.parametrize("left", ["last.pt", "model.pt", "metrics.csv", "curves.png"])
def test_whatever_an_earlier_run_left_is_moved_aside(left: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "run.1").mkdir()
    folder.mkdir()
    (folder / left).write_bytes(b"first")
    run_folder.open_run_folder(folder)
    assert (tmp_path / "run.2" / left).read_bytes() == b"first"
    assert [path.name for path in (tmp_path / "run.2").iterdir()] == [left]
    run_folder.open_run_folder(folder)
    assert not (tmp_path / "run.3").exists()


def test_a_resume_without_a_checkpoint_does_not_write_over_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"first")
    run_folder.open_run_folder(folder, resume=True)
    assert (tmp_path / "run.1" / "model.pt").read_bytes() == b"first"


def test_the_folder_in_which_one_stands_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "last.pt").write_bytes(b"first")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"output_dir=\.: .*--resume True"):
        run_folder.open_run_folder(".")
    assert (tmp_path / "last.pt").read_bytes() == b"first"


@pytest.mark.parametrize("inside", [".", "images"])
def test_a_folder_with_the_training_data_in_it_is_not_moved(inside: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / inside).mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"first")
    with pytest.raises(ValueError, match=r"holds an earlier run, and also the images of dataset_dir=.*--resume True"):
        run_folder.open_run_folder(folder, dataset_dir=folder / inside)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    run_folder.open_run_folder(folder, dataset_dir=tmp_path / "elsewhere")
    assert (tmp_path / "run.1" / "last.pt").read_bytes() == b"first"


@pytest.mark.parametrize("name", ["last.pt", "model.pt", "metrics.csv", "figures"])
def test_what_lies_where_a_file_of_the_run_goes_is_moved_aside_whatever_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    run_folder.open_run_folder(tmp_path / "run", resume=True)
    assert (tmp_path / "run.1" / name).is_dir()


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    run_folder.open_run_folder(tmp_path / "link")  # makes what it leads to
    (tmp_path / "run" / "last.pt").write_bytes(b"first")
    run_folder.close_run_folder(tmp_path / "link")
    run_folder.open_run_folder(tmp_path / "link")
    assert (tmp_path / "run.1" / "last.pt").read_bytes() == b"first"
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_folder_that_vanishes_is_made_again_and_one_that_another_has_taken_is_left_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_folder.open_run_folder(folder)
    assert run_folder.keep_run_folder(folder)
    folder.rename(tmp_path / "moved")
    assert not run_folder.keep_run_folder(folder)
    assert folder.is_dir()
    assert run_folder.keep_run_folder(folder)
    folder.rename(tmp_path / "moved too")
    process = holder(folder)
    with pytest.raises(FolderInUseError, match=f"process {process.pid} "):
        run_folder.keep_run_folder(folder)
    kill(process)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_is_forked_holds_nothing(tmp_path: Path) -> None:
    """Workers that load data outlive a killed run by seconds."""
    run_folder.open_run_folder(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    run_folder.close_run_folder(tmp_path)
    run_folder.open_run_folder(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_jobs_that_share_a_folder_have_it_together_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "out" / ".shared").mkdir(parents=True)
    process = holder(tmp_path / "out" / ".shared" / "plan.1_of_3")
    with run_folder.shared_output_folder(tmp_path / "out", "plan", "2_of_3"):
        pass
    refused = {
        "a job of this name": lambda: run_folder.shared_output_folder(tmp_path / "out", "plan", "1_of_3"),
        "a job of another group": lambda: run_folder.shared_output_folder(tmp_path / "out", "other", "2_of_3"),
        "a run that wants all": lambda: run_folder.output_folder(tmp_path / "out"),
    }
    for what, folder in refused.items():
        with pytest.raises(FolderInUseError) as info, folder():
            pytest.fail(f"{what} was let in")
        assert f"output_dir={tmp_path / 'out'}: is in use by another run: process {process.pid} on" in str(info.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".shared"]
    kill(process)
    with run_folder.output_folder(tmp_path / "out"):
        assert not (tmp_path / "out" / ".shared").exists()  # nothing is left of the dead
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
            run_folder.shared_output_folder(tmp_path / "out", "plan", "2_of_3").__enter__()
    assert list((tmp_path / "out").iterdir()) == []


def test_jobs_that_enter_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make = run_folder._refuse_jobs

    def slowly(*arguments: Any) -> None:
        time.sleep(0.05)
        _make(*arguments)

    monkeypatch.setattr(run_folder, "_refuse_jobs", slowly)
    entered: list[int] = []

    def work(number: int) -> None:
        with run_folder.shared_output_folder(tmp_path / "out", "plan", f"{number}_of_8"):
            entered.append(number)
            time.sleep(0.3)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(entered) == list(range(8))
    assert list((tmp_path / "out").iterdir()) == []
