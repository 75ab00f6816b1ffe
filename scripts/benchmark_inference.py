"""Times whole-image prediction and measures its memory: our strategies, common tiling, MONAI's sliding window.

Every measurement runs in a process of its own, so that memory kept by one contender cannot serve another, and the
repetitions are interleaved, one of each contender after the other. Seconds are CPU time of one thread; memory is the
growth of the process's resident set beyond weights and image, result included (Linux only). Our scores are compared
with those of the image in one piece in the same run.

The default is a quarter of the paper's width, which is a sixteenth of the work; ``--width 64`` is the paper's network.
"""

import argparse
import importlib.metadata
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.inferer import OverlapTileInferer
from unet_paper.network import UNet

TOLERANCE = 1e-5  # of the largest score
GIBIBYTE = 2**30
WINDOW = 512
ROWS = "ours: rows"
WHOLE = "ours: whole image in one piece"
TILES = "ours: tiles of 572 px, the last ones smaller"
COMMON_TILES = "388-px tiles side by side, all of 572 px"
WINDOWS = {
    (padded, overlap): f"MONAI SlidingWindowInferer, {WINDOW} px, overlap {overlap}, {padded}"
    for padded in ("the same network padded", "BasicUNet")
    for overlap in (0.25, 0.5)
}
CONTENDERS = (ROWS, WHOLE, TILES, COMMON_TILES, *WINDOWS.values())
# (what, contender that rows are compared with, most that rows may take of it)
TIME_GOALS = (
    ("time of the image in one piece", WHOLE, 1.0),
    ("time of our tiles", TILES, 0.70),
    ("time of 388-px tiles", COMMON_TILES, 0.70),
    ("time of the sliding window", WINDOWS["the same network padded", 0.25], 0.55),
)
MEMORY_GOAL = 0.35


class PaddedUNet(UNet):
    """The network with zero-padded convolutions, whose output has its input's size: what sliding windows expect."""

    def __init__(self, features: tuple[int, ...]) -> None:
        super().__init__(features=features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.padding = (1, 1)

    def _check(self, image: Tensor) -> None:
        """Any multiple of 16 px fits; skips need no crop."""


def common_tiles(image: Tensor, network: nn.Module) -> Tensor:
    """Overlap-tile as commonly written: mirror the image, step by the output's size, off the pooling grid."""
    margin, step = geometry.margin(), 388
    height, width = image.shape[2:]
    rows, columns = (-(-length // step) * step for length in (height, width))
    pads = (margin, columns - width + margin, margin, rows - height + margin)
    padded = nn.functional.pad(image, pads, mode="reflect")
    scores = image.new_empty(image.shape[0], 2, rows, columns)
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            tile = padded[:, :, row : row + step + 2 * margin, column : column + step + 2 * margin]
            scores[:, :, row : row + step, column : column + step] = network(tile)
    return scores[:, :, :height, :width]


def prepared(contender: str, width: int) -> tuple[nn.Module, Callable[[Tensor, nn.Module], Tensor]]:
    """Network and way of predicting a whole image with it."""
    features = tuple(width << level for level in range(5))
    torch.manual_seed(0)
    for (padded, overlap), name in WINDOWS.items():
        if contender == name:
            basic = padded == "BasicUNet"
            network = (
                BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(*features, width))
                if basic
                else PaddedUNet(features)
            )
            return network, SlidingWindowInferer(roi_size=WINDOW, sw_batch_size=1, overlap=overlap)
    strategies: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
        ROWS: OverlapTileInferer(strategy="rows"),
        WHOLE: OverlapTileInferer(strategy="whole"),
        TILES: OverlapTileInferer(strategy="tiles"),
        COMMON_TILES: common_tiles,
    }
    return UNet(features=features), strategies[contender]


def resident(entry: str) -> int:
    """Resident set of this process in bytes: VmRSS now, VmHWM at its highest."""
    found = re.search(entry + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {entry}: memory cannot be measured on this system")
    return int(found[1]) * 1024


def measure(
    contender: str, size: int, width: int, channels_last: bool, keep: bool
) -> tuple[float, int, NDArray[np.float32] | None]:
    """CPU seconds and bytes of one prediction, run in a process of its own; its scores on demand."""
    torch.set_num_threads(1)
    network, predict = prepared(contender, width)
    network.eval()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # start VmHWM anew
        network(image[:, :, :188, :188] if isinstance(network, UNet) and size >= 188 else image[:, :, :64, :64])
        start = time.process_time()
        scores = predict(image, network)
        seconds = time.process_time() - start
        extra = resident("VmHWM") - before
    return seconds, extra, scores.numpy() if keep else None


def in_new_process(
    contender: str, size: int, width: int, channels_last: bool, keep: bool = False
) -> tuple[float, int, NDArray[np.float32] | None]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, contender, size, width, channels_last, keep).result()


def compare(size: int, width: int, channels_last: bool, repetitions: int) -> dict[str, Any]:
    """Interleaved repetitions of all contenders.

    Raises:
        AssertionError: where our strategies differ by more than the tolerance.
    """
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in CONTENDERS}
    scores: dict[str, NDArray[np.float32]] = {}
    for repetition in range(repetitions):
        for name in CONTENDERS:
            print(f"{size} px, {repetition + 1}/{repetitions}: {name} ...", file=sys.stderr)
            keep = repetition == 0 and name in (ROWS, WHOLE, TILES)
            seconds, extra, kept = in_new_process(name, size, width, channels_last, keep)
            runs[name].append((seconds, extra))
            if kept is not None:
                scores[name] = kept
    scale = float(np.abs(scores[WHOLE]).max())
    errors = {name: float(np.abs(scores[name] - scores[WHOLE]).max()) / scale for name in (ROWS, TILES)}
    assert max(errors.values()) <= TOLERANCE, f"{size} px: {errors}, at most {TOLERANCE} is right"
    return {"rows": {name: summary(values, size) for name, values in runs.items()}, "errors": errors}


def summary(runs: list[tuple[float, int]], size: int) -> dict[str, float]:
    seconds = [run[0] for run in runs]
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "seconds_per_megapixel": median / (size * size / 1e6),
        "extra_bytes": statistics.median(run[1] for run in runs),
    }


def judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Goals at the largest image that all contenders had, and the large one's memory."""
    size = max(results["sizes"], key=int)
    rows = results["sizes"][size]["rows"]
    goals = [
        (f"{size} px: rows take of the {what}", rows[ROWS]["seconds"] / rows[other]["seconds"], most, "")
        for what, other, most in TIME_GOALS
    ]
    memory = rows[ROWS]["extra_bytes"] / rows[WHOLE]["extra_bytes"]
    goals.append((f"{size} px: rows take of the memory of the image in one piece", memory, MEMORY_GOAL, ""))
    for large, run in results["rows_only"].items():
        goals.append((f"{large} px: rows take", run["extra_bytes"] / GIBIBYTE, 1.0, " GiB"))
    return [
        {"what": what, "found": found, "at_most": most, "unit": unit, "met": found <= most}
        for what, found, most, unit in goals
    ]


def machine() -> dict[str, str | int]:
    """What the numbers belong to."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": 1,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "monai", "numpy")},
    }


def markdown(results: dict[str, Any]) -> str:
    """The tables, for people."""
    layout = "channels_last" if results["channels_last"] else "contiguous"
    lines = [
        "## Large images",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items())
        + f"; features {results['features']}, float32, {layout}; median of {results['repetitions']} interleaved "
        "repetitions, each in a process of its own; CPU seconds.",
    ]
    for size, case in results["sizes"].items():
        own = case["rows"][ROWS]
        lines += [
            "",
            f"### {size} x {size} px",
            "",
            "| what | s | fastest .. slowest | s per megapixel | times rows | extra MiB | times rows |",
            "|---|---|---|---|---|---|---|",
        ]
        for what, row in case["rows"].items():
            lines.append(
                f"| {what} | {row['seconds']:.2f} | {row['fastest']:.2f} .. {row['slowest']:.2f} "
                f"| {row['seconds_per_megapixel']:.2f} | {row['seconds'] / own['seconds']:.2f} "
                f"| {row['extra_bytes'] / 2**20:.0f} | {row['extra_bytes'] / own['extra_bytes']:.2f} |"
            )
        errors = ", ".join(f"{name} {error:.1e}" for name, error in case["errors"].items())
        lines += ["", f"Largest difference from the image in one piece, of the largest score: {errors}."]
    for size, row in results["rows_only"].items():
        lines += [
            "",
            f"{size} x {size} px, rows: {row['seconds']:.1f} s, {row['seconds_per_megapixel']:.2f} s per megapixel, "
            f"{row['extra_bytes'] / 2**20:.0f} MiB extra.",
        ]
    lines += ["", "Goals:"]
    for goal in results["goals"]:
        verdict = "met" if goal["met"] else "**NOT MET**"
        lines.append(f"- {goal['what']} {goal['found']:.2f}{goal['unit']}, at most {goal['at_most']:.2f}: {verdict}")
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Time and memory against image size, one line per contender."""
    import matplotlib  # here, for the measuring processes do without

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name in CONTENDERS:
        points = [(int(size), case["rows"][name]) for size, case in results["sizes"].items()]
        if name == ROWS:
            points += [(int(size), row) for size, row in results["rows_only"].items()]
        sizes = [size for size, _ in points]
        axes[0].plot(sizes, [row["seconds"] for _, row in points], marker="o", label=name)
        axes[1].plot(sizes, [row["extra_bytes"] / 2**20 for _, row in points], marker="o", label=name)
    for axis, label in zip(axes, ("CPU seconds", "extra memory in MiB"), strict=True):
        axis.set(xlabel="side of the image in px", ylabel=label, xscale="log", yscale="log")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="features of the first level (default 16, paper 64)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="sides of the images in px")
    parser.add_argument("--rows_only", type=int, nargs="*", default=[4096], help="sides for row streaming alone")
    parser.add_argument("--repetitions", type=int, default=3, help="of each contender (default 3)")
    parser.add_argument("--channels_last", action="store_true", help="all networks in that memory format")
    parser.add_argument("--output_dir", type=Path, help="write inference.md, .json and .png there, too")
    arguments = parser.parse_args()
    if min(arguments.sizes) < WINDOW:
        parser.error(f"--sizes={arguments.sizes}: at least {WINDOW}, the sliding window's size")

    results: dict[str, Any] = {
        "machine": machine(),
        "features": [arguments.width << level for level in range(5)],
        "channels_last": arguments.channels_last,
        "repetitions": arguments.repetitions,
        "sizes": {
            str(size): compare(size, arguments.width, arguments.channels_last, arguments.repetitions)
            for size in arguments.sizes
        },
        "rows_only": {},
    }
    for size in arguments.rows_only:
        print(f"{size} px: {ROWS} ...", file=sys.stderr)
        seconds, extra, _ = in_new_process(ROWS, size, arguments.width, arguments.channels_last)
        results["rows_only"][str(size)] = summary([(seconds, extra)], size)
    results["goals"] = judged(results)
    table = markdown(results)
    print(table)
    if arguments.output_dir:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        (arguments.output_dir / "inference.md").write_text(table + "\n", encoding="utf-8")
        (arguments.output_dir / "inference.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        plot(results, arguments.output_dir / "inference.png")


if __name__ == "__main__":
    main()
