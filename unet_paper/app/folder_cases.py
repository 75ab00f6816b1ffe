"""Cases of a folder of one's own, as the check and the training take them."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from unet_paper.data import drawn_cells
from unet_paper.data.annotation import Annotation
from unet_paper.data.datasets import Case, pairs
from unet_paper.data.findings import Finding, no_case
from unet_paper.data.folder_layout import AnnotatedImage, FolderLayout
from unet_paper.data.reader import LabelReader, extension, page_shapes
from unet_paper.running.placement import placed

PAIRS = "pairs.csv"


def cases_of(layout: FolderLayout, place: Path) -> tuple[list[Case], list[Finding]]:
    """Cases of a folder, for which label images are made where there are none, and files that cannot be cases.

    Args:
        layout: of the folder.
        place: where label images are made, in ``masks``, and, where ``data.datasets.folder`` would not find them, the
            pairs are listed, in :data:`PAIRS`.
    """
    cases: list[Case] = []
    rows, unusable = [], []
    for one, name in zip(layout.images, _names([one.image for one in layout.images]), strict=True):
        image_is_read = False
        try:
            page_shapes(one.image)
            image_is_read = True
            mask = one.annotation[0] if one.is_label_image else _made(one, place / "masks" / name)
            cases += pairs(one.image, mask)
        except (ValueError, FileNotFoundError, PermissionError) as error:
            unusable.append(no_case(one, str(error), image_is_read))
        else:
            rows.append({"image": str(one.image.resolve()), "mask": str(mask.resolve())})
    if not layout.plain:
        text = io.StringIO()
        writer = csv.DictWriter(text, ("image", "mask"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with placed(place / PAIRS) as part:
            part.write_text(text.getvalue(), encoding="utf-8")
    return cases, unusable


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


def _made(one: AnnotatedImage, mask: Path) -> Path:
    labels = drawn_cells.label_image(one.image, one.annotation)
    with placed(mask) as part:
        tifffile.imwrite(part, labels, compression="zlib", photometric="minisblack")
    return mask


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
