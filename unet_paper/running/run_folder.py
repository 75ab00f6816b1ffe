"""The folder of a run: taken and checked before work starts; an earlier run in it is moved aside, never overwritten."""

import atexit
import errno
import logging
import os
import threading
from pathlib import Path

from unet_paper.running.lock import LOCK, FolderInUseError, FolderLock

logger = logging.getLogger(__name__)

# What a run leaves, and another must not overwrite.
BEST = "model.pt"
LAST = "last.pt"
METRICS = "metrics.csv"
_held: dict[Path, FolderLock] = {}


def open_run_folder(output_dir: str | Path, resume: bool = False, read_only: bool = False) -> None:
    """Make the folder of a training run ready, and keep it from others until ``close_run_folder`` or the process's end.

    Args:
        output_dir: the folder; made if it is missing. A folder with a run in it is renamed to the first free of
            ``NAME.1``, ``NAME.2``, ...
        resume: keep the run that is in it instead, to go on from its last checkpoint, if there is one.
        read_only: leave everything to another process.

    Raises:
        NotADirectoryError, PermissionError: if the folder cannot be made, written to or renamed.
        FolderInUseError: if another run works in it, or in a folder inside one that would be moved aside.
    """
    if read_only:
        return
    open_output_folder(output_dir)
    named, folder = Path(output_dir), Path(output_dir).resolve()
    if resume and (folder / LAST).is_file():
        return
    if not any((folder / name).is_file() for name in (BEST, LAST, METRICS)):
        return
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


def open_output_folder(folder: str | Path, setting: str = "output_dir") -> None:
    """Make a folder ready for files that go beside what is in it, and keep it from others like ``open_run_folder``.

    Args:
        folder: the folder; made if it is missing.
        setting: what the config calls it, for errors.

    Raises:
        NotADirectoryError, PermissionError: if the folder cannot be made or written to.
        FolderInUseError: if another run works in it.
    """
    _make(Path(folder), setting)
    _take(Path(folder).resolve(), setting)


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
    probe = folder / f".writable_{os.getpid()}"
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


def _move_aside(folder: Path, named: Path) -> Path:
    """Rename a folder that this process holds to the first free ``NAME.n``, with its lock."""
    if Path.cwd().is_relative_to(folder):
        raise ValueError(
            f"output_dir={named}: holds an earlier run and is the folder in which you stand, so it cannot be moved "
            f"aside; go on with --resume True, or name another folder with --output_dir"
        )
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
