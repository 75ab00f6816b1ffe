"""Images and annotations as people keep them: each way leads to the same cells."""

import json
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image
from scipy import ndimage

from unet_paper.app.folder_cases import _names, cases_of
from unet_paper.data import datasets, drawn_cells, folder_layout
from unet_paper.data.reader import layout
from unet_paper.running.cell_outlines import Plane, cell_outlines, imagej_rois, planes, qupath_geojson

SHAPE = (20, 30)
# two rectangles, (top, left, bottom, right), the latter two exclusive
CELLS = [(2, 3, 8, 12), (10, 15, 18, 27)]


def ids() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for number, (top, left, bottom, right) in enumerate(CELLS, start=1):
        labels[top:bottom, left:right] = number
    return labels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read_grey(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def image(path: Path) -> None:
    save(path, np.arange(600, dtype=np.uint16).reshape(SHAPE).astype(np.uint8))


def corners(cell: tuple[int, int, int, int]) -> list[list[float]]:
    top, left, bottom, right = cell
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def bowl(root: Path) -> None:
    image(root / "a1" / "images" / "a1.png")
    for number in (1, 2):
        save(root / "a1" / "masks" / f"{number}.png", (ids() == number).astype(np.uint8) * 255)


def mask_folders(root: Path) -> None:
    image(root / "images" / "a1.png")
    for number in (1, 2):
        save(root / "masks" / "a1" / f"{number}.png", (ids() == number).astype(np.uint8) * 255)


def imagej(root: Path) -> None:
    image(root / "images" / "a1.png")
    (root / "annotations").mkdir()
    rois = [roifile.ImagejRoi.frompoints(np.array(corners(cell), np.float32)) for cell in CELLS]
    roifile.roiwrite(root / "annotations" / "a1.zip", rois)


def qupath(root: Path) -> None:
    image(root / "images" / "a1.png")
    (root / "annotations").mkdir()
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*corners(cell), corners(cell)[0]]]}}
        for cell in CELLS
    ]
    content = {"type": "FeatureCollection", "features": features}
    (root / "annotations" / "a1.geojson").write_text(json.dumps(content))


def coco(root: Path) -> None:
    image(root / "images" / "a1.png")
    content = {
        "images": [{"id": 5, "file_name": "a1.png"}, {"id": 6, "file_name": "b.png"}],
        "annotations": [
            {"id": n, "image_id": 5, "segmentation": [[x for corner in corners(cell) for x in corner]]}
            for n, cell in enumerate(CELLS)
        ]
        + [{"id": 9, "image_id": 6, "segmentation": [[0, 0, 30, 0, 30, 20]]}],
    }
    (root / "annotations.json").write_text(json.dumps(content))


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths of COCO: column by column, beginning with those of 0."""
    counts, current = [0], 0
    for value in mask.ravel(order="F").tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


# the masks of both cells as pycocotools 2.0.11 encodes them
COMPRESSED = ["n16>000000000000000V;", "f98<000000000000000000000b1"]


def coco_runs(root: Path, compressed: bool = False) -> None:
    image(root / "images" / "a1.png")
    counts = COMPRESSED if compressed else [runs((ids() == number).astype(int)) for number in (1, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a1.png"}],
        "annotations": [
            {"id": n, "image_id": 1, "iscrowd": 1, "segmentation": {"size": list(SHAPE), "counts": code}}
            for n, code in enumerate(counts)
        ],
    }
    (root / "annotations.json").write_text(json.dumps(content))


def coco_compressed(root: Path) -> None:
    coco_runs(root, compressed=True)


def drawn(root: Path) -> np.ndarray:
    """Label image of the first image of a folder."""
    found = folder_layout.find(root).images[0]
    return drawn_cells.label_image(found.image, found.annotation)


@pytest.mark.parametrize("write", [bowl, mask_folders, imagej, qupath, coco, coco_runs, coco_compressed])
def test_cells_drawn_one_by_one_become_a_label_image(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    (found,) = folder_layout.find(tmp_path).images
    assert found.image.name == "a1.png"
    assert not found.is_label_image
    np.testing.assert_array_equal(drawn(tmp_path), ids())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text.replace('"counts": [', '"counts": [1, '), "annotation 0: 601 pixels in its runs, 600"),
        (
            lambda text: text.replace('"size": [20, 30]', '"size": [30, 20]'),
            r"\(30, 20\) px, but its image has \(20, 30\)",
        ),
        (lambda text: text[:-5], "cannot be read as JSON"),
        (lambda _: '{"shapes": []}', "neither GeoJSON nor COCO, .*; export it again"),
        (lambda _: "[]", "neither GeoJSON nor COCO, .*; export it again"),
        (lambda _: '{"shapes": [], "imagePath": "a1.png"}', "it is of LabelMe: .* COCO"),
        (lambda _: '{"a1.png1": {"filename": "a1.png", "regions": []}}', "it is of VGG Image Annotator: .*COCO"),
        (lambda _: '{"_via_settings": {}, "_via_img_metadata": {}}', "it is of VGG Image Annotator: .*COCO"),
        (lambda _: '[{"id": 1, "annotations": [], "data": {"image": "a1.png"}}]', "it is of Label Studio: .* COCO"),
        (lambda _: '{"objects": [], "size": {"height": 20}}', "it is of Supervisely: .* COCO"),
    ],
)
def test_a_drawing_that_cannot_be_is_named(harm: Callable[[str], str], said: str, tmp_path: Path) -> None:
    coco_runs(tmp_path)
    file = tmp_path / "annotations.json"
    file.write_text(harm(file.read_text()))
    with pytest.raises(ValueError, match=f"annotations.json.*{said}"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    ("picture", "mask", "plain", "suffix"),
    [
        ("images/a1.png", "masks/a1.png", True, ""),
        ("images/a1.png", "masks/a1_mask.png", True, "_mask"),
        ("images/a1.png", "labels/a1.png", False, ""),
        ("images/a1.png", "annotations/mask_a1.png", False, ""),
        ("a1.png", "a1_seg.png", True, "_seg"),
        ("a1.png", "mask_a1.png", False, ""),
        ("images/a1.png", "masks/a1_GT.png", False, ""),
        ("images/img_001.png", "masks/mask_001.png", False, ""),
        ("images/a1_image.png", "labels/a1-Label.png", False, ""),
        ("images/a1.ome.tif", "masks/a1.tif", False, ""),
        ("a1.ome.tif", "a1.ome_cp_masks.png", True, "_cp_masks"),
        ("a1_img.png", "a1_groundtruth.png", False, ""),
        ("Image/a1.png", "GT/a1.png", False, ""),
        ("images/a1.png", "images/a1_mask.png", False, ""),
    ],
)
def test_pairs_by_name(picture: str, mask: str, plain: bool, suffix: str, tmp_path: Path) -> None:
    image(tmp_path / picture)
    save(tmp_path / mask, ids())
    found = folder_layout.find(tmp_path)
    assert [(one.image, *one.annotation) for one in found.images] == [(tmp_path / picture, tmp_path / mask)]
    assert (found.plain, found.mask_suffix) == (plain, suffix)
    if plain:
        (case,) = datasets.folder(tmp_path, "all", mask_suffix=suffix)
        assert case == {"image": str(tmp_path / picture), "label": str(tmp_path / mask)}


@pytest.mark.parametrize(
    "content",
    [
        b"image,mask\nx\xc3\xa9.png,deep/y.png\n",
        b"sep=;\r\nimage;mask\r\nx\xc3\xa9.png;deep/y.png\r\n",
        b"\xef\xbb\xbfImage; Mask\r\nx\xc3\xa9.png;deep/y.png\r\n;\r\n",
        b"note;image;mask\n1;x\xe9.png;deep\\y.png\n",  # of a spreadsheet program of Western Europe, on Windows
        "image\tmask\nx\u00e9.png\tdeep/y.png\n".encode("utf-16"),
    ],
)
def test_a_table_of_pairs(content: bytes, tmp_path: Path) -> None:
    image(tmp_path / "x\u00e9.png")
    save(tmp_path / "deep" / "y.png", ids())
    (tmp_path / "pairs.csv").write_bytes(content)
    (found,) = folder_layout.find(tmp_path).images
    (case,) = datasets.listed(tmp_path / "pairs.csv", "all")
    assert (str(found.image), str(found.annotation[0])) == (case["image"], case["label"])
    assert datasets.listed(tmp_path / "pairs.csv", "training", fold="block") == [{**case, "block": "training"}]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["images/a.png"], "no masks, labels or annotations"),
        (["images/a1.png", "masks/a2.png"], "no annotation for image a1"),
        (["images/a.png", "images/a_img.png", "masks/a_gt.png"], "no annotation for image a"),
        (["x/a.png", "x/a_mask.png"], r"a data set of its own is .*x \(1 images\): name that folder"),
        ([f"{x}/{y}/{z}.png" for x in "xy" for y in ("images", "masks") for z in "ab"], r"x \(2 images\) and .*y \(2"),
        (["1/images/a.png", "1/masks/a.png", "2/images/b.png"], "2: no masks in it"),
        (["1/images/a.png", "1/masks/a.png", "2/masks/b.png"], "2: no images in it"),
        (["images/w1/a.png", "masks/w1/a.png"], "1 folders, which are not looked into: list the pairs in .*pairs.csv"),
        (["images/a.png", "masks/b.png"], "no annotation for image a"),
        (["images/a.png", "masks/a.gif"], "no annotation for image a .1 such; 1 .gif, which are not taken.;"),
        (["images/a.png", "masks/a.png", "masks/b.png"], "no image for b"),
        (["a.png"], "no images with masks found"),
        (["a.png", "a_mask.png", "b.png", "c.png"], "no annotation for image b.png .2 such., .* named NAME_mask"),
        (["a.png", "a_mask.png", "a_mask_mask.png"], "no images with masks found"),
        (["a.png", "mask_a.png", "mask_b.png"], "no image for mask_b.png .1 such.; remove"),
        (["images/a.png", "masks/a.png", "masks/a.bmp"], "a.bmp and .*a.png: two files of one name"),
        (["images/a.png", "images/a.bmp", "labels/a.png"], "a.bmp and .*a.png: two files of one name"),
        (["a.png", "a_mask.png", "a_mask.bmp"], "a_mask.bmp and .*a_mask.png: two files of one name"),
        (["a.png", "a.bmp", "a_mask.png"], "a.bmp and .*a.png: two files of one name"),
    ],
)
def test_what_has_no_partner_is_named(files: list[str], said: str, tmp_path: Path) -> None:
    for file in files:
        image(tmp_path / file)
    with pytest.raises(ValueError, match=said):
        folder_layout.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,mask\n", "a table with the columns image and mask is needed"),
        ("picture,mask\nx.png,y.png\n", "a table with the columns image and mask is needed"),
        ("image,mask\nx.png,x.png\nx.png\n", "line 3 does not name both"),
        ("image,mask\nx.png,gone.png\n", "gone.png: no such image, named in .*pairs.csv, line 2"),
    ],
)
def test_a_table_that_cannot_be_is_named(content: str, said: str, tmp_path: Path) -> None:
    image(tmp_path / "x.png")
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        folder_layout.find(tmp_path)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_is_one_letter_or_two(forms: tuple[str, str], tmp_path: Path) -> None:
    """As a Mac writes it and as others do: names that look the same, and are the same."""
    of_image, of_mask = (unicodedata.normalize(form, "z\u00fcchtung") for form in forms)
    image(tmp_path / "images" / f"{of_image}.png")
    image(tmp_path / "masks" / f"{of_mask}.png")
    found = folder_layout.find(tmp_path)
    assert [one.annotation[0].stem for one in found.images] == [of_mask]
    assert found.plain
    assert len(datasets.folder(tmp_path, "all")) == 1
    (tmp_path / "pairs.csv").write_text(f"image,mask\nimages\\{of_mask}.png,masks/{of_image}.png\n", encoding="utf-8")
    assert len(datasets.listed(tmp_path / "pairs.csv", "all")) == 1
    coco(tmp_path / "coco")
    (tmp_path / "coco" / "images" / "a1.png").rename(tmp_path / "coco" / "images" / f"{of_image}.png")
    file = tmp_path / "coco" / "annotations.json"
    file.write_text(file.read_text().replace("a1.png", f"{of_mask}.png"))
    np.testing.assert_array_equal(drawn(tmp_path / "coco"), ids())


def test_images_of_one_name_have_masks_of_their_own(tmp_path: Path) -> None:
    """A folder for each image with ``img.png`` in all of them, and names with a dot."""
    for number in (1, 2):
        image(tmp_path / "set" / f"well{number}" / "images" / "img.png")
        save(tmp_path / "set" / f"well{number}" / "masks" / "a.png", (ids() == number).astype(np.uint8))
        save(tmp_path / "set" / f"well{number}" / "masks" / "b.png", np.zeros(SHAPE, np.uint8))
    read = cases_of(folder_layout.find(tmp_path / "set"), tmp_path / "place")
    assert not read.unusable
    for number, case in enumerate(read.cases, start=1):
        assert f"well{number}" in case["image"]
        np.testing.assert_array_equal(tifffile.imread(case["label"]), ids() == number)
    assert len(set(_names([Path("x.1.png"), Path("x.2.png"), Path("y/x.2.tif")]))) == 3


def ring() -> np.ndarray:
    """Cells with a hole, in two parts, and a plain one in another one's hole."""
    labels = np.zeros((40, 50), np.uint8)
    labels[2:20, 3:25] = 1
    labels[6:14, 8:18] = 0
    labels[8:11, 10:13] = 2
    labels[25:30, 5:15] = labels[33:38, 20:40] = 3
    return labels


@pytest.mark.parametrize("kind", ["a1.zip", "a1.geojson", "a1.json"])
def test_what_we_write_is_an_annotation_again(kind: str, tmp_path: Path) -> None:
    """Holes and parts included: ROIs that were corrected in Fiji, objects that were corrected in QuPath."""
    save(tmp_path / "images" / "a1.png", ring())
    (tmp_path / "masks").mkdir()
    outlines = [list(cell_outlines(ring()))]
    written = imagej_rois(outlines, "") if kind == "a1.zip" else "".join(qupath_geojson(outlines, [{}], [Plane()], ""))
    (tmp_path / "masks" / kind).write_bytes(written if isinstance(written, bytes) else written.encode())
    np.testing.assert_array_equal(drawn(tmp_path), ring())


@pytest.mark.parametrize("kind", ["s.zip", "s.geojson"])
@pytest.mark.parametrize("axes", ["TYX", "TZYX", "TCYX"])
def test_drawings_of_a_stack_go_to_their_pages(kind: str, axes: str, tmp_path: Path) -> None:
    pages = np.stack([ids(), np.zeros(SHAPE, np.uint8), (ids() == 2).astype(np.uint8), ids()[::-1, ::-1]])
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    stack = pages.reshape(-1, *([2] if axes == "TZYX" else []), *SHAPE)
    stack = np.stack([stack, stack], axis=1) if axes == "TCYX" else stack
    tifffile.imwrite(tmp_path / "images" / "s.tif", stack, imagej=True, metadata={"axes": axes})
    outlines = [list(cell_outlines(page)) for page in pages]
    places = planes(layout(tmp_path / "images" / "s.tif"), range(4))
    geojson = "".join(qupath_geojson(outlines, 4 * [{}], places, "")).encode()
    (tmp_path / "masks" / kind).write_bytes(imagej_rois(outlines, "", places) if kind == "s.zip" else geojson)
    labels = drawn(tmp_path)
    assert labels.shape == pages.shape
    for page, label in zip(pages, labels, strict=True):
        np.testing.assert_array_equal(label > 0, page > 0)
    (case, *_) = cases_of(folder_layout.find(tmp_path), tmp_path / "place").cases
    assert case["label"].endswith("s.tif#0")


@pytest.mark.parametrize("kind", ["s.zip", "s.geojson"])
@pytest.mark.parametrize("axes", ["TYX", "TZYX"])
def test_drawings_of_a_stack_are_not_laid_over_one_another_on_one_page(kind: str, axes: str, tmp_path: Path) -> None:
    """Of a page that was taken out of its stack; those of one page are its cells, whichever page that was."""
    (tmp_path / "masks").mkdir()
    stack = np.zeros((2, 2, *SHAPE) if axes == "TZYX" else (4, *SHAPE), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, imagej=True, metadata={"axes": axes})
    places = planes(layout(tmp_path / "s.tif"), range(4))
    image(tmp_path / "images" / "s.png")
    nothing, cells = [], list(cell_outlines(ids()))

    def drawn_on(outlines: list[list[Any]]) -> np.ndarray:
        geojson = "".join(qupath_geojson(outlines, 4 * [{}], places, "")).encode()
        content = imagej_rois(outlines, "", places) if kind == "s.zip" else geojson
        (tmp_path / "masks" / kind).write_bytes(content)
        return drawn(tmp_path)

    np.testing.assert_array_equal(drawn_on([nothing, nothing, cells, nothing]), ids())
    with pytest.raises(ValueError, match=rf"{kind}: its cells lie on 2 pages of a stack, and s.png has one: give the"):
        drawn_on([nothing, cells[:1], cells[1:], nothing])


@pytest.mark.parametrize("write", [imagej, qupath, coco])
def test_drawings_on_an_image_that_a_tag_turns_are_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    """ImageJ shows it as it is stored, others turn it. A mask file a cell says itself which side is up."""
    write(tmp_path)
    file = tmp_path / "images" / "a1.png"
    exif = Image.Exif()
    exif[274] = 3
    Image.open(file).save(file, exif=exif)
    with pytest.raises(ValueError, match=r"its image a1.png is turned by a tag .orientation 3."):
        drawn(tmp_path)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8), extratags=[(274, 3, 1, 6, True)])
    assert (layout(file).orientation, layout(tmp_path / "a.tif").orientation) == (3, 6)
    shutil.rmtree(tmp_path / "images")
    mask_folders(tmp_path / "masks_of")
    file = tmp_path / "masks_of" / "images" / "a1.png"
    Image.open(file).save(file, exif=exif)
    np.testing.assert_array_equal(drawn(tmp_path / "masks_of"), ids())


def test_lines_and_regions_are_no_cells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    imagej(tmp_path)
    file = tmp_path / "annotations" / "a1.zip"
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, x1=1, y1=1, x2=25, y2=12)
    frame = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=1, top=1, right=29, bottom=19)
    cells = roifile.roiread(file)
    file.unlink()
    roifile.roiwrite(file, [cells[0], line, cells[1], frame])
    np.testing.assert_array_equal(drawn(tmp_path), ids())
    assert "only areas and points are cells: 1 line" in caplog.text
    assert "1 of 3 outlines, which lie around two or more others" in caplog.text


def outlined(root: Path, boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Label image of rectangles that QuPath has drawn, in their order."""
    qupath(root)
    file = root / "annotations" / "a1.geojson"
    shapes = [{"type": "Polygon", "coordinates": [[*corners(box), corners(box)[0]]]} for box in boxes]
    features = [{"type": "Feature", "geometry": shape} for shape in shapes]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return drawn(root)


NUCLEI, THEIR_CELLS = [(2, x, 5, x + 3) for x in (2, 10, 20)], [(1, x, 7, x + 6) for x in (1, 9, 19)]


def test_cells_beneath_others_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = outlined(tmp_path, [*NUCLEI, *THEIR_CELLS])
    assert sorted(np.unique(labels)) == [0, 4, 5, 6]
    assert "a1.geojson: left out: 3 of 6 outlines, which lie wholly beneath later ones" in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "annotations")
    np.testing.assert_array_equal(outlined(tmp_path, CELLS), ids())
    assert not caplog.text


def test_cells_around_their_nuclei_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = outlined(tmp_path, [*THEIR_CELLS, *NUCLEI])
    assert sorted(np.unique(labels)) == [0, 1, 2, 3, 4, 5, 6]
    assert "a1.geojson: 3 of 6 outlines lie around one other each, which is cut out of them" in caplog.text


def test_outlines_around_nothing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Coordinates that count the image as 1, a slip of a pen, and what QuPath leaves of a cell that was cut away."""
    qupath(tmp_path)
    file = tmp_path / "annotations" / "a1.geojson"
    content = json.loads(file.read_text())
    tiny = [[[0.1, 0.1], [0.4, 0.1], [0.4, 0.4], [0.1, 0.1]]]
    for coordinates in (tiny, [], [[]]):
        content["features"].append({"geometry": {"type": "Polygon", "coordinates": coordinates}, "type": "Feature"})
    file.write_text(json.dumps(content))
    np.testing.assert_array_equal(drawn(tmp_path), ids())
    assert "only areas and points are cells: 1 outline around no pixel" in caplog.text
    assert "only areas and points are cells: 2 empty polygon" in caplog.text
    file.write_text(file.read_text().replace("0.1", "NaN"))
    with pytest.raises(ValueError, match=r"a1.geojson: no GeoJSON of outlines .*a corner is no x and y"):
        drawn(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": None},
        {"type": "FeatureCollection", "features": 1},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[]]]}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1], "plane": {"z": float("inf")}}},
    ],
)
def test_what_is_no_geojson_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    qupath(tmp_path)
    (tmp_path / "annotations" / "a1.geojson").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a1.geojson: no GeoJSON of outlines"):
        drawn(tmp_path)


@pytest.mark.parametrize("kind", ["TEXT", "IMAGE"])
def test_what_is_laid_over_an_image_is_no_cell(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A label beside the cells, or a picture: for ImageJ each is a rectangle that says what it stands for."""
    imagej(tmp_path)
    file = tmp_path / "annotations" / "a1.zip"
    label = roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, subtype=roifile.ROI_SUBTYPE[kind], left=13, top=1, right=29, bottom=9
    )
    roifile.roiwrite(file, label)
    np.testing.assert_array_equal(drawn(tmp_path), ids())
    assert f"only areas and points are cells: 1 {kind.lower()}" in caplog.text


def test_what_else_lies_in_an_archive_of_rois_is_passed_over(tmp_path: Path) -> None:
    """As ImageJ does: tables of results, and what macOS adds where it packs a folder anew."""
    imagej(tmp_path)
    file = tmp_path / "annotations" / "a1.zip"
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("__MACOSX/._0001.roi", b"\0\5\x16\7" + bytes(100))
        archive.writestr("RoiSet/", b"")
        archive.writestr("Results.csv", "Area,Mean\n54,20\n")
    np.testing.assert_array_equal(drawn(tmp_path), ids())
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cell1.png", b"\x89PNG")
    with pytest.raises(ValueError, match=r"a1.zip: cannot be read as ROIs of ImageJ: no .roi in it, but cell1.png"):
        drawn(tmp_path)


def composite(path: list[float], name: str) -> roifile.ImagejRoi:
    """ImageJ's ROI of several parts, by its path: 0 begins one, 1 a line, 2 and 3 curves of 2 and 3 points, 4 ends."""
    left, top = map(int, path[1:3])
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        name=name,
        left=left,
        top=top,
        right=left + 1,
        bottom=top + 1,
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )


# how far along the sides of its square the control points of a circle's quarter lie
QUARTER = 4 / 3 * (2**0.5 - 1)


def test_a_composite_with_curves_is_a_cell(tmp_path: Path) -> None:
    """As a union with an oval: a disc with a square hole, drawn by four curves; and a part that a parabola ends."""
    image(tmp_path / "images" / "a1.png")
    (tmp_path / "masks").mkdir()
    quarter = np.array([[1, QUARTER], [QUARTER, 1], [0, 1]])
    path: list[float] = [0, 10 + 7, 9]
    for _ in range(4):
        path += [3, *(7 * quarter + (10, 9)).ravel()]
        quarter = quarter @ [[0, 1], [-1, 0]]
    path += [4, 0, 9, 8, 1, 11, 8, 1, 11, 10, 1, 9, 10, 4]
    path += [0, 20, 2, 2, 28, 2, 28, 10, 1, 20, 10, 4]
    roifile.roiwrite(tmp_path / "masks" / "a1.roi", composite(path, "cell"))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    disc = np.hypot(columns - 10, rows - 9) < 7
    hole = (abs(columns - 10) < 1) & (abs(rows - 9) < 1)
    # x = 20 + 8 (2t - t^2), y = 2 + 8 t^2
    t = np.sqrt(np.clip(rows - 2, 0, None) / 8)
    parabola = (rows > 2) & (rows < 10) & (columns > 20) & (columns < 20 + 8 * (2 * t - t**2))
    found = drawn(tmp_path) > 0
    assert np.count_nonzero(found != (disc & ~hole | parabola)) <= 4


@pytest.mark.parametrize(
    ("path", "said"),
    [([0, 5, 5, 1, 9, 9, 7, 4], "no command 7 of a path"), ([0, 5, 5, 3, 5, 9, 9], "its path lacks points")],
)
def test_a_composite_that_cannot_be_read_costs_no_other_image(path: list[float], said: str, tmp_path: Path) -> None:
    imagej(tmp_path)
    file = tmp_path / "annotations" / "a2.zip"
    image(tmp_path / "images" / "a2.png")
    shutil.copy(tmp_path / "annotations" / "a1.zip", file)
    roifile.roiwrite(file, composite(path, "odd"))
    found = cases_of(folder_layout.find(tmp_path), tmp_path / "place")
    assert [Path(case["image"]).name for case in found.cases] == ["a1.png"]
    (trouble,) = found.unusable
    assert f"a2.zip: the outline of the ROI 'odd' cannot be read: {said}; draw it again" in trouble.what
    rois = [roi for roi in roifile.roiread(file) if roi.name != "odd"]
    file.unlink()
    roifile.roiwrite(file, rois)
    assert len(cases_of(folder_layout.find(tmp_path), tmp_path / "place").cases) == 2


def test_an_oval_is_an_ellipse(tmp_path: Path) -> None:
    """As ImageJ fills it: the pixels whose centres are in the ellipse of its box, but for some at the rim."""
    image(tmp_path / "images" / "a1.png")
    (tmp_path / "masks").mkdir()
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=4, top=2, right=24, bottom=16)
    roifile.roiwrite(tmp_path / "masks" / "a1.roi", oval)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    ellipse = ((columns - 14) / 10) ** 2 + ((rows - 9) / 7) ** 2 < 1
    assert np.count_nonzero(drawn(tmp_path) != ellipse) <= 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["annotations"][0].pop("segmentation"), "annotation 0 has no segmentation"),
        (
            lambda content: content["images"][0].update(height=float("inf"), width=1),
            "annotations.json: not as COCO has",
        ),
        (lambda content: content["images"][0].update(height=200, width=300), r"was of \(200, 300\) px when"),
        (
            lambda content: content["annotations"][0].update(segmentation=[[900, 900, 950, 900, 950, 950]]),
            "lies outside of its image, which has 30 x 20 px",
        ),
        (lambda content: content["images"].append({"id": 7, "file_name": "a1.png"}), "names 2 images a1.png"),
        (lambda content: content["images"][0].pop("file_name"), "annotations.json: not as COCO has it .'file_name' is"),
        (lambda content: content["images"][0].update(file_name=None), "annotations.json: not as COCO has it"),
        (lambda content: content["annotations"][0].pop("image_id"), "annotations.json: not as COCO has it .'image_id'"),
        (lambda content: content["annotations"][0].update(segmentation={"counts": [600]}), "COCO has it .'size' is"),
        (
            lambda content: content["annotations"][0].update(segmentation=[1, 1, 9, 1, 9, 9]),
            "annotation 0: a polygon is",
        ),
        (
            lambda content: content["annotations"][0].update(segmentation=[[1, 1, 9]]),
            "annotation 0: a polygon is a list",
        ),
    ],
)
def test_coco_that_is_not_of_this_image_is_refused(
    change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
) -> None:
    coco(tmp_path)
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        drawn(tmp_path)


def test_categories_and_ids_of_coco_are_taken_for_what_they_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is to be ignored is unknown, as of other programs; ids may be text in one place and numbers in another."""
    coco(tmp_path)
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "Ignore"}]
    content["images"][0] |= {"height": None, "width": None}  # as of an image whose size a program did not know
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation |= {"category_id": number, "image_id": str(annotation["image_id"])}
    line = {"id": 9, "image_id": content["images"][0]["id"], "segmentation": [[1, 1, 9, 1]]}
    content["annotations"].append(line)
    file.write_text(json.dumps(content))
    np.testing.assert_array_equal(drawn(tmp_path), np.where(ids() == 2, -1, ids().astype(int)))
    assert f"{file}: left out, since only areas and points are cells: 1 outline around no pixel" in caplog.text


def test_annotations_of_no_image_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where a program counts images from 0, and their annotations from 1."""
    coco(tmp_path)
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        entry["id"] -= 1
    file.write_text(json.dumps(content))
    drawn(tmp_path)
    drawn(tmp_path)
    assert caplog.text.count("annotations.json: 1 annotations are of image ids that none of its images has") == 1


def test_a_group_of_cells_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``iscrowd`` is a group in COCO; of what is in one piece some programs say it for having run lengths."""
    coco_runs(tmp_path)
    file = tmp_path / "annotations.json"
    content = json.loads(file.read_text())
    group = ids()[::-1, ::-1] > 0
    content["annotations"][1]["segmentation"]["counts"] = runs(group.astype(int))
    file.write_text(json.dumps(content))
    np.testing.assert_array_equal(drawn(tmp_path), np.where(group, -1, ids() == 1))
    assert "annotations.json: 1 annotations of a1.png are groups of cells" in caplog.text


@pytest.mark.parametrize("write", [bowl, mask_folders])
def test_a_mask_file_a_cell_holds_one(write: Callable[[Path], None], tmp_path: Path) -> None:
    """No rim in grey, by which it would grow, no label image, of which all cells would be one, and no negative."""
    write(tmp_path)
    files = sorted(tmp_path.glob("**/masks/**/[12].png"))
    cell = read_grey(files[0])
    save(files[0], (ndimage.uniform_filter(cell.astype(float), 3)).astype(np.uint8))
    with pytest.raises(ValueError, match=r"1.png: one of 2 mask files of an image, .* values besides 0"):
        drawn(tmp_path)
    save(files[0], ids())
    with pytest.raises(ValueError, match=r"1.png: one of 2 mask files of an image, .* 2 values besides 0"):
        drawn(tmp_path)
    save(files[0], 255 - cell)
    assert np.count_nonzero(drawn(tmp_path)) == cell.size - np.count_nonzero(cell)
    save(files[1], 255 - read_grey(files[1]))
    with pytest.raises(ValueError, match=r"1.png, 2.png: each covers most of the image"):
        drawn(tmp_path)


def test_several_coco_files_share_the_images(tmp_path: Path) -> None:
    """As exports for training and validation do; images of one name are told apart by their folders."""
    coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "train.json")
    image(tmp_path / "images" / "z.png")
    other = {"images": [{"id": 1, "file_name": "images/z.png"}, {"id": 2, "file_name": "old/z.png"}], "annotations": []}
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(other))
    found = folder_layout.find(tmp_path).images
    assert [one.annotation[0].name for one in found] == ["train.json", "val.json"]
    np.testing.assert_array_equal(drawn(tmp_path), ids())
    image(tmp_path / "images" / "new.png")
    with pytest.raises(ValueError, match=r"train.json, .*val.json: names no image new.png"):
        folder_layout.find(tmp_path)
