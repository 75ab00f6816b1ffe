"""What an evaluation writes for both kinds of data, its error maps, and the paper's tables made from it."""

import csv
import importlib.util
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import ROOT, TINY
from ignite.engine import Engine, Events
from PIL import Image

from unet_paper.data import datasets, phantom
from unet_paper.data.reader import PageReader
from unet_paper.inferer import OverlapTileInferer
from unet_paper.instances import PRESETS, label_instances
from unet_paper.metrics import ctc_det, ctc_seg, op_csb, rand_error, v_info, v_rand, warping_error
from unet_paper.metrics.warping_error import TopologicalError
from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.evaluation_report import (
    ERROR_COLOURS,
    MATCHED,
    UNMATCHED,
    ErrorMaps,
    EvaluationReport,
    paint_objects,
    paint_topological_errors,
)

SETTINGS = {
    **{name: TINY[name] for name in ("device", "folds")},
    "cells_preset": "phantom",
    "grey_mean": 0.46,
    "grey_std": 0.045,
}


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """scripts/reproduce_tables.py as a module."""
    spec = importlib.util.spec_from_file_location("reproduce_tables", ROOT / "scripts" / "reproduce_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Made:
    """A run of reproduce_tables.py on phantoms: its folder, weights, network and README."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "weights.pt"
        self.readme = folder / "README.md"
        torch.manual_seed(50)  # finds some of the cells
        self.network = UNet(features=TINY["features"]).eval()

    def summary(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "out" / name / "evaluation" / "summary.json").read_text())
        return content

    def probability(self, image: str, mean: float, std: float) -> np.ndarray:
        """Of the cell, by the parts put together by hand."""
        pixels = torch.from_numpy(read(image).astype(np.float32) / 255)
        with torch.no_grad():
            logits = OverlapTileInferer(levels=3)(((pixels - mean) / std)[None, None], self.network)
        return torch.softmax(logits, dim=1)[0, 1].numpy()


def read(address: str) -> np.ndarray:
    reader = PageReader()
    return np.asarray(reader.get_data(reader.read(address))[0])


@pytest.fixture(scope="module")
def made(tables: ModuleType, cells_folder: str, em_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("tables"))
    checkpoint.save(made.network.state_dict(), made.weights)
    data = made.folder / "data"
    data.mkdir()
    (data / "isbi2012").symlink_to(em_folder)
    (data / "PhC-C2DH-U373").symlink_to(cells_folder)
    made.readme.write_text("# Title\n\n<!-- results:begin -->\nold\n<!-- results:end -->\n\nEnd\n")
    arguments = ["--data", str(data), "--isbi2012", str(made.weights), "--phc_u373", str(made.weights)]
    arguments += ["--output_dir", str(made.folder / "out"), "--readme", str(made.readme), "--recipe", "paper"]
    arguments += ["--compare_precision", "bfloat16", "--robustness"]
    tables.main([*arguments, *(text for name, value in SETTINGS.items() for text in (f"--{name}", str(value)))])
    return made


def test_em_scores_are_those_of_the_functions(made: Made, em_folder: str) -> None:
    summary = made.summary("isbi2012")
    conventions = summary["conventions"]
    cases = datasets.isbi2012(em_folder, "validation", fold=0, folds=2)
    stack = np.stack(
        [made.probability(case["image"], conventions["grey_mean"], conventions["grey_std"]) for case in cases]
    )
    label = np.stack([read(case["label"]) for case in cases])
    for name, score in (
        ("V_rand", v_rand),
        ("V_info", v_info),
        ("rand_error", rand_error),
        ("rand_error_cells", partial(rand_error, foreground_restricted=True)),
        ("warping_error", warping_error),
    ):
        # float32 probabilities a rounding apart may fall on either side of a threshold
        assert summary["scores"][name] == pytest.approx(score(stack, label), abs=1e-4), name
    assert len(summary["metrics"]["warping_error"]["thresholds"]) == 10
    assert len(summary["metrics"]["V_rand"]["thresholds"]) == 11


def test_cell_scores_use_markers_for_det_and_instances_for_seg(made: Made, cells_folder: str) -> None:
    summary = made.summary("phc_u373")
    conventions = summary["conventions"]
    cases = datasets.ctc(cells_folder, "validation", fold=0, folds=2)
    cells = [
        label_instances(
            made.probability(case["image"], conventions["grey_mean"], conventions["grey_std"]), **PRESETS["phantom"]
        )
        for case in cases
    ]
    assert len(cases) == 2
    det = ctc_det(cells, [read(case["markers"]) for case in cases])
    assert summary["scores"]["DET"] == pytest.approx(det, abs=1e-12)
    assert 0 < det < 1
    seg = ctc_seg(cells, [read(case["label"]) for case in cases])
    assert summary["scores"]["SEG"] == pytest.approx(seg, abs=1e-12) != 0
    assert summary["scores"]["OP_CSB"] == pytest.approx(op_csb(seg, det), abs=1e-12)


@pytest.mark.parametrize("name", ["isbi2012", "phc_u373"])
def test_summary_says_what_is_behind_the_scores(name: str, made: Made) -> None:
    summary = made.summary(name)
    report = made.folder / "out" / name / "evaluation"
    assert summary["checkpoint"]["sha256"] == checkpoint.sha256(made.weights)
    assert summary["postprocessing"] == {"preset": "phantom", **PRESETS["phantom"], "split_thresholds": []}
    assert summary["conventions"]["recipe"] == "paper"
    split = summary["split"]
    assert split["held_out"]
    assert not set(split["training"]) & set(split["scored"])
    with (report / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == split["scored_cases"]
    assert len(rows) == summary["cases"] == len(split["scored"])
    single = set(summary["scores"]) - {"OP_CSB", "val_loss"}
    assert single < set(rows[0])
    maps = sorted(path.stem for path in (report / "error_maps").glob("*.png"))
    assert maps == sorted(split["scored_cases"])
    assert all(np.asarray(Image.open(report / "error_maps" / f"{stem}.png")).std() > 0 for stem in maps)


def test_tables_hold_ours_beside_the_published_and_say_what_is_missing(made: Made) -> None:
    out = made.folder / "out"
    text = (out / "results.md").read_text()
    em, cells = made.summary("isbi2012"), made.summary("phc_u373")
    table_1, table_2 = text.split("**Table 2**")
    assert f"{em['scores']['V_rand']:.4f}" in table_1
    assert "| U-Net, the paper | 0.000353 | 0.0382 | 0.0611 | - | - | - |" in table_1
    assert "| second human | 0.000005 | 0.0021 | 0.001 | - | - | - |" in table_1
    assert "| best known (mutex watershed) | - | - | - | - | - | - |" in table_1
    assert f"| {cells['scores']['SEG']:.4f} | no checkpoint given |" in table_2
    assert "| U-Net, the paper | 0.9203 | 0.7756 |" in table_2
    assert "| DIC-C2DH-HeLa | no checkpoint given |" in table_2
    assert "held-out images of the training set, fold 0 of 2" in table_2
    assert checkpoint.sha256(made.weights)[:12] in table_2
    assert made.readme.read_text() == f"# Title\n\n<!-- results:begin -->\n{text}<!-- results:end -->\n\nEnd\n"
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert next(row["scored_on"] for row in rows if row["data_set"] == "DIC-C2DH-HeLa") == "no checkpoint given"
    ours = {row["score"]: float(row["value"]) for row in rows if row["who"] == "ours" and row["table"] == "1"}
    assert ours == {name: em["scores"][name] for name in ours}
    assert np.asarray(Image.open(out / "results.png")).std() > 0


def test_the_other_precision_is_scored_and_its_difference_is_stated(made: Made) -> None:
    exact, rounded = made.summary("isbi2012"), made.summary("bfloat16/isbi2012")
    assert exact["conventions"]["precision"] == "float32"
    assert rounded["conventions"]["precision"] == "bfloat16"
    assert exact["scores"]["val_loss"] != rounded["scores"]["val_loss"]
    values = [summary["scores"]["V_rand"] for summary in (exact, rounded)]
    text = (made.folder / "out" / "results.md").read_text()
    assert "| data set | score | float32 | bfloat16 | difference |" in text
    line = next(line for line in text.splitlines() if line.startswith("| ISBI 2012 | V_rand |"))
    assert line == f"| ISBI 2012 | V_rand | {values[0]:.4f} | {values[1]:.4f} | {values[1] - values[0]:+.6f} |"


def test_changed_images_have_a_table_of_their_own(made: Made) -> None:
    text = (made.folder / "out" / "results.md").read_text()
    for name, title, scores in (
        ("isbi2012", "ISBI 2012", ("V_rand", "V_info", "pixel_error")),
        ("phc_u373", "PhC-C2DH-U373", ("SEG", "DET", "SEG_touching", "SEG_separate")),
    ):
        found = json.loads((made.folder / "out" / name / "robustness" / "robustness.json").read_text())["scores"]
        lines = text.partition(f"| {title} | {' | '.join(scores)} |\n")[2].splitlines()[1 : 1 + len(found)]
        for line, (images, row) in zip(lines, found.items(), strict=True):
            cells = line.strip("| ").split(" | ")
            assert cells[0] == images
            for cell, score in zip(cells[1:], scores, strict=True):
                assert cell == "-" if row[score] is None else float(cell) == pytest.approx(row[score], abs=1e-4)
        alone = made.summary(name)["scores"]
        assert {score: found["as they are"][score] for score in scores} == {
            score: None if alone[score] is None else pytest.approx(alone[score], abs=1e-4) for score in scores
        }
    assert "| 3 cells set against others |" in text.partition("| PhC-C2DH-U373 | SEG | DET |")[2]


def test_tables_refuse_what_cannot_work(tables: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        tables.main(["--dic_hela", str(tmp_path / "none.pt")])
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="results:begin"):
        tables.replace_block(tmp_path / "README.md", "", "results")
    assert "NOT held out" in tables.split({"conventions": {}, "cases": 3, "split": {"held_out": False}})


def test_several_checkpoints_are_those_of_the_folds(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluated(*given: Any) -> Any:
        _, _, weights, output, _, settings = given
        return {"fold": settings["fold"], "weights": weights.name, "to": output.name}

    monkeypatch.setattr(tables, "evaluate", evaluated)
    found = tables.cross_validate("dic_hela", Path(), [Path("a.pt"), Path("b.pt")], Path("out"), "best", {"fold": 3})
    assert [(case["fold"], case["weights"], case["to"]) for case in found] == [
        (0, "a.pt", "fold_0"),
        (1, "b.pt", "fold_1"),
    ]


def test_rows_of_lost_checkpoints_stay_and_say_which_metrics_scored_them(tables: ModuleType) -> None:
    def row(fold: int, rules: int, sha256: str, v_rand: float) -> Any:
        scores = {**dict.fromkeys(tables.EM_SCORES, 0.25), "V_rand": v_rand}
        return tables.Scored(f"6 held-out images, fold {fold} of 4", "best, features [8, 16]", sha256, scores, rules)

    of_cells = tables.Scored("2 held-out images, fold 1 of 4", "best, features [8]", "c" * 64, {"SEG": 0.5}, 1)
    of_cells = of_cells._replace(scores=dict.fromkeys(tables.DATA_SETS["dic_hela"].scores, 0.5))
    before = tables.markdown({"isbi2012": [row(0, 2, "a" * 64, 0.9), row(1, 1, "b" * 64, 0.8)], "dic_hela": [of_cells]})
    # a table of the time without the column
    old = before.replace(" | 1 (earlier metric code) |", " |").replace(" | 2 |", " |")
    now = {"isbi2012": [row(0, 2, "d" * 64, 0.95)]}
    for text in (before, old):
        kept = tables.kept(text, now)
        expected = {"isbi2012": row(1, 1, "b" * 12, 0.8), "dic_hela": of_cells._replace(sha256="c" * 12)}
        assert {name: kept[name][0]._replace(listed="") for name in kept} == expected
    after = tables.markdown({"isbi2012": [*now["isbi2012"], *kept["isbi2012"]], "dic_hela": kept["dic_hela"]})
    assert f"| {(0.95 + 0.8) / 2:.4f} ± {0.15 / 2**0.5:.4f}* |" in after
    assert "| `dddddddddddd` | " in after
    assert "aaaaaaaaaaaa" not in after
    assert "V_rand 0.8000, V_info 0.2500, rand_error 0.2500 | 1 (earlier metric code) |" in after
    assert "0.5000, OP_CSB 0.5000, IoU 0.5000 | 1 |" in after
    assert "checkpoints are gone" in after
    assert "checkpoints are gone" not in tables.markdown(now)
    comparison = "**The same checkpoint of fold 0 in bfloat16**\n\n| a | b |\n| --- | --- |\n| c | d |\n\nAll others\n"
    again = tables.markdown(now, None, tables.kept_comparison(comparison))
    assert "in bfloat16 (of an earlier run, with the metrics and the weights of then)**\n\n| a | b |" in again
    assert "| c | d |\n\nOurs are scored with the settings that the weights carry" in again
    assert tables.kept_comparison(again) == tables.kept_comparison(comparison)
    assert tables.kept_comparison(after) == ""
    with pytest.raises(ValueError, match=r"holds the scores V_rand, not those of ISBI 2012"):
        tables.kept("**Ours**\n| ISBI 2012 | fold 7 | best | `abc` | V_rand 0.5 |\n", now)


def test_releases_get_the_scores_of_their_weights(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    weights = tmp_path / "models" / "model.pt"
    checkpoint.save({"w": torch.zeros(1)}, weights)
    text = (ROOT / "bundle" / "releases.yaml").read_text()
    (tmp_path / "releases.yaml").write_text(text)
    scores = {**dict.fromkeys(tables.EM_SCORES, 0.12345), "warping_error": 0.000123456}
    ours = {"isbi2012": [tables.Scored("", "", checkpoint.sha256(weights), scores, 2)]}
    tables.write_releases(ours, tmp_path)
    changed = (tmp_path / "releases.yaml").read_text()
    (line,) = set(changed.splitlines()) - set(text.splitlines())
    assert line == (
        "    eval_metrics: {V_rand: 0.1235, V_info: 0.1235, rand_error_cells: 0.1235, warping_error: 0.000123, "
        "pixel_error: 0.1235}"
    ).replace("0.1235", f"{0.12345:.4f}")
    assert len(changed.splitlines()) == len(text.splitlines())
    (tmp_path / "releases.yaml").write_text(re.sub("    eval_metrics.*", "", text))
    with pytest.raises(ValueError, match="unet_em_segmentation has no line of its own for eval_metrics"):
        tables.write_releases(ours, tmp_path)


def test_spread_is_the_sample_standard_deviation(tables: ModuleType) -> None:
    folds = [tables.Scored("", "", "", {"SEG": value}, 1) for value in (0.5, 0.7, 0.9)]
    assert tables.mean_and_spread(folds, "SEG") == "0.7000 ± 0.2000"
    assert tables.mean_and_spread(folds[:1], "SEG") == "0.5000"
    small = [tables.Scored("", "", "", {"SEG": value}, 1) for value in (0.001, 0.002, 0.003)]
    assert tables.mean_and_spread(small, "SEG") == "0.002000 ± 0.001000"


def test_scoring_what_was_trained_on_is_recorded(tmp_path: Path) -> None:
    checkpoint.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    cases = [{"image": "data/01/t000.tif"}, {"image": "data/01/t001.tif"}]
    report = EvaluationReport(
        tmp_path,
        tmp_path / "w.pt",
        conventions={},
        cells_preset="dic_hela",
        training_cases=cases,
        validation_cases=cases[1:],
        metrics=[],
    )
    engine = Engine(lambda _engine, _batch: None)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "metric_details", {}))
    report.attach(engine)
    engine.run([[{"image": torch.zeros(1, 2, 2)}]])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not summary["split"]["held_out"]
    assert summary["split"]["training"] == ["01/t000.tif", "01/t001.tif"]
    assert summary["postprocessing"]["field_of_interest"] == 50


def test_images_without_a_cell_are_evaluated_and_their_scores_are_undefined(
    run_bundle: Callable[..., None], tmp_path: Path
) -> None:
    """SEG is not defined without a cell, DET is here, and their mean is not: an answer, no error at the end."""
    folder = Path(phantom.write(tmp_path / "data", kind="cells", frames=4, size=128, seed=1))
    for case in datasets.ctc(folder, "validation", fold=0, folds=2):
        tifffile.imwrite(case["label"], np.zeros((128, 128), np.uint16))
    torch.manual_seed(50)
    weights = tmp_path / "weights.pt"
    checkpoint.save(UNet(features=TINY["features"]).state_dict(), weights)
    given = {**SETTINGS, "dataset_dir": str(folder), "output_dir": str(tmp_path / "run"), "ckpt_path": str(weights)}
    run_bundle("evaluating", "train", "data_phc_u373", "evaluate", **given)
    scores = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())["scores"]
    assert {name: scores[name] for name in ("SEG", "OP_CSB", "SEG_touching")} == dict.fromkeys(
        ("SEG", "OP_CSB", "SEG_touching")
    )
    assert 0 <= scores["DET"] <= 1


def test_topological_errors_are_painted_where_they_are() -> None:
    errors = np.zeros((9, 9), np.uint8)
    errors[4, 4] = TopologicalError.MERGE
    painted = paint_topological_errors(np.zeros((9, 9)), errors, spread=1)
    red = (painted == ERROR_COLOURS[TopologicalError.MERGE]).all(axis=-1)
    assert np.argwhere(red).tolist() == [[y, x] for y in (3, 4, 5) for x in (3, 4, 5)]
    assert (painted[~red] == 0).all()


def test_objects_are_painted_by_their_match() -> None:
    instances = np.zeros((20, 40), np.int32)
    instances[5:15, 2:12] = 4
    instances[5:15, 15:25] = 7
    instances[:, 36:] = -1
    cells = np.zeros_like(instances)
    cells[5:15, 2:12] = 1  # object 4
    cells[5:15, 28:34] = 2  # nothing
    painted = paint_objects(np.zeros(instances.shape), cells, instances).astype(int)
    matched, missed, unknown = painted[10, 7], painted[10, 20], painted[10, 38]
    assert matched.argmax() == 1
    assert missed.argmax() == 0
    assert unknown.argmax() == 2
    assert tuple(painted[5, 7]) == MATCHED
    assert tuple(painted[5, 30]) == UNMATCHED
    assert not painted[0, 0].any()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cells_preset='x'.*choose one of dic_hela, .*, isbi2012"):
        ErrorMaps(tmp_path, annotation="binary", cells_preset="x")
