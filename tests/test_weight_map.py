"""Eq. 2 against its definition, separation borders against morphology, and the laws both obey."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper import nearest_cells
from unet_paper.nearest_cells import two_nearest_distances
from unet_paper.weight_map import (
    BORDER_TERM,
    WeightMap,
    WeightMapd,
    class_balance,
    separation_border,
    weight_map,
    weight_map_falk2019,
)

Labels = NDArray[np.int32]

# every pixel of its own cell or of none: touching, nested, in pieces, unknown
label_images = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 4))


def distances_by_definition(instances: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For every pixel the distance to every pixel of every cell: least over the cell, then the two least cells."""
    return _distances_by_definition(instances.tobytes(), instances.shape)


@functools.cache
def _distances_by_definition(content: bytes, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    instances = np.frombuffer(content, np.int32).reshape(shape)
    rows, columns = np.indices(instances.shape)
    nearest = [np.full(instances.shape, np.inf)] * 2
    for cell in np.unique(instances[instances > 0]):
        y, x = np.nonzero(instances == cell)
        nearest.append(np.hypot(rows[..., None] - y, columns[..., None] - x).min(axis=-1))
    d1, d2 = np.sort(nearest, axis=0)[:2]
    return d1, d2


def eq2(instances: Labels, w0: float, sigma: float, background: float, cell: float) -> NDArray[np.float64]:
    d1, d2 = distances_by_definition(instances)
    weight = np.where(instances > 0, cell, background) + w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return np.where(instances < 0, 0, weight)


def falk2019(instances: Labels) -> NDArray[np.float64]:
    d1, d2 = distances_by_definition(instances)
    background = 0.1 + 0.9 * np.exp(-(d1**2) / (2 * 10**2)) + 50 * np.exp(-((d1 + d2) ** 2) / (2 * 6**2))
    return np.select([instances > 0, instances == 0], [1.0, background], 0.0)


def disks(count: int, pitch: int, radius: float) -> Labels:
    """Square arrangement of count x count disks, touching or overlapping where radius > pitch / 2."""
    rows, columns = np.indices((count * pitch, count * pitch))
    cells = rows // pitch * count + columns // pitch + 1
    inside = np.hypot(rows % pitch - (pitch - 1) / 2, columns % pitch - (pitch - 1) / 2) <= radius
    return np.where(inside, cells, 0).astype(np.int32)


def single_cell() -> Labels:
    return np.pad(np.ones((5, 7), np.int32), ((10, 30), (20, 4)))


def one_of_pieces() -> Labels:
    """Cell 1 lies on both sides of cell 2, so between the pieces of 1 there is no border of 1 with itself."""
    return np.array([[1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1]], np.int32)


EXAMPLES: dict[str, Labels] = {
    "no cell": np.zeros((40, 30), np.int32),
    "one cell": single_cell(),
    "cells only": np.arange(1, 13, dtype=np.int32).reshape(3, 4),
    "in pieces": one_of_pieces(),
    "touching": disks(3, 14, 20.0),
    "far apart": disks(2, 60, 4.0),
    "hundreds": disks(15, 5, 2.0),
    "hundreds touching": disks(15, 4, 5.0),
    "unknown": np.where(disks(3, 14, 6.0) == 5, -1, disks(3, 14, 6.0)),
}


@pytest.fixture(params=EXAMPLES, ids=lambda name: name.replace(" ", "-"))
def example(request: pytest.FixtureRequest) -> Labels:
    return EXAMPLES[request.param]


class TestDistances:
    def test_equal_their_definition(self, example: Labels) -> None:
        for found, expected in zip(two_nearest_distances(example), distances_by_definition(example), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-14)

    @settings(max_examples=150, deadline=None)
    @given(instances=label_images, max_distance=st.one_of(st.none(), st.floats(0, 15), st.just(np.inf)))
    def test_equal_their_definition_within_the_limit(self, instances: Labels, max_distance: float | None) -> None:
        for found, exact in zip(
            two_nearest_distances(instances, max_distance), distances_by_definition(instances), strict=True
        ):
            # compared by squares, whole numbers: a limit of sqrt(2) includes a diagonal step
            far = np.inf if max_distance is None else np.floor(max_distance**2)
            np.testing.assert_allclose(found, np.where(np.rint(exact**2) <= far, exact, np.inf), rtol=1e-14)

    @pytest.mark.parametrize("width", [32_768, 50_000])
    def test_distances_that_squares_of_32_bits_do_not_hold_are_refused(self, width: int) -> None:
        instances = np.zeros((1, width), np.int32)
        instances[0, [0, -1]] = 1, 2
        with pytest.raises(ValueError, match=f"1 x {width} px: distances of 32,768 px and more"):
            two_nearest_distances(instances)
        assert two_nearest_distances(instances, 100)[0][0, 50] == 50

    def test_transposed_image_has_transposed_distances(self) -> None:
        instances = disks(4, 11, 4.5)[:, :31]
        for found, turned in zip(
            two_nearest_distances(instances), two_nearest_distances(np.ascontiguousarray(instances.T)), strict=True
        ):
            np.testing.assert_array_equal(found, turned.T)

    def test_compiled_and_interpreted_kernels_agree(self) -> None:
        instances = EXAMPLES["unknown"]
        cells, squares = nearest_cells._nearest_in_column(instances, 900)
        nearest_cells._nearest_two(cells, squares, 900)
        np.testing.assert_array_equal(squares, nearest_cells.two_nearest_squares(instances, 900))

    @pytest.mark.parametrize("max_distance", [-1.0, np.nan, True, "5"])
    def test_refuses_a_negative_limit(self, max_distance: Any) -> None:
        with pytest.raises(ValueError, match="max_distance="):
            two_nearest_distances(single_cell(), max_distance)


class TestPaper:
    @pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (3.0, 12.5), (0.0, 5.0), (10.0, 1e6)])
    def test_equals_eq2(self, example: Labels, w0: float, sigma: float) -> None:
        found = weight_map(example, w0=w0, sigma=sigma, class_weights=(0.7, 1.9))
        np.testing.assert_allclose(found, eq2(example, w0, sigma, 0.7, 1.9), rtol=2e-7, atol=1e-7)

    def test_balances_the_classes_unless_told_otherwise(self, example: Labels) -> None:
        expected = eq2(example, 10.0, 5.0, *class_balance(example))
        np.testing.assert_allclose(weight_map(example), expected, rtol=2e-7, atol=1e-7)

    @settings(max_examples=100, deadline=None)
    @given(instances=label_images, seed=st.integers(0, 2**32 - 1))
    def test_ignores_the_values_of_the_ids(self, instances: Labels, seed: int) -> None:
        ids = np.random.default_rng(seed).choice(np.arange(1, 2**31 - 1, 9_973_111), size=4, replace=False)
        renamed = np.where(instances > 0, ids[instances - 1], instances)
        np.testing.assert_array_equal(weight_map(renamed), weight_map(instances))

    @settings(max_examples=50, deadline=None)
    @given(instances=label_images)
    def test_turns_with_the_image(self, instances: Labels) -> None:
        np.testing.assert_array_equal(weight_map(np.rot90(instances)), np.rot90(weight_map(instances)))

    def test_is_the_class_weight_alone_for_fewer_than_two_cells(self) -> None:
        for instances in (np.zeros((9, 8), np.int32), single_cell()):
            expected = np.where(instances > 0, *class_balance(instances)[::-1])
            np.testing.assert_array_equal(weight_map(instances), expected.astype(np.float32))

    def test_pieces_of_one_cell_make_no_border(self) -> None:
        np.testing.assert_array_equal(weight_map(np.array([[1, 0, 1]]), class_weights=(1.0, 1.0)), 1)

    def test_unknown_pixels_weigh_nothing_and_are_no_cell(self) -> None:
        instances = np.array([[1, 0, 0, -1, 0]])
        np.testing.assert_array_equal(weight_map(instances, class_weights=(0.5, 2.0)), [[2, 0.5, 0.5, 0, 0.5]])

    def test_value_worked_out_by_hand(self) -> None:
        # a gap of 3 px: its middle is 2 px from either cell, 10 exp(-16 / 50) = 7.26149; its sides 1 + 3 px, the same
        weight = weight_map(np.array([[4, 0, 0, 0, 9]]), class_weights=(1.0, 1.0))
        np.testing.assert_allclose(weight, [[8.26149] * 5], rtol=1e-6)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"w0": -1.0},
            {"w0": np.inf},
            {"w0": True},
            {"sigma": 0.0},
            {"sigma": np.nan},
            {"sigma": "5"},
            {"class_weights": (1.0, -1.0)},
            {"class_weights": 2.0},
            {"class_weights": ("a", "b")},
            {"largest_class_weight": "2"},
        ],
    )
    def test_refuses_parameters_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            weight_map(single_cell(), **wrong)

    @pytest.mark.parametrize("instances", [np.zeros((1, 4, 4), np.int32), np.zeros((4, 4)), np.array([[2**31]])])
    def test_refuses_what_is_no_label_image(self, instances: NDArray[Any]) -> None:
        with pytest.raises(ValueError, match="instances"):
            weight_map(instances)

    @pytest.mark.parametrize("num_classes", [1, 2.5, True])
    def test_refuses_what_is_no_number_of_classes(self, num_classes: Any) -> None:
        with pytest.raises(ValueError, match=f"={num_classes}: at least 2 classes .*num_classes"):
            weight_map(single_cell(), num_classes=num_classes)

    def test_ids_beyond_32_bits_are_refused_with_a_remedy_that_works(self) -> None:
        instances = np.array([[2**33 + 7, 0, -1, 2**33 + 9]])
        with pytest.raises(ValueError, match=f"the id {2**33 + 9}: .*np.unique"):
            weight_map(instances)
        instances[instances > 0] = np.unique(instances[instances > 0], return_inverse=True)[1] + 1
        assert instances.tolist() == [[1, 0, -1, 2]]
        with pytest.raises(ValueError, match=f"instances hold {-(2**33)}: 0 is background"):
            weight_map(np.array([[-(2**33), 1]]))


class TestFalk2019:
    def test_equals_its_definition(self, example: Labels) -> None:
        np.testing.assert_allclose(weight_map_falk2019(example), falk2019(example), rtol=2e-7, atol=2e-7)

    @pytest.mark.parametrize(
        "wrong", [{"w0": -1.0}, {"sigma": 0.0}, {"background": 1.1}, {"rim_sigma": 0.0}, {"rim_sigma": np.inf}]
    )
    def test_refuses_parameters_out_of_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            weight_map_falk2019(single_cell(), **wrong)


class TestClassBalance:
    @settings(max_examples=50, deadline=None)
    @given(instances=label_images)
    def test_classes_weigh_the_same_and_one_on_average(self, instances: Labels) -> None:
        background, cell = class_balance(instances)
        pixels = np.count_nonzero(instances == 0), np.count_nonzero(instances > 0)
        assert pixels[0] * background + pixels[1] * cell == pytest.approx(sum(pixels))
        if all(pixels):
            assert pixels[0] * background == pytest.approx(pixels[1] * cell)


class TestSeparationBorder:
    @settings(max_examples=150, deadline=None)
    @given(instances=label_images)
    def test_dilation_is_what_is_covered_twice(self, instances: Labels) -> None:
        disk = ndimage.generate_binary_structure(2, 1)
        cells = np.unique(instances[instances > 0])
        covered = sum(
            (ndimage.binary_dilation(instances == cell, disk).astype(int) for cell in cells), np.zeros(1, int)
        )
        np.testing.assert_array_equal(
            separation_border(instances, "dilation"), np.where((covered > 1) & (instances > 0), 0, instances)
        )

    @settings(max_examples=150, deadline=None)
    @given(instances=label_images)
    def test_neighbour_is_another_cell_top_left(self, instances: Labels) -> None:
        expected = instances.copy()
        for y, x in zip(*np.nonzero(instances > 0), strict=True):
            for v, u in ((y - 1, x - 1), (y - 1, x), (y - 1, x + 1), (y, x - 1)):
                inside = v >= 0 and 0 <= u < instances.shape[1]
                if inside and instances[v, u] > 0 and instances[v, u] != instances[y, x]:
                    expected[y, x] = 0
        np.testing.assert_array_equal(separation_border(instances, "neighbour"), expected)

    @pytest.mark.parametrize(("method", "connectivity"), [("dilation", 1), ("neighbour", 2)])
    @settings(max_examples=150, deadline=None)
    @given(instances=label_images)
    def test_no_component_holds_two_cells(self, method: Any, connectivity: int, instances: Labels) -> None:
        separated = separation_border(instances, method)
        components, count = ndimage.label(separated > 0, ndimage.generate_binary_structure(2, connectivity))
        for component in range(1, count + 1):
            assert len(np.unique(separated[components == component])) == 1

    @settings(max_examples=50, deadline=None)
    @given(image=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
    def test_dilation_leaves_a_binary_annotation_as_it_is(self, image: NDArray[np.bool_]) -> None:
        components = ndimage.label(image)[0]
        np.testing.assert_array_equal(separation_border(components, "dilation"), components)

    def test_input_stays_as_it_is(self) -> None:
        instances = np.array([[1, 2]], np.int32)
        separation_border(instances)
        np.testing.assert_array_equal(instances, [[1, 2]])

    def test_refuses_another_method(self) -> None:
        with pytest.raises(ValueError, match="method='erosion'"):
            separation_border(single_cell(), "erosion")  # type: ignore[arg-type]


class TestTransforms:
    @pytest.mark.parametrize("preset", ["paper", "falk2019"])
    @pytest.mark.parametrize("border", ["dilation", "neighbour", None])
    def test_label_and_weight_are_those_of_the_cut_label(self, preset: Any, border: Any) -> None:
        instances = EXAMPLES["touching"]
        label, weight = WeightMap(preset=preset, border=border)(instances[None])
        cut = instances if border is None else separation_border(instances, border)
        function: Callable[..., Any] = weight_map if preset == "paper" else weight_map_falk2019
        np.testing.assert_array_equal(label, cut[None] > 0)
        # the defaults of the functions are the presets' too
        np.testing.assert_array_equal(weight, function(cut)[None])
        w0, sigma = BORDER_TERM[preset]
        np.testing.assert_array_equal(weight, function(cut, w0=w0, sigma=sigma)[None])

    def test_parameters_override_the_preset(self) -> None:
        instances = EXAMPLES["touching"]
        _, weight = WeightMap(w0=2.0, sigma=3.0, class_weights=(0.3, 0.4), border=None)(instances[None])
        np.testing.assert_array_equal(weight[0], weight_map(instances, w0=2.0, sigma=3.0, class_weights=(0.3, 0.4)))

    @pytest.mark.parametrize(
        "container", [np.asarray, torch.as_tensor, lambda image: MetaTensor(torch.as_tensor(image))]
    )
    def test_dictionary_keeps_container_and_instances(self, container: Callable[[Labels], Any]) -> None:
        data = {"label": container(EXAMPLES["unknown"][None].astype(np.float32)), "image": 0}
        item = WeightMapd("label")(data)
        assert item["image"] == 0
        assert item["instances"] is data["label"]
        assert type(item["label"]) is type(item["weight"]) is type(data["label"])
        assert str(item["label"].dtype).endswith("uint8")
        assert str(item["weight"].dtype).endswith("float32")
        np.testing.assert_array_equal(np.asarray(item["label"]), EXAMPLES["unknown"][None] > 0)
        np.testing.assert_array_equal(np.asarray(item["weight"])[0], weight_map(EXAMPLES["unknown"]))
        assert set(data) == {"label", "image"}

    def test_meta_information_goes_on(self) -> None:
        instances = MetaTensor(
            torch.ones(1, 4, 4), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])), meta={"name": "a"}
        )
        item = WeightMapd()({"label": instances})
        for key in ("label", "weight", "instances"):
            assert item[key].meta["name"] == "a"
            torch.testing.assert_close(item[key].affine, instances.affine)

    def test_missing_key(self) -> None:
        assert WeightMapd(allow_missing_keys=True)({"image": 0}) == {"image": 0}
        with pytest.raises(KeyError, match="label"):
            WeightMapd()({"image": 0})

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((4, 4)),
            np.zeros((2, 4, 4)),
            np.full((1, 4, 4), 0.5),
            np.full((1, 4, 4), np.nan),
            np.ones((1, 4, 4), bool),
            np.full((1, 4, 4), 2**24 + 2, np.float32),  # that type has no 2**24 + 1
        ],
    )
    def test_refuses_what_is_no_instance_image(self, image: NDArray[Any]) -> None:
        with pytest.raises(ValueError, match="instances of"):
            WeightMap()(image)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"preset": "ours"},
            {"border": "erosion"},
            {"w0": -1.0},
            {"sigma": 0.0},
            {"class_weights": (1.0,)},
            {"preset": "falk2019", "class_weights": (1.0, 1.0)},
            {"weight_key": ("weight", "other")},
        ],
    )
    def test_refuses_wrong_arguments(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            WeightMapd("label", **wrong)


def test_a_limit_of_the_balance_keeps_the_mean_of_the_weights() -> None:
    """By hand: 4 of 400 px are cell, balanced 50 and 0.505...; with at most 4, (400 - 16) / 396 of the background."""
    instances = np.zeros((20, 20), np.int32)
    instances[3:5, 3:5] = 1
    assert class_balance(instances) == pytest.approx((400 / 792, 50.0))
    background, cell = class_balance(instances, largest=4)
    assert (background, cell) == pytest.approx((384 / 396, 4.0))
    assert weight_map(instances, w0=0, largest_class_weight=4).mean() == pytest.approx(1.0)
    # rare background is limited in the same way, and a balance within the limit stays
    assert class_balance(1 - instances, largest=4) == pytest.approx((4.0, 384 / 396))
    assert class_balance(instances, largest=60) == class_balance(instances)
    with pytest.raises(ValueError, match=r"instances of type bool.*skimage.measure.label"):
        class_balance(instances > 0)
    with pytest.raises(ValueError, match=r"largest_class_weight=0.5"):
        weight_map(instances, largest_class_weight=0.5)
