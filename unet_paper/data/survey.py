"""One pass over images and masks: what a person would look at before training, as numbers.

Nothing is judged here: :mod:`unet_paper.data.findings` says what looks wrong, ``unet_paper.app.configuration`` which
settings follow.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, LoadImage
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from unet_paper.data.annotation import Annotation, InstancesFromAnnotationd, is_inverted
from unet_paper.data.datasets import Case
from unet_paper.data.notices import Progress
from unet_paper.data.pixel_size import micrometres
from unet_paper.data.reader import Channel, LabelReader, PageReader, layout, split_page
from unet_paper.measurements import measure_cells, neighbour_pairs, touching_border

__all__ = ["ImageFacts", "Survey", "load_case", "outline_fit", "survey"]

logger = logging.getLogger(__name__)

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
        largest: grey value.
        pixel_size: micrometres, (height, width); None where the file does not say.
        foreground: fraction of the known pixels that are cell.
        unknown: fraction of all pixels that are unknown.
        areas: px, of every cell.
        whole_areas: px, of the cells that do not touch the image's border.
        touching: cells that touch another.
        in_pieces: ids whose second piece is no speck.
        specks: cells, or pieces of one, of a few pixels inside the image.
        inverted: whether one cell covers most of the frame and reaches all corners but for holes.
        outline: how much brighter or darker the image changes at the outlines than elsewhere, in standard deviations of
            what the same outlines find anywhere else (:func:`outline_fit`); NaN without a cell.
        best_outline: the same where it is highest.
        best_shift: (rows, columns), px, by which the mask would have to be moved to lie there.
        contrast: mean grey value of the cells less that of the rest, in standard deviations of the image.
        image_hash, label_hash: of the pixels.
        trouble: why the mask cannot be used; empty if it can.
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


@dataclass(frozen=True)
class Survey:
    """What all of a folder holds.

    Attributes:
        images: one entry a case, in their order.
        annotation: how masks were read.
        other_files: in the folder, of kinds that are not taken.
        ignore_value, background_value: of the masks that mean unknown, and background.
    """

    images: Sequence[ImageFacts]
    annotation: Annotation = "instances"
    other_files: int = 0
    ignore_value: int | None = None
    background_value: int = 0
    diameters: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        areas = np.array([area for image in self.images for area in image.whole_areas or image.areas], float)
        object.__setattr__(self, "diameters", np.sort(2 * np.sqrt(areas / np.pi)))

    @property
    def transform(self) -> InstancesFromAnnotationd:
        """What made cells of the masks."""
        return _transform(self.annotation, self.ignore_value, self.background_value)

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
    other_files: int = 0,
) -> Survey:
    """Look at every image and mask once.

    Args:
        cases: with ``image`` and ``label``, see ``data.datasets``.
        annotation, channel, ignore_value, background_value: the settings of training of the same names.
        other_files: how many there are that are neither.

    Raises:
        ValueError, OSError: an image that cannot be read. A mask that cannot is an ``ImageFacts.trouble``.
    """
    transform = _transform(annotation, ignore_value, background_value)
    progress, images = Progress(logger, "looking at images and masks", len(cases)), []
    for case in cases:
        images.append(_facts(case, transform, channel))
        progress.step()
    return Survey(images, annotation, other_files, ignore_value, background_value)


def _transform(annotation: Annotation, ignore_value: int | None, background_value: int) -> InstancesFromAnnotationd:
    return InstancesFromAnnotationd(annotation=annotation, ignore_value=ignore_value, background_value=background_value)


def load_case(
    case: Case, transform: InstancesFromAnnotationd, channel: Channel | None = None
) -> tuple[NDArray[Any], str, Labels, NDArray[np.int64], str]:
    """Image and cells of one case.

    Returns:
        The image, (C, H, W) as in the file; its dtype; the cells, (H, W), -1 unknown; the mask as in the file; and why
        it cannot be used, where it cannot: then no pixel is a cell.
    """
    image = EnsureChannelFirst()(LoadImage(reader=PageReader(channel), image_only=True)(case["image"]))
    stored = str(image.meta.get("stored_dtype", image.dtype))
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise ValueError(f"{case['image']}: {bad} pixels are NaN or infinite; replace them, training refuses them too")
    if pixels.shape[0] == 3 and (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all():
        pixels = pixels[:1]
    drawn = np.zeros((1, *pixels.shape[1:]), np.int64)
    try:
        read = LoadImage(reader=LabelReader(), image_only=True, dtype=np.int64)(case["label"])
        drawn = np.asarray(read).reshape(1, *read.shape[-2:])
        # with its name, for what is said of it
        named = MetaTensor(torch.from_numpy(drawn), meta={"filename_or_obj": case["label"]})
        cells = np.asarray(transform({"label": named})["label"])[0]
    except ValueError as error:
        return pixels, stored, np.zeros(pixels.shape[1:], np.int32), drawn[0], str(error)
    return pixels, stored, cells.astype(np.int32), drawn[0], ""


def _facts(case: Case, transform: InstancesFromAnnotationd, channel: Channel | None) -> ImageFacts:
    pixels, stored, cells, drawn, trouble = load_case(case, transform, channel)
    trouble = "photograph" if _is_photograph(drawn) else trouble
    if trouble:
        cells = np.zeros_like(cells)
    grey = pixels.astype(np.float32).mean(axis=0)
    columns = measure_cells(np.maximum(cells, 0))
    areas = columns["area_px"]
    inside = ~touching_border(columns, cells.shape)
    known = cells >= 0
    own, best, shift = outline_fit(grey, cells)
    pieces, specks = _pieces(cells, areas)
    return ImageFacts(
        image=case["image"],
        label=case["label"],
        shape=(cells.shape[0], cells.shape[1]),
        channels=len(pixels),
        dtype=stored,
        low=float(np.percentile(pixels, 0.1)),
        median=float(np.median(pixels)),
        high=float(np.percentile(pixels, 99.9)),
        largest=float(pixels.max()),
        pixel_size=micrometres(layout(split_page(case["image"])[0])),
        foreground=float((cells > 0).sum() / max(int(known.sum()), 1)),
        unknown=float(1 - known.mean()),
        areas=tuple(int(area) for area in areas),
        whole_areas=tuple(int(area) for area in areas[inside]),
        touching=len(np.unique(neighbour_pairs(np.maximum(cells, 0)))),
        in_pieces=pieces,
        specks=specks,
        inverted=is_inverted(cells),
        outline=own,
        best_outline=best,
        best_shift=shift,
        contrast=_contrast(grey, cells),
        image_hash=hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
        label_hash=hashlib.sha256(np.ascontiguousarray(cells).tobytes()).hexdigest(),
        trouble=trouble,
    )


def outline_fit(image: Image, cells: Labels) -> tuple[float, float, tuple[int, int]]:
    r"""How well the outlines of a mask lie on edges of its image, and where they would lie best.

    The correlation of the outlines with the strength of the image's edges, for every shift of the mask at once (by the
    Fourier transform, so the image is periodic), in standard deviations over all shifts from their mean. Outlines of
    another image are as good anywhere: about 0 here and at most about 4 somewhere.

    Args:
        image: grey values, (H, W).
        cells: label image of the same shape.

    Returns:
        The value as it is, the highest one, and the shift (rows, columns) of that; NaN, NaN, (0, 0) without outlines.
    """
    labels = np.maximum(cells, 0)
    outline = (ndimage.grey_dilation(labels, 3) != ndimage.grey_erosion(labels, 3)).astype(np.float32)
    smooth = np.sqrt(np.maximum(ndimage.gaussian_filter(image, 1.0) - image.min(), 0))  # dim edges count too
    edges = ndimage.gaussian_gradient_magnitude(smooth, 1.0)
    if not outline.any() or outline.all() or not np.ptp(edges) > 0:
        return float("nan"), float("nan"), (0, 0)
    spectrum = np.fft.rfft2(edges - edges.mean()) * np.conj(np.fft.rfft2(outline - outline.mean()))
    fit = np.fft.irfft2(spectrum, s=edges.shape)
    fit = (fit - fit.mean()) / fit.std()
    row, column = np.unravel_index(int(fit.argmax()), fit.shape)
    height, width = fit.shape
    shift = (int(row) - height * (row > height // 2), int(column) - width * (column > width // 2))
    return float(fit[0, 0]), float(fit.max()), (int(shift[0]), int(shift[1]))


def _is_photograph(drawn: NDArray[np.int64]) -> bool:
    """Whether neighbouring pixels of a mask mostly differ, as grey values do and ids do not."""
    differ = np.mean(drawn[:, 1:] != drawn[:, :-1]) if drawn.shape[1] > 1 else 0.0
    return bool(differ > 0.4 and len(np.unique(drawn)) > 20)


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


def _contrast(grey: Image, cells: Labels) -> float:
    inside, outside = grey[cells > 0], grey[cells == 0]
    if not inside.size or not outside.size or not grey.std() > 0:
        return float("nan")
    return float((inside.mean() - outside.mean()) / grey.std())
