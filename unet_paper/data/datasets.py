"""Folders and stacks to lists of cases, with explicit splits by contiguous blocks or by sequence.

Every function returns a list of dicts of strings, one dict a case: ``image``, ``label`` where there is one, ``markers``
where the Cell Tracking Challenge has them. A page of a TIFF stack is a case of its own, ``"train-volume.tif#7"``,
which ``unet_paper.data.reader.PageReader`` loads. What can be known from names and headers is checked here, before work
starts.

Neighbouring slices and frames resemble one another, so validation always takes contiguous runs, never a random choice.

- ISBI 2012: Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142; Cardona et al. 2010,
  doi:10.1371/journal.pbio.1000502.
- Cell Tracking Challenge: Maska et al. 2023, doi:10.1038/s41592-023-01879-y.
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_paper.data.pairs_table import read_pairs
from unet_paper.data.reader import (
    EXTENSIONS,
    JPEG,
    extension,
    is_image,
    layout,
    page_shapes,
    split_page,
)
from unet_paper.data.region import annotated_regions
from unet_paper.data.written_by_us import is_output

__all__ = ["ctc", "folder", "images", "isbi2012", "large", "listed"]

Case = dict[str, str]

logger = logging.getLogger(__name__)

PARTS = ("training", "validation", "all")
# what masks' names commonly have after and before their images'
MASK_ENDINGS = ("_masks", "_mask", "_seg", "_labels", "_label", "-mask", "-masks", "_cp_masks")
MASK_BEGINNINGS = ("mask_", "masks_", "label_", "seg_")
ANNOTATIONS = {"gold": ("GT",), "silver": ("ST",), "gold+silver": ("ST", "GT")}


def isbi2012(
    dataset_dir: str | Path,
    part: str,
    *,
    images: str = "train-volume.tif",
    labels: str = "train-labels.tif",
    fold: int | str = 0,
    folds: int = 4,
    halves: int = 2,
) -> list[Case]:
    """Slices of the ISBI 2012 EM challenge; each slice of the stack is a case.

    The published stack consists of two blocks of different smoothness. It is cut into ``halves`` equal parts and each
    part into ``folds`` contiguous runs; fold k holds out the k-th run of every part.

    Args:
        dataset_dir: folder that holds the stacks.
        part: ``training``, ``validation`` or ``all``.
        images: name of the image stack, (Z, H, W).
        labels: name of the label stack, of the same shape; 0 is membrane, anything else cell.
        fold: which fold to hold out, 0 to folds - 1; ``"all"`` trains on every slice and validates on every slice,
            which measures the fit and not what the network makes of new images.
        folds: number of runs in each part.
        halves: number of parts.

    Returns:
        Cases with ``image`` and ``label``, in the order of the stack.

    Raises:
        FileNotFoundError: the folder or a stack is missing.
        ValueError: an unknown part, a fold out of range, too few slices, stacks that do not fit together or cannot be
            read.
    """
    root = _folder(dataset_dir)
    cases = pairs(root / images, root / labels)
    held_out = _held_out(part, fold, folds)
    if held_out is None:
        return cases
    if halves < 1:
        raise ValueError(f"halves={halves}: at least 1")
    validation: set[int] = set()
    for half in range(halves):
        first, last = half * len(cases) // halves, (half + 1) * len(cases) // halves
        run = _run(last - first, held_out, folds, f"slices in part {half + 1} of {root / images}")
        validation |= {first + i for i in run}
    return [case for i, case in enumerate(cases) if (i in validation) == (part == "validation")]


def ctc(
    dataset_dir: str | Path,
    part: str,
    *,
    sequences: Sequence[str | int] | None = None,
    annotations: str = "gold",
    validation_sequences: Sequence[str | int] | None = None,
    fold: int | str = 0,
    folds: int = 4,
    gap: int = 1,
) -> list[Case]:
    """Annotated frames of a two-dimensional data set of the Cell Tracking Challenge.

    Gold masks are ``NN_GT/SEG/man_segTTT.tif``, silver ones ``NN_ST/SEG/man_segTTT.tif``; frames have three or four
    digits. Where a sequence has tracking markers, ``NN_GT/TRA/man_trackTTT.tif``, its cases name them: a marker without
    an object in the mask is a cell that nobody outlined.

    Validation takes gold frames only. It is the sequences in ``validation_sequences``, or else, in every sequence, the
    fold-th of ``folds`` contiguous runs of gold frames. From the first to the last frame of such a run, and ``gap``
    frames to either side, nothing goes to training, gold or silver.

    Args:
        dataset_dir: folder that holds ``01``, ``01_GT`` and so on.
        part: ``training``, ``validation`` or ``all``.
        sequences: names such as ``["01", "02"]``; all that have masks where None.
        annotations: what to train on: ``gold``, ``silver``, or ``gold+silver``, where gold wins if a frame has both.
        validation_sequences: some of the sequences, to hold out whole.
        fold: which fold to hold out, 0 to folds - 1; ``"all"`` trains on every frame and validates on every gold one,
            which measures the fit and not what the network makes of new images. Without effect where
            ``validation_sequences`` are given.
        folds: number of runs of gold frames in each sequence.
        gap: frames left out on either side of a held-out run.

    Returns:
        Cases with ``image``, ``label`` and mostly ``markers``, by sequence and time.

    Raises:
        FileNotFoundError: the folder, a sequence, or the image or markers of an annotated frame are missing.
        ValueError: an unknown part or annotation, a fold out of range, too few gold frames, shapes that differ, files
            that cannot be read.
    """
    root = _folder(dataset_dir)
    if annotations not in ANNOTATIONS:
        raise ValueError(f"annotations={annotations!r}: expected one of {', '.join(ANNOTATIONS)}")
    if gap < 0:
        raise ValueError(f"gap={gap}: a number of frames, at least 0")
    held_out = _held_out(part, fold, folds)
    names = _sequences(root, sequences, annotations)
    apart = None if validation_sequences is None else _sequences(root, validation_sequences, "gold")
    if apart is not None and not (apart and set(apart) < set(names)):
        raise ValueError(f"validation_sequences={apart}: expected some, but not all, of the sequences {names}")

    training: list[Case] = []
    validation: list[Case] = []
    for name in names:
        gold = _frames(root, name, "GT")
        masked = {t: case for kind in ANNOTATIONS[annotations] for t, case in _frames(root, name, kind).items()}
        scored, block = list(gold), range(0)
        if apart is None and held_out is not None:
            run = _run(len(gold), held_out, folds, f"gold masks in {root / f'{name}_GT' / 'SEG'}")
            scored = scored[run.start : run.stop]
            block = range(scored[0] - gap, scored[-1] + gap + 1)
        if apart is None or name in apart:
            validation += [gold[t] for t in scored]
        if apart is None or name not in apart or part == "all":
            training += [masked[t] for t in sorted(masked) if t not in block]
    cases = validation if part == "validation" else training
    if not cases:
        raise ValueError(f"{root}: no cases left for part={part!r} with folds={folds}, gap={gap}; lower one of them")
    return cases


def folder(
    dataset_dir: str | Path,
    part: str,
    *,
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str = "",
    fold: int | str = 0,
    folds: int = 4,
    spread_folds: bool = False,
) -> list[Case]:
    """Images and masks of a lab, paired by name: ``images/well3.tif`` belongs to ``masks/well3.png``.

    Masks may share a suffix, ``masks/well3_mask.png`` with ``mask_suffix="_mask"``; then images and masks may also lie
    in one folder, ``dataset_dir`` itself where it holds neither of the two. Stacks are paired page by page.

    The cases, in natural order of their names, are cut into ``folds`` contiguous runs: of frames of a film or slices of
    a stack, none is then held out between two like it. Others can be spread: every ``folds``-th is held out.

    Args:
        dataset_dir: folder that holds both folders.
        part: ``training``, ``validation`` or ``all``.
        images: folder of the images in ``dataset_dir``.
        masks: folder of the masks in ``dataset_dir``.
        mask_suffix: what a mask's name has after the image's name, before the extension.
        fold: which fold to hold out, 0 to folds - 1; ``"all"`` trains on every case and validates on every case,
            which measures the fit and not what the network makes of new images; ``"block"`` holds out a part of every
            image, see ``data.held_out_block``.
        folds: number of runs.
        spread_folds: hold out images from all over, where neighbours are no more alike than others: a folder sorted by
            well, day or kind of cell has all of them in training and in validation.

    Returns:
        Cases with ``image`` and ``label``.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: an unknown part, a fold out of range, too few cases, an image without a mask or a mask without an
            image, two files of one name, shapes that differ, files that cannot be read.
    """
    root = _folder(dataset_dir)
    mask_suffix = str(mask_suffix)  # a command line makes a number of --mask_suffix 1
    if mask_suffix and not any((root / name).exists() for name in (images, masks)):
        images = masks = "."
    image_dir, mask_dir = _folder(root / images), _folder(root / masks)
    together = image_dir.resolve() == mask_dir.resolve()
    if together and not mask_suffix:
        raise ValueError(f"images={images!r}, masks={masks!r}: one folder for both needs a mask_suffix, e.g. '_mask'")
    image_files = _image_files(image_dir)
    mask_files = image_files if together else _image_files(mask_dir)
    if together:
        image_files = [f for f in image_files if not stem(f).endswith(mask_suffix)]
        mask_files = [f for f in mask_files if stem(f).endswith(mask_suffix)]
    by_image = _by_name(image_files)
    by_mask = _by_name(mask_files)
    lonely = [f"image without a mask: {file}" for name, file in by_image.items() if name + mask_suffix not in by_mask]
    partners = {name + mask_suffix for name in by_image}
    lonely += [f"mask without an image: {file}" for name, file in by_mask.items() if name not in partners]
    if lonely:
        shown = "; ".join(lonely[:5]) + (f"; and {len(lonely) - 5} more" if len(lonely) > 5 else "")
        raise ValueError(
            f"{shown}. A mask has the name of its image and mask_suffix={mask_suffix!r}; "
            f"{_suffix_remedy(by_image, by_mask)}remove what has no partner"
        )
    if not by_image:
        raise ValueError(f"{image_dir}: no images; supported are {' '.join(EXTENSIONS)}")
    cases = [case for name, image in by_image.items() for case in pairs(image, by_mask[name + mask_suffix])]
    return _part(cases, part, fold, folds, root, spread_folds)


def listed(
    pairs_csv: str | Path,
    part: str,
    *,
    fold: int | str = 0,
    folds: int = 4,
    spread_folds: bool = False,
) -> list[Case]:
    """Images and masks that a table pairs: a CSV with the columns ``image`` and ``mask``, a line a pair.

    Paths are taken from the table's folder where they are not absolute. The cases, in the order of the table, are cut
    into ``folds`` contiguous runs; or, where it has a column ``fold``, as that says: a number from 0 for each page of
    the image, or one for all.

    Args:
        pairs_csv: the table, with commas, semicolons or tabs between its columns.
        part, fold, folds, spread_folds: as for :func:`folder`.

    Returns:
        Cases with ``image`` and ``label``.

    Raises:
        FileNotFoundError: the table or a file of it is missing.
        ValueError: another table; folds of some images, or other ones than ``folds``; otherwise as for :func:`folder`.
    """
    table = _given(pairs_csv)
    listed_pairs = read_pairs(table)
    of_pairs = [pairs(pair.image, pair.mask) for pair in listed_pairs]
    cases = [case for of_pair in of_pairs for case in of_pair]
    if not any(pair.folds for pair in listed_pairs) or fold == "block":
        return _part(cases, part, fold, folds, table, spread_folds)
    held_out = _held_out(part, fold, folds)
    if held_out is None:
        return cases
    of_cases: list[int] = []
    for pair, of_pair in zip(listed_pairs, of_pairs, strict=True):
        if len(pair.folds) not in (1, len(of_pair)):
            raise ValueError(
                f"{table}: {len(pair.folds)} folds of {pair.image}; expected 1, or {len(of_pair)}, its pages"
            )
        of_cases += pair.folds if len(pair.folds) > 1 else pair.folds * len(of_pair)
    if set(of_cases) != set(range(folds)):
        raise ValueError(
            f"folds={folds}: the column fold of {table} has {', '.join(map(str, sorted(set(of_cases))))}; "
            f"expected --folds {max(of_cases) + 1}, and every number from 0 to {max(of_cases)}"
        )
    return [
        case for case, of_case in zip(cases, of_cases, strict=True) if (of_case == held_out) == (part == "validation")
    ]


def _part(cases: list[Case], part: str, fold: int | str, folds: int, where: Path, spread: bool) -> list[Case]:
    """What training or validation gets of the cases."""
    if fold == "block" and part in ("training", "validation"):
        return [{**case, "block": part} for case in cases]
    held_out = _held_out(part, fold, folds)
    if held_out is None:
        return cases
    run = _run(len(cases), held_out, folds, f"cases in {where}")
    if spread:
        run = range(held_out, len(cases), folds)
    return [case for i, case in enumerate(cases) if (i in run) == (part == "validation")]


def large(
    dataset_dir: str | Path,
    part: str,
    *,
    label: str | Path,
    side: int = 1024,
    fold: int | str = 0,
    folds: int = 4,
) -> list[Case]:
    """Annotated regions of an image that is too large to be loaded: an OME-Zarr or a TIFF and its label image.

    Only squares in which something is annotated are taken; each is read when it is needed. They are cut, row by row,
    into ``folds`` contiguous runs.

    Args:
        dataset_dir: the image.
        part: ``training``, ``validation`` or ``all``.
        label: OME-Zarr or TIFF of the same size, or the path of one within ``dataset_dir``, such as ``labels/cells``.
        side: of a square in px.
        fold: which fold to hold out, 0 to folds - 1; ``"all"`` trains and validates on every region.
        folds: number of runs.

    Raises:
        FileNotFoundError: image or label is missing.
        ValueError: an unknown part, a fold out of range, too few regions, sizes that differ, nothing annotated.
    """
    inside = Path(dataset_dir) / label
    cases = annotated_regions(dataset_dir, inside if inside.exists() else label, side)
    held_out = _held_out(part, fold, folds)
    if held_out is None:
        return cases
    run = _run(len(cases), held_out, folds, f"annotated regions in {label}")
    return [case for i, case in enumerate(cases) if (i in run) == (part == "validation")]


def images(dataset_dir: str | Path) -> list[Case]:
    """Every image of a folder, for inference, in natural order of names; stacks page by page.

    Predictions that this program wrote into the folder are no images. Of two files of one name, whose predictions would
    overwrite one another, one is taken, a TIFF first and a JPEG last; a line names the others. A file of a folder that
    cannot be read is a case all the same: reading it says what is wrong, and the others are not held up.

    Args:
        dataset_dir: a folder, or one image file, or one page of a stack.

    Returns:
        Cases with ``image``.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no images in the folder, or the one file cannot be read.
    """
    file, page = split_page(dataset_dir)
    file = _given(file)
    if page is not None:
        if page >= len(page_shapes(file)):
            raise ValueError(f"{dataset_dir}: page out of range; the file has pages 0 to {len(page_shapes(file)) - 1}")
        return [{"image": f"{file}#{page}"}]
    if file.is_file() or (file.exists() and is_image(file)):
        return [{"image": address} for address in _addresses(file, _pages(file))]
    files = _without_masks(_one_of_a_name([f for f in _image_files(_folder(file)) if not is_output(f)]))
    if not files:
        raise ValueError(f"{file}: no images; supported are {' '.join(EXTENSIONS)}{_further_in(file)}")
    cases = []
    for one in files:
        try:
            pages = _pages(one)
        except (ValueError, OSError):
            pages = 1
        cases += [{"image": address} for address in _addresses(one, pages)]
    return cases


def _given(path: str | Path) -> Path:
    """The path that was given, of which MONAI's settings make "::" out of "#"."""
    given = Path(str(path)).expanduser()
    restored = Path(str(given).replace("::", "#"))
    return restored if restored != given and restored.exists() and not given.exists() else given


def _folder(path: str | Path) -> Path:
    root = _given(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder")
    if not root.is_dir():
        raise ValueError(f"{root}: a file, expected a folder")
    return root


def _held_out(part: str, fold: int | str, folds: int) -> int | None:
    """The fold to hold out; None where everything is asked for."""
    if part not in PARTS:
        raise ValueError(f"part={part!r}: expected one of {', '.join(PARTS)}")
    if fold == "all" or part == "all":
        return None
    if folds < 2:
        raise ValueError(f"folds={folds}: at least 2, or fold='all' to train on everything")
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise ValueError(
            f"fold={fold!r}: expected 0 to {folds - 1}, or 'all' to train on everything; for a folder or a store also "
            "'block', a part of every image"
        )
    return fold


def _run(count: int, fold: int, folds: int, what: str) -> range:
    """The fold-th of ``folds`` contiguous runs, as equal as can be, of ``count`` cases."""
    if count < folds:
        raise ValueError(f"folds={folds}: {count} {what}, too few; at most {count} folds, or fold='all'")
    return range(fold * count // folds, (fold + 1) * count // folds)


def _addresses(file: Path, pages: int) -> list[str]:
    return [str(file)] if pages == 1 else [f"{file}#{page}" for page in range(pages)]


def pairs(image: Path, label: Path) -> list[Case]:
    """Cases of one image file and its label file, page by page.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: they differ in pages, size or the directions of their axes, the label is a JPEG, a file cannot be
            read, or the image's name is no text.
    """
    if (shown := image.name.encode(errors="backslashreplace").decode()) != image.name:
        raise ValueError(f"{image.parent}: the name {shown} is no text in UTF-8, and tables are; rename the file")
    if extension(label) in JPEG:
        raise ValueError(
            f"{label}: a mask in JPEG, which changes values: every grey at a rim would be a cell of its own; save "
            "masks as PNG or TIFF from where they were drawn"
        )
    of_image, of_label = layout(image), layout(label)
    shapes, label_shapes = of_image.shapes, of_label.shapes
    if len(shapes) != len(label_shapes):
        raise ValueError(f"{image} has {len(shapes)} pages, {label} has {len(label_shapes)}: expected one label a page")
    counted = [dict(zip(one.axes, one.sizes, strict=True)) for one in (of_image, of_label)]
    if all({"T", "Z"} <= axes.keys() for axes in counted) and counted[0] != counted[1]:
        raise ValueError(
            f"{image} has {_counted(counted[0])}, {label} has {_counted(counted[1])}: pages would be paired in another "
            "order; save the mask with its axes as the image has them"
        )
    for page, (shape, label_shape) in enumerate(zip(shapes, label_shapes, strict=True)):
        if shape[:2] != label_shape[:2]:
            where = f"page {page} of " if len(shapes) > 1 else ""
            raise ValueError(
                f"{where}{image} is {shape[0]}x{shape[1]} px, "
                f"of {label} {label_shape[0]}x{label_shape[1]} px (HxW); image and label must have one size"
            )
    if _run_otherwise(of_image.affine, of_label.affine, 3 if len(shapes) > 1 else 2):
        raise ValueError(
            f"{label}: its axes run in other directions than those of {image}, as their headers say, so that one is "
            "turned or mirrored before the other; save the mask on the grid of its image (in 3D Slicer with the image "
            "as reference), or both as TIFF from a program that shows them one over the other"
        )
    addresses = zip(_addresses(image, len(shapes)), _addresses(label, len(shapes)), strict=True)
    return [{"image": i, "label": lab} for i, lab in addresses]


def _counted(sizes: dict[str, int]) -> str:
    """Times and depths of a hyperstack in words."""
    return " and ".join(f"{sizes[axis]} {what}" for axis, what in (("T", "times"), ("Z", "depths")))


def _run_otherwise(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None, axes: int) -> bool:
    """Whether the first axes of two volumes run in other directions; one of unit steps from 0 says nothing of them."""
    told = [affine for affine in (first, second) if affine is not None and not np.array_equal(affine, np.eye(4))]
    if len(told) < 2:
        return False
    one, other = (affine[:3, :axes] / np.maximum(np.linalg.norm(affine[:3, :axes], axis=0), 1e-12) for affine in told)
    return bool(((one * other).sum(axis=0) < 0.5).any())


def stem(file: Path) -> str:
    """Name without extension, of a drawing too; accents as one letter, which some systems (macOS) write as two."""
    return unicodedata.normalize("NFC", file.name[: -len(extension(file) or file.suffix)])


def natural_order(file: Path) -> list[str | int]:
    """Sort key by which slice 9 comes before slice 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _pages(file: Path) -> int:
    found = layout(file)
    if found.left_out:
        logger.warning("%s: left out %s", file, found.left_out)
    return len(found.shapes)


def _image_files(directory: Path) -> list[Path]:
    """Image files of a folder; one line says what else is in it."""
    used, others = [], Counter[str]()
    for file in directory.iterdir():
        if file.name.startswith("."):
            others["hidden"] += extension(file) != ""
        elif is_image(file):
            used.append(file)
        elif file.is_dir():
            others["folders, which are not looked into"] += 1
        else:
            others[file.suffix.lower() or "without an extension"] += 1
    others = +others
    if used and others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        logger.warning("%s: %d images; left out: %s", directory, len(used), kinds)
    return sorted(used, key=natural_order)


def _suffix_remedy(images: Iterable[str], masks: Iterable[str]) -> str:
    """What to say where the masks' names all have the same ending."""
    endings = {mask[len(image) :] for image in images for mask in masks if mask.startswith(image) and mask != image}
    shared = [ending for ending in endings if {image + ending for image in images} == set(masks)]
    return f"say --mask_suffix {shared[0]}, or " if shared else ""


def _one_of_a_name(files: Sequence[Path]) -> list[Path]:
    """Of files of one name the one whose kind keeps most; one line names the others."""
    preferred = [*(kind for kind in EXTENSIONS if kind not in JPEG), *JPEG]
    taken: dict[str, Path] = {}
    for one in sorted(files, key=lambda file: preferred.index(extension(file))):
        taken.setdefault(stem(one), one)
    others = [file for file in files if taken[stem(file)] != file]
    if others:
        named = ", ".join(f"{file.name} (beside {taken[stem(file)].name})" for file in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        logger.warning(
            "%s: left out: %d of a name that another image has: %s%s; give such an image another name if it is one",
            others[0].parent,
            len(others),
            named,
            more,
        )
    return [file for file in files if file not in others]


def _without_masks(files: Sequence[Path]) -> list[Path]:
    """Files but for the masks beside their images, ``a_mask.tif`` beside ``a.tif``; one line names those."""
    stems = {stem(file) for file in files}
    masks = [file for file in files if _images_of_mask(stem(file)) & stems]
    if masks:
        logger.warning(
            "%s: left out: %d masks, such as %s, beside images of their names",
            masks[0].parent,
            len(masks),
            masks[0].name,
        )
    return [file for file in files if file not in masks]


def _images_of_mask(name: str) -> set[str]:
    """Names that an image has whose mask has this one."""
    before = {name.removeprefix(beginning) for beginning in MASK_BEGINNINGS}
    return (before | {name.removesuffix(ending) for ending in MASK_ENDINGS}) - {name}


def _further_in(folder: Path) -> str:
    """What to say where the images are a folder further in."""
    inside = [path for path in folder.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK)]
    held = {path: sum(map(is_image, path.iterdir())) for path in inside}
    listed = [f"{path} ({count})" for path, count in sorted(held.items()) if count]
    return f"; images are in {', '.join(listed[:3])}: name that folder" if listed else ""


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by their name without extension."""
    named: dict[str, Path] = {}
    for file in files:
        if stem(file) in named:
            raise ValueError(f"{named[stem(file)]} and {file}: two files of one name, keep one")
        named[stem(file)] = file
    return named


def _sequences(root: Path, wanted: Sequence[str | int] | None, annotations: str) -> list[str]:
    """Names of sequences that have masks; two digits, which YAML may have read as a number."""
    found = [
        d.name
        for d in sorted(root.iterdir())
        if re.fullmatch(r"\d\d", d.name)
        and any(any((root / f"{d.name}_{kind}" / "SEG").glob("man_seg*")) for kind in ANNOTATIONS[annotations])
    ]
    if not found:
        raise FileNotFoundError(
            f"{root}: no sequence with {annotations} masks, expected 01/t000.tif with "
            f"01_{ANNOTATIONS[annotations][0]}/SEG/man_seg000.tif; is the data one folder further in?"
        )
    names = found if wanted is None else sorted({f"{name:0>2}" for name in wanted})
    missing = sorted(set(names) - set(found))
    if missing:
        raise FileNotFoundError(f"{root}: no sequences {missing} with {annotations} masks, found {found}")
    return names


def _frames(root: Path, name: str, kind: str) -> dict[int, Case]:
    """Cases of one sequence that have a mask, in order of time; kind is GT (gold) or ST (silver)."""
    frames: dict[int, Case] = {}
    markers = root / f"{name}_GT" / "TRA"
    for mask in sorted((root / f"{name}_{kind}" / "SEG").glob("man_seg*")):
        match = re.fullmatch(r"man_seg(\d{3,4})\.tif", mask.name)
        if match is None:
            raise ValueError(
                f"{mask}: expected man_segTTT.tif, three or four digits; data sets in 3D are not supported"
            )
        image, marker = root / name / f"t{match[1]}.tif", markers / f"man_track{match[1]}.tif"
        for needed in (image, marker) if markers.is_dir() else (image,):
            if not needed.is_file():
                raise FileNotFoundError(f"{needed}: no such file, but there is a mask, {mask}")
        cases = pairs(image, mask)
        if len(cases) != 1:
            raise ValueError(f"{image}: {len(cases)} pages; data sets in 3D are not supported")
        if markers.is_dir():
            pairs(image, marker)
            cases[0]["markers"] = str(marker)
        frames[int(match[1])] = cases[0]
    return dict(sorted(frames.items()))
