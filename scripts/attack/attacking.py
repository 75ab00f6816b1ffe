"""What an attack is: a function that tries things on a checkout, one trial after the other, and says how each ended.

    @attack("hostile archives", short=True)
    def archives(arena: Arena) -> Iterator[Trial]:
        registry = arena.module("release.registry", "registry")
        yield refusal("a member with ..", lambda: registry.check_archive(path), arena.folder)

Attacks import nothing of ``unet_paper`` at the top: the checkout under attack may be another one, with other modules.
"""

import contextlib
import dataclasses
import enum
import importlib
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

# What a refusal may raise: an error that a person can read. Anything else is a traceback to them.
REFUSALS = (OSError, ValueError, LookupError)
# on the path of every process that is started
ONLY_THIS = Path(__file__).with_name("only_this")


class NotHere(Exception):
    """What an attack needs is not on this machine: says what, and how to get it."""


class Outcome(enum.StrEnum):
    """How a trial ended."""

    REFUSED = enum.auto()  # turned away with a clear error, and nothing was changed
    SURVIVED = enum.auto()  # what should go on went on, with the right result
    LOST = enum.auto()  # something was lost, wrong without a word, hung, or somebody was in


@dataclasses.dataclass(frozen=True)
class Trial:
    """One thing that was tried: what, how it ended and, where it was lost, how one sees it."""

    what: str
    outcome: Outcome
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """Where an attack takes place.

    Args:
        package: root of the checkout under attack.
        folder: empty folder of this attack; nothing is written elsewhere.
        short: a few trials of each kind in seconds, as the tests run it; otherwise as many as minutes allow.
        seed: of everything random.
    """

    package: Path
    folder: Path
    short: bool = False
    seed: int = 0

    def module(self, *names: str) -> ModuleType:
        """The first of these modules of ``unet_paper`` that the checkout has: they moved in the course of time."""
        for name in names:
            if self._has(f"unet_paper.{name}"):
                return importlib.import_module(f"unet_paper.{name}")
        raise ModuleNotFoundError(f"{self.package}: has none of {', '.join(names)}")

    def _has(self, name: str) -> bool:
        """Whether the checkout itself has a module: an installed package of this name answers for what it lacks."""
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return False
        return spec is not None and self.package in Path(spec.origin or "").resolve().parents

    def environment(self, **variables: str) -> dict[str, str]:
        """Variables for a process that imports the checkout under attack, and what that lacks from nowhere."""
        found = {**os.environ, "PYTHONPATH": str(self.package), "OMP_NUM_THREADS": "1", **variables}
        return {**found, "PYTHONPATH": os.pathsep.join([str(ONLY_THIS), found["PYTHONPATH"]])}


@dataclasses.dataclass(frozen=True)
class Attack:
    """An entry of the table: its name, what it does, and whether it has a short form for the tests."""

    name: str
    run: Callable[[Arena], Iterator[Trial]]
    short: bool


ATTACKS: list[Attack] = []


def attack(name: str, *, short: bool) -> Callable[[Callable[[Arena], Iterator[Trial]]], Any]:
    """Decorator that enters a function into ``ATTACKS``."""

    def enter(function: Callable[[Arena], Iterator[Trial]]) -> Callable[[Arena], Iterator[Trial]]:
        ATTACKS.append(Attack(name, function, short))
        return function

    return enter


def refusal(what: str, act: Callable[[], Any], unchanged: Path | Sequence[Path] = (), *, seconds: float = 20) -> Trial:
    """Trial of something that must be turned away.

    Args:
        what: what was tried.
        act: does it; must raise one of ``REFUSALS``.
        unchanged: folders in which nothing may have been created, removed or rewritten.
        seconds: after which it counts as hung.
    """
    folders = [unchanged] if isinstance(unchanged, Path) else list(unchanged)
    before, start = [_content(folder) for folder in folders], time.monotonic()
    try:
        with deadline(seconds):
            act()
    except REFUSALS as error:
        outcome = Trial(what, Outcome.REFUSED, _one_line(error))
        if not all(line.isprintable() for line in str(error).splitlines()):
            return Trial(what, Outcome.LOST, "the error holds characters that a terminal obeys")
    except Exception as error:
        return Trial(what, Outcome.LOST, f"traceback: {_one_line(error)}")
    else:
        return Trial(what, Outcome.LOST, "was accepted")
    if time.monotonic() - start >= seconds:  # whatever the error of the deadline was wrapped in
        return Trial(what, Outcome.LOST, f"hung for {seconds:g} s")
    if before != [_content(folder) for folder in folders]:
        return Trial(what, Outcome.LOST, "was refused, and something was written")
    return outcome


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds, where signals can do that."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("deadline of the attack")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with size and time of change, to the nanosecond."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


def _one_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()
    return (text[0] if text else type(error).__name__)[:200]
