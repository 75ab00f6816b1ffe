"""Pictures: what is painted where."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from unet_paper.running import figures
from unet_paper.running.evaluation_report import objects_figure


def test_every_cell_has_a_colour_of_its_own_and_background_is_black() -> None:
    instances = np.arange(-1, 200).reshape(1, -1)
    colours = figures.cell_colours(instances)[0]
    assert colours[1].tolist() == [0, 0, 0]
    cells = {tuple(colour) for colour in colours[2:].tolist()}
    assert len(cells) == 199
    assert (0, 0, 0) not in cells
    # ids that follow one another, as neighbours' ids often do, are far apart
    steps = np.abs(np.diff(colours[2:].astype(int), axis=0)).sum(axis=1)
    assert steps.min() > 100


def test_a_case_shows_what_it_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    case = {"image": rng.random((1, 20, 30)), "pred": rng.random((2, 20, 30)), "cells": np.ones((1, 20, 30), int)}
    figure = figures.case_figure(case, title="a case")
    assert [axes.get_title() for axes in figure.axes] == ["image", "probability", "predicted cells"]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), case["pred"][1])
    figures.save_figure(figure, tmp_path / "sub" / "case.png")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["case.png"]
    assert np.asarray(Image.open(tmp_path / "sub" / "case.png")).std() > 0


@pytest.mark.parametrize("shape", [(2000, 5), (5, 2000)])
def test_a_long_thin_image_is_drawn(shape: tuple[int, int], tmp_path: Path) -> None:
    """A picture as tall as its image, at the width of others, has more pixels than Pillow opens."""
    cells = np.zeros((1, *shape), np.int32)
    cells[0, 2:4, 2:4] = 1
    case = {"image": np.zeros((1, *shape)), "pred": np.full((2, *shape), 0.5), "cells": cells, "instances": cells}
    for name, figure in (("case", figures.case_figure(case)), ("objects", objects_figure(case))):
        figures.save_figure(figure, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert max(picture.size) < 2**14


def test_losses_and_scores_have_axes_of_their_own() -> None:
    rows = [
        {"epoch": 1, "step": 5, "train_loss": 2.0, "SEG": 0.1},
        {"epoch": 2, "step": 10, "train_loss": 1.0, "SEG": 0.4},
    ]
    losses, scores = figures.curve_figure(rows).axes
    assert [line.get_label() for line in losses.lines] == ["train_loss"]
    assert [line.get_label() for line in scores.lines] == ["SEG"]
    assert scores.lines[0].get_xdata().tolist() == [5, 10]


@pytest.mark.parametrize(
    ("source", "name"),
    [("set/01/t007.tif", "01_t007"), ("em/train-volume.tif#12", "em_train-volume_012"), ("a.nii.gz", "a")],
)
def test_names_of_cases(source: str, name: str) -> None:
    image = SimpleNamespace(meta={"filename_or_obj": source})
    assert figures.case_name(image) == name


def test_cases_that_have_one_name_are_told_apart() -> None:
    sources = ["day1/images/001.tif", "day2/images/001.tif", "day1/images/001.png", "day1/images/002.tif"]
    names = figures.CaseNames()
    images = [SimpleNamespace(meta={"filename_or_obj": source}) for source in sources]
    expected = ["images_001", "images_001.2", "images_001.3", "images_002"]
    assert [names(image) for image in images] == expected
    assert [names(image) for image in reversed(images)] == expected[::-1]
