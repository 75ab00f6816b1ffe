"""Deaths of a training run: at random, at every write, on a full disk; files that are damaged or gone afterwards."""

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attacking import Arena, Outcome, Trial, attack
from training_runs import Runs, difference, kill, last_line, state, trial, unloadable


@attack("kills at random moments", short=False)
def kills_at_random(arena: Arena) -> Iterator[Trial]:
    """Each run is killed, once or several times, then resumed to its end."""
    chance = random.Random(arena.seed)
    runs = Runs(arena)
    for number in range(2 if arena.short else 12):
        folder, wrong = runs.folder(), ""
        for _ in range(1 + number % 3):
            pid = runs.start(folder, resume=True)
            time.sleep(chance.uniform(0, runs.seconds))
            kill(pid)
            runs.finish(pid)
            wrong = wrong or unloadable(folder)
        yield trial(f"killed {1 + number % 3} times", wrong or runs.go_on(folder))


@attack("kills at every write", short=True)
def kills_at_every_write(arena: Arena) -> Iterator[Trial]:
    """A run dies before its n-th opening, renaming or removing of a file in its folder, for every n there is."""
    runs = Runs(arena)
    number, stride = 1, 20 if arena.short else 1
    while True:
        folder = runs.folder()
        if runs.finish(runs.start(folder, kill_at=number)) == 0:
            return
        yield trial(f"write {number}", unloadable(folder) or runs.go_on(folder))
        number += stride


@attack("full disk", short=False)
def full_disk(arena: Arena) -> Iterator[Trial]:
    """A run on a disk too small for it; then there is room, and it is resumed."""
    runs = Runs(arena)
    needed = sum(file.stat().st_size for file in runs.whole.rglob("*") if file.is_file())
    largest = max(file.stat().st_size for file in runs.whole.rglob("*.pt"))
    for share in (0.4,) if arena.short else (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95):
        folder = runs.folder()
        with small_disk(folder.parent, int(share * needed)) as grow:
            what = f"room for {share:.0%} of the run"
            # where no disk can be mounted, files that cannot grow are refused in the same way
            limit = {} if grow else {"largest_file": int(share * largest)}
            status = runs.finish(runs.start(folder, **limit))
            if status == 0:
                yield trial(what, difference(folder, runs.whole))
                continue
            said = "" if names_file(runs.log(folder), folder) else f"names no file: {last_line(runs.log(folder))}"
            wrong = said or unloadable(folder)
            if grow:
                grow()
            yield trial(what, wrong or runs.go_on(folder))


def names_file(log: str, folder: Path) -> bool:
    """Whether the last lines of a log name a file of the folder and what is wrong with the disk."""
    end = "\n".join(log.splitlines()[-8:])
    return str(folder) in end and any(word in end.lower() for word in ("room", "space", "too large"))


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[object]:
    """A file system of so many bytes at ``folder`` and a function that enlarges it; None where forbidden."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 8192)}", "tmpfs", str(folder)]
    allowed = sys.platform.startswith("linux") and shutil.which("mount") is not None
    if not allowed or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@attack("folder that vanishes", short=False)
def folder_that_vanishes(arena: Arena) -> Iterator[Trial]:
    """The run's folder is moved away after a step: the run goes on into a new one, or ends and says so."""
    runs = Runs(arena)
    for step in (4,) if arena.short else (1, 3, 5, 9):
        folder = runs.folder()
        status = runs.finish(runs.start(folder, at_step=[step, "vanish"]))
        log = runs.log(folder)
        if status:
            said = str(folder) in last_line(log)
            yield trial(f"after step {step}", "" if said else last_line(log), good=Outcome.REFUSED)
            continue
        wrong = "" if "vanished" in log else "went on without a word"
        for name in ("last.pt", "model.pt", "metrics.csv"):
            wrong = wrong or ("" if (folder / name).exists() else f"no {name} at the end")
        yield trial(f"after step {step}", wrong)


@attack("damaged metrics.csv", short=False)
def damaged_table(arena: Arena) -> Iterator[Trial]:
    """The table of a run that is to go on is damaged or gone; its rows must not be lost."""
    runs = Runs(arena)
    begun = runs.folder("begun")
    runs.finish(runs.start(begun, settings={"max_epochs": 2}))
    content = (begun / "metrics.csv").read_bytes()
    damaged = {
        "gone": None,
        "empty": b"",
        "cut": content[: len(content) * 2 // 3],
        "zeros": bytes(len(content)),
        "a word for a number": content.replace(b".", b"x", 1),
        "without its first line": content.split(b"\n", 1)[1],
        "no text": bytes(range(128, 256)) * 4,
        "a column too many": content.replace(b"\n", b",7\n", 2).replace(b",7\n", b"\n", 1),
    }
    for what, data in list(damaged.items())[:: 3 if arena.short else 1]:
        folder = runs.folder()
        shutil.copytree(begun, folder)
        if data is None:
            (folder / "metrics.csv").unlink()
        else:
            (folder / "metrics.csv").write_bytes(data)
        yield trial(what, runs.go_on(folder))


@attack("poisoned steps", short=False)
def poisoned_steps(arena: Arena) -> Iterator[Trial]:
    """A step multiplies every weight by 1e30: no file may hold that, and the advice given must work."""
    runs = Runs(arena)
    for step in (6,) if arena.short else (1, 3, 5, 6, 9):
        folder = runs.folder()
        status = runs.finish(runs.start(folder, at_step=[step, "poison"]))
        what = f"after step {step} of 9"
        wrong = "" if status else "went on as if nothing had happened"
        for name in ("last.pt", "model.pt"):
            if (folder / name).exists() and largest_weight(folder, name) > 1e6:
                wrong = wrong or f"{name} holds weights up to {largest_weight(folder, name):.0e}"
        yield trial(what, wrong or _follow_advice(runs, folder))


def largest_weight(folder: Path, name: str) -> float:
    """The largest absolute value in a checkpoint; infinite if anything is not finite."""
    content = state(folder, name)
    content = content.get("network", content)
    values = [float(value.abs().max()) for value in content.values() if value.is_floating_point()]
    return max(value if value == value else float("inf") for value in values)


def _follow_advice(runs: Runs, folder: Path) -> str:
    """Do what the error said; returns what is wrong with it."""
    words = runs.log(folder).split()
    advice = {
        name: words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]
        for name in ("learning_rate", "resume")
        if f"--{name}" in words
    }
    # as the command line reads it
    resume = {"True": True, "False": False}.get(advice.get("resume", "False"), advice.get("resume"))
    settings = {"learning_rate": float(advice["learning_rate"])} if "learning_rate" in advice else {}
    if not settings and resume is False:
        return f"no advice: {last_line(runs.log(folder))}"
    if runs.finish(runs.start(folder, resume=resume, settings=settings)) != 0:
        return f"the advice cannot be followed: {last_line(runs.log(folder))}"
    rate = state(folder)["optimizer"]["param_groups"][0]["initial_lr"]
    if settings and abs(rate - settings["learning_rate"]) > 1e-9 * rate:
        return f"the advised learning rate {settings['learning_rate']:g} was ignored: it is {rate:g}"
    return "" if state(folder)["epoch"] == 3 else "the advised run is not complete"
