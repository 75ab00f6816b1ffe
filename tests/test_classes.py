"""Several kinds of cells: ids that say their class, on the way from a mask to scores, weights and predictions."""

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
import yaml
from conftest import CONFIGS, TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from unet_paper.app.segmenter import Segmenter
from unet_paper.classes import cell_probability, class_of, instance_ids, label_each_class, next_id
from unet_paper.data.annotation import InstancesFromAnnotationd
from unet_paper.instances import LabelInstancesd, label_instances
from unet_paper.large.job import LargePrediction
from unet_paper.metrics.ctc import ctc_seg
from unet_paper.metrics.iou import iou
from unet_paper.metrics.monai_metrics import CTCDet, CTCSeg, IoU, PixelError
from unet_paper.network import UNet
from unet_paper.paste_cells import RandPasteCells
from unet_paper.probability import class_probabilities
from unet_paper.running import checkpoint, facts
from unet_paper.running.evaluation_report import MATCHED, MISSED, paint_objects
from unet_paper.running.figures import case_figure
from unet_paper.running.settings import cause
from unet_paper.weight_map import WeightMap, class_balance, weight_map

Run = Callable[..., None]


def annotated(mask: Any, **given_: Any) -> NDArray[Any]:
    """Instance image (H, W) of a mask (H, W) of classes."""
    transform = InstancesFromAnnotationd(**{"annotation": "classes", "num_classes": 3, **given_})
    return np.asarray(transform({"label": np.asarray(mask)[None]})["label"][0])


class TestIds:
    @settings(max_examples=50, deadline=None)
    @given(
        numbers=hnp.arrays(np.int32, 5, elements=st.integers(0, 1000)), num_classes=st.integers(2, 9), data=st.data()
    )
    def test_an_id_says_its_class_and_no_two_cells_share_one(
        self, numbers: NDArray[np.int32], num_classes: int, data: st.DataObject
    ) -> None:
        k, other = (data.draw(st.integers(1, num_classes - 1)) for _ in range(2))
        ids = instance_ids(numbers, k, num_classes)
        np.testing.assert_array_equal(class_of(ids, num_classes), np.where(numbers > 0, k, 0))
        assert len(np.unique(ids)) == len(np.unique(numbers))
        if other != k:
            assert not set(ids[ids > 0].tolist()) & set(instance_ids(numbers, other, num_classes).tolist())
        further = next_id(ids, other, num_classes)
        assert further > ids.max()
        assert class_of(np.array(further), num_classes) == other

    def test_of_two_classes_an_id_is_the_number(self) -> None:
        np.testing.assert_array_equal(instance_ids(np.arange(4, dtype=np.int32), 1, 2), [0, 1, 2, 3])
        assert next_id(np.array([0, 7]), 1, 2) == 8


class TestAnnotation:
    def test_components_of_each_class_are_cells_that_touch_or_not(self) -> None:
        found = annotated([[1, 1, 2, 0, 1, 2]])
        np.testing.assert_array_equal(class_of(found, 3), [[1, 1, 2, 0, 1, 2]])
        assert len(set(found[0, [0, 2, 4, 5]].tolist())) == 4
        assert found[0, 0] == found[0, 1]

    @settings(max_examples=30, deadline=None)
    @given(mask=hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 1)))
    def test_two_classes_are_a_binary_mask(self, mask: NDArray[np.uint8]) -> None:
        np.testing.assert_array_equal(
            annotated(mask, num_classes=2), annotated(mask, num_classes=2, annotation="binary")
        )

    def test_a_class_may_lie_in_many_pieces_without_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        mask = np.zeros((20, 20), np.uint8)
        mask[::4, ::4], mask[2::4, 2::4] = 1, 2
        assert len(np.unique(annotated(mask))) == 51
        assert not caplog.records

    def test_such_a_mask_taken_for_ids_is_refused_with_the_setting_that_helps(self) -> None:
        mask = np.zeros((20, 20), np.uint8)
        mask[::4, ::4], mask[2::4, 2::4] = 1, 2
        with pytest.raises(ValueError, match="say --annotation classes --out_channels 3 if they are"):
            annotated(mask, annotation="instances", num_classes=2)

    def test_a_class_that_is_missing_in_an_image_is_no_matter(self) -> None:
        np.testing.assert_array_equal(class_of(annotated([[0, 2, 2]]), 3), [[0, 2, 2]])

    def test_unknown_pixels_are_of_no_class(self) -> None:
        np.testing.assert_array_equal(annotated([[1, 255, 1, 2]], ignore_value=255), [[1, -1, 3, 2]])

    @pytest.mark.parametrize(
        ("mask", "given_", "message"),
        [
            ([[0, 3]], {}, r"'label' holds the value 3, and with out_channels=3 .* 0 to 2: say --out_channels 4 if"),
            ([[0, 255]], {"num_classes": 2}, "--ignore_value 255 if it is unknown, --annotation binary if"),
            ([[0, 1, 2]], {"background_value": 1}, "holds the value 0, below .* say --ignore_value 0 if it means unk"),
            ([[0, -1]], {}, "holds the value -1, below that of the background"),
        ],
    )
    def test_other_values_are_refused_with_a_remedy(self, mask: Any, given_: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            annotated(mask, **given_)

    def test_classes_count_from_the_background(self) -> None:
        np.testing.assert_array_equal(class_of(annotated([[1, 2, 3]], background_value=1), 3), [[0, 1, 2]])

    def test_a_mask_without_background_or_without_a_cell_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        annotated([[1, 2]])
        assert "no pixel is background (0): say --background_value 1" in caplog.text
        annotated([[0, 0]])
        assert "no cell is drawn" in caplog.text

    @pytest.mark.parametrize(
        ("annotation", "remedy"),
        [
            ("binary", "say --annotation classes"),
            ("instances", "say --annotation classes"),
            ("either", "in MONAI Label no more can be drawn; train with train.yaml, --annotation classes"),
        ],
    )
    def test_other_masks_tell_no_classes(self, annotation: str, remedy: str) -> None:
        with pytest.raises(ValueError, match=f"out_channels=3: .* {remedy}"):
            InstancesFromAnnotationd(annotation=annotation, num_classes=3)  # type: ignore[arg-type]

    def test_one_class_is_none(self) -> None:
        with pytest.raises(ValueError, match="out_channels=1: at least 2"):
            InstancesFromAnnotationd(annotation="classes", num_classes=1)


class TestWeights:
    def test_every_class_that_is_there_weighs_the_same_in_the_sum(self) -> None:
        instances = annotated([[0] * 6 + [1] * 3 + [2]])
        # n / (K n_k) by hand: 10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)
        assert class_balance(instances, num_classes=3) == pytest.approx((10 / 18, 10 / 9, 10 / 3))
        # the limit takes 2 pixels' weight from the rarest: 8 are left for the others, 4 for each
        assert class_balance(instances, 2.0, num_classes=3) == pytest.approx((4 / 6, 4 / 3, 2.0))

    def test_an_absent_class_weighs_one_and_unknown_pixels_do_not_count(self) -> None:
        instances = annotated([[0, 0, 0, 2, 9]], ignore_value=9)
        assert class_balance(instances, num_classes=3) == pytest.approx((4 / 6, 1.0, 2.0))

    def test_a_pixel_has_the_weight_of_its_class_and_the_border_term(self) -> None:
        instances = annotated([[0, 1, 0, 2]])
        found = weight_map(instances, w0=10, sigma=5, class_weights=(0.5, 2.0, 3.0), num_classes=3)
        distances = np.array([1 + 3, 0 + 2, 1 + 1, 0 + 2])  # d1 + d2
        np.testing.assert_allclose(found[0], np.array([0.5, 2, 0.5, 3]) + 10 * np.exp(-(distances**2) / 50), rtol=1e-6)

    def test_the_border_is_cut_between_cells_of_one_class_alone(self) -> None:
        one, another, of_other_class = 1, 3, 2
        label, weight = WeightMap(num_classes=3)(np.array([[[one, one, another, another, of_other_class, -1]]]))
        np.testing.assert_array_equal(label, [[[1, 0, 0, 1, 2, 0]]])
        assert weight[0, 0, -1] == 0

    def test_as_many_weights_as_classes(self) -> None:
        with pytest.raises(ValueError, match="3 finite weights"):
            WeightMap(num_classes=3, class_weights=(1.0, 1.0))

    def test_a_pasted_cell_keeps_its_class(self) -> None:
        instances = np.zeros((80, 80), np.int32)
        instances[20:30, 20:30], instances[50:60, 50:60] = 2, 4
        _, labels = RandPasteCells(count=(3, 3), halo=3, num_classes=3).set_random_state(0)(
            np.zeros((1, 80, 80), np.float32), instances
        )
        assert len(np.unique(labels)) > 3
        assert set(class_of(np.unique(labels), 3).tolist()) == {0, 2}


class TestCells:
    def test_each_class_has_its_own_components_and_a_cell_is_as_probable_as_all_of_them(self) -> None:
        background = [0.1, 0.4, 0.1, 0.9, 0.2]
        first = [0.8, 0.4, 0.1, 0.05, 0.1]
        second = [0.1, 0.2, 0.8, 0.05, 0.7]
        item = {"pred": np.array([background, first, second])[:, None]}
        cells = LabelInstancesd(regrow=0, threshold=0.5)(item)["cells"]
        # the second pixel is a cell with 0.6, and rather of the first class
        np.testing.assert_array_equal(cells, [[[1, 1, 2, 0, 4]]])

    def test_a_hole_is_filled_but_no_cell_of_another_class_in_it(self) -> None:
        ring = np.ones((7, 7))
        ring[2:5, 2:5] = 0
        inner = np.zeros((7, 7))
        inner[3, 3] = 1
        found = label_each_class(np.stack([ring, inner]), lambda p: label_instances(p, regrow=0, fill_holes=True))
        expected = np.ones((7, 7))
        expected[3, 3] = 2
        np.testing.assert_array_equal(found, expected)

    def test_the_probability_of_a_cell_is_that_of_all_its_classes(self) -> None:
        of_classes = np.array([0.5, 0.25, 0.25])[:, None, None]
        np.testing.assert_array_equal(cell_probability(of_classes), [[0.5]])
        cell = np.array([0.3, 0.7])[:, None, None]
        np.testing.assert_array_equal(cell_probability(cell), [[0.7]])


class TestScores:
    reference = torch.tensor([[[[1, 1, 0, 2, 2, -1]]]])

    def test_a_cell_of_another_class_was_not_found(self) -> None:
        prediction = torch.tensor([[[[1, 1, 0, 1, 1, 0]]]])
        metric = CTCSeg(num_classes=3)
        metric(prediction, self.reference)
        # the first is found by id 1, which covers two pixels more: 2 / 4
        assert metric.aggregate() == (0.5 + 0) / 2
        # whatever the class, it would match both
        assert ctc_seg(prediction[0, 0].numpy(), self.reference[0, 0].numpy()) == (0.5 + 0.5) / 2
        detected = CTCDet(num_classes=3)
        detected(prediction, self.reference)
        np.testing.assert_array_equal(detected.get_buffer().shape, (1, 1))
        assert detected.row(prediction[0].numpy(), self.reference[0, 0].numpy()).tolist() == [2, 0, 1, 0]

    def test_iou_is_the_mean_of_the_classes_that_are_there(self) -> None:
        prediction = torch.tensor([[[[1, 0, 0, 2, 2, 2]]]])
        scores = {}
        for k in (None, 1, 2, 3):
            metric = IoU(num_classes=4, of_class=k)
            metric(*(torch.where(image == 0, 0, image) for image in (prediction, self.reference)))
            scores[k] = float(metric.aggregate())
        # ids of four classes: 1 and 2 are the first of classes 1 and 2
        assert scores[1] == 1 / 2
        assert scores[2] == 1
        assert np.isnan(scores[3])
        assert scores[None] == (1 / 2 + 1) / 2

    def test_a_class_without_a_cell_has_no_seg(self) -> None:
        metric = CTCSeg(num_classes=3, of_class=2)
        metric(torch.tensor([[[[1, 2]]]]), torch.tensor([[[[1, 0]]]]))
        assert torch.isnan(metric.aggregate())

    def test_cells_against_background_take_any_number_of_classes(self) -> None:
        probabilities = torch.tensor([0.2, 0.4, 0.4]).reshape(1, 3, 1, 1)
        metric = PixelError(threshold=0.5)
        metric(probabilities, torch.tensor([[[[2]]]]))
        assert metric.aggregate() == 0

    @pytest.mark.parametrize("num_classes", [3, 4, 6])
    def test_a_network_that_is_sure_of_cells_is_scored_although_probabilities_are_rounded(
        self, num_classes: int
    ) -> None:
        scores = 3 * torch.randn(num_classes, 64, 64, generator=torch.Generator().manual_seed(0))
        scores[0] = -30
        probabilities = class_probabilities(scores)
        assert float(probabilities[1:].sum(dim=0).max()) > 1
        assert float(cell_probability(probabilities.numpy()).max()) == 1
        metric = PixelError()
        metric(probabilities[None], torch.ones((1, 1, 64, 64), dtype=torch.int64))
        assert metric.aggregate() == 0

    def test_pictures_match_within_the_class(self) -> None:
        image, reference = np.zeros((8, 8)), np.zeros((8, 8), np.int64)
        reference[2:6, 2:6] = 1
        right, wrong = (paint_objects(image, reference + k * (reference > 0), reference, num_classes=3) for k in (0, 1))
        share = 0.35 * np.array([MATCHED, MISSED])
        np.testing.assert_allclose(right[3, 3], share[0], atol=1)
        np.testing.assert_allclose(wrong[3, 3], share[1], atol=1)
        case = {"pred": np.full((3, 4, 4), 1 / 3), "cells": np.ones((1, 4, 4), int)}
        assert len(case_figure(case).axes) == 2


def test_names_of_classes_are_as_many_and_differ() -> None:
    assert facts.class_names(None, 3) == ["background", "class 1", "class 2"]
    with pytest.raises(ValueError, match="one name for each of out_channels=3"):
        facts.class_names(["background", "cell"], 3)
    with pytest.raises(ValueError, match="a name of its own"):
        facts.class_names(["background", "a b", "A_B"], 3)


def discs(size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask of bright discs, class 1, and dark ones, class 2; of class 1 alone where the seed is 0."""
    random = np.random.default_rng(seed)
    image, mask = np.full((size, size), 128.0), np.zeros((size, size), np.uint8)
    rows, columns = np.mgrid[:size, :size]
    for number, (y, x) in enumerate((y, x) for y in range(16, size, 32) for x in range(16, size, 32)):
        k = 1 + number % 2 if seed else 1
        disc = (rows - y - random.integers(-4, 5)) ** 2 + (columns - x - random.integers(-4, 5)) ** 2 <= 81
        image[disc], mask[disc] = (220, 1) if k == 1 else (40, 2)
    return (image + random.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and masks of a lab with two kinds of cells; the first of the images held out has one kind only."""
    folder = tmp_path_factory.mktemp("kinds")
    for number in range(4):
        for kind, content in zip(("images", "masks"), discs(96, number), strict=True):
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"{number}.tif", content)
    return folder


NAMES = ["background", "bright", "dark"]
LAB = {**TINY, "annotation": "classes", "out_channels": 3, "classes": NAMES, "learning_rate": 0.01}
ADAM = {"dropout": 0.0, "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.01}}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_two_kinds_of_cells_from_masks_to_tables(
    run_bundle: Run, two_kinds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, output = tmp_path / "run", tmp_path / "out"
    lab: dict[str, Any] = {**LAB, **ADAM, "dataset_dir": str(two_kinds), "output_dir": str(run), "steps_per_epoch": 25}
    run_bundle("training", "train", "data_folder", **{**lab, "max_epochs": 1}, choose_cells=True)
    run_bundle("training", "train", "data_folder", **{**lab, "max_epochs": 2}, choose_cells=True, resume=True)
    (last,) = rows(run / "metrics.csv")[1:]
    assert {"SEG", "IoU", "SEG_bright", "SEG_dark", "IoU_bright", "IoU_dark"} <= last.keys()
    assert float(last["IoU"]) == pytest.approx((float(last["IoU_bright"]) + float(last["IoU_dark"])) / 2, abs=1e-6)
    assert float(last["IoU_dark"]) > 0.5
    told = facts.read(run / "model.pt")
    assert told["out_channels"] == 3
    assert list(told["classes"]) == NAMES

    weights = {"ckpt_path": str(run / "model.pt"), "device": "cpu"}
    run_bundle("run", "inference", **weights, dataset_dir=str(two_kinds / "images"), output_dir=str(output))
    cells, classes = (tifffile.imread(output / f"1_{kind}.tif") for kind in ("cells", "classes"))
    np.testing.assert_array_equal(classes, class_of(cells, 3))
    mask = tifffile.imread(two_kinds / "masks" / "1.tif")
    for k in (1, 2):
        assert iou(classes == k, mask == k) > 0.5
        middles = np.rint(ndimage.center_of_mass(mask == k, *ndimage.label(mask == k)[:1], range(1, 4))).astype(int)
        assert (classes[tuple(middles.T)] == k).all()
    table = rows(output / "1_cells.csv")
    assert {int(row["id"]): row["class"] for row in table} == {
        int(number): NAMES[class_of(np.array(number), 3)] for number in np.unique(cells) if number
    }
    found = Segmenter.from_checkpoint(run / "model.pt", device="cpu")(tifffile.imread(two_kinds / "images" / "1.tif"))
    np.testing.assert_array_equal(found.labels, cells)
    assert found.table["class"].tolist() == [row["class"] for row in table]
    summary = {row["image"]: row for row in rows(output / "summary.csv")}
    assert int(summary["1.tif"]["cells_dark"]) == sum(row["class"] == "dark" for row in table)
    features = json.loads((output / "1.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"bright", "dark"}

    run_bundle("evaluating", "train", "data_folder", "evaluate", **{**lab, "out_channels": 3})
    scores = json.loads((run / "evaluation" / "summary.json").read_text())["scores"]
    assert scores["IoU_dark"] == pytest.approx(float(last["IoU_dark"]), abs=0.05)
    by_case = {row["case"]: row for row in rows(run / "evaluation" / "cases.csv")}
    assert by_case["images_0"]["SEG_dark"] == "nan"
    assert by_case["images_1"]["SEG_dark"] != "nan"

    run_bundle("run", "inference", "export", **weights, export_path=str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape[1] == 3
    assert "bright" in str(session.get_modelmeta().custom_metadata_map)

    run_bundle("run", "inference", "export", **weights, export_path=str(tmp_path / "model.ts"))
    scripted: dict[str, Any] = {"ckpt_path": str(tmp_path / "model.ts"), "device": "cpu", "outputs": ["table"]}
    scripted |= {"dataset_dir": str(two_kinds / "images" / "1.tif"), "output_dir": str(tmp_path / "scripted")}
    run_bundle("run", "inference", "inference_torchscript", **scripted)
    again = tifffile.imread(tmp_path / "scripted" / "1_classes.tif")
    assert np.mean(again == classes) > 0.999
    assert {row["class"] for row in rows(tmp_path / "scripted" / "1_cells.csv")} == {"bright", "dark"}

    # further with a network for two classes, of cells of one kind
    fine: dict[str, Any] = {name: value for name, value in TINY.items() if name != "features"}
    fine |= {"max_epochs": 1, "steps_per_epoch": 1, "dataset_dir": str(two_kinds), "output_dir": str(tmp_path / "fine")}
    fine |= {"annotation": "classes", "ignore_value": 2, "pretrained": str(run / "model.pt")}
    with caplog.at_level(logging.WARNING):
        run_bundle("training", "train", "data_folder", "fine_tune", **fine)
    assert "tells 3 classes apart, this network 2: its classifier starts from chance" in caplog.text
    assert facts.read(tmp_path / "fine" / "model.pt")["out_channels"] == 2


def test_of_three_classes_too_resumed_equals_uninterrupted(run_bundle: Run, two_kinds: Path, tmp_path: Path) -> None:
    lab: dict[str, Any] = {**LAB, **ADAM, "dataset_dir": str(two_kinds), "max_epochs": 2, "steps_per_epoch": 2}
    run_bundle("training", "train", "data_folder", **lab, output_dir=str(tmp_path / "whole"))
    run_bundle("training", "train", "data_folder", **{**lab, "max_epochs": 1}, output_dir=str(tmp_path / "parts"))
    run_bundle("training", "train", "data_folder", **lab, output_dir=str(tmp_path / "parts"), resume=True)
    whole, parts = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts["network"][name]) for name, value in whole["network"].items())
    last, resumed = (rows(tmp_path / name / "metrics.csv")[-1] for name in ("whole", "parts"))
    assert {**last, "seconds": ""} == {**resumed, "seconds": ""}


def test_two_processes_train_three_classes_and_score_as_one(run_bundle: Run, two_kinds: Path, tmp_path: Path) -> None:
    """One of them validates an image without a cell of the second kind."""
    lab: dict[str, Any] = {**LAB, "dataset_dir": str(two_kinds), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    lab |= {"dropout": 0.0, "grey_mean": 0.5, "grey_std": 0.2, "steps_per_epoch": 8}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(lab))
    configs = [str(CONFIGS / f"{name}.yaml") for name in ("train", "data_folder", "best_folder", "multi_gpu_train")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "training", "--config_file", str([*configs, str(tmp_path / "lab.yaml")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (trained,) = rows(tmp_path / "run" / "metrics.csv")
    run_bundle("evaluating", "train", "data_folder", "best_folder", "evaluate", **lab)
    scores = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())["scores"]
    for name in ("PQ", "F1", "SEG", "IoU", "SEG_bright", "SEG_dark", "IoU_bright", "IoU_dark"):
        assert float(trained[name]) == pytest.approx(scores[name], abs=1e-6), name
    assert scores["IoU_dark"] > 0


def test_a_classifier_of_other_classes_starts_from_chance_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    given_, network = UNet(features=[4, 8]), UNet(out_channels=3, features=[4, 8])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checkpoint.save(given_.state_dict(), tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"classifier\.weight has shape"):
        checkpoint.load_weights(network, tmp_path / "two.pt")
    checkpoint.load_weights(network, tmp_path / "two.pt", other_classes=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("classifier.") else given_.state_dict()[name]), name


def test_blocks_refuse_several_kinds_of_cells_with_the_road_that_takes_them(tmp_path: Path) -> None:
    network = {"in_channels": 1, "out_channels": 3, "features": [4, 8], "preset": "paper"}
    with pytest.raises(ValueError, match=r"m\.pt: tells 3 classes apart, .* predict them with the config inference"):
        LargePrediction(
            dataset_dir=tmp_path,
            output_dir=tmp_path / "out",
            ckpt_path="m.pt",
            network=network,
            grey_mean=0,
            grey_std=1,
        )
    assert not (tmp_path / "out").exists()


def test_masks_that_tell_no_classes_are_refused_before_anything_is_trained(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    wrong = {**TINY, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "out_channels": 3}
    with pytest.raises(RuntimeError) as info:
        run_bundle("training", "train", **wrong)
    assert "out_channels=3: masks of annotation='instances' tell cells from background" in str(cause(info.value))
    assert not (tmp_path / "run" / "last.pt").exists()
