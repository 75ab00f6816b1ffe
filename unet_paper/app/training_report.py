"""``report.html`` at the end of ``unet-paper train``: what was run, how it went, what came out, and how to go on."""

import base64
import csv
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import unet_paper
from unet_paper.app.bundle_command import BundleCommand, quoted
from unet_paper.app.check_page import document, embedded_figure
from unet_paper.running import facts
from unet_paper.running.placement import placed

REPORT = "report.html"
PICTURES = 24
# of the record of a training, what has a part of the page for itself
_ELSEWHERE = ("cells_choice", "start")
_BY_OUTLINES = (
    "PQ: F1 times the mean overlap of the cells found; the best network and threshold are chosen by it. F1: of the "
    "cells, how many were found, and of those found, how many are cells; two are one where they share more than half "
    "of their common area. SEG: mean overlap of annotated cells."
)
_BY_POINTS = (
    "F1_points: of the points, how many were found, and of the cells found, how many hold a point; a cell counts that "
    "holds one point and no other. The best network and threshold are chosen by it. How well outlines lie is not "
    "measured, for points do not tell: look at the pictures."
)


def write(run: Path, command: BundleCommand, check_page: Path | None = None, start: str = "") -> Path:
    """Write the report of a run that has been scored, from what lies in its folder.

    Args:
        run: with ``model.pt``, ``metrics.csv``, ``curves.png`` and ``evaluation``.
        command: that trained.
        check_page: page of the check, to name.
        start: how it was chosen where the training starts from.

    Returns:
        The file.

    Raises:
        FileNotFoundError: the run has no ``model.pt``.
    """
    known = facts.read(run / "model.pt")
    training: Mapping[str, Any] = known.get("training", {})
    summary = _json(run / "evaluation" / "summary.json")
    scores: Mapping[str, Any] = summary.get("scores", {})
    rows = _table_rows(run / "evaluation" / "cases.csv")
    key = next(iter(scores), "")
    parts = [
        f"<h1>{escape(run.name)}: {escape(key)} {_number(scores.get(key))} on held-out images</h1>",
        _table({name: _number(value) for name, value in scores.items()}),
        f"<p>{_BY_POINTS if key == 'F1_points' else _BY_OUTLINES}</p>",
        "<h2>Go on</h2>",
        *_commands(run, command, check_page),
        *_start(training.get("start"), start),
        "<h2>Curves</h2>",
        _picture(run / "curves.png"),
        *_threshold(training.get("cells_choice", {}), known.get("cells", {})),
        "<h2>Held-out images, best to worst</h2>",
        *_images(run / "evaluation" / "figures", rows, key),
        "<h2>What was run</h2>",
        _table({**_origin(), **{name: _plain(value) for name, value in training.items() if name not in _ELSEWHERE}}),
        f"<pre>{escape(command.line())}</pre>",
    ]
    with placed(run / REPORT) as part:
        part.write_text(document(f"Training of {run.name}", parts), encoding="utf-8")
    return run / REPORT


def _commands(run: Path, command: BundleCommand, check_page: Path | None) -> list[str]:
    folder = command.settings.get("dataset_dir", "FOLDER")
    lines = [
        f"unet-paper predict IMAGES --weights {quoted(str(run))}",
        f"unet-paper train {quoted(folder)} --resume True --max_epochs MORE",
    ]
    parts = [
        "<p>Cells of other images, and more training of the same network (with more epochs than it had):</p>",
        f"<pre>{escape(chr(10).join(lines))}</pre>",
    ]
    return parts + ([f"<p>What the images are: {escape(str(check_page))}</p>"] if check_page else [])


def _start(begun: Mapping[str, Any] | None, how: str) -> list[str]:
    """What training started from, how that was chosen, and the terms that go with it."""
    lines = [how] if how else []
    if begun:
        release = f", the release {begun['release']}" if begun.get("release") else ""
        data = f", trained on {begun['data']}" if begun.get("data") else ""
        lines.append(f"Weights: {begun['weights']}{release}{data}, sha256 {begun['sha256']}")
        if begun.get("terms"):
            lines.append(f"Terms of their data, which go with the weights of this run: {begun['terms']}")
    return ["<h2>Start</h2>", *(f"<p>{escape(line)}</p>" for line in lines or ["Chance."])]


def _threshold(choice: Mapping[str, Any], cells: Mapping[str, Any]) -> list[str]:
    """What was chosen for the way from scores to cells, and the curve it was chosen on."""
    if not choice.get("curve"):
        return []
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for split, label in ((False, "as they are"), (True, "joined cells split")):
        points = [(row["threshold"], row["value"]) for row in choice["curve"] if row["split"] == split]
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker=".", label=label)
    axes.axvline(cells["threshold"], color="grey", lw=1)
    axes.set_xlabel("threshold")
    axes.set_ylabel(choice["score"])
    axes.legend(fontsize=8)
    said = ", joined cells split where the network is surer" if cells.get("split_thresholds") else ""
    said += f", and at necks below {cells['neck']:g} of their width" if cells.get("neck") else ""
    return [
        "<h2>Threshold</h2>",
        f"<p>Chosen on {choice['images']} validation images: {cells['threshold']:g}{said}; cells of fewer than "
        f"{cells['min_size']} px are left out.</p>",
        embedded_figure(figure),
    ]


def _images(pictures: Path, rows: Sequence[Mapping[str, str]], key: str) -> list[str]:
    def score(row: Mapping[str, str]) -> float:
        try:
            return float(row.get(key) or "nan")
        except ValueError:
            return float("nan")

    order = sorted(rows, key=lambda row: (score(row) != score(row), -score(row)))
    names = [name for name in (rows[0] if rows else {}) if name != "case"]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["image", *names])
    lines = [
        "<tr>" + "".join(f"<td>{escape(_number(row.get(name)))}</td>" for name in ["case", *names]) + "</tr>"
        for row in order
    ]
    parts = [f"<table><tr>{head}</tr>{''.join(lines)}</table>"]
    shown = order if len(order) <= PICTURES else [*order[: PICTURES // 2], *order[-PICTURES // 2 :]]
    for row in shown:
        own = re.compile(rf"\d+_{re.escape(row['case'])}\.png")
        for file in sorted(file for file in pictures.glob("*.png") if own.fullmatch(file.name))[:1]:
            parts.append(f"<p>{escape(row['case'])}: {escape(key)} {_number(row.get(key))}<br>{_picture(file)}</p>")
    return parts


def _origin() -> dict[str, str]:
    """Machine, and commit of the program where it runs from a checkout."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    found = {"machine": f"{platform.system()} {platform.machine()}, {device}, {torch.get_num_threads()} threads"}
    return {**found, **({"commit": commit} if (commit := checkout_commit()) else {})}


def checkout_commit() -> str | None:
    """Commit of the checkout that this package lies in; None for an installed one.

    An environment may lie in somebody's repository, whose commit says nothing of this program.
    """
    root = Path(unet_paper.__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    run = subprocess.run([git, "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _table_rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _picture(file: Path) -> str:
    if not file.is_file():
        return ""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items()]
    return f"<table>{''.join(lines)}</table>"


def _plain(value: Any) -> str:
    return ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, Mapping) else str(value)


def _number(value: Any) -> str:
    if value is None or value == "":
        return "not defined"
    try:
        return f"{float(value):.3f}"
    except (TypeError, ValueError):
        return str(value)
