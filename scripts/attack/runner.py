"""Runs attacks and counts how their trials ended."""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attacking import Arena, Attack, NotHere, Outcome, Trial

# each enters its attacks into ATTACKS
MODULES = ("archives", "damage", "kills", "label_server", "servers", "stops")


def load() -> None:
    """Enter all attacks."""
    for module in MODULES:
        __import__(module)


def run(entry: Attack, package: Path, *, short: bool, seed: int) -> dict[str, Any]:
    """Row of the table of one attack; one that breaks down itself has lost."""
    start, trials, name = time.monotonic(), list[Trial](), entry.name
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        arena = Arena(package=package, folder=Path(folder), short=short, seed=seed)
        try:
            for trial in entry.run(arena):
                trials.append(trial)
                if trial.outcome == Outcome.LOST:
                    print(f"LOST  {entry.name}: {trial.what}: {trial.detail}", file=sys.stderr, flush=True)
        except NotHere as error:
            print(f"NOT RUN  {entry.name}: {error}", file=sys.stderr, flush=True)
            name += " (not run here)"
        except Exception as error:
            trials.append(Trial("the attack itself", Outcome.LOST, f"broke down: {type(error).__name__}: {error}"))
            print(f"LOST  {entry.name}: {trials[-1].detail}", file=sys.stderr, flush=True)
    row = summary(name, trials, seconds=time.monotonic() - start)
    print(f"{entry.name}: {row['tried']} tried in {row['seconds']:.0f} s", file=sys.stderr, flush=True)
    return row


def summary(name: str, trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """Numbers of trials by outcome, and those that were lost by name."""
    count = Counter(trial.outcome for trial in trials)
    return {
        "attack": name,
        "tried": len(trials),
        **{outcome.value: count[outcome] for outcome in Outcome},
        "losses": [{"what": trial.what, "detail": trial.detail} for trial in trials if trial.outcome == Outcome.LOST],
        "seconds": round(seconds, 1),
    }
