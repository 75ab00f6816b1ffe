"""One pass over images and masks: what a person would look at before training, as numbers.

Nothing is judged here: :mod:`unet_paper.data.findings` says what looks wrong, ``unet_paper.app.configuration`` which
settings follow.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, LoadImage
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure
from skimage.transform import resize_local_mean

from unet_paper.data.annotation import OPEN, Annotation, InstancesFromAnnotationd, id_apart, is_inverted
from unet_paper.data.channels import Channel
from unet_paper.data.datasets import Case
from unet_paper.data.hot_pixels import grey_range
from unet_paper.data.notices import Progress
from unet_paper.data.outline_fit import (
    BY_CHANCE,
    ON_THE_EDGES,
    best_growth,
    best_scale,
    best_turn,
    outline_fit,
    points_turned,
)
from unet_paper.data.partly_drawn import beyond
from unet_paper.data.photometric import upright
from unet_paper.data.pixel_size import micrometres
from unet_paper.data.reader import LabelReader, PageReader, layout, refuse_transparency, split_page
from unet_paper.data.relatives import FURTHER_ON, Relation, likeness_of_frames, miniature, relations
from unet_paper.measurements import measure_cells, neighbour_pairs, touching_border

__all__ = ["ImageFacts", "LoadedCase", "Survey", "load_case", "survey"]

logger = logging.getLogger(__name__)

THUMBNAIL = 16  # px
# px, by which masks lie beside their cells where somebody sees it; and part of the best fit that one at home comes to
SLIP, AT_HOME = 3, 0.7
DOT = 9  # px, 3 x 3: a cell that is no larger has no outline to be learnt

Image = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class ImageFacts:
    """What one image and its mask hold.

    Attributes:
        image, label: addresses, as the case has them.
        shape: (H, W), px.
        channels: that the network would be given.
        dtype: of the file.
        low, median, high: grey values in the file's units: 0.1, 50 and 99.9 % of the pixels lie below.
        largest: grey value, but for hot pixels.
        pixel_size: micrometres, (height, width); None where the file does not say.
        foreground: fraction of the known pixels that are cell.
        unknown: fraction of all pixels that are unknown.
        areas: px, of every cell.
        whole_areas: px, of the cells that do not touch the image's border.
        touching: cells that touch another.
        in_pieces: ids whose second piece is no speck.
        specks: cells, or pieces of one, of a few pixels inside the image.
        inverted: whether one cell seems to be the background, see ``annotation.is_inverted``.
        outline: how much brighter or darker the image changes at the outlines than elsewhere, in standard deviations of
            what the same outlines find anywhere else (``data.outline_fit``); NaN without a cell.
        best_outline: the same where it is highest.
        best_shift: (rows, columns), px, by which the mask would have to be moved to lie there.
        contrast: mean grey value of the cells less that of the rest, in standard deviations of the image.
        image_hash, label_hash: of the picture and its cells, whichever side is up and whatever black and white are.
        trouble: why the mask cannot be used; empty if it can.
        stored_channels: that the file has, or that are taken of it; grey in three equal channels has three.
        channel_names: as the file has them.
        largest_id: of the mask's cells, as in the file.
        widest_id: of its cell with most pixels, as in the file.
        hollow: cells that are more hole than cell, as outlines are that nobody has filled.
        apart: the largest number of 8, 16 or 32 bits as an id, where all others are far below; else 0.
        smallest: grey value, but for hot pixels.
        point_fits: of points, see ``outline_fit.points_turned``; else none.
        hot: pixels that are, see ``data.hot_pixels``.
        hottest: grey value of the one that is farthest from all others.
        turn: orientation (of ``photometric.upright``) in which the mask would lie on the edges; 1 where it does, or
            where it does in none.
        scale: factor by which the mask's coordinates would have to be multiplied to lie on the edges; 1 where they do,
            or where none would help.
        growth: px by which cells would have to grow, or below 0 to shrink, to lie on the edges; 0 where they do, where
            they would not, or would rather if they were moved.
        drawn_hash: of the cells as they lie in the image; empty where there are none, or nothing else.
        pointed: whether its cells are points, which have no size.
        dotted: whether most cells of the mask are dots of a few pixels, which stand for cells and are none.
        margins: rows above, and columns left of, all cells, and those below and right of them, px.
        beyond: how much of what lies beyond all cells looks as they do, see ``partly_drawn.beyond``.
        thumbnail: of grey values, 16 x 16 px, mean 0 and standard deviation 1.
        miniature: see ``relatives.miniature``.
    """

    image: str
    label: str
    shape: tuple[int, int]
    channels: int
    dtype: str
    low: float
    median: float
    high: float
    largest: float
    pixel_size: tuple[float, float] | None
    foreground: float
    unknown: float
    areas: tuple[int, ...]
    whole_areas: tuple[int, ...]
    touching: int
    in_pieces: int
    specks: int
    inverted: bool
    outline: float
    best_outline: float
    best_shift: tuple[int, int]
    contrast: float
    image_hash: str
    label_hash: str
    trouble: str = ""
    stored_channels: int = 1
    channel_names: tuple[str, ...] = ()
    largest_id: int = 0
    widest_id: int = 0
    hollow: int = 0
    apart: int = 0
    smallest: float = 0.0
    hot: int = 0
    hottest: float = 0.0
    point_fits: tuple[float, ...] = ()
    turn: int = 1
    scale: float = 1.0
    growth: int = 0
    drawn_hash: str = ""
    pointed: bool = False
    dotted: bool = False
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    beyond: float = 0.0
    thumbnail: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    miniature: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Survey:
    """What all of a folder holds.

    Attributes:
        images: one entry a case, in their order.
        annotation: how masks were read.
        other_files: in the folder, of kinds that are not taken.
        ignore_value, background_value: of the masks that mean unknown, and background.
        num_classes: of pixels, background included.
        unreadable: images that cannot be read, and why.
        spacing: px, how far points are apart where they lie densest: of cells that touch, as far as they are wide. It
            stands for the diameters where all cells are points.
        left_out: images, and folders of some, that are not taken.
        relations: which images show the same, see :mod:`unet_paper.data.relatives`.
        folds: of each image, where somebody says which are held out together; else empty.
        made: masks that were made of drawings, whose values nobody chose.
    """

    images: Sequence[ImageFacts]
    annotation: Annotation = "instances"
    other_files: int = 0
    ignore_value: int | None = None
    background_value: int = 0
    num_classes: int = 2
    unreadable: Sequence[tuple[str, str]] = ()
    spacing: float | None = None
    left_out: Sequence[str] = ()
    relations: Sequence[Relation] = ()
    folds: Sequence[int] = ()
    made: Collection[str] = ()
    diameters: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        outlined = [image for image in self.images if not image.pointed]
        areas = np.array([area for image in outlined for area in image.whole_areas or image.areas], float)
        if not len(areas):
            # of a single point, nothing
            areas = np.full(self.cells, np.pi * (self.spacing or 20.0) ** 2 / 4)
        object.__setattr__(self, "diameters", np.sort(2 * np.sqrt(areas / np.pi)))

    @property
    def sizes_known(self) -> bool:
        """Whether cells are outlined anywhere."""
        return any(image.areas and not image.pointed for image in self.images)

    @property
    def transform(self) -> InstancesFromAnnotationd:
        """What made cells of the masks."""
        return _transform(self.annotation, self.ignore_value, self.background_value, self.num_classes)

    @property
    def areas(self) -> NDArray[np.float64]:
        """Of all cells that do not touch an image's border, px, rising."""
        return np.pi * self.diameters**2 / 4

    @property
    def cells(self) -> int:
        """How many there are."""
        return sum(len(image.areas) for image in self.images)

    @property
    def touching(self) -> int:
        """How many of them touch another."""
        return sum(image.touching for image in self.images)

    @property
    def foreground(self) -> float:
        """Fraction of pixels that are cell, mean over the images."""
        return float(np.mean([image.foreground for image in self.images]))

    @property
    def in_sequence(self) -> bool:
        """Whether images that follow one another are alike, as frames of a film and slices of a stack are.

        What all have in common, as a field that is brighter in its middle, does not count; nor does what a group of
        images has, which is as alike four images further on.
        """
        small = [image.thumbnail for image in self.images if image.thumbnail is not None]
        if len(small) <= 2 * FURTHER_ON or len(small) < len(self.images):
            return True  # cannot be told, and held-out images that training as good as knows would flatter
        return likeness_of_frames(np.stack(small), [range(len(small))]) > 0

    def diameter(self, percent: float) -> float:
        """Diameter of the disk of a cell's area, px, below which ``percent`` of the cells lie; NaN without cells."""
        return float(np.percentile(self.diameters, percent)) if len(self.diameters) else float("nan")


def survey(
    cases: Sequence[Case],
    *,
    annotation: Annotation = "instances",
    channel: Channel | None = None,
    ignore_value: int | None = None,
    background_value: int = 0,
    num_classes: int = 2,
    other_files: int = 0,
    spacing: float | None = None,
    left_out: Sequence[str] = (),
    folds: Mapping[str, int] | None = None,
    made: Collection[str] = (),
) -> Survey:
    """Look at every image and mask once.

    Args:
        cases: with ``image`` and ``label``, see ``data.datasets``.
        annotation, channel, ignore_value, background_value: the settings of training of the same names.
        num_classes: its ``out_channels``.
        other_files: how many there are that are neither.
        spacing, left_out, made: see :class:`Survey`.
        folds: of each image, by its address; None: nobody says.

    Raises:
        ValueError: none of the images can be read. A mask that cannot be used is an ``ImageFacts.trouble``.
    """
    transform = _transform(annotation, ignore_value, background_value, num_classes)
    progress = Progress(logger, "looking at images and masks", len(cases))
    images, unreadable = [], []
    for case in cases:
        try:
            images.append(_facts(case, transform, channel))
        except (ValueError, OSError) as error:
            unreadable.append((case["image"], str(error)))
        progress.step()
    if not images:
        raise ValueError(unreadable[0][1] if unreadable else "no images")
    return Survey(
        images,
        annotation,
        other_files,
        ignore_value,
        background_value,
        num_classes,
        unreadable,
        spacing,
        left_out,
        _relations(images),
        [folds[image.image] for image in images] if folds else (),
        made,
    )


def _relations(images: Sequence[ImageFacts]) -> list[Relation]:
    """What shows the same, by its pixels or by the very same cells: other stains or planes of focus."""
    small = {number: image.miniature for number, image in enumerate(images) if image.miniature is not None}
    numbers = list(small)
    found = [
        one._replace(first=numbers[one.first], second=numbers[one.second]) for one in relations(list(small.values()))
    ]
    known = {relation[:2] for relation in found}
    first: dict[str, int] = {}
    for number, image in enumerate(images):
        pair = first.setdefault(image.drawn_hash, number), number
        if image.drawn_hash and pair[0] < number and pair not in known:
            found.append(Relation(*pair, "scene", 1.0))
    return found


def _transform(
    annotation: Annotation, ignore_value: int | None, background_value: int, num_classes: int
) -> InstancesFromAnnotationd:
    return InstancesFromAnnotationd(
        annotation=annotation, ignore_value=ignore_value, background_value=background_value, num_classes=num_classes
    )


class LoadedCase(NamedTuple):
    """An image and its cells.

    Attributes:
        pixels: the image, (C, H, W), as in the file; grey in three equal channels is one.
        dtype: of the file.
        cells: (H, W), -1 unknown, -2 open.
        drawn: the mask as in the file.
        trouble: why it cannot be used, where it cannot: then no pixel is a cell.
        stored_channels, channel_names: see :class:`ImageFacts`.
    """

    pixels: NDArray[Any]
    dtype: str
    cells: Labels
    drawn: NDArray[np.int64]
    trouble: str
    stored_channels: int
    channel_names: tuple[str, ...]


def load_case(case: Case, transform: InstancesFromAnnotationd, channel: Channel | None = None) -> LoadedCase:
    """Image and cells of one case.

    Raises:
        ValueError, OSError: an image that cannot be read, of which parts are transparent, or with pixels that are no
            numbers.
    """
    image = EnsureChannelFirst()(LoadImage(reader=PageReader(channel), image_only=True)(case["image"]))
    refuse_transparency(image, case["image"])
    stored = str(image.meta.get("stored_dtype", image.dtype))
    names = tuple(str(name) for name in image.meta.get("channel_names", ()))
    pixels = np.asarray(image)
    count = len(pixels)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise ValueError(f"{case['image']}: {bad} pixels are NaN or infinite; replace them, training refuses them too")
    if count == 3 and (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all():
        pixels = pixels[:1]
    drawn = np.zeros((1, *pixels.shape[1:]), np.int64)
    trouble = ""
    try:
        read = LoadImage(reader=LabelReader(), image_only=True, dtype=np.int64)(case["label"])
        drawn = np.asarray(read).reshape(1, *read.shape[-2:])
        # with its name, for what is said of it
        named = MetaTensor(torch.from_numpy(drawn), meta={"filename_or_obj": case["label"]})
        cells = np.asarray(transform({"label": named})["label"])[0]
    except (ValueError, OSError) as error:
        cells, trouble = np.zeros(pixels.shape[1:], np.int32), str(error)
    return LoadedCase(pixels, stored, cells.astype(np.int32), drawn[0], trouble, count, names)


def _facts(case: Case, transform: InstancesFromAnnotationd, channel: Channel | None) -> ImageFacts:
    pixels, stored, cells, drawn, trouble, stored_channels, names = load_case(case, transform, channel)
    trouble = "photograph" if _is_photograph(drawn) else trouble
    if trouble:
        cells = np.zeros_like(cells)
    grey = pixels.astype(np.float32).mean(axis=0)
    columns = measure_cells(np.maximum(cells, 0))
    areas = columns["area_px"]
    inside = ~touching_border(columns, cells.shape)
    known = cells >= 0
    pointed = bool((cells == OPEN).any())
    hollow = _hollow(cells, by_corners=transform.annotation in ("binary", "either"))
    # pieces of a thin outline are none
    dotted = not pointed and len(areas) > 0 and float(np.median(areas)) <= DOT and 2 * hollow <= len(areas)
    # discs and dots lie on no edges
    own, best, shift = outline_fit(grey, np.zeros_like(cells) if pointed or dotted else cells)
    pieces, specks = (0, 0) if dotted else _pieces(cells, areas)
    image_hash, label_hash = _hashes(pixels, cells)
    margins = _margins(cells > 0)
    pixel_size = micrometres(layout(split_page(case["image"])[0]))
    turn = best_turn(grey, cells) if own < BY_CHANCE else 1
    greys = grey_range(pixels)
    # programs write coordinates in micrometres, too
    units = (1 / max(pixel_size), max(pixel_size)) if pixel_size else ()
    return ImageFacts(
        image=case["image"],
        label=case["label"],
        shape=(cells.shape[0], cells.shape[1]),
        channels=len(pixels),
        dtype=stored,
        low=float(np.percentile(pixels, 0.1)),
        median=float(np.median(pixels)),
        high=float(np.percentile(pixels, 99.9)),
        largest=greys.largest,
        pixel_size=pixel_size,
        foreground=float((cells > 0).sum() / max(int(known.sum()), 1)),
        unknown=float(1 - known.mean()),
        areas=tuple(int(area) for area in areas),
        whole_areas=tuple(int(area) for area in areas[inside]),
        touching=len(np.unique(neighbour_pairs(np.maximum(cells, 0)))),
        in_pieces=pieces,
        specks=specks,
        inverted=is_inverted(cells) and not pointed,
        outline=own,
        best_outline=best,
        best_shift=shift,
        contrast=_contrast(grey, cells),
        image_hash=image_hash,
        label_hash=label_hash,
        trouble=trouble,
        stored_channels=stored_channels,
        channel_names=names,
        largest_id=int(drawn[cells > 0].max(initial=0)),
        widest_id=int(drawn[cells == columns["id"][areas.argmax()]][0]) if len(areas) else 0,
        hollow=hollow,
        apart=id_apart(np.unique(drawn[cells > 0])),
        smallest=greys.smallest,
        point_fits=points_turned(grey, cells) if pointed else (),
        hot=greys.hot,
        hottest=max(float(pixels.min()), float(pixels.max()), key=lambda value: abs(value - greys.largest)),
        turn=turn,
        scale=best_scale(grey, cells, units) if own < BY_CHANCE and turn == 1 else 1.0,
        growth=_growth(grey, cells, own, best),
        drawn_hash=_of_cells(cells) if 0 < np.mean(cells > 0) < 1 else "",
        pointed=pointed,
        dotted=dotted,
        margins=margins,
        beyond=beyond(grey, cells, margins, float(np.median(areas))) if len(areas) and not (pointed or dotted) else 0.0,
        thumbnail=_thumbnail(grey),
        miniature=miniature(grey),
    )


def _growth(grey: Image, cells: Labels, own: float, best: float) -> int:
    """Of cells that lie clearly better when grown, more than when moved; a pixel or two of smooth edges is nothing."""
    if not own < AT_HOME * max(best, ON_THE_EDGES / AT_HOME):
        return 0
    by, fit = best_growth(grey, cells)
    return by if abs(by) >= SLIP and fit >= ON_THE_EDGES and own < AT_HOME * fit and fit > best else 0


def _margins(inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return (0, 0, 0, 0)
    height, width = inside.shape
    return int(rows[0]), int(columns[0]), int(height - 1 - rows[-1]), int(width - 1 - columns[-1])


def _thumbnail(grey: Image) -> NDArray[np.float32]:
    small = resize_local_mean(grey, (THUMBNAIL, THUMBNAIL))
    return ((small - small.mean()) / max(float(small.std()), 1e-9)).astype(np.float32)


def _hashes(pixels: NDArray[Any], cells: Labels) -> tuple[str, str]:
    """Of a picture, (C, H, W), and its cells: the same for the same picture mirrored, turned, or with other bits."""
    low, high = float(pixels.min()), float(pixels.max())
    steps = np.rint((pixels.astype(np.float64) - low) * (255 / (high - low))) if high > low else pixels
    picture = np.moveaxis(steps.astype(np.uint8 if high > low else pixels.dtype), 0, -1)
    found = []
    for turn in range(1, 9):
        turned, drawn = (np.ascontiguousarray(upright(one, turn)) for one in (picture, cells))
        sizes = str(turned.shape).encode()
        found.append((hashlib.sha256(sizes + turned.tobytes()).hexdigest(), drawn))
    image_hash, drawn = min(found, key=lambda one: one[0])
    return image_hash, _of_cells(drawn)


def _of_cells(cells: Labels) -> str:
    """Hash of cells, whatever their ids."""
    # ids in the order in which they come
    _, first, numbers = np.unique(cells, return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first))[numbers].reshape(cells.shape)
    return hashlib.sha256(np.where(cells > 0, ranks + 1, np.minimum(cells, 0)).tobytes()).hexdigest()


def _is_photograph(drawn: NDArray[np.int64]) -> bool:
    """Whether neighbouring pixels of a mask differ as grey values do and ids do not: mostly; or, where it is smooth or
    painted over, mostly by a step or two where they do.
    """
    if len(np.unique(drawn)) <= 20:
        return False
    steps = np.concatenate([np.abs(np.diff(drawn, axis=axis)).ravel() for axis in (0, 1)])
    differ = steps[steps > 0]
    return bool(len(differ) > 0.4 * len(steps) or np.mean(differ <= 2) > 0.8)


def _pieces(cells: Labels, areas: NDArray[np.int64]) -> tuple[int, int]:
    """Ids in several pieces, and specks: pieces far smaller than a cell, away from the border."""
    if not len(areas):
        return 0, 0
    numbered = np.searchsorted(np.unique(cells[cells > 0]), cells) + 1
    numbered[cells <= 0] = 0
    pieces, count = measure.label(numbered, background=0, connectivity=2, return_num=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    owner = np.zeros(count + 1, np.int64)
    owner[pieces] = numbered
    at_border = np.zeros(count + 1, bool)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        at_border[edge] = True
    small = sizes < max(4.0, 0.02 * float(np.median(areas)))
    specks = int(np.count_nonzero(small & ~at_border[1:]))
    large = np.bincount(owner[1:][~small], minlength=2)
    return int(np.count_nonzero(large[1:] > 1)), specks


def _hollow(cells: Labels, by_corners: bool) -> int:
    """Cells whose holes are larger than themselves.

    Args:
        cells: shape (H, W).
        by_corners: whether cells that touch by a corner may be pieces of one outline, as a thin line is in black and
            white: cells that touch more than that are one there.
    """
    labels = np.maximum(cells, 0)
    if by_corners:
        numbered = ndimage.label(labels > 0, np.ones((3, 3)))[0]
    else:
        ids, numbered = np.unique(labels, return_inverse=True)
        numbered = numbered.reshape(labels.shape) + int(ids[0] > 0)
    found = 0
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        one = numbered[box] == number
        if 2 * one.sum() < one.size and ndimage.binary_fill_holes(one).sum() > 2 * one.sum():  # else there is no room
            found += len(np.unique(labels[box][one]))
    return found


def _contrast(grey: Image, cells: Labels) -> float:
    inside, outside = grey[cells > 0], grey[cells == 0]
    if not inside.size or not outside.size or not grey.std() > 0:
        return float("nan")
    return float((inside.mean() - outside.mean()) / grey.std())
