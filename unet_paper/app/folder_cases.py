"""Cases of a folder of one's own, as the check and the training take them."""

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_paper.data import drawn_cells
from unet_paper.data.annotation import OPEN, UNKNOWN, Annotation
from unet_paper.data.datasets import Case, pairs
from unet_paper.data.finding import Finding, no_case
from unet_paper.data.folder_layout import FolderLayout
from unet_paper.data.points import densest, disc_radius
from unet_paper.data.reader import LabelReader, extension, page_shapes, split_page
from unet_paper.running.placement import placed

PAIRS = "pairs.csv"


@dataclass(frozen=True)
class FolderCases:
    """What training reads of a folder.

    Attributes:
        cases: with ``image`` and ``label``.
        unusable: files that cannot be cases.
        spacing: px, how far points of cells are apart where they lie densest; None: there are no two.
        radius: px, of the discs around points; None: there are no points.
        ignore_value: of all masks, that means unknown; None: none does.
        folds: of each image, by its address, where the folder's table has them.
        made: the labels among the cases that were made of drawings.
    """

    cases: Sequence[Case]
    unusable: Sequence[Finding] = ()
    spacing: float | None = None
    radius: float | None = None
    ignore_value: int | None = None
    folds: Mapping[str, int] = field(default_factory=dict)
    made: Collection[str] = ()


def cases_of(
    layout: FolderLayout,
    place: Path,
    *,
    point_radius: float | None = None,
    ignore_value: int | None = None,
    background_value: int = 0,
) -> FolderCases:
    """Cases of a folder, for which label images are made where there are none.

    Args:
        layout: of the folder.
        place: where label images are made, in ``masks``, and, where ``data.datasets.folder`` would not find them, the
            pairs are listed, in :data:`PAIRS`.
        point_radius: px, of the disc around a point; None: :func:`unet_paper.data.points.disc_radius` of all of them.
        ignore_value, background_value: of the masks that are label images; those made have the same.
    """
    distances = _distances(layout)
    radius = None
    if distances is not None:
        radius = disc_radius(distances) if point_radius is None else point_radius
    values = UNKNOWN if ignore_value is None else ignore_value, background_value
    cases: list[Case] = []
    rows, unusable, unknown = [], [], False
    folds: dict[str, int] = {}
    made: set[str] = set()
    for one, name in zip(layout.images, _names([one.image for one in layout.images]), strict=True):
        image_is_read = False
        try:
            page_shapes(one.image)
            image_is_read = True
            mask = one.annotation[0]
            if not one.is_label_image:
                mask = place / "masks" / name
                labels = drawn_cells.label_image(one.image, one.annotation, radius)
                unknown = unknown or bool((labels == UNKNOWN).any())
                _write(_as_valued(labels, *values), mask)
            of_image = pairs(one.image, mask)
            if len(one.folds) not in (0, 1, len(of_image)):
                raise ValueError(
                    f"{one.image}: has {len(of_image)} pages, and {len(one.folds)} folds in {PAIRS}; give one for all, "
                    "or one a page"
                )
            cases += of_image
            made |= {case["label"] for case in of_image if not one.is_label_image}
            of_pages = one.folds if len(one.folds) > 1 else [*one.folds] * len(of_image)
            folds |= {case["image"]: fold for case, fold in zip(of_image, of_pages, strict=False)}
        except (ValueError, FileNotFoundError, PermissionError) as error:
            unusable.append(no_case(one, str(error), image_is_read))
        else:
            rows.append({"image": os.path.abspath(one.image), "mask": os.path.abspath(mask)})
    if not layout.plain:
        _write_table(rows, place)
    ignored = UNKNOWN if unknown and ignore_value is None else ignore_value
    return FolderCases(cases, unusable, None if distances is None else densest(distances), radius, ignored, folds, made)


def list_folds(
    cases: Sequence[Case], folds: Sequence[int], place: Path, others: Sequence[tuple[Path, Path]] = ()
) -> None:
    """List pairs with the fold of each, a number for every page, in :data:`PAIRS`.

    Args:
        cases: the pages of a file one after the other.
        folds: of each case.
        place: where to write.
        others: images and masks that are listed even if no case is of them, in fold 0.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for case, fold in zip(cases, folds, strict=True):
        # not where a link leads to: stores of large files name them by their content
        image, mask = (os.path.abspath(split_page(case[key])[0]) for key in ("image", "label"))
        rows.setdefault((image, mask), []).append(fold)
    for pair in others:
        rows.setdefault((os.path.abspath(pair[0]), os.path.abspath(pair[1])), [0])
    _write_table(
        [{"image": image, "mask": mask, "fold": " ".join(map(str, of))} for (image, mask), of in rows.items()], place
    )


def _write_table(rows: Sequence[Mapping[str, str]], place: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image", "mask"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with placed(place / PAIRS) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def _distances(layout: FolderLayout) -> NDArray[np.float64] | None:
    """From each point of a cell to the nearest other one, px, of all images; None where there are no points at all."""
    found: list[NDArray[np.float64]] = []
    for one in (one for one in layout.images if not one.is_label_image):
        try:
            found += drawn_cells.distances_of_points(one.image, one.annotation)
        except (ValueError, OSError):
            continue  # named where its label image is made
    return np.concatenate(found) if found else None


def _names(images: Sequence[Path]) -> list[Path]:
    """Of each image a name for its mask that no other has: images of one name lie in several folders.

    >>> [str(name) for name in _names([Path("a/x.1.png"), Path("b/x.1.png"), Path("b/x.2.tif"), Path("b/x.2.png")])]
    ['a/x.1.tif', 'b/x.1.tif', 'b/x.2.tif.tif', 'b/x.2.png.tif']
    """
    paths = [Path(os.path.abspath(image)) for image in images]
    shared = os.path.commonpath([path.parent for path in paths])
    within = [path.relative_to(shared) for path in paths]
    short = [path.with_name(path.name[: -len(extension(path))] + ".tif") for path in within]
    return [
        name if short.count(name) == 1 else path.with_name(f"{path.name}.tif")
        for name, path in zip(short, within, strict=True)
    ]


def _as_valued(labels: NDArray[np.int32], ignore_value: int, background_value: int) -> NDArray[np.int32]:
    """A label image in the values of a folder's masks: no cell has that of unknown or of background.

    >>> _as_valued(np.array([0, 1, 2, 3, -1, -2], np.int32), 255, 1).tolist()
    [1, 2, 3, 4, 255, -2]
    """
    background = max(background_value, 0)  # below, there is none
    values = range(1, int(labels.max(initial=0)) + 3)
    ids = np.array([value for value in values if value not in (ignore_value, background)])
    valued = np.where(labels > 0, ids[np.maximum(labels, 1) - 1], background)
    valued[labels == UNKNOWN] = ignore_value
    valued[labels == OPEN] = OPEN
    return valued.astype(np.int32)


def _write(labels: NDArray[np.int32], mask: Path) -> None:
    with placed(mask) as part:
        tifffile.imwrite(part, labels, compression="zlib", photometric="minisblack")


def annotation_of(cases: Sequence[Case], ignore_value: int | None = None, background_value: int = 0) -> Annotation:
    """How masks were drawn: ``binary`` where none holds a second value of cells, else ``instances``.

    Args:
        cases: with ``label``.
        ignore_value, background_value: of the masks, that mean unknown, and background.
    """
    no_cells = [background_value, *([] if ignore_value is None else [ignore_value])]
    for case in cases:
        try:
            pixels, _ = LabelReader().get_data(case["label"])
        except (ValueError, OSError):
            continue  # said by the survey
        if len(np.setdiff1d(pixels, no_cells)) > 1:
            return "instances"
    return "binary"
