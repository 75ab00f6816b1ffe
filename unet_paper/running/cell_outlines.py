"""Outlines of cells for other programs: ROIs of ImageJ, GeoJSON of QuPath.

Both count from the corner of the first pixel, whose centre is (0.5, 0.5). ``skimage.measure.find_contours`` finds the
outline half-way between the centres of pixels inside and outside: whoever fills it, taking the pixels whose centres
are in it, has the cell's own pixels again.
"""

import io
import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import roifile
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from unet_paper.data.page import Layout
from unet_paper.running.figures import cell_colours

Ring = NDArray[np.float64]


class Plane(NamedTuple):
    """Where a page lies in its file.

    Attributes:
        z, t: depth and time, from 0.
        position: which plane of the file it is, channels not counted, from 0; None where the file has one alone.
        hyperstack: whether ImageJ counts depth, time or channels apart.
    """

    z: int = 0
    t: int = 0
    position: int | None = None
    hyperstack: bool = False


def planes(layout: Layout, pages: Sequence[int]) -> list[Plane]:
    """Of pages of a file; where it does not name depth or time, pages count as depth.

    >>> planes(Layout(6 * [(4, 4)], axes="TZ", sizes=(2, 3)), [4])
    [Plane(z=1, t=1, position=4, hyperstack=True)]
    """
    if len(layout.shapes) == 1:
        return [Plane() for _ in pages]
    sizes = dict(zip(layout.axes, layout.sizes, strict=True))
    depths = sizes.get("Z", 1) if set(sizes) <= {"T", "Z"} and "T" in sizes else len(layout.shapes)
    hyperstack = len(sizes) > 1 or len(layout.channels) > 1
    return [Plane(page % depths, page // depths, page, hyperstack) for page in pages]


class Outline(NamedTuple):
    """Outline of one cell."""

    id: int
    parts: list[list[Ring]]
    """Each part its outer ring and then its holes; a ring is (n, 2), x and y in px, and ends where it begins."""


def cell_outlines(labels: NDArray[Any]) -> Iterator[Outline]:
    """Outlines of all cells of a label image (H, W), in the order of their ids.

    >>> (outline,) = cell_outlines(np.array([[0, 0], [7, 0]]))
    >>> outline.id, sorted(outline.parts[0][0][:-1].tolist())
    (7, [[0.0, 1.5], [0.5, 1.0], [0.5, 2.0], [1.0, 1.5]])
    """
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mask = np.pad(labels[box] == number, 1)
        contours = find_contours(mask.astype(np.float32), 0.5)
        # from pixel centres of the padded box to the image's corner
        shift = np.array([box[1].start - 0.5, box[0].start - 0.5])
        rings = [_without_straight_points(ring[:, ::-1] + shift) for ring in contours]
        yield Outline(number, _parts(rings, _components(contours, mask)))


def _components(contours: list[Ring], mask: NDArray[np.bool_]) -> list[int]:
    """Which 4-connected component of a cell each contour is of: between two pixels, one is in the cell."""
    components, _ = ndimage.label(mask)
    first = np.array([ring[0] for ring in contours])
    low, high = (components[tuple(end(first).astype(np.intp).T)] for end in (np.floor, np.ceil))
    return [int(component) for component in np.maximum(low, high)]


def _parts(rings: list[Ring], components: list[int]) -> list[list[Ring]]:
    """Outer rings, each with its holes. Around a hole a contour runs the other way, and the largest ring is no hole."""
    areas = [_signed_area(ring) for ring in rings]
    outward = np.sign(max(areas, key=abs))
    of_ring = list(zip(rings, components, np.sign(areas) == outward, strict=True))
    # not by what lies in what: of noise a cell has thousands of holes
    parts = {component: [ring] for ring, component, is_outer in of_ring if is_outer}
    for ring, component, is_outer in of_ring:
        if not is_outer:
            parts[component].append(ring)
    return list(parts.values())


def _signed_area(ring: Ring) -> float:
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _without_straight_points(ring: Ring) -> Ring:
    """The same ring, without the points at which it goes straight on."""
    steps = np.diff(ring, axis=0)
    before = np.roll(steps, 1, axis=0)
    turns = before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]
    kept = ring[:-1][turns]
    return np.concatenate([kept, kept[:1]])


def imagej_rois(pages: Sequence[Iterable[Outline]], comment: str, places: Sequence[Plane] | None = None) -> bytes:
    """Zip of ROIs for ImageJ's ROI Manager, one a cell, named by its id, in a stack after its page.

    A cell of several parts, or with holes, is a composite ROI.

    Args:
        pages: outlines of each page.
        comment: of the archive.
        places: of each page in its image; by default those of a plain stack of them.
    """
    places = planes(Layout([(1, 1)] * len(pages)), range(len(pages))) if places is None else places
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment.encode()
        for page, (outlines, plane) in enumerate(zip(pages, places, strict=True)):
            for outline in outlines:
                name = f"{outline.id:04d}" if len(pages) == 1 else f"{page + 1:04d}-{outline.id:04d}"
                # a fixed time: the same cells make the same file
                entry = zipfile.ZipInfo(f"{name}.roi", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, _roi(outline, name, plane).tobytes())
    return content.getvalue()


def _roi(outline: Outline, name: str, plane: Plane) -> roifile.ImagejRoi:
    rings = [ring for part in outline.parts for ring in part]
    first = rings[0][:-1].astype(np.float32)  # ImageJ closes it
    # of a hyperstack a plain position counts channels too
    place = {"z": plane.z, "t": plane.t} if plane.hyperstack else {"position": plane.position}
    roi = roifile.ImagejRoi.frompoints(first, name=name, **place)
    if len(rings) > 1:
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings]).astype(np.float32)
        roi.shape_roi_size = len(roi.multi_coordinates)
        roi.integer_coordinates = roi.subpixel_coordinates = None
        roi.n_coordinates = 0
        corners = np.concatenate([part[0] for part in outline.parts])
        roi.left, roi.top = (int(value) for value in np.floor(corners.min(axis=0)))
        roi.right, roi.bottom = (int(value) for value in np.ceil(corners.max(axis=0)))
        roi.options &= ~roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    return roi


def _path(ring: Ring) -> NDArray[np.float64]:
    """A ring in the words of Java's PathIterator: 0 moves to, 1 draws a line to, 4 closes."""
    steps = np.column_stack([np.ones(len(ring) - 1), ring[:-1]])
    steps[0, 0] = 0
    return np.append(steps.ravel(), 4)


def qupath_geojson(
    pages: Sequence[Iterable[Outline]],
    measurements: Sequence[Mapping[int, Mapping[str, float]]],
    places: Sequence[Plane],
    generator: str,
    classes: Sequence[Mapping[int, str]] | None = None,
) -> Iterator[str]:
    """GeoJSON FeatureCollection of detections, as QuPath imports it, piece by piece; each feature stands in a line.

    Args:
        pages: outlines of each page.
        measurements: of each page, of each cell.
        places: of each page in its image.
        generator: the program.
        classes: of each page, the name of each cell's class; ``cell`` where there is none.
    """
    named = classes or [{}] * len(pages)
    # QuPath takes the colour of a class from the first object that has it
    known = sorted({name for page in named for name in page.values()})
    painted = cell_colours(np.arange(1, len(known) + 1)[None])[0].tolist()
    colours = dict(zip(known, painted, strict=True))
    yield f'{{"type": "FeatureCollection", "generator": {json.dumps(generator)}, "features": ['
    separator = "\n"
    for outlines, measured, of_cells, place in zip(pages, measurements, named, places, strict=True):
        plane = {"c": -1, "z": place.z, "t": place.t}
        for outline in outlines:
            found, class_name = measured.get(outline.id, {}), of_cells.get(outline.id, "cell")
            yield separator + json.dumps(_feature(outline, found, plane, class_name, colours))
            separator = ",\n"
    yield "\n]}\n"


def _feature(
    outline: Outline,
    measured: Mapping[str, float],
    plane: Mapping[str, int],
    class_name: str,
    colours: Mapping[str, list[int]],
) -> dict[str, Any]:
    polygons = [[ring.tolist() for ring in part] for part in outline.parts]
    several = len(polygons) > 1
    geometry = {"type": "MultiPolygon" if several else "Polygon", "coordinates": polygons if several else polygons[0]}
    return {
        "type": "Feature",
        # the same cell has the same name in each run
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([plane, polygons]))),
        "geometry": {**geometry, "plane": plane},
        "properties": {
            "objectType": "detection",
            "name": str(outline.id),
            "classification": {"name": class_name, "color": colours.get(class_name, [255, 200, 0])},
            "measurements": measured,
        },
    }
