"""Images and annotations as people keep them: each way leads to the same cells."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import roifile
from PIL import Image

from unet_paper.data import datasets, folder_layout

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


@pytest.mark.parametrize("write", [bowl, mask_folders, imagej, qupath, coco, coco_runs, coco_compressed])
def test_cells_drawn_one_by_one_become_a_label_image(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    (found,) = folder_layout.find(tmp_path).images
    assert found.image.name == "a1.png"
    assert not found.is_label_image
    np.testing.assert_array_equal(folder_layout.label_image(found), ids())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text.replace('"counts": [', '"counts": [1, '), "annotation 0: 601 pixels in its runs, 600"),
        (
            lambda text: text.replace('"size": [20, 30]', '"size": [30, 20]'),
            r"\(30, 20\) px, but its image has \(20, 30\)",
        ),
        (lambda text: text[:-5], "cannot be read as JSON"),
        (lambda _: '{"shapes": []}', "neither GeoJSON nor COCO"),
    ],
)
def test_a_drawing_that_cannot_be_is_named(harm: Callable[[str], str], said: str, tmp_path: Path) -> None:
    coco_runs(tmp_path)
    file = tmp_path / "annotations.json"
    file.write_text(harm(file.read_text()))
    with pytest.raises(ValueError, match=f"annotations.json.*{said}"):
        folder_layout.label_image(folder_layout.find(tmp_path).images[0])


@pytest.mark.parametrize(
    ("picture", "mask", "plain", "suffix"),
    [
        ("images/a1.png", "masks/a1.png", True, ""),
        ("images/a1.png", "masks/a1_mask.png", True, "_mask"),
        ("images/a1.png", "labels/a1.png", False, ""),
        ("images/a1.png", "annotations/mask_a1.png", False, ""),
        ("a1.png", "a1_seg.png", True, "_seg"),
        ("a1.png", "mask_a1.png", False, ""),
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


def test_a_table_of_pairs(tmp_path: Path) -> None:
    image(tmp_path / "x.png")
    save(tmp_path / "deep" / "y.png", ids())
    (tmp_path / "pairs.csv").write_text("image,mask\nx.png,deep/y.png\n")
    (found,) = folder_layout.find(tmp_path).images
    (case,) = datasets.listed(tmp_path / "pairs.csv", "all")
    assert (str(found.image), str(found.annotation[0])) == (case["image"], case["label"])
    assert datasets.listed(tmp_path / "pairs.csv", "training", fold="block") == [{**case, "block": "training"}]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["images/a.png"], "no masks, labels or annotations"),
        (["images/a.png", "masks/b.png"], "no annotation for image a"),
        (["images/a.png", "masks/a.png", "masks/b.png"], "no image for b"),
        (["a.png"], "no images with masks found"),
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
