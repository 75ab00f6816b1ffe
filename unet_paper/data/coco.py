"""Outlines and masks as COCO's JSON has them (Lin et al. 2014, arXiv:1405.0312): one file for many images."""

import functools
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.drawing import EMPTY, Drawing, filled, of_mask, read_json, say_left_out
from unet_paper.data.points import CELL, UNKNOWN_AREA, meaning_of

__all__ = ["coco_drawings", "coco_file"]

logger = logging.getLogger(__name__)


def coco_file(files: Sequence[Path], image: Path) -> Path:
    """Which of several COCO files names an image.

    Raises:
        ValueError: none, or more than one.
    """
    naming = [file for file in files if _ids_of(image, read_json(file), file)]
    if len(naming) == 1:
        return naming[0]
    listed = ", ".join(map(str, naming or files))
    if naming:
        raise ValueError(f"{listed}: all of them name the image {image.name}; keep one")
    raise ValueError(f"{listed}: names no image {image.name}; COCO's images have a file_name each")


def coco_drawings(content: Any, file: Path, image: Path, shape: tuple[int, ...]) -> Iterator[Drawing]:
    """What a COCO file holds of an image: polygons, run lengths as numbers or as text.

    Args:
        content: of the file.
        file: for errors.
        image: that is asked for, by its name.
        shape: of the image, (H, W).

    Raises:
        ValueError: if the file is not as COCO has it, does not name the image or names it twice, or is of another size.
    """
    ids = _ids_of(image, content, file)
    if len(ids) != 1:
        what = f"names {len(ids)} images {image.name}" if ids else f"names no image {image.name}"
        raise ValueError(f"{file}: {what}; COCO's images have a file_name each")
    with _coco_as_it_should_be(file):
        (entry,) = (entry for entry in content["images"] if entry["id"] == ids[0])
        stated = (int(entry.get("height") or shape[0]), int(entry.get("width") or shape[1]))
        if stated != tuple(shape):
            raise ValueError(
                f"{file}: {image.name} was of {stated} px when its cells were drawn, and has {shape} px: was it "
                "scaled? Use the image that was drawn on"
            )
        _say_strangers(file, _strangers(content))
        classes = {entry.get("id"): entry.get("name") for entry in content.get("categories") or []}
        left_out, groups = [], 0
        for entry in content["annotations"]:
            # some programs write one of the two as text
            if str(entry["image_id"]) != str(ids[0]):
                continue
            drawn = list(_of_annotation(entry, f"{file}: annotation {entry.get('id')}", shape, file))
            meaning = meaning_of(classes.get(entry.get("category_id")))
            if meaning == CELL and entry.get("iscrowd") and any(_is_in_pieces(one.inside) for one in drawn):
                meaning = UNKNOWN_AREA
                groups += 1
            yield from (one._replace(meaning=meaning) for one in drawn)
            left_out += [] if drawn else [EMPTY]
    if groups:
        logger.warning(
            "%s: %d annotations of %s are groups of cells (iscrowd, in several pieces), taken for unknown: draw their "
            "cells one by one to learn from them",
            file,
            groups,
            image.name,
        )
    say_left_out(left_out, file)


def _ids_of(image: Path, content: Any, file: Path) -> list[Any]:
    """Ids that a COCO file has for an image: by its name, and its folders where several have that name."""
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{file}: neither GeoJSON nor COCO, which has images and annotations; {_export(content)}")
    with _coco_as_it_should_be(file):
        named = [(entry["id"], Path(_composed(entry["file_name"].replace("\\", "/")))) for entry in content["images"]]
    same = [(number, path) for number, path in named if path.name == _composed(image.name)]
    parts = Path(_composed(str(image.resolve()))).parts
    closest = [number for number, path in same if parts[-len(path.parts) :] == path.parts]
    return closest if len(same) > 1 and closest else [number for number, _ in same]


# programs whose own JSON is not read, what it has, and how to get from it to one that is
_VIA = "there, Annotation, Export Annotations (COCO format)"
_OF_PROGRAMS = (
    ("LabelMe", {"shapes", "imagePath"}, "turn its files into one of COCO, as the program labelme2coco does"),
    ("VGG Image Annotator", {"regions", "filename"}, _VIA),
    ("VGG Image Annotator", {"_via_img_metadata"}, _VIA),
    ("Label Studio", {"annotations", "data"}, "there, Export, COCO"),
    ("Supervisely", {"objects", "size"}, "there, export to COCO"),
)


def _export(content: Any) -> str:
    """How to get from the JSON of another program to one that is read; some have an entry an image, or a task."""
    entries = content[:1] if isinstance(content, list) else [content]
    if isinstance(content, dict):
        entries += list(content.values())[:1]
    keys = [entry.keys() for entry in entries if isinstance(entry, dict)]
    of = (f"it is of {name}: {how}" for name, known, how in _OF_PROGRAMS if any(known <= own for own in keys))
    return next(of, "export it again")


def _composed(name: str) -> str:
    """A name with accents as one letter, which some systems (macOS) write as two."""
    return unicodedata.normalize("NFC", name)


@contextmanager
def _coco_as_it_should_be(file: Path) -> Iterator[None]:
    """What is missing, or of another type, in a COCO file as an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{file}: not as COCO has it ({what}): images have id and file_name, annotations image_id, category_id and "
            "segmentation; export it again"
        ) from error


def _strangers(content: Mapping[str, Any]) -> int:
    """How many annotations of a COCO file are of images that it does not list."""
    known = {str(entry["id"]) for entry in content["images"]}
    return sum(str(entry["image_id"]) not in known for entry in content["annotations"])


@functools.lru_cache(maxsize=64)  # a file is asked for by every image
def _say_strangers(file: Path, count: int) -> None:
    if count:
        logger.warning(
            "%s: %d annotations are of image ids that none of its images has, and are left out: were ids counted "
            "from 0 in one place and from 1 in the other? Look whether the others lie on their cells",
            file,
            count,
        )


def _is_in_pieces(inside: NDArray[np.bool_]) -> bool:
    """Whether a mask has a second piece that is no speck. Programs say ``iscrowd`` of whatever has run lengths, too."""
    pieces, count = ndimage.label(inside, np.ones((3, 3), bool))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    return bool(np.count_nonzero(20 * areas > inside.sum()) > 1)


def _of_annotation(entry: Mapping[str, Any], source: str, shape: tuple[int, ...], file: Path) -> Iterator[Drawing]:
    drawn = entry.get("segmentation")
    if not drawn:
        raise ValueError(f"{source} has no segmentation: a box is no outline; export polygons or masks")
    if not isinstance(drawn, list):
        return of_mask(_run_lengths(drawn, source, shape), 0)
    if not all(isinstance(ring, list) and len(ring) > 0 and len(ring) % 2 == 0 for ring in drawn):
        raise ValueError(
            f"{source}: a polygon is a list of x and y in turn, and a segmentation a list of polygons; export it again"
        )
    return filled([[np.array(ring, float).reshape(-1, 2)] for ring in drawn], 0, shape, file)


def _run_lengths(drawn: Mapping[str, Any], source: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """COCO's run lengths of background and cell in turn, column by column, as text or as numbers."""
    if tuple(drawn["size"]) != shape:
        raise ValueError(
            f"{source} is of {tuple(drawn['size'])} px, but its image has {shape}: both must have one size"
        )
    counts = _counts(drawn["counts"]) if isinstance(drawn["counts"], str) else list(drawn["counts"])
    if sum(counts) != shape[0] * shape[1] or min(counts) < 0:
        raise ValueError(
            f"{source}: {sum(counts)} pixels in its runs, {shape[0] * shape[1]} in the image; export again"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape, order="F")


def _counts(text: str) -> list[int]:
    """Numbers of compressed run lengths: 5 bits a character, lowest first; from the fourth on, less the last but one.

    The format of COCO's ``maskApi`` (Lin et al. 2014, arXiv:1405.0312); its Python package warns with NumPy 2.
    """
    counts: list[int] = []
    value = bits = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 31) << bits
        bits += 5
        if group & 32:
            continue
        if group & 16:  # the sign
            value -= 1 << bits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = bits = 0
    return counts
