"""Times the metrics of both challenges on made-up data, one thread, against what can be installed instead.

The ISBI 2012 scores of a stack as large as the challenge's are compared with the way to something like them through
scikit-image; no package offers the warping error, so that its row compares with the same relaxation run by the Python
interpreter. SEG of the Cell Tracking Challenge is compared with py-ctcmetrics, which scores files only.

    OMP_NUM_THREADS=1 python scripts/benchmark_metrics.py --output_dir runs/benchmarks
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from ctc_metrics.metrics import seg
from ctc_metrics.utils.representations import match
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from unet_paper.metrics.ctc import LabelImage, ctc_seg
from unet_paper.metrics.em_kernels import relax
from unet_paper.metrics.pixel_error import pixel_error
from unet_paper.metrics.rand_error import rand_error
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import warping_error

THRESHOLD = 0.5
# the time of Fiji's Trainable Segmentation plugin on 30 x 512 x 512 at one threshold, as measured elsewhere, in s
FIJI = {"warping_error": (1.0, 1.7), "v_rand": (5.5, 6.6)}
GOALS_S = {"warping_error": 0.3, "v_rand": 1.2}
GOAL_CTC = 8.0

Row = dict[str, Any]
Result = TypeVar("Result")


def seconds(function: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """What a function returns, and the median CPU time of its runs: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return result, statistics.median(times)


def make_stack(slices: int, size: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Maps and labels (slices, size, size): cells of about 40 px, 3 px of membrane, noise that opens and closes it."""
    random = np.random.default_rng(seed)
    pixels = np.stack(np.mgrid[:size, :size], axis=-1).reshape(-1, 2)
    maps, labels = [], []
    for _ in range(slices):
        cells = KDTree(random.uniform(0, size, (max(2, (size // 40) ** 2), 2)))
        owner = cells.query(pixels)[1].reshape(size, size)
        label = ndimage.maximum_filter(owner, 3) == ndimage.minimum_filter(owner, 3)
        label = ndimage.binary_erosion(label, border_value=1)
        noise = ndimage.gaussian_filter(random.standard_normal(label.shape), 1)
        maps.append(np.clip(ndimage.gaussian_filter(label.astype(float), 1) + 0.5 * noise, 0, 1).astype(np.float32))
        labels.append(label.astype(np.uint8))
    return np.stack(maps), np.stack(labels)


def scikit_image_segments(probability: NDArray[np.float32]) -> NDArray[np.int32]:
    """Components of the map regrown to 1-px lines with scikit-image, which floods in another order."""
    segments: NDArray[np.int32] = ndimage.label(probability > THRESHOLD)[0]
    regrown: NDArray[np.int32] = watershed(np.zeros(segments.shape), segments, connectivity=1, watershed_line=True)
    return regrown


def em_rows(slices: int = 30, size: int = 512, repeats: int = 3) -> list[Row]:
    """One row per EM metric, at one threshold and as a sweep, with our time and that of another way to it.

    scikit-image's Rand and information scores of thinned segments are near V_rand and V_info, not equal.

    Args:
        slices: number of slices.
        size: height and width of a slice in px.
        repeats: runs of which the median time is taken; sweeps run once.

    Returns:
        Rows with the keys metric, ours_s and, at one threshold, other (the name of what is compared with), other_s,
        ratio, and fiji_s, goal and met where there is a goal.
    """
    maps, labels = make_stack(slices, size)
    cells = [ndimage.label(label)[0] for label in labels]

    def interpreted() -> None:
        relax.py_func(maps[0].astype(np.float64), labels[0] > 0, THRESHOLD)

    def scikit_image_rand() -> list[float]:
        return [
            adapted_rand_error(cell, scikit_image_segments(p), ignore_labels=(0,))[0]
            for p, cell in zip(maps, cells, strict=True)
        ]

    def scikit_image_information() -> list[float]:
        return [
            variation_of_information(cell, scikit_image_segments(p), ignore_labels=(0,)).sum()
            for p, cell in zip(maps, cells, strict=True)
        ]

    others: dict[Callable[..., float], tuple[str, float]] = {
        warping_error: ("relaxation in plain Python, 1 slice, scaled", slices * seconds(interpreted, 1)[1]),
        v_rand: ("scikit-image watershed, adapted_rand_error", seconds(scikit_image_rand, repeats)[1]),
        v_info: ("scikit-image watershed, variation_of_information", seconds(scikit_image_information, repeats)[1]),
    }
    rows: list[Row] = []
    for metric in (warping_error, v_rand, v_info, rand_error, pixel_error):
        metric(maps[:1], labels[:1], threshold=THRESHOLD)  # compiles
        for sweep, ours in ((False, partial(metric, threshold=THRESHOLD)), (True, metric)):
            row: Row = {
                "metric": f"{metric.__name__}, {slices} x {size} x {size}, {'sweep' if sweep else 'one threshold'}",
                "ours_s": seconds(partial(ours, maps, labels), 1 if sweep else repeats)[1],
            }
            if metric in others and not sweep:
                other, other_s = others[metric]
                row |= {"other": other, "other_s": other_s, "ratio": other_s / row["ours_s"]}
            if metric.__name__ in GOALS_S and not sweep and (slices, size) == (30, 512):
                goal, fiji = GOALS_S[metric.__name__], FIJI[metric.__name__]
                row |= {"fiji_s": fiji, "goal": f"at most {goal} s", "met": row["ours_s"] <= goal}
            rows.append(row)
    return rows


def make_frames(number: int, size: int, seed: int = 0) -> tuple[list[LabelImage], list[LabelImage]]:
    """Frames (size, size) of about 18 touching cells, as DIC-C2DH-HeLa has, predicted a few pixels off."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    references, predictions = [], []
    for _ in range(number):
        centres = random.uniform(0, size, (18, 2))
        distances = np.stack([np.hypot(rows - y, columns - x) for y, x in centres])
        reference = np.where(distances.min(axis=0) < size / 8, distances.argmin(axis=0) + 1, 0).astype(np.uint16)
        references.append(reference)
        predictions.append(np.roll(reference, random.integers(-6, 7, 2), (0, 1)))
    return predictions, references


def ctc_rows(frames: int = 30, size: int = 512, repeats: int = 3) -> list[Row]:
    """Our time for ``ctc_seg``, that of py-ctcmetrics, which scores files only, and their ratio.

    The first row is the scoring alone, with the time to read the files taken off that of py-ctcmetrics; in the second
    both read the same uncompressed files.

    Args:
        frames: number of frames.
        size: height and width of a frame in px.
        repeats: runs of which the median time is taken.

    Returns:
        Rows with the keys metric, ours_s, other (the name of what is compared with), other_s, ratio, goal and met.

    Raises:
        AssertionError: if the two do not agree on the score.
    """
    predictions, references = make_frames(frames, size)
    with tempfile.TemporaryDirectory() as folder:
        paths = [(Path(folder, f"reference{n}.tif"), Path(folder, f"prediction{n}.tif")) for n in range(frames)]
        for pair, images in zip(paths, zip(references, predictions, strict=True), strict=True):
            for path, image in zip(pair, images, strict=True):
                tifffile.imwrite(path, image)

        def read() -> tuple[list[LabelImage], list[LabelImage]]:
            return [tifffile.imread(path) for _, path in paths], [tifffile.imread(path) for path, _ in paths]

        def theirs() -> float:
            matches = [match(str(reference), str(prediction)) for reference, prediction in paths]
            return float(seg([found[0] for found in matches], [found[4] for found in matches]))

        _, reading = seconds(read, repeats)
        score, other = seconds(theirs, repeats)
        rows: list[Row] = []
        for name, ours, off in (
            ("scoring alone", lambda: ctc_seg(predictions, references), reading),
            ("with reading", lambda: ctc_seg(*read()), 0.0),
        ):
            ours_score, ours_s = seconds(ours, repeats)
            if abs(ours_score - score) > 1e-12:
                raise AssertionError(f"ctc_seg={ours_score}: py-ctcmetrics says {score}")
            rows.append(
                {
                    "metric": f"ctc_seg, {frames} x {size} x {size}, {name}",
                    "ours_s": ours_s,
                    "other": "py-ctcmetrics",
                    "other_s": other - off,
                    "ratio": (other - off) / ours_s,
                    "goal": f"ratio at least {GOAL_CTC:g}",
                    "met": (other - off) / ours_s >= GOAL_CTC,
                }
            )
    return rows


def machine() -> dict[str, Any]:
    """What the times depend on."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    packages = ("numpy", "scipy", "numba", "scikit-image", "py-ctcmetrics")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": f"one (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})",
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def markdown(results: dict[str, Any]) -> str:
    """The results as a table, with the machine in the line above."""
    lines = ["CPU seconds. " + ", ".join(f"{name} {value}" for name, value in results["machine"].items()), ""]
    lines += ["| metric | ours | other | its time | ratio | Fiji | goal |", "|---|---|---|---|---|---|---|"]
    for row in results["rows"]:
        other = f"{row['other']} | {row['other_s']:.3f} s | {row['ratio']:.1f}" if "other" in row else "| |"
        fiji = "{:g} to {:g} s".format(*row["fiji_s"]) if "fiji_s" in row else ""
        goal = f"{row['goal']}: {'met' if row['met'] else 'MISSED'}" if "goal" in row else ""
        lines.append(f"| {row['metric']} | {row['ours_s']:.3f} s | {other} | {fiji} | {goal} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table as Markdown, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=30, help="number of slices and of frames (30)")
    parser.add_argument("--size", type=int, default=512, help="height and width in px (512)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median time is taken (3)")
    parser.add_argument("--output_dir", type=Path, help="write metrics.md and metrics.json there, too")
    arguments = parser.parse_args()
    sizes = (arguments.slices, arguments.size, arguments.repeats)
    results = {"machine": machine(), "rows": [*em_rows(*sizes), *ctc_rows(*sizes)]}
    table = markdown(results)
    print(table)
    if arguments.output_dir:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        (arguments.output_dir / "metrics.md").write_text(table + "\n", encoding="utf-8")
        (arguments.output_dir / "metrics.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
