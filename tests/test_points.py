"""Cells annotated by points: what training sees of them, what is scored, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
import yaml
from conftest import TINY
from PIL import Image

from unet_paper.app import check
from unet_paper.app.command_line import main
from unet_paper.app.folder_cases import cases_of
from unet_paper.data import folder_layout, phantom
from unet_paper.data.annotation import InstancesFromAnnotationd
from unet_paper.data.drawn_cells import label_image
from unet_paper.data.held_out_block import HoldOutBlockd
from unet_paper.data.points import disc_radius, is_table, point_labels, read_table
from unet_paper.data.reader import LabelReader
from unet_paper.metrics import f1, point_f1
from unet_paper.metrics.monai_metrics import PointF1
from unet_paper.running import facts

SHAPE = (7, 12)
# x and y of two cells' pixels and of one of background
CELLS, BACKGROUND = [(2, 1), (8, 3)], [(11, 6)]
# discs of 1 px; the line is where the squared distances to both, which differ by 68 - 12 x - 4 y, do so by at most
# sqrt(40) = 6.3
EXPECTED = [
    "..1...0.....",
    ".111.0......",
    "..1..0..2...",
    ".....0.222..",
    "....0...2...",
    "....0......0",
    "....0.....00",
]


def of(rows: list[str]) -> np.ndarray:
    """A label image from a picture: dots are open, question marks unknown."""
    values = {".": -2, "?": -1}
    return np.array([[values.get(sign, 0) if sign in values else int(sign) for sign in row] for row in rows])


def picture(labels: np.ndarray) -> list[str]:
    signs = {-2: ".", -1: "?"}
    return ["".join(signs.get(int(value), str(value)) for value in row) for row in labels]


def line_by_hand() -> set[tuple[int, int]]:
    """Pixels at most half a pixel from the line half way between the two cells, by the distance to that line."""
    (x1, y1), (x2, y2) = CELLS
    length = np.hypot(x2 - x1, y2 - y1)
    found = set()
    for y in range(SHAPE[0]):
        for x in range(SHAPE[1]):
            along = ((x - (x1 + x2) / 2) * (x2 - x1) + (y - (y1 + y2) / 2) * (y2 - y1)) / length
            if abs(along) <= 0.5 + 1e-9:
                found.add((y, x))
    return found


def image(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape).astype(np.uint8)).save(path)
    return path


def point_roi(places: list[tuple[float, float]], name: str = "") -> roifile.ImagejRoi:
    roi = roifile.ImagejRoi.frompoints(np.array(places, np.float32))
    roi.roitype, roi.name = roifile.ROI_TYPE.POINT, name
    return roi


def multipoint(root: Path) -> None:
    # in the middle of the pixels, as one clicks on a magnified image
    middle = [(x + 0.5, y + 0.5) for x, y in CELLS]
    roifile.roiwrite(root / "a.zip", [point_roi(middle), point_roi([(11.5, 6.5)], "background-1")])


def single_points(root: Path) -> None:
    rois = [point_roi([place], f"{k}") for k, place in enumerate(CELLS)]
    roifile.roiwrite(root / "a.zip", [*rois, point_roi(BACKGROUND, "Background")])


def qupath(root: Path) -> None:
    features = [
        {"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": [[2.7, 1.2], [8.1, 3.9]]}},
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [11.3, 6.3]},
            "properties": {"classification": {"name": "Background"}},
        },
    ]
    (root / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def napari(root: Path) -> None:
    rows = [f"{k},{y + 0.3},{x - 0.4},{kind}" for k, (x, y, kind) in enumerate(table())]
    (root / "a.csv").write_text("\n".join(["index,axis-0,axis-1,class", *rows]))


def spreadsheet(root: Path) -> None:
    rows = [f"{x};{y};{kind}" for x, y, kind in table()]
    (root / "a.csv").write_text("\ufeff" + "\n".join(["x;y;class", *rows, ";;"]), encoding="utf-8")


def table() -> list[tuple[int, int, str]]:
    return [*((x, y, "cell") for x, y in CELLS), *((x, y, "background") for x, y in BACKGROUND)]


def drawn(root: Path, radius: float | None = 1.0) -> np.ndarray:
    (found,) = folder_layout.find(root).images
    return label_image(found.image, found.annotation, radius)


def test_discs_are_cells_lines_between_them_and_discs_of_background_are_background() -> None:
    labels = point_labels(np.array([(y, x) for x, y in CELLS]), np.array([(y, x) for x, y in BACKGROUND]), SHAPE, 1.0)
    assert picture(labels) == EXPECTED
    disc = {(6, 11), (5, 11), (6, 10)}
    assert {(y, x) for y, x in zip(*np.nonzero(labels == 0), strict=True)} == line_by_hand() | disc


@pytest.mark.parametrize("write", [multipoint, single_points, qupath, napari, spreadsheet])
@pytest.mark.parametrize("where", ["annotations", "points"])
def test_each_way_to_set_points_leads_to_the_same(write: Callable[[Path], None], where: str, tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / where).mkdir()
    write(tmp_path / where)
    assert picture(drawn(tmp_path)) == EXPECTED


@pytest.mark.parametrize("beside", [".", "images"])
def test_a_table_may_lie_beside_its_image(beside: str, tmp_path: Path) -> None:
    image(tmp_path / beside / "a.png")
    napari(tmp_path / beside)
    assert picture(drawn(tmp_path)) == EXPECTED
    image(tmp_path / beside / "b.png")
    with pytest.raises(ValueError, match="no annotation for image b"):
        folder_layout.find(tmp_path)


def test_discs_do_not_reach_over_the_line_and_each_pixel_is_that_of_the_nearest_point() -> None:
    labels = point_labels(np.array([(2, 1), (2, 4)]), np.empty((0, 2), int), (5, 6), 9.0)
    # 1.5 px from either: two pixels wide
    assert picture(labels) == 5 * ["110022"]
    assert picture(point_labels(np.array([(0, 1)]), np.empty((0, 2), int), (1, 5), 1.0)) == ["111.."]
    # a point of background beside a cell's: each pixel to the nearer
    assert picture(point_labels(np.array([(0, 0)]), np.array([(0, 3)]), (1, 6), 2.0)) == ["110000"]


def test_the_radius_is_half_of_that_of_the_smallest_cells_that_touch() -> None:
    assert disc_radius(np.array([12.0] * 10 + [90.0] * 40)) == 3.0
    assert disc_radius(np.array([4.0] * 20)) == 2.0
    assert disc_radius(np.array([100.0] * 20)) == disc_radius(np.empty(0)) == 5.0


def test_outlines_and_points_of_one_file_are_cells_and_the_rest_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A point within an outline is that cell, whose disc would be another; areas may be background or unknown."""
    image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    box = {"type": "Feature", "geometry": {"type": "Polygon"}}

    def area(left: int, top: int, right: int, bottom: int, name: str = "Cell") -> dict[str, Any]:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {**box, "geometry": geometry, "properties": {"classification": {"name": name}}}

    points = {
        "type": "Feature",
        "geometry": {"type": "MultiPoint", "coordinates": [[x + 0.5, y + 0.5] for x, y in CELLS]},
    }
    content = [points, area(1, 1, 4, 3), area(0, 5, 4, 7, "Background"), area(9, 0, 12, 2, "Ignore*")]
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps(content))
    assert picture(drawn(tmp_path)) == [
        "......0..???",
        ".333.0...???",
        ".333.0..2...",
        ".....0.222..",
        "....0...2...",
        "00000.......",
        "00000.......",
    ]
    # around two points: a frame that was looked at, and no cell
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps([points, area(0, 0, 12, 7)]))
    assert picture(drawn(tmp_path))[:5] == EXPECTED[:5]
    # without points the rest is background, as ever
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps(content[1:]))
    expected = np.zeros(SHAPE, int)
    expected[1:3, 1:4], expected[:2, 9:] = 1, -1
    np.testing.assert_array_equal(drawn(tmp_path), expected)
    # QuPath's class for parts of an image is none of cells, whatever lies in it
    assert "Region" not in caplog.text
    regions = [area(5, 2, 8, 5, "Region*"), area(0, 0, 5, 4, "Region*")]
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps([*content[1:], *regions]))
    np.testing.assert_array_equal(drawn(tmp_path), expected)
    assert "a.geojson: left out, since QuPath's class Region* is for parts of an image: 2" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index,axis-0,axis-1\n", "holds no point, so that nothing is known"),
        ("index,axis-0,axis-1\n0,3,12\n", "a point at x, y = 12, 3 lies outside of a.png, which has 12 x 7 px"),
        ("index,axis-0,axis-1\n0,-1,2\n", "a point at x, y = 2, -1 lies outside"),
        ("y,x\n3,4\n5,8\n3,5\n", r"two points are less than 2 px apart, a cell at x, y = 4, 3 and a cell at 5, 3"),
        ("y,x,class\n3,4,cell\n3,4,background\n", "a cell at x, y = 4, 3 and a background at 4, 3"),
        ("y,x\n3,4\n5,here\n", r"line 3 \('5,here'\) is no point; numbers are needed"),
        ("axis-0,axis-1,axis-2\n2,3,4\n", r"x, y = 4, 3, page 2, lies outside"),
        (
            "index,shape-type,vertex-index,axis-0,axis-1\n0,polygon,0,1,1\n0,polygon,1,1,6\n",
            "a table of napari's shapes",
        ),
        (" ,Area,Mean,X,Y\n1,0,17,3.2,4.1\n", "X and Y of a table of results are in the image's unit"),
    ],
)
def test_points_that_cannot_be_are_named(text: str, said: str, tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said) as info:
        drawn(tmp_path)
    assert "a.csv: " in str(info.value)


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    """Of measurements, and of points of an image that has a mask."""
    image(tmp_path / "images" / "a.png")
    tifffile.imwrite(tmp_path / "images" / "a_mask.tif", np.ones(SHAPE, np.uint8))
    (tmp_path / "images" / "a.csv").write_text("y,x\n1,1\n")
    (tmp_path / "images" / "notes.csv").write_text("who,when\nme,today\n")
    assert not is_table(tmp_path / "images" / "notes.csv")
    (found,) = folder_layout.find(tmp_path / "images").images
    assert found.annotation[0].name == "a_mask.tif"


def test_points_of_a_stack_say_their_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "s.tif", np.zeros((3, *SHAPE), np.uint8), photometric="minisblack")
    (tmp_path / "points").mkdir()
    file = tmp_path / "points" / "s.csv"
    file.write_text("axis-0,axis-1,axis-2\n0,1,2\n0,3,8\n2,6,0\n")
    labels = drawn(tmp_path)
    assert picture(labels[0])[:5] == EXPECTED[:5]
    assert (labels[1] == -1).all()
    assert set(np.unique(labels[2])) == {-2, 1}
    file.write_text("y,x\n1,2\n")
    with pytest.raises(ValueError, match="has 3 pages, and it does not say which point is on which"):
        drawn(tmp_path)
    assert [point.page for point in read_table(file)] == [0]


@pytest.mark.parametrize("channels", [1, 2])
def test_points_that_one_roi_has_of_a_whole_stack_go_to_their_pages(channels: int, tmp_path: Path) -> None:
    """As the multi-point tool saves what was clicked on one page after the other; ImageJ counts from 1."""
    (tmp_path / "images").mkdir()
    (tmp_path / "points").mkdir()
    stack = np.zeros((3, channels, *SHAPE), np.uint8)
    tifffile.imwrite(tmp_path / "images" / "s.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    roi = point_roi([(x + 0.5, y + 0.5) for x, y in [*CELLS, (0, 6)]])
    roi.counters = np.zeros(3, np.uint8)
    roi.counter_positions = 1 + channels * np.array([0, 0, 2], np.uint32)
    roifile.roiwrite(tmp_path / "points" / "s.zip", roi)
    labels = drawn(tmp_path)
    assert picture(labels[0])[:5] == EXPECTED[:5]
    assert (labels[1] == -1).all()
    assert set(np.unique(labels[2])) == {-2, 1}
    shutil.rmtree(tmp_path / "images")
    image(tmp_path / "images" / "s.png")
    with pytest.raises(ValueError, match=r"s.zip: its cells lie on [23] pages of a stack, and s.png has one"):
        drawn(tmp_path)


def test_points_of_several_pages_are_not_put_on_one(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    (tmp_path / "points").mkdir()
    file = tmp_path / "points" / "a.csv"
    file.write_text("Frame,y,x\n3,1,2\n3,3,8\n")
    assert picture(drawn(tmp_path))[:5] == EXPECTED[:5]
    file.write_text("Frame,y,x\n3,1,2\n4,3,8\n")
    with pytest.raises(ValueError, match=r"a.csv: its points lie on 2 pages of a stack .column Frame., and its image"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("y;x\n1,2;2,4\n3,0;7,6\n", "utf-8"),
        ("y\tx\n1\t2\n3\t8\n", "utf-16"),
        ("y,x,Maß\n1,2,1\n3,8,2\n", "cp1252"),
    ],
)
def test_tables_of_spreadsheets_are_read(text: str, encoding: str, tmp_path: Path) -> None:
    """With a comma in numbers and semicolons between them, and as what such programs call Unicode text."""
    image(tmp_path / "images" / "a.png")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "a.csv").write_bytes(text.encode(encoding))
    assert picture(drawn(tmp_path))[:5] == EXPECTED[:5]


def test_masks_that_are_made_follow_the_values_of_the_others(tmp_path: Path) -> None:
    """Points beside label images whose background is 1 and whose unknown is 2."""
    for name in ("a", "b"):
        image(tmp_path / "set" / "images" / f"{name}.png")
    (tmp_path / "set" / "masks").mkdir()
    napari(tmp_path / "set" / "masks")
    label = np.ones(SHAPE, np.uint8)
    label[0], label[3] = 2, 3
    tifffile.imwrite(tmp_path / "set" / "masks" / "b.tif", label)
    read = cases_of(folder_layout.find(tmp_path / "set"), tmp_path / "place", ignore_value=2, background_value=1)
    assert (read.radius, read.ignore_value) == (2.0, 2)
    transform = InstancesFromAnnotationd(annotation="points", ignore_value=2, background_value=1)
    found = {}
    for case in read.cases:
        pixels = LabelReader().get_data(case["label"].split("#")[0])[0]
        found[Path(case["image"]).stem] = transform({"label": pixels[None].astype(np.int64)})["label"][0]
    assert len(np.unique(found["a"][found["a"] > 0])) == 2
    assert set(np.unique(found["a"])) >= {-2, 0}
    # sqrt(40) px apart: a quarter of that is less than the least radius
    np.testing.assert_array_equal(
        found["a"] == 0, point_labels(np.array([(1, 2), (3, 8)]), np.array([(6, 11)]), SHAPE, 2.0) == 0
    )
    np.testing.assert_array_equal(found["b"], np.where(label == 3, 1, np.where(label == 2, -1, 0)))


def test_a_point_is_found_by_a_cell_that_holds_no_other() -> None:
    reference = of(["1.02.03..0??"])
    one_each = np.array([[1, 1, 0, 2, 2, 0, 3, 3, 0, 0, 0, 0]])
    assert point_f1(one_each, reference) == 1
    joined = np.array([[1, 1, 1, 1, 0, 0, 3, 3, 0, 0, 0, 0]])  # holds two: 1 of 2 cells found, 1 of 3 points
    assert point_f1(joined, reference) == pytest.approx(2 * 1 / (2 + 3))
    missed = np.array([[1, 1, 0, 0, 0, 0, 3, 3, 4, 0, 0, 0]])  # one in the open without a point
    assert point_f1(missed, reference) == pytest.approx(2 * 2 / (3 + 3))
    unknown = np.array([[1, 1, 0, 2, 2, 0, 3, 3, 0, 0, 9, 9]])  # in what nobody looked at: does not count
    assert point_f1(unknown, reference) == 1
    assert point_f1([one_each, joined], [reference, reference]) == pytest.approx(2 * 4 / (5 + 6))
    metric = PointF1()
    assert metric.score(metric.row(joined[None], reference)[None]) == pytest.approx(0.4)
    assert np.isnan(point_f1(np.zeros((2, 2), int), np.full((2, 2), -2)))
    with pytest.raises(ValueError, match=r"predictions=\[\]: a score needs at least one frame"):
        point_f1([], [])
    with pytest.raises(ValueError, match=r"references\[0\].min\(\)=-3"):
        point_f1(np.zeros((2, 2), int), np.full((2, 2), -3))
    # where overlap would be measured, open pixels are refused
    with pytest.raises(ValueError, match="allowed are -1 for unknown"):
        f1(one_each, reference)
    with pytest.raises(ValueError, match=r"shape=\(1, 12\): the reference is \(1, 4\)"):
        point_f1(one_each, reference[:, :4])


def test_points_that_say_nothing_leave_an_image_open(tmp_path: Path) -> None:
    """And do not make all of it background."""
    image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    roifile.roiwrite(tmp_path / "masks" / "a.zip", [point_roi([CELLS[0]], "Ignore")])
    assert (drawn(tmp_path) == -2).all()


def test_a_held_out_block_is_scored_alone() -> None:
    """Of few images a quarter is held out: cells found in the rest, where no point is to be seen, are no mistakes."""
    instances = np.full((8, 8), -2)
    instances[1, 1], instances[1, 6], instances[6, 1], instances[6, 6] = 1, 2, 3, 4
    (block,) = HoldOutBlockd("label")({"label": instances[None], "block": "validation"})["label"]
    assert (block == -1).sum() == 48
    everywhere = instances.clip(0)
    assert point_f1(everywhere, block) == 1
    assert point_f1(everywhere, instances) == 1


def test_areas_to_ignore_are_unknown_in_training_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "seconds_per_step", lambda *_: 1.0)
    (tmp_path / "set" / "masks").mkdir(parents=True)
    for name in ("a", "b"):
        image(tmp_path / "set" / "images" / f"{name}.png", (40, 40))
        boxes = {"": (2, 2, 12, 12), "2": (20, 20, 30, 32), "ignore": (0, 33, 40, 40)}
        rois = [
            roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, name=kind, left=left, top=top, right=right, bottom=bottom)
            for kind, (left, top, right, bottom) in boxes.items()
        ]
        roifile.roiwrite(tmp_path / "set" / "masks" / f"{name}.zip", rois)
    assert main(["check", "set"]) == 0
    chosen = yaml.safe_load(Path("runs/checks/set/config.yaml").read_text())
    assert (chosen["annotation"], chosen["ignore_value"]) == ("instances", -1)
    report = json.loads(Path("runs/checks/set/check.json").read_text())
    assert report["summary"]["cells"] == 4
    assert report["images"][0]["unknown"] == pytest.approx(7 / 40)


@pytest.fixture
def pointed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four phantoms of nuclei with a point in every one, in a folder that one works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "seconds_per_step", lambda *_: 1.0)
    source = Path(phantom.write(tmp_path / "phantom", kind="folder", frames=4, size=128, seed=3))
    (tmp_path / "cells" / "points").mkdir(parents=True)
    (source / "images").rename(tmp_path / "cells" / "images")
    for mask in sorted((source / "masks").iterdir()):
        ids = LabelReader().get_data(mask)[0]
        places = [np.argwhere(ids == number) for number in np.unique(ids[ids > 0])]
        rows = [place[len(place) // 2] for place in places]
        text = "\n".join(["axis-0,axis-1", *(f"{y},{x}" for y, x in rows)])
        (tmp_path / "cells" / "points" / f"{mask.stem}.csv").write_text(text)
    return tmp_path / "cells"


def test_from_points_to_a_network_that_is_scored_by_what_points_tell(
    pointed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = {**TINY, "max_epochs": 1, "logging_file": "False"}
    words = [word for name, value in tiny.items() for word in (f"--{name}", str(value))]
    assert main(["train", "cells", *words, "--point_radius", "2.5"]) == 0
    said = capfd.readouterr().out
    assert "annotated by points: 4 images" in said
    assert "A disc of 2.5 px" in said
    assert "data_points.yaml" in said
    place = Path("runs/checks/cells")
    chosen = yaml.safe_load((place / "config.yaml").read_text())
    assert (chosen["annotation"], chosen["point_radius"], chosen["magnification"]) == ("points", 2.5, 1.0)
    assert "ignore_value" not in chosen
    assert json.loads((place / "check.json").read_text())["findings"] == []
    assert "annotated by points" in (place / "check.html").read_text()
    known = facts.read("runs/cells/model.pt")
    assert (known.trained_with("annotation"), known.trained_with("point_radius")) == ("points", 2.5)
    summary = json.loads(Path("runs/cells/evaluation/summary.json").read_text())
    # no IoU, no SEG: those of discs would be a lie
    assert set(summary["scores"]) == {"F1_points", "val_loss"}
    assert "holds one point and no other" in Path("runs/cells/report.html").read_text()
    assert len(list(Path("runs/cells/evaluation/error_maps").glob("*.png"))) == 2
    assert check.is_current(pointed, place, None, {"point_radius": 2.5})
    assert not check.is_current(pointed, place, None, {"point_radius": 3.0})
    assert main(["check", "cells", "--point_radius", "0"]) == 1
    assert "--point_radius 0: a radius above 0 px is needed" in capfd.readouterr().err


def test_a_radius_of_points_is_refused_where_there_are_none(pointed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pointed / "points").rename(pointed.parent / "put aside")
    (pointed / "masks").mkdir()
    for image in sorted((pointed / "images").iterdir()):
        ids = np.zeros((128, 128), np.uint8)
        ids[20:40, 30:50] = 1
        tifffile.imwrite(pointed / "masks" / f"{image.stem}.tif", ids)
    assert main(["check", "cells", "--point_radius", "4"]) == 1
    assert "--point_radius 4: no image of cells is annotated by points; leave it out" in capfd.readouterr().err
    assert main(["check", "cells"]) == 0
