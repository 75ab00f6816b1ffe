"""Times whole-image prediction and measures its memory: our strategies, common tiling, MONAI's sliding window.

Every measurement runs in a process of its own, so that memory kept by one contender cannot serve another, and the
repetitions are interleaved. Times are CPU time of one thread; memory is the growth of the process's resident set
beyond weights and image, result included (Linux only). Our scores are compared with those of the image in one piece in
the same run. The network has a quarter of the paper's width, which is a sixteenth of the work.

Then the share of inference.yaml that is not the network's: reading, normalising, stitching, labelling, writing. And
what inference.yaml, run as it is by the released weights, takes of memory for each further pixel of an image: the
difference of the highest resident sets with a large and a small image of the same phantom, side by side.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import benchmarking
import monai.bundle
import numpy as np
import tifffile
import torch
from benchmarking import Row
from monai.bundle import ConfigWorkflow
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet
from numpy.typing import NDArray
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.data import phantom
from unet_paper.inferer import OverlapTileInferer
from unet_paper.network import UNet
from unet_paper.running import checkpoint, machine, openvino_engine

TOLERANCE = 1e-5  # of the largest score
WIDTH, PAPER = 16, 64
WINDOW = 512
ROWS = "ours: rows"
DEFAULT = "ours: default settings"
WHOLE = "ours: whole image in one piece"
TILES = "ours: tiles of 572 px, the last ones smaller"
COMMON_TILES = "388-px tiles side by side, all of 572 px"
WINDOWS = {
    (padded, overlap): f"MONAI SlidingWindowInferer, {WINDOW} px, overlap {overlap}, {padded}"
    for padded in ("the same network padded", "BasicUNet")
    for overlap in (0.25, 0.5)
}
CONTENDERS = (ROWS, WHOLE, DEFAULT, TILES, COMMON_TILES, *WINDOWS.values())
# most that rows may take of the time of others, of the memory of the image in one piece, and in GiB of a large image
TIME_GOALS = {WHOLE: 1.0, COMMON_TILES: 0.70, WINDOWS["the same network padded", 0.25]: 0.55}
DEFAULT_GOAL = 0.65  # of the image in one piece
MEMORY_GOAL, LARGE_GOAL = 0.35, 1.0
AROUND_GOAL = 0.05
# bytes for each pixel of an image that a whole prediction may take
COMMANDS = {"model": ("em", 1, 12), "hela": ("cells", 2, 20)}
COMMAND_SIZES, QUICK_COMMAND_SIZES = (1280, 3072), (256, 512)
SMALLEST_LARGE = 1024  # px; goals are for large images, smaller ones only show where the curves begin

Runs = dict[str, list[tuple[float, int]]]


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
    if contender == DEFAULT:
        network = UNet(features=features).eval()
        chosen = machine.choose("cpu", network, precision="float32", threads=1, quiet=True)
        engine = openvino_engine.prediction_engine(chosen.engine)
        network = network.to(memory_format=chosen.memory_format)
        return network, OverlapTileInferer(strategy=chosen.strategy, engine=engine)
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


def measure(contender: str, size: int, width: int, keep: bool) -> tuple[float, int, NDArray[np.float32] | None]:
    """CPU seconds and bytes of one prediction, in a process of its own; its scores on demand."""
    torch.set_num_threads(1)
    network, predict = prepared(contender, width)
    network.eval()
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # start VmHWM anew
        warm_up = 188 if type(network) is UNet else 64
        network(image[:, :, :warm_up, :warm_up])
        if contender == DEFAULT:  # building the network in another engine is no part of predicting one more image
            predict(image[:, :, :32, :32], network)
        start = time.process_time()
        scores = predict(image, network)
        seconds = time.process_time() - start
        extra = resident("VmHWM") - before
    return seconds, extra, scores.numpy() if keep else None


def in_new_process(
    contender: str, size: int, width: int, keep: bool = False
) -> tuple[float, int, NDArray[np.float32] | None]:
    """``measure`` in a fresh process: one that inherits the imports, and nothing that this one has allocated."""
    with new_process() as pool:
        return pool.submit(measure, contender, size, width, keep).result()


def new_process() -> ProcessPoolExecutor:
    """A process that has the imports."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["monai.bundle", "monai.inferers", "unet_paper.inferer", "unet_paper.data.phantom"])
    return ProcessPoolExecutor(max_workers=1, mp_context=context)


def repeated(contenders: Sequence[str], size: int, width: int, repetitions: int) -> tuple[Runs, float]:
    """Interleaved repetitions of all contenders, and the largest error of ours, of the largest score.

    Raises:
        AssertionError: where our strategies differ by more than the tolerance.
    """
    runs: Runs = {name: [] for name in contenders}
    scores: dict[str, NDArray[np.float32]] = {}
    for repetition in range(repetitions):
        for name in contenders:
            print(f"{size} px, {repetition + 1}/{repetitions}: {name} ...", file=sys.stderr)
            keep = repetition == 0 and name in (ROWS, WHOLE, DEFAULT, TILES)
            seconds, extra, kept = in_new_process(name, size, width, keep)
            runs[name].append((seconds, extra))
            if kept is not None:
                scores[name] = kept
    scale = float(np.abs(scores[WHOLE]).max())
    error = max(float(np.abs(values - scores[WHOLE]).max()) / scale for values in scores.values())
    assert error <= TOLERANCE, f"{size} px: {error}, at most {TOLERANCE} is right"
    return runs, error


def rows_of(size: int, runs: Runs, error: float) -> list[Row]:
    """A line each contender: ratio is what row streaming takes of its time."""
    found = []
    extra_of_rows = median(extra for _, extra in runs[ROWS])
    for name, measured in runs.items():
        seconds = [second for second, _ in measured]
        extra = median(extra for _, extra in measured)
        row = Row(
            what=name,
            group=f"{size} x {size} px: time; ratio = rows / this",
            ratio=median(own[0] / other for own, other in zip(runs[ROWS], seconds, strict=True)),
            accuracy=f"{error:.1e} of the image in one piece" if name == ROWS else "",
            extra={"s per megapixel": median(seconds) / (size * size / 1e6), "extra MiB": f"{extra / 2**20:.0f}"},
            **benchmarking.summary(seconds),
        )
        if name in TIME_GOALS and size >= SMALLEST_LARGE:
            row.at_most(TIME_GOALS[name])
        found.append(row)
    default = Row(what="default settings / image in one piece", group=f"{size} x {size} px: default")
    pairs = zip(runs[DEFAULT], runs[WHOLE], strict=True)
    default.ratio = median(own[0] / whole[0] for own, whole in pairs)
    if size >= SMALLEST_LARGE:
        default.at_most(DEFAULT_GOAL)
    found.append(default)
    memory = Row(what="extra memory of rows / of the image in one piece", group=f"{size} x {size} px: memory")
    memory.ratio = extra_of_rows / median(extra for _, extra in runs[WHOLE])
    if size >= SMALLEST_LARGE:
        memory.at_most(MEMORY_GOAL)
    return [*found, memory]


def large(size: int, width: int) -> tuple[Row, tuple[float, int]]:
    """One run of row streaming on a large image: GiB beyond weights and image."""
    print(f"{size} px: {ROWS} ...", file=sys.stderr)
    seconds, extra, _ = in_new_process(ROWS, size, width)
    row = Row(
        what=f"{ROWS}, {width} features on the first level; ratio = extra GiB",
        group=f"{size} x {size} px: memory",
        median_s=seconds,
        ratio=extra / 2**30,
        extra={"s per megapixel": seconds / (size * size / 1e6), "extra MiB": f"{extra / 2**20:.0f}"},
    )
    row.at_most(LARGE_GOAL)
    return row, (seconds, extra)


def around(width: int, folder: Path, repetitions: int) -> Row:
    """Share of inference.yaml's time outside the network, on one EM phantom of 512 x 512 px."""
    images = folder / "images"
    if not images.is_dir():
        phantom.write(folder / "em", kind="em", size=512, frames=4)
        images.mkdir()
        tifffile.imwrite(images / "slice.tif", tifffile.imread(folder / "em" / "test-volume.tif")[0])
    torch.manual_seed(0)
    features = [width << level for level in range(5)]
    weights = folder / f"{width}.pt"
    checkpoint.save(UNet(features=features).state_dict(), weights)
    shares, seconds = [], []
    for _ in range(repetitions + 1):
        workflow = ConfigWorkflow(
            config_file=str(benchmarking.ROOT / "bundle" / "configs" / "inference.yaml"),
            workflow_type="infer",
            logging_file=False,
            dataset_dir=str(images),
            output_dir=str(folder / f"out_{width}"),
            overwrite=True,  # else all but the first repetition find their work done
            ckpt_path=str(weights),
            features=features,
            grey_mean=0.5,
            grey_std=0.17,
            cells_preset="isbi2012",
            strategy="tiles",  # each a call of the network
            engine="torch",
            device="cpu",
        )
        workflow.initialize()
        network = workflow.parser.get_parsed_content("network")
        inside = [0.0]
        network.register_forward_pre_hook(lambda *_, inside=inside: inside.append(time.process_time()))
        network.register_forward_hook(lambda *_, inside=inside: _add(inside))
        start = time.process_time()
        workflow.run()
        total = time.process_time() - start
        seconds.append(total - inside[0])
        shares.append(1 - inside[0] / total)
    # the first run of the process compiles and imports
    return Row(
        what=f"all but the network, {width} to {features[-1]} features; ratio = its share",
        group="inference.yaml, one image of 512 x 512 px",
        ratio=median(shares[1:]),
        **benchmarking.summary(seconds[1:]),
    )


def command_memory(weights: str, sizes: tuple[int, int], folder: Path, quick: bool) -> Row:
    """Bytes that inference.yaml takes for each further pixel, with released weights and all that it writes."""
    kind, magnified, goal = COMMANDS[weights]
    phantom.write(folder / kind, kind=kind, size=512, frames=4)
    pages = tifffile.imread(folder / kind / "test-volume.tif" if kind == "em" else folder / kind / "01" / "t000.tif")
    page = np.kron(pages[0] if kind == "em" else pages, np.ones((magnified, magnified), np.uint8))
    peaks = []
    for size in sizes:
        print(f"{size} px: inference.yaml, {weights}.pt ...", file=sys.stderr)
        image = folder / f"{weights}_{size}.tif"
        repeats = -(-size // page.shape[0])
        tifffile.imwrite(image, np.tile(page, (repeats, repeats))[:size, :size])
        with new_process() as pool:
            peaks.append(pool.submit(command_peak, str(image), weights, str(folder / f"{weights}_out_{size}")).result())
    row = Row(
        what=f"{weights}.pt, {sizes[0]} and {sizes[1]} px; ratio = bytes for each further pixel",
        group="inference.yaml: memory of a whole prediction",
        ratio=(peaks[1] - peaks[0]) / (sizes[1] ** 2 - sizes[0] ** 2),
        extra={"peak MiB": ", ".join(f"{peak / 2**20:.0f}" for peak in peaks)},
    )
    if not quick:
        row.at_most(goal)
    return row


def command_peak(image: str, weights: str, output_dir: str) -> int:
    """Largest resident set of this process while inference.yaml predicts an image."""
    Path("/proc/self/clear_refs").write_text("5")
    monai.bundle.run(
        run_id="run",
        config_file=str(benchmarking.ROOT / "bundle" / "configs" / "inference.yaml"),
        logging_file=False,
        dataset_dir=image,
        output_dir=output_dir,
        ckpt_path=str(benchmarking.ROOT / "bundle" / "models" / f"{weights}.pt"),
        threads=1,
        device="cpu",
    )
    return resident("VmHWM")


def _add(inside: list[float]) -> None:
    inside[0] += time.process_time() - inside.pop()


def plot(points: Mapping[str, Mapping[int, tuple[float, int]]]) -> dict[str, Any]:
    """Time and memory against the side of the image, a line each contender."""
    lines: list[dict[str, Any]] = [
        {name: [[size, values[column]] for size, values in sizes.items()] for name, sizes in points.items()}
        for column in (0, 1)
    ]
    memory = {name: [[size, extra / 2**20] for size, extra in line] for name, line in lines[1].items()}
    return {
        "title": "Time and memory against image size",
        "x": "side of the image in px",
        "panels": [{"y": "CPU seconds", "lines": lines[0]}, {"y": "extra memory in MiB", "lines": memory}],
    }


def main() -> int:
    """Measure, print and write."""
    arguments = benchmarking.parse_arguments(__doc__)
    report = benchmarking.Report(
        "inference", "Large images", packages=("monai", "numpy"), clock="CPU time of one thread", quick=arguments.quick
    )
    sizes, width, repetitions, large_size = ((512,), 2, 1, 600) if arguments.quick else ((512, 1024), WIDTH, 2, 4096)
    contenders = CONTENDERS[:5] if arguments.quick else CONTENDERS
    points: dict[str, dict[int, tuple[float, int]]] = {name: {} for name in contenders}
    for size in sizes:
        runs, error = repeated(contenders, size, width, repetitions)
        report.rows += rows_of(size, runs, error)
        for name, measured in runs.items():
            points[name][size] = (median(run[0] for run in measured), int(median(run[1] for run in measured)))
    row, points[ROWS][large_size] = large(large_size, width)
    report.rows.append(row)
    with tempfile.TemporaryDirectory() as folder:
        for features in (width,) if arguments.quick else (WIDTH, PAPER):
            row = around(features, Path(folder), 1 if arguments.quick or features == PAPER else 3)
            if features == PAPER:
                row.at_most(AROUND_GOAL)
            report.rows.append(row)
        for weights in ("model",) if arguments.quick else COMMANDS:
            given = QUICK_COMMAND_SIZES if arguments.quick else COMMAND_SIZES
            report.rows.append(command_memory(weights, given, Path(folder), arguments.quick))
    report.series["inference"] = plot(points)
    report.notes.append(f"The network of the large images has {width} to {width << 4} features.")
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
