"""Outlines for ImageJ and QuPath give back, filled, exactly the cells that they were made of."""

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
import roifile
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from unet_paper.data.page import Layout
from unet_paper.running.cell_outlines import Plane, cell_outlines, imagej_rois, planes, qupath_geojson


def filled(rings: list[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centres lie in an odd number of rings, as scikit-image has it; rings count from the corner."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.asarray(ring)[:, ::-1] - 0.5)
    return inside


@pytest.fixture(params=range(3))
def labels(request: pytest.FixtureRequest) -> NDArray[np.int32]:
    """Blobs of any shape, some with holes, at the border, of a single pixel, and one in two parts."""
    noise = ndimage.gaussian_filter(np.random.default_rng(request.param).normal(size=(60, 70)), 1.5)
    found, _ = ndimage.label(noise > 0)
    found = found.astype(np.int32)
    found[found == 5] = 4
    found[30:45, 20:40] = 100
    found[33:40, 25:35] = 0
    found[35:37, 28:30] = 100  # an island in the lake of its own cell
    found[0, 69] = 200
    return found


def test_imagej_s_rois(labels: NDArray[np.int32]) -> None:
    content = imagej_rois([cell_outlines(labels)], "unet_paper 1")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.comment == b"unet_paper 1"
        rois = [roifile.ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
    assert [int(roi.name) for roi in rois] == [number for number in np.unique(labels) if number]
    for roi in rois:
        assert np.array_equal(filled(roi.coordinates(multi=True), labels.shape), labels == int(roi.name))
        rows, columns = np.nonzero(labels == int(roi.name))
        assert roi.top <= rows.min() <= rows.max() < roi.bottom
        assert roi.left <= columns.min() <= columns.max() < roi.right


def test_qupath_s_geojson(labels: NDArray[np.int32]) -> None:
    text = "".join(qupath_geojson([cell_outlines(labels)], [{100: {"area_px": 7.0}}], [Plane()], "unet_paper 1"))
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        geometry, number = feature["geometry"], int(feature["properties"]["name"])
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert np.array_equal(filled([ring for part in polygons for ring in part], labels.shape), labels == number)
        assert all(ring[0] == ring[-1] for part in polygons for ring in part)
        # the first ring is the outer one: filled alone, it holds the others
        assert all(filled(part[:1], labels.shape).sum() >= filled(part, labels.shape).sum() for part in polygons)
        assert feature["properties"]["measurements"] == ({"area_px": 7.0} if number == 100 else {})
    two_parts = {f["properties"]["name"] for f in collection["features"] if f["geometry"]["type"] == "MultiPolygon"}
    assert "100" in two_parts


def test_pages_of_a_stack_are_told_apart() -> None:
    page = np.array([[1, 0]])
    with zipfile.ZipFile(io.BytesIO(imagej_rois([[], cell_outlines(page)], ""))) as archive:
        (name,) = archive.namelist()
        assert name == "0002-0001.roi"
        assert roifile.ImagejRoi.frombytes(archive.read(name)).position == 2  # ImageJ counts from 1
    (feature,) = json.loads(
        "".join(qupath_geojson([[], cell_outlines(page)], [{}, {}], planes(Layout([(9, 9)] * 2), [0, 1]), ""))
    )["features"]
    assert feature["geometry"]["plane"] == {"c": -1, "z": 1, "t": 0}


@pytest.mark.parametrize(
    ("axes", "sizes", "channels", "expected"),
    [
        ("Z", (6,), 1, (4, 0, (5, 0, 0))),
        ("T", (6,), 1, (0, 4, (5, 0, 0))),
        ("TZ", (2, 3), 1, (1, 1, (0, 2, 2))),
        ("T", (6,), 2, (0, 4, (0, 1, 5))),  # ImageJ counts channels first: slice 5 would be the third frame
        ("Q", (6,), 1, (4, 0, (5, 0, 0))),
    ],
)
def test_a_page_lies_where_other_programs_look_for_it(
    axes: str, sizes: tuple[int, ...], channels: int, expected: tuple[int, int, tuple[int, int, int]]
) -> None:
    """The fifth page: z and t of QuPath from 0; slice, or depth and frame, of ImageJ from 1, 0 for none."""
    known = Layout([(9, 9)] * 6, axes=axes, sizes=sizes, channels=tuple("ABC"[:channels]))
    places = planes(known, [4])
    page = np.pad(np.ones((3, 3), np.uint8), 3)
    (feature,) = json.loads("".join(qupath_geojson([cell_outlines(page)], [{}], places, "")))["features"]
    with zipfile.ZipFile(io.BytesIO(imagej_rois([cell_outlines(page)], "", places))) as archive:
        roi = roifile.ImagejRoi.frombytes(archive.read(archive.namelist()[0]))
    z, t, of_imagej = expected
    assert feature["geometry"]["plane"] == {"c": -1, "z": z, "t": t}
    assert (roi.position, roi.z_position, roi.t_position) == of_imagej


def test_holes_of_a_cell_of_noise_go_with_their_parts() -> None:
    # thousands of them: a way that takes minutes is ended by the time limit of a test
    labels = (np.random.default_rng(0).random((500, 500)) > 0.35).astype(np.int32)
    (outline,) = cell_outlines(labels)
    components, count = ndimage.label(labels)
    assert len(outline.parts) == count
    largest = max(outline.parts, key=len)
    inside = filled(largest, labels.shape)
    assert np.array_equal(inside, components == components[inside][0])
