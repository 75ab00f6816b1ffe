"""Packages for BioImage.IO: what is in them, and that each kind of weights gives what the package says."""

import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch
import yaml
from conftest import CONFIGS
from numpy.typing import NDArray
from PIL import Image

from unet_paper import label_instances
from unet_paper.instances import PRESETS
from unet_paper.network import FACTS, UNet
from unet_paper.release import bioimage_io, bioimage_io_card
from unet_paper.running import checkpoint
from unet_paper.running.facts import Facts
from unet_paper.running.settings import cause

Run = Callable[..., None]
BUNDLE = CONFIGS.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that halves its images, with all that a run leaves in its weights."""
    torch.manual_seed(0)
    facts = Facts(
        in_channels=1,
        out_channels=2,
        features=[4, 8, 16],
        preset="paper",
        dropout=0.5,
        grey_mean=0.4,
        grey_std=0.2,
        magnification=0.5,
        cells_preset="folder",
        cells={**PRESETS["folder"], "threshold": 0.45},
        pixel_size=0.65,
        training={"data": "beads, round", "images": {"training": 7}, "cells_choice": {"score": "F1", "value": 0.81239}},
    )
    file = tmp_path_factory.mktemp("weights") / "model.pt"
    checkpoint.save({**UNet(features=[4, 8, 16]).state_dict(), FACTS: facts.to_tensor()}, file)
    return file


@pytest.fixture(scope="module")
def package(weights: Path) -> dict[str, bytes]:
    """Files of its package, by the config."""
    from monai.bundle import run

    run(
        run_id="run",
        config_file=[str(CONFIGS / f"{name}.yaml") for name in ("inference", "export_bioimage_io")],
        logging_file=False,
        ckpt_path=str(weights),
        export_path=str(weights.with_name("beads.zip")),
        authors=["A. Name", "B. Name"],
    )
    assert sorted(path.name for path in weights.parent.iterdir()) == ["beads.zip", "model.pt"]
    with zipfile.ZipFile(weights.with_name("beads.zip")) as archive:
        assert all(member.external_attr >> 16 == 0o100644 for member in archive.infolist())
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def described(package: dict[str, bytes]) -> dict[str, Any]:
    return dict(yaml.safe_load(package["rdf.yaml"]))


def _array(package: dict[str, bytes], name: str) -> NDArray[np.float32]:
    return np.load(io.BytesIO(package[name]), allow_pickle=False)


def test_the_state_dict_needs_the_one_file_of_code_alone(
    package: dict[str, bytes], described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("unet_paper", "monai")]:
        monkeypatch.setitem(sys.modules, name, None)  # an import of these fails
    stated = described["weights"]["pytorch_state_dict"]
    module = ModuleType("network")
    exec(compile(package["network.py"], "network.py", "exec"), module.__dict__)
    network = getattr(module, stated["architecture"]["callable"])(**stated["architecture"]["kwargs"])
    state = torch.load(io.BytesIO(package["weights.pt"]), weights_only=True)
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(_array(package, "test_input.npy")))
    np.testing.assert_allclose(found.numpy(), _array(package, "test_output.npy"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("more", [0, 5])
def test_torchscript_and_onnx_take_every_size_that_the_package_names(
    batch: int, more: int, package: dict[str, bytes], described: dict[str, Any]
) -> None:
    size = described["inputs"][0]["axes"][2]["size"]
    shape = (batch, 1, size["min"] + more * size["step"], size["min"])
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    scripted = torch.jit.load(io.BytesIO(package["weights_torchscript.pt"]))
    with torch.no_grad():
        expected = scripted(torch.from_numpy(image)).numpy()
    assert expected.shape == (batch, 2, *shape[2:])
    session = onnxruntime.InferenceSession(package["weights.onnx"], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_channels_have_names_that_are_identifiers() -> None:
    network, cells = UNet(2, 3, [4, 8]), PRESETS["folder"]
    facts = {"grey_mean": 0.5, "grey_std": 0.2, "magnification": 1, "cells": cells, "cells_preset": "folder"}
    facts |= {"symmetries": "none", "preset": "paper", "pixel_size": None, "grey_minimum": 0, "grey_maximum": None}
    wrapped = bioimage_io.Wrapped.of(network, facts)
    for names, expected in (
        (["channel_0", "channel_1"], ["channel_0", "channel_1"]),
        (["background", "class 1", "2-cells"], ["background", "_class_1", "_2_cells"]),
    ):
        assert bioimage_io._axes(wrapped, facts, names)[1]["channel_names"] == expected


def test_the_channel_that_the_network_takes_is_named(run_bundle: Run, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    settings = {"ckpt_path": str(weights), "export_path": str(path), "channel": "DAPI"}
    run_bundle("run", "inference", "export_bioimage_io", **settings)
    with zipfile.ZipFile(path) as archive:
        (described,) = yaml.safe_load(archive.read("rdf.yaml"))["inputs"]
        page = archive.read("README.md").decode()
    assert next(axis for axis in described["axes"] if axis["type"] == "channel")["channel_names"] == ["DAPI"]
    assert "| channels | of an image of several DAPI |" in page


def test_every_kind_of_weights_gives_the_test_output(package: dict[str, bytes]) -> None:
    image, expected = _array(package, "test_input.npy"), _array(package, "test_output.npy")
    with torch.no_grad():
        scripted = torch.jit.load(io.BytesIO(package["weights_torchscript.pt"]))(torch.from_numpy(image)).numpy()
    session = onnxruntime.InferenceSession(package["weights.onnx"], providers=["CPUExecutionProvider"])
    for found in (scripted, session.run(None, {"image": image})[0]):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert set(np.unique(image)) <= set(range(256))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-5)


def test_onnx_is_one_that_runtimes_of_2021_read(package: dict[str, bytes], described: dict[str, Any]) -> None:
    model = onnx.load_from_string(package["weights.onnx"])
    onnx.checker.check_model(model)
    # onnxruntime 1.7 of 2021 reads IR version 7 and opset 13
    assert model.ir_version <= 7
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 13}
    assert described["weights"]["onnx"]["opset_version"] == 13


def test_the_description_names_every_file_with_its_checksum(
    package: dict[str, bytes], described: dict[str, Any]
) -> None:
    named: dict[str, str] = {}

    def look(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(item)
        if isinstance(value, dict) and "source" in value:
            named[value["source"]] = value["sha256"]

    look(described)
    # an early version of the format knows no checksums of these
    without = {described["documentation"], *described["covers"], "rdf.yaml"}
    assert without == {"README.md", "cover.png", "rdf.yaml"}
    assert named == {name: hashlib.sha256(data).hexdigest() for name, data in package.items() if name not in without}


def test_the_description_says_sizes_classes_and_pixel_size(described: dict[str, Any]) -> None:
    (image,), (probability,) = described["inputs"], described["outputs"]
    # three levels at half the magnification: see test_mirrored_network
    assert [axis.get("size") for axis in image["axes"][2:]] == [{"min": 120, "step": 8}] * 2
    assert [axis["halo"] for axis in probability["axes"][2:]] == [56, 56]
    assert probability["axes"][1]["channel_names"] == ["background", "cell"]
    for axis in (*image["axes"][2:], *probability["axes"][2:]):
        assert (axis["unit"], axis["scale"]) == ("micrometer", 0.65)
    assert image["data"] == {"type": "float32", "range": [0, 255]}
    assert described["name"] == "U-Net of 2015 for beads round"
    assert [author["name"] for author in described["authors"]] == ["A. Name", "B. Name"]
    assert "license" not in described
    assert (
        described["weights"]["torchscript"]["parent"] == described["weights"]["onnx"]["parent"] == "pytorch_state_dict"
    )


def test_the_pages_example_makes_cells_by_the_weights_own_numbers(package: dict[str, bytes]) -> None:
    settings = json.loads(package["postprocessing.json"])
    assert settings == {**PRESETS["folder"], "threshold": 0.45, "split_thresholds": []}
    probability = _array(package, "test_output.npy")[0, 1]
    found = label_instances(probability, **settings)
    np.testing.assert_array_equal(
        found > 0, label_instances(probability, **{**PRESETS["folder"], "threshold": 0.45}) > 0
    )
    page = package["README.md"].decode()
    assert "probability above 0.45" in page
    assert "| F1 | 0.8124 |" in page
    assert "120 px or more, in steps of 8 px" in page
    assert "0.65 micrometres" in page
    assert json.loads(package["unet_paper.json"])["magnification"] == 0.5


def test_pictures_can_be_opened(package: dict[str, bytes]) -> None:
    cover = Image.open(io.BytesIO(package["cover.png"]))
    assert cover.size[0] == 2 * cover.size[1]
    assert len(package["cover.png"]) < 500_000
    np.testing.assert_array_equal(
        tifffile.imread(io.BytesIO(package["sample_output.tif"])), _array(package, "test_output.npy")[0]
    )


def test_a_release_says_its_terms_scores_and_sources() -> None:
    for file, words in (("hela", "HeLa"), ("u373", "U373"), ("model", "EM")):
        card = bioimage_io_card.card(BUNDLE, BUNDLE / "models" / f"{file}.pt", {})
        assert words in card.name
        assert card.scores
        assert card.missing() == []
        assert {"LICENSE", "data_license.txt"} <= set(card.attachments)
        assert "Not Apache-2.0" in bioimage_io_card._licence(card)
        assert "license" not in card.described()
        assert {"unet", "2d", "microscopy", "instance-segmentation"} <= set(card.described()["tags"])
        paper, data = card.cite
        assert paper["doi"] == "10.1007/978-3-319-24574-4_28"
        assert data["doi"].startswith("10.")


def test_an_archive_is_one_release(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_bytes((CONFIGS / "metadata.json").read_bytes())
    assert bioimage_io_card.own_metadata(tmp_path, tmp_path / "models" / "model.pt") is not None
    assert bioimage_io_card.own_metadata(tmp_path, tmp_path / "model.pt") is None


def test_weights_of_ones_own_need_authors_and_a_licence_to_be_published(tmp_path: Path) -> None:
    card = bioimage_io_card.card(BUNDLE, tmp_path / "model.pt", {})
    assert card.missing() == ["--authors", "--license"]
    licensed = bioimage_io_card.card(BUNDLE, tmp_path / "model.pt", {}, authors=["A. Name"], license="CC-BY-4.0")
    assert licensed.missing() == []
    assert licensed.described()["license"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"export_path": "beads.rdf"}, "export_path=beads.rdf: must end in .zip"),
        ({"magnification": 0.37}, "magnification=0.37.*--magnification 0.375"),
        ({"title": "!!"}, "title='!!'"),
    ],
)
def test_what_makes_no_package_is_refused(
    settings: dict[str, Any], message: str, run_bundle: Run, weights: Path, tmp_path: Path
) -> None:
    given = {"export_path": str(tmp_path / "a.zip"), **settings}
    with pytest.raises(Exception, match=r"Failed|export_path") as info:
        run_bundle("run", "inference", "export_bioimage_io", ckpt_path=str(weights), **given)
    assert re.search(message, str(cause(info.value)))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_stored_in_half_precision_only_where_that_is_exact() -> None:
    assert bioimage_io._stored(torch.tensor([0.5])).dtype == torch.float16
    assert bioimage_io._stored(torch.tensor([0.1])).dtype == torch.float32
    assert bioimage_io._stored(torch.tensor([1e6])).dtype == torch.float32
