"""The phantom of nuclei: what its docstring says of it, measured on what it draws."""

import numpy as np
import pytest

from unet_paper.data.phantom_clustered_nuclei import nuclei
from unet_paper.measurements import neighbour_pairs


def test_nuclei_are_brighter_than_their_surroundings_some_touch_and_brightness_varies() -> None:
    images, instances = nuclei(12, 128, seed=3)
    counts = [int(found.max()) for found in instances]
    assert min(counts) >= 1
    assert max(counts) > 5 * min(counts)
    contrasts = [
        image[found > 0].mean() - image[found == 0].mean() for image, found in zip(images, instances, strict=True)
    ]
    assert min(contrasts) > 0
    assert max(contrasts) > 5 * min(contrasts)
    assert sum(len(neighbour_pairs(found)) for found in instances) > 0
    sizes = np.concatenate([np.bincount(found.ravel())[1:] for found in instances])
    assert sizes.min() >= 12
    assert sizes.max() < np.pi / 4 * 60**2
    assert 10 < 2 * np.sqrt(np.median(sizes) / np.pi) < 30


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    first, again, other = (nuclei(2, 64, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first[0] + first[1], again[0] + again[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((one != two).any() for one, two in zip(first[0], other[0], strict=True))


def test_diameters_are_as_asked_for() -> None:
    for across in (12.0, 40.0):
        _, instances = nuclei(4, 160, seed=5, diameters=(across, across), spread=0.0)
        sizes = np.concatenate([np.bincount(found.ravel())[1:] for found in instances])
        # whole ones are the largest: a tenth of them may be cut off by others or the frame
        assert 2 * np.sqrt(np.percentile(sizes, 90) / np.pi) == pytest.approx(across, rel=0.2)


def test_no_image_and_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="frames=0"):
        nuclei(0, 64, seed=0)
    with pytest.raises(ValueError, match="size=8"):
        nuclei(1, 8, seed=0)
