"""Weight map (Eq. 2) and separation borders of Ronneberger et al. (2015), and the weights of Falk et al. (2019)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type
from numpy.typing import NDArray

from unet_paper.arguments import is_number
from unet_paper.classes import check_num_classes, class_of, whole_ids
from unet_paper.nearest_cells import compiled, label_image, largest_square, two_nearest_squares

Border = Literal["dilation", "neighbour"]
Preset = Literal["paper", "falk2019"]

# offsets (rows, columns) of the neighbours whose instance decides whether a pixel becomes separation border
BORDER_NEIGHBOURS: Mapping[Border, tuple[tuple[int, int], ...]] = {
    "dilation": ((-1, 0), (0, -1), (0, 1), (1, 0)),
    "neighbour": ((-1, -1), (-1, 0), (-1, 1), (0, -1)),
}
# w0 and sigma of each preset
BORDER_TERM: Mapping[Preset, tuple[float, float]] = {"paper": (10.0, 5.0), "falk2019": (50.0, 6.0)}

# contribution of a Gaussian term below which it is not computed: a tenth of float32's resolution at weight 10
NEGLIGIBLE = 1e-7


def separation_border(instances: NDArray[np.integer], method: Border = "dilation") -> NDArray[np.int32]:
    """Set the pixels to background where two instances touch ("computed using morphological operations").

    The paper names no operation. Two readings:

    - ``"dilation"``: every instance is dilated by a disk of radius 1, and what is covered twice becomes background.
      A cell pixel goes where one of its 4 neighbours is of another instance: two-sided, two pixels wide. Instances
      that touch by a corner only stay as they are: separate under 4-connectivity, one under 8-connectivity.
    - ``"neighbour"``: a pixel goes where another instance is among its 4 top-left neighbours, those that come before
      it in reading order: one-sided, one pixel wide, and no two instances stay 8-adjacent.

    Unknown pixels are no instance: they cut nothing and stay unknown.

    Args:
        instances: label image, shape (H, W); 0 is background, -1 unknown, every cell has its own id > 0.
        method: ``"dilation"`` or ``"neighbour"``.

    Returns:
        The label image with the border set to 0, shape (H, W).

    Raises:
        ValueError: for another method, or an image that is not a 2D integer one.

    Examples:
        >>> separation_border(np.array([[1, 1, 2, 2]]), "dilation").tolist()
        [[1, 0, 0, 2]]
        >>> separation_border(np.array([[1, 1, 2, 2]]), "neighbour").tolist()
        [[1, 1, 0, 2]]
    """
    labels = label_image(instances)
    if method not in tuple(BORDER_NEIGHBOURS):
        raise ValueError(f"method={method!r}: choose one of {sorted(BORDER_NEIGHBOURS)}")
    height, width = labels.shape
    around = np.pad(labels, 1)
    cut = np.zeros(labels.shape, dtype=bool)
    for row, column in BORDER_NEIGHBOURS[method]:
        neighbour = around[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        cut |= (neighbour > 0) & (neighbour != labels)
    return np.where(cut & (labels > 0), np.int32(0), labels)


def class_balance(
    instances: NDArray[np.integer], largest: float | None = None, num_classes: int = 2
) -> tuple[float, ...]:
    """Class weights that balance the class frequencies, the values of w_c in Eq. 2.

    The paper states no normalisation. Here n pixels of which n_k are of class k give w_k = n / (K n_k), K being the
    number of classes present: all classes weigh the same in the sum, and the mean of w_c is 1, so that w0 keeps its
    size relative to w_c whatever the frequencies. An absent class has weight 1. Unknown pixels do not count.

    Args:
        instances: label image, any shape (a stack gives one balance for all of it); 0 is background, -1 unknown,
            > 0 a cell.
        largest: weight that a rare class gets at most, >= 1, not in the paper; the others' are then what keeps the
            mean 1. Where cells are a hundredth of an image, they weigh 50, and outlines move outwards. None: no limit.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`.

    Returns:
        Weight of the background, and of each class of cells.

    Raises:
        ValueError: for ``largest`` below 1, fewer than two classes, or an image that is not of whole numbers.

    Examples:
        >>> class_balance(np.array([[0, 0, 0, 7]]), largest=1.5)
        (0.8333333333333334, 1.5)
        >>> class_balance(np.array([[0, 0, 0, 7]]))
        (0.6666666666666666, 2.0)
    """
    if largest is not None and not (largest == math.inf or (is_number(largest) and largest >= 1)):
        raise ValueError(f"largest_class_weight={largest!r}: at least 1, at which the classes are not balanced")
    check_num_classes(num_classes)
    instances = whole_ids(instances)
    pixels = np.bincount(class_of(instances[instances >= 0], num_classes), minlength=num_classes)
    weights = [1.0] * num_classes
    present = [int(k) for k in np.argsort(pixels, kind="stable") if pixels[k]]
    # from the rarest on: each its share of what the limit has left, the last one all of it
    left = int(pixels.sum())
    share: float = left
    for after, k in enumerate(present[:-1]):
        count = int(pixels[k])
        weights[k] = min(share / ((len(present) - after) * count), math.inf if largest is None else largest)
        share, left = share - weights[k] * count, left - count
    if len(present) > 1:
        weights[present[-1]] = share / left
    return tuple(weights)


def weight_map(
    instances: NDArray[np.integer],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: Sequence[float] | None = None,
    largest_class_weight: float | None = None,
    num_classes: int = 2,
) -> NDArray[np.float32]:
    r"""Weight map of Ronneberger et al. (2015), Eq. 2.

    .. math:: w(x) = w_c(x) + w_0 \exp\left(-\frac{(d_1(x) + d_2(x))^2}{2 \sigma^2}\right)

    The equation holds for every known pixel x, on cells too. The paper calls d1 the distance "to the border of the
    nearest cell"; read as the distance to that cell it is 0 on it, and a cell's rim facing a neighbour gains weight.
    With fewer than two cells d2 is infinite and w = w_c. The map does not depend on the values of the ids.

    Call it with the label that the network is trained on, after :func:`separation_border`: the paper computes the
    border first and "then" the map, and d1 and d2 are the distances to the cells that remain.

    Args:
        instances: label image, shape (H, W); 0 is background, -1 unknown (weight 0, no cell), every cell has its own
            id > 0.
        w0: height of the border term.
        sigma: width of the border term in px; the paper uses about 5.
        class_weights: w_c of background and cells, or of each class; None balances this image's classes by
            :func:`class_balance`.
        largest_class_weight: limit of the balance, see there; None: none, as the paper.
        num_classes: background included. Of more than two, ids say their class, see :mod:`unet_paper.classes`; d1 and
            d2 are the distances to the nearest cells of whatever class.

    Returns:
        Weights, shape (H, W).

    Raises:
        ValueError: for an image that is not a 2D integer one, w0 < 0, sigma <= 0, negative class weights or fewer than
            two classes.

    Examples:
        >>> weight_map(np.array([[1, 0, 2]]), class_weights=(1.0, 1.0)).round(2)
        array([[10.23, 10.23, 10.23]], dtype=float32)
    """
    _check_border_term(w0, sigma)
    check_num_classes(num_classes)
    labels = label_image(instances)
    weights = class_balance(labels, largest_class_weight, num_classes) if class_weights is None else class_weights
    _check_class_weights(weights, num_classes)
    limit = largest_square(labels, _reach(w0, sigma))
    squares = two_nearest_squares(labels, limit)
    return _compiled_weigh()(labels, squares, limit, w0, sigma, True, np.array(weights, np.float64), 0.0, 1.0)


def weight_map_falk2019(
    instances: NDArray[np.integer],
    *,
    w0: float = 50.0,
    sigma: float = 6.0,
    background: float = 0.1,
    rim_sigma: float = 10.0,
) -> NDArray[np.float32]:
    r"""Weight map of the U-Net plugin of Falk et al. (2019), doi:10.1038/s41592-018-0261-2.

    Cells weigh 1, unknown pixels 0, and a background pixel

    .. math:: v + (1 - v) \exp\left(-\frac{d_1^2}{2 \cdot 10^2}\right)
              + w_0 \exp\left(-\frac{(d_1 + d_2)^2}{2 \sigma^2}\right), \quad v = 0.1.

    Args:
        instances: label image, shape (H, W); 0 is background, -1 unknown, every cell has its own id > 0.
        w0: height of the border term.
        sigma: width of the border term in px.
        background: v, the weight of background far from every cell, 0 to 1.
        rim_sigma: how far in px the weight of the background around a cell reaches.

    Returns:
        Weights, shape (H, W).

    Raises:
        ValueError: for an image that is not a 2D integer one, or a parameter out of range.

    Examples:
        >>> weight_map_falk2019(np.array([[1, 0, -1]])).round(4)
        array([[1.    , 0.9955, 0.    ]], dtype=float32)
    """
    _check_border_term(w0, sigma)
    if not (is_number(background) and 0 <= background <= 1):
        raise ValueError(f"background={background!r}: a weight from 0 to 1 is needed")
    if not (is_number(rim_sigma) and rim_sigma > 0):
        raise ValueError(f"rim_sigma={rim_sigma!r}: a finite width > 0 px is needed")
    labels = label_image(instances)
    limit = largest_square(labels, max(_reach(w0, sigma), _reach(1 - background, rim_sigma)))
    squares = two_nearest_squares(labels, limit)
    weights = np.array([background, 1.0])
    return _compiled_weigh()(labels, squares, limit, w0, sigma, False, weights, 1 - background, rim_sigma)


class WeightMap(Transform):
    """Class label and weight map of an instance image: separation border, then Eq. 2 or its 2019 form.

    Args:
        preset: ``"paper"`` (:func:`weight_map`) or ``"falk2019"`` (:func:`weight_map_falk2019`).
        border: method of :func:`separation_border`, or None for instances that need none (EM: membranes are
            annotated).
        w0: height of the border term; None takes the preset's.
        sigma: width of the border term in px; None takes the preset's.
        class_weights: preset ``"paper"`` only: w_c of background and cells, or of each class; None balances each
            image.
        largest_class_weight: limit of that balance, see :func:`class_balance`.
        num_classes: background included; of more than two, ids say their class, see :mod:`unet_paper.classes`. Cells of
            different classes may touch: the border is set between those of one class.

    Raises:
        ValueError: for an unknown preset or border, a parameter out of range, or class_weights with ``"falk2019"``.
    """

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        border: Border | None = "dilation",
        w0: float | None = None,
        sigma: float | None = None,
        class_weights: Sequence[float] | None = None,
        largest_class_weight: float | None = None,
        num_classes: int = 2,
    ) -> None:
        check_num_classes(num_classes)
        if preset not in tuple(BORDER_TERM):
            raise ValueError(f"preset={preset!r}: choose one of {sorted(BORDER_TERM)}")
        if border is not None and border not in tuple(BORDER_NEIGHBOURS):
            raise ValueError(f"border={border!r}: choose one of {sorted(BORDER_NEIGHBOURS)} or None")
        if preset == "falk2019" and class_weights is not None:
            raise ValueError(f"class_weights={class_weights}: preset 'falk2019' has none, it weighs by distance")
        self.preset = preset
        self.border = border
        preset_w0, preset_sigma = BORDER_TERM[preset]
        self.w0 = preset_w0 if w0 is None else w0
        self.sigma = preset_sigma if sigma is None else sigma
        self.class_weights = class_weights
        self.largest_class_weight = largest_class_weight
        self.num_classes = num_classes
        class_balance(np.zeros((1, 1), np.int32), largest_class_weight)
        _check_border_term(self.w0, self.sigma)
        if class_weights is not None:
            _check_class_weights(class_weights, num_classes)

    def __call__(self, instances: NdarrayOrTensor) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Label and weight, computed on the host, of the container, device and meta information of the input.

        Args:
            instances: instance image, shape (1, H, W), of whole numbers; 0 is background, -1 unknown.

        Returns:
            Class label uint8 (1 cell, or the class of the cell; 0 background, border or unknown) and weight float32,
            shape (1, H, W) each.

        Raises:
            ValueError: for another shape, a mask, or values that are no ids, see :func:`unet_paper.classes.whole_ids`.
        """
        image = convert_data_type(instances, np.ndarray)[0]
        if image.ndim != 3 or image.shape[0] != 1:
            raise ValueError(f"instances of shape {tuple(image.shape)}: one channel first is needed, (1, H, W)")
        ids = label_image(whole_ids(image[0]))
        if self.border is not None:
            ids = self._parted(ids, self.border)
        label = convert_to_dst_type(class_of(ids, self.num_classes)[None], instances, dtype=torch.uint8)[0]
        if self.preset == "paper":
            weights = weight_map(
                ids,
                w0=self.w0,
                sigma=self.sigma,
                class_weights=self.class_weights,
                largest_class_weight=self.largest_class_weight,
                num_classes=self.num_classes,
            )
        else:
            weights = weight_map_falk2019(ids, w0=self.w0, sigma=self.sigma)
        weight = convert_to_dst_type(weights[None], instances, dtype=torch.float32)[0]
        return label, weight

    def _parted(self, ids: NDArray[np.int32], border: Border) -> NDArray[np.int32]:
        if self.num_classes == 2:
            return separation_border(ids, border)
        classes = class_of(ids, self.num_classes)
        kinds = [separation_border(np.where(classes == k, ids, 0), border) for k in range(1, self.num_classes)]
        return np.where(ids > 0, np.sum(kinds, axis=0, dtype=np.int32), ids)


class WeightMapd(MapTransform):
    """Dictionary version of :class:`WeightMap`.

    Takes the instance image under a key of ``keys``, keeps it (as reference for metrics) under ``instances_key``, puts
    the class label with its separation border in its place and the weight map under ``weight_key``.

    Args:
        keys: key of the instance image, shape (1, H, W).
        weight_key: key of the weight map; as many as ``keys``.
        instances_key: key under which the instance image goes on; as many as ``keys``.
        preset: see :class:`WeightMap`, as the following.
        border: see there.
        w0: see there.
        sigma: see there.
        class_weights: see there.
        largest_class_weight: see there.
        num_classes: see there.
        allow_missing_keys: pass over items that lack the key.

    Raises:
        ValueError: for numbers of keys that differ, and as :class:`WeightMap`.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        weight_key: KeysCollection = "weight",
        instances_key: KeysCollection = "instances",
        preset: Preset = "paper",
        border: Border | None = "dilation",
        w0: float | None = None,
        sigma: float | None = None,
        class_weights: Sequence[float] | None = None,
        largest_class_weight: float | None = None,
        num_classes: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.weight_keys = ensure_tuple(weight_key)
        self.instances_keys = ensure_tuple(instances_key)
        for name, others in (("weight_key", self.weight_keys), ("instances_key", self.instances_keys)):
            if len(others) != len(self.keys):
                raise ValueError(f"{name}={others}: one for each of keys={self.keys} is needed")
        self.weight_map = WeightMap(
            preset=preset,
            border=border,
            w0=w0,
            sigma=sigma,
            class_weights=class_weights,
            largest_class_weight=largest_class_weight,
            num_classes=num_classes,
        )

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Item with label, weight and instances, see the class."""
        item = dict(data)
        for key, weight_key, instances_key in self.key_iterator(item, self.weight_keys, self.instances_keys):
            instances = item[key]
            item[instances_key] = instances
            item[key], item[weight_key] = self.weight_map(instances)
        return item


def _check_border_term(w0: float, sigma: float) -> None:
    if not (is_number(w0) and w0 >= 0):
        raise ValueError(f"w0={w0!r}: a finite height >= 0 is needed")
    if not (is_number(sigma) and sigma > 0):
        raise ValueError(f"sigma={sigma!r}: a finite width > 0 px is needed")


def _check_class_weights(class_weights: Sequence[float], num_classes: int) -> None:
    given = tuple(class_weights) if isinstance(class_weights, Collection) else class_weights
    if not (
        isinstance(given, tuple)
        and len(given) == num_classes
        and all(is_number(weight) and weight >= 0 for weight in given)
    ):
        needed = "two finite weights >= 0 are needed, of background and of cells"
        if num_classes != 2:
            needed = f"{num_classes} finite weights >= 0 are needed, of background and of each class of cells"
        raise ValueError(f"class_weights={given!r}: {needed}")


def _reach(height: float, sigma: float) -> float:
    """Distance in px beyond which a Gaussian of this height and width stays below NEGLIGIBLE."""
    return sigma * math.sqrt(2 * math.log(max(height / NEGLIGIBLE, 1)))


@functools.cache
def _compiled_weigh() -> Callable[..., NDArray[np.float32]]:
    return compiled(_weigh)


def _weigh(
    labels: NDArray[np.int32],
    squares: NDArray[np.int32],
    limit: int,
    w0: float,
    sigma: float,
    border_on_cells: bool,
    class_weights: NDArray[np.float64],
    rim: float,
    rim_sigma: float,
) -> NDArray[np.float32]:
    # Eq. 2 and its form of 2019, a pixel at a time: arrays between NumPy's operations cost more than what is computed
    height, width = labels.shape
    kinds = len(class_weights) - 1
    weights = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            if labels[y, x] < 0:
                continue
            on_cell = labels[y, x] > 0
            weight = class_weights[(labels[y, x] - 1) % kinds + 1] if on_cell else class_weights[0]
            first, second = squares[y, x]
            if not on_cell and rim > 0 and first <= limit:
                weight += rim * np.exp(-first / (2 * rim_sigma**2))
            if second <= limit and (border_on_cells or not on_cell):
                distance = np.sqrt(first) + np.sqrt(second)
                weight += w0 * np.exp(-(distance**2) / (2 * sigma**2))
            weights[y, x] = weight
    return weights
