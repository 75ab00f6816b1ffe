"""Single pixels far from all others say neither what is black and white nor that an image cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor

from unet_paper.app.configuration import configure
from unet_paper.data.findings import findings
from unet_paper.data.hot_pixels import GreyRange, grey_range
from unet_paper.data.survey import Survey, survey
from unet_paper.data.unit_range import ScaleToUnitRanged

RNG = np.random.default_rng(3)
SIZE = 128  # of 16384 pixels one may be hot


def folder(root: Path, low: float, span: float, dtype: Any, spoilt: dict[tuple[int, int], float]) -> Survey:
    """Four images of bright squares, of which one has spoilt pixels."""
    cases, rng = [], np.random.default_rng(7)
    for number in range(4):
        ids = np.zeros((SIZE, SIZE), np.uint8)
        for cell in range(5):
            top, left = 4 + 24 * cell, 5 + int(rng.integers(0, 100))
            ids[top : top + 14, left : left + 15] = cell + 1
        grey = low + span * (0.2 + 0.6 * (ids > 0) + 0.05 * rng.random(ids.shape))
        for place, value in spoilt.items() if number == 2 else ():
            grey[place] = value
        image, label = root / f"a{number}.tif", root / f"a{number}_mask.tif"
        tifffile.imwrite(image, grey.astype(dtype))
        tifffile.imwrite(label, ids)
        cases.append({"image": str(image), "label": str(label)})
    return survey(cases, annotation="instances")


@pytest.mark.parametrize(
    ("low", "span", "dtype", "hot"),
    [(0, 200, np.float32, 65535), (100, 400, np.uint16, 65535), (0, 1, np.float32, 3e4), (0, 200, np.float32, -1e6)],
)
def test_white_is_chosen_without_them_and_they_are_named(
    tmp_path: Path, low: float, span: float, dtype: Any, hot: float
) -> None:
    names = ("clean", "spoilt")
    for name in names:
        (tmp_path / name).mkdir()
    clean, spoilt = (
        folder(tmp_path / name, low, span, dtype, {(50, 60): hot} if name == "spoilt" else {}) for name in names
    )
    chosen = [
        {choice.setting: choice.value for choice in configure(one, minutes=30, seconds_per_step=lambda *_: 1.0).choices}
        for one in (clean, spoilt)
    ]
    for setting in ("grey_maximum", "grey_minimum", "grey_log", "exposure"):
        assert chosen[1].get(setting) == chosen[0].get(setting), setting
    (said,) = [finding for finding in findings(spoilt) if finding.kind == "hot pixels"]
    assert [Path(file).name for file in said.files] == ["a2.tif"]
    assert f"far from all others: 1, such as {hot:g} where" in said.what
    assert not [finding for finding in findings(clean) if finding.kind == "hot pixels"]
    # and training with what was chosen takes the image
    scale = ScaleToUnitRanged(
        "image", maximum=chosen[1].get("grey_maximum"), minimum=chosen[1].get("grey_minimum") or 0
    )
    image = MetaTensor(tifffile.imread(tmp_path / "spoilt" / "a2.tif").astype(np.float32)[None])
    image.meta = {"stored_dtype": np.dtype(dtype).name, "filename_or_obj": "a2.tif"}
    scaled = scale({"image": image})["image"]
    assert 0 <= float(scaled.min()) <= float(scaled.max()) <= 2


def test_a_bright_spot_is_none_and_neither_are_many_or_those_of_a_small_image() -> None:
    plain = RNG.uniform(100, 200, (1, 300, 300))
    assert grey_range(plain).hot == 0
    spot, many, small, two = plain.copy(), plain.copy(), plain[:, :90, :90].copy(), plain.copy()
    spot[0, 10:12, 10:12] = 9000
    many[0, ::10, 0] = 9000
    small[0, 5, 5] = 9000
    two[0, 5, 5], two[0, 9, 9] = 9000, -9000
    for image in (spot, many, small):
        assert grey_range(image) == GreyRange(float(image.min()), 9000, 0)
    assert grey_range(two) == GreyRange(float(plain.min()), float(plain.max()), 2)
    assert grey_range(np.zeros((1, 300, 300), np.uint8)).hot == 0


def test_few_pixels_beyond_white_are_cut_off_and_said_more_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.full((1, SIZE, SIZE), 0.25)
    image[0, 3, 4] = 40.0
    scaled = ScaleToUnitRanged("image")({"image": image})["image"]
    assert (float(scaled[0, 3, 4]), float(scaled[0, 0, 0])) == (1, 0.25)
    assert float(image[0, 3, 4]) == 40, "the image given is left alone"
    assert "1 pixels are beyond" in caplog.text
    assert "up to 40: taken for hot ones" in caplog.text
    image[0, 3, 8] = 40.0
    with pytest.raises(ValueError, match=r"grey values of float32 from 0\.25 to 40, expected 0 to 1"):
        ScaleToUnitRanged("image")({"image": image})
    image[0, 3] = 0.25
    image[0, 3, 4] = torch.inf
    with pytest.raises(ValueError, match=r"from 0\.25 to inf"):
        ScaleToUnitRanged("image")({"image": image})
