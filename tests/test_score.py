"""Scoring of files: the challenge's values from files, and what a person may give it by mistake."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unet_paper.app.score import Score, main, table
from unet_paper.app.score_files import read_membranes
from unet_paper.metrics import ctc_det, ctc_seg, iou, warping_error
from unet_paper.metrics.em_inputs import THRESHOLDS, V_THRESHOLDS

HERE = Path(__file__).parent
CASE = "r40_stack3_best_thresholds_differ"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command; its exit status, what it printed and its errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def stacks(tmp_path: Path) -> tuple[Path, Path]:
    """Label and prediction of a case of three slices that the challenge's classes scored."""
    paths = tmp_path / "label.tif", tmp_path / "prediction.tif"
    with np.load(HERE / "challenge_scores.npz") as images:
        tifffile.imwrite(paths[0], 255 * images[f"{CASE}/label"].astype(np.uint8), photometric="minisblack")
        tifffile.imwrite(paths[1], images[f"{CASE}/proposal"], photometric="minisblack")
    return paths


def write(path: Path, image: NDArray[Any]) -> Path:
    tifffile.imwrite(path, image, photometric="minisblack")
    return path


def test_files_get_the_scores_of_the_challenge(run: Run, stacks: tuple[Path, Path], tmp_path: Path) -> None:
    status, printed, errors = run(
        *stacks, "--json", tmp_path / "new" / "scores.json", "--error_maps", tmp_path / "maps"
    )
    assert (status, errors) == (0, "")
    expected = json.loads((HERE / "challenge_scores.json").read_text())[CASE]
    found = json.loads((tmp_path / "new" / "scores.json").read_text())
    keys = {
        "warping_error": "min_splits_mergers_0_0.9_0.1_false_r20",
        "warping_error_clustered": "min_splits_mergers_0_0.9_0.1_true_r20",
        "warping_error_all_mismatches": "min_warping_error_0_0.9_0.1",
        "V_rand": "max_vrand_thinned_0_1_0.1_macro",
        "V_rand_micro": "max_vrand_thinned_0_1_0.1_micro",
        "V_info": "max_vinfo_thinned_0_1_0.1",
    }
    scores = {name: expected[key] for name, key in keys.items()}
    scores |= {f"{kind}_error": 1 - expected[f"max_{kind}_fscore_0_0.9_0.1"] for kind in ("pixel", "rand")}
    assert {name: found["scores"][name] for name in scores} == pytest.approx(scores, abs=1e-9)
    assert found["by_threshold"]["V_rand"] == pytest.approx(expected["sweep_vrand_thinned_macro"], abs=1e-9)
    assert found["by_threshold"]["warping_error"] == pytest.approx(expected["sweep_splits_mergers_error_r20"], abs=1e-9)
    best = THRESHOLDS[int(np.argmin(expected["sweep_splits_mergers_error_r20"]))]
    assert found["thresholds"]["warping_error"] == best
    assert found["thresholds"]["V_rand"] == V_THRESHOLDS[int(np.argmax(expected["sweep_vrand_thinned_macro"]))]
    assert (found["slices"], found["height"], found["width"], found["notes"]) == (3, 64, 64, [])
    assert f"| warping_error | {scores['warping_error']:.6f} | {best:.1f} | lower is better |" in printed
    assert "3 slices of 64 x 64 px" in printed
    maps = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in maps] == ["slice_000.png", "slice_001.png", "slice_002.png"]
    assert np.asarray(Image.open(maps[0])).std() > 0


def test_one_threshold(run: Run, stacks: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*stacks, "--threshold", 0.5, "--json", tmp_path / "scores.json")[0] == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    images = [tifffile.imread(path) for path in reversed(stacks)]
    assert found["scores"]["warping_error"] == pytest.approx(warping_error(*images, threshold=0.5), abs=1e-12)
    assert set(found["thresholds"].values()) == {0.5}
    status, _, errors = run(*stacks, "--threshold", 1.5)
    assert status == 2
    assert "threshold=1.5: must be in [0, 1]" in errors


@pytest.mark.parametrize(("dtype", "maximum"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_are_scaled_by_their_full_range_and_it_is_said(
    run: Run, stacks: tuple[Path, Path], tmp_path: Path, dtype: type[np.generic], maximum: int
) -> None:
    whole = np.round(tifffile.imread(stacks[1]) * maximum).astype(dtype)
    prediction = write(tmp_path / "integers.tif", whole)
    status, printed, _ = run(stacks[0], prediction)
    assert status == 0
    assert f"integers.tif: scaled by {maximum}, the full range of {np.dtype(dtype)}" in printed
    read = read_membranes(stacks[0], prediction)
    np.testing.assert_allclose(read.probability, whole / maximum, atol=1e-7)
    # 8 bits in 16 look like a map of nothing: named, and the remedy works
    if maximum == 65535:
        small = write(tmp_path / "small.tif", np.round(tifffile.imread(stacks[1]) * 255).astype(dtype))
        assert "(255 for 8 bits stored in 16)" in run(stacks[0], small)[1]
        again = read_membranes(stacks[0], small, grey_maximum=255)
        np.testing.assert_allclose(again.probability, tifffile.imread(stacks[1]), atol=1 / 255)
        assert "scaled by 255, as said" in again.notes[0]


def test_a_mask_of_zero_and_one_is_a_proposal(run: Run, stacks: tuple[Path, Path], tmp_path: Path) -> None:
    label = tifffile.imread(stacks[0])
    status, printed, _ = run(stacks[0], write(tmp_path / "mask.tif", label // 255))
    assert status == 0
    assert "| warping_error | 0.000000 | 0.0 |" in printed
    assert "mask.tif: scaled by 1, a mask of 0 and 1 in uint8" in printed


def test_inverted_files_are_named_and_the_remedy_works(run: Run, stacks: tuple[Path, Path], tmp_path: Path) -> None:
    label, prediction = (tifffile.imread(path) for path in stacks)
    inverted = write(tmp_path / "inverted.tif", 255 - label)
    printed = run(inverted, stacks[1])[1]
    share = 1 - np.mean(label == 0)
    assert f"inverted.tif: {share:.0%} of it is membrane (0), more than half" in printed
    assert "inverted.tif: " in printed
    right = run(*stacks)[1].split("\n\n")[0]
    assert run(inverted, stacks[1], "--invert_label")[1].split("\n\n")[0] == right
    dark = write(tmp_path / "dark.tif", 1 - prediction)
    assert "is it the probability of membrane? Then say --invert_prediction" in run(stacks[0], dark)[1]
    turned = run(stacks[0], dark, "--invert_prediction")[1]
    assert "note" not in turned


def test_a_slice_without_a_cell_and_a_constant_map_are_named(
    run: Run, stacks: tuple[Path, Path], tmp_path: Path
) -> None:
    label = tifffile.imread(stacks[0])
    label[1] = 0
    printed = run(write(tmp_path / "empty.tif", label), write(tmp_path / "flat.tif", np.full(label.shape, 0.5)))[1]
    assert "empty.tif: no cell in slice 1; V_rand and V_info count it as 0" in printed
    assert "flat.tif: every pixel is 0.5" in printed


def bad_files(folder: Path) -> dict[str, tuple[Path, Path, str]]:
    """LABEL, PREDICTION and what must be said, by what is wrong."""
    label = np.zeros((2, 8, 8), np.uint8)
    label[:, 2:] = 255
    p = np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 8, 8)
    good, map_ = write(folder / "good.tif", label), write(folder / "map.tif", p)
    nan = p.copy()
    nan[1, 2, 3] = np.nan
    ids = np.arange(128).reshape(2, 8, 8) % 5
    (folder / "broken.tif").write_bytes(map_.read_bytes()[:150])
    (folder / "text.tif").write_text("no image")
    (folder / "empty").mkdir()
    Image.fromarray(np.stack([label[0], label[0] // 2, label[0]], axis=-1)).save(folder / "rgb.png")
    Image.fromarray(label[0]).save(folder / "one.png")
    return {
        "another number of slices": (good, write(folder / "long.tif", np.concatenate([p, p])), "2 slices, and .*: 4"),
        "another size": (good, write(folder / "wide.tif", p.reshape(2, 4, 16)), "slice 0 of .*4 x 16 px.*8 x 8 px"),
        "logits": (good, write(folder / "logits.tif", 9 * p - 3), r"logits.tif: values from -3 to 6, expected 0 to 1"),
        "grey values in float": (good, write(folder / "f255.tif", 255 * p), "values from 0 to 255.*--grey_maximum"),
        "NaN": (good, write(folder / "nan.tif", nan), "nan.tif: 1 pixels are not finite"),
        "ids": (write(folder / "ids.tif", ids.astype(np.uint16)), map_, r"ids.tif: holds 0, 1, 2, 3, 4.*two folders"),
        "swapped": (write(folder / "grey.tif", (p * 255).astype(np.uint8)), good, "swapped.? LABEL comes first"),
        "colour": (folder / "one.png", folder / "rgb.png", "rgb.png: 3 channels a pixel"),
        "signed integers": (good, write(folder / "int.tif", (p * 99).astype(np.int16)), "int.tif: int16 from 0 to 99"),
        "truncated": (good, folder / "broken.tif", "broken.tif"),
        "no image": (good, folder / "text.tif", "text.tif"),
        "missing": (good, folder / "none.tif", "none.tif: no such file"),
        "another format": (good, write(folder / "map.xyz", p), "map.xyz: unknown extension"),
        "a file and a folder": (good, folder / "empty", "one is a folder and one is not"),
        "an empty folder": (folder / "empty", folder / "empty", "empty: no image in this folder"),
    }


NAMES = (
    "another number of slices",
    "another size",
    "logits",
    "grey values in float",
    "NaN",
    "ids",
    "swapped",
    "colour",
    "signed integers",
    "truncated",
    "no image",
    "missing",
    "another format",
    "a file and a folder",
    "an empty folder",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_scored_is_named(run: Run, tmp_path: Path, name: str) -> None:
    cases = bad_files(tmp_path)
    assert set(cases) == set(NAMES)
    label, prediction, message = cases[name]
    status, printed, errors = run(label, prediction, "--json", tmp_path / "scores.json")
    assert status == 2
    assert printed == ""
    assert errors.startswith("error: ")
    assert re.search(message, errors), errors
    assert not (tmp_path / "scores.json").exists()


# --- cells --------------------------------------------------------------------------------------------------------


def cells(seed: int) -> NDArray[np.uint16]:
    random = np.random.default_rng(seed)
    return np.kron(random.integers(0, 6, (4, 4)), np.ones((6, 6), dtype=np.int64)).astype(np.uint16)


@pytest.fixture
def sequence(tmp_path: Path) -> tuple[Path, Path]:
    """Folders as the Cell Tracking Challenge has them: two frames segmented, three with markers."""
    truth, results = tmp_path / "01_GT", tmp_path / "01_RES"
    for folder in (truth / "SEG", truth / "TRA", results):
        folder.mkdir(parents=True)
    for frame in range(3):
        reference = cells(frame)
        write(truth / "TRA" / f"man_track{frame:03d}.tif", reference)
        if frame < 2:
            write(truth / "SEG" / f"man_seg{frame:03d}.tif", reference)
        write(results / f"mask{frame:03d}.tif", np.roll(reference, 1, axis=1))
    return truth, results


def test_folders_get_seg_and_det(run: Run, sequence: tuple[Path, Path], tmp_path: Path) -> None:
    status, printed, errors = run(
        *sequence, "--field_of_interest", 2, "--json", tmp_path / "s.json", "--error_maps", tmp_path / "maps"
    )
    assert (status, errors) == (0, "")
    found = json.loads((tmp_path / "s.json").read_text())
    references = [cells(frame) for frame in range(3)]
    predictions = [np.roll(reference, 1, axis=1) for reference in references]
    seg = ctc_seg(predictions[:2], references[:2], field_of_interest=2)
    det = ctc_det(predictions, references, field_of_interest=2)
    assert 0 < seg < det
    expected = {"SEG": seg, "DET": det, "OP_CSB": (seg + det) / 2, "IoU": iou(predictions[:2], references[:2])}
    assert found["scores"] == pytest.approx(expected)
    assert found["conventions"]["field_of_interest"] == 2
    assert (found["frames_segmented"], found["frames_detected"]) == (2, 3)
    assert f"| SEG | {seg:.6f} | higher is better |" in printed
    assert "note" not in printed
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["man_seg000.png", "man_seg001.png"]


def test_no_file_of_the_users_is_written_over(run: Run, sequence: tuple[Path, Path], tmp_path: Path) -> None:
    mine = tmp_path / "maps" / "man_seg001.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    for options, named in (
        (["--error_maps", mine.parent], "man_seg001.png: not written by this program; name another"),
        (["--json", mine], "man_seg001.png: holds no scores of this program; name another"),
    ):
        status, _, errors = run(*sequence, *options)
        assert (status, mine.read_bytes()) == (2, b"mine")
        assert named in errors
    for _ in range(2):  # its own are replaced
        assert run(*sequence, "--json", tmp_path / "s.json", "--error_maps", tmp_path / "own")[0] == 0


def test_a_folder_of_references_alone(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    printed = run(truth / "SEG", results)[1]
    assert "DET is of the same reference as SEG" in printed
    assert "1 predictions have no reference and are not scored: mask002.tif" in printed


def test_the_folder_of_a_prediction_run_is_paired_by_its_cells(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    for path in list(results.iterdir()):
        frame = path.stem.removeprefix("mask")
        path.rename(results / f"t{frame}_cells.tif")
        write(results / f"t{frame}_probability.tif", np.zeros((24, 24), np.float32))
    status, printed, _ = run(truth, results)
    assert status == 0
    assert "note" not in printed


def test_masks_in_place_of_ids_are_named(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    for path in results.iterdir():
        write(path, 255 * (tifffile.imread(path) > 0).astype(np.uint8))
    assert "no prediction has more than one id, some more than one piece: masks?" in run(truth, results)[1]


def test_ids_without_a_background_are_named_and_the_remedy_works(run: Run, sequence: tuple[Path, Path]) -> None:
    """Masks of ilastik, 1 the background: on both sides, so that the background alone scores as a cell well found."""
    truth, results = sequence
    for path in (*(truth / "SEG").iterdir(), *(truth / "TRA").iterdir(), *results.iterdir()):
        ids = tifffile.imread(path)
        write(path, np.where(ids > 2, 0, ids) + 1)
    status, printed, _ = run(truth, results)
    assert status == 0
    assert "no pixel of 5 references is 0, the background; 1, the commonest id" in printed
    assert "no pixel of 3 predictions is 0" in printed
    for path in (*(truth / "SEG").iterdir(), *(truth / "TRA").iterdir(), *results.iterdir()):
        write(path, tifffile.imread(path) - 1)
    assert "note" not in run(truth, results)[1]


def test_masks_among_label_images_and_unknown_for_background_are_named(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    quarters = np.zeros((24, 24), np.uint8)
    quarters[2:9, 2:9] = quarters[14:21, 2:9] = quarters[2:9, 14:21] = 255
    written = sorted(results.iterdir())
    write(written[0], quarters)
    assert "1 of 3 predictions hold one id in pieces: masks among label images?" in run(truth, results)[1]
    for path in (truth / "SEG").iterdir():
        ids = tifffile.imread(path).astype(np.int16)
        write(path, np.where(ids == 0, -1, ids))
    printed = run(truth, results)[1]
    assert "no pixel of 2 references is 0, the background; -1 is taken for unknown: is it the background" in printed
    write(written[0], quarters.astype(np.int16) - 1)
    status, _, said = run(truth, results)
    assert status == 2
    assert f"{written[0]}: holds -1; of a prediction 0 is background" in said


def test_ids_of_any_size_are_cells(run: Run, sequence: tuple[Path, Path]) -> None:
    """Ids of 64 bits, and on the other side colours of 16 bits each."""
    truth, results = sequence
    right = run(truth, results)[1]
    for path in results.iterdir():
        ids = tifffile.imread(path).astype(np.uint64)
        write(path, np.where(ids > 0, ids + 2**50, 0).astype(np.uint64))
    for path in (truth / "SEG").iterdir():
        ids = tifffile.imread(path)
        tifffile.imwrite(path, np.stack([9000 * ids, ids, 3 * ids], axis=-1), photometric="rgb")
    assert run(truth, results)[1] == right


def test_names_are_paired_whatever_their_letters_are_made_of(run: Run, tmp_path: Path) -> None:
    """Accents as one letter or two, as a Mac writes them, and endings in capitals."""
    for folder, form, ending in (("truth", "NFC", "tif"), ("found", "NFD", "TIF")):
        for number, word in enumerate(("Zählung", "Größe")):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(tmp_path / folder / f"{unicodedata.normalize(form, word)}.{ending}", cells(number))
    status, printed, _ = run(tmp_path / "truth", tmp_path / "found")
    assert status == 0
    assert "| SEG | 1.000000 |" in printed


def blobs(shape: tuple[int, int], step: int = 8) -> NDArray[np.int64]:
    """Cells of 4 x 4 px, an id each, 4 px of background around them."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    ids = rows // step * (shape[1] // step) + columns // step + 1
    return np.where((rows % step >= 2) & (rows % step < 6) & (columns % step >= 2) & (columns % step < 6), ids, 0)


def test_inverted_cells_are_named_on_the_side_that_has_them(run: Run, tmp_path: Path) -> None:
    right = blobs((48, 48)).astype(np.uint16)
    inverted = np.where(right == 0, np.uint16(900), np.uint16(0))
    for name, image in (("right", right), ("inverted", inverted)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "t000.tif", image)
    assert "1 of 1 predictions look inverted" in run(tmp_path / "right", tmp_path / "inverted")[1]
    assert "1 of 1 references look inverted" in run(tmp_path / "inverted", tmp_path / "right")[1]
    for name in ("right", "inverted"):
        assert "look inverted" not in run(tmp_path / name, tmp_path / name)[1]


@pytest.mark.parametrize("cut", [lambda ids: ids.astype(np.uint8), lambda ids: np.minimum(ids, 255).astype(np.uint8)])
def test_ids_cut_off_at_eight_bits_are_named(
    run: Run, tmp_path: Path, cut: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> None:
    whole = blobs((144, 144))  # 324 cells
    few = np.where(whole <= 255, whole, 0).astype(np.uint8)
    for name, image in (("whole", whole.astype(np.uint16)), ("cut", cut(whole)), ("few", few)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "t000.tif", image)
    said = "more than 255 cells and no id above 255"
    assert f"1 of 1 predictions have {said}" in run(tmp_path / "whole", tmp_path / "cut")[1]
    assert f"1 of 1 references have {said}" in run(tmp_path / "cut", tmp_path / "whole")[1]
    for name in ("whole", "few"):
        assert said not in run(tmp_path / "whole", tmp_path / name)[1]


def test_label_and_prediction_swapped_are_named(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    (results / "mask002.tif").unlink()
    printed = run(results, truth / "SEG")[1]
    assert "man_seg000.tif: is a reference by its name, and was given as a prediction: swapped?" in printed
    assert "swapped" not in run(truth / "SEG", results)[1]
    assert "swapped" not in run(truth / "SEG", truth / "SEG")[1]


def test_rims_of_interpolated_masks_are_named(run: Run, sequence: tuple[Path, Path]) -> None:
    truth, results = sequence
    for path in (truth / "SEG").iterdir():
        mask = np.zeros((24, 24))
        mask[6:18, 6:18] = 255
        write(path, ndimage.gaussian_filter(mask, 1.0).round().astype(np.uint8))
    assert "most ids of 2 references lie in pieces or are thin" in run(truth, results)[1]


@pytest.mark.parametrize("frame", [0, 12])
def test_scores_of_references_without_a_cell_are_said_to_be_undefined(
    run: Run, sequence: tuple[Path, Path], frame: int
) -> None:
    truth, results = sequence
    if not frame:
        for path in (truth / "SEG").iterdir():
            write(path, np.zeros_like(tifffile.imread(path)))
        assert "note: SEG: no reference holds a cell, so that" in run(truth, results)[1]
        return
    for path in (*(truth / "SEG").iterdir(), *(truth / "TRA").iterdir()):
        reference = tifffile.imread(path)
        reference[5:19, 5:19] = 0
        write(path, reference)
    printed = run(truth, results, "--field_of_interest", 5)[1]
    assert "note: SEG and DET: no reference holds a cell with a pixel inside the field of interest of 5 px" in printed


def test_folders_that_cannot_be_paired_are_named(run: Run, sequence: tuple[Path, Path], tmp_path: Path) -> None:
    truth, results = sequence
    (results / "mask001.tif").rename(results / "mask017.tif")
    status, _, errors = run(truth, results)
    assert status == 2
    assert "man_seg001.tif: no prediction for it in" in errors
    (results / "mask017.tif").rename(results / "other001.tif")
    write(results / "mask001.tif", cells(1))
    assert "mask001.tif and other001.tif: both are frame 1" in run(truth, results)[2]
    (results / "other001.tif").unlink()
    write(results / "mask001.tif", cells(1)[:12])
    assert "mask001.tif: 12 x 24 px, and its reference" in run(truth, results)[2]
    write(results / "mask001.tif", np.stack([cells(1), cells(1)]))
    assert "mask001.tif: a stack of 2 pages" in run(truth, results)[2]
    write(results / "mask001.tif", cells(1) + np.float32(0.5))
    assert "mask001.tif" in run(truth, results)[2]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    write(foreign / "cell_a.tif", cells(0))
    assert "no two names match, as man_seg000.tif and cell_a.tif" in run(truth, foreign)[2]


def test_options_without_effect_are_refused(run: Run, sequence: tuple[Path, Path], stacks: tuple[Path, Path]) -> None:
    assert "--threshold: is for files" in run(*sequence, "--threshold", 0.5)[2]
    assert "--invert_label: is for files" in run(*sequence, "--invert_label")[2]
    assert "--field_of_interest: is for folders" in run(*stacks, "--field_of_interest", 5)[2]


def test_thresholds_are_shown_as_they_were_given() -> None:
    scores = [Score("F1", 0.5, "higher", threshold) for threshold in (0.25, 0.7999999999999999, 0.0)]
    shown = [line.split(" | ")[2] for line in table(scores).splitlines()[2:]]
    assert shown == ["0.25", "0.8", "0.0"]
