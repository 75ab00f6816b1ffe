"""Times the weight map of Eq. 2 against SciPy's distance transforms, and asserts that it is right.

Label images of 512 x 512 px with 10, 100 and 400 separated cells, and 400 that touch. Contenders: one distance
transform of the whole image per cell, as the definition reads and most implementations do; one of a window around each
cell, as far as the border term reaches; and ours. One thread, CPU time.
"""

import sys
import time
from collections.abc import Callable

import benchmarking
import numpy as np
import scipy.ndimage
from benchmarking import Row
from numpy.typing import NDArray

from unet_paper.weight_map import weight_map, weight_map_falk2019

SIZE = 512
W0, SIGMA = 10.0, 5.0
CLASS_WEIGHTS = (0.7, 1.6)
# beyond it 10 exp(-d^2 / (2 5^2)) is below 1e-7
REACH = 31
TOLERANCE = 2e-6
OURS = "unet_paper: weight_map"
REFERENCE = "SciPy: one distance transform per cell"
WINDOWED = f"SciPy: one distance transform per cell, window of {REACH} px around it"
# cells, do they touch, times faster than REFERENCE
CASES = ((10, False, 5.0), (100, False, 25.0), (400, False, 90.0), (400, True, 90.0))
# "nearly flat in the number of cells", which grows 40-fold
GROWTH = 2.0

Labels = NDArray[np.int32]
Contender = Callable[[], NDArray[np.floating]]


def made_up_cells(count: int, touching: bool = False) -> Labels:
    """Cells in rows and columns: disks with a gap between them or, touching, their whole squares with wavy sides."""
    columns = int(np.ceil(np.sqrt(count)))
    pitch = SIZE / columns
    y, x = np.indices((SIZE, SIZE), dtype=float)
    if touching:
        y, x = y + 3 * np.sin(x / 5), x + 3 * np.sin(y / 7)
    row, column = (np.clip(v // pitch, 0, columns - 1).astype(int) for v in (y, x))
    cells = row * columns + column + 1
    radius = np.hypot(y - (row + 0.5) * pitch, x - (column + 0.5) * pitch)
    inside = (cells <= count) & (touching | (radius < min(0.42 * pitch, pitch / 2 - 2)))
    return np.where(inside, cells, 0).astype(np.int32)


def eq2(labels: Labels, d1: NDArray[np.float64], d2: NDArray[np.float64]) -> NDArray[np.float64]:
    background, cell = CLASS_WEIGHTS
    return np.where(labels > 0, cell, background) + W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2))


def whole_image_distances(labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    d1, d2 = np.full((2, *labels.shape), np.inf)
    for cell in np.unique(labels[labels > 0]):
        keep_two_nearest(d1, d2, scipy.ndimage.distance_transform_edt(labels != cell))
    return d1, d2


def windowed_distances(labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    d1, d2 = np.full((2, *labels.shape), np.inf)
    for cell, box in enumerate(scipy.ndimage.find_objects(labels), start=1):
        if box is not None:
            window = tuple(slice(max(side.start - REACH, 0), side.stop + REACH) for side in box)
            keep_two_nearest(d1[window], d2[window], scipy.ndimage.distance_transform_edt(labels[window] != cell))
    return d1, d2


def keep_two_nearest(d1: NDArray[np.float64], d2: NDArray[np.float64], distance: NDArray[np.float64]) -> None:
    np.minimum(d2, np.maximum(d1, distance), out=d2)
    np.minimum(d1, distance, out=d1)


def falk2019(labels: Labels, d1: NDArray[np.float64], d2: NDArray[np.float64]) -> NDArray[np.float64]:
    background = 0.1 + 0.9 * np.exp(-(d1**2) / (2 * 10**2)) + 50 * np.exp(-((d1 + d2) ** 2) / (2 * 6**2))
    return np.where(labels > 0, 1.0, background)


def contenders(labels: Labels) -> dict[str, Contender]:
    return {
        OURS: lambda: weight_map(labels, w0=W0, sigma=SIGMA, class_weights=CLASS_WEIGHTS),
        WINDOWED: lambda: eq2(labels, *windowed_distances(labels)).astype(np.float32),
        REFERENCE: lambda: eq2(labels, *whole_image_distances(labels)).astype(np.float32),
    }


def assert_accurate(labels: Labels, name: str) -> dict[str, float]:
    """Largest error of both presets against the definition, in float64, from whole-image distance transforms.

    That of falk2019 is relative where the weight is above 1: at 50, float32 itself resolves 4e-6.

    Raises:
        AssertionError: where one is above the tolerance.
    """
    distances = whole_image_distances(labels)
    found = weight_map(labels, w0=W0, sigma=SIGMA, class_weights=CLASS_WEIGHTS)
    expected = falk2019(labels, *distances)
    errors = {
        "paper": float(np.abs(found - eq2(labels, *distances)).max()),
        "falk2019": float((np.abs(weight_map_falk2019(labels) - expected) / np.maximum(expected, 1)).max()),
    }
    assert max(errors.values()) <= TOLERANCE, f"{name}: {errors}, at most {TOLERANCE} is right"
    return errors


def rows_of(count: int, touching: bool, goal: float, repetitions: int) -> list[Row]:
    """Contenders on one label image; ratios are times over ours."""
    labels = made_up_cells(count, touching)
    group = f"{count} touching cells" if touching else f"{count} cells"
    errors = assert_accurate(labels, group)
    found = benchmarking.compare(contenders(labels), repetitions, group=group, clock=time.process_time)
    found[REFERENCE].at_least(goal)
    found[OURS].accuracy = ", ".join(f"{preset} {error:.1e}" for preset, error in errors.items())
    return list(found.values())


def growth(rows: list[Row]) -> Row:
    """How our time depends on the number of cells: the slowest case over the fastest."""
    medians = [row.median_s for row in rows if row.what == OURS and row.median_s is not None]
    row = Row(what="unet_paper: the slowest of these cases over the fastest", ratio=max(medians) / min(medians))
    row.group = "Time and number of cells"
    row.at_most(GROWTH)
    return row


def main() -> int:
    arguments = benchmarking.parse_arguments(__doc__)
    title = f"Weight map (Eq. 2) of {SIZE} x {SIZE} px"
    report = benchmarking.Report(
        "weight_map", title, packages=("numpy", "scipy", "numba"), clock="CPU", quick=arguments.quick
    )
    for count, touching, goal in CASES[:1] if arguments.quick else CASES:
        print(f"{count} cells ...", file=sys.stderr)
        report.rows += rows_of(count, touching, goal, repetitions=2 if arguments.quick else 7)
    if not arguments.quick:
        report.rows.append(growth(report.rows))
    report.notes = [
        "Ratio: time over ours. Accuracy: largest error against the definition in float64, asserted to be at most "
        f"{TOLERANCE:g}; that of falk2019, whose weights reach 50, relative where they are above 1."
    ]
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
