"""Pairing and splits: laws for any number of cases, real data, and what bad folders get."""

import io
import itertools
import os
import runpy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unet_paper.data import datasets
from unet_paper.data.grey_statistics import grey_statistics
from unet_paper.data.reader import page_shapes

Case = dict[str, str]
fresh = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def tiff_bytes(pages: int, shape: tuple[int, ...], dtype: type) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(pages):
            writer.write(
                np.zeros(shape, dtype), photometric="rgb" if len(shape) == 3 else "minisblack", contiguous=False
            )
    return file.getvalue()


def tiff(path: Path, pages: int = 1, shape: tuple[int, ...] = (3, 4), dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiff_bytes(pages, shape, dtype))
    return path


def png(path: Path, shape: tuple[int, ...] = (3, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    return path


def isbi(folder: Path, slices: int) -> Path:
    for name in ("train-volume.tif", "train-labels.tif"):
        tiff(folder / name, slices)
    return folder


def challenge(folder: Path, gold: list[int], silver: list[int], *, name: str = "01", digits: int = 3) -> Path:
    """A sequence with masks, and the images and markers of their frames."""
    for t in {*gold, *silver}:
        tiff(folder / name / f"t{t:0{digits}d}.tif")
        tiff(folder / f"{name}_GT" / "TRA" / f"man_track{t:0{digits}d}.tif", dtype=np.uint16)
    for kind, frames in (("GT", gold), ("ST", silver)):
        for t in frames:
            tiff(folder / f"{name}_{kind}" / "SEG" / f"man_seg{t:0{digits}d}.tif", dtype=np.uint16)
    return folder


def page(case: Case) -> int:
    return int(case["image"].rpartition("#")[2])


def frame(case: Case) -> int:
    return int(Path(case["image"]).stem[1:])


def contiguous(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# --- isbi2012 ---


@fresh
@given(data=st.data(), folds=st.integers(2, 5), halves=st.integers(1, 3))
def test_isbi_folds_are_disjoint_complete_and_contiguous(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, folds: int, halves: int
) -> None:
    slices = data.draw(st.integers(folds * halves, 40))
    folder = isbi(tmp_path_factory.mktemp("isbi"), slices)
    cuts = [h * slices // halves for h in range(halves + 1)]
    held_out: list[int] = []
    for fold in range(folds):
        training, validation = (
            [page(c) for c in datasets.isbi2012(folder, part, fold=fold, folds=folds, halves=halves)]
            for part in ("training", "validation")
        )
        assert sorted(training + validation) == list(range(slices))
        assert set(training).isdisjoint(validation)
        for first, last in itertools.pairwise(cuts):
            run = [p for p in validation if first <= p < last]
            assert contiguous(run)
            assert abs(len(run) - (last - first) / folds) < 1
        held_out += validation
    assert sorted(held_out) == list(range(slices))


def test_isbi_slices_are_paired_with_their_labels(tmp_path: Path) -> None:
    cases = datasets.isbi2012(str(isbi(tmp_path, 8)), "all")
    volume, labels = tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"
    assert cases == [{"image": f"{volume}#{p}", "label": f"{labels}#{p}"} for p in range(8)]
    for part in ("training", "validation"):
        assert datasets.isbi2012(tmp_path, part, fold="all") == cases


def test_real_isbi_has_a_case_for_each_slice(real_data: Path) -> None:
    folder = real_data / "isbi2012"
    slices = len(tifffile.imread(folder / "train-labels.tif"))
    assert [page(c) for c in datasets.isbi2012(folder, "all")] == list(range(slices))
    validation = [page(c) for c in datasets.isbi2012(folder, "validation", fold=1)]
    assert min(validation) < slices // 2 <= max(validation)
    unlabelled = folder / "test-volume.tif"
    assert len(datasets.images(unlabelled)) == len(tifffile.imread(unlabelled))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"pages": 7}, r"train-volume\.tif has 8 pages, .*train-labels\.tif has 7"),
        ({"pages": 8, "shape": (4, 3)}, r"page 0 of .*train-volume\.tif is 3x4 px, of .*train-labels\.tif 4x3 px"),
    ],
)
def test_stacks_that_do_not_fit_together(tmp_path: Path, label: dict[str, int], said: str) -> None:
    isbi(tmp_path, 8)
    tiff(tmp_path / "train-labels.tif", **label)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        datasets.isbi2012(tmp_path, "training")


def test_too_few_slices_for_the_folds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folds=4: 3 slices in part 1 of .*at most 3 folds"):
        datasets.isbi2012(isbi(tmp_path, 7), "training")
    with pytest.raises(ValueError, match="halves=0"):
        datasets.isbi2012(tmp_path, "training", halves=0)


def test_missing_and_truncated_stacks_are_named(tmp_path: Path) -> None:
    tiff(tmp_path / "train-volume.tif", 8)
    with pytest.raises(FileNotFoundError, match=r"train-labels\.tif: no such file"):
        datasets.isbi2012(tmp_path, "training")
    whole = (tmp_path / "train-volume.tif").read_bytes()
    (tmp_path / "train-volume.tif").write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"train-volume\.tif: cannot be read"):
        datasets.isbi2012(tmp_path, "training")


# --- ctc ---


@settings(fresh, max_examples=10)
@given(
    data=st.data(),
    folds=st.integers(2, 3),
    gap=st.integers(0, 3),
    silver=st.lists(st.integers(0, 20), unique=True, max_size=7),
)
def test_no_frame_of_a_held_out_block_is_trained_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, folds: int, gap: int, silver: list[int]
) -> None:
    gold = sorted(data.draw(st.lists(st.integers(0, 20), unique=True, min_size=folds, max_size=7)))
    folder = challenge(tmp_path_factory.mktemp("ctc"), gold, silver)
    held_out: list[int] = []
    for fold in range(folds):
        arguments = {"fold": fold, "folds": folds, "gap": gap}
        validation = datasets.ctc(folder, "validation", annotations="gold+silver", **arguments)  # type: ignore[arg-type]
        scored = [frame(c) for c in validation]
        assert all("_GT" in c["label"] for c in validation)
        assert contiguous([gold.index(t) for t in scored])
        held_out += scored
        for annotations, known in (("gold", gold), ("silver", silver), ("gold+silver", gold + silver)):
            expected = sorted({t for t in known if not scored[0] - gap <= t <= scored[-1] + gap})
            if expected:
                training = datasets.ctc(folder, "training", annotations=annotations, **arguments)  # type: ignore[arg-type]
                assert [frame(c) for c in training] == expected
    assert held_out == gold


def test_gold_wins_over_silver_and_markers_go_along(tmp_path: Path) -> None:
    folder = challenge(tmp_path, gold=[1, 3], silver=[0, 1, 2])
    cases = datasets.ctc(folder, "all", annotations="gold+silver")
    assert [(frame(c), Path(c["label"]).parts[-3]) for c in cases] == [
        (0, "01_ST"),
        (1, "01_GT"),
        (2, "01_ST"),
        (3, "01_GT"),
    ]
    assert cases[1] == {
        "image": str(folder / "01/t001.tif"),
        "label": str(folder / "01_GT/SEG/man_seg001.tif"),
        "markers": str(folder / "01_GT/TRA/man_track001.tif"),
    }
    assert [frame(c) for c in datasets.ctc(folder, "all")] == [1, 3]
    assert [frame(c) for c in datasets.ctc(folder, "all", annotations="silver")] == [0, 1, 2]
    assert datasets.ctc(folder, "validation", annotations="silver", fold="all") == datasets.ctc(folder, "all")


def test_without_markers_cases_have_none(tmp_path: Path) -> None:
    tiff(tmp_path / "01/t000.tif")
    tiff(tmp_path / "01_GT/SEG/man_seg000.tif")
    assert [set(c) for c in datasets.ctc(tmp_path, "all")] == [{"image", "label"}]


def test_sequences_are_found_chosen_and_held_out(tmp_path: Path) -> None:
    for name in ("01", "02", "07"):
        challenge(tmp_path, [0, 2, 4, 6], [], name=name, digits=4 if name == "07" else 3)
    tiff(tmp_path / "03" / "t000.tif")  # of the test data: no masks
    sequence = [Path(c["image"]).parts[-2] for c in datasets.ctc(tmp_path, "all")]
    assert sequence == ["01"] * 4 + ["02"] * 4 + ["07"] * 4
    assert {Path(c["image"]).parts[-2] for c in datasets.ctc(tmp_path, "all", sequences=["02", 7])} == {"02", "07"}
    validation = datasets.ctc(tmp_path, "validation", validation_sequences=["02"])
    training = datasets.ctc(tmp_path, "training", validation_sequences=["02"])
    assert {Path(c["image"]).parts[-2] for c in validation} == {"02"}
    assert {Path(c["image"]).parts[-2] for c in training} == {"01", "07"}
    assert (len(validation), len(training)) == (4, 8)
    assert len(datasets.ctc(tmp_path, "all", validation_sequences=["02"])) == 12
    assert [Path(c["image"]).parts[-2] for c in datasets.ctc(tmp_path, "validation", fold=3)] == ["01", "02", "07"]


@pytest.mark.parametrize("name", ["DIC-C2DH-HeLa", "PhC-C2DH-U373"])
def test_real_sequences_have_a_case_for_each_mask(real_data: Path, name: str) -> None:
    folder = real_data / name
    for annotations, kind in (("gold", "GT"), ("silver", "ST")):
        masks = sorted(str(f) for f in folder.glob(f"[0-9][0-9]_{kind}/SEG/man_seg*.tif"))
        assert masks
        assert sorted(c["label"] for c in datasets.ctc(folder, "all", annotations=annotations)) == masks
    gold = datasets.ctc(folder, "all")
    parts = [datasets.ctc(folder, "validation", fold=fold) for fold in range(4)]
    assert sorted(c["label"] for part in parts for c in part) == sorted(c["label"] for c in gold)
    for case in gold:
        assert tifffile.imread(case["image"]).shape == tifffile.imread(case["label"]).shape
        # the case's markers belong to its frame: nearly every object holds the marker of its cell
        label, markers = tifffile.imread(case["label"]), tifffile.imread(case["markers"])
        objects = np.unique(label)[1:]
        assert np.mean([(markers[label == i] > 0).any() for i in objects]) > 0.6


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"annotations": "bronze"}, ValueError, "annotations='bronze': expected one of gold, silver, gold"),
        ({"sequences": ["02"]}, FileNotFoundError, r"no sequences \['02'\] with gold masks, found \['01'\]"),
        ({"annotations": "silver"}, FileNotFoundError, r"no sequence with silver masks.*01_ST/SEG"),
        ({"validation_sequences": ["01"]}, ValueError, r"validation_sequences=\['01'\]: expected some, but not all"),
        ({"validation_sequences": []}, ValueError, r"validation_sequences=\[\]"),
        ({"folds": 5}, ValueError, "folds=5: 4 gold masks in .*SEG, too few; at most 4 folds"),
        ({"gap": -1}, ValueError, "gap=-1"),
        ({"gap": 50}, ValueError, "no cases left for part='training' with folds=4, gap=50"),
    ],
)
def test_choices_that_a_challenge_folder_cannot_meet(
    tmp_path: Path, arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        datasets.ctc(challenge(tmp_path, [0, 2, 4, 6], []), "training", **arguments)  # type: ignore[arg-type]


def test_a_folder_further_out_or_in_is_told_so(tmp_path: Path) -> None:
    challenge(tmp_path / "data", [0, 1, 2, 3], [])
    with pytest.raises(FileNotFoundError, match="one folder further in"):
        datasets.ctc(tmp_path, "training")


def test_masks_and_markers_need_their_files(tmp_path: Path) -> None:
    folder = challenge(tmp_path, [0, 1, 2, 3], [])
    (folder / "01_GT/TRA/man_track002.tif").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"man_track002\.tif: no such file, but there is a mask, .*man_seg002\.tif"
    ):
        datasets.ctc(folder, "all")
    (folder / "01/t001.tif").unlink()  # comes first
    with pytest.raises(FileNotFoundError, match=r"t001\.tif: no such file, but there is a mask, .*man_seg001\.tif"):
        datasets.ctc(folder, "all")


def test_three_dimensions_are_refused(tmp_path: Path) -> None:
    tiff(tmp_path / "01/t000.tif", 3)
    tiff(tmp_path / "01_GT/SEG/man_seg000.tif", 3)
    with pytest.raises(ValueError, match="3 pages; data sets in 3D"):
        datasets.ctc(tmp_path, "all")
    (tmp_path / "01_GT/SEG/man_seg000.tif").unlink()
    tiff(tmp_path / "01_GT/SEG/man_seg_000_007.tif")
    with pytest.raises(ValueError, match="man_seg_000_007"):
        datasets.ctc(tmp_path, "all")


# --- folder ---


@fresh
@given(data=st.data(), folds=st.integers(2, 5))
def test_folder_folds_are_disjoint_complete_and_contiguous(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, folds: int
) -> None:
    n = data.draw(st.integers(folds, 14))
    root = tmp_path_factory.mktemp("folder")
    for i in range(n):
        png(root / "images" / f"well{i}.png")
        png(root / "masks" / f"well{i}.png")
    order = [c["image"] for c in datasets.folder(root, "all")]
    assert [Path(image).stem for image in order] == [f"well{i}" for i in range(n)]  # 9 before 10
    held_out: list[str] = []
    for fold in range(folds):
        training, validation = (
            [c["image"] for c in datasets.folder(root, part, fold=fold, folds=folds)]
            for part in ("training", "validation")
        )
        assert sorted(training + validation) == sorted(order)
        assert contiguous([order.index(i) for i in validation])
        held_out += validation
    assert held_out == order
    spread: list[str] = []
    for fold in range(folds):
        training, validation = (
            [c["image"] for c in datasets.folder(root, part, fold=fold, folds=folds, spread_folds=True)]
            for part in ("training", "validation")
        )
        assert sorted(training + validation) == sorted(order)
        assert {order.index(i) % folds for i in validation} == {fold}
        spread += validation
    assert sorted(spread) == sorted(order)


def test_pairs_go_by_name_whatever_the_format(tmp_path: Path) -> None:
    image, mask = tiff(tmp_path / "images/a.tif"), png(tmp_path / "masks/a.png")
    (tmp_path / "images/.DS_Store").write_text("x")
    (tmp_path / "images/notes.txt").write_text("x")
    assert datasets.folder(tmp_path, "all") == [{"image": str(image), "label": str(mask)}]


@pytest.mark.parametrize("masks", ["masks", "."])
def test_masks_may_have_a_suffix_and_share_the_folder(tmp_path: Path, masks: str) -> None:
    images = [png(tmp_path / f"well{i}.png") for i in range(3)]
    labels = [png(tmp_path / masks / f"well{i}_mask.png") for i in range(3)]
    cases = datasets.folder(tmp_path, "all", images=".", masks=masks, mask_suffix="_mask")
    assert cases == [{"image": str(i), "label": str(m)} for i, m in zip(images, labels, strict=True)]


def test_a_suffix_that_a_command_line_makes_a_number_of_is_text(tmp_path: Path) -> None:
    """python-fire reads ``--mask_suffix 1`` so."""
    image, label = png(tmp_path / "well.png"), png(tmp_path / "well1.png")
    number: Any = 1
    assert datasets.folder(tmp_path, "all", mask_suffix=number) == [{"image": str(image), "label": str(label)}]


@pytest.mark.parametrize("axis", [0, 1])
def test_volumes_whose_axes_run_otherwise_are_no_pair(axis: int, tmp_path: Path) -> None:
    """A mask that a program has mirrored, with a header that says so, lies over its image in that program alone."""
    affine = np.diag([-0.5, -0.5, 2.0, 1.0])
    mirrored = affine.copy()
    mirrored[axis, axis] *= -1
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3, 1)
    for name, of in (("image", affine), ("same", affine * [[1], [1.0001], [1], [1]]), ("other", mirrored)):
        nibabel.save(nibabel.Nifti1Image(pixels, of), tmp_path / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / "untold.nii.gz")
    image = tmp_path / "image.nii.gz"
    for name in ("same", "untold"):
        assert len(datasets.pairs(image, tmp_path / f"{name}.nii.gz")) == 1
    with pytest.raises(ValueError, match=r"other.nii.gz: its axes run in other directions than those of .*image.nii"):
        datasets.pairs(image, tmp_path / "other.nii.gz")


def test_stacks_are_paired_page_by_page(tmp_path: Path) -> None:
    image, mask = tiff(tmp_path / "images/a.tif", 3), tiff(tmp_path / "masks/a.tif", 3)
    expected = [{"image": f"{image}#{p}", "label": f"{mask}#{p}"} for p in range(3)]
    assert datasets.folder(tmp_path, "all") == expected
    tiff(tmp_path / "masks/a.tif", 2)
    with pytest.raises(ValueError, match=r"3 pages, .* has 2"):
        datasets.folder(tmp_path, "all")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such a name cannot be given there")
def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"a\xff.png")
    png(odd, (4, 3))
    png(tmp_path / "mask.png", (4, 3))
    with pytest.raises(ValueError, match=r"the name a\\udcff.png is no text in UTF-8, and tables are; rename"):
        datasets.pairs(odd, tmp_path / "mask.png")


def two_pairs(root: Path) -> Path:
    for name in ("a", "b"):
        png(root / "images" / f"{name}.png")
        png(root / "masks" / f"{name}.png")
    return root


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("images/c.png", r"image without a mask: .*images/c\.png\. "),
        ("masks/c.png", r"mask without an image: .*masks/c\.png\. "),
        ("images/b.tif", r"images/b\.(png|tif) and .*images/b\.(png|tif): two files of one name"),
        ("masks/b.tif", r"masks/b\.(png|tif) and .*masks/b\.(png|tif): two files of one name"),
    ],
)
def test_lonely_and_double_files_are_named(tmp_path: Path, extra: str, said: str) -> None:
    two_pairs(tmp_path)
    (png if extra.endswith("png") else tiff)(tmp_path / extra)
    with pytest.raises(ValueError, match=said):
        datasets.folder(tmp_path, "training", folds=2)


def test_masks_without_the_suffix_are_lonely(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image without a mask: .*a\.png; .*mask without an image: .*masks/a\.png"):
        datasets.folder(two_pairs(tmp_path), "training", mask_suffix="_label", folds=2)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    png(two_pairs(tmp_path) / "masks/b.png", (4, 3))
    with pytest.raises(ValueError, match=r"images/b\.png is 3x4 px, of .*masks/b\.png 4x3 px"):
        datasets.folder(tmp_path, "training", folds=2)


def test_one_folder_for_both_needs_a_suffix(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    with pytest.raises(ValueError, match="needs a mask_suffix"):
        datasets.folder(tmp_path, "all", images=".", masks=".")


def test_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="masks: no such folder"):
        datasets.folder(tmp_path, "training")
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="images: no images; supported are"):
        datasets.folder(tmp_path, "training")


# --- images ---


def test_a_name_with_a_figure_that_is_no_number_has_its_place_too(tmp_path: Path) -> None:
    """A superscript is a digit to Python, and no number."""
    for name in ("10²2.png", "10²10.png", "10²1.png", "①.png", "①2.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    names = [Path(case["image"]).name for case in datasets.images(tmp_path)]
    assert names[:3] == ["10²1.png", "10²2.png", "10²10.png"]
    assert set(names[3:]) == {"①.png", "①2.png"}


def test_images_come_in_natural_order_and_page_by_page(tmp_path: Path) -> None:
    late, early = png(tmp_path / "s10.png"), png(tmp_path / "s9.png")
    stack = tiff(tmp_path / "stack.tif", 2)
    (tmp_path / "notes.txt").write_text("x")
    expected = [str(early), str(late), f"{stack}#0", f"{stack}#1"]
    assert [c["image"] for c in datasets.images(tmp_path)] == expected
    assert datasets.images(early) == [{"image": str(early)}]
    assert datasets.images(f"{stack}#1") == [{"image": f"{stack}#1"}]


def test_images_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images; supported are"):
        datasets.images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        datasets.images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="page out of range; the file has pages 0 to 1"):
        datasets.images(f"{tiff(tmp_path / 'a.tif', 2)}#2")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt: unknown extension"):
        datasets.images(tmp_path / "notes.txt")


def test_of_two_files_of_one_name_one_is_predicted_and_the_other_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = [tiff(tmp_path / "a.tif"), png(tmp_path / "b.png"), png(tmp_path / "c.png"), tiff(tmp_path / "d.tiff")]
    png(tmp_path / "a.png")
    for name in ("b.jpg", "d.jpeg"):
        png(tmp_path / "x.png").rename(tmp_path / name)
    assert [case["image"] for case in datasets.images(tmp_path)] == [str(file) for file in taken]
    (record,) = caplog.records
    assert "left out: 3 of a name that another image has: a.png (beside a.tif), b.jpg (beside b.png)" in record.message


def test_what_a_folder_holds_besides_is_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = tiff(tmp_path / "a.tif")
    for name in ("b.doc", "c.oib", "d.h5", "e.gif", "f.gif", "._a.tif", ".DS_Store", "README"):
        (tmp_path / name).write_bytes(b"\0")
    for name in ("well1", "well2"):
        tiff(tmp_path / name / "x.tif")
    assert datasets.images(tmp_path) == [{"image": str(image)}]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: 1 images; left out: 1 .doc, 2 .gif, 1 .h5, 1 .oib, 2 folders, which are not looked into, "
        "1 hidden, 1 without an extension"
    )


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    taken = [tiff(tmp_path / "a.tif"), tmp_path / "b.tif"]
    taken[1].symlink_to(tmp_path / "gone.tif")
    assert [case["image"] for case in datasets.images(tmp_path)] == [str(file) for file in taken]
    with pytest.raises(FileNotFoundError, match=r"b\.tif: no such file"):
        page_shapes(taken[1])


@pytest.mark.parametrize("mask", ["c_mask.tif", "c_seg.png", "mask_c.tif", "label_c.png"])
def test_a_mask_beside_its_image_is_not_predicted(mask: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("c.tif", mask, "mask_of_silk.png"):
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / name)
    found = [Path(case["image"]).name for case in datasets.images(tmp_path)]
    assert found == ["c.tif", "mask_of_silk.png"]
    assert f"left out: 1 masks, such as {mask}, beside images of their names" in caplog.text


@pytest.mark.parametrize(("axes", "fits"), [("TZYX", False), ("ZTYX", True), ("IYX", True)])
def test_hyperstacks_are_paired_where_times_and_depths_agree(axes: str, fits: bool, tmp_path: Path) -> None:
    """As many pages in another order; and a mask that does not say what its pages are, as most do not."""
    image, mask = tmp_path / "a.ome.tif", tmp_path / "a_mask.ome.tif"
    tifffile.imwrite(image, np.zeros((3, 2, 8, 9), np.uint8), metadata={"axes": "TZYX"})
    pages = np.zeros((2, 3, 8, 9) if len(axes) == 4 else (6, 8, 9), np.uint8)
    if axes == "IYX":
        tifffile.imwrite(mask, pages, photometric="minisblack", ome=False)
    else:
        tifffile.imwrite(mask, pages, metadata={"axes": axes})
    if fits:
        assert len(datasets.pairs(image, mask)) == 6
    else:
        with pytest.raises(ValueError, match=r"a.ome.tif has 3 times and 2 depths, .* has 2 times and 3 depths"):
            datasets.pairs(image, mask)


def test_masks_beside_their_images_name_the_setting_that_pairs_them(tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png", "masks/a_masks.png", "masks/b_masks.png"):
        png(tmp_path / name)
    with pytest.raises(ValueError, match="say --mask_suffix _masks"):
        datasets.folder(tmp_path, "all")
    assert len(datasets.folder(tmp_path, "all", mask_suffix="_masks")) == 2


def test_the_command_for_grey_values_finds_images_and_names_the_one_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "scripts" / "prepare_data.py"
    (tmp_path / "images").mkdir()
    for number, grey in enumerate((50, 101)):
        pixels = np.full((4, 4, 4), 255, np.uint8)
        pixels[..., :3] = grey
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    runpy.run_path(str(script), run_name="__main__")
    # of 0.196 and 0.396
    assert capsys.readouterr().out == "--grey_mean 0.2961 --grey_std 0.1000\n"
    pixels[0, 0, 3] = 9
    Image.fromarray(pixels).save(tmp_path / "images" / "2.png")
    with pytest.raises(RuntimeError) as caught:
        runpy.run_path(str(script), run_name="__main__")
    sys.excepthook(type(caught.value), caught.value, None)
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(f"ValueError: {tmp_path / 'images' / '2.png'}: 4 channels")


# --- what all labelled sets refuse ---


@pytest.mark.parametrize("make", [datasets.isbi2012, datasets.ctc, datasets.folder])
@pytest.mark.parametrize(
    ("part", "arguments", "said"),
    [
        ("test", {}, "part='test': expected one of training, validation, all"),
        ("training", {"fold": 4}, "fold=4: expected 0 to 3"),
        ("validation", {"fold": -1}, "fold=-1"),
        ("training", {"fold": "first"}, "fold='first'"),
        ("training", {"folds": 1}, "folds=1: at least 2"),
    ],
)
def test_parts_and_folds_that_do_not_exist(
    tmp_path: Path, make: Callable[..., list[Case]], part: str, arguments: dict[str, object], said: str
) -> None:
    challenge(two_pairs(isbi(tmp_path, 8)), [0, 1, 2, 3], [])
    with pytest.raises(ValueError, match=said):
        make(tmp_path, part, **arguments)


@pytest.mark.parametrize("make", [datasets.isbi2012, datasets.ctc, datasets.folder])
def test_a_folder_must_be_one(tmp_path: Path, make: Callable[..., list[Case]]) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        make(tmp_path / "nowhere", "training")
    with pytest.raises(ValueError, match="a file, expected a folder"):
        make(png(tmp_path / "a.png"), "training")


def test_grey_statistics_are_those_of_all_pixels_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((20, 30), (11, 7))]
    for number, array in enumerate(arrays):
        tifffile.imwrite(tmp_path / f"{number}.tif", array)
    mean, std, _ = grey_statistics(datasets.images(tmp_path))
    pixels = np.concatenate([array.ravel() for array in arrays]) / 255
    assert mean == pytest.approx(pixels.mean(), abs=1e-6)
    assert std == pytest.approx(pixels.std(), abs=1e-6)


def test_masks_beside_their_images_are_not_predicted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "a_mask.png", "b.png", "b_cp_masks.png", "lone_mask.png"):
        png(tmp_path / name, (4, 5))
    assert [Path(case["image"]).name for case in datasets.images(tmp_path)] == ["a.png", "b.png", "lone_mask.png"]
    assert "left out: 2 masks, such as a_mask.png, beside images" in caplog.text


def test_a_folder_whose_images_are_further_in_says_so(tmp_path: Path) -> None:
    png(tmp_path / "plate" / "images" / "a.png", (4, 5))
    with pytest.raises(ValueError, match=r"plate: no images; .*images are in .*plate/images \(1\): name that folder"):
        datasets.images(tmp_path / "plate")
