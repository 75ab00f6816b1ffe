"""``unet-paper check``: look at a folder once, say what looks wrong, and write the settings to train it with.

Into ``runs/checks/FOLDER`` go ``check.html`` and ``check.json``; ``config.yaml``, the overlay that ``unet-paper train``
lays over the configs; and, where annotations are no label images, those made of them in ``masks``, with ``pairs.csv``.
"""

import errno
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

import unet_paper
from unet_paper.app import check_page
from unet_paper.app.configuration import Choice, Configuration, configure
from unet_paper.app.folder_cases import PAIRS, FolderCases, annotation_of, cases_of, list_folds
from unet_paper.app.pace import seconds_per_step
from unet_paper.app.train import CHOSEN, REPORT, SCORING, check_folder
from unet_paper.data import folder_layout
from unet_paper.data.annotation import Annotation
from unet_paper.data.channels import Channel
from unet_paper.data.finding import UNUSABLE, Finding, grouped, shown
from unet_paper.data.findings import case_of, findings
from unet_paper.data.folder_layout import FolderLayout
from unet_paper.data.hold_out import hold_out
from unet_paper.data.outline_fit import outline_fit, point_fit
from unet_paper.data.survey import ImageFacts, Survey, load_case, survey
from unet_paper.running.placement import placed

PAGE = "check.html"
MINUTES = 30.0  # that training takes where nobody says
# settings of training that decide what is seen in the files
ASKED = (
    *("channel", "annotation", "out_channels", "ignore_value", "background_value", "mask_suffix", "point_radius"),
    "magnification",  # which others follow
)
_NUMBERS = ("out_channels", "ignore_value", "background_value")
_ABOVE_ZERO = {
    "minutes": f"a time above 0 is needed, such as {MINUTES:g}",
    "point_radius": "a radius above 0 px is needed, such as 4",
    "magnification": "a number above 0 is needed",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """What a check found and chose.

    Attributes:
        folder: that was looked at.
        survey: its numbers.
        findings: what looks wrong.
        configuration: the settings for it.
        place: where it was written.
    """

    folder: Path
    survey: Survey
    findings: Sequence[Finding]
    configuration: Configuration
    place: Path


def check(
    folder: Path,
    *,
    place: Path | None = None,
    minutes: float = MINUTES,
    channel: str | None = None,
    annotation: Annotation | None = None,
    out_channels: int | None = None,
    ignore_value: int | None = None,
    background_value: int | None = None,
    mask_suffix: str | None = None,
    point_radius: float | None = None,
    magnification: float | None = None,
) -> Check:
    """Look at a folder of images and annotations, and write what was found.

    Args:
        folder: see ``data.folder_layout``.
        place: where to write; ``check_folder`` where None.
        minutes: that training may take on this machine.
        channel: number or name of the channel to take from images with several, or several, as typed: ``[0, 2]``.
        annotation: what the masks are, as found in them where None.
        out_channels: classes of pixels, of masks that hold classes.
        ignore_value: of the masks, that means unknown.
        background_value: of the masks, 0 where None.
        mask_suffix: what a mask's name has after its image's, as found in the names where None.
        point_radius: px, of the disc around a point that is sure to be cell; by how near points are where None.
        magnification: of the images before the network; by the size of the cells where None.

    Raises:
        FileNotFoundError, ValueError: no images with annotations, none that can be used, or not one cell.
    """
    place = check_folder(folder) if place is None else place
    layout = folder_layout.find(folder, mask_suffix)
    asked = {
        "channel": None if channel is None else channel_value(channel),
        "out_channels": out_channels,
        "ignore_value": ignore_value,
        "background_value": background_value,
    }
    with _written_below(place):
        read = _read(folder, layout, place, point_radius, asked)
        found, suspicions = _looked_at(folder, layout, read, annotation, asked)
        chosen = configure(found, minutes=minutes, seconds_per_step=seconds_per_step, asked_magnification=magnification)
        as_asked = [Choice(name, value, "as asked for") for name, value in asked.items() if value is not None]
        of_masks = _of_masks(read, point_radius, ignore_value)
        of_survey = [choice for choice in chosen.choices if choice.setting != "channel" or asked["channel"] is None]
        held = hold_out(found)
        if held.listed:
            known = {case_of(image)["image"]: fold for image, fold in zip(found.images, held.of_image, strict=True)}
            # what the folder's own reader would refuse is not left out because a table is read
            others = [(one.image, one.annotation[0]) for one in layout.images] if layout.plain else []
            list_folds(read.cases, [known.get(case["image"], 0) for case in read.cases], place, others)
        by_table = held.listed or not layout.plain
        chosen = Configuration([*_data(layout, place, by_table), *as_asked, *of_masks, *of_survey])
        result = Check(folder, found, suspicions, chosen, place)
        _write(result, layout, minutes, asked["channel"])
    return result


def _read(
    folder: Path, layout: FolderLayout, place: Path, point_radius: float | None, asked: Mapping[str, Any]
) -> FolderCases:
    read = cases_of(
        layout,
        place,
        point_radius=point_radius,
        ignore_value=asked["ignore_value"],
        background_value=asked["background_value"] or 0,
    )
    if not read.cases:
        lines = map(_line, grouped(read.unusable))
        raise ValueError(f"{folder}: none of its images can be used:\n" + "\n".join(lines))
    if point_radius is not None and read.radius is None:
        raise ValueError(f"--point_radius {point_radius:g}: no image of {folder} is annotated by points; leave it out")
    return read


def _looked_at(
    folder: Path, layout: FolderLayout, read: FolderCases, annotation: Annotation | None, asked: Mapping[str, Any]
) -> tuple[Survey, list[Finding]]:
    """Numbers and findings of a folder."""
    background = asked["background_value"] or 0
    found = survey(
        read.cases,
        annotation=_annotation(read, annotation, background),
        channel=asked["channel"],
        ignore_value=read.ignore_value,
        background_value=background,
        num_classes=asked["out_channels"] or 2,
        other_files=layout.other_files,
        spacing=read.spacing,
        left_out=layout.left_out,
        folds=read.folds,
        made=read.made,
    )
    suspicions = [*grouped(read.unusable), *findings(found, _fit_of_other(found, asked["channel"]))]
    if not found.cells:
        raise ValueError(_no_cell(folder, suspicions))
    return found, suspicions


def _no_cell(folder: Path, suspicions: Sequence[Finding]) -> str:
    """Why there is nothing to learn from, a line a reason."""
    lines = map(_line, suspicions)
    return "\n".join([f"{folder}: no mask holds a cell that can be learnt from; draw some", *lines])


def _line(finding: Finding) -> str:
    files = f"{shown(finding.files, 3)}: " if finding.files else ""
    return f"  {finding.kind}: {files}{finding.what}; {finding.remedy}"


@contextmanager
def _written_below(place: Path) -> Iterator[None]:
    """What to do where a check cannot be written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
        yield
    except OSError as error:
        where = str(error.filename or place)
        if not (where.startswith(str(place)) or place.is_relative_to(where)):
            raise
        full = "free some room there, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno or 0)}: the check is written there, below the folder that you are in; {full}go "
            "to a folder that you may write to, and name the images by their path",
            where,
        ) from error


def checked(folder: Path, settings: dict[str, str]) -> None:
    """Check a folder that has not been checked as it is now, and say what was found.

    Args:
        folder: with images and masks.
        settings: as typed; ``minutes`` is taken out, and ``channel`` counts.

    Raises:
        ValueError: no number of minutes; masks that cannot be learnt from; otherwise as :func:`check`.
    """
    typed = "minutes" in settings
    minutes = minutes_of(settings)
    place = check_folder(folder)
    asked = asked_of(settings)
    if is_current(folder, place, minutes if typed else None, asked):
        print(f"checked before: {place / PAGE}")
    else:
        say(check(folder, minutes=minutes, **asked))
    _refuse_unusable(json.loads((place / REPORT).read_text(encoding="utf-8"))["findings"])


def asked_of(settings: Mapping[str, str]) -> dict[str, Any]:
    """What ``check`` takes of the settings, as its arguments.

    Raises:
        ValueError: what should be a whole number is none; a kind of annotation that there is not.

    >>> asked_of({"channel": "DAPI", "ignore_value": "255", "max_epochs": "3"})
    {'channel': 'DAPI', 'ignore_value': 255}
    """
    asked: dict[str, Any] = {}
    for name in ASKED:
        if name in _ABOVE_ZERO and name in settings:
            asked[name] = _above_zero(name, settings[name])
        elif name in settings and name in _NUMBERS:
            try:
                asked[name] = int(settings[name])
            except ValueError:
                what = "a number of classes" if name == "out_channels" else "a value of masks"
                raise ValueError(f"--{name} {settings[name]}: {what} is needed, a whole number") from None
        elif name in settings:
            asked[name] = settings[name]
    if asked.get("annotation", "binary") not in get_args(Annotation):
        raise ValueError(f"--annotation {asked['annotation']}: choose of {', '.join(get_args(Annotation))}")
    return asked


def _above_zero(name: str, typed: str) -> float:
    try:
        value = float(typed)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"--{name} {typed}: {_ABOVE_ZERO[name]}")
    return value


def _refuse_unusable(found: Sequence[Mapping[str, Any]]) -> None:
    unusable = [finding for finding in found if finding["kind"] in UNUSABLE]
    if unusable:
        lines = [f"  {', '.join(f['files'])}: {f['kind']}: {f['what']}; {f['remedy']}" for f in unusable]
        raise ValueError("not trained: some masks cannot be used:\n" + "\n".join(lines))


def minutes_of(settings: dict[str, str]) -> float:
    """The time that training may take, taken out of the settings.

    Raises:
        ValueError: no time above 0.
    """
    return _above_zero("minutes", settings.pop("minutes", str(MINUTES)))


def channel_value(typed: str) -> Channel:
    """One channel or several, as typed.

    >>> channel_value("2"), channel_value("DAPI"), channel_value("[0, GFP]"), channel_value("0,2")
    (2, 'DAPI', [0, 'GFP'], [0, 2])
    """
    names = [name.strip(" '\"") for name in typed.strip("[]() ").split(",")]
    values = [int(name) if name.isdecimal() else name for name in names]
    return values if len(values) > 1 or typed.startswith("[") else values[0]


def say(found: Check) -> None:
    """Print what a check found, and where the rest stands."""
    survey = found.survey
    size = f"of about {survey.diameter(50):.0f} px" if survey.sizes_known else "of unknown size"
    print(f"{found.folder}: {len(survey.images)} images, {survey.cells} cells {size}, {len(found.findings)} findings")
    if pointed := sum(image.pointed for image in survey.images):
        print(
            f"  annotated by points: {pointed} images; every cell must have its point there. A disc of "
            f"{found.configuration['point_radius']:g} px around it is cell, the line half way to the next one is "
            "background, all else is left open: look at the pictures"
        )
    for finding in found.findings:
        print(f"{_line(finding)}.")
    settings = {choice.setting: choice.why for choice in found.configuration.choices}
    if "in_channels" in settings and settings.get("channel") != "as asked for":
        print(f"  all channels are taken: {settings['in_channels']} alone")
    print(f"report: {found.place / PAGE}; settings: {found.place / CHOSEN}", flush=True)


def is_current(folder: Path, place: Path, minutes: float | None, asked: Mapping[str, Any] | None = None) -> bool:
    """Whether ``place`` holds a check of the folder as it is now, for so many minutes (None: any), and as asked for."""
    try:
        report = json.loads((place / REPORT).read_text(encoding="utf-8"))
        layout = folder_layout.find(folder, (asked or {}).get("mask_suffix"))
    except (OSError, ValueError):
        return False
    same = report.get("files") == _fingerprint(layout) and minutes in (None, report.get("minutes"))
    chosen = report.get("configuration", {})
    wanted = {name: channel_value(value) if name == "channel" else value for name, value in (asked or {}).items()}
    wanted.pop("mask_suffix", None)  # which files it pairs counts above
    same = same and all(chosen.get(name) == value for name, value in wanted.items())
    return bool(same and report.get("unet_paper") == unet_paper.__version__ and (place / CHOSEN).is_file())


def _facts(image: ImageFacts) -> dict[str, Any]:
    """What the report tells of an image: all but its small pictures."""
    return {name: value for name, value in asdict(image).items() if name not in ("thumbnail", "miniature")}


def _data(layout: FolderLayout, place: Path, by_table: bool) -> list[Choice]:
    choices = []
    if by_table:
        table = str((place / PAIRS).resolve())
        for part in ("training", "validation"):
            listed = {
                "_target_": "unet_paper.data.datasets.listed",
                "pairs_csv": table,
                "part": part,
                "fold": "@fold",
                "folds": "@folds",
                "spread_folds": "@spread_folds",
            }
            choices.append(Choice(f"{part}_cases", listed, "images and masks that the check has paired"))
    elif layout.mask_suffix:
        choices.append(Choice("mask_suffix", layout.mask_suffix, "what a mask's name has after its image's"))
    return choices


def _annotation(read: FolderCases, asked: Annotation | None, background_value: int) -> Annotation:
    if read.radius is None:
        return asked or annotation_of(read.cases, read.ignore_value, background_value)
    if asked not in (None, "points"):
        raise ValueError(f"--annotation {asked}: some images are annotated by points; leave it out, or the points")
    return "points"


def _of_masks(read: FolderCases, point_radius: float | None, ignore_value: int | None) -> list[Choice]:
    """What the masks that the check has made need in training."""
    choices = []
    if read.radius is not None:
        rule = "px; a quarter of the distance below which a tenth of the points have their neighbour, but 2 to 5"
        why = f"{rule}: sure to be cell" if point_radius is None else "as asked for"
        choices.append(Choice("point_radius", read.radius, why))
    if read.ignore_value is not None and ignore_value is None:
        choices.append(Choice("ignore_value", read.ignore_value, "in masks that the check has made: not looked at"))
    return choices


def _fit_of_other(found: Survey, channel: Channel | None) -> Any:
    transform = found.transform

    def fit(image: ImageFacts, other: ImageFacts) -> float:
        grey = load_case(case_of(image), transform, channel).pixels.astype(np.float32).mean(axis=0)
        cells = load_case(case_of(other), transform, channel).cells
        return point_fit(grey, cells) if other.pointed else outline_fit(grey, cells)[0]

    return fit


def _fingerprint(layout: FolderLayout) -> str:
    """Of names, sizes and times of all files that belong to a data set."""
    files = [file for one in layout.images for file in (one.image, *one.annotation)]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    folds = [list(one.folds) for one in layout.images if one.folds]
    return hashlib.sha256(json.dumps([stats, *folds]).encode()).hexdigest()


def _write(result: Check, layout: FolderLayout, minutes: float, channel: Channel | None) -> None:
    head = (
        f"Settings for {result.folder}, written by unet-paper check from what the images and masks are.\n"
        "It lies over train.yaml, data_folder.yaml and best_folder.yaml. Change what you like: unet-paper train uses\n"
        "it as it is for as long as the images stay the same."
    )
    overlay = result.configuration.to_yaml(head)
    _keep_changes(result.place)
    report = {
        "unet_paper": unet_paper.__version__,
        "config_sha256": hashlib.sha256(overlay.encode()).hexdigest(),
        "folder": str(result.folder),
        "minutes": minutes,
        "files": _fingerprint(layout),
        "findings": [asdict(finding) for finding in result.findings],
        "configuration": {choice.setting: choice.value for choice in result.configuration.choices},
        "summary": summary(result.survey),
        "images": [_facts(image) for image in result.survey.images],
    }
    with placed(result.place / REPORT) as part:
        part.write_text(json.dumps(_finite(report), indent=1), encoding="utf-8")
    with placed(result.place / CHOSEN) as part:
        part.write_text(overlay, encoding="utf-8")
    with placed(result.place / SCORING) as part:
        part.write_text("# What the weights chose counts where they are scored.\nmin_size: null\n")
    page = check_page.page(result.survey, result.findings, result.configuration, str(result.folder), channel)
    with placed(result.place / PAGE) as part:
        part.write_text(page, encoding="utf-8")


def _keep_changes(place: Path) -> None:
    """Move settings that a person has changed aside, before others are written."""
    config = place / CHOSEN
    try:
        written = json.loads((place / REPORT).read_text(encoding="utf-8")).get("config_sha256")
    except (OSError, ValueError):
        written = None
    if not config.is_file() or hashlib.sha256(config.read_bytes()).hexdigest() == written:
        return
    aside = next(path for n in range(1, 10**6) if not (path := place / f"{CHOSEN}.{n}").exists())
    config.replace(aside)
    print(f"{config} had changes of yours: it is now {aside}")


def summary(found: Survey) -> dict[str, Any]:
    """The numbers of a survey that go into a line or a table each."""
    images = found.images
    heights, widths = zip(*(image.shape for image in images), strict=True)
    counts = [len(image.areas) for image in images]
    sizes = {image.pixel_size for image in images}
    bits = int(max(image.largest for image in images)).bit_length()
    return {
        "images": len(images),
        "height": [min(heights), max(heights)],
        "width": [min(widths), max(widths)],
        "types": sorted({image.dtype for image in images}),
        "channels": sorted({image.channels for image in images}),
        "grey_values": [min(image.low for image in images), max(image.largest for image in images)],
        "bits_used": None if any("float" in image.dtype for image in images) else bits,
        "pixel_size_um": [list(size) if size else None for size in sorted(sizes, key=str)],
        "annotation": found.annotation,
        "cells": found.cells,
        "cells_per_image": [min(counts), float(np.median(counts)), max(counts)],
        "diameter_px": [found.diameter(percent) for percent in (5, 50, 95)],
        "touching": found.touching,
        "foreground": found.foreground,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
