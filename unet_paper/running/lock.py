"""A folder belongs to one run at a time, and a second run is told of the first.

The lock is one of the operating system, which is gone with the process that held it, however it ended. Where the file
system has none, and for other machines, on which such a lock may not count, a record decides: the run renews it every
few seconds, so that a record that no longer changes is that of a run which has died.
"""

import json
import os
import random
import shlex
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = ".lock"
RECORD = ".in_use.json"
# Seconds between two renewals of the record, and for how long one is watched that might be of a dead run.
BEAT = 5.0
WATCH = 15.0
# for how long a lock that is given back at once is waited for
BRIEF = 60.0


class FolderInUseError(OSError):
    """Another run works in the folder."""


class FolderLock:
    """The right of this process to a folder.

    Args:
        folder: an existing folder.
        setting: what the config calls it, for errors.
        shown: the folder that errors name, if this one is a place in it; None: ``folder``.
        brief: it will be given back at once, so that another process may wait for it.
    """

    def __init__(
        self, folder: Path, setting: str = "output_dir", *, shown: Path | None = None, brief: bool = False
    ) -> None:
        self.folder = folder
        self.setting = setting
        self.shown = shown
        self.brief = brief
        self.thread = threading.current_thread()
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
        self._identity: tuple[int, int] | None = None
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._pid = os.getpid()

    def acquire(self) -> None:
        """Take the folder; it is free again after ``release`` and, at the latest, when this process has ended.

        Raises:
            FolderInUseError: naming the run that has it.
        """
        try:
            self._lock.acquire()
            locked = True
        except Timeout:
            raise self._refusal(self._read()) from None
        except (OSError, NotImplementedError):
            locked = False  # a file system or an operating system without such locks: the record alone decides
        found = self._read()
        here = socket.gethostname()
        # that lock would not have been ours if a process of this machine held it
        doubtful = found is not None and not (locked and found.get("host") == here)
        if found is not None and doubtful and self._lives(found, here):
            if locked:
                self._lock.release()
            raise self._refusal(found)
        self._renew(0)
        with suppress(FileNotFoundError):
            self._identity = _identity(self.folder / LOCK)
        threading.Thread(target=self._beat, name="run folder", daemon=True).start()

    def acquire_after_brief(self, seconds: float = BRIEF) -> None:
        """``acquire``, but wait while the folder is in the hands of locks that are ``brief``.

        Raises:
            FolderInUseError: naming the run that has it.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return self.acquire()
            except FolderInUseError:
                found = self._read()
                # without a record it is being taken or given back
                if time.monotonic() > end or not (found is None or found.get("brief")):
                    raise
            time.sleep(random.uniform(0.01, 0.1))

    def release(self) -> None:
        """Give the folder back; what is left of the lock is removed. Nothing in a process forked from the holder."""
        if os.getpid() != self._pid:
            return
        self._released.set()
        found = self._read()
        if found is not None and found.get("token") == self._token:
            (self.folder / RECORD).unlink(missing_ok=True)
        if self.holds():
            with suppress(OSError):  # Windows removes no open file
                (self.folder / LOCK).unlink()
        self._lock.release()

    def holds(self) -> bool:
        """Whether the folder of that name is still the one that was taken: it may have been moved away or deleted."""
        if self._identity is None:
            found = self._read()
            return found is not None and found.get("token") == self._token
        try:
            return _identity(self.folder / LOCK) == self._identity
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        number = 0
        while not self._released.wait(BEAT):
            if not self.holds():
                return
            number += 1
            with suppress(OSError):
                self._renew(number)

    def _renew(self, number: int) -> None:
        record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "since": self._since,
            "command": shlex.join(sys.orig_argv),
            "token": self._token,
            "brief": self.brief,
            "beat": number,
        }
        part = self.folder / f"{RECORD}.{self._token}"
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        os.replace(part, self.folder / RECORD)

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _lives(self, found: dict[str, Any], here: str) -> bool:
        """Whether the run that left a record is still there."""
        if found.get("host") == here and Path("/proc/self/stat").exists():
            return _process_start(found.get("pid")) == found.get("process_start")
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(BEAT / 10)
            now = self._read()
            if now is None:
                return False
            if (now.get("token"), now.get("beat")) != (found.get("token"), found.get("beat")):
                return True
        return False

    def _refusal(self, found: dict[str, Any] | None) -> FolderInUseError:
        if found is None:
            who, stop = "another process", "wait until it has ended"
        else:
            who = f"another run: process {found.get('pid')} on {found.get('host')}, started {found.get('since')}"
            who += f" as '{found.get('command')}'"
            stop = f"wait for it or stop it ('kill {found.get('pid')}' on {found.get('host')})"
        return FolderInUseError(
            f"{self.setting}={self.shown or self.folder}: is in use by {who}; {stop}, or name another folder with "
            f"--{self.setting}"
        )


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino


def _process_start(pid: Any) -> str | None:
    """When a process of this machine started, in the kernel's clock ticks; None if there is none or no telling."""
    try:
        # the second field, the name, may hold anything; the 22nd is the start
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError):
        return None
