"""What an evaluation leaves to read: a row a case, one summary with all that lies behind the scores, and error maps."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.annotation import Annotation
from unet_paper.instances import PRESETS, Settings
from unet_paper.metrics.ctc import ObjectScore, ctc_seg_objects
from unet_paper.metrics.em_inputs import RULES
from unet_paper.metrics.monai_metrics import pairs_by_class
from unet_paper.metrics.point_f1 import holds_one
from unet_paper.metrics.warping_error import TopologicalError, topological_errors
from unet_paper.running import checkpoint, engines, figures, logbook
from unet_paper.running.placement import placed

logger = logging.getLogger(__name__)

Array = NDArray[Any]
RGB = NDArray[np.uint8]

ERROR_COLOURS: Mapping[TopologicalError, tuple[int, int, int]] = {
    TopologicalError.MERGE: (255, 40, 40),
    TopologicalError.SPLIT: (40, 120, 255),
    TopologicalError.HOLE_ADDED: (255, 170, 0),
    TopologicalError.OBJECT_DELETED: (230, 60, 255),
    TopologicalError.OBJECT_ADDED: (0, 220, 220),
    TopologicalError.HOLE_DELETED: (120, 220, 0),
}
MATCHED, POOR, MISSED = (60, 210, 60), (225, 225, 40), (255, 40, 40)
UNMATCHED, UNKNOWN = (255, 140, 0), (90, 90, 200)


def paint_topological_errors(image: Array, errors: Array, *, spread: int = 2) -> RGB:
    """Paint topological errors over an image, each in the colour of its class (:data:`ERROR_COLOURS`).

    Args:
        image: grey values, shape (H, W).
        errors: 0, or the ``TopologicalError`` of the pixel, shape (H, W).
        spread: px by which a mark is larger than its error on each side, so that a single pixel can be seen.

    Returns:
        RGB image of shape (H, W, 3).
    """
    painted = _grey(image)
    for error, colour in ERROR_COLOURS.items():
        painted[ndimage.maximum_filter(np.asarray(errors) == error, 2 * spread + 1, mode="constant")] = colour
    return painted


def paint_objects(
    image: Array, cells: Array, instances: Array, *, field_of_interest: int = 0, num_classes: int = 2
) -> RGB:
    """Paint the objects of the reference over an image by their Jaccard index (SEG): yellow 0 to green 1, missed red.

    Outlines are those of the predicted cells: green where they match an object, orange where they match none. Unknown
    pixels are bluish.

    Args:
        image: grey values, shape (H, W).
        cells: predicted cells, shape (H, W).
        instances: reference cells, shape (H, W); -1 is unknown.
        field_of_interest: width in px of the band along the border; objects wholly inside are left unpainted.
        num_classes: background included; a cell matches an object of its own class.

    Returns:
        RGB image of shape (H, W, 3).
    """
    painted = _grey(image)
    objects = _objects(cells, instances, field_of_interest, num_classes)
    matched = {score.prediction_id for score in objects}
    fills = [(instances < 0, np.array(UNKNOWN))]
    for score in objects:
        colour = score.jaccard * np.array(MATCHED) + (1 - score.jaccard) * np.array(POOR)
        fills.append((instances == score.reference_id, np.array(MISSED) if score.prediction_id is None else colour))
    for mask, colour in fills:
        painted[mask] = (0.65 * painted[mask] + 0.35 * colour).astype(np.uint8)
    outline = (cells > 0) & (ndimage.minimum_filter(cells, 3) != ndimage.maximum_filter(cells, 3))
    is_matched = np.isin(cells, [number for number in matched if number is not None])
    painted[outline & is_matched] = MATCHED
    painted[outline & ~is_matched] = UNMATCHED
    return painted


def topology_figure(case: Mapping[str, Array], title: str = "", *, threshold: float = 0.5, radius: int = 20) -> Figure:
    """Topological errors over the image, as the warping error sees them at one threshold; all six classes.

    Args:
        case: ``image`` (1, H, W), ``pred`` (2, H, W; channel 1 is the cell) and ``instances`` (1, H, W).
        title: written above.
        threshold: the proposal is probability > threshold.
        radius: see ``metrics.warping_error.topological_errors``.
    """
    reference = case["instances"][0]
    # as the metric has it: an unknown pixel is membrane on which both agree
    probability = np.where(reference < 0, 0, case["pred"][1])
    found = topological_errors(probability, reference > 0, threshold=threshold, radius=radius)
    handles = [
        Patch(color=_hex(ERROR_COLOURS[error]), label=f"{error.name.lower().replace('_', ' ')}: {count} px")
        for error, count in found.counts.items()
    ]
    painted = paint_topological_errors(case["image"][0], found.errors)
    return _figure(painted, f"{title}  topological errors at threshold {threshold:g}", handles)


def objects_figure(case: Mapping[str, Array], title: str = "", *, field_of_interest: int = 0) -> Figure:
    """Objects of the reference over the image, matched or missed, with the Jaccard index of each (the terms of SEG).

    Args:
        case: ``image``, ``cells`` and ``instances``, each (1, H, W), and ``pred``, (K, H, W), of K classes.
        title: written above.
        field_of_interest: width in px of the band along the border; objects wholly inside are ignored.
    """
    cells, instances = case["cells"][0], case["instances"][0]
    num_classes = len(case["pred"]) if "pred" in case else 2
    objects = _objects(cells, instances, field_of_interest, num_classes)
    missed = sum(score.prediction_id is None for score in objects)
    names = (
        (MATCHED, f"matched: {len(objects) - missed}"),
        (MISSED, f"missed: {missed}"),
        (UNMATCHED, "prediction without a match"),
        (UNKNOWN, "unknown"),
    )
    handles = [Patch(color=_hex(colour), label=label) for colour, label in names]
    painted = paint_objects(
        case["image"][0], cells, instances, field_of_interest=field_of_interest, num_classes=num_classes
    )
    figure = _figure(painted, f"{title}  Jaccard index of each reference object", handles)
    for score in objects:
        y, x = ndimage.center_of_mass(instances == score.reference_id)
        text = f"{score.jaccard:.2f}"
        figure.axes[0].text(x, y, text, color="white", fontsize=8, ha="center", va="center", weight="bold")
    return figure


def points_figure(case: Mapping[str, Array], title: str = "") -> Figure:
    """Points over the image, found or missed, and outlines of the predicted cells; no overlap, for none is known.

    Args:
        case: ``image``, ``cells`` and ``instances``, each (1, H, W); -2 in the last is open.
        title: written above.
    """
    cells, instances = case["cells"][0].astype(np.int64), case["instances"][0].astype(np.int64)
    counted, single, held = holds_one(cells, instances)
    annotated = np.unique(instances[instances > 0])
    painted = _grey(case["image"][0])
    found = np.isin(instances, held)
    for mask, colour in ((instances == -1, UNKNOWN), (found, MATCHED), ((instances > 0) & ~found, MISSED)):
        painted[mask] = (0.35 * painted[mask] + 0.65 * np.array(colour)).astype(np.uint8)
    outline = (cells > 0) & (ndimage.minimum_filter(cells, 3) != ndimage.maximum_filter(cells, 3))
    painted[outline & np.isin(cells, single)] = MATCHED
    painted[outline & ~np.isin(cells, single)] = UNMATCHED
    names = (
        (MATCHED, f"found: {len(held)}"),
        (MISSED, f"missed: {len(annotated) - len(held)}"),
        (UNMATCHED, f"cells that hold no point or several: {len(counted) - len(single)}"),
        (UNKNOWN, "unknown"),
    )
    handles = [Patch(color=_hex(colour), label=label) for colour, label in names]
    return _figure(painted, f"{title}  points found, each by a cell of its own", handles)


class ErrorMaps:
    """Handler of an evaluator that draws where each case goes wrong, one PNG a case.

    A binary annotation, as of membranes, gets its topological errors; drawn instances get the match of each; points say
    which of them were found.

    Args:
        folder: where the pictures go.
        annotation: see ``annotation.InstancesFromAnnotationd``.
        cells_preset: post-processing in ``instances.PRESETS``, or its settings themselves: threshold and field of
            interest hold here too.
    """

    def __init__(self, folder: str | Path, *, annotation: Annotation, cells_preset: str | Settings) -> None:
        self.folder = Path(folder)
        self.annotation = annotation
        self.settings = _settings(cells_preset)
        self._names = figures.CaseNames()

    def attach(self, engine: Engine) -> None:
        """Draw while ``engine`` runs."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            name = self._names(item["image"])
            keys = ("image", "pred", "cells", "instances")
            case = {key: output[key].detach().cpu().numpy() for key in keys}
            if self.annotation == "binary":
                figure = topology_figure(case, name, threshold=self.settings["threshold"])
            elif self.annotation == "points":
                figure = points_figure(case, name)
            else:
                figure = objects_figure(case, name, field_of_interest=self.settings["field_of_interest"])
            figures.save_figure(figure, self.folder / f"{name}.png")


class EvaluationReport:
    """Handler of an evaluator that writes ``cases.csv`` and ``summary.json``.

    Of several processes that share the cases the first one writes, a row for every case in the order of the data.

    Args:
        folder: where the two files go.
        ckpt_path: checkpoint that was evaluated; its SHA-256 is recorded.
        conventions: settings that a reader must know to repeat the numbers.
        cells_preset: post-processing in ``instances.PRESETS``; its numbers are recorded.
        cells: the numbers themselves, where they are not the preset's.
        training_cases: what the weights were trained on, as the config's split says.
        validation_cases: what is scored; ``split.held_out`` records whether it shares an image with the former.
        metrics: the evaluator's metrics by name, in one or several mappings; thresholds and fields of interest of
            those that are ``IgniteMetricHandler`` are recorded.
    """

    def __init__(
        self,
        folder: str | Path,
        ckpt_path: str | Path,
        *,
        conventions: Mapping[str, Any],
        cells_preset: str,
        cells: Settings | None = None,
        training_cases: Sequence[Mapping[str, str]],
        validation_cases: Sequence[Mapping[str, str]],
        metrics: Sequence[Mapping[str, Any]],
    ) -> None:
        self.folder = Path(folder)
        self.ckpt_path = Path(ckpt_path)
        self.conventions = conventions
        self.postprocessing = {"preset": cells_preset, **(cells or _settings(cells_preset))}
        self.training_cases = training_cases
        self.validation_cases = validation_cases
        self.metrics = metrics
        self._cases: list[str] = []
        self._names = figures.CaseNames()

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._cases = []

    def _add(self, engine: Any) -> None:
        self._cases += [self._names(item["image"]) for item in engine.state.batch]

    def _write(self, engine: Any) -> None:
        shares = engines.gather(self._cases)
        if engines.is_secondary():
            return
        rows: list[dict[str, Any]] = [{"case": name} for share in shares for name in share]
        for name, details in engine.state.metric_details.items():
            # gathered process by process, too
            for row, score in zip(rows, details.flatten().tolist(), strict=True):
                row[name] = score
        dealt = [(turn, rank) for rank, share in enumerate(shares) for turn in range(len(share))]
        rows = [row for _, row in sorted(zip(dealt, rows, strict=True), key=lambda pair: pair[0])]
        logbook.write_table(rows, self.folder / "cases.csv")
        scores = {name: float(value) for name, value in engine.state.metrics.items()}
        summary = {
            # JSON knows no NaN: a score that is not defined is null
            "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()},
            "cases": len(rows),
            "checkpoint": {"path": str(self.ckpt_path), "sha256": checkpoint.sha256(self.ckpt_path)},
            "split": self._split([row["case"] for row in rows]),
            "metrics": {name: _conventions(metric) for group in self.metrics for name, metric in group.items()},
            "postprocessing": self.postprocessing,
            "conventions": dict(self.conventions),
        }
        with placed(self.folder / "summary.json") as part:
            part.write_text(json.dumps(summary, indent=1, default=str) + "\n")
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        logger.info("%d cases by %s: %s; written to %s", len(rows), self.ckpt_path, listed, self.folder)

    def _split(self, scored: Sequence[str]) -> dict[str, Any]:
        """Images on either side, by folder and name."""
        sides = {
            "training": [case["image"] for case in self.training_cases],
            "scored": [case["image"] for case in self.validation_cases],
        }
        together = os.path.commonpath([os.path.dirname(image) for side in sides.values() for image in side])
        root = os.path.dirname(together)
        return {
            "held_out": not set(sides["training"]) & set(sides["scored"]),
            "scored_cases": list(scored),
            **{side: [os.path.relpath(image, root) for image in images] for side, images in sides.items()},
        }


def _objects(cells: Array, instances: Array, field_of_interest: int, num_classes: int) -> list[ObjectScore]:
    """Objects of the reference, matched within their class."""
    pairs = pairs_by_class(cells, instances, num_classes)
    return [score for pair in pairs for score in ctc_seg_objects(*pair, field_of_interest=field_of_interest)]


def _settings(preset: str | Settings) -> Settings:
    if not isinstance(preset, str):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"cells_preset={preset!r}: choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]


def _conventions(metric: Any) -> dict[str, Any]:
    """What decides a score beside its definition, of an IgniteMetricHandler; of others only the name."""
    metric = getattr(metric, "metric_fn", metric)
    found: dict[str, Any] = {"class": type(metric).__name__}
    if hasattr(metric, "thresholds"):
        found |= {"thresholds": list(metric.thresholds), "connectivity": 4, "best_threshold_of": "all cases together"}
        found["rules"] = RULES
    if hasattr(metric, "field_of_interest"):
        found |= {"field_of_interest": metric.field_of_interest, "objects": "label ids"}
    if getattr(metric, "num_classes", 2) > 2:
        found |= {"classes": metric.num_classes, "of_class": metric.of_class or "each, added up"}
    return found


def _grey(image: Array) -> RGB:
    """The image as RGB, its 1st and 99th percentile at black and white; dimmed, so that colours stand out."""
    low, high = np.percentile(image, (1, 99))
    scaled = np.clip((np.asarray(image, dtype=np.float64) - low) / max(high - low, 1e-9), 0, 1)
    return np.repeat((200 * scaled).astype(np.uint8)[..., None], 3, axis=-1)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _figure(painted: RGB, title: str, handles: list[Patch]) -> Figure:
    height, width = painted.shape[:2]
    figure = Figure(figsize=(7, 7 * min(height / width, figures.TALLEST) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(painted)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure
