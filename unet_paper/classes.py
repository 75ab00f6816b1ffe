"""Several kinds of cells: instance ids that say of which class a cell is.

The paper's networks tell two classes apart, background and cell. With K classes, 0 the background, K - 1 kinds of cells
share one instance image. The cell number n = 1, 2, ... of class c = 1 .. K - 1 has the id

.. math:: (n - 1) (K - 1) + c,

so that an id says its class wherever the image goes, turned, deformed, cut, pasted or saved; with two classes an id is
the number of its cell.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unet_paper.arguments import is_whole

NUMBER_ANEW = (
    "number the cells anew, where all are of one class by instances[instances > 0] = "
    "np.unique(instances[instances > 0], return_inverse=True)[1] + 1"
)


def check_num_classes(num_classes: int) -> None:
    """Refuse a number of classes that is none.

    Raises:
        ValueError: for fewer than two, more than 256, which 8 bits hold, or what is no whole number.
    """
    if not (is_whole(num_classes) and 2 <= num_classes <= 256):
        raise ValueError(
            f"out_channels={num_classes!r}: at least 2 classes are needed, background and cell, and at most 256 (in "
            "Python: num_classes)"
        )


def whole_ids(instances: ArrayLike) -> NDArray[np.integer]:
    """The ids of an instance image of any type of numbers, MONAI's loaders giving floating point: integers.

    Args:
        instances: instance image, of any shape.

    Raises:
        ValueError: for a mask, values that are not whole numbers, or ids that the type, or 64 bits, do not tell apart.

    >>> whole_ids([[0.0, 3.0]])
    array([[0, 3]])
    """
    image = np.asarray(instances)
    if image.dtype.kind not in "iuf":
        remedy = "; a mask tells no cell from another: number its pieces, skimage.measure.label(mask)"
        raise ValueError(
            f"instances of type {image.dtype}: whole numbers are needed, an id a cell"
            + (remedy if image.dtype == np.bool_ else "")
        )
    if image.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN becomes some number, which differs from it below
            ids = image.astype(np.int64)
        if not np.array_equal(ids, image):
            raise ValueError(f"instances of type {image.dtype} hold values that are not whole numbers: no instance ids")
        told_apart = 2 ** (np.finfo(image.dtype).nmant + 1)
    else:
        ids, told_apart = image, np.iinfo(np.int64).max
    if ids.size and ids.max() > told_apart:
        raise ValueError(
            f"instances of type {image.dtype} hold the id {ids.max()}, which it may share with others: this type tells "
            f"ids up to {told_apart} apart; keep ids as int32 or int64 from the file on"
            if image.dtype.kind == "f"
            else f"instances hold the id {ids.max()}: ids up to {told_apart} are supported; {NUMBER_ANEW}"
        )
    return ids


def instance_ids(numbers: NDArray[np.int32], class_index: int, num_classes: int) -> NDArray[np.int32]:
    """Ids of the cells of one class.

    Args:
        numbers: 1, 2, ... for the cells of the class, 0 elsewhere.
        class_index: 1 .. ``num_classes`` - 1.
        num_classes: K, background included.

    >>> instance_ids(np.array([0, 1, 2], np.int32), 2, num_classes=3)
    array([0, 2, 4], dtype=int32)
    """
    return np.where(numbers > 0, (numbers - 1) * (num_classes - 1) + class_index, 0).astype(np.int32)


def class_of(ids: NDArray[np.integer], num_classes: int) -> NDArray[np.uint8]:
    """Class of each id; 0 for background, and for unknown pixels.

    Args:
        ids: instance image or ids, of any shape.
        num_classes: K, background included.

    >>> class_of(np.array([0, 1, 2, 3, 4, -1]), num_classes=3)
    array([0, 1, 2, 1, 2, 0], dtype=uint8)
    """
    if num_classes == 2:
        return (ids > 0).astype(np.uint8)
    return np.where(ids > 0, (ids - 1) % (num_classes - 1) + 1, 0).astype(np.uint8)


def named(ids: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.str_]:
    """Name of each id's class.

    >>> named(np.array([1, 2]), ["background", "round", "long"]).tolist()
    ['round', 'long']
    """
    return np.array(names)[class_of(ids, len(names))]


def next_id(ids: NDArray[np.integer], class_index: int, num_classes: int) -> int:
    """The id of a further cell of a class, above all that there are.

    >>> next_id(np.array([0, 1, 4]), 1, num_classes=3)
    5
    """
    numbered = -(-int(ids.max(initial=0)) // (num_classes - 1))
    return numbered * (num_classes - 1) + class_index


def cell_probability(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probability that a pixel is of a cell of whatever class.

    Args:
        probabilities: of the K classes, shape (K, H, W); or of the cell alone, shape (1, H, W).
    """
    if len(probabilities) <= 2:
        return probabilities[-1]
    # of a network that is sure of a cell, the rounded sum may be a little more than 1
    return np.minimum(probabilities[1:].sum(axis=0), 1)


def label_each_class(
    of_cells: NDArray[np.floating], label: Callable[[NDArray[np.floating]], NDArray[np.int32]]
) -> NDArray[np.int32]:
    """Cells of several classes from their probabilities.

    A pixel is of the class with the greatest probability among those of cells (of equal ones the first), and as
    probable a cell as all of them together. Each class is labelled in the map of its own pixels. Where a cell then
    reaches beyond these, into a hole that was filled or a gap that was given back, it takes what no other cell has.

    Args:
        of_cells: probabilities of the classes 1 .. K - 1, shape (K - 1, H, W).
        label: cells 1 .. n of one map, see :func:`unet_paper.instances.label_instances`.

    Returns:
        Instance image, shape (H, W).
    """
    kinds = len(of_cells)
    if kinds == 1:
        return label(of_cells[0])
    of_any, winner = of_cells.sum(axis=0), of_cells.argmax(axis=0)
    labelled = [instance_ids(label(np.where(winner == kind, of_any, 0)), kind + 1, kinds + 1) for kind in range(kinds)]
    cells = np.zeros(of_any.shape, np.int32)
    for kind, ids in enumerate(labelled):
        cells = np.where((winner == kind) & (ids > 0), ids, cells)
    for ids in labelled:
        cells = np.where(cells == 0, ids, cells)
    return cells
