"""Every finding has a phantom that yields it and no other; clean folders yield none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.segmentation import expand_labels

from unet_paper.app.check import _fit_of_other
from unet_paper.app.folder_cases import annotation_of, cases_of
from unet_paper.data import folder_layout
from unet_paper.data.finding import Finding, grouped
from unet_paper.data.findings import findings
from unet_paper.data.outline_fit import best_growth, outline_fit
from unet_paper.data.phantom_clustered_nuclei import nuclei
from unet_paper.data.survey import Survey, _is_photograph, survey

SIZE = 96
Folder = Callable[[], Path]


def picture(seed: int, cells: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Bright disks of 6 to 10 px radius on a dim, noisy ground; (image, ids)."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((SIZE, SIZE), np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    while ids.max() < cells:
        centre, radius = rng.uniform(14, SIZE - 14, 2), rng.uniform(6, 10)
        disk = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        if not ids[ndimage.binary_dilation(disk, iterations=2)].any():
            ids[disk] = ids.max() + 1
    grey = 30 + 90 * ndimage.gaussian_filter((ids > 0).astype(float), 1) + rng.normal(0, 4, ids.shape)
    return grey.clip(0, 255).astype(np.uint8), ids


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    root = tmp_path / "nuclei"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(6):
        image, ids = picture(number)
        write(root, number, image, ids)
    return root


def write(root: Path, number: int, image: np.ndarray | None = None, ids: np.ndarray | None = None) -> None:
    for kind, pixels in (("images", image), ("masks", ids)):
        if pixels is not None:
            Image.fromarray(pixels).save(root / kind / f"well{number}.png")


def read(root: Path, number: int) -> np.ndarray:
    return np.array(Image.open(root / "masks" / f"well{number}.png"))


def found(root: Path) -> list[str]:
    layout = folder_layout.find(root)
    read = cases_of(layout, root.parent / "place")
    annotation = annotation_of(read.cases) if read.radius is None else "points"
    result = survey(read.cases, annotation=annotation, other_files=layout.other_files, left_out=layout.left_out)
    return sorted(finding.kind for finding in [*read.unusable, *findings(result, _fit_of_other(result, None))])


def swapped(root: Path) -> None:
    one, other = read(root, 1), read(root, 4)
    write(root, 1, ids=other)
    write(root, 4, ids=one)


def one_off(root: Path) -> None:
    """Each image has the mask of the next, as where one program counts from 0 and another from 1."""
    masks = [read(root, number) for number in range(6)]
    for number in range(6):
        write(root, number, ids=masks[(number + 1) % 6])


def foreign(root: Path) -> None:
    write(root, 2, ids=picture(77)[1])


def of_another_experiment(root: Path) -> None:
    for number in range(6):
        write(root, number, ids=picture(70 + number)[1])


def shifted(root: Path) -> None:
    write(root, 3, ids=np.roll(read(root, 3), (5, -8), (0, 1)))


def wide(root: Path) -> None:
    """All cells of all images 4 px too wide, up to half of the way to their neighbours."""
    for number in range(6):
        write(root, number, ids=expand_labels(read(root, number), 4))


def narrow(root: Path) -> None:
    for number in (1, 2):
        ids = read(root, number)
        write(root, number, ids=np.where(ndimage.binary_erosion(ids > 0, iterations=4), ids, 0).astype(np.uint8))


def inverted(root: Path) -> None:
    write(root, 3, ids=(read(root, 3) == 0).astype(np.uint8) * 255)


def dense(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disks of 7 px radius close to one another, cut off by all borders; (image, ids)."""
    rng = np.random.default_rng(seed)
    centres: list[np.ndarray] = []
    for _ in range(3000):
        centre = rng.uniform(-4, SIZE + 4, 2)
        if all(np.hypot(*(centre - other)) > 16 for other in centres):
            centres.append(centre)
    ids = np.zeros((SIZE, SIZE), np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for number, (row, column) in enumerate(centres, start=1):
        ids[np.hypot(rows - row, columns - column) < 7] = number
    grey = 30 + 90 * ndimage.gaussian_filter((ids > 0).astype(float), 1) + rng.normal(0, 4, ids.shape)
    return grey.clip(0, 255).astype(np.uint8), ids


def inverted_dense(root: Path) -> None:
    """In none of the masks do the gaps own three corners."""
    for number in range(6):
        image, ids = dense(number)
        write(root, number, image, np.where(ids > 0, 0, 255).astype(np.uint8))


def empty(root: Path) -> None:
    write(root, 5, ids=np.zeros((SIZE, SIZE), np.uint8))


def twice(root: Path) -> None:
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "well0.png", root / kind / "well9.png")


def twice_with_different_masks(root: Path) -> None:
    twice(root)
    ids = read(root, 0)
    ids[ids == 3] = 0
    write(root, 9, ids=ids)


def in_pieces(root: Path) -> None:
    ids = read(root, 0)
    ids[ids == 2] = 1
    write(root, 0, ids=ids)


def specks(root: Path) -> None:
    ids = read(root, 0)
    ids[tuple(np.argwhere(ids == 0)[4000])] = 99
    write(root, 0, ids=ids)


def photograph(root: Path) -> None:
    shutil.copy(root / "images" / "well2.png", root / "masks" / "well2.png")


def one_image(root: Path) -> None:
    for number in range(1, 6):
        for kind in ("images", "masks"):
            (root / kind / f"well{number}.png").unlink()


def many_others(root: Path) -> None:
    for number in range(1000):
        (root / "images" / f"note{number}.txt").touch()


def of_another_kind(root: Path) -> None:
    for kind, pixels in zip(("images", "masks"), picture(7), strict=True):
        Image.fromarray(pixels).save(root / kind / "well7.gif")


def a_folder_further_in(root: Path) -> None:
    """A second day; and notes, and a folder without an image, which are none of it."""
    for kind, pixels in zip(("images", "masks"), picture(7), strict=True):
        (root / kind / "day2").mkdir()
        Image.fromarray(pixels).save(root / kind / "day2" / "well7.png")
    (root / "images" / "notes").mkdir()
    (root / "images" / "notes" / "day1.txt").write_text("sunny")


def negative(root: Path) -> None:
    write(root, 4, image=255 - picture(4)[0])


def too_dark(root: Path) -> None:
    image, _ = picture(2)
    write(root, 2, image=(image // 40).astype(np.uint8))


def test_a_pixel_that_is_no_number_is_named(clean: Path) -> None:
    grey = np.array(Image.open(clean / "images" / "well0.png")).astype(np.float32)
    grey[3, 4] = np.nan
    (clean / "images" / "well0.png").unlink()
    Image.fromarray(grey).save(clean / "images" / "well0.tif")
    assert found(clean) == ["image cannot be read"]
    (case,) = [case for case in cases_of(folder_layout.find(clean), clean).cases if case["image"].endswith("0.tif")]
    with pytest.raises(ValueError, match=r"well0\.tif: 1 pixels are NaN or infinite"):
        survey([case])


def other_pixel_size(root: Path) -> None:
    """Pixels of 0.5 um, and of 1 um in one image."""
    for number in range(6):
        file = root / "images" / f"well{number}.png"
        Image.open(file).save(file, dpi=2 * (25400 if number == 4 else 50800,))


def all_shifted(root: Path) -> None:
    """As a crop of the images alone does."""
    for number in range(6):
        image, ids = picture(number)
        write(root, number, image=np.ascontiguousarray(image[5:, 9:]), ids=np.ascontiguousarray(ids[:-5, :-9]))


def mirrored(root: Path) -> None:
    for number in range(6):
        write(root, number, ids=np.ascontiguousarray(read(root, number)[::-1]))


def transposed(root: Path) -> None:
    write(root, 2, ids=np.ascontiguousarray(read(root, 2).T))


def half_size(root: Path) -> None:
    """Outlines that were exported from an image of half the size."""
    for number in range(6):
        ids = read(root, number)
        small = np.zeros_like(ids)
        small[: SIZE // 2, : SIZE // 2] = ids[1::2, 1::2]
        write(root, number, ids=small)


def double_size(root: Path) -> None:
    ids = read(root, 2)
    write(root, 2, ids=np.kron(ids, np.ones((2, 2), np.uint8))[:SIZE, :SIZE])


def in_micrometres(root: Path) -> None:
    """0.65 um a pixel, as the image says."""
    (root / "images" / "well2.png").unlink()
    image, ids = picture(2)
    metadata = {"axes": "YX", "unit": "um"}
    resolution = (1 / 0.65, 1 / 0.65)
    tifffile.imwrite(root / "images" / "well2.tif", image, imagej=True, resolution=resolution, metadata=metadata)
    side = round(0.65 * SIZE)
    at = ((np.arange(side) + 0.5) / 0.65).astype(int)
    small = np.zeros_like(ids)
    small[:side, :side] = ids[np.ix_(at, at)]
    write(root, 2, ids=small)


def of_the_frame_before(root: Path) -> None:
    """Of two frames of a film one is drawn: in the next one the cells have moved a little."""
    image, ids = picture(2)
    moved = np.roll(image, 1, 0)
    write(root, 9, moved, ids)


def twice_turned(root: Path) -> None:
    """What a program that multiplies images by turning them leaves in a folder, its ids numbered anew."""
    image, ids = (np.rot90(pixels) for pixels in picture(0))
    write(root, 9, np.ascontiguousarray(image), np.where(ids, 9 - ids, 0).astype(np.uint8))


def upper_half_drawn(root: Path) -> None:
    """The rest was not looked at, and there is no value that says so."""
    for number in range(6):
        ids = read(root, number)
        ids[np.isin(ids, ids[48:])] = 0
        write(root, number, ids=ids)


def debris(root: Path) -> None:
    """In one image, in which all cells lie on the other side: it looks as cells do, and is none."""
    upper_half_drawn(root)
    for number in range(1, 6):
        write(root, number, *picture(number))


def twice_as_large(root: Path) -> None:
    """Half of the images, as of another objective, and their files do not say it."""
    for number in range(3):
        image, ids = picture(number)
        large = ndimage.zoom(image.astype(np.float32), 2, order=1) + np.random.default_rng(number).normal(
            0, 3, (192, 192)
        )
        write(root, number, large.clip(0, 255).astype(np.uint8), ids.repeat(2, axis=0).repeat(2, axis=1))


def half_not_looked_at(root: Path) -> None:
    """A value for what nobody annotated, of which neither check nor training was told."""
    for number in range(6):
        ids = read(root, number)
        ids[60:] = 255
        write(root, number, ids=ids)


def a_corner_not_looked_at(root: Path) -> None:
    """Too small to be told by its size from a large cell."""
    for number in range(6):
        ids = read(root, number)
        ids[84:, 70:] = 255
        write(root, number, ids=ids)


def outlines(root: Path) -> None:
    for number in range(6):
        ids = read(root, number)
        inside = ndimage.binary_erosion(ids > 0)
        write(root, number, ids=np.where(inside, 0, ids).astype(np.uint8))


def thin_outlines(root: Path) -> None:
    """In black and white, one pixel wide, whose pixels touch by corners: in pieces for whoever counts neighbours."""
    for number in range(6):
        cells = read(root, number) > 0
        write(root, number, ids=(cells & ~ndimage.binary_erosion(cells)).astype(np.uint8) * 255)


def twelve_bits(root: Path) -> None:
    for number in (1, 4):
        image, _ = picture(number)
        (root / "images" / f"well{number}.png").unlink()
        Image.fromarray(image.astype(np.uint16) * 16).save(root / "images" / f"well{number}.tif")


def one_in_colour(root: Path) -> None:
    image, _ = picture(3)
    write(root, 3, image=np.dstack([image, image // 2, image]))


def other_order(root: Path) -> None:
    """Two channels, in one image the other way round."""
    for number in range(6):
        image, _ = picture(number)
        (root / "images" / f"well{number}.png").unlink()
        pair, names = np.stack([image, image // 3]).astype(np.uint16) * 256, ["DAPI", "GFP"]
        file = root / "images" / f"well{number}.tif"
        labels = {"axes": "CYX", "Labels": names[::-1] if number == 4 else names}
        tifffile.imwrite(file, pair[::-1] if number == 4 else pair, imagej=True, metadata=labels)


def smooth_photograph(root: Path) -> None:
    image, _ = picture(2)
    write(root, 2, ids=ndimage.gaussian_filter(image, 3.0))


def unlike_its_image(root: Path) -> None:
    write(root, 2, ids=read(root, 2)[:-4])


def damaged(root: Path) -> None:
    file = root / "images" / "well4.png"
    file.write_bytes(file.read_bytes()[:800])


@pytest.mark.parametrize(
    ("harm", "kinds"),
    [
        (lambda _: None, []),
        (other_pixel_size, ["pixel sizes differ"]),
        (swapped, 2 * ["mask of another image"]),
        (foreign, ["mask of another image"]),
        (of_another_experiment, ["masks lie on nothing"]),
        (one_off, 6 * ["mask of another image"]),
        (shifted, ["mask is shifted"]),
        (wide, ["mask is drawn wide"]),
        (narrow, ["mask is drawn narrow"]),
        (inverted, ["mask is inverted"]),
        (inverted_dense, ["mask is inverted"]),
        (empty, ["mask is empty"]),
        (twice, ["image is there twice"]),
        (twice_with_different_masks, ["one image, different masks"]),
        (in_pieces, ["ids in several pieces"]),
        (specks, ["specks"]),
        (photograph, ["mask is a photograph"]),
        (one_image, ["one image only"]),
        (many_others, ["many other files"]),
        (of_another_kind, ["images are left out"]),
        (a_folder_further_in, ["images are left out"]),
        (negative, ["image is a negative"]),
        (too_dark, ["another brightness"]),
        (all_shifted, ["mask is shifted"]),
        (mirrored, ["mask is turned"]),
        (transposed, ["mask is turned"]),
        (half_size, ["mask is scaled"]),
        (double_size, ["mask is scaled"]),
        (in_micrometres, ["mask is scaled"]),
        (of_the_frame_before, ["one mask for several images"]),
        (twice_turned, ["image is there twice"]),
        (upper_half_drawn, ["mask covers a part of the image"]),
        (debris, []),
        (twice_as_large, ["two sizes of cells"]),
        (half_not_looked_at, ["cell as large as a part of the image"]),
        (outlines, ["outlines that are not filled"]),
        (thin_outlines, ["outlines that are not filled"]),
        (a_corner_not_looked_at, ["id far above the others"]),
        (twelve_bits, ["types differ"]),
        (one_in_colour, ["numbers of channels differ"]),
        (other_order, ["channels in another order"]),
        (smooth_photograph, ["mask is a photograph"]),
        (unlike_its_image, ["mask cannot be used"]),
        (damaged, ["image cannot be read"]),
    ],
)
def test_each_fault_is_found_and_nothing_else(clean: Path, harm: Callable[[Path], None], kinds: list[str]) -> None:
    harm(clean)
    assert found(clean) == kinds


@pytest.mark.parametrize("by", [-4, 4])
def test_how_much_too_wide_or_narrow_masks_are_is_how_much_they_were_changed(by: int) -> None:
    image, ids = picture(3)
    grown = expand_labels(ids, by) if by > 0 else np.where(ndimage.binary_erosion(ids > 0, iterations=-by), ids, 0)
    found_by, fit = best_growth(image.astype(np.float32), grown.astype(np.int32))
    assert abs(found_by + by) <= 1
    assert fit > 2 * outline_fit(image.astype(np.float32), grown.astype(np.int32))[0]
    # masks that lie on their cells do not ask for it
    assert abs(best_growth(image.astype(np.float32), ids.astype(np.int32))[0]) <= 1


def points_at(root: Path, place: Callable[[np.ndarray], np.ndarray]) -> None:
    """In place of the masks a table of their cells' middles, moved."""
    (root / "points").mkdir()
    for number in range(6):
        ids = read(root, number)
        middles = np.array(ndimage.center_of_mass(ids > 0, ids, range(1, ids.max() + 1)))
        lines = [f"{y:.3f},{x:.3f}" for y, x in place(middles)]
        (root / "points" / f"well{number}.csv").write_text("\n".join(["y,x", *lines]))
    shutil.rmtree(root / "masks")


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        (lambda middles: middles, []),
        # 0.65 and 0.3 micrometres a pixel
        (lambda middles: 0.65 * middles, ["points in one corner"]),
        (lambda middles: 0.3 * middles, ["points in one corner"]),
        # a clump in the middle, and one at the left border, are as they are
        (lambda middles: SIZE / 4 + middles / 2, []),
        (lambda middles: middles * (1.0, 0.5), []),
    ],
)
def test_points_in_micrometres_are_told_from_cells_that_lie_together(
    clean: Path, place: Callable[[np.ndarray], np.ndarray], kinds: list[str]
) -> None:
    points_at(clean, place)
    assert found(clean) == kinds


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE, SIZE - 16)])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda middles, _: middles[:, ::-1], "x and y were exchanged"),
        (lambda middles, size: (0, size[1]) + (1, -1) * middles, "they were mirrored left to right"),
        (lambda middles, size: (size[0], 0) + (-1, 1) * middles, "they were mirrored top to bottom"),
    ],
)
def test_points_with_their_axes_exchanged_or_mirrored_are_named(
    clean: Path, place: Callable[[np.ndarray, tuple[int, int]], np.ndarray], said: str, size: tuple[int, int]
) -> None:
    for number in range(6):
        image = np.array(Image.open(clean / "images" / f"well{number}.png"))
        write(clean, number, image[: size[0], : size[1]], read(clean, number)[: size[0], : size[1]])

    def moved(middles: np.ndarray) -> np.ndarray:
        middles = middles[~np.isnan(middles).any(axis=1)]
        there = place(middles, size)
        return there[((there >= 0) & (there < size)).all(axis=1)]

    points_at(clean, moved)
    layout = folder_layout.find(clean)
    read_ = cases_of(layout, clean.parent / "place")
    (finding,) = findings(survey(read_.cases, annotation="points"))
    assert finding.kind == "points are turned"
    assert len(finding.files) > 3
    assert f"would lie on something if {said}" in finding.what
    if "exchanged" in said:
        assert "in a table give them each other's name" in finding.remedy
        for table in (clean / "points").iterdir():
            table.write_text(table.read_text().replace("y,x", "x,y"))
        assert found(clean) == []


def test_points_of_the_next_image_are_named(clean: Path) -> None:
    points_at(clean, lambda middles: middles)
    tables = [(clean / "points" / f"well{number}.csv").read_text() for number in range(6)]
    for number in range(6):
        (clean / "points" / f"well{number}.csv").write_text(tables[(number + 1) % 6])
    assert found(clean) == ["points of another image"]


@pytest.mark.parametrize(("width", "value"), [(1, None), (1, 255), (3, None), (3, 255)])
def test_dots_in_place_of_cells_are_said_and_can_be_points(clean: Path, width: int, value: int | None) -> None:
    for number in range(6):
        ids = read(clean, number)
        dots = np.zeros_like(ids)
        for cell in range(1, ids.max() + 1):
            row, column = (int(middle) for middle in ndimage.center_of_mass(ids == cell))
            dots[row : row + width, column : column + width] = value or cell
        write(clean, number, ids=dots)
    assert found(clean) == ["cells are dots"]
    for number in range(6):
        write(clean, number, ids=ndimage.label(read(clean, number))[0].astype(np.uint8))
    points_at(clean, lambda middles: middles)
    assert found(clean) == []


def test_what_is_said_of_black_and_white_masks_among_ids_can_be_done(clean: Path) -> None:
    for number in (1, 4):
        write(clean, number, ids=(read(clean, number) > 0).astype(np.uint8) * 255)
    cases = cases_of(folder_layout.find(clean), clean).cases
    (finding,) = findings(survey(cases, annotation=annotation_of(cases)))
    assert finding.kind == "ids in several pieces"
    assert "say --annotation either" in finding.remedy
    mended = survey(cases, annotation="either")
    assert findings(mended) == []
    assert mended.cells == 6 * 7


def test_membranes_that_are_drawn_in_place_of_cells_are_said(tmp_path: Path) -> None:
    """Black and white, with the cells black: what is said of them can be done."""
    rows, columns = np.indices((96, 96))
    grid = (rows % 16 < 3) | (columns % 16 < 3)
    for kind, pixels in (("images", 200 - 150 * grid), ("masks", 255 * grid)):
        (tmp_path / "em" / kind).mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "em" / kind / "a.png")
    (case,) = cases_of(folder_layout.find(tmp_path / "em"), tmp_path).cases
    said = {finding.kind: finding.remedy for finding in findings(survey([case], annotation="binary"))}
    assert "--background_value" in said["outlines that are not filled"]
    mended = survey([case], annotation="binary", background_value=255)
    assert mended.cells == 36
    assert "outlines that are not filled" not in {finding.kind for finding in findings(mended)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cells_of_many_sizes_are_not_two(tmp_path: Path, seed: int) -> None:
    """Nuclei of 10 to 30 px, each image its own."""
    for number, (image, ids) in enumerate(zip(*nuclei(8, 160, seed), strict=True)):
        tifffile.imwrite(tmp_path / f"i{number}.tif", image)
        tifffile.imwrite(tmp_path / f"m{number}.tif", ids)
    cases = [{"image": str(tmp_path / f"i{n}.tif"), "label": str(tmp_path / f"m{n}.tif")} for n in range(8)]
    sizes = [np.median(image.areas) for image in survey(cases).images if len(image.areas) > 2]
    assert max(sizes) > 3 * min(sizes)
    assert "two sizes of cells" not in [finding.kind for finding in findings(survey(cases))]


def test_pixels_below_zero_are_counted_however_few(clean: Path) -> None:
    """What becomes the range of grey values is that of all pixels, not of 999 in 1000."""
    grey = np.array(Image.open(clean / "images" / "well0.png")).astype(np.float32) / 255
    grey[3, 4] = -0.02
    (clean / "images" / "well0.png").unlink()
    tifffile.imwrite(clean / "images" / "well0.tif", grey)
    (image,) = survey(cases_of(folder_layout.find(clean), clean).cases[:1]).images
    assert image.low > 0
    assert image.smallest == pytest.approx(-0.02)


@pytest.mark.parametrize(("data", "kind"), [("DIC-C2DH-HeLa", "ST"), ("PhC-C2DH-U373", "ST")])
def test_complete_masks_of_the_challenge_are_clean(real_data: Path, data: str, kind: str) -> None:
    masks = sorted((real_data / data / f"01_{kind}" / "SEG").glob("*.tif"))[::12]
    frames = [real_data / data / "01" / f"t{mask.stem[7:]}.tif" for mask in masks]
    result = survey([{"image": str(i), "label": str(m)} for i, m in zip(frames, masks, strict=True)])
    assert [finding.kind for finding in findings(result)] == []


def test_an_outline_lies_where_it_is_moved_to() -> None:
    """The fit of a square's outline on its own edges, moved: best at the shift that moves it back."""
    square = np.zeros((64, 64), np.int32)
    square[20:40, 10:44] = 1
    own, best, shift = outline_fit(square.astype(np.float32), np.roll(square, (-4, 9), (0, 1)))
    assert shift == (4, -9)
    assert best > own


def test_what_is_said_of_several_files_is_said_once() -> None:
    same = [Finding("kind", [name], f"{name}: holds 7, {name} is no mask", "mend") for name in ("m/a.png", "m/b.png")]
    other = Finding("kind", ["m/c.png"], "m/c.png: holds 8", "mend")
    assert grouped([same[0], other, same[1]]) == [
        Finding("kind", ["m/a.png", "m/b.png"], "holds 7, it is no mask", "mend"),
        Finding("kind", ["m/c.png"], "holds 8", "mend"),
    ]


def test_a_dense_label_image_is_no_photograph() -> None:
    """Cells that touch, numbered one after the other without any background, as in electron microscopy."""
    grid = np.arange(36).reshape(6, 6).repeat(9, axis=0).repeat(8, axis=1) + 1
    assert not _is_photograph(grid)
    assert _is_photograph(np.random.default_rng(0).integers(0, 255, (40, 40)))


def surveyed(root: Path, **settings: Any) -> Survey:
    return survey(cases_of(folder_layout.find(root), root.parent / "place").cases, **settings)


def test_a_part_with_the_id_of_a_cell_elsewhere_gets_a_value_of_its_own(clean: Path) -> None:
    """That id as --ignore_value would make a cell of every other mask unknown."""
    ids = read(clean, 0)
    write(clean, 0, ids=np.where(np.arange(SIZE)[:, None] >= 60, 3, ids).astype(np.uint8))
    (finding,) = findings(surveyed(clean))
    assert finding.kind == "cell as large as a part of the image"
    assert "--ignore_value 65535" in finding.remedy
    assert "--ignore_value 3" not in finding.remedy
    other = np.where(np.arange(SIZE)[:, None] >= 60, 65535, ids.astype(np.uint16)).astype(np.uint16)
    (clean / "masks" / "well0.png").unlink()
    tifffile.imwrite(clean / "masks" / "well0.tif", other)
    mended = surveyed(clean, ignore_value=65535)
    assert findings(mended) == []
    assert [len(image.areas) for image in mended.images[1:]] == 5 * [7]


def test_a_part_that_is_drawn_gets_the_name_that_means_unknown(clean: Path) -> None:
    ids = read(clean, 0)
    ids[60:] = 200
    write(clean, 0, ids=ids)
    labels = [case["label"] for case in cases_of(folder_layout.find(clean), clean).cases]
    (finding,) = findings(surveyed(clean, made=labels))
    assert "the class, or the name, Ignore" in finding.remedy
    assert "--ignore_value" not in finding.remedy


def test_ids_that_were_cut_off_at_8_bits_are_said(tmp_path: Path) -> None:
    ids = np.kron(np.arange(1, 325).reshape(18, 18), np.pad(np.ones((6, 6), int), 2))
    grey = np.random.default_rng(0).normal(40, 4, ids.shape) + 90 * ndimage.gaussian_filter((ids > 0).astype(float), 1)
    for kind, pixels in (("image", grey.clip(0, 255)), ("wrapped", ids % 256), ("whole", ids)):
        tifffile.imwrite(tmp_path / f"{kind}.tif", pixels.astype(np.uint16 if kind == "whole" else np.uint8))
    said = {}
    for kind in ("wrapped", "whole"):
        result = survey([{"image": str(tmp_path / "image.tif"), "label": str(tmp_path / f"{kind}.tif")}])
        said[kind] = [finding.kind for finding in findings(result)]
    assert said == {"wrapped": ["ids are cut off at 8 bits", "one image only"], "whole": ["one image only"]}
