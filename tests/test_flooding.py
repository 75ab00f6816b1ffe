"""Parts grown from seeds are those of scikit-image's watershed, in a fraction of its memory."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from unet_paper import label_image
from unet_paper.flooding import flood
from unet_paper.instances import PRESETS, split_component


def scene(seed: int, shape: tuple[int, int] = (60, 80)) -> tuple[NDArray[np.int32], NDArray[np.bool_], Any]:
    """Seeds, a component around them, and values of which no two are equal."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    component = values > np.quantile(values, 0.3)
    seeds = ndimage.label(values > np.quantile(values, 0.8), output=np.int32)[0]
    assert len(np.unique(values)) == values.size
    return seeds, component, values


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_watershed_of_scikit_image(seed: int, diagonal: bool, dtype: Any) -> None:
    seeds, component, values = scene(seed)
    values = values.astype(dtype)
    expected = watershed(-values, seeds, connectivity=2 if diagonal else 1, mask=component)
    found = seeds.copy()
    flood(found, component, values, diagonal)
    np.testing.assert_array_equal(found, expected)
    assert found.max() > 4


def test_half_precision_is_its_own_values_in_single() -> None:
    seeds, component, values = scene(1)
    half, single = seeds.copy(), seeds.copy()
    flood(half, component, values.astype(np.float16), False)
    flood(single, component, values.astype(np.float16).astype(np.float32), False)
    np.testing.assert_array_equal(half, single)


def test_of_equal_height_the_nearest_seed_comes_first() -> None:
    parts = np.array([[1, 0, 0, 0, 0, 0, 2]], np.int32)
    flood(parts, np.ones((1, 7), bool), np.full((1, 7), 0.5, np.float32), False)
    assert parts.tolist() == [[1, 1, 1, 1, 2, 2, 2]]


def test_a_component_as_large_as_the_image_is_split_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # what pixels take is traced by NumPy; the compiled flood adds a queue of the rims
    import tracemalloc

    monkeypatch.setattr(label_image, "BAND_PIXELS", 2**14)  # far smaller than the image, as those of large ones are
    rows, columns = np.mgrid[:600, :800]
    probability = (0.75 + 0.24 * np.sin(rows / 20) * np.sin(columns / 20)).astype(np.float32)
    settings: Any = {**PRESETS["dic_hela_split"], "min_size": 20}
    component = np.ones(probability.shape, bool)
    split_component(component[:64, :64], probability[:64, :64], settings)
    tracemalloc.start()
    parts = split_component(component, probability, settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # half the waves are hills of 20 pi px a side
    assert parts.max() == pytest.approx(600 * 800 / (20 * np.pi) ** 2 / 2, rel=0.3)
    assert peak / probability.size < 24
