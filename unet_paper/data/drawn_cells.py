"""Cells that were drawn one by one, to label images: ROIs of ImageJ, QuPath's GeoJSON, COCO's JSON, a mask file a cell.

What is drawn counts from the corner of the first pixel; a pixel belongs to a cell if its centre is within the outline,
and holes are outside. Where cells overlap, the one drawn later lies on top.
"""

import functools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import roifile
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from unet_paper.data.page import Layout
from unet_paper.data.reader import LabelReader, extension, layout

__all__ = ["DRAWN", "coco_file", "label_image"]

DRAWN = (".zip", ".roi", ".geojson")
_AREAS = {roifile.ROI_TYPE[kind] for kind in ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")}

Labels = NDArray[np.int32]
# x and y, (n, 2)
Ring = NDArray[np.float64]
# parts that may overlap, each its rings: what lies within two rings of a part is a hole
Cell = Sequence[Sequence[Ring]]

logger = logging.getLogger(__name__)


class _Drawing(NamedTuple):
    """What one cell covers: of a page, the pixels of ``inside`` from ``top`` and ``left`` on."""

    page: int
    top: int
    left: int
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def label_image(image: Path, annotation: Sequence[Path]) -> Labels:
    """Label image of an image whose annotation is anything but one.

    A drawing around two or more others is a region and no cell: it is left out, and said, as are lines and points.

    Args:
        image: the file.
        annotation: one file of drawings, or a mask file a cell.

    Returns:
        shape (H, W), or (N, H, W) of an image of several pages; cells 1 .. n on each page in the order they were drawn.

    Raises:
        ValueError: for a file of another kind or size, a cell outside of the image, or a stack whose drawings do not
            say on which page they lie.
    """
    known = layout(image)
    shape = known.shapes[0][:2]
    labels = np.zeros((len(known.shapes), *shape), np.int32)
    if len(known.shapes) > 1 and annotation[0].suffix.lower() not in DRAWN:
        raise ValueError(
            f"{annotation[0]}: its image {image.name} has {len(known.shapes)} pages, and it does not say which cell is "
            "on which; give a label image of as many pages, or ROIs of ImageJ"
        )
    drawn = list(_masks(annotation, shape) if extension(annotation[0]) else _drawings(annotation[0], image, known))
    cells = _without_regions(drawn, annotation[0])
    numbers: Counter[int] = Counter()
    for cell in cells:
        numbers[cell.page] += 1
        labels[cell.page][cell.window][cell.inside] = numbers[cell.page]
    return labels[0] if len(known.shapes) == 1 else labels


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


def _masks(files: Sequence[Path], shape: tuple[int, ...]) -> Iterator[_Drawing]:
    for file in files:
        pixels, _ = LabelReader().get_data(file)
        if pixels.shape != shape:
            raise ValueError(f"{file}: {pixels.shape} px, but its image has {shape}: both must have one size")
        yield from _drawing(pixels > 0, 0)


def _drawings(file: Path, image: Path, known: Layout) -> Iterator[_Drawing]:
    """Each cell of an annotation file, in the order of the file."""
    kind, shape = file.suffix.lower(), known.shapes[0][:2]
    if kind in (".zip", ".roi"):
        cells = _rois(file, known)
    else:
        content = _parsed(file)
        if kind != ".geojson" and not _is_geojson(content):
            yield from _coco(content, file, image, shape)
            return
        cells = _geojson(content, file, known)
    for page, cell in cells:
        if not 0 <= page < len(known.shapes):
            raise ValueError(f"{file}: a cell on page {page}, but {image.name} has pages 0 to {len(known.shapes) - 1}")
        yield from _filled(cell, page, shape, file)


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


def _drawing(inside: NDArray[np.bool_], page: int, top: int = 0, left: int = 0) -> Iterator[_Drawing]:
    """The drawing of a mask, without the rows and columns around it; none where nothing is inside."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows):
        cut = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        yield _Drawing(page, top + int(rows[0]), left + int(columns[0]), cut)


def _filled(parts: Cell, page: int, shape: tuple[int, ...], file: Path) -> Iterator[_Drawing]:
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


def _rois(file: Path, known: Layout) -> Iterator[tuple[int, Cell]]:
    try:
        read = roifile.roiread(file)
    except Exception as error:  # of whatever it raises for what is no ROI
        raise ValueError(f"{file}: cannot be read as ROIs of ImageJ: {error}; save them again") from error
    rois = read if isinstance(read, list) else [read]
    rings = [[np.asarray(ring, float) for ring in roi.coordinates(multi=True)] for roi in rois]
    areas = [roi.roitype in _AREAS and max(map(len, of), default=0) > 2 for roi, of in zip(rois, rings, strict=True)]
    _say_left_out([roi.roitype.name.lower() for roi, area in zip(rois, areas, strict=True) if not area], file)
    for roi, of, area in zip(rois, rings, areas, strict=True):
        if area:
            yield _page_of(roi, file, known), [[ring for ring in of if len(ring) > 2]]


def _page_of(roi: Any, file: Path, known: Layout) -> int:
    if len(known.shapes) == 1:
        return 0
    depths = dict(zip(known.axes, known.sizes, strict=True)).get("Z", 1)
    if roi.z_position or roi.t_position:
        return (max(roi.t_position, 1) - 1) * depths + max(roi.z_position, 1) - 1
    if roi.position:
        # ImageJ counts channels first
        return int(roi.position - 1) // max(len(known.channels), 1)
    raise ValueError(
        f"{file}: the ROI {roi.name!r} does not say on which of {len(known.shapes)} pages it lies; in the ROI Manager, "
        "More > Options > Associate with slices, before it is added"
    )


def _geojson(content: Any, file: Path, known: Layout) -> Iterator[tuple[int, Cell]]:
    collection = content.get("features", [content]) if isinstance(content, dict) else content
    depths = dict(zip(known.axes, known.sizes, strict=True)).get("Z", 1)
    left_out = []
    for feature in collection:
        try:
            geometry = feature.get("geometry", feature) or {"type": "none"}
            plane = geometry.get("plane", {})
            page = int(plane.get("t", 0)) * depths + int(plane.get("z", 0)) if len(known.shapes) > 1 else 0
            cell = _cell_of(geometry)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{file}: no GeoJSON of outlines ({error!r}); export it again") from error
        if cell:
            yield page, cell
        else:
            left_out.append(str(geometry["type"]).lower())
    _say_left_out(left_out, file)


def _cell_of(geometry: Mapping[str, Any]) -> Cell:
    """Parts of a geometry's areas; none of lines and points."""
    if geometry["type"] == "GeometryCollection":
        return [part for one in geometry["geometries"] for part in _cell_of(one)]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [[np.array(ring, float)[:, :2] for ring in part] for part in parts]


def _say_left_out(kinds: Sequence[str], file: Path) -> None:
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
        logger.warning("%s: left out, since only areas are cells: %s", file, counted)


def _without_regions(drawn: Sequence[_Drawing], file: Path) -> list[_Drawing]:
    """Drawings but for those around others: of a frame in which cells were looked for, not of a cell."""
    if not drawn:
        return []
    pages = np.array([one.page for one in drawn])
    boxes = np.array(
        [(one.top, one.left, one.top + one.inside.shape[0], one.left + one.inside.shape[1]) for one in drawn]
    )
    areas = np.array([int(one.inside.sum()) for one in drawn])
    # of each a pixel of its own, the first
    points = np.array([(one.top, one.left + int(one.inside[0].argmax())) for one in drawn])
    cells, regions = [], 0
    for number, one in enumerate(drawn):
        top, left, bottom, right = boxes[number]
        within = (pages == one.page) & (2 * areas <= areas[number])
        within &= (boxes[:, 0] >= top) & (boxes[:, 1] >= left) & (boxes[:, 2] <= bottom) & (boxes[:, 3] <= right)
        rows, columns = (points[within] - (top, left)).T
        if np.count_nonzero(one.inside[rows, columns]) >= 2:
            regions += 1
        else:
            cells.append(one)
    if regions:
        logger.warning(
            "%s: left out: %d of %d outlines, which lie around two or more others: taken for regions, not for cells",
            file,
            regions,
            len(drawn),
        )
    return cells


def _ids_of(image: Path, content: Any, file: Path) -> list[Any]:
    """Ids that a COCO file has for an image: by its name, and its folders where several have that name."""
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{file}: neither GeoJSON nor COCO, which has images and annotations; export it again")
    named = [(entry["id"], Path(entry["file_name"].replace("\\", "/"))) for entry in content["images"]]
    same = [(number, path) for number, path in named if path.name == image.name]
    parts = image.resolve().parts
    closest = [number for number, path in same if parts[-len(path.parts) :] == path.parts]
    return closest if len(same) > 1 and closest else [number for number, _ in same]


def _coco(content: Any, file: Path, image: Path, shape: tuple[int, ...]) -> Iterator[_Drawing]:
    ids = _ids_of(image, content, file)
    if len(ids) != 1:
        what = f"names {len(ids)} images {image.name}" if ids else f"names no image {image.name}"
        raise ValueError(f"{file}: {what}; COCO's images have a file_name each")
    (entry,) = (entry for entry in content["images"] if entry["id"] == ids[0])
    stated = (entry.get("height", shape[0]), entry.get("width", shape[1]))
    if stated != tuple(shape):
        raise ValueError(
            f"{file}: {image.name} was of {stated} px when its cells were drawn, and has {shape} px: was it scaled? "
            "Use the image that was drawn on"
        )
    for entry in content["annotations"]:
        if entry["image_id"] != ids[0]:
            continue
        drawn, source = entry.get("segmentation"), f"{file}: annotation {entry.get('id')}"
        if not drawn:
            raise ValueError(f"{source} has no segmentation: a box is no outline; export polygons or masks")
        if isinstance(drawn, list):
            yield from _filled([[np.array(ring, float).reshape(-1, 2)] for ring in drawn], 0, shape, file)
        else:
            yield from _drawing(_run_lengths(drawn, source, shape), 0)


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
