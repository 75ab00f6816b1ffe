"""What all masks of a data set together say: no cell in any, or black and white where ids are expected."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import TINY
from monai.transforms import Lambda

from unet_paper.data.annotated_dataset import AnnotatedDataset, ReadOnceDataset
from unet_paper.data.annotation import Annotation
from unet_paper.data.notices import Progress
from unet_paper.running.settings import cause

Run = Callable[..., None]


def dataset(*masks: Any, annotation: Annotation = "instances", key: str = "label") -> AnnotatedDataset:
    data = [{"label": f"{number}.png", "number": str(number)} for number in range(len(masks))]
    read = Lambda(lambda item: {"label": "", key: np.asarray(masks[int(item["number"])])[None]})
    return AnnotatedDataset(data, read, annotation=annotation, progress=False)


BLACK_AND_WHITE = [[255, 0, 255, 0, 255]]


@pytest.mark.parametrize("key", ["label", "instances"])
def test_masks_without_a_cell_are_said_once(key: str, caplog: pytest.LogCaptureFixture) -> None:
    dataset([[0, 0]], [[0, -1]], key=key)
    (record,) = caplog.records
    assert record.getMessage().startswith("none of the 2 masks holds a cell, beginning with 0.png")
    caplog.clear()
    dataset([[0, 0]], [[0, 3]], key=key)
    assert not caplog.records


def test_an_unknown_value_that_no_mask_has_is_said(
    run_bundle: Run, cells_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {**TINY, "dataset_dir": cells_folder, "max_epochs": 1, "steps_per_epoch": 1}
    run_bundle("training", "train", **given, output_dir=str(tmp_path / "run"), ignore_value=250)
    (said,) = (r.getMessage() for r in caplog.records if "--ignore_value" in r.getMessage())
    assert said.startswith("--ignore_value 250: none of the ")
    caplog.clear()
    AnnotatedDataset(
        [{"label": "0.png"}],
        lambda item: item | {"label": np.array([[[0, 3, -1]]])},
        annotation="instances",
        ignore_value=9,
    )
    assert not caplog.records


def test_black_and_white_taken_for_ids_is_refused_with_the_setting_that_helps() -> None:
    with pytest.raises(ValueError, match=r"2 cells in 2 masks, and 2 of them \(ids 255\) .* say --annotation binary"):
        dataset(BLACK_AND_WHITE, BLACK_AND_WHITE, [[0, 0, 0, 0, 0]])


def test_classes_taken_for_ids_are_refused_or_said(caplog: pytest.LogCaptureFixture) -> None:
    both = [[1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 2]]
    with pytest.raises(ValueError, match=r"\(ids 1, 2\) .* say --annotation classes --out_channels 3"):
        dataset(both, both)
    # the second class is whole in all masks
    large = [[1, 0, 2, 2, 2, 1, 0, 1]]
    dataset(large, large)
    (record,) = caplog.records
    assert "4 cells in 2 masks, and 2 of them (ids 1) lie in pieces" in record.getMessage()
    assert "--annotation classes --out_channels 3 if they are classes" in record.getMessage()


@pytest.mark.parametrize(
    "masks",
    [
        ([[7, 0, 7, 7, 7]],),  # a cell and a speck of it
        ([[7, 7, 0, 7, 7]],),  # halves
        ([[1, 0, 1, 0, 1, 2, 3, 4, 5]],),  # one of five
        [[[k, 0, k, 0, k]] for k in range(1, 10)],  # ids that go on from mask to mask
    ],
)
def test_a_cell_in_pieces_is_no_error(masks: Any, caplog: pytest.LogCaptureFixture) -> None:
    dataset(*masks)
    assert not caplog.records


@pytest.mark.parametrize("annotation", ["binary", "instances"])
def test_a_background_taken_for_a_cell_is_said(annotation: Annotation, caplog: pytest.LogCaptureFixture) -> None:
    cell = np.pad(np.ones((2, 2), int), 2)
    turned = 1 - cell
    dataset(turned, turned, cell, annotation=annotation)
    (record,) = caplog.records
    assert "in 2 of 3 masks one cell covers most of the image and lies around" in record.getMessage()
    assert "--background_value" in record.getMessage()
    caplog.clear()
    dataset(turned, cell, cell, annotation=annotation)
    dataset(turned, turned, annotation="classes")
    assert not caplog.records


def test_of_other_annotations_one_id_says_nothing() -> None:
    dataset(BLACK_AND_WHITE, annotation="either")


def test_reading_says_in_the_log_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 8))  # eight seconds an image
    monkeypatch.setattr("unet_paper.data.notices.time.monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, "unet_paper"):
        data = ReadOnceDataset([{"label": str(k)} for k in range(10)], dict, progress=False)
    # after 10 s, then every 30: the tenth image is the last and says nothing
    assert [record.getMessage() for record in caplog.records] == [
        "reading images and masks: 2 of 10, about 2 min to go",
        "reading images and masks: 6 of 10, about 1 min to go",
    ]
    assert len(pickle.loads(pickle.dumps(data))) == 10
    caplog.clear()
    with caplog.at_level(logging.INFO, "unet_paper"):
        quick = Progress(logging.getLogger("unet_paper"), "reading", 3, seconds=1e9)
        for _ in range(3):
            quick.step()
    assert not caplog.records


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
