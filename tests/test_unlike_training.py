"""The line on images unlike those of the training: own images never, negatives, other bit depths and kinds always."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray

from unet_paper.data import datasets, phantom
from unet_paper.data.grey_statistics import GreyRanges, grey_features, grey_statistics
from unet_paper.data.reader import PageReader
from unet_paper.data.unit_range import ScaleToUnitRanged
from unet_paper.data.unlike_training import SayUnlikeTrainingd, unlike

Images = NDArray[np.uint8]
KINDS: dict[str, Callable[[], Images]] = {
    "nuclei": lambda: phantom.fluorescent_nuclei(24, 128, seed=3)[0],
    "cells": lambda: phantom.touching_cells(12, 128, seed=3)[0],
    "em": lambda: phantom.em_stack(12, 128, seed=3)[0],
}


@pytest.fixture(scope="module")
def sets() -> dict[str, Images]:
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def ranges(sets: dict[str, Images], tmp_path_factory: pytest.TempPathFactory) -> dict[str, GreyRanges]:
    """Of the first half of each set, through files."""
    found = {}
    for kind, images in sets.items():
        folder = tmp_path_factory.mktemp(kind)
        for number, image in enumerate(images[: len(images) // 2]):
            tifffile.imwrite(folder / f"{number}.tif", image)
        found[kind] = grey_statistics(datasets.images(folder)).ranges
    return found


def said(image: NDArray[Any], ranges: GreyRanges) -> str:
    return unlike(grey_features(image[None].astype(np.float32)), ranges)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sets_own_images_are_like_it_seen_or_not(
    kind: str, sets: dict[str, Images], ranges: dict[str, GreyRanges]
) -> None:
    assert [said(image / 255, ranges[kind]) for image in sets[kind]] == [""] * len(sets[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_another_kind_are_unlike(kind: str, sets: dict[str, Images], ranges: dict[str, GreyRanges]) -> None:
    for other in KINDS:
        if other != kind:
            assert all(said(image / 255, ranges[kind]) for image in sets[other]), other


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_is_unlike(kind: str, sets: dict[str, Images], ranges: dict[str, GreyRanges]) -> None:
    assert all(said(1 - image / 255, ranges[kind]) for image in sets[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_twelve_bits_taken_for_sixteen_are_said(
    kind: str,
    sets: dict[str, Images],
    ranges: dict[str, GreyRanges],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By this line, or where a dim image of the set looks the same by the one about bits that are not used."""
    for number, image in enumerate(sets[kind]):
        file = tmp_path / f"{number}.tif"
        tifffile.imwrite(file, image.astype(np.uint16) * 16)
        prepare = Compose(
            [
                LoadImaged("image", reader=PageReader()),
                EnsureChannelFirstd("image"),
                ScaleToUnitRanged("image"),
                SayUnlikeTrainingd("image", mean=0.5, std=0.1, ranges=ranges[kind]),
            ]
        )
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepare({"image": str(file)})
        assert "--grey_maximum" in caplog.text
        assert file.name in caplog.text


def test_channels_that_changed_places_are_unlike(sets: dict[str, Images]) -> None:
    """Two channels of one image: nuclei, and membranes that are bright where nuclei are dark."""
    pairs = np.stack([sets["nuclei"][:12], sets["em"][:12]], axis=1) / np.float32(255)
    features = [grey_features(pair) for pair in pairs]
    limits: dict[str, Any] = {"images": len(pairs)}
    for name in features[0]:
        values = [feature[name] for feature in features]
        limits[name] = [np.min(values, axis=0).tolist(), np.max(values, axis=0).tolist()]
    assert [unlike(grey_features(pair), limits) for pair in pairs] == [""] * len(pairs)
    assert all("in channel 0" in unlike(grey_features(pair[[1, 0]]), limits) for pair in pairs)


def test_of_one_image_its_neighbours_are_like_it_and_the_negative_is_not(sets: dict[str, Images]) -> None:
    first, *others = sets["cells"]
    limits: dict[str, Any] = {"images": 1}
    limits |= {name: [values, values] for name, values in grey_features(first[None] / np.float32(255)).items()}
    assert [said(image / 255, limits) for image in others] == [""] * len(others)
    assert said(1 - first / 255, limits)


def test_large_images_are_sampled_as_small_ones(sets: dict[str, Images]) -> None:
    small = sets["em"][0][:128, :128] / np.float32(255)
    large = np.tile(small, (10, 12))
    found, expected = grey_features(large[None]), grey_features(np.tile(small, (2, 2))[None])
    for name, values in found.items():
        assert values[0] == pytest.approx(expected[name][0], abs=0.03), name


def test_real_images(real_data: Path) -> None:
    """Half of a real set against the other half, and against its negatives where those can be told."""
    for name, negatives in (("PhC-C2DH-U373/01", True), ("DIC-C2DH-HeLa/01", False)):
        cases = datasets.images(real_data / name)
        limits = grey_statistics(cases[::2]).ranges
        for case in cases[1::2]:
            image = PageReader().get_data(case["image"])[0] / 255
            assert said(image, limits) == ""
            assert bool(said(1 - image, limits)) or not negatives
