"""Label images for MONAI Label's writer, and training on what people have drawn."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from unet_paper.data.reader import PageReader
from unet_paper.network import UNet
from unet_paper.release.monai_label import LabelImaged, PublishWeights, labelled_images
from unet_paper.running import checkpoint

load = Compose([LoadImaged("image", reader=PageReader()), EnsureChannelFirstd("image")])


def item_of(path: Path, ids: Any) -> dict[str, Any]:
    return {"image": load({"image": str(path)})["image"], "pred": torch.as_tensor(np.asarray(ids)[None])}


@pytest.fixture
def png(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_axes_are_reversed_in_label_and_in_the_images_metadata(png: Path) -> None:
    item = LabelImaged()(item_of(png, [[0, 1, 2], [0, 300, 0]]))
    assert item["pred"].dtype == np.uint16
    assert item["pred"].tolist() == [[0, 0], [1, 300], [2, 0]]
    assert item["image"].shape == (1, 3, 2)
    assert list(item["image"].meta["spatial_shape"]) == [3, 2]
    assert "result_extension" not in item


def test_a_nifti_image_gets_back_the_affine_of_its_file(tmp_path: Path) -> None:
    affine = np.array([[0.0, 2.0, 0, 5], [3.0, 0, 0, 7], [0, 0, 4.0, 9], [0, 0, 0, 1]])
    for name, shape in (("plane", (3, 2)), ("volume", (3, 2, 1))):
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
        item = LabelImaged()(item_of(path, [[0, 1, 2], [0, 3, 0]]))
        assert item["pred"].shape == (3, 2, 1)
        assert item["pred"][2, 0, 0] == 2
        assert list(item["image"].meta["spatial_shape"]) == [3, 2, 1]
        np.testing.assert_array_equal(item["image"].meta["original_affine"], affine)


def test_in_a_mask_touching_cells_are_parted(png: Path) -> None:
    Image.fromarray(np.zeros((2, 6), np.uint8)).save(png)
    item = LabelImaged(cell_ids=False)(item_of(png, [[7, 7, 7, 9, 9, 9], [0, 0, 0, 0, 0, 0]]))
    assert item["pred"].T.tolist() == [[1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_formats_that_lose_pixels_hold_no_labels(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "a.jpg")
    assert LabelImaged()(item_of(tmp_path / "a.jpg", np.zeros((2, 3), int)))["result_extension"] == ".png"


def test_what_16_bits_cannot_number_is_refused(png: Path) -> None:
    ids = np.full((2, 3), 65536)
    with pytest.raises(ValueError, match="65536 cells"):
        LabelImaged()(item_of(png, ids))
    assert LabelImaged(cell_ids=False)(item_of(png, ids))["pred"].max() == 1
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\)"):
        LabelImaged()({**item_of(png, ids), "pred": torch.zeros(2, 2, 3)})


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, str]]:
    for name, shape in (("image", (4, 5)), ("label", (4, 5)), ("turned", (5, 4))):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros(shape, np.uint8))
    return [
        {"image": str(tmp_path / "image.tif"), "label": str(tmp_path / f"{name}.tif")} for name in ("label", "turned")
    ]


def test_labelled_images_are_checked_before_training(cases: list[dict[str, str]]) -> None:
    assert labelled_images(cases[:1], lambda case: case["label"])[0] == cases[0]["label"]
    with pytest.raises(ValueError, match="no labelled image"):
        labelled_images([], lambda case: case)
    with pytest.raises(ValueError, match=r"turned\.tif 5x4"):
        labelled_images(cases, lambda case: case)


def test_without_images_for_validation_those_of_training_are_scored(
    cases: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = labelled_images([], lambda case: case["label"], otherwise=cases[:1])
    assert list(dataset) == [cases[0]["label"]]
    assert "training images" in caplog.text


def test_weights_are_published_when_training_is_complete_and_not_before(tmp_path: Path) -> None:
    network = UNet(features=[2, 4])
    checkpoint.save(network.state_dict(), tmp_path / "model.pt")
    target = tmp_path / "models" / "model.pt"
    handler = PublishWeights(tmp_path, target)

    def fail(_engine: Engine, _batch: int) -> None:
        raise RuntimeError("interrupted")

    trainer = Engine(fail)
    handler.attach(trainer)
    trainer.logger.disabled = True
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.run([0])
    assert not target.exists()

    trainer = Engine(lambda _engine, _batch: None)
    handler.attach(trainer)
    trainer.run([0], max_epochs=2)
    published = checkpoint.read_weights(target)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(published[name], value.half().float(), rtol=0, atol=0)
