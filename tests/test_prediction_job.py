"""A folder of predictions: one bad file costs no other, a rerun goes on, nothing of the user's is overwritten."""

import errno
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import ROOT, TINY
from monai.bundle import ConfigWorkflow
from PIL import Image

from unet_paper.data.datasets import images as list_images
from unet_paper.data.page import Layout
from unet_paper.data.reader import layout
from unet_paper.data.written_by_us import is_output, read_mark
from unet_paper.instances import PRESETS
from unet_paper.network import UNet
from unet_paper.probability import CellProbabilityInferer
from unet_paper.running import checkpoint, label_files, prediction_job, run_folder
from unet_paper.running.facts import Facts
from unet_paper.running.label_files import NiftiVolume, TiffStack
from unet_paper.running.prediction_job import PredictionFailure, PredictionJob
from unet_paper.running.settings import cause

RNG = np.random.default_rng(0)
Predict = Callable[..., None]


def grey(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), path)
    return path


@pytest.fixture
def predict(run_bundle: Callable[..., None], weights: Path, tmp_path: Path) -> Predict:
    def run(folder: Any = tmp_path / "images", out: Any = tmp_path / "out", **settings: Any) -> None:
        given = {"dataset_dir": str(folder), "output_dir": str(out), "ckpt_path": str(weights), "device": "cpu"}
        told = {"cells_preset": "phantom", "grey_mean": 0.5, "grey_std": 0.17, "outputs": ["probability", "overview"]}
        run_bundle("run", "inference", **{**given, **told, **settings})

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(grey(40, 45)).save(folder / f"{name}.png")
    return folder


def outputs(folder: Path) -> dict[str, int]:
    """Files and when they were changed."""
    shown = (path for path in folder.iterdir() if path.name != "predictions.json" and not path.name.startswith("."))
    return {path.name: path.stat().st_mtime_ns for path in shown}


def whole(*names: str) -> set[str]:
    return {f"{name}_{kind}" for name in names for kind in ("cells.tif", "probability.tif", "overview.png")}


def test_a_broken_file_costs_no_other(predict: Predict, images: Path, tmp_path: Path) -> None:
    broken = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(broken[: len(broken) // 2])
    tifffile.imwrite(images / "nan.tif", np.full((40, 40), np.nan, np.float32))
    Image.fromarray(np.dstack([grey(40, 45), grey(40, 45), grey(40, 45) // 2])).save(images / "colour.png")
    stack = grey(3, 40, 45)
    tifffile.imwrite(images / "stack.tif", stack, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(images / "stack.tif") as file:
        place = file.pages[1].dataoffsets[0]
    content = bytearray((images / "stack.tif").read_bytes())
    content[place : place + 20] = bytes(20)
    (images / "stack.tif").write_bytes(content)
    with pytest.raises(RuntimeError) as info:
        predict()
    assert isinstance(cause(info.value), PredictionFailure)
    said = str(cause(info.value))
    assert "4 of 6 images were not predicted" in said
    assert "colour.png: 3 channels (red, green, blue), the network takes 1; take one with --channel 0 to 2" in said
    lines = said.splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["b.png", "colour.png", "nan.tif", "stack.tif"]
    assert set(outputs(tmp_path / "out")) == whole("a", "c")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names cannot be given there")
def test_a_workflow_of_monai_is_told_why_the_images_have_no_length(weights: Path, images: Path, tmp_path: Path) -> None:
    (images / "b.png").write_bytes(b"no image")
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "bundle/configs/inference.yaml"),
        workflow_type="inference",
        bundle_root=str(ROOT / "bundle"),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(weights),
        device="cpu",
        cells_preset="phantom",
        grey_mean=0.5,
        grey_std=0.17,
    )
    workflow.initialize()
    dataset, job = (workflow.parser.get_parsed_content(name) for name in ("dataset", "job"))
    with pytest.raises(TypeError, match=r"no length: .* job\.outstanding"):
        len(dataset)
    assert [Path(address).stem for address in job.outstanding] == ["a", "b", "c"]
    with pytest.raises(TypeError, match=r"ReadableImages\[0\]: .* next\(iter\(dataset\)\)"):
        dataset[0]
    assert next(iter(dataset))["image"].shape[-2:] == (40, 45)
    assert len(list(dataset)) == 2


def test_a_name_that_no_file_can_have_after_it_costs_no_other(predict: Predict, images: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"a\xff.png")
    (images / "a.png").rename(images / odd)
    (images / "b.png").rename(images / f"{'b' * 251}.png")
    with pytest.raises(RuntimeError) as info:
        predict(outputs=["table", "summary", "page", "probability"])
    failure = cause(info.value)
    assert isinstance(failure, PredictionFailure)
    assert "2 of 3 images were not predicted" in str(failure)
    assert "a\\udcff.png: its name is no text in UTF-8, and tables are; rename it" in str(failure)
    # 251 letters, _probability.tif of 16 and .part of 5 are 17 more than 255
    assert "its name leaves no room for the ending of a prediction's; shorten it by 17 characters" in str(failure)
    assert len((tmp_path / "out" / "summary.csv").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "c_cells.tif").exists()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such a pair cannot be made there")
def test_names_that_differ_in_capitals_alone_are_told_apart_or_refused(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(grey(40, 45) // 2).save(images / "B.png")
    predict()
    assert set(outputs(tmp_path / "out")) == whole("a", "b", "B", "c")
    # no such disk here: its answer is given in its stead
    monkeypatch.setattr(prediction_job, "_ignores_case", lambda _folder: True)
    with pytest.raises(RuntimeError) as info:
        predict(out=tmp_path / "shared")
    said = str(cause(info.value))
    assert "1 of 4 images were not predicted" in said
    assert "differs from that of B.png in capitals alone" in said
    assert "--output_dir" in said
    assert set(outputs(tmp_path / "shared")) == whole("a", "B", "c")


@pytest.mark.parametrize("alike", [False, True])
def test_whether_a_disk_tells_capitals_apart_is_tried_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alike: bool
) -> None:
    def is_there(path: Path) -> bool:
        names = [name.lower() if alike else name for name in os.listdir(path.parent)]
        return (path.name.lower() if alike else path.name) in names

    monkeypatch.setattr(Path, "exists", is_there)  # as a disk of either kind answers, whichever this one is
    assert prediction_job._ignores_case(tmp_path / "not" / "yet") is alike
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("images")
def test_an_image_whose_prediction_fails_costs_no_other(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = CellProbabilityInferer.__call__
    calls: list[int] = []

    def second(self: CellProbabilityInferer, *arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no memory for the second image")
        return infer(self, *arguments, **keywords)

    monkeypatch.setattr(CellProbabilityInferer, "__call__", second)
    with pytest.raises(RuntimeError) as info:
        predict()
    assert str(cause(info.value)).endswith("b.png: no memory for the second image")
    assert set(outputs(tmp_path / "out")) == whole("a", "c")


def test_a_rerun_goes_on_where_a_run_stopped(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict()
    before = outputs(out)
    assert set(before) == whole("a", "b", "c")
    (out / "b_cells.tif").unlink()
    predict()
    after = outputs(out)
    assert {name for name in after if after[name] != before.get(name)} == whole("b")
    predict(overwrite=True)
    assert all(stamp != after[name] for name, stamp in outputs(out).items())
    # an image that has changed is predicted anew
    before = outputs(out)
    Image.fromarray(grey(50, 45)).save(images / "c.png")
    predict()
    assert {name for name, stamp in outputs(out).items() if stamp != before[name]} == whole("c")
    assert tifffile.imread(out / "c_cells.tif").shape == (50, 45)


@pytest.mark.usefixtures("images")
def test_what_is_asked_for_and_missing_is_predicted(predict: Predict, tmp_path: Path) -> None:
    predict(outputs=[])
    assert set(outputs(tmp_path / "out")) == {"a_cells.tif", "b_cells.tif", "c_cells.tif"}
    predict()
    before = outputs(tmp_path / "out")
    assert set(before) == whole("a", "b", "c")
    (tmp_path / "out" / "b_overview.png").unlink()
    predict()
    after = outputs(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} == whole("b")


def test_what_another_prediction_left_of_an_image_is_no_company(
    predict: Predict, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every = ["probability", "overview", "outlines", "table", "rois", "geojson", "page"]
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    predict(outputs=every)
    assert (out / "a.geojson").exists()
    (out / "a_notes.csv").write_text("the user's\n")
    (out / "b_rois.zip").write_bytes(b"edited in ImageJ")
    before = outputs(out)
    # the same prediction again: what it does not write is still of it
    predict(outputs=[], overwrite=True, dataset_dir=str(images / "a.png"))
    assert outputs(out).keys() == before.keys()
    for name in ("a", "b"):
        Image.fromarray(grey(50, 45)).save(images / f"{name}.png")
    predict(outputs=["rois"], dataset_dir=str(images / "a.png"))
    assert {name for name in outputs(out) if name.startswith("a")} == {"a_cells.tif", "a_rois.zip", "a_notes.csv"}
    assert "a.geojson: is of an earlier prediction" in caplog.text
    assert "predictions.html: is older than predictions beside it" in caplog.text
    (out / "b_rois.zip").unlink()
    predict(outputs=every)
    predict(outputs=every, out=fresh)
    kept = {"a_notes.csv", "predictions.json"}
    assert {path.name for path in out.iterdir()} - kept == {path.name for path in fresh.iterdir()} - kept
    for path in fresh.iterdir():
        assert path.name in kept or path.read_bytes() == (out / path.name).read_bytes()


def test_an_ome_zarr_whose_pixels_are_written_anew_has_changed(predict: Predict, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "images" / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array("0", shape=(40, 45), chunks=(20, 20), dtype="uint8")
    array[:] = grey(40, 45)
    described = {"axes": [{"name": axis, "type": "space"} for axis in "yx"], "datasets": [{"path": "0"}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [described]}
    predict()
    before = outputs(tmp_path / "out")
    predict()
    assert outputs(tmp_path / "out") == before
    array[:] = grey(40, 45)
    predict()
    assert all(stamp != before[name] for name, stamp in outputs(tmp_path / "out").items())


def test_an_image_written_to_while_it_is_predicted_has_changed(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_image = CellProbabilityInferer.__call__

    def meanwhile(inferer: Any, inputs: torch.Tensor, network: Any) -> torch.Tensor:
        if inputs.shape[-1] == 33:
            Image.fromarray(grey(40, 33)).save(images / "d.png")
        return whole_image(inferer, inputs, network)

    Image.fromarray(grey(40, 33)).save(images / "d.png")
    with monkeypatch.context() as patched:
        patched.setattr(CellProbabilityInferer, "__call__", meanwhile)
        predict()
    before = outputs(tmp_path / "out")
    predict()
    assert {name for name, stamp in outputs(tmp_path / "out").items() if stamp != before[name]} == whole("d")


@pytest.mark.usefixtures("images")
def test_an_image_whose_files_cannot_be_written_costs_no_other(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = TiffStack.append

    def failing(stack: TiffStack, page: Any) -> None:
        if stack.path.name == "b_cells.tif":
            raise ValueError("no such tag")
        append(stack, page)

    monkeypatch.setattr(TiffStack, "append", failing)
    with pytest.raises(RuntimeError) as info:
        predict()
    assert str(cause(info.value)).endswith("b.png: no such tag")
    assert set(outputs(tmp_path / "out")) == whole("a", "c")


def test_a_unit_that_a_tiff_cannot_hold_is_written_as_imagej_does(predict: Predict, tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.tif"
    image.parent.mkdir()
    tifffile.imwrite(image, grey(40, 45), imagej=True, resolution=(4, 4), metadata={"unit": "qq"})
    image.write_bytes(image.read_bytes().replace(b"unit=qq", "unit=Å ".encode("latin-1")))
    assert layout(image).unit == "Å"
    predict()
    with tifffile.TiffFile(tmp_path / "out" / "a_cells.tif") as tiff:
        assert tiff.imagej_metadata is not None
        assert tiff.imagej_metadata["unit"] == "\\u00C5"


def test_an_image_that_is_gone_before_it_is_measured_costs_no_other(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_image = CellProbabilityInferer.__call__

    def meanwhile(inferer: Any, inputs: torch.Tensor, network: Any) -> torch.Tensor:
        (images / "b.png").unlink(missing_ok=True)
        return whole_image(inferer, inputs, network)

    # the first that is predicted
    (images / "a.png").rename(images / "d.png")
    monkeypatch.setattr(CellProbabilityInferer, "__call__", meanwhile)
    with pytest.raises(RuntimeError) as info:
        predict(outputs=["table", "overview", "probability"])
    assert "b.png: no such file" in str(cause(info.value))
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found >= whole("c", "d") | {"c_cells.csv", "d_cells.csv", "cells.csv"}
    assert not {name for name in found if name.startswith("b")}


@pytest.mark.usefixtures("images")
def test_other_settings_are_noticed(predict: Predict, tmp_path: Path) -> None:
    predict()
    before = outputs(tmp_path / "out")
    with pytest.raises(RuntimeError) as info:
        predict(grey_mean=0.4)
    said = str(cause(info.value))
    assert "grey_mean was 0.5, is 0.4" in said
    assert "--overwrite True" in said
    assert outputs(tmp_path / "out") == before
    predict(grey_mean=0.4, overwrite=True)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["images_from"] == [str((tmp_path / "images").resolve())]
    (of_mean,) = (key for key, settings in record["settings"].items() if settings["grey_mean"] == 0.4)
    computed = {"precision", "memory_format", "strategy", "threads", "engine"}
    assert [machine.keys() for machine in record["computed_with"][of_mean]] == [computed]
    assert sorted(settings["grey_mean"] for settings in record["settings"].values()) == [0.4, 0.5]


@pytest.mark.usefixtures("images")
def test_names_of_classes_do_not_change_from_image_to_image(
    predict: Predict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    known = Facts(
        in_channels=1, out_channels=3, features=TINY["features"], preset="paper", dropout=0.0, grey_mean=0.5,
        grey_std=0.17, magnification=1, cells_preset="folder", cells=PRESETS["folder"],
        classes=["background", "alive", "dead"],
    )  # fmt: skip
    weights = tmp_path / "three.pt"
    network = UNet(out_channels=3, features=TINY["features"])
    checkpoint.save({**network.state_dict(), "facts": known.to_tensor()}, weights)
    of_weights = {"ckpt_path": str(weights), "cells_preset": "folder"}
    predict(**of_weights)
    with pytest.raises(RuntimeError) as info:
        predict(**of_weights, classes=["background", "dead", "alive"])
    said = "classes was ['background', 'alive', 'dead'], is ['background', 'dead', 'alive']"
    assert said in str(cause(info.value))
    predict(**of_weights, classes=["background", "dead", "alive"], overwrite=True)
    assert "classes ['background', 'dead', 'alive'] (trained with ['background', 'alive', 'dead'])" in caplog.text


@pytest.mark.usefixtures("images")
def test_cells_at_the_border_that_are_not_counted_are_said(
    predict: Predict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(grey(110, 120)).save(tmp_path / "images" / "d.png")
    image = tmp_path / "images" / "d.png"
    predict(image)
    # at this threshold such a network has many a cell
    middle = float(np.median(tifffile.imread(tmp_path / "out" / "d_probability.tif")))
    cells = {"cells_preset": "phc_u373", "threshold": middle, "min_size": 0, "overwrite": True}
    predict(image, **cells)
    assert "border are left out" not in caplog.text
    whole = tifffile.imread(tmp_path / "out" / "d_cells.tif")
    predict(image, **cells, field_of_interest=50)
    assert "wholly within 50 px of an image's border are left out" in caplog.text
    assert "--field_of_interest 0 takes the whole image" in caplog.text
    found = tifffile.imread(tmp_path / "out" / "d_cells.tif")
    inside = np.unique(whole[50:-50, 50:-50])
    assert len(inside) < len(np.unique(whole))  # else the test tells nothing
    np.testing.assert_array_equal(found > 0, np.isin(whole, inside[inside > 0]))


def test_images_of_one_name_from_two_folders_do_not_take_each_other_s_place(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    predict()
    before = outputs(tmp_path / "out")
    Image.fromarray(grey(40, 45)).save(plate := tmp_path / "a.png")
    (tmp_path / "day2").mkdir()
    plate.rename(tmp_path / "day2" / "a.png")
    with pytest.raises(RuntimeError) as info:
        predict(tmp_path / "day2")
    assert isinstance(cause(info.value), FileExistsError)
    assert f"a_cells.tif: the prediction of an image of that name in another folder than {tmp_path / 'day2'}" in str(
        cause(info.value)
    )
    assert outputs(tmp_path / "out") == before
    # the same images, moved
    images.rename(tmp_path / "day1")
    predict(tmp_path / "day1")
    assert outputs(tmp_path / "out") == before
    predict(tmp_path / "day2", overwrite=True)
    after = outputs(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == whole("a")


def test_another_machine_goes_on_and_is_recorded_too(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(strategy="rows", engine="torch")
    (images / "d.png").write_bytes((images / "a.png").read_bytes())
    for _ in range(2):
        predict(strategy="tiles", engine="torch")
    (machines,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["computed_with"].values()
    assert [machine["strategy"] for machine in machines] == ["rows", "tiles"]
    assert whole("a", "d") <= outputs(tmp_path / "out").keys()


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_the_user_are_never_overwritten(predict: Predict, images: Path, overwrite: bool) -> None:
    drawn = grey(40, 45)
    tifffile.imwrite(images / "b_cells.tif", drawn)
    with pytest.raises(RuntimeError) as info:
        predict(out=images, overwrite=overwrite)
    assert isinstance(cause(info.value), FileExistsError)
    assert f"{images / 'b_cells.tif'}: not written by this program" in str(cause(info.value))
    np.testing.assert_array_equal(tifffile.imread(images / "b_cells.tif"), drawn)
    assert set(outputs(images)) == {"a.png", "b.png", "c.png", "b_cells.tif"}


def test_own_predictions_beside_the_images_are_no_images(predict: Predict, images: Path) -> None:
    predict(out=images)
    assert {path.name for path in images.iterdir()} >= whole("a", "b", "c")
    assert [Path(case["image"]).name for case in list_images(images)] == ["a.png", "b.png", "c.png"]
    before = outputs(images)
    predict(out=images)
    assert outputs(images) == before
    assert all(is_output(images / name) for name in whole("a"))
    assert not is_output(images / "a.png")


def test_a_full_disk_is_named_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = TiffStack(tmp_path / "a_cells.tif", Layout([(4, 5)]), 1, "unet_paper test")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OSError, match=r"no room left.*a_cells\.tif"):
        stack.append(np.zeros((4, 5), np.int32))
    assert list(tmp_path.iterdir()) == []


# --- what the files keep ---


def written(path: Path, image: Path, pages: list[Any]) -> Path:
    found = layout(image)
    stack = TiffStack(path, found, len(pages), "unet_paper test")
    for page in pages:
        stack.append(page)
    stack.close()
    return path


def test_a_page_that_needs_32_bits_makes_the_stack_32_bits(tmp_path: Path) -> None:
    pages = [np.full((4, 5), value, np.int32) for value in (7, 65535, 65536, 3)]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 5), np.uint8), photometric="minisblack")
    found = tifffile.imread(written(tmp_path / "b.tif", tmp_path / "a.tif", pages))
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, pages)
    narrow = tifffile.imread(written(tmp_path / "c.tif", tmp_path / "a.tif", [pages[1], pages[3]]))
    assert narrow.dtype == np.uint16
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "b.tif", "c.tif"}


def test_a_stack_beyond_4_gb_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack")
    pages = [np.ones((4, 5), np.float32)] * 3
    for limit, big in ((3 * 4 * 5 * 4, False), (3 * 4 * 5 * 4 - 1, True)):
        monkeypatch.setattr(label_files, "CLASSIC_TIFF", limit)
        with tifffile.TiffFile(written(tmp_path / "b.tif", tmp_path / "a.tif", pages)) as file:
            assert file.is_bigtiff == big
            assert len(file.pages) == 3


@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_axes_and_pixel_size_are_kept(form: str, tmp_path: Path) -> None:
    stack = grey(2, 3, 4, 5)
    path = tmp_path / ("a.ome.tif" if form == "ome" else "a.tif")
    if form == "ome":
        size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
        tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "TZYX", **size})
    else:
        metadata = {"axes": "TZYX", "unit": "um", "spacing": 2.0}
        tifffile.imwrite(path, stack, photometric="minisblack", imagej=True, resolution=(4, 2), metadata=metadata)
    pages = [np.full((4, 5), number, np.int32) for number in range(6)]
    with tifffile.TiffFile(written(tmp_path / "b.tif", path, pages)) as file:
        assert (file.series[0].axes, file.series[0].shape) == ("TZYX", (2, 3, 4, 5))
        np.testing.assert_array_equal(file.asarray().reshape(6, 4, 5), pages)
        assert file.imagej_metadata["unit"] == "micron"
        assert file.imagej_metadata["spacing"] == 2.0
    again = layout(tmp_path / "b.tif")
    assert again.pixel_size == pytest.approx((0.5, 0.25))
    assert (again.spacing, again.axes, again.sizes) == (2.0, "TZ", (2, 3))


def test_resolution_of_a_plain_tiff_is_kept(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey(4, 5), resolution=(1000, 500), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(written(tmp_path / "b.tif", tmp_path / "a.tif", [np.zeros((4, 5), np.int32)])) as file:
        page = file.pages.first
        assert (page.resolution, page.resolutionunit) == ((1000, 500), tifffile.RESUNIT.CENTIMETER)


def test_pixel_size_of_a_turned_image_turns_with_it(tmp_path: Path) -> None:
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", grey(4, 5), resolution=(1000, 500), resolutionunit="CENTIMETER", extratags=turned
    )
    assert layout(tmp_path / "a.tif").pixel_size == pytest.approx((1 / 1000, 1 / 500))


def test_a_nifti_volume_keeps_its_affine(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    volume = grey(2, 40, 45)
    affine = np.array([[0, -2.0, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(volume.T, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "images" / "a.nii.gz")
    predict()
    found = nibabel.load(tmp_path / "out" / "a_cells.nii.gz")
    assert found.shape == (45, 40, 2)
    np.testing.assert_allclose(found.affine, affine)
    np.testing.assert_allclose(found.header.get_zooms(), image.header.get_zooms())
    assert found.get_data_dtype() == np.uint16
    assert read_mark(tmp_path / "out" / "a_cells.nii.gz")
    # against the same planes as TIFF
    tifffile.imwrite(tmp_path / "stack.tif", volume, photometric="minisblack")
    predict(folder=tmp_path / "stack.tif", out=tmp_path / "tiff")
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, tifffile.imread(tmp_path / "tiff" / "stack_cells.tif"))


def test_a_two_dimensional_nifti_stays_so(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(grey(5, 4), np.diag([2, 3, 1, 1])), tmp_path / "a.nii")
    volume = NiftiVolume(tmp_path / "b.nii.gz", tmp_path / "a.nii", 1, "unet_paper test")
    cells = np.arange(20, dtype=np.int32).reshape(4, 5) + 65530
    volume.append(cells)
    volume.close()
    found = nibabel.load(tmp_path / "b.nii.gz")
    assert found.get_data_dtype() == np.uint32
    np.testing.assert_array_equal(np.asarray(found.dataobj), cells.T)


def test_pages_of_one_stack_do_not_overwrite_one_another(weights: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey(3, 4, 5), photometric="minisblack")
    names = set()
    for address in (f"{tmp_path / 'a.tif'}", f"{tmp_path / 'a.tif'}#0", f"{tmp_path / 'a.tif'}#2"):
        job = PredictionJob(list_images(address), tmp_path / "out", made_with={}, ckpt_path=weights)
        names.add(job.path(str(tmp_path / "a.tif"), "cells").name)
    assert names == {"a_cells.tif", "a_page0_cells.tif", "a_page2_cells.tif"}


def test_a_name_that_is_too_long_costs_no_other_image_of_a_share(weights: Path, images: Path, tmp_path: Path) -> None:
    long = images / f"{'x' * 240}.png"
    Image.fromarray(grey(40, 45)).save(long)

    def job() -> PredictionJob:
        return PredictionJob(list_images(str(images)), tmp_path / "out", made_with={}, ckpt_path=weights)

    share = job()
    share.only([str(long), str(images / "a.png")])
    assert list(share.failed) == [str(long)]
    assert share.outstanding_files == [str(images / "a.png")]
    other = job()
    other.only([str(images / "b.png")])
    assert other.failed == {}
    leader = job()
    leader.done_by_others({str(images / "c.png"): "torn"})
    assert sorted(leader.failed) == sorted([str(long), str(images / "c.png")])


def test_jobs_that_share_a_folder_all_leave_their_record(weights: Path, images: Path, tmp_path: Path) -> None:
    machines = [{"threads": number} for number in range(6)]
    jobs = [
        PredictionJob(list_images(str(images)), tmp_path / "out", made_with={}, ckpt_path=weights, machine=machine)
        for machine in machines
    ]
    (tmp_path / "out").mkdir()

    def write(job: PredictionJob) -> None:
        with run_folder.brief_turn(job.output_dir):
            job.write_record()

    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(write, jobs))
    (recorded,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["computed_with"].values()
    assert sorted(machine["threads"] for machine in recorded) == list(range(6))
