"""Laws of RandElasticDeformation(d), and SciPy and torch.nn.functional.interpolate as independent references."""

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism
from torch.nn import functional

from unet_paper.elastic_deformation import Deformation, RandElasticDeformation, RandElasticDeformationd

STILL = {"std": 0.0, "shift": 0.0, "rotate": (0.0, 0.0)}


def reference_positions(deformation: Deformation, size: tuple[int, int]) -> np.ndarray:
    """(row, column) of every tile pixel in the image, written out from the module's formula."""
    control = torch.as_tensor(deformation.control)[None]
    elastic = functional.interpolate(control, size, mode="bicubic", align_corners=True)[0].numpy()
    v = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
    return np.array(deformation.center)[:, None, None] + np.einsum("ab,bij->aij", deformation.matrix, v) + elastic


def center_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = ((n - m) // 2 for n, m in zip(array.shape[-2:], size, strict=True))
    return array[..., top : top + size[0], left : left + size[1]]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).random(shape, dtype=np.float32))


# --- the elastic field


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_displacement_is_bicubic_interpolation_of_the_coarse_grid(h: int, w: int, knots: int, seed: int) -> None:
    control = np.random.default_rng(seed).normal(0, 10, (2, knots, knots))
    field = Deformation(center=(0, 0), matrix=np.eye(2), control=control).displacement((h, w))
    expected = functional.interpolate(torch.as_tensor(control)[None], (h, w), mode="bicubic", align_corners=True)[0]
    torch.testing.assert_close(field, expected, atol=1e-9, rtol=0)


def test_displacement_on_the_coarse_grid_lines_is_the_drawn_one() -> None:
    transform = RandElasticDeformation(input_size=(9, 13), output_size=(5, 9)).set_random_state(seed=1)
    transform.randomize((40, 40))
    assert transform.deformation is not None
    torch.testing.assert_close(transform.displacement()[:, ::4, ::6], torch.as_tensor(transform.deformation.control))


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_are_not_exchanged(axis: int) -> None:
    """A pull of 6 px along one axis, at the right edge's middle only, read off ramps on a non-square image."""
    control = np.zeros((2, 3, 3))
    control[axis, 1, 2] = 6
    transform = RandElasticDeformation(input_size=(21, 41), output_size=(21, 41))
    transform.deformation = Deformation(center=(30, 50), matrix=np.eye(2), control=control)
    rows, columns = np.meshgrid(np.arange(80.0), np.arange(100.0), indexing="ij")
    tile = transform(np.stack((rows, columns)), randomize=False)
    moved = tile - torch.as_tensor(np.stack((rows, columns))[:, 20:41, 30:71])
    expected = torch.zeros(2)
    expected[axis] = 6
    torch.testing.assert_close(moved[:, 10, 40], expected.double(), atol=1e-4, rtol=0)
    for row, column in ((0, 40), (20, 40), (10, 0), (10, 20), (0, 0)):
        torch.testing.assert_close(moved[:, row, column], torch.zeros(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[1 - axis], torch.zeros(21, 41).double(), atol=1e-4, rtol=0)


# --- the whole sampling grid, against SciPy


@pytest.mark.parametrize("image_size", [(70, 45), (33, 120), (9, 7)])
@pytest.mark.parametrize("seed", range(4))
def test_matches_scipy_with_mirror_boundary(image_size: tuple[int, int], seed: int) -> None:
    transform = RandElasticDeformation(input_size=(60, 48), output_size=(40, 28), scale=(0.7, 1.4), flip=True)
    transform.set_random_state(seed=seed)
    image = noise(1, *image_size, seed=seed)
    tile = transform(image)
    assert transform.deformation is not None
    positions = reference_positions(transform.deformation, (60, 48))
    expected = scipy.ndimage.map_coordinates(image[0].double().numpy(), positions, order=1, mode="mirror")
    np.testing.assert_allclose(tile[0].numpy(), expected, atol=5e-4)

    label = torch.arange(image_size[0] * image_size[1]).view(1, *image_size)
    sampled = transform(label, label=True, randomize=False)[0].numpy()
    inner = center_crop(positions, (40, 28))
    nearest = scipy.ndimage.map_coordinates(label[0].numpy(), inner, order=0, mode="mirror")
    clear = (np.abs(inner - np.floor(inner) - 0.5) > 1e-3).all(axis=0)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(sampled[clear], nearest[clear])


def test_bicubic_image_is_resampled_by_cubic_convolution() -> None:
    """Half a pixel to the right: taps -3/32, 19/32, 19/32, -3/32 (a = -3/4)."""
    transform = RandElasticDeformation(input_size=(1, 1), output_size=(1, 1), image_mode="bicubic")
    transform.deformation = Deformation(center=(2.0, 2.5), matrix=np.eye(2), control=np.zeros((2, 3, 3)))
    image = noise(1, 5, 6)
    expected = (19 * (image[0, 2, 2] + image[0, 2, 3]) - 3 * (image[0, 2, 1] + image[0, 2, 4])) / 32
    assert transform(image, randomize=False).item() == pytest.approx(expected.item(), abs=1e-5)


def test_image_is_mirrored_about_edge_pixels_any_distance() -> None:
    image = noise(1, 6, 9)
    transform = RandElasticDeformation(input_size=(56, 59), output_size=(56, 59), **STILL)
    expected = np.pad(image.numpy(), ((0, 0), (25, 25), (25, 25)), mode="reflect")
    np.testing.assert_allclose(transform(image).numpy(), expected, atol=1e-4)
    np.testing.assert_array_equal(transform(image, label=True).numpy(), expected)


# --- shift, rotation, scale, flip


@given(st.integers(30, 90), st.integers(30, 90), st.integers(0, 10), st.integers(0, 10), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_whole_pixel_shift_is_a_crop(h: int, w: int, top: int, left: int, margin: int) -> None:
    rows, columns = 20, 17
    transform = RandElasticDeformation(
        input_size=(rows, columns), output_size=(rows - 2 * margin, columns - 2 * margin)
    )
    transform.deformation = Deformation(
        center=(top + (rows - 1) / 2, left + (columns - 1) / 2), matrix=np.eye(2), control=np.zeros((2, 3, 3))
    )
    image = noise(2, h, w)
    crop = image[:, top : top + rows, left : left + columns]
    torch.testing.assert_close(transform(image, randomize=False), crop, atol=2e-5, rtol=0)
    inner = crop[:, margin : rows - margin, margin : columns - margin]
    assert torch.equal(transform(image, label=True, randomize=False), inner)


@pytest.mark.parametrize("image_size", [(512, 512), (520, 696), (301, 400)])
def test_without_any_motion_it_is_the_centre_crop(image_size: tuple[int, int]) -> None:
    """At full size: the pixels themselves for labels; images to 1e-4 px, which is 6e-5 between black and white."""
    image = noise(1, *image_size)
    transform = RandElasticDeformation(input_size=300, output_size=116, **STILL)
    top, left = ((n - 300) // 2 for n in image_size)
    crop = image[:, top : top + 300, left : left + 300]
    torch.testing.assert_close(transform(image), crop, atol=1e-4, rtol=0)
    assert torch.equal(transform(image, label=True), crop[:, 92:208, 92:208])


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotation_by_right_angles_is_rot90_of_the_centre_crop(quarter_turns: int) -> None:
    angle = 90.0 * quarter_turns
    image = noise(1, 50, 64)
    transform = RandElasticDeformation(input_size=20, output_size=12, std=0, shift=0, rotate=(angle, angle))
    expected = np.rot90(center_crop(image.numpy(), (20, 20)), quarter_turns, axes=(1, 2))
    np.testing.assert_allclose(transform(image).numpy(), expected, atol=2e-5)
    np.testing.assert_array_equal(transform(image, label=True).numpy(), center_crop(expected, (12, 12)))


def test_scale_magnifies() -> None:
    ramp = torch.arange(64.0).expand(1, 64, 64)
    transform = RandElasticDeformation(input_size=20, output_size=20, std=0, shift=0, rotate=(0, 0), scale=(2, 2))
    step = transform(ramp).diff(dim=2)
    torch.testing.assert_close(step, torch.full_like(step, 0.5), atol=1e-4, rtol=0)


def test_flip_yields_each_mirror_image_and_no_other() -> None:
    image = noise(1, 12, 12)
    transform = RandElasticDeformation(input_size=12, output_size=12, flip=True, **STILL).set_random_state(seed=0)
    views = {dims: image.flip(dims) for dims in ((), (1,), (2,), (1, 2))}
    seen = set()
    for _ in range(60):
        tile = transform(image, label=True)
        (match,) = (dims for dims, view in views.items() if torch.equal(tile, view))
        seen.add(match)
    assert seen == set(views)


# --- image, label and weight move together


def blobs(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    field = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 4)
    return scipy.ndimage.label(field > 0)[0].astype(np.int32)[None]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_one_field_for_image_label_and_weight(seed: int) -> None:
    label = blobs((90, 70), seed)
    item = {"image": (label > 0).astype(np.float32), "label": label, "weight": np.sqrt(label).astype(np.float32) + 1}
    deformed = RandElasticDeformationd(input_size=64, output_size=40).set_random_state(seed=seed)(item)
    sampled = deformed["label"].numpy()
    assert set(np.unique(sampled)) <= set(np.unique(label))
    np.testing.assert_array_equal(deformed["weight"].numpy(), np.sqrt(sampled).astype(np.float32) + 1)
    image = center_crop(deformed["image"].numpy(), (40, 40))
    # where the interpolated mask is clearly one class, so is the nearest pixel
    np.testing.assert_array_equal(sampled[image > 0.751] > 0, True)
    np.testing.assert_array_equal(sampled[image < 0.249] > 0, False)


def test_label_and_weight_take_the_same_pixel_whatever_their_dtype() -> None:
    """At full size, where some of the 150,544 points lie within rounding of the middle between two pixels."""
    index = torch.arange(512 * 512).view(1, 512, 512)
    item = {"image": noise(1, 512, 512), "label": index.int(), "weight": index.float(), "second": index.double()}
    transform = RandElasticDeformationd(tuple(item)).set_random_state(seed=0)
    for _ in range(3):
        deformed = transform(item)
        assert torch.equal(deformed["label"].float(), deformed["weight"])
        assert torch.equal(deformed["label"].double(), deformed["second"])


def test_dictionary_and_array_version_agree() -> None:
    image, label = noise(1, 60, 80), torch.as_tensor(blobs((60, 80)))
    deformed = RandElasticDeformationd(("image", "label"), input_size=50, output_size=30).set_random_state(seed=7)(
        {"image": image, "label": label}
    )
    transform = RandElasticDeformation(input_size=50, output_size=30).set_random_state(seed=7)
    assert torch.equal(transform(image), deformed["image"])
    assert torch.equal(transform(label, label=True, randomize=False), deformed["label"])


def test_other_keys_and_the_input_stay_untouched() -> None:
    item: dict[str, Any] = {"image": noise(1, 30, 30), "label": torch.ones(1, 30, 30), "name": "a"}
    kept = item["image"].clone()
    deformed = RandElasticDeformationd(input_size=20, output_size=8, allow_missing_keys=True)(item)
    assert deformed["name"] == "a"
    assert "weight" not in deformed
    assert torch.equal(item["image"], kept)
    with pytest.raises(KeyError, match="weight"):
        RandElasticDeformationd(input_size=20, output_size=8)(item)


# --- what is drawn


def draws(count: int, image_size: tuple[int, int] = (100, 200), **options: Any) -> list[Deformation]:
    transform = RandElasticDeformation(**options).set_random_state(seed=0)
    drawn = []
    for _ in range(count):
        transform.randomize(image_size)
        assert transform.deformation is not None
        drawn.append(transform.deformation)
    return drawn


def test_draws_follow_the_stated_distributions() -> None:
    drawn = draws(500)
    displacements = np.array([d.control for d in drawn]).ravel()
    angles = np.degrees([np.arctan2(d.matrix[0, 1], d.matrix[0, 0]) for d in drawn]) % 360
    centers = np.array([d.center for d in drawn])
    for sample, distribution in (
        (displacements, scipy.stats.norm(0, 10)),
        (angles, scipy.stats.uniform(0, 360)),
        (centers[:, 0], scipy.stats.uniform(-0.5, 100)),
        (centers[:, 1], scipy.stats.uniform(-0.5, 200)),
    ):
        assert scipy.stats.kstest(sample, distribution.cdf).pvalue > 0.01
    assert displacements.size == 500 * 2 * 3 * 3
    np.testing.assert_allclose(
        [d.matrix @ d.matrix.T for d in drawn], np.broadcast_to(np.eye(2), (500, 2, 2)), atol=1e-12
    )


def test_shift_in_px_stays_around_the_image_centre() -> None:
    centers = np.array([d.center for d in draws(400, shift=4.0, input_size=20, output_size=10)])
    middle = np.array([49.5, 99.5])
    assert np.abs(centers - middle).max() <= 4
    assert (np.abs(centers - middle).max(axis=0) > 3.5).all()


def test_an_option_switched_off_leaves_the_other_draws_as_they_were() -> None:
    for one, other in zip(draws(5), draws(5, shift=0, flip=True, scale=(0.5, 2.0)), strict=True):
        np.testing.assert_array_equal(one.control, other.control)


def test_same_seed_same_result() -> None:
    item = {"image": noise(1, 40, 40), "label": noise(1, 40, 40), "weight": noise(1, 40, 40)}

    def run(seed: int) -> list[torch.Tensor]:
        chain = Compose([RandElasticDeformationd(input_size=28, output_size=12)]).set_random_state(seed=seed)
        return [chain(item)["image"] for _ in range(2)]

    first, second = run(3)
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(run(3), (first, second), strict=True))
    assert not torch.equal(run(4)[0], first)


def test_set_determinism_seeds_a_composed_transform() -> None:
    item = {"image": noise(1, 40, 40)}
    results = []
    try:
        for _ in range(2):
            set_determinism(seed=11)
            results.append(Compose([RandElasticDeformationd("image", input_size=28, output_size=12)])(item)["image"])
    finally:
        set_determinism(seed=None)
    assert torch.equal(*results)


# --- types and devices


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor, MetaTensor])
def test_dtype_is_kept_and_the_result_is_a_plain_tensor(dtype: str, container: Any) -> None:
    array = (noise(1, 40, 30).numpy() * 2).astype(dtype)
    transform = RandElasticDeformation(input_size=28, output_size=12)
    data = container(torch.as_tensor(array)) if container is MetaTensor else container(array)
    for label in (False, True):
        result = transform(data, label=label)
        assert type(result) is torch.Tensor
        assert result.dtype == getattr(torch, dtype)
        assert result.is_contiguous()


def test_ids_beyond_floating_point_survive() -> None:
    label = torch.tensor([[[2**53, 2**53 + 1], [2**63 - 1, -1]]])
    assert torch.equal(RandElasticDeformation(input_size=2, output_size=2, **STILL)(label, label=True), label)


def test_everything_happens_on_the_device_of_the_data() -> None:
    """The meta device stands for any other: mixing it with CPU tensors would raise."""
    item = {key: torch.empty(1, 50, 60, device="meta") for key in ("image", "label", "weight")}
    deformed = RandElasticDeformationd(input_size=28, output_size=12)(item)
    assert {(key, value.device.type, value.shape[-1]) for key, value in deformed.items()} == {
        ("image", "meta", 28),
        ("label", "meta", 12),
        ("weight", "meta", 12),
    }


def test_autocast_does_not_move_pixels() -> None:
    transform = RandElasticDeformation(input_size=188, output_size=4).set_random_state(seed=0)
    image = noise(1, 200, 200)
    expected = transform(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform(image, randomize=False), expected)


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 572, "output_size": 387}, "output_size=387: must be input_size=572 less an even number"),
        ({"input_size": 20, "output_size": 24}, "output_size=24"),
        ({"input_size": (572, 300, 1)}, r"input_size=\(572, 300, 1\): one positive number"),
        ({"input_size": 0}, "input_size=0"),
        ({"output_size": 38.5}, "output_size=38.5"),
        ({"std": -1.0}, "std=-1.0"),
        ({"std": float("nan")}, "std=nan"),
        ({"grid_size": 1}, "grid_size=1"),
        ({"shift": "none"}, "shift='none': \"uniform\" or a distance"),
        ({"shift": -3.0}, "shift=-3.0"),
        ({"rotate": (90, 0)}, r"rotate=\(90, 0\): a range"),
        ({"scale": (2.0, 1.0)}, r"scale=\(2.0, 1.0\): a range"),
        ({"scale": (0.0, 1.0)}, r"scale=\(0.0, 1.0\): magnifications"),
        ({"image_mode": "area"}, "image_mode='area'"),
        ({"input_size": True, "output_size": True}, "input_size=True"),
        ({"std": float("inf")}, "std=inf"),
        ({"grid_size": 2.5}, "grid_size=2.5"),
        ({"shift": float("inf")}, "shift=inf"),
        ({"shift": True}, "shift=True"),
        ({"rotate": 90.0}, "rotate=90.0: a range"),
        ({"rotate": (0.0, float("inf"))}, r"rotate=\(0.0, inf\): a range"),
        ({"scale": (1.0,)}, r"scale=\(1.0,\): a range"),
        ({"flip": "no"}, "flip='no'"),
    ],
)
@pytest.mark.parametrize("transform", [RandElasticDeformation, RandElasticDeformationd])
def test_bad_arguments_are_named(transform: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(**options)


def test_bad_data_are_named() -> None:
    transform = RandElasticDeformationd(("image", "label"), input_size=28, output_size=12)
    with pytest.raises(ValueError, match=r"label: shape \(40, 40\), must be channel first"):
        transform({"image": noise(1, 40, 40), "label": noise(40, 40)})
    with pytest.raises(ValueError, match=r"'label': \(40, 41\).*must be equal"):
        transform({"image": noise(1, 40, 40), "label": noise(1, 40, 41)})
    with pytest.raises(ValueError, match=r"image: shape .* not empty"):
        transform({"image": noise(1, 0, 40), "label": noise(1, 0, 40)})
    with pytest.raises(ValueError, match=f"label: holds {2**63}, .* up to {2**63 - 1}"):
        transform({"image": noise(1, 40, 40), "label": np.full((1, 40, 40), 2**63, np.uint64)})
    with pytest.raises(ValueError, match="'picture' is not among keys"):
        RandElasticDeformationd(("image", "label"), image_keys="picture")
    with pytest.raises(RuntimeError, match="nothing drawn yet"):
        RandElasticDeformation()(noise(1, 40, 40), randomize=False)
