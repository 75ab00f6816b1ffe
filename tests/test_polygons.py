"""Cells as polygons: the way there and back changes no pixel; what cannot be drawn as a cell is refused."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from unet_paper.data import phantom
from unet_paper.release.polygons import from_xml, outlines, to_xml


def xml(*annotations: str, box: str = 'X="0" Y="0" W="0" H="0"') -> bytes:
    return f"<ASAP_Annotations><Annotations {box}>{''.join(annotations)}</Annotations></ASAP_Annotations>".encode()


def annotation(*points: tuple[float, float], kind: str = "Polygon", name: str = "cell") -> str:
    corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(points))
    return f'<Annotation Name="{name}" Type="{kind}"><Coordinates>{corners}</Coordinates></Annotation>'


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, (7, 9), elements=st.integers(0, 3)))
def test_outlines_cover_the_parts_of_every_cell_and_nothing_else(ids: np.ndarray) -> None:
    found: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    for number, corners in outlines(ids):
        mask = from_xml(to_xml([corners], "cell", (9, 7), {}), (7, 9), "cell") > 0
        found[number].append(mask.tobytes())
    for number, masks in found.items():
        parts, count = ndimage.label(ids == number)
        # what touches the outside at a corner alone is no hole
        filled = [ndimage.binary_fill_holes(parts == part, np.ones((3, 3))).tobytes() for part in range(1, count + 1)]
        assert sorted(masks) == sorted(filled)


def test_a_label_image_survives_the_way_to_qupath_and_back() -> None:
    ids = phantom.touching_cells(1, 128, seed=3)[1][0]
    polygons = [corners for _, corners in outlines(ids)]
    back = from_xml(to_xml(polygons, "cell", (128, 128), {"Name": "a & b"}), ids.shape, "cell")
    assert back.dtype == np.uint16
    parts = sum(ndimage.label(ids == number)[1] for number in np.unique(ids)[1:])
    assert back.max() == parts > 3
    np.testing.assert_array_equal(back > 0, ids > 0)
    for number in np.unique(back)[1:]:
        assert len(np.unique(ids[back == number])) == 1, "a polygon covers one cell"


def test_the_xml_is_what_qupaths_extension_parses() -> None:
    """It looks for ``Annotation``, its ``Name``, and ``X`` and ``Y`` of the children of its children."""
    root = ElementTree.fromstring(to_xml([[(1.0, 2.0), (4.0, 2.0), (4.0, 3.5)]], "cell", (8, 6), {"Model": "m"}))
    (found,) = root.iter("Annotation")
    assert found.attrib["Name"] == "cell"
    points = [(float(point.attrib["X"]), float(point.attrib["Y"])) for point in found[0]]
    assert points == [(1, 2), (4, 2), (4, 3.5)]


def test_small_outlines_are_left_out() -> None:
    ids = np.zeros((6, 6), int)
    ids[0, 0], ids[2:5, 2:5] = 1, 2
    assert [number for number, _ in outlines(ids, 2)] == [2]
    assert [number for number, _ in outlines(ids)] == [1, 2]


def test_annotations_become_one_id_each_later_ones_on_top() -> None:
    data = xml(
        annotation((1, 1), (5, 1), (5, 4), (1, 4), kind="Rectangle"),
        annotation((3, 2), (7, 2), (7, 5), (3, 5)),
    )
    expected = np.zeros((6, 8), int)
    expected[1:4, 1:5] = 1
    expected[2:5, 3:7] = 2
    np.testing.assert_array_equal(from_xml(data, (6, 8), "cell"), expected)


def test_an_ellipse_is_filled_from_the_four_points_that_qupath_sends() -> None:
    data = xml(annotation((20, 10), (30, 20), (20, 30), (10, 20), kind="Ellipse"))
    rows, columns = np.indices((40, 40)) + 0.5
    inside = np.hypot(rows - 20, columns - 20) < 10
    assert (from_xml(data, (40, 40), "cell").astype(bool) != inside).mean() < 0.005


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no XML"),
        (b"<a>", "no XML"),
        (b"<a/>", "not the XML of annotations"),
        (xml(), "holds no annotation"),
        (xml(annotation((0, 0), (3, 0), (3, 3), name="Tumor")), "class 'Tumor'"),
        (xml(annotation((0, 0), (3, 0), (3, 3), kind="Geometry")), "type 'Geometry'"),
        (xml(annotation((0, 0), (3, 0), kind="Polyline")), "type 'Polyline'"),
        (xml(annotation(("a", 0), (3, 0), (3, 3))), "coordinate|float"),  # type: ignore[arg-type]
        (xml(annotation((float("nan"), 0), (3, 0), (3, 3))), "coordinate"),
        (xml(annotation((50, 50), (60, 50), (60, 60))), "covers no pixel"),
        (xml(annotation((1, 1), (3, 1), (3, 3), (1, 3)), annotation((0, 0), (5, 0), (5, 5), (0, 5))), "annotation 1"),
        (xml(annotation()), "no coordinates"),
        (xml(annotation((0, 0), (3, 0), (3, 3)), box='X="5" Y="5" W="4" H="4"'), "not the image, 8x6"),
        (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
    ],
)
def test_what_is_no_outline_of_a_cell_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_xml(data, (6, 8), "cell")


def test_ids_of_any_size_cost_nothing() -> None:
    ids = np.array([[0, 2_000_000_007], [5, 0]], np.int32)
    assert [number for number, _ in outlines(ids)] == [5, 2_000_000_007]
