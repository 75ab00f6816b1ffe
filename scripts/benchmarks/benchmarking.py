"""What all benchmarks share: the machine, interleaved repetitions, rows with ratios and goals, tables and JSON.

A benchmark script reads

    def main() -> int:
        arguments = benchmarking.parse_arguments(__doc__)
        report = benchmarking.Report("weight_map", "Weight map", packages=("numpy", "scipy"))
        calls = {"ours": ours, **report.peer("SciPy", scipy_calls)}
        rows = benchmarking.compare(calls, repetitions=2 if arguments.quick else 7)
        rows["SciPy: one transform per cell"].at_least(25)
        report.rows += rows.values()
        return report.finish(arguments.json)

    if __name__ == "__main__":
        sys.exit(main())

and is right or raises: accuracy is asserted before anything is timed. A missed goal is a row that says so. A peer that
could not be measured is a row that says why, a line on stderr and exit code 1; only a peer whose failure is known and
explained in the script leaves the exit code alone.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
# flags of /proc/cpuinfo that stand for multiplications in bfloat16
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")

Call = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        what: what was measured.
        group: heading of the table that it stands in.
        median_s: median of the repetitions in s.
        spread: their lower and upper quartile in s.
        ratio: what the goal speaks of; by ``compare``, the time over that of ours.
        goal: ``">= 25"`` or ``"<= 0.5"``; set by ``at_least`` and ``at_most``.
        met: whether ratio meets the goal.
        accuracy: error of the result, measured in the same run, as a text.
        failed: why it could not be measured.
        known: the failure is known and explained: the run does not count as failed.
        extra: further columns, heading to value.
    """

    what: str
    group: str = ""
    median_s: float | None = None
    spread: tuple[float, float] | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    accuracy: str = ""
    failed: str = ""
    known: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def at_least(self, goal: float) -> None:
        """The ratio must be this or more."""
        self.goal, self.met = f">= {goal:g}", self.ratio is not None and self.ratio >= goal

    def at_most(self, goal: float) -> None:
        """The ratio must be this or less."""
        self.goal, self.met = f"<= {goal:g}", self.ratio is not None and self.ratio <= goal

    def within(self, seconds: float) -> None:
        """The median must be this or less."""
        self.goal, self.met = f"<= {seconds_text(seconds)}", self.median_s is not None and self.median_s <= seconds


@dataclass
class Report:
    """What a benchmark found.

    Attributes:
        name: that of the JSON file, and of the script behind ``benchmark_``.
        title: heading of its tables.
        packages: distributions whose versions matter; Python's and torch's are always there.
        clock: what its times are, for the reader: "CPU" (one thread) or "wall".
        rows: measured lines.
        series: plots by name, each ``{"title", "x": label, "panels": [{"y": label, "lines": {name: [[x, y], ...]}}]}``,
            drawn with logarithmic axes as ``performance_NAME.png``.
        notes: sentences below the tables.
        quick: a run that proves nothing but that it runs.
    """

    name: str
    title: str
    packages: Sequence[str] = ()
    clock: str = "wall"
    rows: list[Row] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    quick: bool = False
    machine: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.machine = machine(self.packages)

    def peer(
        self, name: str, offer: Callable[[], Mapping[str, Call]], known: str = "", group: str = ""
    ) -> dict[str, Call]:
        """What a peer offers to be timed, each called once; where that fails, nothing, and a row that says why.

        Args:
            name: of the peer.
            offer: imports the peer and returns its contenders, name to call.
            known: explanation of a failure that is expected (and not counted, if it comes).
            group: table in which the row is to stand.
        """
        try:
            calls = dict(offer())
            for call in calls.values():
                call()
        # a peer may fail in any way, at import or in use
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            reason = reason if len(reason) <= 300 else reason[:300] + " ..."
            text = f"{known} ({reason})" if known else reason
            self.rows.append(Row(what=name, group=group, failed=text, known=bool(known)))
            return {}
        return calls

    def content(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "name": self.name,
            "title": self.title,
            "clock": self.clock,
            "quick": self.quick,
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "series": self.series,
            "notes": self.notes,
        }

    def finish(self, path: Path | None) -> int:
        """Print the tables and write the JSON file.

        Returns:
            Exit code: 1 if a row could not be measured and no known reason explains it.
        """
        print(markdown(self.content()))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(json.dumps(self.content(), indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
        for row in self.rows:
            if row.failed:
                print(f"COULD NOT BE MEASURED: {row.what}: {row.failed}", file=sys.stderr)
            elif row.met is False:
                print(f"GOAL NOT MET: {row.group}, {row.what}: goal {row.goal}", file=sys.stderr)
        return int(any(row.failed and not row.known for row in self.rows))


def parse_arguments(description: str | None, *, threads: int = 1) -> argparse.Namespace:
    """The options of every benchmark: ``--json``, ``--quick``, ``--threads``; torch is set to the last."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: proves that it runs, no more")
    parser.add_argument("--threads", type=int, default=threads, help=f"of torch (default {threads})")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads={arguments.threads}: at least 1")
    torch.set_num_threads(arguments.threads)
    return arguments


def cpu_flags() -> set[str]:
    """Instruction sets that the system reports (Linux; elsewhere none)."""
    return set(_cpuinfo("flags").split())


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16; without, bfloat16 is computed in float32 and converted."""
    return not cpu_flags().isdisjoint(BFLOAT16_FLAGS)


def machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """What the numbers belong to."""
    found = sorted(cpu_flags() & {"avx2", "avx512f", *BFLOAT16_FLAGS})
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": " ".join(found) or "not known",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in dict.fromkeys(("torch", *packages))},
    }


ONEDNN_PROBE = """
import torch
for dtype in DTYPES:
    layer = torch.nn.Conv2d(64, 64, 3).to(dtype, memory_format=torch.MEMORY_FORMAT)
    image = torch.randn(1, 64, 34, 34).to(dtype, memory_format=torch.MEMORY_FORMAT).requires_grad_()
    layer(image).sum().backward()
"""


def onednn_kernels(memory_format: str) -> str:
    """What oneDNN really runs for a 64 -> 64 convolution and its gradients, by its own log (``ONEDNN_VERBOSE``).

    Args:
        memory_format: ``"channels_last"`` or ``"contiguous_format"``.
    """
    dtypes = "(torch.float32, torch.bfloat16)" if has_bfloat16() else "(torch.float32,)"
    probe = ONEDNN_PROBE.replace("DTYPES", dtypes).replace("MEMORY_FORMAT", memory_format)
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    isa, kernels = "unknown", {}
    for line in done.stdout.splitlines():
        fields = line.split(",")
        if "isa:" in line:
            isa = line.split("isa:")[1]
        if "exec" in fields and "convolution" in fields:
            at = fields.index("convolution")
            dtype = "bfloat16" if "bf16" in fields[at + 3] else "float32"
            kernels[f"{fields[at + 2]} {dtype}"] = fields[at + 1]
    found = ", ".join(f"{what} {kernel}" for what, kernel in kernels.items())
    return f"oneDNN's instruction set {isa}; {memory_format}: {found or 'no convolution of oneDNN'}"


def _cpuinfo(entry: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split("\t")[0].strip() == entry), "")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def interleaved(
    calls: Mapping[str, Call], repetitions: int, *, clock: Clock = time.perf_counter, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every repetition of each call, one of each after the other: a slow moment of the machine hits all.

    Args:
        calls: name to what is timed; a call on a GPU must wait for it itself.
        repetitions: of each call.
        clock: ``time.process_time`` counts CPU time, to which other work on the machine adds little: for one thread.
        warm_up: calls of each that are not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warm_up):
            call()
    gc.collect()
    for _ in range(repetitions):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return times


def interleaved_clocks(
    calls: Mapping[str, Call], repetitions: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """As ``interleaved``: wall and CPU seconds (of all threads) of every repetition."""
    cpu: dict[str, list[float]] = {name: [] for name in calls}

    def noting(name: str, call: Call) -> Call:
        def run() -> None:
            start = time.process_time()
            call()
            cpu[name].append(time.process_time() - start)

        return run

    wall = interleaved({name: noting(name, call) for name, call in calls.items()}, repetitions)
    return wall, {name: seconds[1:] for name, seconds in cpu.items()}  # the first call warmed up


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """``median_s`` and ``spread`` (quartiles; None for one value) of repetitions, for a Row."""
    if len(seconds) == 1:
        return {"median_s": seconds[0], "spread": None}
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median_s": median, "spread": (lower, upper)}


def compare(
    calls: Mapping[str, Call],
    repetitions: int,
    *,
    group: str = "",
    clock: Clock = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, Row]:
    """Rows of interleaved repetitions, by name; ``ratio`` is the time over that of the first call, which is ours.

    The ratio is the median of the ratios within each repetition: what slows a whole repetition does not move it.
    """
    times = interleaved(calls, repetitions, clock=clock, warm_up=warm_up)
    own = next(iter(times.values()))
    return {
        name: Row(
            what=name,
            group=group,
            ratio=statistics.median(other / mine for other, mine in zip(seconds, own, strict=True)),
            **summary(seconds),
        )
        for name, seconds in times.items()
    }


def seconds_text(seconds: float) -> str:
    """A time for people.

    >>> seconds_text(0.00423), seconds_text(1.254)
    ('4.23 ms', '1.25 s')
    """
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def markdown(content: Mapping[str, Any], level: int = 2) -> str:
    """The tables of a report, from what its JSON file holds; ``level`` is that of its heading."""
    found = {name: value for name, value in content["machine"].items() if value != ""}
    lines = [f"{'#' * level} {content['title']}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in found.items()) + f". Times: {content['clock']}."]
    for group in dict.fromkeys(row["group"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["group"] == group]
        lines += ["", f"**{group}**"] if group else []
        lines += ["", *_table(rows)]
    for note in content["notes"]:
        lines += ["", note]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown; a column that no row fills is left out."""
    cells = [_cells(row) for row in rows]
    headings = ["what", "median", "quartiles"]
    headings += dict.fromkeys(name for row in rows for name in row["extra"])
    headings += ["ratio", "goal", "accuracy"]
    used = [heading for heading in headings if any(cell.get(heading) for cell in cells)]
    lines = [f"| {' | '.join(used)} |", f"|{'---|' * len(used)}"]
    return lines + [f"| {' | '.join(cell.get(heading) or '-' for heading in used)} |" for cell in cells]


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    if row["failed"]:
        failed = row["failed"].replace("|", "/")
        return {"what": row["what"], "median": f"**could not be measured**: {failed}"}
    cells = {"what": row["what"], "accuracy": row["accuracy"]}
    cells |= {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in row["extra"].items()}
    if row["median_s"] is not None:
        cells["median"] = seconds_text(row["median_s"])
        cells["quartiles"] = " .. ".join(seconds_text(value) for value in row["spread"] or ()) or "one run"
    if row["ratio"] is not None:
        cells["ratio"] = f"{row['ratio']:.3g}"
    if row["goal"]:
        cells["goal"] = f"{row['goal']}: {'met' if row['met'] else '**not met**'}"
    return cells
