"""The page bundle/docs/reliability.md, from what the attacks found."""

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("attack", "tried", "refused", "survived", "lost")


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table, one row an attack and a last one of sums."""
    sums = {"attack": "**all**", **{column: sum(row[column] for row in rows) for column in COLUMNS[1:]}}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
    return [*lines, *("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for row in [*rows, sums])]


def losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a list of what was lost."""
    return [f"- {row['attack']}: {loss['what']}: {loss['detail']}" for row in rows for loss in row["losses"]]


def kinds_of_losses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table: how often an attack lost in which way, and with what for example."""
    lines = ["| attack | what was lost, or how one sees it | times | for example |", "|---|---|--:|---|"]
    for row in rows:
        ways = Counter(_way(loss["detail"]) for loss in row["losses"])
        for way, times in ways.most_common():
            example = next(loss["what"] for loss in row["losses"] if _way(loss["detail"]) == way)
            lines.append(f"| {row['attack']} | {_shown(way)} | {times} | `{_shown(example)[:60].strip()}` |")
    return lines


def _way(detail: str) -> str:
    """The beginning of what was seen, without what differs from trial to trial."""
    return re.sub(r"(?<!status )(?<!not )\b\d+\b", "n", detail.split(": ")[0])


def _shown(text: str) -> str:
    """As it may stand in a table: no scratch folder's name, no sign that Markdown reads."""
    return re.sub(r"/tmp/[\w./-]*", "/...", text).replace("|", "/").replace("`", "'")


def page(
    rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] | None = None, earlier: str = ""
) -> str:
    """Content of the page.

    Args:
        rows: what was found.
        before: what was found in an earlier checkout.
        earlier: which that is.
    """
    found = losses(rows)
    run = {row["attack"] for row in rows}
    not_run = [row["attack"] for row in before or [] if row["attack"] not in run]
    minutes = sum(row["seconds"] for row in rows) / 60
    lines = [
        "# Reliability",
        "",
        'Written by `make attack ATTACK="--report FILE"`, which attacks the package on the loopback and in a scratch',
        "folder; nothing in the tables is edited by hand. *Refused*: turned away with a clear error, nothing changed.",
        "*Survived*: what should go on went on, with the right result. *Lost*: something was lost, wrong without a",
        "word, hung, or somebody was in.",
        "",
        f"{platform.system()}, Python {platform.python_version()}, {minutes:.0f} minutes.",
        "",
        *table(rows),
        "",
        *(["Lost:", "", *found] if found else ["Nothing was lost."]),
        *(["", f"Not run for this table: {', '.join(not_run)}."] if not_run else []),
    ]
    if before is not None:
        lines += ["", f"## The same attacks on an earlier version{earlier and f', {earlier}'}", "", *table(before)]
        lines += ["", *kinds_of_losses(before)]
    notes = Path(__file__).with_name("reliability_notes.md").read_text(encoding="utf-8")
    return "\n".join(lines) + "\n\n" + notes
