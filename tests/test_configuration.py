"""Rules that choose settings, each on numbers that were made to break it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.data import MetaTensor

from unet_paper import geometry
from unet_paper.app.configuration import FEWEST_STEPS, Configuration, configure
from unet_paper.data.held_out_block import HoldOutBlockd
from unet_paper.data.survey import ImageFacts, Survey
from unet_paper.data.unit_range import ScaleToUnitRanged
from unet_paper.grey_values import RandGreyValues

IMAGE = ImageFacts(
    image="a.png",
    label="a.png",
    shape=(256, 256),
    channels=1,
    dtype="uint8",
    low=2,
    median=20,
    high=200,
    largest=250,
    pixel_size=None,
    foreground=0.1,
    unknown=0,
    areas=(314,) * 20,
    whole_areas=(314,) * 20,
    touching=0,
    in_pieces=0,
    specks=0,
    inverted=False,
    outline=20,
    best_outline=20,
    best_shift=(0, 0),
    contrast=1,
    image_hash="",
    label_hash="",
)


def of(count: int = 20, minutes: float = 30, **facts: Any) -> Configuration:
    images = [dataclasses.replace(IMAGE, **facts) for _ in range(count)]
    return configure(Survey(images), minutes=minutes, seconds_per_step=lambda features, *_: features[0] / 32)


@pytest.mark.parametrize(("across", "magnification"), [(130, 0.5), (90, 1), (20, 1), (13, 1), (8, 2), (520, 0.125)])
def test_a_typical_cell_fits_the_network(across: float, magnification: float) -> None:
    area = round(np.pi * across**2 / 4)
    assert of(whole_areas=(area,) * 9)["magnification"] == magnification


def test_sizes_drawn_in_training_lie_around_a_magnification_that_was_asked_for() -> None:
    chosen = configure(Survey([IMAGE] * 9), minutes=30, seconds_per_step=lambda *_: 1.0, asked_magnification=0.5)
    assert chosen["magnification"] == 0.5
    assert chosen["scale"] == [0.4, 0.625]


def test_tile_follows_the_images_and_is_valid() -> None:
    small, large = of(shape=(64, 64)), of(shape=(2000, 2000))
    assert small["tile_size"] < large["tile_size"] < 572
    for chosen in (small, large):
        assert geometry.output_size(chosen["tile_size"], len(chosen["features"])) > 0


def test_the_widest_network_that_has_the_steps() -> None:
    assert of(minutes=5)["features"][0] == 16
    hours = of(minutes=300)
    assert hours["features"][0] == 64
    assert hours["max_epochs"] * hours["steps_per_epoch"] >= FEWEST_STEPS


@pytest.mark.parametrize(
    ("dtype", "largest", "expected"),
    [
        ("uint8", 90, None),
        ("uint16", 900, 4095),
        ("uint16", 4095, 4095),
        ("uint16", 5000, 16383),
        ("uint16", 6e4, None),
    ],
)
def test_white_is_the_camera_s_and_never_what_the_images_hold(dtype: str, largest: float, expected: int | None) -> None:
    chosen = {choice.setting: choice.value for choice in of(dtype=dtype, largest=largest).choices}
    assert chosen.get("grey_maximum") == expected


@pytest.mark.parametrize(
    ("dtype", "smallest", "largest", "expected"),
    [
        ("float32", 0, 0.9, {}),
        ("float32", -1e-7, 0.9, {}),
        ("float32", -0.02, 0.9, {"grey_minimum": -0.04}),
        ("float32", -5, 0.9, {"grey_minimum": -10, "grey_maximum": 1.8}),
        ("float32", -0.3, 212.0, {"grey_minimum": -0.6, "grey_maximum": 500}),
        ("int16", -3024, 1900, {"grey_minimum": -7000, "grey_maximum": 4000}),
        ("float32", -60, -2.5, {"grey_minimum": -120, "grey_maximum": 0}),
    ],
)
def test_the_range_holds_every_pixel_however_few_lie_below(
    dtype: str, smallest: float, largest: float, expected: dict[str, float]
) -> None:
    """A dead pixel, or what a filter leaves beside a bright one; training takes none that lies outside."""
    chosen = {choice.setting: choice.value for choice in of(dtype=dtype, smallest=smallest, largest=largest).choices}
    assert {name: chosen[name] for name in ("grey_minimum", "grey_maximum") if name in chosen} == expected


@pytest.mark.parametrize(
    ("names", "by_name"),
    [
        (("DAPI", "GFP"), True),
        (("red", "green", "blue"), False),
        (("grey", "alpha"), False),
        (("0", "1"), False),
        (("C1", "c1"), False),
        ((), False),
    ],
)
def test_channels_that_all_images_name_alike_are_taken_by_name(names: tuple[str, ...], by_name: bool) -> None:
    """By their place they would be swapped, without a word, in an image that has them in another order."""
    chosen = of(channels=len(names) or 2, channel_names=names)
    settings = {choice.setting: choice.value for choice in chosen.choices}
    assert settings["in_channels"] == (len(names) or 2)
    assert settings.get("channel") == (list(names) if by_name else None)
    (alone,) = [
        c for c in of(1, channels=2, channel_names=("a", "b")).choices if c.setting in ("in_channels", "channel")
    ]
    assert alone.setting == "in_channels"


def test_few_images_hold_out_a_block_and_many_whole_ones() -> None:
    assert of(3)["fold"] == "block"
    assert (of(4)["fold"], of(60)["fold"]) == (0, 0)
    assert 60 // of(60)["folds"] in range(6, 13)


def test_exposure_is_as_wide_as_the_images_differ() -> None:
    assert of()["exposure"] == [1.0, 1.0]
    images = [dataclasses.replace(IMAGE, high=high) for high in (10, 10, 10, 40, 40, 40)]
    chosen = configure(Survey(images), minutes=1, seconds_per_step=lambda *_: 1.0)
    assert chosen["exposure"] == [0.5, 2.0]
    assert "grey_log" not in {choice.setting for choice in chosen.choices}


def test_images_that_differ_by_more_than_exposures_cover_are_taken_by_their_logarithm() -> None:
    images = [dataclasses.replace(IMAGE, high=high, median=5) for high in (12, 12, 12, 240, 240, 240)]
    chosen = configure(Survey(images), minutes=1, seconds_per_step=lambda *_: 1.0)
    assert chosen["grey_log"] == pytest.approx(5 / 255, rel=0.1)
    # log(1 + 240 / 5.1) = 3.87 and log(1 + 12 / 5.1) = 1.21 differ by a factor of 3.2, and twenty did not
    assert chosen["exposure"][1] == pytest.approx(3.2**0.5, abs=0.02)
    words = [dataclasses.replace(image, dtype="uint16", largest=4000, low=0) for image in images]
    assert configure(Survey(words), minutes=1, seconds_per_step=lambda *_: 1.0)["grey_log"] == 0.002


def test_the_overlay_is_yaml_with_a_reason_above_every_line() -> None:
    chosen = of()
    text = chosen.to_yaml("head")
    assert yaml.safe_load(text) == {choice.setting: choice.value for choice in chosen.choices}
    lines = text.splitlines()[1:]
    assert all(line.startswith("# ") for line in lines[::2])
    assert len(lines) == 2 * len(chosen.choices)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="no mask holds a cell"):
        of(areas=(), whole_areas=())


def test_a_block_is_known_to_one_side_only() -> None:
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, 1:3, 1:3], labels[0, 5:7, 5:7], labels[0, 1:3, 5:7], labels[0, 5:7, 1:3] = 1, 2, 3, 4
    seen = {side: HoldOutBlockd()({"label": labels, "block": side})["label"] for side in ("training", "validation")}
    known = [seen[side] >= 0 for side in ("training", "validation")]
    assert (known[0] ^ known[1]).all()
    assert known[1].sum() == 16
    np.testing.assert_array_equal(HoldOutBlockd()({"label": labels})["label"], labels)


def test_a_block_lies_across_cells_that_are_all_in_one_corner() -> None:
    labels = np.zeros((1, 64, 64), np.int32)
    labels[0, 2:10, 2:10], labels[0, 2:10, 14:22], labels[0, 14:22, 2:10], labels[0, 14:22, 14:22] = 1, 2, 3, 4
    seen = {side: HoldOutBlockd()({"label": labels, "block": side})["label"] for side in ("training", "validation")}
    assert (seen["validation"] >= 0).sum() == 32 * 32
    shares = [int((seen[side] > 0).sum()) for side in ("training", "validation")]
    assert sum(shares) == 256
    assert 32 <= shares[1] <= 96  # a fourth, but for half a cell


def film(frames: int, drift: float) -> list[np.ndarray]:
    """Small pictures of a field that is brighter in its middle, each like the one before and as much of its own."""
    chance = np.random.default_rng(5)
    rows, columns = np.indices((16, 16)) / 15 - 0.5
    pattern, found = chance.normal(size=(16, 16)), []
    for _ in range(frames):
        pattern = np.sqrt(1 - drift**2) * pattern + drift * chance.normal(size=(16, 16))
        found.append((pattern - 6 * (rows**2 + columns**2)).astype(np.float32))
    return found


def held_out(pictures: list[np.ndarray]) -> Configuration:
    images = [dataclasses.replace(IMAGE, thumbnail=picture) for picture in pictures]
    return configure(Survey(images), minutes=30, seconds_per_step=lambda *_: 1.0)


def test_neighbours_are_held_out_of_films_and_images_from_all_over_of_sets() -> None:
    of_film, of_set = held_out(film(30, drift=0.5)), held_out(film(30, drift=1.0))
    assert "spread_folds" not in [choice.setting for choice in of_film.choices]
    assert of_set["spread_folds"] is True
    # three kinds of cells, sorted by name, each with a ground of its own: alike, but no films
    kinds = [
        picture + 2 * np.sign(np.indices((16, 16))[kind % 2] - 8 + kind) for kind in range(3) for picture in film(9, 1)
    ]
    assert held_out(kinds)["spread_folds"] is True
    # of eight, chance says as much
    assert "spread_folds" not in [choice.setting for choice in held_out(film(8, drift=1.0)).choices]


def chosen_for(images: list[ImageFacts]) -> dict[str, Any]:
    choices = configure(Survey(images), minutes=1, seconds_per_step=lambda *_: 1.0).choices
    return {choice.setting: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("dtype", "white", "logarithm"),
    [("uint16", 65535, True), ("float32", 1.0, True), ("uint16", 4095, False)],
)
def test_dim_images_are_not_drowned_by_what_training_adds(dtype: str, white: float, logarithm: bool) -> None:
    """Cells of 600 on 200 with a noise of 25, of 16 bits, beside a speck; and of a camera's 12."""
    scale = 1 / 65535 if dtype == "float32" else 1.0
    ground, cell, noise = (value * scale for value in (200, 600, 25))
    brightest = {65535: 17_700, 4095: 1500}.get(white, 17_700 * scale)
    images = [
        dataclasses.replace(IMAGE, dtype=dtype, low=0.7 * ground, median=ground, high=1.1 * cell, largest=brightest)
        for _ in range(6)
    ]
    chosen = {
        choice.setting: choice.value
        for choice in configure(Survey(images), minutes=1, seconds_per_step=lambda *_: 1.0).choices
    }
    assert ("grey_log" in chosen) == logarithm
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.normal(level, noise, (1, 100, 100)) for level in (ground, cell)]).clip(0)
    meta = {"filename_or_obj": "a.tif", "stored_dtype": dtype}
    scaled = ScaleToUnitRanged("image", maximum=chosen.get("grey_maximum"), logarithm=chosen.get("grey_log"))(
        {"image": MetaTensor(torch.tensor(pixels, dtype=torch.float32), meta=meta)}
    )["image"]
    draw = RandGreyValues(black=chosen.get("black_level", (0.0, 0.1)), noise_std=chosen["noise_std"])
    draw.set_random_state(0)
    trained = [draw(scaled.as_tensor().reshape(1, 200, 100)).reshape(2, -1) for _ in range(40)]

    def told(of: torch.Tensor) -> float:
        return float((of[1].mean() - of[0].mean()) / of.std(dim=1).mean())

    assert np.median([told(one) for one in trained]) > 0.7 * told(scaled.as_tensor().reshape(2, -1))
    offsets = np.std([float(one[0].mean()) for one in trained])
    assert offsets < 0.5 * np.median([float(one[1].mean() - one[0].mean()) for one in trained])


def test_bright_images_of_little_contrast_stay_in_proportion() -> None:
    """Of a logarithm they would have less of it yet."""
    images = 6 * [dataclasses.replace(IMAGE, dtype="uint16", low=29_000, median=30_000, high=31_000, largest=31_500)]
    chosen = {
        choice.setting: choice.value
        for choice in configure(Survey(images), minutes=1, seconds_per_step=lambda *_: 1.0).choices
    }
    assert "grey_log" not in chosen
    assert chosen["black_level"][1] == pytest.approx(1000 / 65535 / 2, rel=0.1)
    assert chosen["noise_std"] < 0.1 * 1000 / 65535


def test_images_of_usual_contrast_have_the_paper_s_black_level() -> None:
    chosen = {choice.setting: choice.value for choice in of().choices}
    assert "black_level" not in chosen
    assert chosen["noise_std"] == 0.004
