"""Images and their annotations as people keep them: which file belongs to which.

Understood are, in this order:

- ``pairs.csv`` with the columns ``image`` and ``mask``;
- ``images`` beside ``masks``, ``labels`` or ``annotations``, or what else such folders are called, paired by name, with
  or without an ending or a beginning in common (``_mask``, ``_masks``, ``_seg``, ``_label``, ``mask_``);
- a folder for each image, with ``images`` and one mask file a cell in ``masks``, as the 2018 Data Science Bowl has them
  (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7);
- images and masks in one folder, told apart by such an ending or beginning.

Annotations are label images or masks, or what :mod:`unet_paper.data.drawn_cells` makes label images of: ROIs of ImageJ
(``.zip``, ``.roi``); QuPath's GeoJSON (``.geojson``); COCO's JSON (``.json`` that names the images); tables of points
as napari writes them (``.csv``), in such a folder or beside the images, of images that have nothing else.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet_paper.data.coco import coco_file
from unet_paper.data.datasets import MASK_BEGINNINGS, MASK_ENDINGS, natural_order, stem
from unet_paper.data.drawing_files import DRAWN
from unet_paper.data.pairs_table import read_pairs
from unet_paper.data.points import TABLES, is_table
from unet_paper.data.reader import ZARR, extension, is_image

__all__ = ["AnnotatedImage", "FolderLayout", "find"]

PICTURES = ("images", "image", "imgs", "img", "raw")
FOLDERS = (
    *("masks", "labels", "annotations", "mask", "label", "annotation", "rois"),
    *("segmentation", "segmentations", "gt", "ground_truth", "groundtruth", "points"),
)
ENDINGS = (*MASK_ENDINGS, "_points")
# words in names that tell what a file is, not of what
_OF_MASKS = {
    *("mask", "masks", "seg", "segmentation", "label", "labels", "annotation", "annotations"),
    *("gt", "groundtruth", "ground", "truth", "instances", "rois", "points"),
}
_OF_IMAGES = {"image", "images", "img", "raw", "ome", "cp", "cell", "cells"}
# of pictures that are not read
_UNREAD = {
    *(
        ".gif",
        ".webp",
        ".avif",
        ".heic",
        ".jxl",
        ".jp2",
        ".jpx",
        ".psd",
        ".xcf",
        ".npy",
        ".npz",
        ".h5",
        ".hdf5",
        ".mat",
    ),
    *(".btf", ".tf8", ".svs", ".ndpi", ".mrxs", ".scn", ".qptiff", ".vsi", ".ets", ".ims", ".lsm", ".oib", ".oif"),
    *(".oir", ".zvi", ".stk", ".dv", ".sld", ".mrc", ".dm3", ".dm4", ".ser", ".dcm", ".mha", ".mhd", ".pgm", ".ppm"),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the files that say where its cells are: one, or one a cell; a COCO file is that of all images.

    Attributes:
        image: file.
        annotation: files.
        folds: in which its pages are held out, one for all or one each; empty where nobody says.
    """

    image: Path
    annotation: Sequence[Path]
    folds: Sequence[int] = ()

    @property
    def is_label_image(self) -> bool:
        """Whether the annotation can be read as it is."""
        return len(self.annotation) == 1 and bool(extension(self.annotation[0]))


@dataclass(frozen=True)
class FolderLayout:
    """What a folder holds.

    Attributes:
        images: with their annotations, in natural order.
        plain: whether ``data.datasets.folder`` finds the same by itself, with ``mask_suffix``.
        mask_suffix: that the masks have.
        other_files: of kinds that are not taken.
        left_out: beside the images, pictures among those, and folders with images, which are not looked into.
    """

    images: Sequence[AnnotatedImage]
    plain: bool
    mask_suffix: str = ""
    other_files: int = 0
    left_out: Sequence[str] = ()


def find(folder: str | Path, mask_suffix: str | None = None) -> FolderLayout:
    """Images and annotations of a folder.

    Args:
        folder: in one of the layouts above.
        mask_suffix: what a mask's name has after its image's; None: as found.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none of the layouts above, or an image or annotation without a partner; names what is there, and
            folders further in that are data sets.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    inside = sorted((path for path in root.iterdir() if path.is_dir()), key=natural_order)
    inside = [path for path in inside if extension(path) not in ZARR]
    found = _found(root, inside, (mask_suffix,) if mask_suffix else None)
    if found is None:
        _refuse_lonely(root, (mask_suffix,) if mask_suffix else None)
        raise ValueError(
            f"{root}: no images with masks found. Put images in images and masks of the same names in masks, or both "
            f"in one folder as NAME.tif and NAME_mask.tif ({len(_files(root))} image files are there{_kinds_of(root)})"
            f"{_further_in(inside)}"
        )
    return found


def _found(root: Path, inside: Sequence[Path], endings: Sequence[str] | None = None) -> FolderLayout | None:
    """What a folder holds; None where that is no data set."""
    if (root / "pairs.csv").is_file():
        table = root / "pairs.csv"
        listed = [AnnotatedImage(pair.image, [pair.mask], pair.folds) for pair in read_pairs(table, (*DRAWN, *TABLES))]
        folds = sorted({fold for one in listed for fold in one.folds})
        if folds and folds != list(range(max(2, len(folds)))):
            raise ValueError(
                f"{table}: the column fold has {', '.join(map(str, folds))}; expected every number from 0, at least 0 "
                "and 1: images of fold 0 are held out, all others are learnt from"
            )
        return FolderLayout(listed, plain=False)
    inside = sorted(
        (path for path in root.iterdir() if path.is_dir() and extension(path) not in ZARR), key=natural_order
    )
    names = {path.name.lower(): path for path in inside}
    named = [names[name] for name in PICTURES if name in names]
    pictures = next(iter(named), None)
    if pictures and (further := [path.name for path in named[1:] if _files(path)]):
        logger.warning("%s: images are taken from %s; left out: %s", root, pictures.name, ", ".join(further))
    drawn = [names[name] for name in FOLDERS if name in names]
    if pictures and drawn:
        if len(drawn) > 1:
            others = ", ".join(path.name for path in drawn[1:])
            logger.warning("%s: annotations are taken from %s; left out: %s", root, drawn[0].name, others)
        return replace(_two_folders(pictures, drawn[0], endings), left_out=_pictures_beside(pictures))
    coco = sorted(root.glob("*.json"))
    if pictures and coco:
        return FolderLayout(_by_coco(_files(pictures), coco), plain=False, left_out=_pictures_beside(pictures))
    bowl = [path for path in inside if (path / "images").is_dir() or (path / "masks").is_dir()]
    # several images in most of them: data sets of their own
    with_one = [path for path in bowl if (path / "images").is_dir() and len(_files(path / "images")) == 1]
    if bowl and 2 * len(with_one) >= len(bowl):
        return _bowl(bowl)
    return _one_folder(root, pictures, endings)


def _two_folders(images: Path, drawn: Path, endings: Sequence[str] | None) -> FolderLayout:
    pictures, annotations = _files(images), _files(drawn, DRAWN)
    annotations += _tables(drawn, pictures, annotations)
    if not pictures:
        inside = sum(path.is_dir() for path in images.iterdir())
        deeper = f"; {inside} folders, which are not looked into: list the pairs in {images.parent / 'pairs.csv'}"
        raise ValueError(f"{images}: no images in it{_kinds_of(images)}{deeper if inside else ''}")
    listed = sorted((file for file in drawn.iterdir() if file.suffix.lower() == ".json"), key=natural_order)
    beside = sum(file.is_file() and not file.name.startswith(".") for file in images.parent.iterdir())
    tables = sum(file.suffix.lower() in TABLES for file in annotations)
    others = _others(images) + _others(drawn, (*DRAWN, ".json")) + beside - tables
    if listed and not annotations:
        if {stem(file) for file in pictures} == {stem(file) for file in listed}:
            annotations = listed  # a GeoJSON file an image
        else:
            return FolderLayout(_by_coco(pictures, listed), plain=False, other_files=others)
    folders = [
        path
        for path in drawn.iterdir()
        if path.is_dir() and extension(path) not in ZARR and any(map(is_image, path.iterdir()))
    ]
    if folders and not annotations:
        masks = {path.name: _files(path) for path in folders}
        return FolderLayout(_paired(pictures, masks, drawn, endings)[0], plain=False, other_files=others)
    by_name = {name: [file] for name, file in _by_name(annotations).items()}
    pairs, ending = _paired(pictures, by_name, drawn, endings)
    plain = (
        images.name == "images"
        and drawn.name == "masks"
        and ending is not None
        and all(extension(file) for file in annotations)
    )
    return FolderLayout(pairs, plain, ending or "", others)


def _by_coco(pictures: Sequence[Path], files: Sequence[Path]) -> list[AnnotatedImage]:
    return [AnnotatedImage(file, [coco_file(files, file)]) for file in pictures]


def _paired(
    pictures: Sequence[Path],
    annotations: Mapping[str, Sequence[Path]],
    where: Path,
    endings: Sequence[str] | None,
) -> tuple[list[AnnotatedImage], str | None]:
    """Pairs by name; and the masks' ending, None where it is something else that they have in common."""
    names = list(_by_name(pictures))
    for before, after in _affixes(endings) if endings else [("", ""), *_affixes(None)]:
        if all(before + name + after in annotations for name in names):
            left = set(annotations) - {before + name + after for name in names}
            if left:
                first = sorted(left)[0]
                raise ValueError(f"{where}: no image for {first} ({len(left)} such); remove what has no partner")
            pairs = [AnnotatedImage(f, annotations[before + stem(f) + after]) for f in pictures]
            return pairs, None if before else after
    cores, of_masks = ({}, {}) if endings else (_cores(names), _cores(annotations))
    if cores and cores.keys() == of_masks.keys():
        by_name = {cores[core]: annotations[of_masks[core]] for core in cores}
        return [AnnotatedImage(f, by_name[stem(f)]) for f in pictures], None
    lonely = [name for name in names if name not in annotations]
    lonely = lonely or names
    also = endings or (*MASK_ENDINGS[:3], MASK_BEGINNINGS[0])
    others = _kinds_of(where, (*DRAWN, *TABLES, ".json"))
    raise ValueError(
        f"{where}: no annotation for image {lonely[0]} ({len(lonely)} such{others}); it has the image's name, or that "
        f"with {', '.join(also)} (--mask_suffix takes another ending); move images that have none elsewhere"
    )


def _affixes(endings: Sequence[str] | None) -> list[tuple[str, str]]:
    """What masks' names may have before and after their images'."""
    return [("", e) for e in endings] if endings else [*(("", e) for e in ENDINGS), *((b, "") for b in MASK_BEGINNINGS)]


def _cores(names: Iterable[str]) -> dict[str, str]:
    """Names by what is left of them without words such as image and mask; none where two are left with the same.

    >>> _cores(["img_007_c1", "img_008_c1"]), _cores(["7_mask", "mask7"])
    ({'007 c 1': 'img_007_c1', '008 c 1': 'img_008_c1'}, {})
    """
    listed = list(names)
    cores = {" ".join(word for word in _words(name) if word not in _OF_MASKS | _OF_IMAGES): name for name in listed}
    return cores if len(cores) == len(listed) and (len(listed) == 1 or "" not in cores) else {}


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", name.casefold())


def _bowl(folders: Sequence[Path]) -> FolderLayout:
    found = []
    for folder in folders:
        for needed in ("images", "masks"):
            if not (folder / needed).is_dir():
                raise ValueError(f"{folder}: no {needed} in it; each of these folders holds an image and its masks")
        pictures = _files(folder / "images")
        if len(pictures) != 1:
            raise ValueError(
                f"{folder / 'images'}: {len(pictures)} images; one is expected, its cells in masks. If {folder} is a "
                "data set of its own, name that folder"
            )
        masks = _files(folder / "masks")
        if not masks:
            raise ValueError(f"{folder / 'masks'}: no mask; without a cell, give one that is black all over")
        found.append(AnnotatedImage(pictures[0], masks))
    return FolderLayout(found, plain=False)


def _one_folder(root: Path, pictures: Path | None, endings: Sequence[str] | None) -> FolderLayout | None:
    """Images and masks side by side in ``root``, or in its folder ``pictures``."""
    folders = (root,) if pictures is None else (root, pictures)
    for folder in folders:
        if (found := _side_by_side(folder, endings)) is not None:
            return found if folder == root else FolderLayout(found.images, False, "", found.other_files)
    for folder in folders:
        images = _files(folder)
        if tables := _tables(folder, images, []):
            by_name = {name: [file] for name, file in _by_name(tables).items()}
            pairs, _ = _paired(images, by_name, folder, endings)
            return FolderLayout(pairs, False, "", _others(folder) - len(tables))
    if pictures is not None:
        raise ValueError(f"{root}: images, but no {', '.join(FOLDERS[:2])} or {FOLDERS[2]} beside them")
    return None


def _side_by_side(root: Path, endings: Sequence[str] | None) -> FolderLayout | None:
    """Images and masks of one folder, by an ending or beginning of the masks."""
    files = _files(root, DRAWN)
    for before, after in [*_affixes(endings), ("", "")]:
        if before or after:
            marked = [f for f in files if stem(f).startswith(before) and stem(f).endswith(after)]
        else:
            marked = [f for f in files if not extension(f)]
        pictures = [f for f in files if f not in marked]
        if marked and pictures and {before + stem(f) + after for f in pictures} == {stem(f) for f in marked}:
            by_name = _by_name(marked)
            pairs = [AnnotatedImage(f, [by_name[before + name + after]]) for name, f in _by_name(pictures).items()]
            plain = bool(after) and all(extension(f) for f in marked)
            return FolderLayout(pairs, plain, after, _others(root, DRAWN))
    marked = [f for f in files if not extension(f) or _OF_MASKS.intersection(_words(stem(f)))]
    pictures = [f for f in files if f not in marked]
    cores, of_masks = _cores(map(stem, pictures)), _cores(map(stem, marked))
    if not cores or cores.keys() != of_masks.keys():
        return None
    by_image = {cores[core]: _by_name(marked)[of_masks[core]] for core in cores}
    return FolderLayout([AnnotatedImage(f, [by_image[stem(f)]]) for f in pictures], False, "", _others(root, DRAWN))


def _refuse_lonely(root: Path, endings: Sequence[str] | None) -> None:
    """Raise where images and masks lie side by side, and some of them alone."""
    files = _files(root, DRAWN)
    names = {stem(file): file for file in files}
    for before, after in _affixes(endings):
        masks = {name for name in names if name != before + after and name.startswith(before) and name.endswith(after)}
        of = {name: name.removeprefix(before).removesuffix(after) for name in masks}
        without = [file for name, file in names.items() if name not in masks and before + name + after not in masks]
        alone = [names[name] for name in sorted(masks) if of[name] not in names]
        if len(masks) == len(alone):
            continue
        if alone:
            raise ValueError(f"{root}: no image for {alone[0].name} ({len(alone)} such); remove what has no partner")
        if not without:
            continue
        raise ValueError(
            f"{root}: no annotation for image {without[0].name} ({len(without)} such), where others have one named "
            f"{before}NAME{after}; draw it, or move images that have none elsewhere"
        )


def _further_in(folders: Sequence[Path]) -> str:
    """What to say where the data set is a folder further in."""
    held = []
    for folder in folders[:20]:
        try:
            found = _found(folder, [path for path in folder.iterdir() if path.is_dir()])
        except (ValueError, OSError):
            continue
        if found is not None:
            held.append(f"{folder} ({len(found.images)} images)")
    return f"; a data set of its own is {' and '.join(held)}: name that folder" if held else ""


def _kinds_of(folder: Path, taken: Iterable[str] = ()) -> str:
    """Other kinds of files in a folder, in words."""
    kinds: dict[str, int] = {}
    for file in folder.iterdir():
        if file.is_file() and not is_image(file) and not file.name.startswith(".") and file.suffix.lower() not in taken:
            kinds[file.suffix.lower() or "other"] = kinds.get(file.suffix.lower() or "other", 0) + 1
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"; {listed}, which are not taken" if listed else ""


def _files(folder: Path, drawn: Iterable[str] = ()) -> list[Path]:
    kinds = tuple(drawn)
    taken = [f for f in folder.iterdir() if not f.name.startswith(".")]
    drawings = (f for f in taken if f.suffix.lower() in kinds and f.is_file())
    return sorted((*filter(is_image, taken), *drawings), key=natural_order)


def _tables(folder: Path, pictures: Sequence[Path], annotations: Sequence[Path]) -> list[Path]:
    """Tables of points in a folder, each of an image that has no other annotation there."""
    names, taken = {stem(file) for file in pictures}, {_without_ending(stem(file)) for file in annotations}
    found = [file for file in folder.iterdir() if not file.name.startswith(".") and is_table(file)]
    wanted = [file for file in found if _without_ending(stem(file)) in names - taken]
    return sorted(wanted, key=natural_order)


def _pictures_beside(folder: Path) -> list[str]:
    """What of a folder of images is one, too, or holds some, and is not taken."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or is_image(path):
            continue
        if path.suffix.lower() in _UNREAD if path.is_file() else path.is_dir() and _holds_images(path):
            found.append(str(path))
    return sorted(found)


def _holds_images(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and any(map(is_image, folder.iterdir()))


def _without_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def _others(folder: Path, drawn: Iterable[str] = ()) -> int:
    shown = [f for f in folder.iterdir() if not f.name.startswith(".")]
    return sum(f.is_file() or is_image(f) for f in shown) - len(_files(folder, drawn))


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by their name without extension; which of two belongs to an image nobody can know."""
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(stem(file), file)) != file:
            raise ValueError(f"{other} and {file}: two files of one name, keep one")
    return named
