"""Images and their annotations as people keep them: which file belongs to which, and label images made of the rest.

Understood are, in this order:

- ``pairs.csv`` with the columns ``image`` and ``mask``;
- ``images`` beside ``masks``, ``labels`` or ``annotations``, paired by name, with or without an ending or a beginning
  in common (``_mask``, ``_masks``, ``_seg``, ``_label``, ``mask_``);
- a folder for each image, with ``images`` and one mask file a cell in ``masks``, as the 2018 Data Science Bowl has them
  (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7);
- images and masks in one folder, told apart by such an ending or beginning.

Annotations are label images or masks; ROIs of ImageJ (``.zip``, ``.roi``); QuPath's GeoJSON (``.geojson``); COCO's JSON
(one ``.json`` that names the images; polygons or run lengths).
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roifile
from numpy.typing import NDArray
from skimage.draw import polygon

from unet_paper.data.datasets import natural_order
from unet_paper.data.reader import ZARR, LabelReader, extension, is_image, page_shapes

__all__ = ["AnnotatedImage", "FolderLayout", "find", "label_image"]

FOLDERS = ("masks", "labels", "annotations")
ENDINGS = ("_masks", "_mask", "_seg", "_labels", "_label", "-mask", "-masks", "_cp_masks")
BEGINNINGS = ("mask_", "masks_", "label_", "seg_")
DRAWN = (".zip", ".roi", ".geojson")

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the files that say where its cells are: one, or one a cell; a COCO file is that of all images."""

    image: Path
    annotation: Sequence[Path]

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
    """

    images: Sequence[AnnotatedImage]
    plain: bool
    mask_suffix: str = ""
    other_files: int = 0


def find(folder: str | Path) -> FolderLayout:
    """Images and annotations of a folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none of the layouts above, or an image or annotation without a partner; names what is there.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if (root / "pairs.csv").is_file():
        return FolderLayout(_listed(root / "pairs.csv"), plain=False)
    names = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    if "images" in names:
        drawn = next((names[name] for name in FOLDERS if name in names), None)
        if drawn is not None:
            return _two_folders(names["images"], drawn)
        coco = sorted(root.glob("*.json"))
        if coco:
            return FolderLayout([AnnotatedImage(file, [coco[0]]) for file in _files(names["images"])], plain=False)
        raise ValueError(f"{root}: images, but no {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]} beside them")
    bowl = [path for path in sorted(names.values()) if (path / "images").is_dir() and (path / "masks").is_dir()]
    if bowl:
        return _bowl(bowl)
    return _one_folder(root)


def label_image(found: AnnotatedImage) -> Labels:
    """Label image of an image whose annotation is anything but one: a mask a cell, ROIs, GeoJSON or COCO.

    Where cells overlap, the one drawn later lies on top.

    Returns:
        shape (H, W), cells 1 .. n in the order they were drawn.

    Raises:
        ValueError: for a file of another kind, or another size.
    """
    shape = page_shapes(found.image)[0][:2]
    labels = np.zeros(shape, np.int32)
    first = found.annotation[0]
    if extension(first):
        for number, file in enumerate(found.annotation, start=1):
            pixels, _ = LabelReader().get_data(file)
            if pixels.shape != shape:
                raise ValueError(f"{file}: {pixels.shape} px, but its image has {shape}: both must have one size")
            labels[pixels > 0] = number
        return labels
    for number, inside in enumerate(_cells(first, found.image, shape), start=1):
        labels[inside] = number
    return labels


def _cells(file: Path, image: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.bool_]]:
    """Where each cell of an annotation file lies, in the order of the file."""
    kind = file.suffix.lower()
    if kind in (".zip", ".roi"):
        rois = roifile.roiread(file)
        for roi in rois if isinstance(rois, list) else [rois]:
            yield _inside([np.asarray(roi.coordinates(), float)], shape)
        return
    content = _parsed(file)
    if kind == ".geojson" or (isinstance(content, dict) and content.get("type") == "FeatureCollection"):
        for feature in content["features"] if isinstance(content, dict) else content:
            yield from (_inside(rings, shape) for rings in _rings_of_geometry(feature["geometry"]))
        return
    yield from _coco(content, file, image, shape)


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}; export it again") from error


def _inside(rings: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels within the rings of a cell, (n, 2), x and y; 0 is the upper left corner of the image."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        # holes come after the ring around them: a pixel within both lies outside
        rows, columns = polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)
        inside[rows, columns] ^= True
    return inside


def _rings_of_geometry(geometry: Mapping[str, Any]) -> list[list[NDArray[np.float64]]]:
    if geometry["type"] == "Polygon":
        return [[np.array(ring, float)[:, :2] for ring in geometry["coordinates"]]]
    if geometry["type"] == "MultiPolygon":
        return [[np.array(ring, float)[:, :2] for part in geometry["coordinates"] for ring in part]]
    return []


def _coco(content: Mapping[str, Any], file: Path, image: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.bool_]]:
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{file}: neither GeoJSON nor COCO, which has images and annotations; export it again")
    ids = [entry["id"] for entry in content["images"] if Path(entry["file_name"]).name == image.name]
    if not ids:
        raise ValueError(f"{file}: names no image {image.name}; COCO's images have a file_name each")
    for entry in content["annotations"]:
        if entry["image_id"] != ids[0]:
            continue
        drawn = entry["segmentation"]
        if isinstance(drawn, list):
            yield _inside([np.array(ring, float).reshape(-1, 2) for ring in drawn], shape)
        else:
            yield _run_lengths(drawn, f"{file}: annotation {entry.get('id')}", shape)


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


def _two_folders(images: Path, drawn: Path) -> FolderLayout:
    pictures, annotations = _files(images), _files(drawn, DRAWN)
    coco = [file for file in drawn.iterdir() if file.suffix.lower() == ".json"]
    beside = sum(file.is_file() and not file.name.startswith(".") for file in images.parent.iterdir())
    others = _others(images) + _others(drawn, (*DRAWN, ".json")) + beside
    if coco and not annotations:
        return FolderLayout([AnnotatedImage(file, [coco[0]]) for file in pictures], plain=False, other_files=others)
    folders = [
        path
        for path in drawn.iterdir()
        if path.is_dir() and extension(path) not in ZARR and any(map(is_image, path.iterdir()))
    ]
    if folders and not annotations:
        masks = {path.name: _files(path) for path in folders}
        return FolderLayout(_paired(pictures, masks, drawn)[0], plain=False, other_files=others)
    by_name = {name: [file] for name, file in _by_name(annotations).items()}
    pairs, ending = _paired(pictures, by_name, drawn)
    plain = (
        images.name == "images"
        and drawn.name == "masks"
        and ending is not None
        and all(extension(file) for file in annotations)
    )
    return FolderLayout(pairs, plain, ending or "", others)


def _paired(
    pictures: Sequence[Path], annotations: Mapping[str, Sequence[Path]], where: Path
) -> tuple[list[AnnotatedImage], str | None]:
    """Pairs by name; and the masks' ending, None where they have a beginning instead."""
    names = list(_by_name(pictures))
    if not names:
        raise ValueError(f"{where}: no images beside it")
    for before, after in [("", ""), *(("", e) for e in ENDINGS), *((b, "") for b in BEGINNINGS)]:
        if all(before + name + after in annotations for name in names):
            left = set(annotations) - {before + name + after for name in names}
            if left:
                first = sorted(left)[0]
                raise ValueError(f"{where}: no image for {first} ({len(left)} such); remove what has no partner")
            pairs = [AnnotatedImage(f, annotations[before + _stem(f) + after]) for f in pictures]
            return pairs, None if before else after
    lonely = [name for name in names if name not in annotations]
    raise ValueError(
        f"{where}: no annotation for image {lonely[0]} ({len(lonely)} such); it has the image's name, or that with "
        f"{', '.join((*ENDINGS[:3], BEGINNINGS[0]))}"
    )


def _bowl(folders: Sequence[Path]) -> FolderLayout:
    found = []
    for folder in folders:
        pictures = _files(folder / "images")
        if len(pictures) != 1:
            raise ValueError(f"{folder / 'images'}: {len(pictures)} images; one is expected, its cells in masks")
        masks = _files(folder / "masks")
        if not masks:
            raise ValueError(f"{folder / 'masks'}: no mask; without a cell, give one that is black all over")
        found.append(AnnotatedImage(pictures[0], masks))
    return FolderLayout(found, plain=False)


def _one_folder(root: Path) -> FolderLayout:
    files = _files(root, DRAWN)
    for before, after in [*(("", e) for e in ENDINGS), *((b, "") for b in BEGINNINGS), ("", "")]:
        if before or after:
            marked = [f for f in files if _stem(f).startswith(before) and _stem(f).endswith(after)]
        else:
            marked = [f for f in files if not extension(f)]
        pictures = [f for f in files if f not in marked]
        if marked and pictures and {before + _stem(f) + after for f in pictures} == {_stem(f) for f in marked}:
            by_name = _by_name(marked)
            pairs = [AnnotatedImage(f, [by_name[before + name + after]]) for name, f in _by_name(pictures).items()]
            plain = bool(after) and all(extension(f) for f in marked)
            return FolderLayout(pairs, plain, after, _others(root, DRAWN))
    raise ValueError(
        f"{root}: no images with masks found. Put images in images and masks of the same names in masks, or both in "
        f"one folder as NAME.tif and NAME_mask.tif ({len(files)} image files are there)"
    )


def _listed(table: Path) -> list[AnnotatedImage]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"image", "mask"} <= rows[0].keys():
        raise ValueError(f"{table}: a table with the columns image and mask is needed, and a line for every pair")
    found = [AnnotatedImage(table.parent / row["image"], [table.parent / row["mask"]]) for row in rows]
    for named in (named for pair in found for named in (pair.image, *pair.annotation)):
        if not (named.is_file() or (named.exists() and is_image(named))):
            raise FileNotFoundError(f"{named}: no such file, named in {table}")
    return found


def _files(folder: Path, drawn: Iterable[str] = ()) -> list[Path]:
    kinds = tuple(drawn)
    taken = [f for f in folder.iterdir() if not f.name.startswith(".")]
    drawings = (f for f in taken if f.suffix.lower() in kinds and f.is_file())
    return sorted((*filter(is_image, taken), *drawings), key=natural_order)


def _others(folder: Path, drawn: Iterable[str] = ()) -> int:
    shown = [f for f in folder.iterdir() if not f.name.startswith(".")]
    return sum(f.is_file() or is_image(f) for f in shown) - len(_files(folder, drawn))


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by their name without extension; which of two belongs to an image nobody can know."""
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(_stem(file), file)) != file:
            raise ValueError(f"{other} and {file}: two files of one name, keep one")
    return named


def _stem(file: Path) -> str:
    return file.name[: -len(extension(file) or file.suffix)]
