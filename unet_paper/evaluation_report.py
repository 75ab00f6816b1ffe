"""What an evaluation leaves to read: a row a case, and one summary with the conventions behind the numbers."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from unet_paper import checkpoint, figures, logbook

logger = logging.getLogger(__name__)


class EvaluationReport:
    """Handler of an evaluator that writes ``cases.csv`` and ``summary.json``.

    Args:
        folder: where the two files go.
        ckpt_path: checkpoint that was evaluated; its SHA-256 is recorded.
        conventions: whatever a reader must know to repeat the numbers (split, threshold, post-processing, recipe).
    """

    def __init__(
        self,
        folder: str | Path,
        ckpt_path: str | Path,
        conventions: Mapping[str, Any],
    ) -> None:
        self.folder = Path(folder)
        self.ckpt_path = Path(ckpt_path)
        self.conventions = conventions
        self._cases: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._cases = []

    def _add(self, engine: Any) -> None:
        self._cases += [figures.case_name(item["image"]) for item in engine.state.batch]

    def _write(self, engine: Any) -> None:
        rows: list[dict[str, Any]] = [{"case": name} for name in self._cases]
        for name, details in engine.state.metric_details.items():
            for row, score in zip(rows, details.flatten().tolist(), strict=True):
                row[name] = score
        logbook.write_table(rows, self.folder / "cases.csv")
        scores = {name: float(value) for name, value in engine.state.metrics.items()}
        summary = {
            "scores": scores,
            "cases": len(rows),
            "checkpoint": {"path": str(self.ckpt_path), "sha256": checkpoint.sha256(self.ckpt_path)},
            "conventions": dict(self.conventions),
        }
        part = self.folder / "summary.json.part"
        part.write_text(json.dumps(summary, indent=1, default=str) + "\n")
        os.replace(part, self.folder / "summary.json")
        listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        logger.info("%d cases: %s; written to %s", len(rows), listed, self.folder)
