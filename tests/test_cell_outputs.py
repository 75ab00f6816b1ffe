"""What stands beside the label images: tables, outlines, a summary and a page, of all images and never half."""

import csv
import errno
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import TINY
from PIL import Image
from scipy import ndimage

from unet_paper.data.grey_statistics import grey_features
from unet_paper.data.page import Layout
from unet_paper.data.pixel_size import micrometres
from unet_paper.data.reader import layout
from unet_paper.measurements import cell_table
from unet_paper.network import UNet
from unet_paper.running import cell_outputs, checkpoint
from unet_paper.running.doubt import doubt
from unet_paper.running.overlays import outline_overlay
from unet_paper.running.prediction_page import prediction_page, worst_first
from unet_paper.running.settings import cause

Predict = Callable[..., None]
OF_AN_IMAGE = {
    "_cells.tif",
    "_cells.csv",
    "_rois.zip",
    ".geojson",
    "_outlines.png",
    "_probability.tif",
    "_overview.png",
}
OF_THE_FOLDER = {"cells.csv", "summary.csv", "predictions.html", "predictions.json"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), path)
    return path


@pytest.fixture
def predict(run_bundle: Callable[..., None], weights: Path, tmp_path: Path) -> Predict:
    def run(folder: Any = tmp_path / "images", **settings: Any) -> None:
        given = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "out"), "ckpt_path": str(weights)}
        told = {"device": "cpu", "cells_preset": "folder", "grey_mean": 0.5, "grey_std": 0.17}
        run_bundle("run", "inference", **{**given, **told, **settings})

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A picture, and a stack of which the pixel size is known."""
    folder = tmp_path / "images"
    folder.mkdir()
    # blobs, of which even an untrained network makes some
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(3, 40, 64)), (0, 2, 2))
    pixels = np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8)
    Image.fromarray(pixels[0, :, :45]).save(folder / "a.png")
    stack = pixels[1:, :33]
    described = {"unit": "um", "axes": "TYX"}
    tifffile.imwrite(folder / "b.tif", stack, imagej=True, resolution=(4, 2), metadata=described)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_tables_say_what_the_label_images_hold(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict()
    out = tmp_path / "out"
    assert names(out) == OF_THE_FOLDER | {f"{name}{kind}" for name in ("a", "b") for kind in OF_AN_IMAGE}
    # the stack's second page, measured from what was saved: pixels of 1/2 by 1/4 um, and the grey values of the file
    labels, probability = (tifffile.imread(out / f"b_{kind}.tif")[1] for kind in ("cells", "probability"))
    grey = tifffile.imread(images / "b.tif")[1]
    table = cell_table(labels, grey, probability, pixel_size=(0.5, 0.25), channel_names=["grey"])
    assert len(table["id"]) > 1
    found = [row for row in rows(out / "b_cells.csv") if row["page"] == "1"]
    assert [{name: float(row[name]) for name in table} for row in found] == [
        {name: float(values[k]) for name, values in table.items()} for k in range(len(found))
    ]
    together = rows(out / "cells.csv")
    assert [row["id"] for row in together if (row["image"], row["page"]) == ("b.tif", "1")] == [r["id"] for r in found]
    assert {row["area_um2"] for row in together if row["image"] == "a.png"} == {""}
    summary = {(row["image"], row["page"]): row for row in rows(out / "summary.csv")}
    assert list(summary) == [("a.png", ""), ("b.tif", "0"), ("b.tif", "1")]
    row = summary["b.tif", "1"]
    assert int(row["cells"]) == len(found) == labels.max()
    assert float(row["covered"]) == pytest.approx(np.mean(labels > 0), rel=1e-5)
    assert float(row["doubt"]) == pytest.approx(doubt(probability), rel=1e-5)
    assert (row["pixel_height_um"], row["pixel_width_um"]) == ("0.5", "0.25")
    with Image.open(out / "a_outlines.png") as drawn, Image.open(images / "a.png") as image:
        expected = outline_overlay(np.asarray(image), tifffile.imread(out / "a_cells.tif"))
        np.testing.assert_array_equal(np.asarray(drawn), expected)


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_an_image_in_place_of_another_of_its_name_has_the_tables_alone(
    ending: str, predict: Predict, images: Path, tmp_path: Path
) -> None:
    predict()
    out = tmp_path / "out"
    assert len(rows(out / "b_cells.csv")) > 1
    (images / "b.tif").unlink()
    # the same cells as those of a.png: whatever else is there is of the other image
    pixels = np.asarray(Image.open(images / "a.png"))
    if ending == ".png":
        Image.fromarray(pixels).save(images / "b.png")
    else:
        nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), images / "b.nii.gz")
    predict()
    assert [row["image"] for row in rows(out / "summary.csv")] == ["a.png", f"b{ending}"]
    of_image = [
        [row["id"] for row in rows(out / "cells.csv") if row["image"] == name] for name in ("a.png", f"b{ending}")
    ]
    assert of_image[0] == of_image[1] != []
    assert {row["image"] for row in rows(out / "cells.csv")} == {"a.png", f"b{ending}"}
    assert len([name for name in names(out) if name.startswith("b_cells.")]) == 2  # label image and table


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_a_channel_that_the_network_does_not_see_may_hold_anything(
    worst: float, predict: Predict, tmp_path: Path
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 64)), 2)
    seen = np.interp(noise, (noise.min(), noise.max()), (0, 1)).astype(np.float32)
    other = seen.copy()
    other[::2, 20:] = worst
    tifffile.imwrite(folder / "a.ome.tif", np.stack([seen, other]), metadata={"axes": "CYX"})
    predict(channel=0)
    table = rows(out / "a.ome_cells.csv")
    labels = tifffile.imread(out / "a.ome_cells.tif")
    touched = {str(number) for number in np.unique(labels[::2, 20:]) if number}
    assert touched
    told = "" if np.isnan(worst) else str(worst)
    assert {row["mean_1"] for row in table if row["id"] in touched} == {told}

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not in JSON")

    features = json.loads((out / "a.ome.geojson").read_text(), parse_constant=refuse)["features"]
    for feature in features:
        number, measured = feature["properties"]["name"], feature["properties"]["measurements"]
        assert "mean_0" in measured
        assert ("mean_1" in measured) == (number not in touched)
    with Image.open(out / "a.ome_outlines.png") as drawn:
        picture = np.asarray(drawn)
    # what is known is seen as ever, all else is black
    grey = picture[(picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])]
    assert len(np.unique(grey)) > 50
    background = (labels == 0) & ~np.isfinite(other)
    assert not picture[background].any()


def test_outlines_on_an_image_that_a_tag_turns_are_said(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(images / "turned.tif", np.asarray(Image.open(images / "a.png")), extratags=[(274, 3, 1, 6, True)])
    predict(outputs=["rois", "table"])
    (said,) = [message for message in caplog.messages if "a tag turns it" in message]
    assert "turned.tif: a tag turns it (orientation 6)" in said
    caplog.clear()
    predict(outputs=["table"], output_dir=str(tmp_path / "other"))
    assert "a tag turns it" not in caplog.text


def test_a_table_without_what_the_network_says_is_said(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(outputs=["rois"])
    predict(outputs=["table", "summary"])
    assert f"{images / 'a.png'}: was predicted without probability among the outputs" in caplog.text
    assert "mean_probability" not in rows(tmp_path / "out" / "a_cells.csv")[0]
    caplog.clear()
    predict(outputs=["table", "summary"], overwrite=True)
    assert float(rows(tmp_path / "out" / "a_cells.csv")[0]["mean_probability"]) > 0
    assert "was predicted without" not in caplog.text


@pytest.mark.usefixtures("images")
def test_columns_that_somebody_added_to_the_summary_stay(predict: Predict, tmp_path: Path) -> None:
    predict()
    summary = tmp_path / "out" / "summary.csv"
    before = rows(summary)
    head, *lines = summary.read_text().splitlines()
    notes = ["007, good", "1_0", "=A1"]
    texts = [f"{head},note", *(f'{line},"{note}"' for line, note in zip(lines, notes, strict=True))]
    summary.write_text("\n".join(texts) + "\n")
    predict()
    assert rows(summary) == [{**row, "note": note} for row, note in zip(before, notes, strict=True)]
    # fields without a column
    summary.write_text("\n".join([head, *(f"{line},good" for line in lines)]) + "\n")
    predict()
    assert rows(summary) == before
    summary.write_text("\n".join([head, lines[0].replace(",,", ",,about ", 1), *lines[1:]]) + "\n")
    with pytest.raises(RuntimeError) as info:
        predict()
    assert "summary.csv, line 2: cells is 'about " in str(cause(info.value))


def test_a_rerun_makes_the_folder_s_tables_of_all_images(predict: Predict, images: Path, tmp_path: Path) -> None:
    out, stack = tmp_path / "out", images / "b.tif"
    away = stack.rename(tmp_path / "b.tif")
    predict()
    first = (out / "a_cells.tif").stat().st_mtime_ns
    away.rename(stack)
    predict()
    assert (out / "a_cells.tif").stat().st_mtime_ns == first
    whole = {name: (out / name).read_bytes() for name in ("cells.csv", "summary.csv", "predictions.html")}
    assert [row["image"] for row in rows(out / "summary.csv")] == ["a.png", "b.tif", "b.tif"]
    # a run that was killed before its end left the images and no tables: they come back, the same
    for name in whole:
        (out / name).unlink()
    predict()
    assert {name: (out / name).read_bytes() for name in whole} == whole
    # a summary that is older than its label images is not believed
    text = (out / "summary.csv").read_text()
    (out / "summary.csv").write_text(re.sub(r"(?m)^a.png,,\d+", "a.png,,12345", text))
    (out / "a_cells.tif").touch()
    predict()
    assert (out / "summary.csv").read_bytes() == whole["summary.csv"]
    # of another job in the same folder, the rows of this one stay
    predict(images / "a.png")
    assert (out / "summary.csv").read_bytes() == whole["summary.csv"]
    assert (out / "cells.csv").read_bytes() == whole["cells.csv"]


@pytest.mark.usefixtures("images")
def test_a_rerun_makes_what_was_not_asked_for_before(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(outputs=["probability"])
    assert names(out) == {"predictions.json", *(f"{n}_{k}.tif" for n in "ab" for k in ("cells", "probability"))}

    def never(_self: UNet, _x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is predicted anew")

    monkeypatch.setattr(UNet, "forward", never)
    predict(outputs=["probability", "rois", "table"])
    assert {"a_rois.zip", "b_rois.zip", "a_cells.csv", "cells.csv"} <= names(out)
    assert "predictions.html" not in names(out)


@pytest.mark.parametrize("name", ["a.geojson", "a_cells.csv", "b_rois.zip", "a_outlines.png", "summary.csv"])
def test_a_file_of_the_user_s_is_never_overwritten(predict: Predict, images: Path, tmp_path: Path, name: str) -> None:
    own = tmp_path / "out" / name
    own.parent.mkdir()
    if name.endswith(".png"):
        shutil.copy(images / "a.png", own)
    else:
        own.write_text('{"type": "FeatureCollection", "features": []}')
    before = own.read_bytes()
    with pytest.raises(RuntimeError) as info:
        predict()
    assert f"{name}: not written by this program" in str(cause(info.value))
    assert own.read_bytes() == before
    assert not (tmp_path / "out" / "a_cells.tif").exists()


@pytest.mark.usefixtures("images")
def test_a_rerun_writes_over_the_empty_tables_of_a_run_that_predicted_nothing(predict: Predict, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as info:
        predict(cells_preset="phc_u373", field_of_interest=50)
    said = str(cause(info.value))
    assert "2 of 2 images were not predicted" in said
    assert "field_of_interest=50: leaves nothing of an image of (40, 45) px; --field_of_interest 0" in said
    assert rows(tmp_path / "out" / "cells.csv") == rows(tmp_path / "out" / "summary.csv") == []
    predict(cells_preset="phc_u373", field_of_interest=0)
    assert len(rows(tmp_path / "out" / "summary.csv")) == 3


@pytest.mark.usefixtures("images")
def test_a_full_disk_leaves_nothing_half(predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cell_outputs, "imagej_rois", full)
    with pytest.raises(RuntimeError) as info:
        predict()
    assert "a_rois.zip" in str(cause(info.value))
    assert "no room left" in str(cause(info.value))
    # no label image: the next run makes all of it
    assert not {"a_cells.tif", "a_rois.zip", "summary.csv", "predictions.html"} & names(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.part"))
    monkeypatch.undo()
    predict()
    assert {f"a{kind}" for kind in OF_AN_IMAGE} <= names(tmp_path / "out")


@pytest.mark.parametrize(("largest", "said"), [(2, 1), (10_000, 0)])
def test_a_cell_far_larger_than_any_that_the_weights_know_is_named(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, largest: int, said: int
) -> None:
    (images / "b.tif").unlink()
    with caplog.at_level(logging.WARNING):
        predict(**{"handlers#1#choice": {"largest_cell": largest}, "threshold": 0.01})
    lines = [record.getMessage() for record in caplog.records if "times the largest" in record.getMessage()]
    assert len(lines) == said
    area = max(float(row["area_px"]) for row in rows(tmp_path / "out" / "a_cells.csv"))
    assert area > 20
    assert all(line.startswith(f"{images / 'a.png'}: holds a cell of {area:.0f} px") for line in lines)


def test_an_output_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no output 'roi'; choose of probability, .*rois"):
        cell_outputs.check_outputs(["table", "roi"])


def test_doubt_by_hand() -> None:
    # sum min(p, 1 - p) = 0.1 + 0.2, sum p = 0.9 + 0.2, 0.01 N = 0.02
    assert doubt(np.array([[0.9, 0.2]])) == pytest.approx(0.3 / 1.12)


def test_only_the_rim_of_a_cell_is_drawn() -> None:
    cells = np.zeros((9, 9), int)
    cells[2:7, 2:7] = 3
    picture = outline_overlay(np.tile(np.arange(9.0), (9, 1)), cells)
    coloured = (picture != picture[..., :1]).any(axis=2)
    expected = cells > 0
    expected[3:6, 3:6] = False
    np.testing.assert_array_equal(coloured, expected)


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [
        ((0.5, 0.25), "micron", (0.5, 0.25)),
        ((2e-4, 2e-4), "mm", (0.2, 0.2)),
        ((1 / 25400, 1 / 25400), "inch", (1.0, 1.0)),  # 25400 dots an inch: written by a microscope
        ((1 / 300, 1 / 300), "inch", None),  # a printer's
        ((1 / 72, 1 / 72), "inches", None),
        ((0.1, 0.1), "furlong", None),
        ((0.1, 0.1), "ms", None),
        ((0.1, 0.1), "micrometers", (0.1, 0.1)),
        ((0.1, 0.1), "\u03bcm", (0.1, 0.1)),  # the Greek letter, which looks as the micro sign does
        ((0.1, 0.1), "\u00b5m", (0.1, 0.1)),
        (None, "micron", None),
    ],
)
def test_size_of_a_pixel(size: Any, unit: str, expected: Any) -> None:
    assert micrometres(Layout([(4, 4)], pixel_size=size, unit=unit)) == expected


@pytest.mark.parametrize("unit", ["\u03bcm", "\u00b5m"])
def test_a_micrometre_is_one_in_either_letter(unit: str, tmp_path: Path) -> None:
    """The Greek letter and the micro sign, in OME-XML, OME-Zarr and as ImageJ escapes them."""
    pixels = np.zeros((4, 6), np.uint8)
    sizes = {f"PhysicalSize{axis}{what}": value for axis in "XY" for what, value in (("", 0.5), ("Unit", unit))}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "YX", **sizes})
    metadata = {"axes": "YX", "unit": f"\\u{ord(unit[0]):04X}m"}
    tifffile.imwrite(tmp_path / "b.tif", pixels, imagej=True, resolution=(2, 2), metadata=metadata)
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=pixels)
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    found = [micrometres(layout(tmp_path / name)) for name in ("a.ome.tif", "b.tif", "c.zarr")]
    assert found == 3 * [(0.5, 0.5)]


ROWS = [
    {"image": "sure.png", "page": "", "cells": 9, "doubt": 0.1},
    {"image": "<img src=x onerror=alert(1)>.png", "page": 2, "cells": 10, "doubt": 0.5},
    {"image": "unknown.png", "page": "", "cells": 2},
]


def page() -> str:
    picture = np.zeros((4, 6, 3), np.uint8)
    return "".join(prediction_page(worst_first(ROWS), [picture, picture], weights=Path("model.pt"), trust=""))


def test_the_page_is_whole_and_safe() -> None:
    text = page()
    assert [
        re.findall(r'data-k="\d".*?>([^<]*)</td>', line)[0] for line in text.splitlines() if "<tr data" in line
    ] == [
        "&lt;img src=x onerror=alert(1)&gt;.png",
        "sure.png",
        "unknown.png",
    ]
    assert "<img src=x" not in text
    assert "21 cells in 3 images" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)|@import|url\(""", text)


STRANGER = {
    "image": "negative.png",
    "page": "",
    "cells": 1,
    "doubt": 0.01,
    "unlike_training": "balance 0.9 (there 0.1 to 0.2)",
}


def test_images_unlike_the_training_come_first_and_are_marked() -> None:
    assert worst_first([*ROWS, STRANGER])[0] == STRANGER
    text = "".join(prediction_page(worst_first([*ROWS, STRANGER]), [], weights=Path("model.pt"), trust=""))
    assert '<tr data-k="0" class="unlike">' in text
    assert text.count('class="unlike"') == 1
    assert "1 image has grey values unlike those of the training images, first in the table" in text
    assert "<th>unlike training</th>" in text


def test_images_unlike_the_training_stand_in_the_summary_predicted_now_or_before(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A negative among images like those of the training; as by a run that wrote no summary, and none otherwise."""
    features = [grey_features(np.asarray(Image.open(images / "a.png"), np.float32)[None] / 255)]
    features += [grey_features(page[None] / np.float32(255)) for page in tifffile.imread(images / "b.tif")]
    ranges: dict[str, Any] = {"images": 3}
    for name in features[0]:
        ranges[name] = [[min(f[name][0] for f in features)], [max(f[name][0] for f in features)]]
    predict(expected_grey_values=ranges)
    assert "unlike_training" not in rows(tmp_path / "out" / "summary.csv")[0]
    bright = np.asarray(Image.open(images / "a.png")) // 8 + 220
    Image.fromarray(bright).save(images / "c.png")
    predict(expected_grey_values=ranges)
    assert [row["image"] for row in rows(tmp_path / "out" / "summary.csv") if row["unlike_training"]] == ["c.png"]
    assert "1 of 3 images have grey values unlike" in caplog.text
    (tmp_path / "out" / "summary.csv").unlink()
    predict(expected_grey_values=ranges)
    assert [row["image"] for row in rows(tmp_path / "out" / "summary.csv") if row["unlike_training"]] == ["c.png"]
    text = (tmp_path / "out" / "predictions.html").read_text()
    assert re.findall(r'data-k="0" class="unlike"><td data-v="(.*?)"', text) == ["c.png"]


def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    click = "heads[2].click(); heads[2].click(); step(1);"
    (tmp_path / "page.html").write_text(page().replace("show(rows()[0]);", f"show(rows()[0]); {click}"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    run = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path}/page.html"], capture_output=True, text=True, check=True, timeout=60
    )
    body = run.stdout[run.stdout.index("<tbody>") :]
    # sorted by cells, fewest first, after two clicks; a step down from the worst, which is the last, stays there
    assert re.findall(r'data-k="(\d)"', body) == ["2", "1", "0"]
    assert re.findall(r'<tr data-k="(\d)" class="shown"', body) == ["0"]
    assert re.findall(r'<figure id="(\w+)" class="shown"', body) == ["p0"]
