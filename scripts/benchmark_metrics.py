"""Times the ISBI 2012 metrics on a made-up EM stack, one thread, against what can be installed instead."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from unet_paper.metrics.em_kernels import relax
from unet_paper.metrics.pixel_error import pixel_error
from unet_paper.metrics.rand_error import rand_error
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import warping_error

THRESHOLD = 0.5


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


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median CPU time of some runs, all of one thread: other work on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def scikit_image_segments(probability: NDArray[np.float32]) -> NDArray[np.int32]:
    """Components of the map regrown to 1-px lines with scikit-image, which floods in another order."""
    segments: NDArray[np.int32] = ndimage.label(probability > THRESHOLD)[0]
    regrown: NDArray[np.int32] = watershed(np.zeros(segments.shape), segments, connectivity=1, watershed_line=True)
    return regrown


def em_rows(slices: int = 30, size: int = 512, repeats: int = 3) -> list[dict[str, str | float]]:
    """One row per EM metric, at one threshold and as a sweep, with our time and that of another way to it.

    No package offers the warping error: its row compares with the same relaxation run by the Python interpreter, on one
    slice. scikit-image's Rand and information scores of thinned segments are near V_rand and V_info, not equal.

    Args:
        slices: number of slices.
        size: height and width of a slice in px.
        repeats: runs of which the median time is taken; sweeps run once.

    Returns:
        Rows with the keys metric, ours_s, theirs_s, ratio and other (the name of what is compared with).
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
        warping_error: ("relaxation in plain Python, 1 slice, scaled", slices * seconds(interpreted, 1)),
        v_rand: ("scikit-image watershed, adapted_rand_error", seconds(scikit_image_rand, repeats)),
        v_info: ("scikit-image watershed, variation_of_information", seconds(scikit_image_information, repeats)),
    }
    rows: list[dict[str, str | float]] = []
    for metric in (warping_error, v_rand, v_info, rand_error, pixel_error):
        metric(maps[:1], labels[:1], threshold=THRESHOLD)  # compiles
        for sweep, ours in ((False, partial(metric, threshold=THRESHOLD)), (True, metric)):
            row: dict[str, str | float] = {
                "metric": f"{metric.__name__}, {slices} x {size} x {size}, {'sweep' if sweep else 'one threshold'}",
                "ours_s": seconds(partial(ours, maps, labels), 1 if sweep else repeats),
            }
            if metric in others and not sweep:
                other, theirs_s = others[metric]
                row |= {"other": other, "theirs_s": theirs_s, "ratio": theirs_s / float(row["ours_s"])}
            rows.append(row)
    return rows


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=30, help="number of slices (30)")
    parser.add_argument("--size", type=int, default=512, help="height and width of a slice in px (512)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median time is taken (3)")
    arguments = parser.parse_args()
    print("| metric | ours | other | time | ratio |\n|---|---|---|---|---|")
    for row in em_rows(arguments.slices, arguments.size, arguments.repeats):
        other = f"{row['other']} | {row['theirs_s']:.3f} s | {row['ratio']:.1f}" if "other" in row else "| |"
        print(f"| {row['metric']} | {row['ours_s']:.3f} s | {other} |")


if __name__ == "__main__":
    main()
