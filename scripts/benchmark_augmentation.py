"""Times one augmented training sample against the chains a user could build instead, and asserts that it is right.

Every contender gets the same image, label and weight of 512 x 512 px and shifts, rotates and deforms them elastically,
image linearly interpolated, label and weight by nearest neighbour, mirrored at the edge; where the name says so, grey
values change too. Repetitions are interleaved, one of each contender after the other, so that a slow moment of the
machine hits all.
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
import torch
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandRotated,
    RandShiftIntensityd,
)
from torch.nn import functional

from unet_paper.elastic_deformation import RandElasticDeformation, RandElasticDeformationd
from unet_paper.grey_values import RandGreyValuesd

SIZE, INPUT_SIZE, OUTPUT_SIZE = 512, 572, 388
KEYS, MODES = ("image", "label", "weight"), ("bilinear", "nearest", "nearest")
GOAL = 15.0
OURS = "unet_paper: grey values + one grid (shift, rotation, elastic)"
REFERENCE = "MONAI: shift, contrast + Rand2DElasticd (rotates, shifts) + crop"

Item = dict[str, torch.Tensor]
Contender = Callable[[], object]


def made_up_item(seed: int = 0) -> Item:
    """Smooth texture, label of its brighter half and a weight, each (1, 512, 512)."""
    texture = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 3)
    texture = (texture - texture.min()) / np.ptp(texture)
    label = texture > np.median(texture)
    arrays = {"image": texture.astype(np.float32), "label": label.astype(np.int32), "weight": label + np.float32(1)}
    return {key: torch.from_numpy(array[None]) for key, array in arrays.items()}


def assert_accurate(item: Item, draws: int = 5) -> dict[str, float]:
    """Largest errors against independent implementations.

    Returns:
        error of the displacement in px, against ``interpolate``; of image values in [0, 1] against SciPy; share of
        label pixels that differ from SciPy's nearest ones, of those further than 1e-3 px from a tie.

    Raises:
        AssertionError: where one is beyond its bound.
    """
    transform = RandElasticDeformation(input_size=INPUT_SIZE, output_size=OUTPUT_SIZE).set_random_state(seed=0)
    errors = {"displacement_px": 0.0, "image": 0.0, "label": 0.0}
    offset = np.arange(INPUT_SIZE) - (INPUT_SIZE - 1) / 2
    v = np.stack(np.meshgrid(offset, offset, indexing="ij"))
    inner = slice((INPUT_SIZE - OUTPUT_SIZE) // 2, (INPUT_SIZE + OUTPUT_SIZE) // 2)
    image, label = item["image"], torch.arange(SIZE * SIZE, dtype=torch.int32).view(1, SIZE, SIZE)
    for _ in range(draws):
        tile = transform(image)[0].numpy()
        sampled = transform(label, label=True, randomize=False)[0].numpy()
        drawn = transform.deformation
        assert drawn is not None
        control = torch.as_tensor(drawn.control)[None]
        elastic = functional.interpolate(control, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=True)[0]
        errors["displacement_px"] = max(
            errors["displacement_px"], (transform.displacement() - elastic).abs().max().item()
        )
        positions = np.array(drawn.center)[:, None, None] + np.einsum("ab,bij->aij", drawn.matrix, v) + elastic.numpy()
        expected = scipy.ndimage.map_coordinates(image[0].double().numpy(), positions, order=1, mode="mirror")
        errors["image"] = max(errors["image"], float(np.abs(tile - expected).max()))
        positions = positions[:, inner, inner]
        nearest = scipy.ndimage.map_coordinates(label[0].numpy(), positions, order=0, mode="mirror")
        clear = (np.abs(positions - np.floor(positions) - 0.5) > 1e-3).all(axis=0)
        errors["label"] = max(errors["label"], float((sampled != nearest)[clear].mean()))
    assert errors["displacement_px"] <= 1e-4, errors
    assert errors["image"] <= 1e-4, errors
    assert errors["label"] == 0, errors
    return errors


def ours(item: Item) -> dict[str, Contender]:
    both = Compose([RandGreyValuesd(), RandElasticDeformationd(KEYS, input_size=INPUT_SIZE, output_size=OUTPUT_SIZE)])
    geometry = RandElasticDeformationd(KEYS, input_size=INPUT_SIZE, output_size=OUTPUT_SIZE)
    bicubic = RandElasticDeformationd(KEYS, input_size=INPUT_SIZE, output_size=OUTPUT_SIZE, image_mode="bicubic")
    return {
        OURS: lambda: both(item),
        "unet_paper: the grid alone": lambda: geometry(item),
        "unet_paper: the grid alone, image bicubic": lambda: bicubic(item),
    }


def monai(item: Item) -> dict[str, Contender]:
    """MONAI's chains; ``Rand2DElasticd`` cannot express the paper's field and does the same kind of work."""
    grey = [RandShiftIntensityd("image", offsets=0.1, prob=1), RandAdjustContrastd("image", prob=1, gamma=(0.8, 1.2))]
    elastic = {
        "spacing": (INPUT_SIZE // 2, INPUT_SIZE // 2),
        "magnitude_range": (10, 10),
        "prob": 1,
        "spatial_size": (INPUT_SIZE, INPUT_SIZE),
        "mode": MODES,
        "padding_mode": "reflection",
    }
    crop = CenterSpatialCropd(KEYS[1:], (OUTPUT_SIZE, OUTPUT_SIZE))
    at_once = Rand2DElasticd(KEYS, rotate_range=np.pi, translate_range=SIZE // 2, **elastic)
    rotation = RandRotated(KEYS, range_x=np.pi, prob=1, mode=MODES, padding_mode="reflection")
    one = Compose([*grey, at_once, crop])
    two = Compose([*grey, rotation, Rand2DElasticd(KEYS, translate_range=SIZE // 2, **elastic), crop])
    return {
        REFERENCE: lambda: one(item),
        "MONAI: shift, contrast + RandRotated + Rand2DElasticd + crop (two resamplings)": lambda: two(item),
    }


def batchgenerators(item: Item) -> dict[str, Contender]:
    from batchgenerators.augmentations.spatial_transformations import augment_spatial

    image = item["image"][None].numpy()
    others = torch.cat((item["label"], item["weight"]))[None].numpy()
    return {
        "batchgenerators: augment_spatial (geometry alone)": lambda: augment_spatial(
            image,
            others,
            patch_size=(INPUT_SIZE, INPUT_SIZE),
            patch_center_dist_from_border=0,
            do_elastic_deform=True,
            alpha=(0.0, 900.0),
            sigma=(9.0, 13.0),
            do_rotation=True,
            do_scale=False,
            border_mode_data="reflect",
            border_mode_seg="reflect",
            order_data=1,
            order_seg=0,
        )
    }


def albumentations(item: Item) -> dict[str, Contender]:
    import albumentations
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    chain = albumentations.Compose(
        [
            albumentations.RandomBrightnessContrast(p=1),
            albumentations.Affine(rotate=(-180, 180), translate_percent=0.5, border_mode=cv2.BORDER_REFLECT_101, p=1),
            albumentations.ElasticTransform(alpha=300, sigma=10, border_mode=cv2.BORDER_REFLECT_101, p=1),
        ]
    )
    image, label, weight = (item[key][0].numpy() for key in KEYS)
    masks = [label.astype(np.uint8), weight]
    return {
        "albumentations: brightness + Affine + ElasticTransform (two resamplings, 512 px)": lambda: chain(
            image=image, masks=masks
        )
    }


def elasticdeform(item: Item) -> dict[str, Contender]:
    try:
        import elasticdeform
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise ImportError(f"its compiled part does not load under NumPy {np.__version__} ({error})") from error

    arrays = [item[key][0].numpy() for key in KEYS]
    random = np.random.default_rng(0)
    return {
        "elasticdeform: deform_grid, rotate (no shift, geometry alone, 512 px)": lambda: elasticdeform.deform_grid(
            arrays, random.normal(0, 10, (2, 3, 3)), order=[1, 0, 0], mode="mirror", rotate=random.uniform(0, 360)
        )
    }


def contenders(item: Item) -> tuple[dict[str, Contender], dict[str, str]]:
    """All that run here, each tried once, and those that do not, with the reason."""
    found, failed = {**ours(item), **monai(item)}, {}
    for peer in (batchgenerators, albumentations, elasticdeform):
        try:
            offered = peer(item)
            for call in offered.values():
                call()
            found.update(offered)
        # a peer may fail in any way at import or use; it is reported as not measured, never left out
        except Exception as error:
            failed[peer.__name__] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, failed


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
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "monai", "numpy", "scipy")},
    }


def markdown(results: dict[str, Any]) -> str:
    """The table, for people."""
    lines = [
        "## One augmented sample: image, label, weight, 512 x 512 -> 572 / 388",
        "",
        ", ".join(f"{key} {value}" for key, value in results["machine"].items())
        + f"; {results['repetitions']} interleaved repetitions.",
        "",
        "| what | median ms | quartiles | times ours |",
        "|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        lines.append(
            f"| {name} | {row['median_ms']:.1f} | {row['lower_ms']:.1f} .. {row['upper_ms']:.1f} | {row['ratio']:.1f} |"
        )
    lines += [f"| {name} | **NOT MEASURED** | {reason} | - |" for name, reason in results["not_measured"].items()]
    errors = results["errors"]
    lines += [
        "",
        f"Largest errors in this run: displacement {errors['displacement_px']:.1e} px against `interpolate(bicubic)`, "
        f"image {errors['image']:.1e} against SciPy, labels equal to SciPy's nearest pixels.",
        f'Goal, {results["goal"]:g} times faster than "{REFERENCE}": '
        + ("met." if results["rows"][REFERENCE]["ratio"] >= results["goal"] else "**NOT MET**."),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30, help="of each contender (default 30)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--output_dir", type=Path, help="write augmentation.md and augmentation.json there, too")
    arguments = parser.parse_args()
    if arguments.repetitions < 2:
        parser.error(f"--repetitions={arguments.repetitions}: at least 2, for quartiles")
    torch.set_num_threads(arguments.threads)

    item = made_up_item()
    errors = assert_accurate(item)
    found, failed = contenders(item)
    results = {
        "machine": machine(),
        "repetitions": arguments.repetitions,
        "rows": measure(found, arguments.repetitions),
        "not_measured": failed,
        "errors": errors,
        "goal": GOAL,
    }
    table = markdown(results)
    print(table)
    for name, reason in failed.items():
        print(f"NOT MEASURED: {name}: {reason}", file=sys.stderr)
    if arguments.output_dir:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        (arguments.output_dir / "augmentation.md").write_text(table + "\n", encoding="utf-8")
        (arguments.output_dir / "augmentation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
