"""Writes what runs came to over their steps, into documents: which recipe, how many steps and hours, what score.

    python scripts/report_training.py runs/isbi2012 --doc bundle/docs/choices.md --readme README.md --block paper_recipe

A run's folder is what a training has left, and an evaluation of it, where there is one. Into ``--doc`` go, for each
run, a table of its validations and its curves, a picture in ``figures`` beside the document; into ``--readme`` a line
each, with the scores of the evaluation: of ``model.pt``, the weights of the best validation. Both between the lines
``<!-- BLOCK:begin -->`` and ``<!-- BLOCK:end -->``; with ``--keep`` what they hold of data sets that these runs are not
of stays, since the folders of earlier runs may be gone. Hours are those of the clock, validations included.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduce_tables import DATA_SETS

from unet_paper.running import checkpoint, figures, run_folder, tables
from unet_paper.running.logbook import read_table
from unet_paper.running.tables import markdown_table

NOT_SCORES = ("epoch", "step", "seconds", "hours", "learning_rate", "train_loss")
FIGURES = "figures"


class Training:
    """What a run's folder tells.

    Attributes:
        rows: a row a validation: of ``metrics.csv``, with the mean training loss since the row before.
        facts: what its weights know of their training.
        scores: of the evaluation of its best weights; empty without one.

    Raises:
        FileNotFoundError, ValueError: naming the folder, if it holds no weights, or no validation.
    """

    def __init__(self, folder: Path) -> None:
        _, text = checkpoint.read_weights_and_facts(folder / run_folder.BEST, setting="run")
        if text is None:
            raise ValueError(f"{folder / run_folder.BEST}: does not tell how it was trained")
        self.facts: dict[str, Any] = json.loads(text)
        self.rows = validations(read_table(folder / run_folder.METRICS))
        if not self.rows:
            raise ValueError(
                f"{folder / run_folder.METRICS}: no epoch was validated; let the run go on, or --val_interval"
            )
        summary = folder / "evaluation" / "summary.json"
        self.scores: dict[str, float] = json.loads(summary.read_text())["scores"] if summary.is_file() else {}
        name = self.facts["training"]["data"]
        self.data_set = next((one for one in DATA_SETS.values() if one.folder == name), None)
        self.title = name if self.data_set is None else self.data_set.title

    def section(self, picture: str) -> list[str]:
        """Lines of a document: how it was trained, a table of its validations, and its curves."""
        training = self.facts["training"]
        columns = ["step", "hours", "train_loss", *(name for name in self.rows[-1] if name not in NOT_SCORES)]
        body = [
            [f"{row['step']:.0f}", f"{row['hours']:.1f}", *(f"{row.get(name, math.nan):.4f}" for name in columns[2:])]
            for row in self.rows
        ]
        images, threads = training["images"], training["threads"]
        settings = (
            f"Recipe `{training['recipe']}`, features {self.facts['features']}; {training['optimizer']}, learning rate "
            f"{training['learning_rate']:g}, batches of {training['batch_size']}, tiles of {training['tile_size']} px, "
            f"dropout {self.facts['dropout']:g}; {images['training']} images in training, {images['validation']} of "
            f"fold {training['fold']} of {training['folds']} held out; {training['device']}, {threads} "
            f"thread{'s'[: threads != 1]}, {training['precision']}."
        )
        return [f"**{self.title}**", "", settings, "", *markdown_table(columns, body), "", f"![curves]({picture})"]

    def line(self) -> list[str]:
        """Cells of a row: data set, network, optimiser, steps, hours, step of the best weights, their scores."""
        training, last = self.facts["training"], self.rows[-1]
        key = next(name for name in last if name not in NOT_SCORES)  # the logbook puts it first
        best = max(self.rows, key=lambda row: row[key])
        wanted = self.scores if self.data_set is None else self.data_set.released or self.data_set.scores
        found = self.scores or best
        scores = ", ".join(f"{name} {found[name]:.4f}" for name in wanted or found if name in found)
        return [
            self.title,
            f"{self.facts['features'][0]} to {self.facts['features'][-1]} features",
            f"`{training['recipe']}`: {training['optimizer']}, {training['learning_rate']:g}",
            f"{last['step']:.0f}",
            f"{last['hours']:.1f}",
            f"{best['step']:.0f}",
            scores,
        ]


def validations(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The rows of ``metrics.csv`` with scores, each with ``hours`` and the mean training loss since the one before.

    >>> first = {"step": 50, "seconds": 900, "train_loss": 1.0}
    >>> validations([first, {"step": 100, "seconds": 1800, "train_loss": 0.5, "SEG": 0}])
    [{'step': 100, 'seconds': 1800, 'train_loss': 0.75, 'SEG': 0, 'hours': 0.5}]
    """
    found, losses = [], []
    for row in rows:
        losses.append(row["train_loss"])
        if set(row) - set(NOT_SCORES):
            found.append({**row, "train_loss": sum(losses) / len(losses), "hours": row["seconds"] / 3600})
            losses = []
    return found


def rows_of(block: str) -> dict[str, list[str]]:
    """Cells of the rows of a table, by the first of each.

    >>> rows_of("| data set | steps |\\n| --- | --- |\\n| HeLa | 50 |\\n")
    {'HeLa': ['HeLa', '50']}
    """
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("| ")]
    return {row[0]: row for row in rows[2:]}


def sections_of(block: str) -> dict[str, str]:
    """What stands under titles, and those, by title.

    >>> sections_of("**HeLa**\\n\\nof it\\n\\n**U373**\\n\\nof that\\n\\n")
    {'HeLa': '**HeLa**\\n\\nof it\\n\\n', 'U373': '**U373**\\n\\nof that\\n\\n'}
    """
    _, *parts = re.split(r"^\*\*(.+)\*\*$", block, flags=re.MULTILINE)
    return {title: f"**{title}**{text.rstrip()}\n\n" for title, text in zip(parts[::2], parts[1::2], strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables of some runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trainings")
    parser.add_argument("--doc", type=Path, help="file in which to replace tables and curves")
    parser.add_argument("--readme", type=Path, help="file in which to replace the table of a line a run")
    parser.add_argument("--block", default="paper_recipe", help="name of the block in both (paper_recipe)")
    parser.add_argument("--keep", action="store_true", help="keep what the blocks hold of other data sets")
    given = parser.parse_args(arguments)
    trainings = [Training(folder) for folder in given.runs]
    head = ["data set", "network", "recipe", "steps", "hours", "best after", "its scores on images held out"]
    rows = {training.title: training.line() for training in trainings}
    print(*markdown_table(head, list(rows.values())), sep="\n")
    if given.readme is not None:
        kept = rows_of(tables.read_block(given.readme, given.block)) if given.keep else {}
        text = "\n".join(markdown_table(head, list({**kept, **rows}.values()))) + "\n"
        tables.replace_block(given.readme, text, given.block)
    if given.doc is not None:
        sections = sections_of(tables.read_block(given.doc, given.block)) if given.keep else {}
        for training in trainings:
            picture = f"{FIGURES}/{given.block}_{training.facts['training']['data'].lower()}.png"
            curves = [{name: row[name] for name in row if name != "hours"} for row in training.rows]
            figures.save_figure(figures.curve_figure(curves), given.doc.parent / picture)
            sections[training.title] = "\n".join([*training.section(picture), "", ""])
        tables.replace_block(given.doc, "".join(sections.values()), given.block)


if __name__ == "__main__":
    main()
