"""Times SEG of the Cell Tracking Challenge against py-ctcmetrics, on made-up frames of the size of the real ones."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import tifffile
from ctc_metrics.metrics import seg
from ctc_metrics.utils.representations import match

from unet_paper.metrics.ctc import LabelImage, ctc_seg

Result = TypeVar("Result")


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


def seconds(function: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """What a function returns, and the median of its times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def ctc_rows(frames: int = 30, size: int = 512, repeats: int = 3) -> list[dict[str, str | float]]:
    """Our time for ``ctc_seg``, that of py-ctcmetrics, which scores files only, and their ratio.

    The first row is the scoring alone, with the time to read the files taken off that of py-ctcmetrics; in the second
    both read the same uncompressed files.

    Args:
        frames: number of frames.
        size: height and width of a frame in px.
        repeats: runs of which the median time is taken.

    Returns:
        Rows with the keys metric, ours_s, other (the name of what is compared with), other_s and ratio.

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
        rows: list[dict[str, str | float]] = []
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
                }
            )
    return rows


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30, help="number of frames (30)")
    parser.add_argument("--size", type=int, default=512, help="height and width of a frame in px (512)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median time is taken (3)")
    arguments = parser.parse_args()
    print("| metric | ours | other | time | ratio |\n|---|---|---|---|---|")
    for row in ctc_rows(arguments.frames, arguments.size, arguments.repeats):
        print("| {metric} | {ours_s:.3f} s | {other} | {other_s:.3f} s | {ratio:.1f} |".format(**row))


if __name__ == "__main__":
    main()
