"""The folder of a run: taken and checked before work starts; an earlier run in it is moved aside, never overwritten."""

import atexit
import errno
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from unet_paper.running.lock import LOCK, FolderInUseError, FolderLock

logger = logging.getLogger(__name__)

# What a run leaves, and another must not overwrite.
BEST = "model.pt"
LAST = "last.pt"
METRICS = "metrics.csv"
_DRAWN = ("curves.png", "figures", "report.html")
# in it a place with a lock of its own for each of several jobs that share a folder
SHARED = ".shared"
_held: dict[Path, FolderLock] = {}


def open_run_folder(
    output_dir: str | Path, resume: bool = False, read_only: bool = False, dataset_dir: str | Path | None = None
) -> None:
    """Make the folder of a training run ready, and keep it from others until ``close_run_folder`` or the process's end.

    Args:
        output_dir: the folder; made if it is missing. A folder with a run in it is renamed to the first free of
            ``NAME.1``, ``NAME.2``, ...
        resume: keep the run that is in it instead, to go on from its last checkpoint, if there is one.
        read_only: leave everything to another process.
        dataset_dir: folder of the training data; one that lies in the folder is not moved.

    Raises:
        ValueError: if the data, or the folder in which one stands, would be moved aside.
        NotADirectoryError, PermissionError: if the folder cannot be made, written to or renamed.
        FolderInUseError: if another run works in it, or in a folder inside one that would be moved aside.
    """
    if read_only:
        return
    open_output_folder(output_dir)
    named, folder = Path(output_dir), Path(output_dir).resolve()
    if resume and (folder / LAST).is_file():
        return
    if not any((folder / name).exists() for name in (BEST, LAST, METRICS, *_DRAWN)):
        return
    _refuse_to_move(folder, named, dataset_dir)
    for lock in folder.rglob(LOCK):
        if lock.parent != folder:
            probe = FolderLock(lock.parent)
            probe.acquire()
            probe.release()
    aside = _move_aside(folder, named)
    remark = f"without a {LAST} to go on from" if resume else "--resume True would have gone on with it"
    logger.info("%s held an earlier run: it is now %s (%s)", named, aside, remark)
    close_run_folder(aside)
    open_output_folder(output_dir)


def open_output_folder(folder: str | Path, setting: str = "output_dir", read_only: bool = False) -> None:
    """Make a folder ready for files that go beside what is in it, and keep it from others like ``open_run_folder``.

    Args:
        folder: the folder; made if it is missing.
        setting: what the config calls it, for errors.
        read_only: leave it to another process.

    Raises:
        NotADirectoryError, PermissionError: if the folder cannot be made or written to.
        FolderInUseError: if another run works in it, or jobs that share it.
    """
    if read_only:
        return
    _make(Path(folder), setting)
    root = Path(folder).resolve()
    _take(root, setting)
    try:
        _refuse_jobs(root, _places(root), setting)
    except FolderInUseError:
        close_run_folder(root)
        raise


@contextmanager
def output_folder(folder: str | Path, setting: str = "output_dir") -> Iterator[None]:
    """``open_output_folder`` for the time of a block."""
    open_output_folder(folder, setting)
    try:
        yield
    finally:
        close_run_folder(folder)


@contextmanager
def brief_turn(folder: Path, setting: str = "output_dir") -> Iterator[None]:
    """One after the other: jobs that share a folder, for what takes moments and must not be done by two at once.

    Raises:
        FolderInUseError: if another run works in it, or did not give it back.
    """
    lock = FolderLock(folder.resolve(), setting, brief=True)
    lock.acquire_after_brief()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def shared_output_folder(folder: str | Path, group: str, job: str, setting: str = "output_dir") -> Iterator[None]:
    """Let the jobs of a group have a folder together for the time of a block, and nobody else.

    Args:
        folder: the folder; made if it is missing.
        group: jobs that give the same work together.
        job: one of them, which is done by one process at a time.
        setting: what the config calls the folder, for errors.

    Raises:
        NotADirectoryError, PermissionError: if the folder cannot be made or written to.
        FolderInUseError: if another run works in it, a job of another group, or this job already.
    """
    _make(Path(folder), setting)
    root = Path(folder).resolve()
    place = root / SHARED / f"{group}.{job}"
    with brief_turn(root, setting):
        others = [other for other in _places(root) if other == place or not other.name.startswith(f"{group}.")]
        _refuse_jobs(root, others, setting)
        place.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(place, setting, shown=root)
        lock.acquire()
        _held[place] = lock
    try:
        yield
    finally:
        close_run_folder(place)
        _remove_empty(place)


def _places(root: Path) -> list[Path]:
    return [lock.parent for lock in (root / SHARED).glob(f"*/{LOCK}")]


def _refuse_jobs(root: Path, places: Sequence[Path], setting: str) -> None:
    """Raise if a job is still at work in one of these places; clear those whose jobs have died."""

    def probe(place: Path) -> None:
        lock = FolderLock(place, setting, shown=root)
        lock.acquire()
        lock.release()
        _remove_empty(place)

    if places:
        # at once: where no lock tells, each is watched for a while
        with ThreadPoolExecutor(len(places)) as pool:
            list(pool.map(probe, places))


def _remove_empty(place: Path) -> None:
    with suppress(OSError):  # another has come meanwhile
        place.rmdir()
        place.parent.rmdir()


def close_run_folder(output_dir: str | Path) -> None:
    """Let other runs have a folder that this process has taken, if it has."""
    lock = _held.pop(Path(output_dir).resolve(), None)
    if lock is not None:
        lock.release()


@atexit.register
def _close_all() -> None:
    for folder in list(_held):
        close_run_folder(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # a worker that loads data owns nothing


def keep_run_folder(output_dir: str | Path) -> bool:
    """Make sure that a run's folder is still there and its own; call it before something is written.

    Returns:
        False if the folder has vanished while the run went on, was deleted or moved away: it has been made anew, empty.

    Raises:
        FolderInUseError: if another run has it by now.
    """
    folder = Path(output_dir).resolve()
    lock = _held.get(folder)
    if lock is None or lock.holds():
        return True
    close_run_folder(folder)
    open_output_folder(output_dir, lock.setting)
    logger.warning("%s has vanished while the run went on; made anew, what was in it is gone from there", output_dir)
    return False


def _make(folder: Path, setting: str) -> None:
    folder = folder.resolve()  # a link may lead to a folder that is still to be made
    probe = folder / f".writable_{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        os.remove(probe)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{setting}={folder}: is no folder; choose another with --{setting}") from error
    except OSError as error:
        raise PermissionError(
            f"{setting}={folder}: cannot be written to ({error.strerror}); choose another with --{setting}"
        ) from error


def _take(folder: Path, setting: str) -> None:
    held = _held.get(folder)
    if held is not None and held.holds():
        if held.thread.is_alive() and held.thread is not threading.current_thread():
            raise FolderInUseError(
                f"{setting}={folder}: is in use by another run of this process, in thread {held.thread.name}; name "
                f"another folder with --{setting}"
            )
        held.thread = threading.current_thread()
        return
    close_run_folder(folder)
    lock = FolderLock(folder, setting)
    lock.acquire()
    _held[folder] = lock


def _refuse_to_move(folder: Path, named: Path, dataset_dir: str | Path | None) -> None:
    kept = {"is the folder in which you stand": Path.cwd()}
    if dataset_dir is not None:
        kept[f"also the images of dataset_dir={dataset_dir}"] = Path(dataset_dir).resolve()
    for why, place in kept.items():
        if place.is_relative_to(folder):
            close_run_folder(folder)
            raise ValueError(
                f"output_dir={named}: holds an earlier run, and {why}, so it cannot be moved aside; go on with "
                "--resume True, or name another folder with --output_dir"
            )


def _move_aside(folder: Path, named: Path) -> Path:
    """Rename a folder that this process holds to the first free ``NAME.n``, with its lock."""
    number = 1
    while True:
        aside = folder.with_name(f"{folder.name}.{number}")
        if not aside.exists():
            try:
                _rename(folder, aside)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise PermissionError(
                        f"output_dir={named}: holds an earlier run and cannot be moved aside to {aside} "
                        f"({error.strerror}); go on with --resume True, or name another folder with --output_dir"
                    ) from error
            else:
                return aside
        number += 1


def _rename(folder: Path, aside: Path) -> None:
    lock = _held.pop(folder)
    try:
        os.rename(folder, aside)
    except PermissionError:
        lock.release()  # Windows renames no folder in which a file is open
        os.rename(folder, aside)
    except OSError:
        _held[folder] = lock
        raise
    else:
        lock.folder = aside
        _held[aside] = lock
