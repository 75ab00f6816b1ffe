"""Times an image in blocks and measures the memory of the whole process, with the released EM network.

The image is a phantom of EM membranes, mirrored over and over to the size asked for, as an OME-Zarr. Every measurement
runs in a process of its own; its memory is all that the process ever held (VmHWM, Linux only), imports included. The
network's own time is that of its tiles alone, one after the other, by as many threads, before and after the run.
Prediction, the joining of blocks, and the table with the pyramid, which small images need too, are compared with it.
Two processes of one thread are compared with one of two threads. What a scheduler adds to a task is measured with tasks
that have nothing left to do, on a Dask cluster of this machine. The join of 100,000 x 100,000 px is measured, with the
findings of one block in the place of each, and the rest of its plan is worked out; such an image is not run.

    python scripts/benchmarks/benchmark_large.py --sizes 20000 --folder runs/large

With ``--folder`` images and results stay there, and a run that was interrupted goes on.
"""

import argparse
import json
import multiprocessing
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import benchmarking
import numpy as np
import torch
import zarr
from benchmarking import Row
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data.image_store import open_image
from unet_paper.data.phantom_em import em_stack
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, label_instances
from unet_paper.large import label_store, runners
from unet_paper.large.block_cells import BlockCells
from unet_paper.large.block_prediction import TileGrid
from unet_paper.large.grid import Box, Grid
from unet_paper.large.job import LargePrediction
from unet_paper.large.plan import read_plan
from unet_paper.large.tasks import PREDICT, Case, work_of
from unet_paper.measurements import cell_table
from unet_paper.network import UNet
from unet_paper.probability import class_probabilities
from unet_paper.running import checkpoint, engines

WEIGHTS = benchmarking.ROOT / "bundle" / "models" / "em_narrow.pt"
NETWORK: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "features": [16, 32, 64, 128, 256], "preset": "paper"}
MEAN, STD = 0.5, 0.17
PHANTOM = 512
BLOCK, TILE, STRIDE = 2048, 572, 384
# what the prediction may take of the network's own time, the join of the prediction's, all of memory in GiB
TIME_GOAL, JOIN_GOAL, MEMORY_GOAL = 1.1, 0.05, 4.0
JOIN = ("label", "join_components", "split", "number_parts", "holes", "join_holes", "grow", "number_cells")
PLANNED = 100_000
WORKERS = 1000


def pattern() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A phantom, mirrored, so that it goes on at its end as at its beginning, and where its cells are."""
    images, labels = em_stack(1, PHANTOM, seed=0)[:2]
    both = [np.pad(np.asarray(stack)[0], [(0, PHANTOM)] * 2, mode="symmetric") for stack in (images, labels)]
    return both[0], both[1] > 0


def repeated(tile: NDArray[Any], box: Box) -> NDArray[Any]:
    """A box of an image that repeats a tile."""
    rows, columns = (np.arange(part.start, part.stop) % len(tile) for part in box.slices)
    return tile[np.ix_(rows, columns)]


def write_image(path: Path, size: int) -> Path:
    """An OME-Zarr of a mirrored phantom, block by block; one that is there is taken as it is."""
    if (path / "zarr.json").is_file() and "ome" in zarr.open_group(path, mode="r").attrs:
        return path
    tile = pattern()[0]
    root = zarr.open_group(path, mode="w")
    array = root.create_array("0", shape=(size, size), chunks=(512, 512), dtype="uint8")
    grid = Grid(size, size, BLOCK)
    for index in range(len(grid)):
        box = grid.box(index)
        array[box.slices] = repeated(tile, box)
    axes = [{"name": name, "type": "space"} for name in "yx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    return path


def prediction(store: str, out: str, **settings: Any) -> LargePrediction:
    """A run with the released EM network."""
    return LargePrediction(
        dataset_dir=store,
        output_dir=out,
        ckpt_path=WEIGHTS,
        network=NETWORK,
        grey_mean=MEAN,
        grey_std=STD,
        cells=PRESETS["isbi2012"],
        **{"block": BLOCK, **settings},
    )


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measure(store: str, out: str, workers: int, threads: int, tiles: int) -> dict[str, Any]:
    """Seconds of the tasks of each step, of all, and of the network for a tile, by the clock; bytes of this process."""
    before = seconds_of_network(threads, tiles) if tiles else 0.0
    began = time.perf_counter()
    summary = prediction(store, out, workers=workers, threads=threads).run()
    assert summary is not None
    seconds, peak = time.perf_counter() - began, peak_memory()
    tile = (before + seconds_of_network(threads, tiles)) / 2 if tiles else 0.0
    steps: dict[str, float] = summary["seconds_of_tasks"]
    return {"seconds": seconds, "peak": peak, "steps": steps, "cells": summary["cells"], "tile": tile}


def released() -> UNet:
    """The network of the released weights, laid out as the prediction lays it out."""
    network = UNet(**NETWORK).eval()
    checkpoint.load_weights(network, WEIGHTS)
    # in place; the types of PyTorch do not know this argument of a module's method
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def seconds_of_network(threads: int, tiles: int) -> float:
    """Mean seconds of one tile."""
    torch.set_num_threads(threads)
    engines.keep_freed_memory()
    network = released()
    tile = torch.rand(1, 1, TILE, TILE)
    with torch.no_grad():
        network(tile)
        began = time.perf_counter()
        for _ in range(tiles):
            network(tile)
    return (time.perf_counter() - began) / tiles


def in_new_process(kept: Path, function: Any, *arguments: Any, quick: bool = False) -> Any:
    """What a function returns in a process of its own, kept in a file; in this one where nothing is measured."""
    if quick:
        return function(*arguments)
    if not kept.is_file():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(function, *arguments).result()
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def rows_of(size: int, folder: Path, threads: int, accuracy: str, quick: bool) -> list[Row]:
    """Lines of one size."""
    store, group = write_image(folder / f"{size}.zarr", size), f"{size} x {size} px, 1 process, {threads} threads"
    out = str(folder / f"{size}_one")
    kept = folder / f"{size}_one.json"
    one = in_new_process(kept, measure, str(store), out, 1, threads, 1 if quick else 12, quick=quick)
    own = one["tile"] * (size / STRIDE) ** 2
    predict = one["steps"][PREDICT]
    # of what is not the network, as many tasks are done at a time as there are threads
    join = sum(one["steps"].get(step, 0.0) for step in JOIN) / threads
    rest = sum(one["steps"].values()) / threads - predict / threads - join
    rows = [
        Row(what="prediction; ratio = of the network's own time", group=group, median_s=predict, ratio=predict / own),
        Row(what="blocks joined; ratio = of the prediction's time", group=group, median_s=join, ratio=join / predict),
        Row(
            what=f"table of {one['cells']} cells, labels and pyramid written; ratio = of the prediction's time",
            group=group,
            median_s=rest,
            ratio=rest / predict,
        ),
        Row(
            what="all, from start to end; ratio = of the network's own time",
            group=group,
            median_s=one["seconds"],
            ratio=one["seconds"] / own,
        ),
        Row(what="all memory of the process; ratio = GiB", group=group, ratio=one["peak"] / 2**30),
    ]
    rows[0].accuracy = accuracy
    if not quick:
        rows[0].at_most(TIME_GOAL)
        rows[1].at_most(JOIN_GOAL)
        rows[4].at_most(MEMORY_GOAL)
    return rows


def equal_to_the_whole(folder: Path) -> str:
    """Asserts that blocks give the cells of the whole image, with the released network."""
    store = write_image(folder / "whole.zarr", 700)
    out = folder / "whole_blocks"
    prediction(str(store), str(out), block=160, tiles=1).run()
    image = torch.from_numpy(repeated(pattern()[0], Box(0, 0, 700, 700)).astype(np.float32) / 255)
    network = released()
    with torch.no_grad():
        scores = OverlapTileInferer(levels=5, tile_size=TILE)(((image - MEAN) / STD)[None, None], network)
    whole = label_instances(class_probabilities(scores[0])[1].numpy(), **PRESETS["isbi2012"])
    cells = np.asarray(zarr.open_group(out / "whole_cells.zarr", mode="r")["labels/cells/0"])
    np.testing.assert_array_equal(cells, whole)
    return f"{whole.max()} cells of 700 x 700 px in 25 blocks: equal to the whole's"


def workers_row(size: int, folder: Path) -> Row:
    """Two processes of one thread against one process of two threads."""
    store = write_image(folder / f"{size}.zarr", size)
    seconds = []
    for name, workers, threads in (("threads", 1, 2), ("workers", 2, 1)):
        out = folder / f"{size}_{name}"
        found = in_new_process(out.with_suffix(".json"), measure, str(store), str(out), workers, threads, 0)
        seconds.append(found["seconds"])
    row = Row(
        what="2 workers of 1 thread; ratio = of 1 process with 2 threads",
        group=f"{size} x {size} px",
        median_s=seconds[1],
        ratio=seconds[1] / seconds[0],
    )
    row.at_most(1.0)
    return row


def scheduler_rows(folder: Path, tasks: int) -> list[Row]:
    """What Dask adds to a task, and what it is given for each."""
    from dask.distributed import Client, LocalCluster

    store = write_image(folder / "scheduler.zarr", 700)
    prediction(str(store), str(folder / "scheduler"), tiles=1, part="1/1", threads=1).run()
    work = folder / "scheduler" / "scheduler_work"
    case = Case(work, read_plan(work), open_image(store).planes()[0])
    tasks_of = work_of(case, PREDICT)
    done = [index % 4 for index in range(tasks)]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        dask = runners.Dask(client)
        dask(tasks_of, done[:8])
        began = time.perf_counter()
        dask(tasks_of, done)
        seconds = (time.perf_counter() - began) / tasks
    task = len(pickle.dumps((tasks_of.do, 0)))
    group = "Dask, 2 workers"
    return [
        Row(what="a task that has nothing left to do", group=group, median_s=seconds),
        Row(what=f"a task that keeps {WORKERS} workers busy, at least", group=group, median_s=WORKERS * seconds),
        Row(what="what the scheduler is given for a task", group=group, extra={"bytes": task}),
    ]


class OneBlock:
    """A workspace in which each block has found what one has."""

    def __init__(self, found: Mapping[str, NDArray[Any]]) -> None:
        self.found: dict[str, Any] = {"label": found}
        self.grid = Grid(1, 1, 1)
        self.labels: NDArray[np.int32] = np.zeros((1, 1), np.int32)

    def array(self, _name: str) -> Any:
        """Takes the labels of the block."""
        return self

    def __setitem__(self, _box: Any, labels: NDArray[np.int32]) -> None:
        self.labels = labels

    def facts(self, stage: str, index: int) -> Mapping[str, NDArray[Any]]:
        """What each block found, at its place."""
        if stage != "grow":
            return dict(self.found[stage])
        joined, label = self.found["join_components"], self.found["label"]
        start, count = int(joined["offsets"][index]), len(label["areas"])
        box = self.grid.box(index)
        return {
            "ids": joined["lowest"][start + 1 : start + count],
            "areas": label["areas"][1:],
            "boxes": self.found["boxes"] + np.array([box.top, box.left] * 2),
            "first": self.found["boxes"][:, 1] + box.left,
            "inside": np.ones(count - 1, bool),
            "pairs": np.empty((0, 2), np.int64),
        }


def joined(size: int) -> dict[str, float]:
    """Joins an image of which each block found the same: components, seconds, bytes of this process, bytes of a row."""
    tile = pattern()[1].astype(np.float32)
    workspace = OneBlock({})
    grid = workspace.grid = Grid(size, size, min(BLOCK, size // 3))
    cells = BlockCells(grid, PRESETS["isbi2012"], workspace, lambda box: repeated(tile, box))
    middle = grid.columns + 1
    workspace.found["label"] = cells.label(middle)
    objects = ndimage.find_objects(workspace.labels)
    boxes = [[part.start for part in box] + [part.stop for part in box] for box in objects]
    workspace.found["boxes"] = np.array(boxes, np.int64)
    began = time.perf_counter()
    for stage in ("join_components", "number_parts", "join_holes", "number_cells"):
        workspace.found[stage] = getattr(cells, stage)()
    found = workspace.found["number_cells"]
    seconds, peak = time.perf_counter() - began, peak_memory()
    table = cell_table(label_instances(tile, **PRESETS["isbi2012"]), tile, tile)
    row = sum(len(f"{value}") + 1 for values in table.values() for value in values.tolist()) / len(table["id"])
    return {"cells": float(len(found["areas"])), "seconds": seconds, "peak": float(peak), "row": row}


def planned_rows(size: int, folder: Path, quick: bool) -> list[Row]:
    """The plan of an image that is not run: tasks, table, and the join, which is measured."""
    join = in_new_process(folder / "joined.json", joined, size, quick=quick)
    predict = len(TileGrid(size, size, 1.0, TILE, len(NETWORK["features"])).blocks)
    blocks = len(Grid(size, size, BLOCK))
    levels = label_store.levels_of((size, size))
    pyramid = sum(len(label_store.level_grid((size, size), level, BLOCK)) for level in range(1, levels))
    group = f"{size} x {size} px, planned"
    return [
        Row(what="tasks that predict", group=group, extra={"tasks": predict}),
        Row(what="tasks that label; that grow; that number", group=group, extra={"tasks": blocks}),
        Row(what=f"tasks of a pyramid of {levels} levels", group=group, extra={"tasks": pyramid}),
        Row(
            what=f"blocks joined, {join['cells']:.3g} cells, by one process; GiB = all its memory",
            group=group,
            median_s=join["seconds"],
            extra={"GiB": join["peak"] / 2**30},
        ),
        Row(what="table as CSV", group=group, extra={"GiB": join["cells"] * join["row"] / 2**30}),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sizes", type=int, nargs="*", default=[3072], help="sides of the images in px")
    parser.add_argument("--workers_size", type=int, default=2048, help="side of the image for two workers; 0: none")
    parser.add_argument("--folder", type=Path, help="where images and results stay")
    own, rest = parser.parse_known_args()
    sys.argv = [sys.argv[0], *rest]
    arguments = benchmarking.parse_arguments(__doc__, threads=2)
    packages = ("zarr", "numpy", "scikit-image", "distributed")
    report = benchmarking.Report("large", "Images in blocks", packages=packages, quick=arguments.quick)
    with tempfile.TemporaryDirectory() as temporary:
        folder = own.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        accuracy = equal_to_the_whole(Path(temporary))
        for size in [700] if arguments.quick else own.sizes:
            report.rows += rows_of(size, folder, arguments.threads, accuracy, arguments.quick)
        if own.workers_size and not arguments.quick:
            report.rows.append(workers_row(own.workers_size, folder))
        if not arguments.quick:
            report.rows += scheduler_rows(folder, 1000)
        report.rows += planned_rows(6 * PHANTOM if arguments.quick else PLANNED, folder, arguments.quick)
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
