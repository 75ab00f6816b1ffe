"""Images that show the same are told by what they show; images of their own are not, whatever they have in common."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from unet_paper.data import phantom
from unet_paper.data.relatives import Relation, miniature, relations


def related(images: Sequence[np.ndarray]) -> list[Relation]:
    return relations([miniature(np.asarray(image, np.float32)) for image in images])


def pairs(images: Sequence[np.ndarray], how: str) -> set[tuple[int, int]]:
    return {relation[:2] for relation in related(images) if relation.how == how}


def tiles(field: np.ndarray, side: int, step: int) -> list[np.ndarray]:
    starts = [range(0, length - side + 1, step) for length in field.shape]
    return [field[top : top + side, left : left + side] for top in starts[0] for left in starts[1]]


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    return phantom.fluorescent_nuclei(12, 256, 3)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:, ::-1],
        lambda image: np.rot90(image),
        lambda image: image.T,
        lambda image: 0.4 * image + 20,
        lambda image: image.max() - image,
        lambda image: np.rot90(0.7 * image + np.random.default_rng(0).normal(0, 3, image.shape), 3),
    ],
    ids=["mirrored", "turned", "transposed", "dimmed", "negative", "turned, dimmed, noisy"],
)
@pytest.mark.parametrize("width", [256, 180])
def test_a_copy_is_found_however_it_was_changed(nuclei: np.ndarray, change: object, width: int) -> None:
    images = [image[:, :width].astype(float) for image in nuclei]
    images.append(change(images[5]))
    assert pairs(images, "copy") == {(5, 12)}
    assert len(related(images)) == 1


def test_tiles_that_overlap_are_found_and_others_are_not() -> None:
    field = phantom.fluorescent_nuclei(1, 640, 3)[0][0].astype(float)
    chance = np.random.default_rng(1)
    # each with a noise and a lamp of its own
    images = [tile * chance.uniform(0.8, 1.2) + chance.normal(0, 2, tile.shape) for tile in tiles(field, 256, 192)]
    found = related(images)
    assert {relation.how for relation in found} == {"overlap"}
    beside = {(k, k + 1) for k in (0, 1, 3, 4, 6, 7)} | {(k, k + 3) for k in range(6)}
    assert beside <= {relation[:2] for relation in found}
    # across a corner a sixteenth is shared
    assert all((b - a) in (1, 2, 3, 4) and (a, b) not in ((2, 3), (5, 6)) for a, b, *_ in found)


def test_frames_of_a_field_are_found_in_any_order() -> None:
    frames = phantom.touching_cells(8, 256, 2)[0]
    others = phantom.touching_cells(8, 256, 9)[0]
    turns = [image for both in zip(frames, others, strict=True) for image in both]
    found = pairs(turns, "scene")
    assert {(k, k + 2) for k in range(14)} <= found
    assert all((b - a) % 2 == 0 for a, b in found)


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("make", [phantom.fluorescent_nuclei, phantom.sparse_nuclei])
def test_images_of_one_kind_of_cells_are_not_related(make: object, size: int) -> None:
    images = make(24, size, 11)[0]
    assert not [relation for relation in related(images) if relation.strength >= 0.6]


def test_what_all_images_have_in_common_is_no_relation(nuclei: np.ndarray) -> None:
    """Dirt in the optics, a lamp that is brighter in its middle, and the rim of a well."""
    chance = np.random.default_rng(4)
    rows, columns = np.indices((256, 256)) / 127.5 - 1
    dirt = 25 * ndimage.gaussian_filter(chance.normal(size=(256, 256)), 2) / 0.14
    rim = 80 * (np.abs(np.hypot(rows, columns) - 0.9) < 0.03)
    light = 1 - 0.5 * (rows**2 + columns**2) / 2
    assert not related([image * light + dirt * 0.3 + rim for image in nuclei.astype(float)])


@pytest.mark.parametrize(("data", "cut"), [("DIC-C2DH-HeLa", 4), ("PhC-C2DH-U373", 3), ("isbi2012", 4)])
def test_parts_of_a_real_image_that_do_not_overlap_are_not_related(real_data: Path, data: str, cut: int) -> None:
    file = real_data / data / ("train-volume.tif" if data == "isbi2012" else "01/t000.tif")
    image = tifffile.imread(file, key=0)
    sides = [length // cut for length in image.shape]
    parts = [image[r * sides[0] :, c * sides[1] :][: sides[0], : sides[1]] for r in range(cut) for c in range(cut)]
    assert not related(parts)


@pytest.mark.parametrize("data", ["DIC-C2DH-HeLa", "PhC-C2DH-U373"])
def test_frames_of_a_real_film_are_related(real_data: Path, data: str) -> None:
    frames = [tifffile.imread(real_data / data / "01" / f"t{time:03d}.tif") for time in range(0, 20, 2)]
    left, right = ([np.array_split(frame, 2, axis=1)[side] for frame in frames] for side in (0, 1))
    found = pairs([*left, *right], "scene")
    assert all((a < 10) == (b < 10) for a, b in found)
    if data == "PhC-C2DH-U373":
        assert {(k, k + 1) for k in range(9)} <= found
