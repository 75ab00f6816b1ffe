"""What weights know of their training: in the file, in whatever loads it, and in a prediction with nothing repeated."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from torch import nn
from torch.optim.swa_utils import AveragedModel

from unet_paper.data.datasets import ctc
from unet_paper.instances import PRESETS, label_instances
from unet_paper.network import UNet
from unet_paper.running import checkpoint, facts
from unet_paper.running.settings import cause

Run = Callable[..., None]
ODD: dict[str, Any] = {
    "features": [3, 5, 9],
    "preset": "phseg_v5",
    "grey_mean": 0.31,
    "grey_std": 0.11,
    "grey_minimum": -20,
    "grey_maximum": 300,
    "grey_log": 0.05,
    "magnification": 0.75,
    "scale": [0.75, 0.75],
    "symmetries": "flips",
    "cells_preset": "folder",
    "threshold": 0.45,
    "min_size": 7,
    "dropout": 0.25,
    "recipe": "best",
}


def known(**changes: Any) -> facts.Facts:
    return facts.Facts(
        **{
            "in_channels": 1,
            "out_channels": 2,
            "features": [2, 4],
            "preset": "paper",
            "dropout": 0.0,
            "grey_mean": 0.4,
            "grey_std": 0.1,
            "magnification": 1.0,
            "cells_preset": "folder",
            "cells": PRESETS["folder"],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network with facts, in half precision as released ones."""
    folder = tmp_path_factory.mktemp("facts")
    torch.manual_seed(1)
    checkpoint.save(UNet(features=[2, 4]).state_dict(), folder / "bare.pt")
    checkpoint.export_weights(folder / "bare.pt", folder / "model.pt", known().to_tensor())
    return folder / "model.pt"


def test_the_entry_is_json_that_any_program_reads(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    told = json.loads(bytes(state["facts"]))
    assert state["facts"].dtype == torch.uint8
    assert (told["grey_mean"], told["cells"]["threshold"], told["classes"]) == (0.4, 0.5, ["background", "cell"])
    # once more through our own writer: nothing is lost, nothing halved
    checkpoint.export_weights(weights, weights.with_name("again.pt"))
    again = torch.load(weights.with_name("again.pt"), weights_only=True)
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_with_and_without_the_entry_strict_loading_works(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    bare = {name: value for name, value in state.items() if name != "facts"}
    for given, told in ((state, True), (bare, False)):
        network = UNet(features=[2, 4])
        network.load_state_dict(given, strict=True)
        assert bool(network.facts) is told
        assert network.state_dict().keys() == bare.keys()
        nn.DataParallel(network).load_state_dict({f"module.{name}": value for name, value in given.items()})
        AveragedModel(network).module.load_state_dict(given)
    CheckpointLoader(str(weights), {"network": network}, map_location="cpu", strict=True)(Engine(lambda *_: None))
    assert torch.equal(network.state_dict()["classifier.bias"], state["classifier.bias"].float())
    # a program of one's own that makes floats of every entry
    network.load_state_dict({name: value * 0.3 + value * 0.7 for name, value in state.items()})
    assert json.loads(network.facts)["features"] == [2, 4]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.unet."])
@pytest.mark.parametrize("key", [None, "model", "state_dict", "network"])
def test_prefixes_and_nested_checkpoints_are_recognised(
    prefix: str, key: str | None, weights: Path, tmp_path: Path
) -> None:
    state = {prefix + name: value for name, value in torch.load(weights, weights_only=True).items()}
    state["n_averaged"] = torch.tensor(3)
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "other.pt")
    network, expected = UNet(features=[2, 4]), UNet(features=[2, 4])
    checkpoint.load_weights(network, tmp_path / "other.pt")
    checkpoint.load_weights(expected, weights)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in network.state_dict().items())
    assert facts.read(tmp_path / "other.pt")["grey_mean"] == 0.4


def test_weights_of_another_origin_tell_their_shape_and_say_what_is_missing(tmp_path: Path) -> None:
    checkpoint.save(UNet(3, 4, [2, 4, 8], preset="phseg_v5").state_dict(), tmp_path / "own.pt")
    found = facts.read(tmp_path / "own.pt")
    assert (found["in_channels"], found["out_channels"], found["features"]) == (3, 4, [2, 4, 8])
    assert (found["preset"], found["magnification"], found["symmetries"]) == ("phseg_v5", 1.0, "none")
    assert not found.complete
    for name in ("grey_mean", "grey_std", "cells_preset"):
        with pytest.raises(ValueError, match=rf"ckpt_path=.*own.pt does not say.*give --{name}"):
            found[name]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"{not json", "facts' cannot be read"),
        (b'{"features": [2, 4]}', "facts without in_channels"),
        (b"[1]", "facts"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(entry: bytes, message: str, weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["facts"] = torch.frombuffer(bytearray(entry), dtype=torch.uint8)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        facts.read(tmp_path / "odd.pt")


def test_post_processing_is_the_preset_then_the_weights_then_what_is_given() -> None:
    told = {"cells_preset": "folder", "cells": {**PRESETS["folder"], "threshold": 0.6}}
    assert facts.cells("folder") == PRESETS["folder"]
    assert facts.cells("folder", told)["threshold"] == 0.6
    assert facts.cells("phantom", told) == PRESETS["phantom"]
    assert facts.cells("folder", told, threshold=0.2, min_size=3) == {
        **PRESETS["folder"],
        "threshold": 0.2,
        "min_size": 3,
    }
    assert facts.cells("phc_u373") == {**facts.cells("phc_u373", field_of_interest=0), "field_of_interest": 50}
    with pytest.raises(ValueError, match=r"cells_preset='x'.*folder"):
        facts.cells("x")


def test_cells_that_scores_leave_out_are_predicted_without_a_word() -> None:
    told = {"cells": {**PRESETS["phc_u373"]}}
    assert facts.say_contradictions(told, {"cells": {**PRESETS["phc_u373"], "field_of_interest": 0}}) == []
    (said,) = facts.say_contradictions(told, {"cells": {**PRESETS["phc_u373"], "field_of_interest": 20}})
    assert said == "field_of_interest 20 (trained with 50)"


def test_a_threshold_above_those_that_part_cells_leaves_the_higher_ones() -> None:
    told = {"cells_preset": "phc_u373_split", "cells": {**PRESETS["phc_u373_split"], "split_thresholds": [0.5, 0.7]}}
    higher = facts.cells("phc_u373_split", told, threshold=0.6)
    assert (higher["threshold"], list(higher["split_thresholds"])) == (0.6, [0.7])
    label_instances(np.zeros((200, 200)), **higher)  # takes them
    assert list(facts.cells("phc_u373_split", told, threshold=0.8)["split_thresholds"]) == []
    assert facts.cells("phc_u373_split", told, threshold=0.3)["split_thresholds"] == [0.5, 0.7]
    (said,) = facts.say_contradictions({"split_thresholds": [0.5, 0.7]}, {"split_thresholds": [0.7]})
    assert said == "split_thresholds [0.7] (trained with [0.5, 0.7])"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threshold", value) for value in (128, 1, -0.1, float("nan"), (0, 5), "half", True)),
        *(("min_size", value) for value in (-1, float("nan"), float("inf"), (1, 0), "few")),
        *(("field_of_interest", value) for value in (-1, 2.5, True, float("inf"), "50")),
    ],
)
def test_what_no_probability_reaches_is_refused_by_name(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"{name}=.*leave --{name} out"):
        facts.cells("folder", **given)


def test_facts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"classes=.*out_channels=3"):
        known(out_channels=3, classes=["background", "cell"])
    with pytest.raises(ValueError, match=r"grey_mean='dark'"):
        known(grey_mean="dark")


def image_of(path: Path, micron: float | None) -> dict[str, str]:
    pixels = np.zeros((4, 5), np.uint8)
    if micron is None:
        tifffile.imwrite(path, pixels)
    else:
        tifffile.imwrite(path, pixels, imagej=True, resolution=(1 / micron, 1 / micron), metadata={"unit": "um"})
    return {"image": str(path)}


@pytest.mark.parametrize(
    ("sizes", "given", "right"),
    [
        ([0.3, 0.3, 0.35], None, 0.3),
        ([0.3], 0.5, 0.5),
        ([0.3, None], None, None),
        ([0.3, 0.3, 0.4], None, None),
        ([], None, None),
    ],
)
def test_pixel_size_is_what_all_training_images_say(
    sizes: list[float | None],
    given: float | None,
    right: float | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cases = [image_of(tmp_path / f"{number}.tif", size) for number, size in enumerate(sizes)]
    found = facts.pixel_size(cases, given)
    assert found is right if right is None else found == pytest.approx(right, rel=1e-6)
    assert ("pixels of the training images measure from 0.3 to 0.4 um" in caplog.text) is (0.4 in sizes)


# --- a run with odd settings, and prediction with nothing repeated ----------------------------------------------------


@pytest.fixture(scope="module")
def run(cells_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny run in which no setting is the usual one."""
    import monai.bundle
    from conftest import CONFIGS

    folder = tmp_path_factory.mktemp("odd") / "run"
    settings = {**TINY, **ODD, "max_epochs": 1, "dataset_dir": cells_folder, "output_dir": str(folder)}
    monai.bundle.run("training", config_file=str(CONFIGS / "train.yaml"), logging_file=False, **settings)
    return folder


def test_a_run_tells_its_weights_all_that_it_was_given(run: Path, cells_folder: str) -> None:
    for name in ("model.pt", "last.pt"):
        told = facts.read(run / name)
        asked = set(ODD) - {"scale", "threshold", "min_size", "recipe"}
        for setting in asked:
            assert told[setting] == (tuple(ODD[setting]) if setting == "features" else ODD[setting]), setting
        assert told["cells"] == {**PRESETS["folder"], "split_thresholds": [], "threshold": 0.45, "min_size": 7}
        assert told.trained_with("recipe") == "best"
        assert told.trained_with("optimizer") == "Adam"
        assert told.trained_with("annotation") == "instances"
        assert told.trained_with("unknown_radius") == 30
        images = told.trained_with("images")
        assert images["files"] == {".tif": images["training"] + images["validation"]}
        machine = torch.load(run / "last.pt", weights_only=True)["machine"]
        assert {name: told.trained_with(name) for name in machine} == machine
        assert machine.keys() == {"precision", "memory_format", "strategy", "threads", "engine"}
        assert told.trained_with("device") == "cpu"
        assert told.trained_with("data") == Path(cells_folder).name
        assert told.trained_with("versions")["torch"] == torch.__version__
        assert str(Path(cells_folder).parent) not in json.dumps(dict(told))


def test_its_weights_alone_predict_as_its_validation(
    run_bundle: Run, run: Path, cells_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cells that inference.yaml writes, scored by hand, give the SEG of the run's own evaluation."""
    validation = ctc(cells_folder, "validation", folds=2)
    for case in validation:
        settings: dict[str, Any] = {"ckpt_path": str(run / "model.pt"), "device": "cpu"}
        run_bundle("run", "inference", **settings, dataset_dir=case["image"], output_dir=str(tmp_path / "out"))
    assert "used as given" not in caplog.text
    base = {"dataset_dir": cells_folder, "output_dir": str(run), "folds": 2, "device": "cpu"}
    run_bundle("evaluating", "train", "evaluate", **base, report_dir=str(tmp_path / "report"))
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["postprocessing"]["threshold"] == 0.45
    assert summary["conventions"]["recipe"] == "best"
    assert "scored on other images" not in caplog.text
    from unet_paper.metrics import ctc_seg

    predicted = [tifffile.imread(tmp_path / "out" / f"{Path(case['image']).stem}_cells.tif") for case in validation]
    references = [tifffile.imread(case["label"]) for case in validation]
    assert summary["scores"]["SEG"] == pytest.approx(ctc_seg(predicted, references), abs=1e-12)
    assert any(image.any() for image in predicted)


def test_images_that_training_has_not_held_out_are_said_where_they_are_scored(
    run: Path, cells_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As resuming refuses; another folder's images are other images, of which nothing need be said."""
    told = facts.read(run / "model.pt")
    held_out, other = (
        [ctc(cells_folder, part, folds=2, fold=fold) for part in ("training", "validation")] for fold in (0, 1)
    )
    facts.say_other_images(told, cells_folder, *held_out)
    facts.say_other_images(told, "elsewhere/unseen", *other)
    assert caplog.text == ""
    facts.say_other_images(told, cells_folder, *other)
    assert f"model.pt: scored on other images of {cells_folder} than were held out in its training" in caplog.text
    counts = " + ".join(str(len(part)) for part in held_out)
    assert f"({counts} trained and validated, {counts} now)" in caplog.text


def test_a_setting_that_contradicts_the_weights_is_used_and_said_in_one_line(
    run_bundle: Run, run: Path, cells_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = ctc(cells_folder, "validation", folds=2)[0]["image"]
    settings: dict[str, Any] = {"ckpt_path": str(run / "model.pt"), "device": "cpu", "dataset_dir": image}
    run_bundle("run", "inference", **settings, output_dir=str(tmp_path / "own"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        changed = {"grey_mean": 0.6, "threshold": 0.2}
        run_bundle("run", "inference", **settings, **changed, output_dir=str(tmp_path / "other"))
    (line,) = (record.getMessage() for record in caplog.records if "used as given" in record.getMessage())
    assert "grey_mean 0.6 (trained with 0.31)" in line
    assert "threshold 0.2 (trained with 0.45)" in line
    assert "magnification" not in line
    own, other = (next((tmp_path / name).glob("*_probability.tif")) for name in ("own", "other"))
    assert not np.array_equal(tifffile.imread(own), tifffile.imread(other))


def test_export_carries_the_facts_of_the_weights(run_bundle: Run, run: Path, tmp_path: Path) -> None:
    from unet_paper.release.export import FACTS, embedded_facts

    path = tmp_path / "model.ts"
    settings: dict[str, Any] = {"ckpt_path": str(run / "model.pt"), "export_path": str(path), "device": "cpu"}
    run_bundle("run", "inference", "export", **settings)
    carried = embedded_facts(path)
    for name in (
        "preset",
        "grey_mean",
        "grey_std",
        "grey_log",
        "magnification",
        "symmetries",
        "cells_preset",
        "classes",
    ):
        expected = facts.read(run / "model.pt")[name]
        assert carried[name] == (list(expected) if isinstance(expected, tuple) else expected), name
    assert carried["cells"]["threshold"] == 0.45
    # without this package
    extra = {FACTS: ""}
    torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra[FACTS])["grey_mean"] == 0.31


def test_fine_tuning_takes_network_and_size_from_the_weights(
    run_bundle: Run, run: Path, cells_folder: str, tmp_path: Path
) -> None:
    usual = {name: value for name, value in TINY.items() if name != "features"}
    settings: dict[str, Any] = {**usual, "max_epochs": 1, "steps_per_epoch": 1, "dataset_dir": cells_folder}
    output = tmp_path / "tuned"
    run_bundle("training", "train", "fine_tune", **settings, pretrained=str(run / "model.pt"), output_dir=str(output))
    told = facts.read(output / "model.pt")
    assert (told["features"], told["preset"], told["magnification"]) == ((3, 5, 9), "phseg_v5", 0.75)
    assert told.trained_with("scale") == [0.75, 0.75]
    assert told["grey_mean"] == 0.46  # of its own images
    assert told["grey_log"] == 0.05  # which the network knows them by


def test_weights_that_know_nothing_need_the_settings(
    run_bundle: Run, run: Path, cells_folder: str, tmp_path: Path
) -> None:
    state = torch.load(run / "model.pt", weights_only=True)
    del state["facts"]
    torch.save(state, tmp_path / "bare.pt")
    image = ctc(cells_folder, "validation", folds=2)[0]["image"]
    settings: dict[str, Any] = {"device": "cpu", "dataset_dir": image}
    with pytest.raises(RuntimeError) as info:
        run_bundle("run", "inference", **settings, ckpt_path=str(tmp_path / "bare.pt"), output_dir=str(tmp_path / "a"))
    assert "does not say with which" in str(cause(info.value))
    given = {name: ODD[name] for name in ("grey_mean", "grey_std", "cells_preset", "magnification", "symmetries")}
    given |= {name: ODD[name] for name in ("threshold", "min_size", "grey_minimum", "grey_maximum", "grey_log")}
    for name, path, told in (("b", tmp_path / "bare.pt", given), ("c", run / "model.pt", {})):
        run_bundle("run", "inference", **settings, **told, ckpt_path=str(path), output_dir=str(tmp_path / name))
    found, expected = (tifffile.imread(next((tmp_path / name).glob("*_cells.tif"))) for name in ("b", "c"))
    assert np.array_equal(found, expected)


def test_grey_values_of_own_images_are_measured_and_recorded(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    for number, mask in enumerate(sorted((Path(cells_folder) / "01_GT" / "SEG").glob("*.tif"))):
        image = tifffile.imread(Path(cells_folder) / "01" / mask.name.replace("man_seg", "t"))
        tifffile.imwrite(tmp_path / "own" / "images" / f"{number}.tif", image)
        tifffile.imwrite(tmp_path / "own" / "masks" / f"{number}.tif", tifffile.imread(mask))
    settings = {**TINY, "max_epochs": 1, "steps_per_epoch": 1, "dataset_dir": str(tmp_path / "own")}
    run_bundle("training", "train", "data_folder", **settings, output_dir=str(tmp_path / "run"))
    told = facts.read(tmp_path / "run" / "model.pt")
    half = [tifffile.imread(file) / 255 for file in sorted((tmp_path / "own" / "images").glob("*.tif"))][2:]
    assert told["grey_mean"] == pytest.approx(np.mean(half), abs=1e-6)
    assert told["grey_std"] == pytest.approx(np.std(half), abs=1e-6)


def test_the_best_network_tells_after_how_many_steps_it_was_kept(
    run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    first = {"validate#evaluator#metric_cmp_fn": "$lambda score, best: best < 0"}  # the first validation stays the best
    settings = {**TINY, "max_epochs": 2, "steps_per_epoch": 2, **first}
    run_bundle("training", "train", **settings, dataset_dir=cells_folder, output_dir=str(tmp_path / "run"))
    told = facts.read(tmp_path / "run" / "model.pt")
    assert told.trained_with("trained_steps") == 2
    assert (told.trained_with("max_epochs"), told.trained_with("steps_per_epoch")) == (2, 2)
    # and where it was lost, the last one is there at the end
    (tmp_path / "run" / "model.pt").unlink()
    more = {**settings, "max_epochs": 3, "resume": True}
    run_bundle("training", "train", **more, dataset_dir=cells_folder, output_dir=str(tmp_path / "run"))
    assert facts.read(tmp_path / "run" / "model.pt").trained_with("trained_steps") == 6
