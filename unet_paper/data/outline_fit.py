"""Whether the outlines of a mask lie on edges of its image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import expand_labels

from unet_paper.data.photometric import upright

Image = NDArray[np.float32]
Labels = NDArray[np.int32]

# An outline as good as one of another image is a draw from a distribution of standard deviation 1; over all shifts of
# an image of 256 px it reaches 4 to 5 by chance.
ON_THE_EDGES = 6.0
BY_CHANCE = 3.0
# the orientation with rows for columns, as photometric.upright counts them
EXCHANGED = 5
# px, by which masks are drawn too wide or too narrow
_GROWTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
# by which images are made smaller for viewing and drawing
_FACTORS = (2.0, 4.0, 0.5, 0.25)


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


def best_turn(image: Image, cells: Labels) -> int:
    """Orientation in which a mask that lies on no edges of its image would do so: mirrored, turned.

    Args:
        image: grey values, (H, W).
        cells: label image of the same shape.

    Returns:
        As ``photometric.upright`` counts them, those that keep the shape; 1 where there is none.
    """
    square = cells.shape[0] == cells.shape[1]
    fits = {turn: outline_fit(image, upright(cells, turn))[0] for turn in range(2, 9) if square or turn < 5}
    best = max(fits, key=lambda turn: np.nan_to_num(fits[turn], nan=-np.inf))
    return best if fits[best] >= ON_THE_EDGES else 1


def best_growth(image: Image, cells: Labels) -> tuple[int, float]:
    """By how much cells would have to grow for their outlines to lie on edges of the image.

    Args:
        image: grey values, (H, W).
        cells: label image of the same shape.

    Returns:
        px, below 0 where they are drawn too wide; and ``outline_fit`` then. Of cells that lie best as they are, 0 and
        their own.
    """
    labels = np.maximum(cells, 0)
    # to the next pixel that is not of the same cell
    rim = (ndimage.grey_dilation(labels, 3) != ndimage.grey_erosion(labels, 3)) | (labels == 0)
    depth = ndimage.distance_transform_edt(~rim)
    changed = {0: labels}
    changed |= {by: expand_labels(labels, by) for by in _GROWTHS}
    changed |= {-by: np.where(depth > by - 1, labels, 0) for by in _GROWTHS}
    most = len(np.unique(labels))
    # those that have vanished lie nowhere, and the rest would say what it likes
    fits = {by: outline_fit(image, one)[0] for by, one in changed.items() if 2 * len(np.unique(one)) > most}
    best = max(fits, key=lambda by: np.nan_to_num(fits[by], nan=-np.inf))
    return best, fits[best]


def point_fit(image: Image, cells: Labels) -> float:
    """How far the grey values around points are from those around the same points elsewhere in the image.

    The mean grey value in the discs around the points, for every shift of all of them at once, as ``outline_fit`` does
    it. Below 0 where they are darker. Cells whose insides are as grey as the ground tell nothing.

    Args:
        image: grey values, (H, W).
        cells: label image of the same shape, a disc around each point.

    Returns:
        Standard deviations over all shifts; 0 without points, or where the image is all alike.
    """
    discs = (cells > 0).astype(np.float32)
    smooth = ndimage.gaussian_filter(image, 1.0)
    if not discs.any() or discs.all() or not np.ptp(smooth) > 0:
        return 0.0
    spectrum = np.fft.rfft2(smooth - smooth.mean()) * np.conj(np.fft.rfft2(discs - discs.mean()))
    fit = np.fft.irfft2(spectrum, s=smooth.shape)
    return float((fit[0, 0] - fit.mean()) / fit.std())


def points_turned(image: Image, cells: Labels) -> tuple[float, ...]:
    """``point_fit`` of points as they are and in the other orientations, in the order in which ``upright`` counts them.

    All eight of a square image, of another those that keep its shape and the one with rows for columns.
    """
    square = cells.shape[0] == cells.shape[1]
    turns = range(1, 9) if square else range(1, EXCHANGED + 1)
    return tuple(point_fit(image, _laid(upright(cells, turn), cells.shape)) for turn in turns)


def _laid(cells: Labels, shape: tuple[int, ...]) -> Labels:
    """What of a label image lies in an image of another shape, from their upper left corners."""
    laid = np.zeros(shape, cells.dtype)
    part = cells[: shape[0], : shape[1]]
    laid[: part.shape[0], : part.shape[1]] = part
    return laid


def best_scale(image: Image, cells: Labels, also: Sequence[float] = ()) -> float:
    """Factor by which the coordinates of a mask that lies on no edges of its image have to be multiplied to do so.

    Args:
        image: grey values, (H, W).
        cells: label image of the same shape, drawn on the image at another size, or in another unit than pixels.
        also: factors that are tried besides usual ones.

    Returns:
        The factor; 1 where there is none.
    """
    factors = [factor for factor in (*_FACTORS, *also) if 0.1 <= factor <= 10 and factor != 1]
    fits = {}
    for factor in factors:
        part = _scaled(cells, factor)
        fits[factor] = outline_fit(image[: part.shape[0], : part.shape[1]], part)[0]
    best = max(fits, key=lambda factor: np.nan_to_num(fits[factor], nan=-np.inf))
    return best if fits[best] >= ON_THE_EDGES else 1.0


def _scaled(cells: Labels, factor: float) -> Labels:
    """Label image larger or smaller from its upper left corner, as much of it as lies in the image."""
    rows, columns = (((np.arange(length) + 0.5) / factor).astype(int) for length in cells.shape)
    return cells[np.ix_(rows[rows < cells.shape[0]], columns[columns < cells.shape[1]])]
