"""What all masks of a data set together say: no cell in any, or black and white where ids are expected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import TINY

from unet_paper.data.annotated_dataset import AnnotatedDataset
from unet_paper.data.annotation import Annotation
from unet_paper.running.settings import cause

Run = Callable[..., None]


def dataset(*masks: Any, annotation: Annotation = "instances", key: str = "label") -> AnnotatedDataset:
    data = [{"label": f"{number}.png", "number": str(number)} for number in range(len(masks))]
    return AnnotatedDataset(
        data, lambda item: {key: np.asarray(masks[int(item["number"])])[None]}, annotation=annotation, progress=False
    )


BLACK_AND_WHITE = [[255, 0, 255, 0, 255]]


@pytest.mark.parametrize("key", ["label", "instances"])
def test_masks_without_a_cell_are_said_once(key: str, caplog: pytest.LogCaptureFixture) -> None:
    dataset([[0, 0]], [[0, -1]], key=key)
    (record,) = caplog.records
    assert record.getMessage().startswith("none of the 2 masks holds a cell, beginning with 0.png")
    caplog.clear()
    dataset([[0, 0]], [[0, 3]], key=key)
    assert not caplog.records


def test_black_and_white_taken_for_ids_is_refused_with_the_setting_that_helps() -> None:
    with pytest.raises(ValueError, match=r"each of 2 masks holds one id, 255, .* say --annotation binary"):
        dataset(BLACK_AND_WHITE, BLACK_AND_WHITE, [[0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    "masks",
    [
        ([[255, 0, 255, 0, 255]], [[254, 0, 254, 0, 254]]),  # a cell of its own in each
        ([[7, 0, 7, 7, 7]],),  # a cell and a speck of it
        ([[7, 7, 0, 7, 7]],),  # halves
        (BLACK_AND_WHITE, [[255, 255, 255, 0, 0]]),  # half of the masks only
    ],
)
def test_a_cell_in_pieces_is_no_error(masks: Any) -> None:
    dataset(*masks)


def test_of_other_annotations_one_id_says_nothing() -> None:
    dataset(BLACK_AND_WHITE, annotation="either")


def test_a_training_is_refused_before_its_first_step(run_bundle: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((96, 96), np.uint8)
    mask[8:20, 8:20], mask[40:52, 40:52], mask[70:82, 20:32] = 255, 255, 255
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(2):
            content = mask if kind == "masks" else random.integers(0, 255, mask.shape).astype(np.uint8)
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", content)
    settings = {**TINY, "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run")}
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", "data_folder", **settings)
    assert "say --annotation binary, by which every piece is a cell" in str(cause(info.value))
    assert not (tmp_path / "run" / "last.pt").exists()
