"""Phantoms: the laws they obey, and how they are written."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from unet_paper.data import datasets, phantom


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    return phantom.touching_cells(5, (160, 192), seed=3)


@pytest.fixture(scope="module")
def em() -> tuple[np.ndarray, np.ndarray]:
    return phantom.em_stack(6, (160, 192), seed=3)


@pytest.mark.parametrize("make", [phantom.touching_cells, phantom.em_stack, phantom.sparse_nuclei])
def test_the_seed_is_all_that_decides(make: object) -> None:
    assert callable(make)
    first, again, other = (make(3, 64, seed) for seed in (7, 7, 8))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


# --- cells ---


def test_cells_have_the_promised_types(cells: tuple[np.ndarray, np.ndarray]) -> None:
    images, instances = cells
    assert images.shape == instances.shape == (5, 160, 192)
    assert images.dtype == np.uint8
    assert instances.dtype == np.uint16


def test_every_cell_is_in_one_piece(cells: tuple[np.ndarray, np.ndarray]) -> None:
    for instance in cells[1]:
        for cell in np.unique(instance)[1:]:
            assert ndimage.label(instance == cell)[1] == 1


def test_most_cells_touch_so_that_a_perfect_mask_merges_them(cells: tuple[np.ndarray, np.ndarray]) -> None:
    for instance in cells[1]:
        ids = np.unique(instance)[1:]
        touching = [set(np.unique(instance[ndimage.binary_dilation(instance == i)])) - {0, i} for i in ids]
        assert np.mean([bool(t) for t in touching]) > 0.5
        assert ndimage.label(instance > 0)[1] < len(ids) / 2


def test_cells_move_slowly_and_keep_their_ids(cells: tuple[np.ndarray, np.ndarray]) -> None:
    _, instances = cells
    for before, after in itertools.pairwise(instances):
        assert (before != after).any()
        for cell in np.intersect1d(before, after)[1:]:
            if (before == cell).sum() > 300:
                common = ((before == cell) & (after == cell)).sum()
                assert common > 0.6 * (before == cell).sum()


def test_cells_cannot_be_had_by_a_threshold(cells: tuple[np.ndarray, np.ndarray]) -> None:
    """Low contrast, as in DIC: no threshold on grey values finds the cells."""
    images, instances = cells
    inside = instances > 0
    for threshold in range(90, 150):
        for proposal in (images > threshold, images < threshold):
            assert (proposal & inside).sum() / (proposal | inside).sum() < 0.75


# --- EM ---


# --- nuclei ---


def test_nuclei_are_small_few_bright_and_apart() -> None:
    images, instances = phantom.sparse_nuclei(4, (160, 192), seed=3)
    assert images.dtype == np.uint8
    assert 0.005 < np.mean(instances > 0) < 0.025
    for image, instance in zip(images, instances, strict=True):
        assert ndimage.label(instance > 0, np.ones((3, 3)))[1] == instance.max() > 1
        assert np.bincount(instance.ravel())[1:].max() < 80
        assert image[instance > 0].mean() > image[instance == 0].mean() + 20


def test_nuclei_are_written_in_the_layout_of_the_challenge(tmp_path: Path) -> None:
    folder = phantom.write(tmp_path / "nuclei", kind="nuclei", frames=3, size=64)
    assert len(datasets.ctc(folder, "all")) == 3
    for mask in sorted((tmp_path / "nuclei" / "01_GT" / "SEG").iterdir()):
        drawn, marked = tifffile.imread(mask), tifffile.imread(str(mask).replace("SEG/man_seg", "TRA/man_track"))
        np.testing.assert_array_equal(np.unique(drawn), np.unique(marked))


def test_em_has_the_promised_types(em: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = em
    assert images.shape == labels.shape == (6, 160, 192)
    assert images.dtype == labels.dtype == np.uint8
    assert np.unique(labels).tolist() == [0, 255]


def test_membranes_are_dark_thin_and_enclose_cells(em: tuple[np.ndarray, np.ndarray]) -> None:
    for image, label in zip(*em, strict=True):
        membrane = label == 0
        assert image[membrane].mean() < image[~membrane].mean() - 25
        assert 0.1 < membrane.mean() < 0.4
        # the widest part of most membranes is 3 to 6 px: half of that from the middle to the cell
        depth = ndimage.distance_transform_edt(membrane)
        ridge = depth[(depth == ndimage.maximum_filter(depth, 3)) & membrane]
        assert 1 <= np.median(ridge) <= 3.5
        cells, n = ndimage.label(~membrane)
        sizes = np.bincount(cells.ravel())[1:]
        assert n >= 10
        assert sizes.max() < 0.5 * label.size


def test_membranes_go_on_in_the_next_slice_of_a_block_but_not_in_the_next_block(
    em: tuple[np.ndarray, np.ndarray],
) -> None:
    membranes = em[1] == 0
    shared = [(a & b).sum() / a.sum() for a, b in itertools.pairwise(membranes)]
    chance = membranes.mean()
    assert min(shared[:2] + shared[3:]) > 1.5 * chance
    assert shared[2] < 1.3 * chance


def test_the_second_block_is_noisier(em: tuple[np.ndarray, np.ndarray]) -> None:
    images = em[0].astype(float)
    residual = [np.median(np.abs(i - ndimage.median_filter(i, 3))) for i in images]
    assert max(residual[:3]) < min(residual[3:])


def test_one_slice_makes_a_stack() -> None:
    images, labels = phantom.em_stack(1, 32, seed=0)
    assert images.shape == labels.shape == (1, 32, 32)


@pytest.mark.parametrize("make", [phantom.touching_cells, phantom.em_stack])
def test_a_phantom_needs_frames_and_room(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="frames=0"):
        make(0, 64, 0)
    with pytest.raises(ValueError, match="size=31"):
        make(1, 31, 0)


# --- files ---


def test_cells_are_written_in_the_layout_of_the_challenge(tmp_path: Path) -> None:
    folder = Path(phantom.write(tmp_path / "p", frames=5, size=(64, 96), sequences=("01", 2), seed=1))
    names = [f"{s}/{kind}{t:03d}.tif" for s in ("01", "02") for t in range(5) for kind in ("t",)]
    names += [f"{s}_GT/SEG/man_seg{t:03d}.tif" for s in ("01", "02") for t in range(5)]
    names += [f"{s}_GT/TRA/man_track{t:03d}.tif" for s in ("01", "02") for t in range(5)]
    assert sorted(content(folder)) == sorted([*names, "phantom.json"])
    assert (tifffile.imread(folder / "01/t000.tif") != tifffile.imread(folder / "02/t000.tif")).any()
    cases = datasets.ctc(folder, "all")
    assert len(cases) == 10
    assert set(cases[0]) == {"image", "label", "markers"}


def test_every_cell_has_one_marker_and_only_partial_frames_lack_instances(tmp_path: Path) -> None:
    folder = phantom.write(tmp_path / "p", frames=8, size=96, seed=1)
    _, instances = phantom.touching_cells(8, 96, 1 + 1000)
    for t, case in enumerate(datasets.ctc(folder, "all")):
        gold, markers = tifffile.imread(case["label"]), tifffile.imread(case["markers"])
        assert gold.dtype == markers.dtype == np.uint16
        np.testing.assert_array_equal(np.unique(markers), np.unique(instances[t]))
        assert (instances[t][markers > 0] == markers[markers > 0]).all()
        for cell in np.unique(markers)[1:]:
            assert (markers == cell).sum() < (instances[t] == cell).sum() or (instances[t] == cell).sum() < 5
        lacking = np.setdiff1d(instances[t], gold)
        assert (len(lacking) > 0) == (t in (2, 6))
        np.testing.assert_array_equal(gold, np.where(np.isin(instances[t], lacking), 0, instances[t]))


def test_em_is_written_in_the_layout_of_the_challenge(tmp_path: Path) -> None:
    folder = Path(phantom.write(tmp_path / "p", "em", frames=4, size=64, seed=1))
    assert sorted(content(folder)) == ["phantom.json", "test-volume.tif", "train-labels.tif", "train-volume.tif"]
    images, labels = phantom.em_stack(4, 64, 1)
    np.testing.assert_array_equal(tifffile.imread(folder / "train-volume.tif"), images)
    np.testing.assert_array_equal(tifffile.imread(folder / "train-labels.tif"), labels)
    assert (tifffile.imread(folder / "test-volume.tif") != images).any()
    assert len(datasets.isbi2012(folder, "all")) == 4
    assert len(datasets.images(folder / "test-volume.tif")) == 4


@pytest.mark.parametrize("kind", ["cells", "em"])
def test_the_same_parameters_write_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first = phantom.write(tmp_path / "a", kind, frames=2, size=48, seed=5)
    second = phantom.write(tmp_path / "deeper" / "b", kind, frames=2, size=(48, 48), seed=5)
    assert content(Path(first)) == content(Path(second))


def test_a_phantom_is_reused_untouched(tmp_path: Path) -> None:
    folder = Path(phantom.write(str(tmp_path / "p"), frames=2, size=48))
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    assert phantom.write(folder, frames=2, size=48) == str(folder)
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before


def test_a_folder_that_holds_something_else_is_never_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match=r"mine: holds something else .*choose another folder"):
        phantom.write(other, frames=2, size=48)
    assert content(other) == {"thesis.txt": b"irreplaceable"}
    folder = Path(phantom.write(tmp_path / "p", frames=2, size=48, seed=1))
    before = content(folder)
    with pytest.raises(FileExistsError, match='"seed": 1'):
        phantom.write(folder, frames=2, size=48, seed=2)
    assert content(folder) == before
    (folder / "phantom.json").write_text("{")
    with pytest.raises(FileExistsError, match="something else"):
        phantom.write(folder, frames=2, size=48, seed=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file: holds something else"):
        phantom.write(tmp_path / "file", frames=2, size=48)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert (
        json.loads((Path(phantom.write(tmp_path / "p", frames=1, size=48)) / "phantom.json").read_text())["frames"] == 1
    )


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full_disk)
    with pytest.raises(OSError, match="No space left"):
        phantom.write(tmp_path / "p", frames=1, size=48)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_write_the_same_phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def beaten(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        phantom.write(target, frames=1, size=48)
        replace(source, target)

    monkeypatch.setattr(os, "replace", beaten)
    assert phantom.write(tmp_path / "p", frames=1, size=48) == str(tmp_path / "p")
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "mri"}, "kind='mri': expected 'cells', 'nuclei', 'em' or 'folder'"),
        ({"frames": 0}, "frames=0"),
        ({"size": 8}, "size=8"),
        ({"sequences": []}, r"sequences=\[\]"),
        ({"sequences": ["01", 1]}, "each once"),
        ({"sequences": ["left"]}, "two digits"),
    ],
)
def test_parameters_that_make_no_phantom(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        phantom.write(tmp_path / "p", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
