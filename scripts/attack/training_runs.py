"""Runs that an attack starts, ends and looks into afterwards."""

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from attacking import Arena, Outcome, Trial

# A network and images so small that a run takes a second; dropout draws random numbers within an epoch.
SETTINGS: dict[str, Any] = {
    "features": [4, 8],
    "tile_size": 44,
    "dropout": 0.5,
    "max_epochs": 3,
    "steps_per_epoch": 3,
    "val_interval": 1,
    "folds": 2,
    "device": "cpu",
    "lr_scheduler#total_iters": 9,
}
SECONDS = 300


class Launcher:
    """The process of ``launcher.py`` for a checkout, and what its runs share: images, and a run that nobody disturbs.

    Args:
        arena: of the first attack that wants it.
    """

    def __init__(self, arena: Arena) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="attack-runs-")
        self.folder = Path(self._scratch.name)
        phantom = arena.module("data.phantom", "phantom")
        self.seconds = 0.0
        self.data = phantom.write(self.folder / "data", kind="cells", frames=4, size=96, seed=1)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launcher.py"))],
            cwd=self.folder,
            env=arena.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ended: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"run": self.request(arena.package, self.folder / "first")})
        if not self._answers.get(timeout=4 * SECONDS).get("ready"):
            raise RuntimeError("a run that nobody disturbs fails")

    def request(self, package: Path, folder: Path) -> dict[str, Any]:
        """Arguments of MONAI's ``run`` for a training run in a folder."""
        return {
            "run_id": "training",
            "config_file": str(package / "bundle" / "configs" / "train.yaml"),
            "logging_file": False,
            "dataset_dir": str(self.data),
            "output_dir": str(folder),
            **SETTINGS,
        }

    def close(self) -> None:
        """End the process and what it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()

    def start(self, request: dict[str, Any]) -> int:
        """Number of the process that does a request."""
        self._send(request)
        while "pid" not in (answer := self._answers.get(timeout=SECONDS)):
            self._ended[answer["ended"]] = answer["status"]
        return int(answer["pid"])

    def finish(self, pid: int, seconds: float) -> int | None:
        """Exit status of a process, negative for a signal; None if it hung, then it has been killed."""
        end = time.monotonic() + seconds
        while pid not in self._ended:
            if time.monotonic() > end:
                kill(pid)
                return None
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=0.05)
                self._ended[answer["ended"]] = answer["status"]
        return self._ended.pop(pid)

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # not what libraries print when they are imported
            if line.startswith(b"{"):
                self._answers.put(json.loads(line))
        self._answers.put({})


_launchers: dict[Path, Launcher] = {}


class Runs:
    """Training runs of the checkout under attack, each in a folder of its own.

    Attributes:
        data: folder of the images.
        whole: folder of a run that nobody has disturbed.
        seconds: how long that one took.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._number = 0
        # importing PyTorch and MONAI takes longer than all the runs of a short attack
        if arena.package not in _launchers:
            _launchers[arena.package] = Launcher(arena)
            atexit.register(_launchers[arena.package].close)
        self._launcher = _launchers[arena.package]
        self.data = self._launcher.data
        self.whole = self._launcher.folder / "000" / "whole"
        if not self.whole.is_dir():
            start = time.monotonic()
            if self.finish(self.start(self.whole)) != 0:
                raise RuntimeError(f"a run that nobody disturbed has failed: {self.log(self.whole)[-500:]}")
            self._launcher.seconds = time.monotonic() - start
        self.seconds = self._launcher.seconds

    def folder(self, name: str = "run") -> Path:
        """A name for the folder of a new run, which is not there yet."""
        self._number += 1
        return self.arena.folder / f"{self._number:03d}" / name

    def start(self, folder: Path, *, resume: Any = False, settings: Any = None, **faults: Any) -> int:
        """Start a run, with faults of ``launcher.py``; returns the number of its process."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        run = {**self._launcher.request(self.arena.package, folder), "resume": resume, **(settings or {})}
        request = {"run": run, "log": str(self._log(folder)), **faults}
        return self._launcher.start(request)

    def finish(self, pid: int, seconds: float = SECONDS) -> int | None:
        """Exit status of a run, negative for a signal; None if it hung, then it has been killed."""
        return self._launcher.finish(pid, seconds)

    def go_on(self, folder: Path) -> str:
        """Resume a run to its end and compare it with one that nobody disturbed; returns what is wrong, or ""."""
        status = self.finish(self.start(folder, resume=True))
        if status != 0:
            return f"cannot be resumed (status {status}): {last_line(self.log(folder))}"
        return difference(folder, self.whole)

    def log(self, folder: Path) -> str:
        """What the last run in a folder has printed."""
        return self._log(folder).read_text(errors="replace")

    def _log(self, folder: Path) -> Path:
        # beside the folder: that may be on a full disk
        return self.arena.folder / f"{folder.parent.name}.{folder.name}.log"


def trial(what: str, wrong: str, *, good: Outcome = Outcome.SURVIVED) -> Trial:
    """Lost if anything is wrong."""
    return Trial(what, Outcome.LOST if wrong else good, wrong)


def kill(pid: int) -> None:
    """SIGKILL to a run and all its processes."""
    for send in (os.killpg, os.kill):
        # before it leads a group, there is the process alone
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)


def wait_for(path: Path, seconds: float = SECONDS) -> bool:
    """Whether a file appears in time."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def last_line(text: str) -> str:
    """The last line of a log that says anything."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was printed"


def state(folder: Path, name: str = "last.pt") -> Any:
    """Content of a checkpoint."""
    import torch

    return torch.load(folder / name, map_location="cpu", weights_only=True)


def unloadable(folder: Path) -> str:
    """The checkpoints of a folder that cannot be loaded."""
    wrong = []
    for name in ("last.pt", "model.pt"):
        if (folder / name).exists():
            try:
                state(folder, name)
            except Exception as error:
                wrong.append(f"{name} cannot be loaded ({type(error).__name__})")
    return ", ".join(wrong)


def _best(folder: Path) -> dict[str, Any]:
    """``model.pt`` without the epochs that were planned when it was kept: fewer in a run that was then prolonged."""
    content = state(folder, "model.pt")
    told = json.loads(bytes(content.pop("facts"))) if "facts" in content else {}
    told.get("training", {}).pop("max_epochs", None)
    return {**content, "told": json.dumps(told, sort_keys=True)}


def difference(folder: Path, whole: Path) -> str:
    """What distinguishes a run from one that nobody disturbed: weights, optimiser, best weights, table; or ""."""
    one, other = state(folder), state(whole)
    for part in ("epoch", "iteration", "network", "optimizer", "lr_scheduler", "best_metric", "best_metric_epoch"):
        if not same(one[part], other[part]):
            return f"{part} of last.pt is another than without the interruption"
    if not same(_best(folder), _best(whole)):
        return "model.pt is another than without the interruption"
    here, there = table(folder), table(whole)
    if here != there:
        return f"metrics.csv has other rows than without the interruption: {len(here)} lines, not {len(there)}"
    return ""


def table(folder: Path) -> list[list[Any]]:
    """Cells of ``metrics.csv`` as numbers where they are, without those of the clock."""
    lines = (folder / "metrics.csv").read_text(errors="replace").splitlines()
    rows = [line.split(",") for line in lines]
    clock = rows[0].index("seconds") if rows and "seconds" in rows[0] else -1
    return [[_number(cell) for column, cell in enumerate(row) if column != clock] for row in rows]


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit: tensors, containers and numbers."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
