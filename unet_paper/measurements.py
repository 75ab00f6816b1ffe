"""What one counts and measures of cells: a table with one row a cell.

Shapes and grey values are those of ``skimage.measure.regionprops``, of all cells at once
(:mod:`unet_paper.cell_shapes`). A cell's row depends on the cell's pixels alone, not on where it lies, nor on how much
of the image around it is at hand: a cell measured in a part of the image has the row, bit for bit, that it has in the
whole one.
"""

import csv
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.cell_shapes import Runs, runs_of, shapes_of
from unet_paper.label_image import bands

Columns = dict[str, NDArray[Any]]


def cell_table(
    labels: ArrayLike,
    image: ArrayLike | None = None,
    probability: ArrayLike | None = None,
    *,
    pixel_size: tuple[float, float] | None = None,
    channel_names: Sequence[str] | None = None,
) -> Columns:
    """Table of the cells of one label image, in the order of their ids.

    Columns: ``id``; ``area_px``; ``top_px``, ``left_px``, ``bottom_px``, ``right_px``: bounding box, the latter two
    exclusive; ``centroid_y_px``, ``centroid_x_px``: 0 is the centre of the first pixel; ``perimeter_px``,
    ``eccentricity``, ``solidity`` as scikit-image defines them; ``mean_NAME`` and ``max_NAME`` of every channel;
    ``mean_probability``; ``touches_border``: a pixel lies at the image's border; ``neighbours``: how many other cells
    touch it, corners included. With a pixel size also ``area_um2``, ``centroid_y_um``, ``centroid_x_um`` and, where
    pixels are square, ``perimeter_um``.

    Args:
        labels: label image, shape (H, W), integers; 0 is background.
        image: grey values, shape (H, W) or (C, H, W), whose mean and maximum are taken.
        probability: probability of the cell, shape (H, W).
        pixel_size: height and width of a pixel in micrometres.
        channel_names: names of the image's channels; by default their numbers. Those of one name, or called as another
            column is, have their number after it.

    Returns:
        ``{column: values}``, all of one length, the number of cells.

    Raises:
        ValueError: for shapes that do not fit, labels that are no integers, another number of names than channels, or a
            pixel size that is not positive.

    >>> table = cell_table([[3, 3, 0], [0, 0, 7]], image=[[1, 2, 0], [0, 0, 5]])
    >>> {name: table[name].tolist() for name in ("id", "area_px", "mean_0", "neighbours")}
    {'id': [3, 7], 'area_px': [2, 1], 'mean_0': [1.5, 5.0], 'neighbours': [1, 1]}
    """
    labels = _label_image(labels)
    columns = measure_cells(labels, image, probability, channel_names=channel_names)
    columns["touches_border"] = touching_border(columns, labels.shape)
    columns["neighbours"] = count_neighbours(columns["id"], neighbour_pairs(labels))
    return {**columns, **physical_columns(columns, pixel_size)}


def measure_cells(
    labels: ArrayLike,
    image: ArrayLike | None = None,
    probability: ArrayLike | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
    channel_names: Sequence[str] | None = None,
) -> Columns:
    """Those columns of :func:`cell_table` that a cell's own pixels give.

    Args:
        labels: see :func:`cell_table`; or a part of it, of which only the cells that lie in it whole come out right.
        image: see there; the same part.
        probability: see there; the same part.
        origin: row and column of the part's first pixel in the image.
        channel_names: see there.
    """
    labels = _label_image(labels)
    channels = _channels(image, labels.shape)
    names = [str(number) for number in range(len(channels))] if channel_names is None else list(channel_names)
    if len(names) != len(channels):
        raise ValueError(f"channel_names={names}: the image has {len(channels)} channels, give a name for each")
    runs = runs_of(labels)
    shapes = shapes_of(labels, runs)
    top, left = origin
    names = _distinct(names)
    columns: Columns = {
        "id": runs.ids.astype(np.int64),
        "area_px": shapes.area,
        "top_px": shapes.top + top,
        "left_px": shapes.left + left,
        "bottom_px": shapes.bottom + top,
        "right_px": shapes.right + left,
        # the mean of the coordinates in the image would be rounded differently wherever the cell lies
        "centroid_y_px": shapes.centroid_y + (shapes.top + top),
        "centroid_x_px": shapes.centroid_x + (shapes.left + left),
        "perimeter_px": shapes.perimeter,
        "eccentricity": shapes.eccentricity,
        "solidity": shapes.solidity,
    }
    for name, channel in zip(names, channels, strict=True):
        columns[f"mean_{name}"] = _of_cells(np.add, 0, labels, runs, channel) / shapes.area
        columns[f"max_{name}"] = _of_cells(np.maximum, -np.inf, labels, runs, channel)
    if probability is not None:
        (only,) = _channels(probability, labels.shape)
        columns["mean_probability"] = _of_cells(np.add, 0, labels, runs, only) / shapes.area
    return columns


def touching_border(columns: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each cell's bounding box ends at the border of an image of this shape (H, W)."""
    height, width = shape
    first = (columns["top_px"] == 0) | (columns["left_px"] == 0)
    return np.asarray(first | (columns["bottom_px"] == height) | (columns["right_px"] == width))


def neighbour_pairs(labels: ArrayLike) -> NDArray[np.int64]:
    """Pairs of cells that touch, corners included.

    Returns:
        Shape (n, 2), the lower id first, each pair once, in rising order.

    >>> neighbour_pairs([[1, 1, 0], [0, 0, 2], [0, 3, 0]]).tolist()
    [[1, 2], [2, 3]]
    """
    labels = _label_image(labels)
    pairs = np.empty((0, 2), np.int64)
    for rows in bands(labels.shape):
        piece = labels[rows.start : rows.stop + 1]
        found = [pairs]
        for one, other in (
            (piece[:, :-1], piece[:, 1:]),
            (piece[:-1], piece[1:]),
            (piece[:-1, :-1], piece[1:, 1:]),
            (piece[:-1, 1:], piece[1:, :-1]),
        ):
            touch = one != other
            touch &= one > 0
            touch &= other > 0
            found.append(np.stack([one[touch], other[touch]], axis=1).astype(np.int64))
        pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs


def count_neighbours(ids: NDArray[Any], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the pairs of :func:`neighbour_pairs` each of the rising ids is in."""
    positions = np.searchsorted(ids, pairs.ravel())
    return np.bincount(positions, minlength=len(ids)).astype(np.int64)


def physical_columns(columns: Mapping[str, NDArray[Any]], pixel_size: tuple[float, float] | None) -> Columns:
    """Columns in micrometres of a table in pixels; none without a pixel size.

    Args:
        columns: with those of :func:`measure_cells`.
        pixel_size: height and width of a pixel in micrometres.
    """
    if pixel_size is None:
        return {}
    height, width = pixel_size
    if not (0 < height < float("inf") and 0 < width < float("inf")):
        raise ValueError(f"pixel_size={pixel_size}: height and width of a pixel in micrometres, both above 0")
    physical: Columns = {
        "area_um2": columns["area_px"] * (height * width),
        "centroid_y_um": columns["centroid_y_px"] * height,
        "centroid_x_um": columns["centroid_x_px"] * width,
    }
    if height == width:
        physical["perimeter_um"] = columns["perimeter_px"] * height
    return physical


def write_rows(columns: Mapping[str, Sequence[Any] | NDArray[Any]], file: TextIO, *, header: bool = True) -> None:
    """Write a table as CSV, one row a cell.

    Numbers are written so that they read back as they are, what is not known (NaN) as an empty field, yes and no as 1
    and 0.

    Args:
        columns: of one length.
        file: open for text, with ``newline=""``.
        header: whether the names of the columns come first; not for further parts of one table.
    """
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(columns)
    lists = [values.tolist() if isinstance(values, np.ndarray) else list(values) for values in columns.values()]
    writer.writerows([_field(value) for value in row] for row in zip(*lists, strict=True))


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return "" if value != value else value


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of channels as columns can have them: one channel must not take the place of another, or of a column.

    >>> _distinct(["DAPI", "GFP", "GFP", "probability"])
    ['DAPI', 'GFP_1', 'GFP_2', 'probability_3']
    """
    once = {name for name in names if names.count(name) == 1} - {"probability"}
    taken, distinct = set(once), []
    for number, name in enumerate(names):
        own = name if name in once else f"{name}_{number}"
        while name not in once and own in taken:
            own += f"_{number}"
        taken.add(own)
        distinct.append(own)
    return distinct


def _label_image(labels: ArrayLike) -> NDArray[Any]:
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of shape {labels.shape}, {labels.dtype}: a label image (H, W) of integers is needed")
    return labels


def _channels(image: ArrayLike | None, shape: tuple[int, ...]) -> list[NDArray[Any]]:
    if image is None:
        return []
    image = np.asarray(image)
    channels = [image] if image.ndim == 2 else list(image)
    if not channels or any(channel.shape != shape for channel in channels):
        raise ValueError(f"image of shape {image.shape}: (H, W) or (C, H, W) of labels {shape} is needed")
    return channels


def _of_cells(
    gather: np.ufunc, start: float, labels: NDArray[Any], runs: Runs, values: NDArray[Any]
) -> NDArray[np.float64]:
    """Sum or maximum of each cell's values, one pixel after the other: the same in whichever band a cell lies."""
    found = np.full(len(runs.ids), start, np.float64)
    for rows in bands(labels.shape):
        of_pixels = values[rows][labels[rows] > 0].astype(np.float64)
        with np.errstate(invalid="ignore"):  # of a channel with NaN in it, so is what is said of it
            gather.at(found, runs.cells_of_pixels(rows), of_pixels)
    return found
