"""Times an image in blocks and measures the memory of the whole process, with the released EM network.

The image is a phantom of EM membranes, mirrored over and over to the size asked for, as an OME-Zarr. Every measurement
runs in a process of its own; its memory is all that the process ever held (VmHWM, Linux only), imports included. The
network's own time is that of its tiles alone, one after the other, measured in the same process. Cells, their table and
the pyramid are compared with it. Two processes of one thread are compared with one of two threads.

    python scripts/benchmarks/benchmark_large.py --sizes 6144 20000
"""

import argparse
import multiprocessing
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import benchmarking
import numpy as np
import torch
import zarr
from benchmarking import Row

from unet_paper.data.phantom_em import em_stack
from unet_paper.instances import PRESETS
from unet_paper.large.grid import Grid
from unet_paper.large.job import LargePrediction
from unet_paper.network import UNet
from unet_paper.running import checkpoint, engines

WEIGHTS = benchmarking.ROOT / "bundle" / "models" / "model.pt"
NETWORK: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "features": [16, 32, 64, 128, 256], "preset": "paper"}
PHANTOM = 512
BLOCK = 2048
# what the prediction may take of the network's own time, the rest of the prediction's, all of memory in GiB
TIME_GOAL, JOIN_GOAL, MEMORY_GOAL = 1.1, 0.05, 4.0
# steps that join blocks; the others make the table and the pyramid, which small images need too
JOIN = ("label", "join_components", "split", "number_parts", "holes", "join_holes", "grow", "number_cells")


def write_image(path: Path, size: int) -> Path:
    """An OME-Zarr of a mirrored phantom, block by block."""
    phantom = np.asarray(em_stack(1, PHANTOM, seed=0)[0])[0]
    pattern = np.pad(phantom, [(0, PHANTOM), (0, PHANTOM)], mode="symmetric")
    root = zarr.open_group(path, mode="w")
    array = root.create_array("0", shape=(size, size), chunks=(512, 512), dtype="uint8")
    grid = Grid(size, size, BLOCK)
    for index in range(len(grid)):
        box = grid.box(index)
        rows, columns = (np.arange(part.start, part.stop) % (2 * PHANTOM) for part in box.slices)
        array[box.slices] = pattern[np.ix_(rows, columns)]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    return path


def measure(store: str, out: str, workers: int, threads: int) -> dict[str, Any]:
    """CPU seconds of each step, seconds of all by the clock, and bytes, of this process."""
    began = time.perf_counter()
    summary = LargePrediction(
        dataset_dir=store,
        output_dir=out,
        ckpt_path=WEIGHTS,
        network=NETWORK,
        grey_mean=0.5,
        grey_std=0.17,
        cells=PRESETS["isbi2012"],
        block=BLOCK,
        workers=workers,
        threads=threads,
    ).run()
    assert summary is not None
    seconds = time.perf_counter() - began
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    peak = int(found[1]) * 1024 if found else 0
    steps: dict[str, float] = summary["cpu_seconds_of_steps"]
    return {"seconds": seconds, "peak": peak, "steps": steps, "cells": summary["cells"]}


def seconds_of_network(threads: int, tiles: int) -> float:
    """Mean CPU seconds of one tile."""
    torch.set_num_threads(threads)
    engines.keep_freed_memory()
    network = UNet(**NETWORK).eval()
    checkpoint.load_weights(network, WEIGHTS)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tile = torch.rand(1, 1, 572, 572)
    with torch.no_grad():
        network(tile)
        began = time.process_time()
        for _ in range(tiles):
            network(tile)
    return (time.process_time() - began) / tiles


def in_new_process(function: Any, *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rows_of(size: int, folder: Path, quick: bool) -> list[Row]:
    """Lines of one size."""
    store, group = write_image(folder / f"{size}.zarr", size), f"{size} x {size} px"
    one = in_new_process(measure, str(store), str(folder / f"{size}_one"), 1, 1)
    tile = in_new_process(seconds_of_network, 1, 1 if quick else 8)
    predict, join = one["steps"]["predict"], sum(one["steps"].get(step, 0.0) for step in JOIN)
    own = tile * (size / 384) ** 2
    table = sum(one["steps"].values()) - predict - join
    time_row = Row(
        what="prediction; ratio = of the network's own time", group=group, median_s=predict, ratio=predict / own
    )
    join_row = Row(
        what="cells joined; ratio = of the prediction's time", group=group, median_s=join, ratio=join / predict
    )
    table_row = Row(
        what=f"table of {one['cells']} cells, and pyramid; ratio = of the prediction's time",
        group=group,
        median_s=table,
        ratio=table / predict,
    )
    memory_row = Row(what="all memory of the process; ratio = GiB", group=group, ratio=one["peak"] / 2**30)
    if not quick:
        time_row.at_most(TIME_GOAL)
        join_row.at_most(JOIN_GOAL)
        memory_row.at_most(MEMORY_GOAL)
    return [time_row, join_row, table_row, memory_row]


def workers_row(size: int, folder: Path) -> Row:
    """Two processes of one thread against one process of two threads."""
    store = write_image(folder / "workers.zarr", size)
    threads = in_new_process(measure, str(store), str(folder / "threads"), 1, 2)["seconds"]
    workers = in_new_process(measure, str(store), str(folder / "workers"), 2, 1)["seconds"]
    row = Row(
        what="2 workers of 1 thread; ratio = of 1 process with 2 threads", group=f"{size} x {size} px", median_s=workers
    )
    row.ratio = workers / threads
    row.at_most(1.0)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[6144], help="sides of the images in px")
    parser.add_argument("--workers_size", type=int, default=3072, help="side of the image for two workers; 0: none")
    sizes, rest = parser.parse_known_args()
    sys.argv = [sys.argv[0], *rest]
    arguments = benchmarking.parse_arguments(__doc__)
    report = benchmarking.Report("large", "Images in blocks", packages=("zarr", "numpy", "scikit-image"), clock="CPU")
    with tempfile.TemporaryDirectory() as folder:
        for size in [700] if arguments.quick else sizes.sizes:
            report.rows += rows_of(size, Path(folder), arguments.quick)
        if sizes.workers_size and not arguments.quick:
            report.rows.append(workers_row(sizes.workers_size, Path(folder)))
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
