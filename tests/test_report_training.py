"""What a document says of a training: from its folder alone."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import CONFIGS, script

from unet_paper.network import UNet
from unet_paper.running import checkpoint

MARKED = "before\n<!-- paper_recipe:begin -->\nstale\n<!-- paper_recipe:end -->\nafter\n"
METRICS = """epoch,step,seconds,learning_rate,train_loss,V_rand,pixel_error
1,50,900,0.001,0.8,,
2,100,1800,0.001,0.6,0.875,0.125
3,150,2700,0.001,0.5,0.75,0.0625
"""


@pytest.fixture(scope="module")
def report() -> ModuleType:
    """scripts/report_training.py as a module."""
    return script("report_training")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(CONFIGS.parent / "models" / "model.pt", folder)
    (folder / "metrics.csv").write_text(METRICS)
    return folder


def test_documents_say_steps_hours_and_scores(report: ModuleType, run: Path, tmp_path: Path) -> None:
    doc, readme = tmp_path / "choices.md", tmp_path / "README.md"
    for file in (doc, readme):
        file.write_text(MARKED)
    (tmp_path / "figures").mkdir()
    report.main([str(run), "--doc", str(doc), "--readme", str(readme)])
    assert "| 100 | 0.5 | 0.7000 | 0.8750 | 0.1250 |\n| 150 | 0.8 | 0.5000 | 0.7500 | 0.0625 |\n" in doc.read_text()
    assert "features [32, 64, 128, 256, 512]; Adam" in doc.read_text()
    assert (tmp_path / "figures" / "paper_recipe_isbi2012.png").is_file()
    assert "![curves](figures/paper_recipe_isbi2012.png)" in doc.read_text()
    (row,) = [line for line in readme.read_text().splitlines() if "ISBI 2012" in line]
    assert "| 32 to 512 features | `best`: Adam, " in row
    assert row.endswith("| 150 | 0.8 | 100 | V_rand 0.8750, pixel_error 0.1250 |")
    for file in (doc, readme):
        assert file.read_text().startswith("before\n")
        assert file.read_text().endswith("after\n")
        assert "stale" not in file.read_text()


def test_what_other_data_sets_came_to_can_stay(report: ModuleType, run: Path, tmp_path: Path) -> None:
    """Of a run whose folder is gone."""
    doc, readme = tmp_path / "choices.md", tmp_path / "README.md"
    (tmp_path / "figures").mkdir()
    others = "**HeLa**\n\nits table\n\n", "| HeLa | 64 to 1024 features | `paper` | 50 | 0.1 | 50 | SEG 0.5 |\n"
    of_it = "**ISBI 2012**\n\nstale\n\n", "| ISBI 2012 | stale |\n"
    head = "", "| data set | network | recipe | steps | hours | best after | its scores |\n| --- | --- |\n"
    for file, *parts in zip((doc, readme), head, of_it, others, strict=True):
        file.write_text(MARKED.replace("stale\n", "".join(parts)))
    arguments = [str(run), "--doc", str(doc), "--readme", str(readme)]
    report.main([*arguments, "--keep"])
    for file, other in zip((doc, readme), others, strict=True):
        assert other in file.read_text()
        assert "stale" not in file.read_text()
        assert file.read_text().index("ISBI 2012") < file.read_text().index("HeLa")
    kept = [file.read_text() for file in (doc, readme)]
    report.main([*arguments, "--keep"])
    assert [file.read_text() for file in (doc, readme)] == kept
    report.main(arguments)
    assert not any("HeLa" in file.read_text() for file in (doc, readme))


def test_an_evaluation_has_the_last_word(report: ModuleType, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "evaluation").mkdir()
    scores = {"V_rand": 0.5, "V_info": 0.25, "IoU": 0.125}
    (run / "evaluation" / "summary.json").write_text(json.dumps({"scores": scores}))
    report.main([str(run)])
    assert "| V_rand 0.5000, V_info 0.2500 |" in capsys.readouterr().out


def test_a_run_that_cannot_be_told_of_is_named(report: ModuleType, run: Path) -> None:
    (run / "metrics.csv").write_text("epoch,step,seconds,learning_rate,train_loss\n1,50,900,0.001,0.8\n")
    with pytest.raises(ValueError, match=r"metrics.csv: no epoch was validated"):
        report.main([str(run)])
    torch.manual_seed(0)
    checkpoint.save(UNet(features=[2, 4]).state_dict(), run / "model.pt")
    with pytest.raises(ValueError, match=r"model.pt: does not tell how it was trained"):
        report.main([str(run)])
    (run / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"run=.*model.pt: no such checkpoint"):
        report.main([str(run)])
