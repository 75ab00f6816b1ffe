"""What is handed to nnU-Net and what the table says; nnU-Net itself has an environment of its own."""

import json
from pathlib import Path
from types import ModuleType

import monai.bundle
import numpy as np
import pytest
import tifffile
from conftest import script


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """scripts/compare_nnunet.py as a module."""
    return script("compare_nnunet")


def test_images_and_masks_of_one_fold_are_written_as_nnunet_reads_them(
    peer: ModuleType, cells_folder: str, tmp_path: Path
) -> None:
    bundle = monai.bundle.ConfigParser()
    bundle.read_config(peer.configs("phc_u373"))
    bundle.update({"dataset_dir": cells_folder, "folds": 2})
    bundle.parse()
    peer.write_images(bundle, tmp_path)
    folder = tmp_path / "raw" / peer.NAME
    described = json.loads((folder / "dataset.json").read_text())
    masks = {file.stem: tifffile.imread(file) for file in (folder / "labelsTr").iterdir()}
    assert described["numTraining"] == len(masks)
    assert {f"{name}_0000" for name in masks} == {file.stem for file in (folder / "imagesTr").iterdir()}
    values = set(np.unique(np.stack(list(masks.values()))).tolist())
    assert values == set(described["labels"].values())
    (split,) = json.loads((tmp_path / "preprocessed" / peer.NAME / "splits_final.json").read_text())
    assert set(split["train"]) | set(split["val"]) == set(masks)
    assert not set(split["train"]) & set(split["val"])
    held_out = bundle.get_parsed_content("validation_cases")[0]
    mask = tifffile.imread(held_out["label"])
    np.testing.assert_array_equal(masks["val000"] == 1, mask > 0)


def test_the_table_says_what_both_took_and_gave(peer: ModuleType, tmp_path: Path) -> None:
    took = {"steps": 100, "cpu_seconds": 90.0, "parameters": 1_900_000, "batch_size": 1, "tile_size": 380}
    (tmp_path / "ours.json").write_text(json.dumps(took))
    (tmp_path / "nnunet.json").write_text(json.dumps({**took, "steps": 7}))
    scores = dict.fromkeys(peer.SCORES["isbi2012"], 0.5)
    text = peer.table("isbi2012", 3, {"ours": scores, "nnunet": {**scores, "V_rand": 0.25}}, tmp_path)
    assert "| recipe `best`, 16 to 256 features | 1.9 | 380 | 1 | 100 | 1.5 | 0.5000 |" in text
    assert "| nnU-Net 2D | 1.9 | 380 | 1 | 7 | 1.5 | 0.2500 |" in text
    assert "fold 3, held out" in text


def test_where_nnunet_is_missing_nothing_is_trained_before_it_is_said(
    peer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        peer.main(["isbi2012", "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert "nnunetv2 is not installed here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
