"""Runs in blocks, from a store to a store: equal to the whole, interrupted, refused."""

import csv
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import CONFIGS
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.image_store import open_image
from unet_paper.data.reader import PageReader
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import DEFAULTS, PRESETS, label_instances
from unet_paper.large import tasks
from unet_paper.large.job import LargePrediction
from unet_paper.magnification import MagnifiedInferer
from unet_paper.measurements import cell_table
from unet_paper.network import UNet
from unet_paper.probability import class_probabilities
from unet_paper.running import checkpoint

NETWORK: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "features": [4, 8, 16], "preset": "paper"}
MEAN, STD = 0.5, 0.17
MICROMETRES = {"y": 0.25, "x": 0.5}


def picture(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    blurred = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3, axes=(-2, -1))
    return ((blurred - blurred.min()) / np.ptp(blurred) * 255).astype(np.uint8)


def write_store(path: Path, pixels: NDArray[Any], axes: str = "yx", version: str = "0.5", chunk: int = 64) -> Path:
    """An OME-Zarr with one level."""
    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    chunks = (1,) * (pixels.ndim - 2) + (chunk, chunk)
    root.create_array("0", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, fill_value=0)[...] = pixels
    described = [
        {"name": axis, "type": {"t": "time", "c": "channel"}.get(axis, "space")}
        | ({"unit": "micrometer"} if axis in "yx" else {})
        for axis in axes
    ]
    scale = {"type": "scale", "scale": [MICROMETRES.get(axis, 1.0) for axis in axes]}
    multiscale = {"axes": described, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    if version == "0.5":
        root.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        root.attrs["multiscales"] = [{**multiscale, "version": version}]
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    checkpoint.save(UNet(**NETWORK).state_dict(), path)
    return path


def whole_probability(pixels: NDArray[np.uint8], weights: Path, magnification: float = 1.0) -> NDArray[np.float32]:
    """Of the whole image in memory, in the same tiles."""
    network = UNet(**NETWORK).eval().to(memory_format=torch.channels_last)
    checkpoint.load_weights(network, weights)
    image = (torch.from_numpy(pixels.astype(np.float32) / 255) - MEAN) / STD
    inferer = MagnifiedInferer(magnification=magnification, inferer=OverlapTileInferer(levels=3, tile_size=92))
    with torch.no_grad():
        return class_probabilities(inferer(image[None, None], network)[0])[1].numpy()


def cells_of(out: Path, name: str = "image") -> NDArray[Any]:
    return np.asarray(zarr.open_group(out / f"{name}_cells.zarr", mode="r")["labels/cells/0"])


def table_of(out: Path, name: str = "image") -> dict[str, list[float]]:
    with (out / f"{name}_cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) for row in rows] for column in rows[0]}


Job = Callable[..., LargePrediction]


@pytest.fixture
def job(weights: Path, tmp_path: Path) -> Job:
    def make(dataset_dir: str | Path, **settings: Any) -> LargePrediction:
        given = {
            "output_dir": tmp_path / "out",
            "ckpt_path": weights,
            "network": NETWORK,
            "grey_mean": MEAN,
            "grey_std": STD,
            "precision": "float32",
            "memory_format": "channels_last",
            "tile_size": 92,
            "tiles": 2,
            "block": 64,
        }
        return LargePrediction(dataset_dir=dataset_dir, **{**given, **settings})

    return make


@pytest.mark.parametrize("magnification", [1.0, 0.5])
def test_blocks_equal_the_whole_with_a_network(job: Job, weights: Path, tmp_path: Path, magnification: float) -> None:
    pixels = picture((150, 170))
    probability = whole_probability(pixels, weights, magnification)
    # the thresholds of dic_hela_split belong to a trained network: this one's are set to where its cells are
    middle = float(np.median(probability))
    cells = {
        **PRESETS["dic_hela_split"],
        "threshold": middle,
        "split_thresholds": [middle + 0.01, middle + 0.02],
        "min_size": 20,
        "field_of_interest": 5,
    }
    store = write_store(tmp_path / "image.zarr", pixels)
    summary = job(store, magnification=magnification, cells=cells).run()
    expected = label_instances(probability, **cells)  # type: ignore[arg-type]
    assert summary is not None
    assert summary["cells"] == expected.max() > 20
    np.testing.assert_array_equal(cells_of(tmp_path / "out"), expected)
    table = cell_table(expected, pixels, probability, pixel_size=(0.25, 0.5), channel_names=["grey"])
    assert table_of(tmp_path / "out") == {name: values.astype(float).tolist() for name, values in table.items()}
    assert not (tmp_path / "out" / "image_work").exists()


CELLS: dict[str, Any] = {"min_size": 4, "fill_holes": True, "regrow": 1}


@pytest.fixture(scope="module")
def threshold(weights: Path) -> float:
    """Where this untrained network has cells."""
    return float(np.median(whole_probability(picture((100, 130)), weights)))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_store(tmp_path / "image.zarr", picture((100, 130)))


def expected_cells(pixels: NDArray[np.uint8], weights: Path, threshold: float) -> NDArray[np.int32]:
    settings = {**DEFAULTS, **CELLS, "threshold": threshold}
    return label_instances(whole_probability(pixels, weights), **settings)  # type: ignore[arg-type]


def test_the_magnification_follows_the_pixel_size(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture((100, 130)), resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    image = open_image(str(path))
    assert image.pixel_size == (0.5, 0.5)
    for trained, expected in ((None, 0.5), (0.45, 0.5), (0.25, 1.0), (1.0, 0.25)):
        assert job(path, magnification=0.5, pixel_size=trained).plan(image).magnification == expected


def test_images_that_a_tiff_holds_besides_are_refused_or_said(tmp_path: Path) -> None:
    tiled: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack"}
    sizes, scenes, macro = (tmp_path / f"{name}.tif" for name in ("sizes", "scenes.ome", "macro.ome"))
    with tifffile.TiffWriter(sizes) as tiff:
        tiff.write(picture((100, 130)), **tiled)
        tiff.write(picture((90, 130)), **tiled)
    with tifffile.TiffWriter(scenes) as tiff:
        for seed in range(2):
            tiff.write(picture((100, 130), seed), metadata={"axes": "YX"}, **tiled)
    with tifffile.TiffWriter(macro) as tiff:
        tiff.write(picture((20, 30)), metadata={"axes": "YX", "Name": "macro"}, **tiled)
        tiff.write(picture((100, 130)), metadata={"axes": "YX"}, **tiled)
    for path in (sizes, scenes):
        with pytest.raises(ValueError, match=r"holds 2 pages in several images or sizes, of which blocks would take 1"):
            open_image(path)
    opened = open_image(macro)
    assert (opened.size, opened.left_out) == ((100, 130), "image 'macro' of 600 px")


class TestInterrupted:
    def test_a_killed_run_goes_on_and_does_nothing_twice(
        self, job: Job, weights: Path, small: Path, tmp_path: Path, threshold: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[tuple[str, int]] = []
        finish = tasks.DiskWorkspace.finish

        def dying(self: tasks.DiskWorkspace, stage: str, index: int, facts: Any) -> None:
            if len(done) % 7 == 5:
                done.append(("killed", 0))
                raise KeyboardInterrupt
            finish(self, stage, index, facts)
            done.append((stage, index))

        monkeypatch.setattr(tasks.DiskWorkspace, "finish", dying)
        cells = {**CELLS, "threshold": threshold}
        for _ in range(20):
            try:
                job(small, cells=cells).run()
                break
            except KeyboardInterrupt:
                assert not (tmp_path / "out" / "image_cells.zarr").exists()
        kept = [task for task in done if task[0] != "killed"]
        assert len(kept) == len(set(kept))
        assert done.count(("killed", 0)) >= 3
        found = cells_of(tmp_path / "out")
        np.testing.assert_array_equal(found, expected_cells(picture((100, 130)), weights, threshold))

    def test_another_plan_in_the_same_folder_is_refused(self, job: Job, small: Path, tmp_path: Path) -> None:
        job(small, part="1/2").run()
        with pytest.raises(
            ValueError, match=r"another plan, block is 64 there and 32 now; choose another with --output_dir"
        ):
            job(small, block=32).run()
        job(small).run()
        with pytest.raises(ValueError, match=r"the result of another plan, different are cells\.min_size; choose"):
            job(small, cells={"min_size": 9}).run()
        before = (tmp_path / "out" / "image_cells.csv").read_bytes()
        job(small).run()  # finished: nothing is done again
        assert (tmp_path / "out" / "image_cells.csv").read_bytes() == before

    def test_an_image_that_changed_meanwhile_is_refused(self, job: Job, tmp_path: Path) -> None:
        path = tmp_path / "image.tif"
        tifffile.imwrite(path, picture((100, 130)))
        job(path, part="1/2").run()
        tifffile.imwrite(path, picture((100, 130), seed=1), description="another")
        with pytest.raises(ValueError, match=r"another plan, image.headers"):
            job(path).run()

    def test_chunks_that_changed_under_the_same_headers_are_refused(
        self, job: Job, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job(small, part="1/2").run()
        chunk = zarr.open_array(small / "0", mode="r+")
        chunk[:10, :10] = 7
        with pytest.raises(ValueError, match=r"another plan, image.state .* \(the image was written to meanwhile\)"):
            job(small).run()
        finished = {"output_dir": tmp_path / "finished"}
        job(small, **finished).run()
        chunk[:10, :10] = 8
        with pytest.raises(ValueError, match=r"different are image.state \(the image was written to meanwhile\)"):
            job(small, **finished).run()
        run_case = LargePrediction._run_case

        def written_to(self: LargePrediction, *arguments: Any) -> None:
            run_case(self, *arguments)
            chunk[:10, :10] = 9

        monkeypatch.setattr(LargePrediction, "_run_case", written_to)
        with pytest.raises(ValueError, match="has changed while it was predicted"):
            job(small, output_dir=tmp_path / "during").run()
        assert not (tmp_path / "during" / "image_cells.zarr").exists()

    def test_chunks_behind_a_url_that_changed_are_refused(self, job: Job, small: Path, tmp_path: Path) -> None:
        import fsspec

        memory = fsspec.filesystem("memory")
        for file in small.rglob("*"):
            if file.is_file():
                memory.pipe(f"/changing/{file.relative_to(tmp_path)}", file.read_bytes())
        url = "memory://changing/image.zarr"
        job(url, part="1/2").run()
        zarr.open_array(small / "0", mode="r+")[:10, :10] = 7
        memory.pipe("/changing/image.zarr/0/c/0/0", (small / "0" / "c" / "0" / "0").read_bytes())
        with pytest.raises(ValueError, match=r"another plan, image.state"):
            job(url).run()

    def test_parts_of_a_job_array_and_a_last_run_make_the_whole(
        self, job: Job, weights: Path, small: Path, tmp_path: Path, threshold: float
    ) -> None:
        cells = {**CELLS, "threshold": threshold}
        for part in ("2/3", "1/3", "3/3"):
            assert job(small, cells=cells, part=part).run() is None
            assert not (tmp_path / "out" / "image_cells.zarr").exists()
        job(small, cells=cells).run()
        found = cells_of(tmp_path / "out")
        np.testing.assert_array_equal(found, expected_cells(picture((100, 130)), weights, threshold))

    def test_parts_that_begin_at_once_make_the_folder_together(
        self, job: Job, weights: Path, small: Path, tmp_path: Path, threshold: float
    ) -> None:
        """As in containers of two machines, in which all processes have one number."""
        cells = {**CELLS, "threshold": threshold}
        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(job(small, cells=cells, part=f"{part}/2").run) for part in (1, 2)]
        assert [part.result() for part in parts] == [None, None]
        job(small, cells=cells).run()
        found = cells_of(tmp_path / "out")
        np.testing.assert_array_equal(found, expected_cells(picture((100, 130)), weights, threshold))
        assert not list((tmp_path / "out").glob("*.part"))


class TestFormats:
    @pytest.mark.parametrize(
        ("stated", "highest"),
        [({"extratags": [(281, 3, 1, 255, True)]}, 255), ({"extratags": [(281, 3, 1, 4095, True)]}, 4095), ({}, 4095)],
    )
    def test_white_is_that_of_images_that_are_read_whole(
        self, tmp_path: Path, stated: dict[str, Any], highest: int
    ) -> None:
        pixels = np.linspace(0, highest, 30 * 40).astype(np.uint16).reshape(30, 40)
        tifffile.imwrite(tmp_path / "a.tif", pixels, **stated, metadata=None)
        whole = PageReader().get_data(PageReader().read(tmp_path / "a.tif"))[1].get("full_scale")
        assert open_image(tmp_path / "a.tif").full_scale == whole
        assert (whole is None) == (not stated)

    def test_hot_pixels_of_a_small_block_are_those_of_the_image(self, job: Job, weights: Path, tmp_path: Path) -> None:
        pixels = picture((140, 200)).astype(np.float32) / 255
        pixels[134:138:2, 196] = 1.2
        tifffile.imwrite(tmp_path / "image.tif", pixels)
        job(tmp_path / "image.tif", probability="float16").run()
        found = np.asarray(zarr.open_group(tmp_path / "out" / "image_cells.zarr", mode="r")["0"])
        expected = whole_probability((pixels.clip(0, 1) * 255).astype(np.float32), weights)
        np.testing.assert_allclose(found, expected, atol=1e-3)

    @pytest.mark.parametrize(
        "written",
        [
            {"tile": (64, 64), "compression": "zlib", "bigtiff": True},
            {"rowsperstrip": 16, "compression": "zlib"},
            {},
        ],
        ids=["tiles", "strips", "mapped"],
    )
    def test_tiff_gives_what_the_same_pixels_in_a_store_give(
        self, job: Job, weights: Path, tmp_path: Path, threshold: float, written: dict[str, Any]
    ) -> None:
        pixels = picture((100, 130))
        path = tmp_path / "image.tif"
        tifffile.imwrite(path, pixels, resolution=(20_000, 40_000), resolutionunit="CENTIMETER", **written)
        cells = {**CELLS, "threshold": threshold}
        summary = job(path, cells=cells, labels="tiff", probability=None, table="parquet").run()
        expected = expected_cells(pixels, weights, threshold)
        with tifffile.TiffFile(tmp_path / "out" / "image_cells.tif") as tiff:
            assert tiff.is_bigtiff
            assert tiff.pages[0].is_tiled
            np.testing.assert_array_equal(tiff.asarray(), expected)
        assert summary is not None
        assert summary["plan"]["pixel_size"] == [0.25, 0.5]
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(tmp_path / "out" / "image_cells.parquet").to_pydict()
        probability = whole_probability(pixels, weights)
        for name, values in cell_table(
            expected, pixels, probability, pixel_size=(0.25, 0.5), channel_names=["grey"]
        ).items():
            np.testing.assert_array_equal(table[name], values)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_every_plane_is_a_case_and_levels_halve(
        self, job: Job, weights: Path, tmp_path: Path, threshold: float, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("unet_paper.large.label_store.SMALLEST_LEVEL", 40)
        pixels = picture((1, 2, 2, 71, 98))
        store = write_store(tmp_path / "image.ome.zarr", pixels, "tczyx", version)
        cells = {**CELLS, "threshold": threshold}
        labels: Any = f"ome-zarr-{version}"
        summary = job(store, channel=1, cells=cells, labels=labels, probability="float16").run()
        assert summary is not None
        assert summary["planes"] == 2
        out = zarr.open_group(tmp_path / "out" / "image_cells.zarr", mode="r")
        assert out["labels/cells/2"].shape == (1, 2, 18, 25)
        for z in range(2):
            expected = expected_cells(pixels[0, 1, z], weights, threshold)
            np.testing.assert_array_equal(out["labels/cells/0"][0, z], expected)
            np.testing.assert_array_equal(out["labels/cells/2"][0, z], expected[::4, ::4])
            probability = whole_probability(pixels[0, 1, z], weights)
            np.testing.assert_array_equal(out["0"][0, z], probability.astype(np.float16))
            even = np.pad(probability.astype(np.float16).astype(np.float32), [(0, 1), (0, 0)], mode="edge")
            mean = even.reshape(36, 2, 49, 2).mean(axis=(1, 3))
            np.testing.assert_allclose(out["1"][0, z], mean, atol=1e-3)
            table = table_of(tmp_path / "out", f"image_t0_z{z}")
            # of all channels, whichever the network sees
            grey = cell_table(expected, pixels[0, :, z], probability, channel_names=["grey", "alpha"])
            assert {name: table[name] for name in grey} == {n: v.astype(float).tolist() for n, v in grey.items()}
        attributes = dict(out["labels/cells"].attrs)
        metadata = attributes.get("ome", attributes)
        scales = [level["coordinateTransformations"][0]["scale"] for level in metadata["multiscales"][0]["datasets"]]
        assert scales == [[1, 1, 0.25 * k, 0.5 * k] for k in (1, 2, 4)]
        labels_attributes = dict(out["labels"].attrs)
        assert labels_attributes.get("ome", labels_attributes)["labels"] == ["cells"]

    def test_the_bundle_runs_it(
        self, weights: Path, small: Path, tmp_path: Path, run_bundle: Callable[..., None]
    ) -> None:
        out = tmp_path / "out"
        run_bundle(
            "run",
            "inference_large",
            dataset_dir=str(small),
            output_dir=str(out),
            ckpt_path=str(weights),
            features=NETWORK["features"],
            device="cpu",
            block=64,
            grey_mean=MEAN,
            grey_std=STD,
            cells_preset="phantom",
        )
        assert sorted(path.name for path in out.iterdir()) == [
            "image_cells.csv",
            "image_cells.zarr",
            "image_summary.json",
        ]

    def test_what_it_shares_with_inference_is_the_same(self) -> None:
        large, usual = (
            ConfigParser.load_config_file(str(CONFIGS / f"{name}.yaml")) for name in ("inference_large", "inference")
        )
        shared = (large.keys() & usual.keys()) - {
            "imports",
            "dataset_dir",
            "output_dir",
            "network",
            "initialize",
            "run",
        }
        assert {
            "ckpt_path",
            "ckpt_sha256",
            "features",
            "grey_mean",
            "grey_std",
            "cells_preset",
            "magnification",
        } <= shared
        for name in shared:
            assert large[name] == usual[name], name


class TestBadInput:
    def test_a_store_without_metadata(self, job: Job, tmp_path: Path) -> None:
        zarr.open_group(tmp_path / "empty.zarr", mode="w")
        with pytest.raises(ValueError, match=r"empty.zarr: no OME-Zarr metadata \(multiscales\)"):
            job(tmp_path / "empty.zarr").run()
        zarr.create_array(tmp_path / "bare.zarr", shape=(9, 9), dtype="uint8")
        with pytest.raises(ValueError, match=r"bare.zarr: a bare Zarr array"):
            job(tmp_path / "bare.zarr").run()
        (tmp_path / "folder").mkdir()
        with pytest.raises(ValueError, match="folder: no Zarr group can be read"):
            job(tmp_path / "folder").run()
        with pytest.raises(FileNotFoundError, match=r"none.zarr: no such file"):
            job(tmp_path / "none.zarr").run()

    def test_a_plate_and_another_version(self, job: Job, small: Path, tmp_path: Path) -> None:
        zarr.open_group(tmp_path / "plate.zarr", mode="w").attrs["ome"] = {"version": "0.5", "plate": {}}
        with pytest.raises(ValueError, match=r"holds many images \(plate\); give the image of one field"):
            job(tmp_path / "plate.zarr").run()
        root = zarr.open_group(small, mode="r+")
        root.attrs["ome"] = {**root.attrs["ome"], "version": "0.6"}
        with pytest.raises(ValueError, match=r"OME-Zarr version 0.6; read are 0.4, 0.5"):
            job(small).run()

    def test_levels_that_are_not_of_one_image(self, job: Job, small: Path) -> None:
        root = zarr.open_group(small, mode="r+")
        metadata = dict(root.attrs["ome"])
        metadata["multiscales"][0]["datasets"].append({"path": "1"})
        root.attrs["ome"] = metadata
        with pytest.raises(ValueError, match="name a level '1' that is not there"):
            job(small).run()
        root.create_array("1", shape=(50, 140), dtype="uint8")
        with pytest.raises(ValueError, match=r"levels of shapes \(100, 130\), \(50, 140\): not versions of one image"):
            job(small).run()

    def test_further_images_of_a_group_are_named(self, job: Job, small: Path, caplog: pytest.LogCaptureFixture) -> None:
        root = zarr.open_group(small, mode="r+")
        metadata = dict(root.attrs["ome"])
        metadata["multiscales"].append({**metadata["multiscales"][0], "name": "denoised"})
        root.attrs["ome"] = metadata
        with caplog.at_level(logging.WARNING):
            job(small).run()
        assert f"{small}: left out image 'denoised'" in caplog.text

    def test_missing_chunks_are_filled_and_said_or_refused(
        self, job: Job, small: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (small / "0" / "c" / "0" / "1").unlink()
        with pytest.raises(ValueError, match="1 of 6 chunks are missing; copy the store again"):
            job(small, missing_chunks="refuse").run()
        with caplog.at_level(logging.WARNING):
            job(small).run()
        assert "1 of 6 chunks are missing, taken for the fill value 0" in caplog.text

    def test_urls_are_read_through_fsspec(self, job: Job, tmp_path: Path, small: Path) -> None:
        import fsspec

        for file in small.rglob("*"):
            if file.is_file():
                fsspec.filesystem("memory").pipe(f"/store/{file.relative_to(tmp_path)}", file.read_bytes())
        from_folder = job(small).run()
        from_url = job("memory://store/image.zarr", output_dir=tmp_path / "from_url").run()
        assert from_folder is not None
        assert from_url is not None
        assert from_url["cells"] == from_folder["cells"]
        np.testing.assert_array_equal(cells_of(tmp_path / "from_url"), cells_of(tmp_path / "out"))
        with pytest.raises(ConnectionError, match=r"dataset_dir=memory://none/there.zarr: no Zarr group can be read"):
            job("memory://none/there.zarr").run()

    def test_a_url_whose_reader_is_not_installed(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_: Any, **__: Any) -> None:
            raise ImportError("HTTPFileSystem requires aiohttp")

        monkeypatch.setattr(zarr, "open", missing)
        with pytest.raises(ModuleNotFoundError, match=r"dataset_dir=http://a/b.zarr: .*pip install 'fsspec\[http\]'"):
            job("http://a/b.zarr").run()

    def test_no_space_left(self, job: Job, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(OSError, match=r"out: 0.0 GB may be needed and 0.0 GB are free; choose a larger disk"):
            job(small).run()

    def test_a_scheduler_that_does_not_answer(self, job: Job, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("unet_paper.large.runners._TIMEOUT", 0.5)
        with pytest.raises(ConnectionError, match=r"dask=tcp://127.0.0.1:9: no scheduler answers there"):
            job(small, dask="tcp://127.0.0.1:9").run()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"software": {"unet_paper": "0.0.0", "torch": torch.__version__}}, "version of unet_paper"),
            ({"weights": {"path": "weights.pt", "sha256": "ab"}}, "sha256 of the weights is no such file"),
            ({"engine": {"device": "cpu", "processor": "AVX4096", "threads": 1}}, "processor is"),
        ],
    )
    def test_a_worker_that_would_compute_otherwise(
        self, job: Job, small: Path, tmp_path: Path, changed: dict[str, Any], said: str
    ) -> None:
        job(small, part="1/9").run()
        work = tmp_path / "out" / "image_work"
        plan = tasks.read_plan(work)
        type(plan)(**{**plan.content, **changed}).write(work)
        with pytest.raises(RuntimeError, match=f"would compute otherwise than planned: {said}"):
            tasks.check_worker(str(work))

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"symmetries": "all"}, "symmetries='all': averaging turns the whole image"),
            ({"block": 30}, "block=30: must be a multiple of the pooling factor, 4 px"),
            ({"labels": "png"}, "labels='png': must be one of"),
            ({"labels": "tiff"}, "probability='uint8': goes into an OME-Zarr"),
            ({"part": "4/3"}, "part='4/3': i/n"),
            ({"workers": 0}, "workers=0: must be at least 1"),
            ({"missing_chunks": "zero"}, "missing_chunks='zero': must be one of fill, refuse"),
            ({"channel": 1}, "no channel 1; it has 1"),
            ({"channel": [0, 0]}, r"channel=\[0, 0\]: each channel once"),
            ({"channel": "dapi"}, "no channel 'dapi'; it has 1"),
            (
                {"cells": {"field_of_interest": 50}},
                "field_of_interest=50: leaves nothing of an image.*--field_of_interest 0",
            ),
        ],
    )
    def test_settings_out_of_range(self, job: Job, small: Path, wrong: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            job(small, **wrong).run()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"photometric": "miniswhite"}, "has 0 as white"),
            ({"extratags": [(274, 3, 1, 6, True)]}, "has an orientation tag"),
        ],
    )
    def test_tiff_that_must_be_turned(self, job: Job, tmp_path: Path, options: dict[str, Any], said: str) -> None:
        tifffile.imwrite(tmp_path / "a.tif", picture((30, 40)), **options)
        with pytest.raises(ValueError, match=f"a.tif: {said}, which the config inference understands"):
            job(tmp_path / "a.tif").run()

    def test_tiff_in_one_compressed_piece(self, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("unet_paper.data.image_store.LARGEST_CHUNK", 1000)
        tifffile.imwrite(tmp_path / "a.tif", picture((30, 40)), compression="zlib", rowsperstrip=30)
        with pytest.raises(ValueError, match=r"compressed in pieces of \(30, 40\) px"):
            job(tmp_path / "a.tif").run()


def test_workers_of_a_dask_scheduler(job: Job, weights: Path, small: Path, tmp_path: Path, threshold: float) -> None:
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        job(small, cells={**CELLS, "threshold": threshold}, dask=cluster.scheduler_address).run()
    found = cells_of(tmp_path / "out")
    np.testing.assert_array_equal(found, expected_cells(picture((100, 130)), weights, threshold))
