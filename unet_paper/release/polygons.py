"""Cells as polygons: for QuPath and CVAT, which draw outlines, and back into label images.

A polygon runs along the edges of pixels, so that a label image survives the way there and back: the pixel in column x
covers x to x + 1, as in QuPath. The XML is that of ASAP, which MONAI Label's extension for QuPath sends and parses.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon as pixels_inside

Polygon = list[tuple[float, float]]

_COLOUR = "#ff0000"
_MAX_POINTS = 10_000_000
_OUTLINES = ("polygon", "rectangle")


def outlines(ids: NDArray[np.integer[Any]], min_area: float = 0) -> Iterator[tuple[int, Polygon]]:
    """Outer outlines of the connected parts (by edges) of every cell; holes are filled.

    Args:
        ids: label image, shape (H, W); 0 is background.
        min_area: parts whose outline encloses fewer px are left out.

    Returns:
        Id and corners (x, y) in px, clockwise as seen on the screen.

    >>> list(outlines(np.array([[0, 7], [0, 7]])))
    [(7, [(1.0, 0.0), (2.0, 0.0), (2.0, 2.0), (1.0, 2.0)])]
    """
    cells = np.unique(ids[ids > 0])
    # by rank: what finds them keeps a place for each number up to the largest
    ranks = np.where(ids > 0, np.searchsorted(cells, ids) + 1, 0)
    for number, window in zip(cells.tolist(), ndimage.find_objects(ranks), strict=True):
        top, left = window[0].start, window[1].start
        for corners in _loops(np.pad(ids[window] == number, 1)):
            if (area := _area(corners)) > 0 and area >= min_area:
                yield number, [(x - 1.0 + left, y - 1.0 + top) for x, y in corners]


def to_xml(polygons: Sequence[Polygon], name: str, size: tuple[int, int], attributes: Mapping[str, str]) -> bytes:
    """ASAP's XML.

    Args:
        polygons: corners (x, y) of every cell.
        name: class of all of them.
        size: width and height of the image.
        attributes: of the whole, such as ``Name`` and ``Model``.
    """
    root = ElementTree.Element("ASAP_Annotations")
    whole = {"X": "0", "Y": "0", "W": str(size[0]), "H": str(size[1])}
    annotations = ElementTree.SubElement(root, "Annotations", {**attributes, **whole})
    for corners in polygons:
        outline = {"Name": name, "Type": "Polygon", "PartOfGroup": name, "Color": _COLOUR}
        points = ElementTree.SubElement(ElementTree.SubElement(annotations, "Annotation", outline), "Coordinates")
        for order, (x, y) in enumerate(corners):
            ElementTree.SubElement(points, "Coordinate", {"Order": str(order), "X": f"{x:g}", "Y": f"{y:g}"})
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    ElementTree.SubElement(groups, "Group", {"Name": name, "PartOfGroup": "None", "Color": _COLOUR})
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml


def from_xml(data: bytes, shape: tuple[int, int], name: str) -> NDArray[np.uint16]:
    """Label image of annotations in ASAP's XML: one id for each, later ones over earlier ones.

    Args:
        data: the XML.
        shape: (H, W) of the image that was annotated.
        name: class of a cell, upper or lower case.

    Raises:
        ValueError: no such XML; another class or form than outlines of cells; coordinates that are no numbers; an
            annotation of another image's size; a cell that lies outside the image or under others.
    """
    annotations, box = _parse(data)
    if box[2:] != (0, 0) and box[2:] != shape[::-1]:
        raise ValueError(f"W={box[2]} H={box[3]}: the annotated region is not the image, {shape[1]}x{shape[0]} px")
    ids = np.zeros(shape, np.int64)
    for number, (attributes, corners) in enumerate(annotations, start=1):
        kind, given = attributes.get("Type", "Polygon"), attributes.get("Name", "")
        if given.lower() != name.lower():
            raise ValueError(f"annotation {number}: class {given!a}; cells have the class {name!r}, remove the others")
        ids[_inside(kind, corners, shape, number)] = number
    if hidden := set(range(1, len(annotations) + 1)) - set(np.unique(ids).tolist()):
        raise ValueError(f"annotation {min(hidden)}: covers no pixel, or lies under others; remove it")
    if not annotations:
        raise ValueError("holds no annotation")
    if len(annotations) >= 2**16:
        raise ValueError(f"{len(annotations)} annotations: a label image numbers 65535")
    return ids.astype(np.uint16)


def _inside(kind: str, corners: Polygon, shape: tuple[int, int], number: int) -> Any:
    if not corners:
        raise ValueError(f"annotation {number}: has no coordinates")
    x, y = np.array(corners).T
    if kind.lower() == "ellipse":
        # QuPath sends four points of it, from which its box can be told
        angle = np.linspace(0, 2 * math.pi, 360, endpoint=False)
        width, height = np.ptp(x) / 2, np.ptp(y) / 2
        x, y = x.min() + width + width * np.cos(angle), y.min() + height + height * np.sin(angle)
    elif kind.lower() not in _OUTLINES:
        raise ValueError(f"annotation {number}: of type {kind!a}, which has no one outline; draw a polygon instead")
    # centres of pixels are half a pixel from their edges
    return pixels_inside(y - 0.5, x - 0.5, shape)


def _parse(data: bytes) -> tuple[list[tuple[dict[str, str], Polygon]], tuple[int, int, int, int]]:
    """Annotations with their corners, and the annotated region. No document type, so that no entity can burst."""
    annotations: list[tuple[dict[str, str], Polygon]] = []
    boxes: list[tuple[int, int, int, int]] = []
    points = 0

    def refuse(*_: Any) -> None:
        raise ValueError("has a document type, which annotations have no use for")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal points
        if tag == "Annotations":
            boxes.append(tuple(_whole(attributes.get(key, "0")) for key in "XYWH"))  # type: ignore[arg-type]
        elif tag == "Annotation":
            annotations.append((attributes, []))
        elif tag == "Coordinate" and annotations:
            points += 1
            if points > _MAX_POINTS:
                raise ValueError(f"more than {_MAX_POINTS} points")
            annotations[-1][1].append((_finite(attributes.get("X")), _finite(attributes.get("Y"))))

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"is no XML ({error})") from error
    if len(boxes) != 1:
        raise ValueError("is not the XML of annotations: expected one element Annotations")
    return annotations, boxes[0]


def _finite(text: str | None) -> float:
    value = float(text or "nan")
    if not math.isfinite(value) or abs(value) > 2**31:
        raise ValueError(f"coordinate {text!a}: is no number")
    return value


def _whole(text: str) -> int:
    return int(_finite(text))


def _loops(mask: NDArray[np.bool_]) -> Iterator[list[tuple[int, int]]]:
    """Corners (x, y) of every closed path around the mask, which has a margin of one pixel; the inside on the right."""
    ends: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (row, column), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        outside = ~np.roll(mask, (-row, -column), axis=(0, 1))
        for y, x in zip(*np.nonzero(mask & outside), strict=True):
            ends[(int(x) + start[0], int(y) + start[1])].append((int(x) + end[0], int(y) + end[1]))
    while ends:
        yield _follow(ends, next(iter(ends)))


def _follow(ends: dict[tuple[int, int], list[tuple[int, int]]], first: tuple[int, int]) -> list[tuple[int, int]]:
    """Take one closed path out of ``ends``."""
    corners: list[tuple[int, int]] = []
    here, direction = first, (0, 0)
    while here != first or not corners:
        choices = ends[here]
        # where two pixels meet at a corner alone, the turn to the right keeps them apart
        right = (here[0] - direction[1], here[1] + direction[0])
        there = right if right in choices else choices[0]
        choices.remove(there)
        if not choices:
            del ends[here]
        step = (there[0] - here[0], there[1] - here[1])
        if step != direction:
            corners.append(here)
            direction = step
        here = there
    # the first corner is none if the path arrives as it left
    return corners[1:] if _straight(corners[-1], corners[0], corners[1]) else corners


def _straight(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0])


def _area(corners: Sequence[tuple[int, int]]) -> float:
    """Enclosed px, negative around a hole."""
    pairs = zip(corners, [*corners[1:], corners[0]], strict=True)
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) / 2
