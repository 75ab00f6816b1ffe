"""Studies of settings on a small phantom: what is trained, what is scored, what the table says."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIGS, ROOT, TINY, script

STUDIES = sorted((ROOT / "scripts" / "studies").glob("*.yaml"))


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    """scripts/compare_settings.py as a module."""
    return script("compare_settings")


def study_file(folder: Path, **changes: Any) -> Path:
    study = {
        "title": "A study",
        "data": "isbi2012",
        "configs": ["train", "data_isbi2012", "best_isbi2012"],
        "settings": {name: value for name, value in TINY.items() if name != "steps_per_epoch"},
        "folds": [0, 1],
        "scores": ["V_rand", "pixel_error"],
        "variants": [
            {"choice": "steps", "value": 1, "settings": {"steps_per_epoch": 1}},
            {"choice": "averaging", "value": "flips", "of": "steps_1", "settings": {"symmetries": "flips"}},
        ],
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_study_trains_once_and_goes_on_where_it_stopped(
    compare: ModuleType, em_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "isbi2012").symlink_to(em_folder)
    doc = tmp_path / "doc.md"
    doc.write_text("<!-- study:begin --><!-- study:end -->\n")
    arguments = [str(study_file(tmp_path)), "--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    runs: list[str] = []
    run = compare.monai.bundle.run

    def counted(run_id: str, **settings: Any) -> None:
        runs.append(run_id)
        run(run_id, logging_file=False, **settings)

    monkeypatch.setattr(compare.monai.bundle, "run", counted)
    compare.main(arguments)
    assert sorted(runs) == ["evaluating"] * 4 + ["training"] * 2
    compare.main([*arguments, "--doc", str(doc)])
    assert len(runs) == 6
    rows = (tmp_path / "out" / "study" / "results.csv").read_text().splitlines()
    assert len(rows) == 5
    table = [line for line in doc.read_text().splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert table[2].startswith("| steps | 1 |")
    assert table[3].startswith("| averaging | flips |")
    values = [float(row.split(",")[rows[0].split(",").index("V_rand")]) for row in rows[1:3]]
    assert f"{sum(values) / 2:.4f} ± " in table[2]
    assert "held out; metric rules 2." in doc.read_text()
    # scored by an earlier version of the metrics: only that is done again
    (summary,) = (tmp_path / "out" / "study").glob("averaging_flips/fold_1/summary.json")
    found = json.loads(summary.read_text())
    found["metrics"]["V_rand"].pop("rules")
    summary.write_text(json.dumps({**found, "scores": {"V_rand": -1, "pixel_error": -1}}))
    compare.main(arguments)
    assert runs[6:] == ["evaluating"]
    assert (tmp_path / "out" / "study" / "results.csv").read_text().splitlines() == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "expected the keys"),
        ({"robustness": [{"images": "blur 2 px"}]}, "expected images, score"),
        ({"variants": [{"choice": "a"}]}, "has choice and value"),
        ({"variants": [{"choice": "a", "value": 1}, {"choice": "A", "value": "1"}]}, "two variants 'a_1'"),
        ({"variants": [{"choice": "a", "value": 1, "of": "b"}]}, "of 'b'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(
    changes: dict[str, Any], message: str, compare: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        compare.read_study(study_file(tmp_path, **changes))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_name_configs_that_exist_and_settings_that_they_have(path: Path, compare: ModuleType) -> None:
    study = compare.read_study(path)
    known: set[str] = set()
    for config in (*study["configs"], "evaluate"):
        known |= set(yaml.safe_load((CONFIGS / f"{config}.yaml").read_text()))
    for settings in (study["settings"], *(variant["settings"] for variant in study["variants"].values())):
        assert {name.split("#")[0] for name in settings} <= known


def test_networks_are_scored_on_changed_images_where_a_study_asks(
    compare: ModuleType, em_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "isbi2012").symlink_to(em_folder)
    columns = [{"images": "blur 2 px", "score": "V_rand"}, {"images": "lowest of changes", "score": "V_rand"}]
    study = study_file(
        tmp_path,
        folds=[0],
        variants=[{"choice": "steps", "value": 1, "settings": {"steps_per_epoch": 1}}],
        robustness=columns,
    )
    compare.main([str(study), "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    (found,) = (tmp_path / "out").rglob("robustness.json")
    measured = json.loads(found.read_text())
    head, row = (tmp_path / "out" / "study" / "results.csv").read_text().splitlines()
    assert '"V_rand, blur 2 px","V_rand, lowest of changes"' in head
    blurred, lowest = map(float, row.split(",")[-2:])
    assert blurred == measured["scores"]["blur 2 px"]["V_rand"]
    assert lowest == measured["lowest_of_changes"]["V_rand"] <= blurred
    table = compare.table(
        compare.read_study(study),
        {
            "steps_1": [
                {"V_rand": 0.5, "pixel_error": 0.1, "V_rand, blur 2 px": 0.25, "V_rand, lowest of changes": 0.125}
            ]
        },
    )
    assert "| choice | value | V_rand | pixel_error | V_rand, blur 2 px | V_rand, lowest of changes |" in table
    assert "| steps | 1 | 0.5000 | 0.1000 | 0.2500 | 0.1250 |" in table


def test_table_of_one_fold_has_no_spread(compare: ModuleType, tmp_path: Path) -> None:
    study = compare.read_study(study_file(tmp_path, folds=[0]))
    text = compare.table(study, {"steps_1": [{"V_rand": 0.25, "pixel_error": 0.5, "V_info": 1.0}]})
    assert "| steps | 1 | 0.2500 | 0.5000 |" in text


def test_cells_that_touch_become_unknown(compare: ModuleType) -> None:
    cells = torch.tensor([[[1, 1, 2, 0, 3], [0, 0, 0, 0, 3], [-1, 0, 4, 0, 0]]])
    expected = [[[-1, -1, -1, 0, 3], [0, 0, 0, 0, 3], [-1, 0, 4, 0, 0]]]
    assert compare.unknown_if_touching(cells).tolist() == expected


def test_cells_without_their_rim_grow_back(compare: ModuleType) -> None:
    cells = torch.zeros(1, 30, 40, dtype=torch.int64)
    cells[0, 5:25, 4:16], cells[0, 5:25, 16:28] = 1, 2
    cells[0, :, 36:] = -1
    eroded = compare.without_rim(cells, 4)
    assert eroded.unique().tolist() == [-1, 0, 1, 2]
    assert torch.equal(eroded[0, 9:21, 8:12], torch.ones(12, 4, dtype=torch.int64))
    assert eroded[0, :, 12:20].unique().tolist() == [0]  # they no longer touch
    assert torch.equal(eroded < 0, cells < 0)
    back = compare.grown(torch.where(eroded < 0, 0, eroded), 4)
    found, whole = back[0, 9:21, 4:28], cells[0, 9:21, 4:28]
    assert torch.equal(found, whole)
