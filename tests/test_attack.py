"""The short form of every attack, in which nothing may be lost, and the runner that counts; see ``make attack``."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "attack"))
import attacking
import reliability
from attacking import ATTACKS, Arena, Attack, Outcome, Trial, refusal
from runner import load, run

load()


@pytest.mark.parametrize("entry", [entry for entry in ATTACKS if entry.short], ids=lambda entry: entry.name)
def test_nothing_is_lost(entry: Attack) -> None:
    row = run(entry, ROOT, short=True, seed=0)
    assert row["tried"] > 2
    assert row["losses"] == []


def test_what_is_not_refused_with_a_clear_error_is_lost(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ValueError("a.zip: is no archive")

    def write_and_refuse() -> None:
        (tmp_path / "left").write_text("")
        refuse()

    def crash() -> None:
        raise TypeError("unhashable")

    def colour() -> None:
        raise ValueError("\x1b[31m")

    found = {act.__name__: refusal("", act, tmp_path) for act in (refuse, crash, colour, write_and_refuse)}
    assert {name: trial.outcome.value for name, trial in found.items()} == {
        "refuse": "refused",
        "crash": "lost",
        "colour": "lost",
        "write_and_refuse": "lost",
    }
    assert refusal("", lambda: None).outcome == Outcome.LOST
    assert "hung" in refusal("", lambda: attacking.time.sleep(5), seconds=0.05).detail


def test_an_attack_that_breaks_down_has_lost() -> None:
    def broken(_arena: Arena) -> Iterator[Trial]:
        yield Trial("one", Outcome.SURVIVED)
        raise RuntimeError("no such module")

    row = run(Attack("broken", broken, short=True), ROOT, short=True, seed=0)
    assert (row["tried"], row["survived"], row["lost"]) == (2, 1, 1)
    page = reliability.page([row], before=[row, row])
    assert "| **all** | 2 | 0 | 1 | 1 |" in page
    assert "| **all** | 4 | 0 | 2 | 2 |" in page
    assert "no such module" in page
