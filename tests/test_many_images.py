"""Images of a folder shared out, one a task: the same files as by one process, in whichever order they are done."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY
from PIL import Image

from unet_paper.large import many_images, runners
from unet_paper.large.plan import software
from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.settings import cause

Run = Callable[..., None]
SHARED = ("inference", "many_images")


class AnyOrder:
    """This process does all, in any order, something twice, as after the death of a worker."""

    def __call__(self, work: runners.Work, indices: Sequence[int]) -> None:
        many_images._worker.cache_clear()
        work.check()
        order = [*indices, *indices[:2]]
        random.Random(1).shuffle(order)
        for index in order:
            work.do(index)


@pytest.fixture
def any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def runner(_workers: int, _dask: str | None) -> Iterator[AnyOrder]:
        yield AnyOrder()

    monkeypatch.setattr(many_images, "runner", runner)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(3)
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), tmp_path / "weights.pt")
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a", (50, 70)), ("b", (64, 48)), ("@c 1", (40, 40))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    for name, pages in (("stack", 3), ("short", 2)):
        pixels = rng.integers(0, 255, (pages, 33, 64), dtype=np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack")
    return {
        "dataset_dir": str(folder),
        "ckpt_path": str(tmp_path / "weights.pt"),
        "features": TINY["features"],
        "cells_preset": "phantom",
        "threshold": 0.5,
        "grey_mean": 0.5,
        "grey_std": 0.17,
        "device": "cpu",
        "engine": "torch",
        "threads": 1,
    }


def contents(folder: Path) -> dict[str, bytes]:
    """What is written of images and of the folder; pictures' files and archives hold times."""
    kept = [path for path in folder.iterdir() if path.suffix in (".tif", ".csv", ".geojson", ".png", ".html")]
    assert len(kept) >= 30
    return {path.name: path.read_bytes() for path in kept}


@pytest.mark.usefixtures("any_order")
@pytest.mark.parametrize("relative", [False, True])
def test_shared_out_gives_what_one_process_gives(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    if relative:
        monkeypatch.chdir(tmp_path)
        settings |= {"dataset_dir": "images", "ckpt_path": "weights.pt"}
    run_bundle("run", "inference", **settings, output_dir=str(tmp_path / "one"))
    run_bundle("run", *SHARED, **settings, output_dir="shared" if relative else str(tmp_path / "shared"))
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    expected, found = contents(tmp_path / "one"), contents(tmp_path / "shared")
    assert [name for name, content in expected.items() if found[name] != content] == []


def test_parts_of_a_job_array_and_a_last_run_give_it_too(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    run_bundle("run", "inference", **settings, output_dir=str(tmp_path / "one"))
    out = tmp_path / "parts"
    for part in ("2/3", "3/3"):
        run_bundle("run", *SHARED, **settings, output_dir=str(out), part=part)
        assert not (out / "cells.csv").exists()
    assert len(list(out.glob("*_cells.tif"))) == 3
    run_bundle("run", *SHARED, **settings, output_dir=str(out), workers=1)
    expected, found = contents(tmp_path / "one"), contents(out)
    assert [name for name, content in expected.items() if found.get(name) != content] == []


@pytest.mark.usefixtures("any_order")
def test_one_bad_image_costs_no_other_and_a_rerun_does_what_is_left(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Path(settings["dataset_dir"]) / "bad.tif"
    bad.write_bytes(b"II*\0nothing")
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    settings["dataset_dir"] = "images"
    with pytest.raises(RuntimeError) as failure:
        run_bundle("run", *SHARED, **settings, output_dir=str(out))
    assert "1 of 6 images were not predicted" in str(cause(failure.value))
    assert len(list(out.glob("*_cells.tif"))) == 5
    assert not (out / many_images.WORK).exists()
    bad.unlink()
    (out / "b_cells.tif").unlink()
    done: list[int] = []
    predict_one = many_images.predict_one

    def noted(work: str, digest: str, index: int) -> None:
        done.append(index)
        predict_one(work, digest, index)

    monkeypatch.setattr(many_images, "predict_one", noted)
    run_bundle("run", *SHARED, **settings, output_dir=str(out))
    assert set(done) == {0}
    assert (out / "b_cells.tif").exists()


@pytest.mark.usefixtures("any_order")
def test_a_worker_that_would_compute_otherwise_is_refused(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_leader = [{"unet_paper": "9.9"}]
    monkeypatch.setattr(many_images, "software", lambda: of_leader.pop() if of_leader else software())
    with pytest.raises(RuntimeError) as failure:
        run_bundle("run", *SHARED, **settings, output_dir=str(tmp_path / "out"))
    assert "this worker would compute otherwise than planned" in str(cause(failure.value))
    assert not list((tmp_path / "out").glob("*_cells.tif"))
