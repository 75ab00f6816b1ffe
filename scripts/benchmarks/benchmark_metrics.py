"""Times the metrics of both challenges on made-up data, against what can be installed instead.

The ISBI 2012 scores of a stack as large as the challenge's are compared with the way to something like them through
scikit-image; no package offers the warping error, so that its row compares with the same relaxation run by the Python
interpreter. SEG of the Cell Tracking Challenge is compared with py-ctcmetrics, which scores files only. One thread, CPU
time.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import benchmarking
import numpy as np
import tifffile
from benchmarking import Row
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from unet_paper.metrics.ctc import LabelImage, ctc_seg
from unet_paper.metrics.pixel_error import pixel_error
from unet_paper.metrics.rand_error import rand_error
from unet_paper.metrics.v_rand import v_info, v_rand
from unet_paper.metrics.warping_error import warping_error
from unet_paper.metrics.warping_kernels import relax

THRESHOLD = 0.5
# what Fiji's Trainable Segmentation plugin took for 30 x 512 x 512 at one threshold, as measured elsewhere
FIJI = {"warping_error": "1.0 to 1.7 s", "v_rand": "5.5 to 6.6 s"}
GOALS_S = {"warping_error": 0.3, "v_rand": 1.2}
GOAL_CTC = 8.0
TOLERANCE_CTC = 1e-12
SLICES, SIZE = 30, 512


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


def em_peers(maps: NDArray[np.float32], labels: NDArray[np.uint8]) -> dict[str, dict[str, Callable[[], object]]]:
    """Other ways to EM metrics, by metric.

    scikit-image's Rand and information scores of thinned segments are near V_rand and V_info, not equal.
    """
    cells = [ndimage.label(label)[0] for label in labels]

    def scikit_image(score: Callable[..., object]) -> None:
        for probability, cell in zip(maps, cells, strict=True):
            score(cell, scikit_image_segments(probability), ignore_labels=(0,))

    return {
        "v_rand": {"scikit-image: watershed, adapted_rand_error": partial(scikit_image, adapted_rand_error)},
        "v_info": {
            "scikit-image: watershed, variation_of_information": partial(scikit_image, variation_of_information)
        },
    }


def em_rows(slices: int, size: int, repetitions: int) -> list[Row]:
    """EM metrics at one threshold, beside another way to them, then over all thresholds."""
    maps, labels = make_stack(slices, size)
    peers = em_peers(maps, labels)
    rows: list[Row] = []
    for metric in (warping_error, v_rand, v_info, rand_error, pixel_error):
        name = metric.__name__
        group = f"{name} of {slices} x {size} x {size} px"
        own, sweep = f"unet_paper: {name} at one threshold", f"unet_paper: {name} over all thresholds"
        metric(maps[:1], labels[:1], threshold=THRESHOLD)  # compiles
        calls = {own: partial(metric, maps, labels, threshold=THRESHOLD), **peers.get(name, {})}
        found = timed(calls, repetitions, group)
        if name in GOALS_S and (slices, size) == (SLICES, SIZE):
            found[own].within(GOALS_S[name])
        found |= timed({sweep: partial(metric, maps, labels)}, 1, group)
        found[sweep].ratio = None
        rows += found.values()
        if name in FIJI:
            rows.append(Row(what=f"Fiji, Trainable Segmentation: {FIJI[name]}, measured elsewhere", group=group))
        if metric is warping_error:
            rows.append(interpreted(maps, labels, found[own], group))
    return rows


def interpreted(maps: NDArray[np.float32], labels: NDArray[np.uint8], own: Row, group: str) -> Row:
    """The relaxation of the warping error by the Python interpreter, one slice, scaled to all."""
    what = "relaxation in plain Python, one slice scaled to all"
    call = partial(relax.py_func, maps[0], labels[0] > 0, THRESHOLD)
    row = timed({what: call}, 1, group)[what]
    assert row.median_s is not None
    assert own.median_s is not None
    row.median_s *= len(maps)
    row.ratio = row.median_s / own.median_s
    return row


def timed(calls: dict[str, Callable[[], object]], repetitions: int, group: str) -> dict[str, Row]:
    return benchmarking.compare(calls, repetitions, group=group, clock=time.process_time, warm_up=0)


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


def ctc_rows(report: benchmarking.Report, frames: int, size: int, repetitions: int) -> list[Row]:
    """``ctc_seg`` beside py-ctcmetrics, which scores files only; both read the same uncompressed files.

    Raises:
        AssertionError: if the two do not agree on the score.
    """
    predictions, references = make_frames(frames, size)
    group = f"SEG of {frames} x {size} x {size} px"
    ours, theirs = "unet_paper: ctc_seg, files read", "py-ctcmetrics, files read"
    with tempfile.TemporaryDirectory() as folder:
        paths = [(Path(folder, f"reference{n}.tif"), Path(folder, f"prediction{n}.tif")) for n in range(frames)]
        for pair, images in zip(paths, zip(references, predictions, strict=True), strict=True):
            for path, image in zip(pair, images, strict=True):
                tifffile.imwrite(path, image)

        def own() -> float:
            return ctc_seg([tifffile.imread(path) for _, path in paths], [tifffile.imread(path) for path, _ in paths])

        peers = report.peer("py-ctcmetrics", lambda: {theirs: partial(py_ctcmetrics(), paths)}, group=group)
        rows = timed({ours: own, **peers}, repetitions, group)
        if theirs in rows:
            difference = abs(own() - float(peers[theirs]()))
            assert difference <= TOLERANCE_CTC, f"ctc_seg differs from py-ctcmetrics by {difference}"
            rows[ours].accuracy = f"{difference:.1e}"
            rows[theirs].at_least(GOAL_CTC)
    return list(rows.values())


def py_ctcmetrics() -> Callable[[list[tuple[Path, Path]]], float]:
    """SEG of (reference, prediction) files by py-ctcmetrics."""
    from ctc_metrics.metrics import seg
    from ctc_metrics.utils.representations import match

    def score(paths: list[tuple[Path, Path]]) -> float:
        matches = [match(str(reference), str(prediction)) for reference, prediction in paths]
        return float(seg([found[0] for found in matches], [found[4] for found in matches]))

    return score


def main() -> int:
    arguments = benchmarking.parse_arguments(__doc__)
    packages = ("numpy", "scipy", "numba", "scikit-image")
    report = benchmarking.Report("metrics", "Metrics", packages=packages, clock="CPU", quick=arguments.quick)
    sizes = (2, 128, 1) if arguments.quick else (SLICES, SIZE, 3)
    report.rows += [*em_rows(*sizes), *ctc_rows(report, *sizes)]
    report.notes = [
        "Ratio: time over ours at one threshold. scikit-image's scores are near ours, not equal. Accuracy of SEG: "
        f"difference from py-ctcmetrics, asserted to be at most {TOLERANCE_CTC:g}."
    ]
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
