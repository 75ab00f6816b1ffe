"""What the benchmarks say about their numbers; each runs, and its rows are written whatever could not be measured."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
import benchmarking
import write_performance_doc
from benchmarking import Report, Row


@pytest.fixture
def report() -> Report:
    """A report with a goal met, one missed and a peer that is not there."""
    report = Report("made_up", "Made up", packages=("numpy",))
    fast, slow = Row(what="ours", median_s=0.5, spread=(0.4, 0.6), ratio=1.0), Row(what="theirs", ratio=4.0)
    fast.within(0.4)
    slow.at_least(4)
    report.rows = [fast, slow]

    def offer() -> dict[str, Any]:
        raise ImportError("no such | peer")

    assert report.peer("peer", offer, group="peers") == {}
    line = [[1, 2.0], [10, 30.0]]
    report.series["plot"] = {"title": "Plot", "x": "px", "panels": [{"y": "s", "lines": {"a": line}}] * 2}
    return report


def test_goals_hold_at_their_limit() -> None:
    row = Row(what="a", ratio=0.5, median_s=0.01)
    for set_goal, limit, met in (
        (row.at_least, 0.5, True),
        (row.at_least, 0.51, False),
        (row.at_most, 0.5, True),
        (row.at_most, 0.49, False),
        (row.within, 0.01, True),
        (row.within, 0.009, False),
    ):
        set_goal(limit)
        assert row.met is met, row.goal
    nothing = Row(what="b")
    nothing.at_least(0)
    assert nothing.met is False


def test_repetitions_are_interleaved() -> None:
    order: list[str] = []
    times = benchmarking.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3, warm_up=1)
    assert order == list("ab" * 4)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_ratios_are_of_the_first_and_slow_moments_do_not_move_them() -> None:
    # each call takes as long as this clock says; from the third repetition on, everything takes ten times as long
    now, factors = [0.0], iter([1, 1, 1, 1, 10, 10, 10, 10])

    def takes(seconds: float) -> Any:
        def call() -> None:
            now[0] += seconds * next(factors)

        return call

    calls = {"ours": takes(1.0), "theirs": takes(3.0)}
    rows = benchmarking.compare(calls, 4, clock=lambda: now[0], warm_up=0, group="g")
    assert rows["ours"].ratio == pytest.approx(1)
    assert rows["theirs"].ratio == pytest.approx(3)
    assert rows["ours"].median_s == pytest.approx(5.5)
    assert rows["ours"].spread == pytest.approx((1, 10))
    assert rows["theirs"].group == "g"


def test_json_holds_every_row_and_an_unmeasured_peer_is_loud(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.finish(tmp_path / "made_up.json") == 1
    content = json.loads((tmp_path / "made_up.json").read_text())
    assert {"name", "machine", "rows", "series"} <= content.keys()
    assert {"cpu", "threads", "cores", "torch", "numpy", "commit"} <= content["machine"].keys()
    assert [row["what"] for row in content["rows"]] == ["ours", "theirs", "peer"]
    assert [row["met"] for row in content["rows"]] == [False, True, None]
    out, err = capsys.readouterr()
    assert "could not be measured**: ImportError: no such / peer" in out
    assert "COULD NOT BE MEASURED: peer" in err
    assert "GOAL NOT MET: , ours" in err
    assert [path.name for path in tmp_path.iterdir()] == ["made_up.json"]


def test_a_known_failure_is_a_row_but_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("made_up", "Made up")
    report.peer("peer", lambda: {"call": lambda: 1 / 0}, known="it divides by nothing")
    assert report.finish(None) == 0
    assert "it divides by nothing (ZeroDivisionError" in capsys.readouterr().out


def test_tables_have_as_many_cells_as_headings(report: Report) -> None:
    report.rows[1].extra = {"GFLOP/s": 12.345}
    text = benchmarking.markdown(report.content())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table
    assert "| ours | 500 ms | 400 ms .. 600 ms | - | 1 | <= 400 ms: **not met** |" in text
    assert "| theirs | - | - | 12.3 | 4 | >= 4: met |" in text


def test_document_has_goals_tables_and_plots(report: Report, tmp_path: Path) -> None:
    report.finish(tmp_path / "made_up.json")
    write_performance_doc.write(write_performance_doc.read(tmp_path, ("made_up",)), tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| Made up | ours | 500 ms | <= 400 ms: **not met** |" in text
    assert "| Made up | theirs | 4 | >= 4: met |" in text
    assert "| Made up | peers: peer | could not be measured | - |" in text
    assert "![Plot](figures/performance_plot.png)" in text
    assert np.asarray(Image.open(tmp_path / "figures" / "performance_plot.png")).std() > 0
    assert not list(tmp_path.rglob("*.part"))


def test_results_of_other_machines_stay_on_the_page(report: Report, tmp_path: Path) -> None:
    for cpu, date, ratio in (("Old", "2025-01-01", 2.0), ("New", "2026-01-01", 3.0), ("Old", "2025-02-01", 2.5)):
        report.machine |= {"cpu": cpu, "date": date, "instructions": "avx2", "cores": 2, "gpu": "none"}
        report.rows[1].ratio = ratio
        write_performance_doc.write([report.content()], tmp_path)
    text = (tmp_path / "performance.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ") and "cores" in line]
    assert headings == ["## New (avx2), 2 cores, 2026-01-01", "## Old (avx2), 2 cores, 2025-02-01"]
    assert "| Made up | theirs | 3 |" in text
    assert "| Made up | theirs | 2.5 |" in text
    assert "| Made up | theirs | 2 |" not in text
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {"new-avx2-2-cores", "old-avx2-2-cores"}


def test_a_machine_without_a_gpu_measures_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = importlib.import_module("benchmark_gpu")
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark_gpu.py", "--threads", "1", "--json", str(tmp_path / "gpu.json")])
    assert script.main() == 1
    assert not list(tmp_path.iterdir())


def test_document_refuses_missing_and_quick_results(report: Report, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmark_made_up\.py"):
        write_performance_doc.read(tmp_path, ("made_up",))
    report.quick = True
    report.finish(tmp_path / "made_up.json")
    with pytest.raises(ValueError, match="quick"):
        write_performance_doc.read(tmp_path, ("made_up",))


@pytest.mark.parametrize("name", ["weight_map", "augmentation", "metrics", "forward", "training", "inference", "large"])
def test_benchmarks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers need not be installed here: their rows say so."""
    script = importlib.import_module(f"benchmark_{name}")
    path = tmp_path / f"{name}.json"
    monkeypatch.setattr(sys, "argv", [f"benchmark_{name}.py", "--quick", "--threads", "1", "--json", str(path)])
    failed = script.main()
    content = json.loads(path.read_text())
    assert content["quick"]
    assert content["name"] == name
    rows = content["rows"]
    assert failed == any(row["failed"] and not row["known"] for row in rows)
    measured = [row for row in rows if not row["failed"]]
    assert len(measured) >= 3
    assert any(row["accuracy"] for row in measured)
    assert benchmarking.markdown(content).count("\n| ") >= len(rows)
