"""Cells set against one another: what is added touches, nothing that was there changes, and contacts can be learnt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.data import phantom
from unet_paper.paste_cells import RandPasteCells, RandPasteCellsd


def disks(size: int = 96, radius: int = 8) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Two bright disks far apart on dark ground."""
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), dtype=np.int32)
    for number, (row, column) in enumerate(((26, 26), (66, 62)), 1):
        labels[np.hypot(rows - row, columns - column) <= radius] = number
    return np.where(labels > 0, 0.8, 0.2).astype(np.float32)[None], labels


def seeded(seed: int, **settings: object) -> RandPasteCells:
    paste = RandPasteCells(**settings)  # type: ignore[arg-type]
    paste.set_random_state(seed)
    return paste


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_copy_touches_and_covers_no_cell(seed: int) -> None:
    image, labels = disks()
    grey, pasted = seeded(seed, count=(1, 1))(image, labels)
    assert np.array_equal(pasted[labels > 0], labels[labels > 0])
    assert np.array_equal(grey[0][labels > 0], image[0][labels > 0])
    copies = np.setdiff1d(np.unique(pasted), np.unique(labels))
    assert len(copies) == 1
    (copy,) = copies
    assert np.count_nonzero(pasted == copy) == np.count_nonzero(labels == 1)  # a disk turned is a disk
    others = (pasted > 0) & (pasted != copy)
    assert ndimage.distance_transform_edt(~others)[pasted == copy].min() == 1
    assert np.allclose(grey[0][pasted == copy], 0.8, atol=1e-6)


@given(seed=st.integers(0, 10_000), gap=st.sampled_from([0.0, 4.0]))
@settings(max_examples=20, deadline=None)
def test_unknown_pixels_are_neither_copied_nor_covered(seed: int, gap: float) -> None:
    image, labels = disks()
    labels[:, 80:] = -1
    labels[60:, :20] = -1
    grey, pasted = seeded(seed, count=(1, 3), gap=gap)(image, labels)
    assert np.array_equal(pasted < 0, labels < 0)
    assert np.array_equal(grey[0][labels < 0], image[0][labels < 0])


@given(seed=st.integers(0, 10_000), first=st.integers(80, 95))
@settings(max_examples=60, deadline=None)
def test_a_halo_reaches_over_no_unknown_pixel(seed: int, first: int) -> None:
    _, labels = disks()
    labels[:, first:] = -1
    image = np.random.default_rng(seed).random((1, 96, 96), dtype=np.float32)
    grey, _ = seeded(seed, count=(2, 2))(image, labels)
    assert np.array_equal(grey[0][labels < 0], image[0][labels < 0])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_gap_is_kept_and_not_exceeded(seed: int) -> None:
    image, labels = disks()
    _, pasted = seeded(seed, count=(1, 1), gap=4.0)(image, labels)
    distance = ndimage.distance_transform_edt(~((pasted == 1) | (pasted == 2)))[pasted == 3].min()
    assert 1 <= distance <= 5


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_one_place_that_is_left_is_found(seed: int) -> None:
    labels = np.zeros((40, 40), np.int32)
    for number, (row, column) in enumerate(np.ndindex(3, 3), 1):
        labels[5 + 10 * row : 15 + 10 * row, 5 + 10 * column : 15 + 10 * column] = number
    labels[labels == 5] = 0
    image = (labels > 0).astype(np.float32)[None]
    _, pasted = seeded(seed, count=(1, 1), halo=5)(image, labels)
    expected = labels.copy()
    expected[15:25, 15:25] = 10  # the rim of the image is too narrow
    np.testing.assert_array_equal(pasted, expected)


def test_most_copies_of_a_phantom_find_a_place_and_touch() -> None:
    images, instances = phantom.touching_cells(6, 256, seed=3)
    added = touching = 0
    for frame in range(6):
        # half of the cells taken away, so that there is room
        labels = np.where(instances[frame] % 2 == 0, instances[frame], 0).astype(np.int32)
        _, pasted = seeded(frame, count=(2, 2), halo=3)(images[frame][None] / np.float32(255), labels)
        for copy in np.setdiff1d(np.unique(pasted), np.unique(labels)):
            added += 1
            around = ndimage.binary_dilation(pasted == copy) & (pasted != copy)
            touching += bool((pasted[around] > 0).any())
    assert added >= 6
    assert touching == added


def test_light_of_the_place_is_taken_on() -> None:
    image, labels = disks()
    uneven = image + np.linspace(0, 0.5, 96, dtype=np.float32)[None, None, :]
    grey, pasted = seeded(5, count=(1, 1))(uneven, labels)
    assert pasted.max() == 3
    rows, columns = np.nonzero(pasted == 3)
    expected = 0.6 + 0.2 + 0.5 * columns.mean() / 95
    assert abs(float(grey[0, rows, columns].mean()) - expected) < 0.05


@pytest.mark.parametrize("labels", [np.zeros((64, 64), np.int32), np.ones((64, 64), np.int32)])
def test_where_nothing_fits_nothing_changes(labels: NDArray[np.int32]) -> None:
    image = np.random.default_rng(0).random((1, 64, 64), dtype=np.float32)
    grey, pasted = seeded(0, count=(3, 3))(image, labels)
    assert np.array_equal(grey, image)
    assert np.array_equal(pasted, labels)


def test_seeded_draws_repeat_and_arguments_stay() -> None:
    image, labels = disks()
    before = image.copy(), labels.copy()
    first, second = (seeded(7, count=(1, 4))(image, labels) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])


def test_dictionary_version_keeps_containers() -> None:
    image, labels = disks()
    transform = RandPasteCellsd(count=(1, 1))
    transform.set_random_state(0)
    item = transform({"image": image, "label": labels[None], "name": "a"})
    assert item["name"] == "a"
    assert item["label"].dtype == np.int32
    assert item["label"].shape == (1, 96, 96)
    assert item["label"].max() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": (2, 1)}, r"count=\(2, 1\)"),
        ({"count": (-1, 1)}, r"count=\(-1, 1\)"),
        ({"count": (0.5, 1)}, r"count=\(0.5, 1\)"),
        ({"count": (2,)}, r"count=\(2,\)"),
        ({"count": (1, 2, 3)}, r"count=\(1, 2, 3\)"),
        ({"count": 2}, "count=2"),
        ({"count": "12"}, "count='12'"),
        ({"count": (True, True)}, r"count=\(True, True\)"),
        ({"count": (1, float("nan"))}, r"count=\(1, nan\)"),
        ({"halo": 2.5}, "halo=2.5"),
        ({"halo": True}, "halo=True"),
        ({"gap": float("inf")}, "gap=inf"),
        ({"turn": "no"}, "turn='no'"),
        ({"turn": 2}, "turn=2"),
        ({"num_classes": 1}, "out_channels=1.*num_classes"),
        ({"halo": 0}, "halo=0"),
        ({"gap": -1.0}, "gap=-1"),
        ({"gap": float("nan")}, "gap=nan"),
    ],
)
def test_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandPasteCells(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        RandPasteCellsd(**settings)


def test_data_that_cannot_be_are_refused() -> None:
    image, labels = disks()
    with pytest.raises(ValueError, match="needed"):
        RandPasteCells()(np.zeros((1, 4, 4)), np.zeros((5, 4), np.int32))
    with pytest.raises(ValueError, match="image: holds NaN"):
        RandPasteCells()(image * np.float32("nan"), labels)
    with pytest.raises(ValueError, match=r"type bool: .*skimage.measure.label\(mask\)"):
        RandPasteCells()(image, labels > 0)
    for wrong in (labels * 0.5, np.where(labels > 0, labels, np.nan)):
        with pytest.raises(ValueError, match="type float64 hold values that are not whole numbers"):
            RandPasteCells()(image, wrong)
    with pytest.raises(ValueError, match=f"the id {2**63 - 1}: no id is left above it"):
        RandPasteCells()(image, np.where(labels > 0, 2**63 - 1, 0))
    with pytest.raises(ValueError, match=f"the id {2**63}: ids up to {2**63 - 1}"):
        RandPasteCells()(image, np.where(labels > 0, np.uint64(2**63), np.uint64(0)))
    with pytest.raises(ValueError, match=r"label: shape \(2, 96, 96\), one channel"):
        RandPasteCellsd()({"image": image, "label": np.stack([labels, labels])})
    with pytest.raises(ValueError, match=r"keys=.*: one image"):
        RandPasteCellsd(("image", "second"))


@pytest.mark.parametrize(
    ("first", "dtype", "given_back"),
    [
        (1, np.uint8, np.int32),
        (1, np.float32, np.int32),
        (2**31 - 2, np.int32, np.int64),
        (2**31, np.uint32, np.int64),
        (2**33 + 1, np.int64, np.int64),
        (2**33 + 1, np.uint64, np.int64),
        (2**33 + 1, np.float64, np.int64),
    ],
)
def test_ids_are_kept_whatever_their_type(first: int, dtype: type, given_back: type) -> None:
    image, labels = disks()
    wide = np.where(labels > 0, labels.astype(np.int64) + (first - 1), 0)
    _, pasted = seeded(3, count=(1, 1))(image, wide.astype(dtype))
    _, expected = seeded(3, count=(1, 1))(image, labels)
    assert pasted.dtype == given_back
    np.testing.assert_array_equal(pasted, np.where(expected > 0, expected.astype(np.int64) + (first - 1), 0))


def test_copies_of_a_label_of_eight_bits_are_not_lost() -> None:
    image, labels = disks()
    transform = RandPasteCellsd(count=(1, 1))
    transform.set_random_state(3)
    item = transform({"image": image, "label": np.where(labels > 0, labels + 253, 0).astype(np.uint8)[None]})
    assert item["label"].dtype == np.int32
    assert np.unique(item["label"]).tolist() == [0, 254, 255, 256]
