"""What a run in blocks leaves, moved into its place when all is there; what is the user's is not written over."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_paper.large.plan import Plan
from unet_paper.large.tasks import STORE

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
TIFF = "cells.tif"


class Results:
    """Files of a finished run: where they lie until all are there, and where they go.

    Args:
        output_dir: where they go.
        name: of the image.
        work: folder of the run.
        plan: its plan.
        planes: names of the planes.
    """

    def __init__(self, output_dir: Path, name: str, work: Path, plan: Plan, planes: Sequence[str]) -> None:
        self.output_dir = output_dir
        self.work = work
        self.plan = plan
        kind = plan.output["table"]
        labels, ending = (TIFF, "tif") if plan.output["labels"] == "tiff" else (STORE, "zarr")
        tables = {
            f"{plane}.{kind}": f"{name}{'' if len(planes) == 1 else f'_{plane}'}_cells.{kind}" for plane in planes
        }
        # the summary last: where it is, all is
        self._moves = {**tables, labels: f"{name}_cells.{ending}", SUMMARY: f"{name}_{SUMMARY}"}

    def refuse_taken(self) -> None:
        """Raise where a result has no place to go.

        Raises:
            FileExistsError: naming the file that is there, and what to do.
        """
        for name in self._moves.values():
            if (self.output_dir / name).exists():
                raise FileExistsError(
                    f"{self.output_dir / name}: is there, without the summary of a finished run of this program, and "
                    "this run would write it; move it away, or choose another folder with --output_dir"
                )

    def finished_before(self) -> dict[str, Any] | None:
        """What the summary of a finished run says; None without one.

        Raises:
            FileExistsError: a file of this name that is no such summary.
            FileNotFoundError: a part of the result that is gone.
            ValueError: another plan.
        """
        finished = self.output_dir / self._moves[SUMMARY]
        if not finished.is_file():
            return None
        try:
            summary = dict(json.loads(finished.read_text(encoding="utf-8")))
            there = Plan(**summary["plan"])
        except (ValueError, KeyError, TypeError) as error:
            raise FileExistsError(
                f"{finished}: not written by this program, which would write it; move it away, or choose another "
                "folder with --output_dir"
            ) from error
        if changed := self.plan.differences(there.content):
            raise ValueError(
                f"output_dir={self.output_dir}: holds the result of another plan, different are {', '.join(changed)}"
                f"{self.plan.remark(changed)}; choose another with --output_dir"
            )
        for name in self._moves.values():
            if not (self.output_dir / name).exists():
                raise FileNotFoundError(
                    f"{self.output_dir / name}: is gone, and {finished} says that it was written; to have it again, "
                    "move away what else there is of that result, or choose another folder with --output_dir"
                )
        logger.info("%s: this run is finished", finished)
        shutil.rmtree(self.work, ignore_errors=True)
        return summary

    def put_into_place(self) -> dict[str, Any]:
        """Move the results, also after a run that died of it: what it moved is there, the rest still to be moved.

        Returns:
            What the summary says.
        """
        summary = dict(json.loads((self.work / SUMMARY).read_text(encoding="utf-8")))
        for source, target in self._moves.items():
            if (self.work / source).exists():
                _move(self.work / source, self.output_dir / target)
        shutil.rmtree(self.work)
        weights = summary["plan"]["weights"]["path"]
        logger.info("%d cells by %s -> %s", summary["cells"], weights, self.output_dir)
        return summary


def _move(source: Path, target: Path) -> None:
    os.replace(source, target)
