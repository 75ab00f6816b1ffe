"""Label images for MONAI Label's writer, and training on what people have drawn."""

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from unet_paper.data.reader import PageReader
from unet_paper.network import UNet
from unet_paper.release import polygons
from unet_paper.release.monai_label import (
    LabelImaged,
    PublishWeights,
    as_label_image,
    labelled_images,
    replace_weights,
)
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
    with pytest.raises(ValueError, match=r"turned\.tif.*5x4"):
        labelled_images(cases[1:], lambda case: case)


def test_what_cannot_be_read_is_left_out_and_named(
    cases: list[dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cut.tif").write_bytes((tmp_path / "label.tif").read_bytes()[:40])
    (tmp_path / "old.xml").write_text("<a/>")
    unreadable = [{**cases[0], "label": str(tmp_path / name)} for name in ("cut.tif", "old.xml", "gone.tif")]
    dataset = labelled_images([*unreadable, *cases], lambda case: case["label"])
    assert list(dataset) == [cases[0]["label"]]
    for name in ("cut.tif", "old.xml", "gone.tif", "turned.tif"):
        assert name in caplog.text


def test_a_type_that_a_client_asks_for_never_wraps_ids(png: Path) -> None:
    for asked, largest, written in (
        ("uint8", 255, "uint8"),
        ("uint8", 256, "uint16"),
        ("uint16", 256, "uint16"),
        ("int16", 256, "uint16"),
        ("float32", 65535, "float32"),
    ):
        item = {**item_of(png, np.full((2, 3), largest)), "result_dtype": asked}
        assert LabelImaged()(item)["result_dtype"] == written, asked
    assert "result_dtype" not in LabelImaged()(item_of(png, np.full((2, 3), 256)))


def test_labels_that_programs_send_become_files_that_training_reads(png: Path, tmp_path: Path) -> None:
    xml = polygons.to_xml([[(1.0, 0.0), (3.0, 0.0), (3.0, 2.0), (1.0, 2.0)]], "cell", (3, 2), {})
    (tmp_path / "sent.xml").write_bytes(xml)
    segments = {"Segment0_ID": "a", "Segment0_LabelValue": "4", "Segmentation_ReferenceImageExtentOffset": "1 0 0"}
    nrrd.write(str(tmp_path / "sent.seg.nrrd"), np.full((1, 1, 1), 4, np.uint8), segments)
    (tmp_path / "new").mkdir()
    found = {}
    for name in ("sent.xml", "sent.seg.nrrd"):
        file = as_label_image(tmp_path / name, png, tmp_path / "new")
        found[name] = PageReader().get_data(str(file))[0].tolist()
    assert found == {"sent.xml": [[0, 1, 1], [0, 1, 1]], "sent.seg.nrrd": [[0, 4, 0], [0, 0, 0]]}
    nrrd.write(str(tmp_path / "same.nrrd"), np.ones((3, 2), np.uint8))
    assert as_label_image(tmp_path / "same.nrrd", png, tmp_path / "new") == tmp_path / "same.nrrd"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.svs", b"", "cannot be read; send"),
        ("a.xml", b"<a/>", "not the XML of annotations"),
        ("a.png", b"no image", "cannot be read"),
        ("a.tif", np.zeros((3, 2), np.uint8), r"3x2, and the image has 2x3 px"),
        ("a.tif", np.full((2, 3), -1, np.int16), "holds -1"),
        ("a.tif", np.full((2, 3), 0.5, np.float32), "whole"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused(
    name: str, content: Any, says: str, png: Path, tmp_path: Path
) -> None:
    sent = tmp_path / "sent" / name
    sent.parent.mkdir()
    sent.write_bytes(content) if isinstance(content, bytes) else tifffile.imwrite(sent, content)
    with pytest.raises(ValueError, match=says):
        as_label_image(sent, png, tmp_path)


def test_weights_replace_those_in_use_only_if_they_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, target, sent = UNet(features=[2, 4]), tmp_path / "model.pt", tmp_path / "sent.pt"
    checkpoint.save(UNet(features=[2, 4]).state_dict(), target)
    before = target.read_bytes()
    diverged = {name: value * float("nan") for name, value in UNet(features=[2, 4]).state_dict().items()}
    for content in (UNet(features=[2, 3]).state_dict(), diverged, {}, [1, 2]):
        torch.save(content, sent)
        with pytest.raises(ValueError):
            replace_weights(network, sent, target)
        assert target.read_bytes() == before
    sent.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"sent\.pt"):
        replace_weights(network, sent, target)
    good = UNet(features=[2, 4]).state_dict()
    torch.save(good, sent)
    assert replace_weights(network, sent, target) == checkpoint.sha256(target)
    found = checkpoint.read_weights(target)
    for name, value in good.items():
        torch.testing.assert_close(found[name], value.half().float(), rtol=0, atol=0)


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
