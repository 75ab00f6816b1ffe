"""What shows the same stays on one side of training and validation, whatever it is called."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from test_configuration import IMAGE, film

from unet_paper.app import check
from unet_paper.app.command_line import main
from unet_paper.data import phantom
from unet_paper.data.datasets import listed
from unet_paper.data.hold_out import hold_out
from unet_paper.data.relatives import Relation
from unet_paper.data.survey import Survey


def survey_of(count: int, groups: Sequence[Sequence[int]] = (), how: str = "copy") -> Survey:
    """Images of their own, but for groups in which each is like the next."""
    related = [Relation(*pair, how, 1.0) for group in groups for pair in itertools.pairwise(group)]
    pictures = film(count, drift=1.0)
    return Survey([dataclasses.replace(IMAGE, thumbnail=p) for p in pictures], relations=related)


def test_groups_are_not_torn_and_about_a_seventh_is_held_out() -> None:
    groups = [[0, 7, 14], [1, 22], [2, 3, 4, 5]]
    held = hold_out(survey_of(30, groups))
    assert held.listed
    assert not held.known
    assert all(len({held.of_image[number] for number in group}) == 1 for group in groups)
    assert 3 <= held.of_image.count(0) <= 6
    assert set(held.of_image) == set(range(held.folds))


def test_without_relatives_images_are_held_out_from_all_over() -> None:
    held = hold_out(survey_of(30))
    assert held.spread
    assert not held.listed
    assert held.of_image == [number % 8 for number in range(30)]


def test_one_group_of_all_is_cut_into_runs_and_said_to_be_known() -> None:
    held = hold_out(survey_of(30, [range(30)]))
    assert held.known
    assert held.of_image == sorted(held.of_image)


def test_a_film_is_held_out_by_runs_of_neighbours() -> None:
    frames = [dataclasses.replace(IMAGE, thumbnail=picture) for picture in film(30, drift=0.5)]
    held = hold_out(Survey(frames, relations=[Relation(k, k + 1, "scene", 0.5) for k in range(29)]))
    assert not held.spread
    assert not held.listed


@pytest.mark.parametrize("name", ["t{time:03d}_pos{place}.tif", "film{place}/t{time}.tif", "pos{place}.tif#{time}"])
def test_films_in_turns_are_told_by_their_names_and_pictures(name: str) -> None:
    films = [film(12, drift=0.5) for _ in range(6)]
    chance = np.random.default_rng(0)
    ways = [chance.permutation(256) for _ in films]  # each film of its own
    images = [
        dataclasses.replace(
            IMAGE,
            image=name.format(time=time, place=place),
            thumbnail=films[place][time].ravel()[ways[place]].reshape(16, 16),
        )
        for time in range(12)
        for place in range(6)
    ]
    held = hold_out(Survey(images))
    assert held.listed
    assert not held.known
    of_places = [{held.of_image[6 * time + place] for time in range(12)} for place in range(6)]
    assert [len(folds) for folds in of_places] == [1] * 6
    # of pictures that have nothing to do with each other, names alone say nothing
    shuffled = [dataclasses.replace(image, thumbnail=chance.normal(size=(16, 16))) for image in images]
    assert not hold_out(Survey(shuffled)).listed


def write(root: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]) -> None:
    for kind, pixels in (("images", images), ("masks", masks)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for name, one in zip(names, pixels, strict=True):
            tifffile.imwrite(root / kind / f"{name}.tif", np.ascontiguousarray(one), photometric="minisblack")


def checked(root: Path) -> tuple[dict[str, list[str]], list[set[str]]]:
    """Files by kind of finding, and the names that are learnt from and held out."""
    assert main(["check", str(root), "--minutes", "1"]) == 0
    place = Path("runs/checks") / root.name
    report = json.loads((place / "check.json").read_text())
    config = yaml.safe_load((place / "config.yaml").read_text())
    if "training_cases" not in config:
        return {f["kind"]: f["files"] for f in report["findings"]}, []
    table = config["training_cases"]["pairs_csv"]
    sides = [
        {Path(case["image"]).stem for case in listed(table, part, fold=config["fold"], folds=config["folds"])}
        for part in ("training", "validation")
    ]
    return {f["kind"]: f["files"] for f in report["findings"]}, sides


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "nuclei"


def dimmed(pixels: np.ndarray) -> np.ndarray:
    return pixels // 2 if pixels.dtype == np.uint8 else pixels


def test_what_the_folders_reader_would_refuse_is_not_left_out_by_the_table(here: Path) -> None:
    images, masks = phantom.fluorescent_nuclei(6, 160, 1)
    for ending, change in (("", np.array), ("_flip", np.fliplr)):
        write(here, [change(a) for a in images], [change(a) for a in masks], [f"{k}{ending}" for k in range(6)])
    write(here, [images[0]], [masks[0][:100]], ["small"])
    write(here, [images[0]], [masks[0]], ["torn"])
    (here / "images" / "torn.tif").write_bytes(b"II*")
    with pytest.raises(ValueError, match=r"small.tif|torn.tif"):
        checked(here)
    table = (Path("runs/checks") / here.name / "pairs.csv").read_text()
    assert all(f"{name}.tif" in table for name in ("0", "0_flip", "5_flip", "small", "torn"))


def test_copies_made_beforehand_are_held_out_with_what_they_are_of(here: Path) -> None:
    images, masks = phantom.fluorescent_nuclei(10, 160, 1)
    for ending, change in (("", np.array), ("_flip", np.fliplr), ("_dim", dimmed)):
        write(here, [change(a) for a in images], [change(a) for a in masks], [f"{k}{ending}" for k in range(10)])
    found, (training, validation) = checked(here)
    assert len(found["images show the same"]) == 30
    assert len(found["image is there twice"]) == 20
    assert "one mask for several images" not in found
    assert len(training) + len(validation) == 30
    assert not {name.split("_")[0] for name in training} & {name.split("_")[0] for name in validation}


def test_tiles_that_overlap_are_said_to_be_known_until_another_field_is_there(here: Path) -> None:
    def tiles(seed: int) -> list[list[np.ndarray]]:
        field = phantom.fluorescent_nuclei(1, 400, seed)
        starts = [(top, left) for top in (0, 120, 240) for left in (0, 120, 240)]
        return [[pixels[0][top : top + 160, left : left + 160] for top, left in starts] for pixels in field]

    write(here, *tiles(3), [f"tile_{k}" for k in range(9)])
    found, _ = checked(here)
    assert "held-out images are known" in found
    write(here, *tiles(5), [f"other_{k}" for k in range(9)])
    write(here, *phantom.fluorescent_nuclei(6, 160, 8), [f"alone_{k}" for k in range(6)])
    found, (training, validation) = checked(here)
    assert "held-out images are known" not in found
    assert "images show the same" in found
    assert len(validation) == 3
    # no field lies on both sides but for images that are alone
    assert {name.split("_")[0] for name in training} & {name.split("_")[0] for name in validation} <= {"alone"}


def test_the_column_fold_says_what_is_held_out(tmp_path: Path) -> None:
    """A number for each page of a stack, or one for all of a file; other numbers of folds are refused."""
    for name, pages in (("a", 3), ("b", 1)):
        for kind in ("", "_mask"):
            stack = np.zeros((pages, 8, 8), np.uint8)
            tifffile.imwrite(tmp_path / f"{name}{kind}.tif", stack, photometric="minisblack")
    table = tmp_path / "pairs.csv"
    table.write_text("image,mask,fold\na.tif,a_mask.tif,0 2 1\nb.tif,b_mask.tif,0\n")

    def names(part: str, fold: int) -> list[str]:
        return [Path(case["image"]).name for case in listed(table, part, fold=fold, folds=3)]

    assert names("validation", 0) == ["a.tif#0", "b.tif"]
    assert names("training", 0) == ["a.tif#1", "a.tif#2"]
    assert names("validation", 2) == ["a.tif#1"]
    with pytest.raises(ValueError, match="expected --folds 3"):
        listed(table, "training", folds=2)
    table.write_text("image,mask,fold\na.tif,a_mask.tif,first\n")
    with pytest.raises(ValueError, match="line 2 has the fold 'first'"):
        listed(table, "training")
    table.write_text("image,mask,fold\na.tif,a_mask.tif,0 1\nb.tif,b_mask.tif,1\n")
    with pytest.raises(ValueError, match=r"2 folds of .*a\.tif; expected 1, or 3"):
        listed(table, "training", folds=2)


def listed_folder(here: Path, folds: list[str], count: int = 8) -> Path:
    write(here, *phantom.fluorescent_nuclei(count, 96, 2), [str(k) for k in range(count)])
    table = here / "pairs.csv"
    rows = [f"images/{k}.tif,masks/{k}.tif,{fold}" for k, fold in enumerate(folds)]
    table.write_text("\n".join(["image,mask,fold", *rows]) + "\n")
    return table


def test_the_folder_s_own_column_fold_has_the_last_word(here: Path) -> None:
    """As of wells or patients, which no pixel tells apart."""
    listed_folder(here, list("11111100"))
    _, (training, validation) = checked(here)
    assert validation == {"6", "7"}
    assert training == set("012345")
    # changed: what was checked before is not taken for it
    listed_folder(here, list("01111111"))
    settings: dict[str, str] = {}
    check.checked(here, settings)
    _, (_, validation) = checked(here)
    assert validation == {"0"}
    listed_folder(here, list("011"), count=3)
    _, (_, validation) = checked(here)
    assert validation == {"0"}


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        (list("11111111"), "the column fold has 1; expected every number from 0, at least 0 and 1"),
        (list("00000000"), "the column fold has 0; expected every number from 0, at least 0 and 1"),
        (list("11112222"), "the column fold has 1, 2; expected every number from 0"),
        (["0", "1", "", "", "", "", "", ""], "line 4 has no fold, unlike the first one; fill in the column"),
        (["", "1", "", "", "", "", "", ""], "line 3 has a fold, unlike the first one"),
        (["0", "1 0", *"000000"], r"1.tif: has 1 pages, and 2 folds in pairs.csv"),
    ],
)
def test_folds_that_hold_out_nothing_are_refused(here: Path, folds: list[str], said: str) -> None:
    listed_folder(here, folds)
    if "pages" in said:
        assert any(re.search(said, finding.what) for finding in check.check(here).findings)
    else:
        with pytest.raises(ValueError, match=said):
            check.check(here)


def test_a_pair_that_is_listed_twice_is_refused_with_its_lines(here: Path) -> None:
    table = listed_folder(here, list("11111100"))
    table.write_text(table.read_text() + "images/2.tif,masks/2.tif,1\n")
    with pytest.raises(ValueError, match=r"lines 4 and 10 name the same pair, 2\.tif; remove one"):
        check.check(here)


def test_files_that_are_links_into_a_store_stay_what_they_are_called(here: Path, tmp_path: Path) -> None:
    """As of DVC and git-annex, whose stores name files by their content."""
    listed_folder(here, list("11111100"))
    (tmp_path / "store").mkdir()
    for number, file in enumerate(sorted([*here.glob("images/*"), *here.glob("masks/*")])):
        file.rename(tmp_path / "store" / f"{number:032x}")
        file.symlink_to(tmp_path / "store" / f"{number:032x}")
    _, (training, validation) = checked(here)
    assert training | validation == set("01234567")
