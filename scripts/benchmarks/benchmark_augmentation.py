"""Times one augmented training sample against the chains a user could build instead, and asserts that it is right.

Every contender gets the same image, label and weight of 512 x 512 px and shifts, rotates and deforms them elastically,
image linearly interpolated, label and weight by nearest neighbour, mirrored at the edge; where the name says so, grey
values change too. One thread, CPU time.
"""

import sys
import time
from collections.abc import Callable

import benchmarking
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
    import elasticdeform

    arrays = [item[key][0].numpy() for key in KEYS]
    random = np.random.default_rng(0)
    return {
        "elasticdeform: deform_grid, rotate (no shift, geometry alone, 512 px)": lambda: elasticdeform.deform_grid(
            arrays, random.normal(0, 10, (2, 3, 3)), order=[1, 0, 0], mode="mirror", rotate=random.uniform(0, 360)
        )
    }


def kornia(item: Item) -> dict[str, Contender]:
    from kornia.augmentation import AugmentationSequential, RandomAffine, RandomBrightness, RandomElasticTransform
    from kornia.constants import DataKey

    chain = AugmentationSequential(
        RandomBrightness((0.9, 1.1), p=1),
        RandomAffine(180, translate=(0.5, 0.5), padding_mode="reflection", p=1),
        RandomElasticTransform(sigma=(10.0, 10.0), padding_mode="reflection", p=1),
        data_keys=[DataKey.INPUT, DataKey.MASK, DataKey.MASK],
        extra_args={DataKey.MASK: {"resample": "nearest"}},
    )
    image, label, weight = (item[key][None].float() for key in KEYS)
    return {
        "kornia: brightness + RandomAffine + RandomElasticTransform (two resamplings, 512 px)": lambda: chain(
            image, label, weight
        )
    }


def torchvision(item: Item) -> dict[str, Contender]:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    chain = v2.Compose(
        [v2.ColorJitter(0.1), v2.RandomAffine(180, translate=(0.5, 0.5)), v2.ElasticTransform(alpha=300.0, sigma=10.0)]
    )
    image, label, weight = (item[key] for key in KEYS)
    masks = tv_tensors.Mask(torch.stack((label[0].float(), weight[0])))
    return {
        "torchvision: jitter + RandomAffine + ElasticTransform (two resamplings, black fill, 512 px)": lambda: chain(
            tv_tensors.Image(image), masks
        )
    }


# peers, and what explains that some of them may not run here
PEERS: dict[Callable[[Item], dict[str, Contender]], str] = {
    batchgenerators: "",
    albumentations: "",
    kornia: "",
    elasticdeform: "its wheel is compiled for NumPy 1 and does not load under NumPy 2",
    torchvision: "not installed beside a CPU-only torch: its wheel is compiled for torch with CUDA and does not load",
}


def main() -> int:
    arguments = benchmarking.parse_arguments(__doc__)
    item = made_up_item()
    errors = assert_accurate(item, draws=1 if arguments.quick else 5)
    title = f"One augmented sample: image, label and weight, {SIZE} px to {INPUT_SIZE} / {OUTPUT_SIZE} px"
    report = benchmarking.Report(
        "augmentation", title, packages=("monai", "numpy", "scipy"), clock="CPU", quick=arguments.quick
    )
    calls = {**ours(item), **monai(item)}
    for peer, known in PEERS.items():
        calls |= report.peer(peer.__name__, lambda peer=peer: peer(item), known=known)
    rows = benchmarking.compare(calls, repetitions=2 if arguments.quick else 30, clock=time.process_time)
    rows[REFERENCE].at_least(GOAL)
    rows[OURS].accuracy = f"displacement {errors['displacement_px']:.1e} px, image {errors['image']:.1e}, labels equal"
    report.rows = [*rows.values(), *report.rows]
    report.notes = [
        "Ratio: time over ours. Accuracy, asserted in this run: displacement against `interpolate(bicubic)`, image and "
        "labels against SciPy's `map_coordinates`."
    ]
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
