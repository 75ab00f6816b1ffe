"""Drawings of cells as files hold them: ROIs of ImageJ, QuPath's GeoJSON, COCO's JSON, tables of points, masks.

What is drawn counts from the corner of the first pixel; a pixel belongs to a cell if its centre is within the outline,
and holes are outside. Drawings named ``Background``, or of that class, are background, those of ``Ignore`` unknown;
areas of QuPath's class ``Region*`` are left out.
"""

import logging
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import roifile
from numpy.typing import NDArray

from unet_paper.data.annotation import is_inverted
from unet_paper.data.coco import coco_drawings
from unet_paper.data.drawing import EMPTY, Cell, Drawing, Ring, filled, of_mask, read_json, say_left_out
from unet_paper.data.page import Layout
from unet_paper.data.points import CELL, TABLES, Point, meaning_of, read_table, refuse_twins
from unet_paper.data.reader import LabelReader, extension

__all__ = ["DRAWN", "drawings"]

DRAWN = (".zip", ".roi", ".geojson")
_AREAS = {roifile.ROI_TYPE[kind] for kind in ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")}
# labels and pictures laid over an image, which ImageJ keeps as rectangles
_OVERLAYS = {roifile.ROI_SUBTYPE[kind] for kind in ("TEXT", "IMAGE")}
_DEPTHS = 2**20
# commands of java.awt.geom.PathIterator, and how many points each has
_MOVE, _LINE, _CURVES, _CLOSE = 0, 1, (2, 3), 4
_POINTS = {_MOVE: 1, _LINE: 1, 2: 2, 3: 3, _CLOSE: 0}
# straight lines in place of a curve
_STEPS = 16
# of QuPath, for parts of an image that a program looks at
_REGION = "Region*"

logger = logging.getLogger(__name__)


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
        content = read_json(file)
        if kind != ".geojson" and not _is_geojson(content):
            return list(coco_drawings(content, file, image, shape)), []
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
            areas = [area._replace(meaning=one.meaning) for area in filled(one.parts, page, shape, file)]
            drawn += areas
            empty += not areas
        # a place within a pixel is that pixel
        places = np.floor(one.points).astype(np.int64)
        points += [Point(page, int(y), int(x), one.meaning) for x, y in places]
    say_left_out(empty * [EMPTY], file)
    _check_points(points, file, image, known)
    return drawn, points


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
        yield from of_mask(pixels > 0, 0)


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


def _rois(file: Path, known: Layout) -> Iterator[_Shape]:
    rois = _read_rois(file)
    rings = [_rings(roi, file) for roi in rois]
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
    say_left_out(left_out, file)


def _rings(roi: Any, file: Path) -> list[Ring]:
    """Outline of a ROI, of several rings where it is one of ImageJ's composites."""
    try:
        if roi.multi_coordinates is not None:
            roi.multi_coordinates = _straight(roi.multi_coordinates.tolist())
        return [np.asarray(ring, float) for ring in roi.coordinates(multi=True)]
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{file}: the outline of the ROI {roi.name!r} cannot be read: {error}; draw it again in ImageJ, and save "
            "the ROIs without this one"
        ) from error


def _straight(path: Sequence[float]) -> NDArray[np.float32]:
    """Path of a composite with each of its curves as straight lines, since roifile refuses curves.

    Args:
        path: one command after the other as ``java.awt.geom.PathIterator`` has them, its points behind it.

    Raises:
        ValueError: another command, one that lacks points, or a line without a beginning.
    """
    found: list[float] = []
    begun = at = np.empty((0, 2))
    place = 0
    while place < len(path):
        command = int(path[place])
        if command not in _POINTS:
            raise ValueError(f"no command {path[place]:g} of a path")
        points = np.array(path[place + 1 : place + 1 + 2 * _POINTS[command]], float)
        if len(points) < 2 * _POINTS[command] or (not len(at) and command != _MOVE):
            raise ValueError("its path lacks points")
        place += 1 + len(points)
        points = points.reshape(-1, 2)
        if command == _CLOSE:
            found.append(command)
            at = begun
            continue
        if command in _CURVES:
            points, command = _on_curve(np.concatenate([at, points])), _LINE
        for point in points:
            found += [command, *point]
        at = points[-1:]
        begun = at if command == _MOVE else begun
    return np.array(found, np.float32)


def _on_curve(points: Ring) -> Ring:
    """Points along a Bezier curve, without its first one."""
    degree, along = len(points) - 1, (np.arange(_STEPS) + 1)[:, None] / _STEPS
    power = np.arange(degree + 1)
    weights = [math.comb(degree, k) for k in power] * along**power * (1 - along) ** (degree - power)
    on_curve: Ring = weights @ points
    return on_curve


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
    left_out, regions = [], 0
    for feature in collection:
        try:
            geometry = feature.get("geometry", feature) or {"type": "none"}
            plane = geometry.get("plane", {})
            page = int(plane.get("t", 0)) * depths + int(plane.get("z", 0))
            name = _class_of(feature)
            cell, points, meaning = _cell_of(geometry), _points_of(geometry), meaning_of(name)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise ValueError(f"{file}: no GeoJSON of outlines ({error!r}); export it again") from error
        if cell and name == _REGION:
            regions += 1
        elif cell or len(points):
            yield _Shape(page, cell, points, meaning)
        else:
            kind = str(geometry["type"]).lower()
            left_out.append(f"empty {kind}" if "polygon" in kind else kind)
    say_left_out(left_out, file)
    if regions:
        logger.warning("%s: left out, since QuPath's class %s is for parts of an image: %d", file, _REGION, regions)


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
