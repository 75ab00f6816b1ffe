"""Writes bundle/docs/performance.md and its plots from what the benchmarks found: the last step of `make benchmark`.

python scripts/benchmarks/write_performance_doc.py runs/benchmarks [--names gpu]

The results of every machine are kept in bundle/docs/benchmarks/MACHINE/NAME.json, and the page shows all of them: a run
replaces its own machine's, benchmark by benchmark, and no other's.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import benchmarking
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DOCS = benchmarking.ROOT / "bundle" / "docs"
BENCHMARKS = (
    "weight_map",
    "augmentation",
    "metrics",
    "forward",
    "training",
    "training_variants",
    "precision",
    "inference",
    "start",
    "large",
)
NOTES = Path(__file__).with_name("performance_notes.md")


def read(folder: Path, names: Sequence[str] = BENCHMARKS) -> list[dict[str, Any]]:
    """What each benchmark wrote to ``folder/NAME.json``, in this order.

    Raises:
        FileNotFoundError: a benchmark has left nothing.
        ValueError: one was run with ``--quick``.
    """
    found = []
    for name in names:
        path = folder / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; run python scripts/benchmarks/benchmark_{name}.py --json {path}")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["quick"]:
            raise ValueError(f"{path}: of a run with --quick, which measures nothing; run it without")
        found.append(content)
    return found


def folder_name(machine: Mapping[str, Any]) -> str:
    """Of the machine that results belong to: processor, instructions, cores, GPU.

    >>> folder_name({"cpu": "AMD EPYC", "instructions": "avx2", "cores": 2, "gpu": "none"})
    'amd-epyc-avx2-2-cores'
    """
    parts = [machine["cpu"], machine["instructions"], f"{machine['cores']} cores"]
    parts += [machine["gpu"]] if machine["gpu"] != "none" else []
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def keep(reports: Sequence[Mapping[str, Any]], docs: Path) -> None:
    """Put results where those of all machines are kept; the same machine's earlier ones are replaced."""
    for report in reports:
        path = docs / "benchmarks" / folder_name(report["machine"]) / f"{report['name']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)


def kept(docs: Path) -> list[list[dict[str, Any]]]:
    """Results of every machine, in the order of ``BENCHMARKS``, the machine measured last first."""
    order = {name: number for number, name in enumerate((*BENCHMARKS, "gpu"))}
    machines = []
    for folder in (docs / "benchmarks").iterdir():
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        machines.append(sorted(reports, key=lambda report: order.get(report["name"], len(order))))
    return sorted((reports for reports in machines if reports), key=_last_date, reverse=True)


def _last_date(reports: Sequence[Mapping[str, Any]]) -> str:
    return max(str(report["machine"]["date"]) for report in reports)


def goals(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Table of all rows that have a goal, or could not be measured."""
    lines = ["| benchmark | what | found | goal |", "|---|---|---|---|"]
    for report in reports:
        for row in report["rows"]:
            what = f"{row['group']}: {row['what']}" if row["group"] else row["what"]
            if row["failed"]:
                lines.append(f"| {report['title']} | {what} | could not be measured | {row['goal'] or '-'} |")
            elif row["goal"]:
                in_seconds = row["goal"].endswith("s")
                found = benchmarking.seconds_text(row["median_s"]) if in_seconds else f"{row['ratio']:.3g}"
                verdict = "met" if row["met"] else "**not met**"
                lines.append(f"| {report['title']} | {what} | {found} | {row['goal']}: {verdict} |")
    return lines


def document(machines: Sequence[Sequence[Mapping[str, Any]]], drawn: Sequence[str] = ()) -> str:
    """The whole file.

    Args:
        machines: reports of each.
        drawn: folder names of the machines whose plots lie beside the page.
    """
    parts = [NOTES.read_text(encoding="utf-8").strip()]
    for reports in machines:
        about = reports[0]["machine"]
        gpu = "" if about["gpu"] == "none" else f", {about['gpu']}"
        parts.append(f"## {about['cpu']} ({about['instructions']}), {about['cores']} cores{gpu}, {_last_date(reports)}")
        parts += ["### Goals", "\n".join(goals(reports))]
        for report in reports:
            parts.append(benchmarking.markdown(report, level=3))
            if folder_name(about) in drawn:
                plots = report["series"].items()
                parts += [f"![{plot['title']}](figures/performance_{name}.png)" for name, plot in plots]
    return "\n\n".join(parts) + "\n"


def figure(plot: Mapping[str, Any]) -> Figure:
    """One panel beside the other, a line for each contender, axes logarithmic."""
    panels = plot["panels"]
    drawn = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in panel["lines"].items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        ticks = sorted({x for points in panel["lines"].values() for x, _ in points})
        axes.set(xlabel=plot["x"], ylabel=panel["y"], xscale="log", yscale="log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    drawn.suptitle(plot["title"], fontsize=10)
    return drawn


def write(reports: Sequence[Mapping[str, Any]], docs: Path) -> None:
    """Kept results, plots and document, each moved into place when it is whole."""
    keep(reports, docs)
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    for report in reports:
        for name, plot in report["series"].items():
            path = docs / "figures" / f"performance_{name}.png"
            part = path.with_suffix(".part")
            figure(plot).savefig(part, format="png", dpi=100)
            os.replace(part, path)
    part = docs / "performance.md.part"
    part.write_text(document(kept(docs), [folder_name(report["machine"]) for report in reports]), encoding="utf-8")
    os.replace(part, docs / "performance.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the benchmarks' JSON files")
    parser.add_argument("--names", nargs="+", default=BENCHMARKS, help="what was measured (default: all of a CPU)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to (default bundle/docs)")
    arguments = parser.parse_args()
    write(read(arguments.results, arguments.names), arguments.docs)
    print(f"{arguments.docs / 'performance.md'} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
