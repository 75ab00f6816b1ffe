"""Images that are no plain files: OME-Zarr folders, and what microscopes write."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from unet_paper.app.command_line import main
from unet_paper.data import datasets, folder_layout, phantom
from unet_paper.data.reader import LabelReader, PageReader, layout, page_shapes

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 256, (2, 3, 20, 31), dtype=np.uint8)  # T, C, Y, X


def ome_zarr(path: Path, pixels: np.ndarray, axes: str, names: list[str] | None = None) -> Path:
    """OME-Zarr 0.5 of one level, pixels of 0.5 x 0.25 um."""
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    group.create_array("0", data=pixels, chunks=pixels.shape)
    scale = {"y": 0.5, "x": 0.25}
    described: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": axis, "unit": "micrometer"} if axis in "yx" else {"name": axis} for axis in axes],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [{"type": "scale", "scale": [scale.get(a, 1) for a in axes]}],
                    }
                ],
            }
        ],
    }
    if names:
        described["omero"] = {"channels": [{"label": name} for name in names]}
    group.attrs["ome"] = described
    return path


def test_an_ome_zarr_is_an_image_like_any_other(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "images" / "a.ome.zarr", STACK, "tcyx", ["DAPI", "GFP", "RFP"])
    found = layout(path)
    assert found.shapes == [(20, 31, 3)] * 2
    assert (found.axes, found.sizes) == ("T", (2,))
    assert (found.pixel_size, found.unit) == ((0.5, 0.25), "micron")
    pixels, meta = PageReader(["RFP", 0]).get_data(f"{path}#1")
    np.testing.assert_array_equal(pixels, np.moveaxis(STACK[1, [2, 0]], 0, -1))
    assert meta["channel_names"] == ["RFP", "DAPI"]
    assert datasets.images(tmp_path / "images") == [{"image": f"{path}#{page}"} for page in (0, 1)]
    with pytest.raises(ValueError, match="a stack of 2 pages"):
        PageReader().get_data(path)


def test_further_images_of_a_group_are_named_as_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = ome_zarr(tmp_path / "a.zarr", STACK[0, 0], "yx")
    assert layout(path).left_out == ""
    group = zarr.open_group(path, mode="r+")
    first = group.attrs["ome"]["multiscales"][0]
    group.attrs["ome"] = {**group.attrs["ome"], "multiscales": [first, {**first, "name": "denoised"}]}
    assert layout(path).left_out == "image 'denoised'"
    with caplog.at_level(logging.WARNING):
        assert len(datasets.images(tmp_path)) == 1
    assert f"{path}: left out image 'denoised'" in caplog.text


@pytest.mark.parametrize("names", [["DAPI"], ["DAPI", "", ""], ["DAPI", "1", "2", "RFP"]])
def test_an_ome_zarr_that_names_other_channels_than_it_has(names: list[str], tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", STACK[0], "cyx", names)
    assert layout(path).channels == ("DAPI", "1", "2")
    assert PageReader().get_data(path)[1]["channel_names"] == ["DAPI", "1", "2"]
    unnamed = ome_zarr(tmp_path / "b.zarr", STACK[0], "cyx", ["", "", ""])
    assert PageReader().get_data(unnamed)[1]["channel_names"] == ["red", "green", "blue"]


def test_of_two_images_in_an_ome_tiff_the_larger_one_s_words_count(tmp_path: Path) -> None:
    """A macro image before the scan has a pixel size, channels and bits of its own."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels, size, channels in (
            ("macro", STACK[0, :, :4, :5], 40.0, ["red", "green", "blue"]),
            ("scan", STACK[0], 0.5, ["DAPI", "GFP", "RFP"]),
        ):
            sizes = {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
            described = {"axes": "CYX", "Name": name, "Channel": {"Name": channels}, **sizes}
            writer.write(np.ascontiguousarray(pixels), photometric="minisblack", metadata=described)
    found = layout(path)
    assert (found.shapes, found.channels) == ([(20, 31, 3)], ("DAPI", "GFP", "RFP"))
    assert (found.pixel_size, found.unit) == ((0.5, 0.5), "micron")
    assert PageReader("GFP").get_data(path)[0].tolist() == STACK[0, 1].tolist()


def test_images_and_masks_of_ome_zarr_are_paired(tmp_path: Path) -> None:
    image = ome_zarr(tmp_path / "images" / "a.zarr", STACK[0, 0], "yx")
    ids = np.arange(620, dtype=np.uint16).reshape(20, 31) // 100
    mask = ome_zarr(tmp_path / "masks" / "a.zarr", ids, "yx")
    expected = [{"image": str(image), "label": str(mask)}]
    assert datasets.folder(tmp_path, "training", fold="all") == expected
    found = folder_layout.find(tmp_path)
    assert ([(one.image, one.annotation) for one in found.images], found.other_files) == ([(image, [mask])], 0)
    np.testing.assert_array_equal(LabelReader().get_data(mask)[0], ids)


def test_a_zarr_that_is_no_image_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    with pytest.raises(ValueError, match=r"a\.zarr: no OME-Zarr metadata"):
        layout(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["czi", "nd2", "lif"])
def test_without_bioio_the_extra_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a folder that is checked: the user's first command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "bioio", None)
    for part, file in (("images", f"a.{kind}"), ("masks", "a.tif")):
        (tmp_path / "cells" / part).mkdir(parents=True)
        (tmp_path / "cells" / part / file).write_bytes(b"")
    assert main(["check", "cells"]) == 1
    assert f"a.{kind}: .{kind} files are read by BioIO: pip install 'unet_paper[bioio]'" in capsys.readouterr().err


def test_a_czi_file_is_read_by_bioio(tmp_path: Path) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi", reason="pip install 'unet_paper[bioio]'")
    pytest.importorskip("bioio_czi")
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as document:
        for time in range(2):
            for channel in range(3):
                document.write(STACK[time, channel, ..., None], plane={"T": time, "C": channel, "Z": 0})
        document.write_metadata("a", channel_names={0: "DAPI", 1: "GFP", 2: "RFP"}, scale_x=0.25e-6, scale_y=0.5e-6)
    assert page_shapes(path) == [(20, 31, 3)] * 2
    found = layout(path)
    assert (found.axes, found.sizes, found.unit) == ("T", (2,), "micron")
    assert found.pixel_size == pytest.approx((0.5, 0.25))
    pixels, meta = PageReader([2, 0]).get_data(f"{path}#1")
    np.testing.assert_array_equal(pixels, np.moveaxis(STACK[1, [2, 0]], 0, -1))
    assert meta["channel_names"] == [found.channels[2], found.channels[0]]


def test_predictions_have_the_scale_of_their_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program shows a scale bar by, of an OME-Zarr, an OME-TIFF and a TIFF of ImageJ; axes of a stack too."""
    monkeypatch.chdir(tmp_path)
    images = phantom.fluorescent_nuclei(2, 64, seed=1)[0]
    folder = tmp_path / "images"
    ome_zarr(folder / "a.zarr", images[0], "yx")
    um = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(folder / "b.ome.tif", images[0], metadata={"axes": "YX", **um})
    nm = {"PhysicalSizeX": 250, "PhysicalSizeY": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(folder / "c.ome.tif", images, metadata={"axes": "TYX", **nm})
    tifffile.imwrite(folder / "d.tif", images[0], imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    told = ["--weights", "u373", "--cells_preset", "folder", "--device", "cpu", "--logging_file", "False"]
    assert main(["predict", "images", *told]) == 0
    out = tmp_path / "runs" / "predictions" / "images"
    for name in ("a", "b.ome", "c.ome", "d"):
        for kind in ("cells", "probability"):
            with tifffile.TiffFile(out / f"{name}_{kind}.tif") as file:
                assert file.is_imagej
                assert file.imagej_metadata["unit"] in ("micron", "um")
                tags = file.pages.first.tags
                across, down = (tags[tag].value for tag in ("XResolution", "YResolution"))
                assert across[0] / across[1] == pytest.approx(4, rel=1e-4)
                assert down[0] / down[1] == pytest.approx(2, rel=1e-4)
                assert file.series[0].axes == ("TYX" if name == "c.ome" else "YX")
        header = (out / f"{name}_cells.csv").read_text().splitlines()[0]
        assert "area_um2" in header.split(",")
