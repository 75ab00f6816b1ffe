"""Drawings of cells as files hold them: ROIs of ImageJ, QuPath's GeoJSON, COCO's JSON, tables of points, masks.

What is drawn counts from the corner of the first pixel; a pixel belongs to a cell if its centre is within the outline,
and holes are outside. Drawings named ``Background``, or of that class, are background, those of ``Ignore`` unknown.
"""

import functools
import json
import logging
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import roifile
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from unet_paper.data.annotation import is_inverted
from unet_paper.data.page import Layout
from unet_paper.data.points import CELL, TABLES, UNKNOWN_AREA, Point, meaning_of, read_table, refuse_twins
from unet_paper.data.reader import LabelReader, extension

__all__ = ["DRAWN", "Drawing", "coco_file", "drawings"]

DRAWN = (".zip", ".roi", ".geojson")
_AREAS = {roifile.ROI_TYPE[kind] for kind in ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")}
# labels and pictures laid over an image, which ImageJ keeps as rectangles
_OVERLAYS = {roifile.ROI_SUBTYPE[kind] for kind in ("TEXT", "IMAGE")}
_DEPTHS = 2**20
_EMPTY = "outline around no pixel"

# x and y, (n, 2)
Ring = NDArray[np.float64]
# parts that may overlap, each its rings: what lies within two rings of a part is a hole
Cell = Sequence[Sequence[Ring]]

logger = logging.getLogger(__name__)


class Drawing(NamedTuple):
    """What one drawing covers: of a page, the pixels of ``inside`` from ``top`` and ``left`` on.

    Attributes:
        meaning: ``cell``, ``background`` or ``unknown``.
    """

    page: int
    top: int
    left: int
    inside: NDArray[np.bool_]
    meaning: str = CELL

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of ``inside``."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class _Shape(NamedTuple):
    """A drawing as a file has it: areas, or points in x and y; without a page where it says none."""

    page: int | None
    parts: Cell = ()
    points: Ring = np.empty((0, 2))
    meaning: str = CELL


def drawings(annotation: Sequence[Path], image: Path, known: Layout) -> tuple[list[Drawing], list[Point]]:
    """What annotation files hold, in their order: areas, and points.

    Args:
        annotation: one file of drawings or points, or a mask file a cell.
        image: that they are of.
        known: its layout.

    Raises:
        ValueError: for a file of another kind or size, a cell or a point outside of the image, two points of one place,
            or a stack whose drawings do not say on which page they lie.
    """
    file, shape = annotation[0], known.shapes[0][:2]
    kind = file.suffix.lower()
    if extension(file):
        return list(_masks(annotation, shape)), []
    if known.orientation != 1:
        _refuse_turned(file, image, known)
    if kind in TABLES:
        points = read_table(file, len(known.shapes))
        _check_points(points, file, image, known)
        return [], points
    if kind in (".zip", ".roi"):
        shapes = list(_rois(file, known))
    else:
        content = _parsed(file)
        if kind != ".geojson" and not _is_geojson(content):
            return list(_coco(content, file, image, shape)), []
        shapes = list(_geojson(content, file, known))
    if len(known.shapes) == 1:
        _refuse_several_pages({one.page for one in shapes} - {None}, file, image)
    drawn: list[Drawing] = []
    points, empty = [], 0
    for one in shapes:
        # which page of a stack an image is that was taken out of it, is not known to it
        page = 0 if one.page is None or len(known.shapes) == 1 else one.page
        if not 0 <= page < len(known.shapes):
            raise ValueError(f"{file}: a cell on page {page}, but {image.name} has pages 0 to {len(known.shapes) - 1}")
        if one.parts:
            areas = [area._replace(meaning=one.meaning) for area in _filled(one.parts, page, shape, file)]
            drawn += areas
            empty += not areas
        # a place within a pixel is that pixel
        places = np.floor(one.points).astype(np.int64)
        points += [Point(page, int(y), int(x), one.meaning) for x, y in places]
    _say_left_out(empty * [_EMPTY], file)
    _check_points(points, file, image, known)
    return drawn, points


def coco_file(files: Sequence[Path], image: Path) -> Path:
    """Which of several COCO files names an image.

    Raises:
        ValueError: none, or more than one.
    """
    naming = [file for file in files if _ids_of(image, _parsed(file), file)]
    if len(naming) == 1:
        return naming[0]
    listed = ", ".join(map(str, naming or files))
    if naming:
        raise ValueError(f"{listed}: all of them name the image {image.name}; keep one")
    raise ValueError(f"{listed}: names no image {image.name}; COCO's images have a file_name each")


def _masks(files: Sequence[Path], shape: tuple[int, ...]) -> Iterator[Drawing]:
    white_around: list[Path] = []
    for file in files:
        pixels, _ = LabelReader().get_data(file)
        if pixels.shape != shape:
            raise ValueError(f"{file}: {pixels.shape} px, but its image has {shape}: both must have one size")
        values = np.unique(pixels[pixels != 0])
        if len(values) > 1:
            raise ValueError(
                f"{file}: one of {len(files)} mask files of an image, each of one cell, and it holds "
                f"{len(values)} values besides 0: greys at the rim of a mask that was scaled or softened, or ids of "
                "many cells? Save each cell in black and white, without smoothing; or put a label image of all cells "
                "alone there"
            )
        white_around += [file] * is_inverted((pixels > 0).astype(np.uint8))
        # a large cell may cover most of an image, but not two
        if len(white_around) > 1:
            raise ValueError(
                f"{white_around[0]}, {file.name}: each covers most of the image and its corners: is the cell black? "
                "Save cells in white on a background of 0"
            )
        yield from _drawing(pixels > 0, 0)


def _refuse_turned(file: Path, image: Path, known: Layout) -> None:
    """Raise where it is not known which side was up when cells were drawn: of two programs one obeys the tag."""
    raise ValueError(
        f"{file}: its image {image.name} is turned by a tag (orientation {known.orientation}), which some programs "
        "obey and others do not, so that where its cells lie is not known; save the image from the program in which "
        "they were drawn, as TIFF or PNG, and take that in its place"
    )


def _refuse_several_pages(pages: Collection[int | None], file: Path, image: Path) -> None:
    """Raise where cells of several pages would come to lie over one another on the only page there is."""
    if len(pages) > 1:
        raise ValueError(
            f"{file}: its cells lie on {len(pages)} pages of a stack, and {image.name} has one: give the whole stack "
            "as the image, or keep the cells of this page alone; if all are of it, in ImageJ remove the positions, in "
            "the ROI Manager by More > Remove Positions"
        )


def _check_points(points: Sequence[Point], file: Path, image: Path, known: Layout) -> None:
    height, width = known.shapes[0][:2]
    for point in points:
        if not (0 <= point.row < height and 0 <= point.column < width and 0 <= point.page < len(known.shapes)):
            pages = f", page {point.page}," if len(known.shapes) > 1 or point.page else ""
            raise ValueError(
                f"{file}: a point at x, y = {point.column}, {point.row}{pages} lies outside of {image.name}, which has "
                f"{width} x {height} px and {len(known.shapes)} pages: was it set on another image, or on this one "
                "before it was scaled?"
            )
    refuse_twins(points, str(file))


def _is_geojson(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and first.get("type") in ("Feature", "FeatureCollection")


def _parsed(file: Path) -> Any:
    # a COCO file is asked for by every image
    return _json(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _json(file: Path, _changed: int) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}; export it again") from error


def _drawing(inside: NDArray[np.bool_], page: int, top: int = 0, left: int = 0) -> Iterator[Drawing]:
    """The drawing of a mask, without the rows and columns around it; none where nothing is inside."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows):
        cut = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        yield Drawing(page, top + int(rows[0]), left + int(columns[0]), cut)


def _filled(parts: Cell, page: int, shape: tuple[int, ...], file: Path) -> Iterator[Drawing]:
    """Pixels of an image within the parts of a cell."""
    corners = np.concatenate([ring for rings in parts for ring in rings])
    low = np.floor(corners.min(axis=0)).astype(int)
    high = np.ceil(corners.max(axis=0)).astype(int)
    if (high <= 0).any() or low[0] >= shape[1] or low[1] >= shape[0]:
        raise ValueError(
            f"{file}: a cell from x, y = {tuple(low.tolist())} to {tuple(high.tolist())} lies outside of its image, "
            f"which has {shape[1]} x {shape[0]} px: was it drawn on another image, or on this one before it was scaled?"
        )
    low, high = np.clip(low, 0, None), np.minimum(high, (shape[1], shape[0]))
    inside = np.zeros((int(high[1] - low[1]), int(high[0] - low[0])), bool)
    for rings in parts:
        # a pixel within a ring and another one around it lies in a hole
        within = [polygon2mask(inside.shape, ring[:, ::-1] - low[::-1] - 0.5) for ring in rings]
        inside |= np.logical_xor.reduce(within)
    yield from _drawing(inside, page, int(low[1]), int(low[0]))


def _rois(file: Path, known: Layout) -> Iterator[_Shape]:
    rois = _read_rois(file)
    rings = [[np.asarray(ring, float) for ring in roi.coordinates(multi=True)] for roi in rois]
    left_out = []
    for roi, of in zip(rois, rings, strict=True):
        if roi.subtype in _OVERLAYS:
            left_out.append(roi.subtype.name.lower())
        elif roi.roitype == roifile.ROI_TYPE.POINT:
            for page, points in _points_by_page(roi, np.concatenate(of), file, known):
                yield _Shape(page, points=points, meaning=meaning_of(roi.name))
        elif roi.roitype in _AREAS and max(map(len, of), default=0) > 2:
            parts = [[ring for ring in of if len(ring) > 2]]
            yield _Shape(_page_of(roi, file, known), parts, meaning=meaning_of(roi.name))
        else:
            left_out.append(roi.roitype.name.lower())
    _say_left_out(left_out, file)


def _read_rois(file: Path) -> list[Any]:
    """ROIs of a file; of an archive those that ImageJ reads, which passes over what is no ``.roi``.

    macOS packs for each file a second one of its own (``__MACOSX/._cell.roi``), which is no ROI.
    """
    try:
        if file.suffix.lower() != ".zip":
            return [roifile.ImagejRoi.frombytes(file.read_bytes())]
        with zipfile.ZipFile(file) as archive:
            names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
            shown = [name for name in names if not name.name.startswith(".")]
            rois = [name for name in shown if name.suffix.lower() == ".roi"]
            if shown and not rois:
                raise ValueError(f"no .roi in it, but {shown[0]}")
            return [roifile.ImagejRoi.frombytes(archive.read(str(name))) for name in rois]
    except Exception as error:  # of whatever it raises for what is no ROI
        raise ValueError(f"{file}: cannot be read as ROIs of ImageJ: {error}; save them again") from error


def _points_by_page(roi: Any, points: Ring, file: Path, known: Layout) -> Iterator[tuple[int | None, Ring]]:
    """Points of one ROI, which ImageJ's multi-point tool collects from all pages of a stack, each with its own."""
    positions = np.zeros(len(points), int) if roi.counter_positions is None else roi.counter_positions.astype(int)
    if len(positions) != len(points) or not positions.any():
        yield _page_of(roi, file, known), points
        return
    if not positions.all() and len(known.shapes) > 1:
        raise ValueError(
            f"{file}: {np.count_nonzero(positions == 0)} points of the ROI {roi.name!r} do not say on which of "
            f"{len(known.shapes)} pages they lie; set them on the stack, page by page"
        )
    # ImageJ counts channels first
    pages = (positions - 1) // max(len(known.channels), 1)
    for page in np.unique(pages).tolist():
        yield page if page >= 0 else None, points[pages == page]


def _page_of(roi: Any, file: Path, known: Layout) -> int | None:
    depths = _depths(known)
    if roi.z_position or roi.t_position:
        return (max(roi.t_position, 1) - 1) * depths + max(roi.z_position, 1) - 1
    if roi.position:
        # ImageJ counts channels first
        return int(roi.position - 1) // max(len(known.channels), 1)
    if len(known.shapes) == 1:
        return None
    raise ValueError(
        f"{file}: the ROI {roi.name!r} does not say on which of {len(known.shapes)} pages it lies; in the ROI Manager, "
        "More > Options > Associate with slices, before it is added"
    )


def _depths(known: Layout) -> int:
    """Pages of one time; of an image of one page, whose stack is not known, more than any stack has."""
    return int(dict(zip(known.axes, known.sizes, strict=True)).get("Z", 1)) if len(known.shapes) > 1 else _DEPTHS


def _geojson(content: Any, file: Path, known: Layout) -> Iterator[_Shape]:
    collection = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(collection, list):
        raise ValueError(f"{file}: no GeoJSON of outlines (its features are no list); export it again")
    depths = _depths(known)
    left_out = []
    for feature in collection:
        try:
            geometry = feature.get("geometry", feature) or {"type": "none"}
            plane = geometry.get("plane", {})
            page = int(plane.get("t", 0)) * depths + int(plane.get("z", 0))
            cell, points, meaning = _cell_of(geometry), _points_of(geometry), meaning_of(_class_of(feature))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise ValueError(f"{file}: no GeoJSON of outlines ({error!r}); export it again") from error
        if cell or len(points):
            yield _Shape(page, cell, points, meaning)
        else:
            kind = str(geometry["type"]).lower()
            left_out.append(f"empty {kind}" if "polygon" in kind else kind)
    _say_left_out(left_out, file)


def _cell_of(geometry: Mapping[str, Any]) -> Cell:
    """Parts of a geometry's areas; none of lines and points."""
    if geometry["type"] == "GeometryCollection":
        return [part for one in geometry["geometries"] for part in _cell_of(one)]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    rings = [[np.array(ring, float)[:, :2] for ring in part if ring] for part in parts]
    if not all(ring.shape[1] == 2 and np.isfinite(ring).all() for part in rings for ring in part):
        raise ValueError("a corner is no x and y, or no number")
    return [part for part in rings if part]


def _points_of(geometry: Mapping[str, Any]) -> Ring:
    """Points of a geometry in x and y, (n, 2)."""
    if geometry["type"] == "GeometryCollection":
        found = [place for one in geometry["geometries"] for place in _points_of(one)]
    elif geometry["type"] in ("Point", "MultiPoint"):
        places = geometry["coordinates"] if geometry["type"] == "MultiPoint" else [geometry["coordinates"]]
        found = [place[:2] for place in places]
    else:
        found = []
    return np.array(found, float).reshape(-1, 2)


def _class_of(feature: Mapping[str, Any]) -> object:
    """Class of an object as QuPath writes it, or its name."""
    properties = feature.get("properties") or {}
    classification = properties.get("classification") or {}
    if not isinstance(classification, Mapping):
        return classification
    return classification.get("name") or next(iter(classification.get("names") or []), properties.get("name"))


def _say_left_out(kinds: Sequence[str], file: Path) -> None:
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
        logger.warning("%s: left out, since only areas and points are cells: %s", file, counted)


def _ids_of(image: Path, content: Any, file: Path) -> list[Any]:
    """Ids that a COCO file has for an image: by its name, and its folders where several have that name."""
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{file}: neither GeoJSON nor COCO, which has images and annotations; export it again")
    with _coco_as_it_should_be(file):
        named = [(entry["id"], Path(_composed(entry["file_name"].replace("\\", "/")))) for entry in content["images"]]
    same = [(number, path) for number, path in named if path.name == _composed(image.name)]
    parts = Path(_composed(str(image.resolve()))).parts
    closest = [number for number, path in same if parts[-len(path.parts) :] == path.parts]
    return closest if len(same) > 1 and closest else [number for number, _ in same]


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


def _coco(content: Any, file: Path, image: Path, shape: tuple[int, ...]) -> Iterator[Drawing]:
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
            left_out += [] if drawn else [_EMPTY]
    if groups:
        logger.warning(
            "%s: %d annotations of %s are groups of cells (iscrowd, in several pieces), taken for unknown: draw their "
            "cells one by one to learn from them",
            file,
            groups,
            image.name,
        )
    _say_left_out(left_out, file)


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
        return _drawing(_run_lengths(drawn, source, shape), 0)
    if not all(isinstance(ring, list) and len(ring) > 0 and len(ring) % 2 == 0 for ring in drawn):
        raise ValueError(
            f"{source}: a polygon is a list of x and y in turn, and a segmentation a list of polygons; export it again"
        )
    return _filled([[np.array(ring, float).reshape(-1, 2)] for ring in drawn], 0, shape, file)


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
