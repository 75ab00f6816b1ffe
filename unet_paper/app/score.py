"""Scores two sets of files without any network: maps of membranes, or cells with ids.

    python -m unet_paper.app.score LABEL.tif PREDICTION.tif
    python -m unet_paper.app.score 01_GT 01_RES --field_of_interest 50

Two files, stacks or single images, get the scores of the ISBI 2012 challenge: LABEL is 0 on membrane and 255 or 1 in
cells, PREDICTION the probability of cell, as floating point in [0, 1] or with 8 or 16 bits of which the full range is
1. Two folders of label images get SEG and DET of the Cell Tracking Challenge: LABEL holds the reference, or the folders
SEG and TRA with it; frames are paired by name or by number. What is doubtful about the files is said below the table.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet_paper.app import score_files
from unet_paper.app.score_files import Frames, Membranes
from unet_paper.data.written_by_us import read_mark
from unet_paper.metrics.ctc import ctc_det, ctc_det_errors, ctc_seg, ctc_seg_objects, op_csb
from unet_paper.metrics.em_inputs import THRESHOLDS, V_THRESHOLDS, Statistics, sweep
from unet_paper.metrics.iou import iou
from unet_paper.metrics.pixel_error import pixel_error_from_statistics, pixel_error_statistics
from unet_paper.metrics.rand_error import rand_error_from_statistics, rand_error_statistics
from unet_paper.metrics.v_rand import v_info_from_statistics, v_rand_from_statistics, v_statistics
from unet_paper.metrics.warping_error import warping_error_from_statistics, warping_error_statistics
from unet_paper.running.placement import placed
from unet_paper.running.tables import markdown_table


class Score(NamedTuple):
    """One score of a pair of files."""

    name: str
    value: float
    better: str
    """``"lower"`` or ``"higher"``."""
    threshold: float | None = None
    """Where the score is best, one for the whole stack; cells have none."""
    by_threshold: tuple[float, ...] = ()
    """The score at every threshold of the sweep."""


def em_scores(membranes: Membranes, *, threshold: float | None = None) -> list[Score]:
    """All scores of the ISBI 2012 challenge.

    Args:
        membranes: label and probabilities.
        threshold: one threshold in [0, 1] instead of the challenge's sweeps.

    Raises:
        ValueError: a threshold outside [0, 1].
    """
    pair = membranes.probability, membranes.label
    thresholds, v_thresholds = sweep(threshold, THRESHOLDS), sweep(threshold, V_THRESHOLDS)
    warping = warping_error_statistics(*pair, thresholds)
    of_rand, of_info = v_statistics(*pair, v_thresholds)
    mismatches = partial(warping_error_from_statistics, count="mismatches")
    clustered = partial(warping_error_from_statistics, clustered=True)
    pixels, pairs = (statistics(*pair, thresholds) for statistics in (pixel_error_statistics, rand_error_statistics))
    in_cells = rand_error_statistics(*pair, thresholds, foreground_restricted=True)
    lower: list[tuple[str, Statistics, Callable[[Statistics], float]]] = [
        ("warping_error", warping, warping_error_from_statistics),
        ("warping_error_clustered", warping, clustered),
        ("warping_error_all_mismatches", warping, mismatches),
        ("pixel_error", pixels, pixel_error_from_statistics),
        ("rand_error", pairs, rand_error_from_statistics),
        ("rand_error_cells", in_cells, rand_error_from_statistics),
    ]
    higher: list[tuple[str, Statistics, Callable[[Statistics], float]]] = [
        ("V_rand", of_rand, v_rand_from_statistics),
        ("V_rand_micro", of_rand, partial(v_rand_from_statistics, average="micro")),
        ("V_info", of_info, v_info_from_statistics),
    ]
    return [
        *(_best(name, statistics, score, "lower", thresholds) for name, statistics, score in lower),
        *(_best(name, statistics, score, "higher", v_thresholds) for name, statistics, score in higher),
    ]


def _best(
    name: str,
    statistics: Statistics,
    score: Callable[[Statistics], float],
    better: str,
    thresholds: Sequence[float],
) -> Score:
    values = tuple(score(row[None]) for row in statistics)
    best = int(np.argmin(values) if better == "lower" else np.argmax(values))
    return Score(name, values[best], better, thresholds[best], values)


def ctc_scores(frames: Frames, *, field_of_interest: int = 0) -> list[Score]:
    """SEG, DET, their mean OP_CSB, and the foreground IoU.

    Args:
        frames: predicted and reference label images.
        field_of_interest: width in px of the band along the border in which objects are ignored.

    Raises:
        ValueError: images that cannot be compared, or a band that leaves nothing.
    """
    seg = det = None
    scores = []
    if frames.references:
        seg = ctc_seg(*frames.segmented(), field_of_interest=field_of_interest)
        scores.append(Score("SEG", seg, "higher"))
    if frames.markers:
        det = ctc_det(*frames.marked(), field_of_interest=field_of_interest)
        scores.append(Score("DET", det, "higher"))
    if seg is not None and det is not None:
        scores.append(Score("OP_CSB", op_csb(seg, det), "higher"))
    if frames.references:
        scores.append(Score("IoU", iou(*frames.segmented()), "higher"))
    return scores


def undefined_scores(scores: Sequence[Score], frames: Frames, *, field_of_interest: int = 0) -> list[str]:
    """Which scores stand at 0 although there is nothing to be found.

    Args:
        scores: of :func:`ctc_scores`.
        frames: what was scored.
        field_of_interest: as there.
    """
    objects: dict[str, Callable[[], int]] = {
        "SEG": lambda: len(ctc_seg_objects(*frames.segmented(), field_of_interest=field_of_interest)),
        "DET": lambda: ctc_det_errors(*frames.marked(), field_of_interest=field_of_interest).objects,
    }
    names = [score.name for score in scores if score.name in objects and not score.value and not objects[score.name]()]
    if not names:
        return []
    where = f" with a pixel inside the field of interest of {field_of_interest} px" if field_of_interest else ""
    return [
        f"{' and '.join(names)}: no reference holds a cell{where}, so that there is nothing to be found: not defined, "
        "and written as 0"
    ]


def table(scores: Sequence[Score]) -> str:
    """The scores as a table in Markdown."""
    with_threshold = any(score.threshold is not None for score in scores)
    rows = [
        [
            score.name,
            f"{score.value:.6f}",
            *([str(round(score.threshold, 4)) if score.threshold is not None else "-"] if with_threshold else []),
            f"{score.better} is better",
        ]
        for score in scores
    ]
    return "\n".join(markdown_table(["score", "value", *(["threshold"] if with_threshold else []), ""], rows))


def summary(scores: Sequence[Score], files: Membranes | Frames, conventions: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` writes: files, scores with their values at every threshold, conventions and notes."""
    return {
        "label": str(files.label_path),
        "prediction": str(files.prediction_path),
        **files.sizes(),
        "conventions": dict(conventions),
        "scores": {score.name: score.value for score in scores},
        "thresholds": {score.name: score.threshold for score in scores if score.threshold is not None},
        "by_threshold": {score.name: list(score.by_threshold) for score in scores if score.by_threshold},
        "notes": list(files.notes),
    }


def draw_membranes(membranes: Membranes, threshold: float, folder: Path) -> int:
    """One picture a slice: its topological errors at a threshold, over the probabilities; returns how many."""
    from unet_paper.running.evaluation_report import topology_figure  # matplotlib: where something is drawn
    from unet_paper.running.figures import save_figure

    for z, (p, cell) in enumerate(zip(membranes.probability, membranes.label, strict=True)):
        case = {"image": p[None], "pred": np.stack([1 - p, p]), "instances": cell[None].astype(np.int32)}
        name = f"slice_{z:03d}"
        save_figure(topology_figure(case, name, threshold=threshold), _own(folder / f"{name}.png"))
    return len(membranes.probability)


def draw_cells(frames: Frames, field_of_interest: int, folder: Path) -> int:
    """One picture a frame with a reference segmentation: the match of each of its objects; returns how many."""
    from unet_paper.running.evaluation_report import objects_figure  # matplotlib: where something is drawn
    from unet_paper.running.figures import save_figure

    predictions, references = frames.segmented()
    for name, prediction, reference in zip(frames.references, predictions, references, strict=True):
        case = {
            "image": (prediction > 0).astype(np.float32)[None],
            "cells": prediction[None],
            "instances": reference[None],
        }
        figure = objects_figure(case, name, field_of_interest=field_of_interest)
        save_figure(figure, _own(folder / f"{name}.png"))
    return len(references)


def _own(picture: Path) -> Path:
    """The file of a picture, unless it is the user's: an annotation may have the name of its frame, too.

    Raises:
        FileExistsError: naming the file.
    """
    if picture.exists() and not read_mark(picture):
        raise FileExistsError(f"{picture}: not written by this program; name another folder with --error_maps")
    return picture


def _refuse_other_json(file: Path | None) -> None:
    if file is None or not file.exists():
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "scores" not in content:
        raise FileExistsError(f"{file}: holds no scores of this program; name another file with --json")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    description, _, details = (__doc__ or "").partition("\n")
    found = argparse.ArgumentParser(
        prog="unet_paper.app.score",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("label", type=Path, metavar="LABEL", help="file of the annotation, or folder of label images")
    found.add_argument("prediction", type=Path, metavar="PREDICTION", help="file of probabilities, or folder of cells")
    found.add_argument(
        "--threshold", type=float, help="files: one threshold instead of the challenge's sweep 0, 0.1 .."
    )
    found.add_argument("--grey_maximum", type=float, help="files: grey value of PREDICTION that is probability 1")
    found.add_argument("--invert_label", action="store_true", help="files: in LABEL membrane is white, cells are 0")
    found.add_argument("--invert_prediction", action="store_true", help="files: PREDICTION is high on membrane")
    found.add_argument(
        "--field_of_interest", type=int, default=0, help="folders: px along the border in which objects are ignored (0)"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write everything, with every threshold, to FILE")
    found.add_argument("--error_maps", type=Path, metavar="FOLDER", help="draw where it goes wrong, a PNG an image")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Score two files or two folders, print a table and what is to be said of the files.

    Args:
        argv: arguments; those of the process if left out.

    Returns:
        0, or 2 where the files cannot be scored; why, is printed to the standard error.
    """
    given = parser().parse_args(argv)
    try:
        _run(given)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(given: argparse.Namespace) -> None:
    folders = [path.expanduser().is_dir() for path in (given.label, given.prediction)]
    if any(folders) != all(folders):
        raise ValueError(
            f"{given.label}, {given.prediction}: one is a folder and one is not; give two files (membranes) or two "
            "folders of label images (cells)"
        )
    _refuse_foreign_options(given, folders=all(folders))
    _refuse_other_json(given.json)
    files: Membranes | Frames
    if all(folders):
        files = score_files.read_frames(given.label, given.prediction)
        scores = ctc_scores(files, field_of_interest=given.field_of_interest)
        conventions = {"field_of_interest": given.field_of_interest, "objects": "label ids"}
        undefined = undefined_scores(scores, files, field_of_interest=given.field_of_interest)
        files = replace(files, notes=(*files.notes, *undefined))
    else:
        files = score_files.read_membranes(
            given.label,
            given.prediction,
            grey_maximum=given.grey_maximum,
            invert_label=given.invert_label,
            invert_prediction=given.invert_prediction,
        )
        scores = em_scores(files, threshold=given.threshold)
        conventions = {"connectivity": 4, "inverted_label": given.invert_label, "scaled_by": files.scaled_by}
    print(table(scores))
    print(f"\n{files.described()}" + (f"; field of interest: {given.field_of_interest} px" if all(folders) else ""))
    for note in files.notes:
        print(f"note: {note}")
    if given.json is not None:
        with placed(given.json) as part:
            part.write_text(json.dumps(summary(scores, files, conventions), indent=1) + "\n")
        print(f"written: {given.json}")
    if given.error_maps is not None:
        given.error_maps.mkdir(parents=True, exist_ok=True)
        if isinstance(files, Frames):
            number = draw_cells(files, given.field_of_interest, given.error_maps)
        else:
            number = draw_membranes(files, float(scores[0].threshold or 0), given.error_maps)
        print(f"written: {number} pictures in {given.error_maps}")


def _refuse_foreign_options(given: argparse.Namespace, *, folders: bool) -> None:
    """An option that would have no effect is an error."""
    of_files = ("threshold", "grey_maximum", "invert_label", "invert_prediction")
    for name in of_files if folders else ("field_of_interest",):
        if getattr(given, name) not in (None, False, 0):
            kind, other = ("folders of label images", "files") if folders else ("files of membranes", "folders")
            raise ValueError(f"--{name}: is for {other}, and {given.label} and {given.prediction} are {kind}")


if __name__ == "__main__":
    sys.exit(main())
