"""Masks that cover a part of the image are told from cells that lie in a part of it."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from unet_paper.data.findings import findings
from unet_paper.data.partly_drawn import by_chance
from unet_paper.data.phantom_cells import touching_cells
from unet_paper.data.phantom_clustered_nuclei import nuclei
from unet_paper.data.phantom_nuclei import fluorescent_nuclei, sparse_nuclei
from unet_paper.data.survey import survey

KIND = "mask covers a part of the image"
QUARTER, HALF = np.s_[:128, 128:], np.s_[:, :128]
PHANTOMS = [nuclei, touching_cells, fluorescent_nuclei, sparse_nuclei]


def said(root: Path, images: list[np.ndarray], masks: list[np.ndarray], ignore_value: int | None = None) -> list[str]:
    """Files of which it is said."""
    root.mkdir(exist_ok=True)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        tifffile.imwrite(root / f"i{number}.tif", image)
        tifffile.imwrite(root / f"m{number}.tif", mask.astype(np.uint16))
    cases = [{"image": str(root / f"i{n}.tif"), "label": str(root / f"m{n}.tif")} for n in range(len(images))]
    result = survey(cases, ignore_value=ignore_value)
    return [Path(file).stem for finding in findings(result) if finding.kind == KIND for file in finding.files]


def partly(mask: np.ndarray, part: tuple[slice, slice], beyond: int = 0) -> np.ndarray:
    drawn = np.full_like(mask, beyond)
    drawn[part] = mask[part]
    return drawn


@pytest.mark.parametrize("phantom", PHANTOMS)
def test_of_complete_masks_nothing_is_said(tmp_path: Path, phantom) -> None:
    assert said(tmp_path, *phantom(8, 256, seed=3)) == []


@pytest.mark.parametrize("part", [QUARTER, HALF])
@pytest.mark.parametrize("phantom", PHANTOMS)
def test_masks_that_stop_are_said_and_unknown_beyond_is_the_remedy(tmp_path: Path, phantom, part) -> None:
    images, masks = phantom(8, 256, seed=3)
    assert len(said(tmp_path, images, [partly(mask, part) for mask in masks])) >= 2
    assert said(tmp_path, images, [partly(mask, part, beyond=9999) for mask in masks], ignore_value=9999) == []


@pytest.mark.parametrize("phantom", PHANTOMS)
def test_images_cropped_to_what_is_drawn_are_the_other_remedy(tmp_path: Path, phantom) -> None:
    images, masks = phantom(8, 256, seed=3)
    assert said(tmp_path, [image[HALF] for image in images], [mask[HALF] for mask in masks]) == []


def test_cells_in_a_part_of_an_empty_image_are_right(tmp_path: Path) -> None:
    """As on one side of a scratch: nothing lies on the other."""
    images, masks = nuclei(6, 128, seed=3)
    rng = np.random.default_rng(0)
    empty = [np.clip(rng.normal(np.percentile(i, 10), 2, i.shape), 0, 255).astype(np.uint8) for i in images]
    wide = [np.hstack([image, ground]) for image, ground in zip(images, empty, strict=True)]
    assert said(tmp_path, wide, [np.hstack([mask, np.zeros_like(mask)]) for mask in masks]) == []


def test_one_image_with_many_cells_tells(tmp_path: Path) -> None:
    images, masks = nuclei(1, 256, seed=5, diameters=(12, 12.1))
    assert len(np.unique(masks[0][HALF])) > 20
    assert said(tmp_path, images, [partly(masks[0], HALF)]) == ["m0"]


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_probability_is_that_of_points_strewn_at_random(count: int) -> None:
    places = np.random.default_rng(count).uniform(size=(20_000, count, 2))
    parts = np.ptp(places, axis=1)
    p = np.array([by_chance(tuple(part), count) for part in parts])
    # values of a probability are below x in x of all cases
    assert [np.mean(p < x) for x in (0.01, 0.1, 0.5, 0.9)] == pytest.approx([0.01, 0.1, 0.5, 0.9], abs=0.012)


@pytest.mark.parametrize("data", ["PhC-C2DH-U373", "DIC-C2DH-HeLa"])
def test_masks_of_the_challenge_that_stop_are_said_where_cells_can_be_told(
    real_data: Path, tmp_path: Path, data: str
) -> None:
    files = sorted((real_data / data / "01_ST" / "SEG").glob("*.tif"))[::12]
    images = [tifffile.imread(real_data / data / "01" / f"t{file.stem[7:]}.tif") for file in files]
    masks = [tifffile.imread(file) for file in files]
    assert said(tmp_path, images, masks) == []
    if data == "PhC-C2DH-U373":  # the cells of DIC-HeLa fill the image and look as the ground does
        assert len(said(tmp_path, images, [partly(mask, np.s_[:, : mask.shape[1] // 2]) for mask in masks])) >= 5
