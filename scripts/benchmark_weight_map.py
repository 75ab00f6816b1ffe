"""Times the weight map of Eq. 2 against SciPy's distance transforms, and asserts that it is right.

Label images of 512 x 512 px with 10, 100 and 400 separated cells, and 400 that touch. Contenders: one distance
transform of the whole image per cell, as the definition reads and most implementations do; one of a window around each
cell, as far as the border term reaches; and ours. Repetitions are interleaved, one of each contender after the other,
so that a slow moment of the machine hits all. One thread.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
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
GOALS = {"10 cells": 5.0, "100 cells": 25.0, "400 cells": 90.0}

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


def measure(calls: dict[str, Contender], repetitions: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each contender: median and quartiles of interleaved repetitions, and its ratio to ours."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    own = statistics.median(times[OURS])
    rows = {}
    for name, values in times.items():
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        rows[name] = {"median_ms": median, "lower_ms": lower, "upper_ms": upper, "ratio": median / own}
    return rows


def machine() -> dict[str, str | int]:
    """What the numbers belong to."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": 1,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("numpy", "scipy", "numba")},
    }


def markdown(results: dict[str, Any]) -> str:
    """The table, for people."""
    lines = [
        f"## Weight map (Eq. 2), {SIZE} x {SIZE}",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items())
        + f"; {results['repetitions']} interleaved repetitions.",
        "",
        "| cells | what | median ms | quartiles | times ours |",
        "|---|---|---|---|---|",
    ]
    for name, case in results["cases"].items():
        for what, row in case["rows"].items():
            lines.append(
                f"| {name} | {what} | {row['median_ms']:.1f} | {row['lower_ms']:.1f} .. {row['upper_ms']:.1f} "
                f"| {row['ratio']:.1f} |"
            )
    lines += ["", "Largest error in this run against the definition in float64:"]
    for name, case in results["cases"].items():
        lines.append(f"- {name}: paper {case['errors']['paper']:.1e}, falk2019 {case['errors']['falk2019']:.1e}")
    lines += ["", f'Goals, times faster than "{REFERENCE}":']
    for name, goal in GOALS.items():
        ratio = results["cases"][name]["rows"][REFERENCE]["ratio"]
        lines.append(f"- {name}: {ratio:.1f}, goal {goal:g}: " + ("met" if ratio >= goal else "**NOT MET**"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="of each contender (default 7)")
    parser.add_argument("--output_dir", type=Path, help="write weight_map.md and weight_map.json there, too")
    arguments = parser.parse_args()
    if arguments.repetitions < 2:
        parser.error(f"--repetitions={arguments.repetitions}: at least 2, for quartiles")

    images = {
        "10 cells": made_up_cells(10),
        "100 cells": made_up_cells(100),
        "400 cells": made_up_cells(400),
        "400 touching cells": made_up_cells(400, touching=True),
    }
    cases = {}
    for name, labels in images.items():
        print(f"{name} ...", file=sys.stderr)
        errors = assert_accurate(labels, name)
        cases[name] = {"errors": errors, "rows": measure(contenders(labels), arguments.repetitions)}
    results = {"machine": machine(), "repetitions": arguments.repetitions, "cases": cases, "goals": GOALS}
    table = markdown(results)
    print(table)
    if arguments.output_dir:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        (arguments.output_dir / "weight_map.md").write_text(table + "\n", encoding="utf-8")
        (arguments.output_dir / "weight_map.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
