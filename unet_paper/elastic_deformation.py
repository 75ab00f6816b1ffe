r"""Random elastic deformation, shift and rotation of image, label and weight with one sampling grid.

Ronneberger et al. (2015), section 3.1: Gaussian displacements (standard deviation 10 px) on a coarse 3 x 3 grid,
interpolated bicubically for every pixel. Shift and rotation, to which the paper gives no ranges, as in the authors'
released code: tile centre uniform over the image, any angle, mirror fill.

The pixel at v (row, column, counted from the tile's centre) of the output shows the image at

    p(v) = c + A v + sum_kl  b_k(v_row) D_kl b_l(v_column)

c the tile's centre in the image, A rotation (scale and flips on request), D the coarse displacements, b the bicubic
basis. Everything is composed in p before anything is interpolated: the image is resampled once, on the input tile,
label and weight once, on the output tile at the centre of the same p.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple
from numpy.typing import NDArray
from torch import Tensor

from unet_paper.arguments import is_number, is_range, is_whole
from unet_paper.classes import NUMBER_ANEW
from unet_paper.resampling import Interpolation, sample


@lru_cache(maxsize=64)
def bicubic_basis(size: int, knots: int, device: torch.device) -> Tensor:
    """Weight of every coarse grid line on every pixel: cubic convolution (a = -0.75) between ``knots`` lines, the first
    on the first pixel, the last on the last, end values repeated beyond.

    ``bicubic_basis(H, n) @ D @ bicubic_basis(W, n).T`` equals ``torch.nn.functional.interpolate(D, (H, W),
    mode="bicubic", align_corners=True)``.

    Returns:
        shape (size, knots), float64; rows sum to 1.

    >>> bicubic_basis(5, 3, torch.device("cpu"))[::2]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """
    a = -0.75
    u = np.linspace(0, knots - 1, size)
    first = np.floor(u).astype(int)
    basis = np.zeros((size, knots))
    for tap in (-1, 0, 1, 2):
        x = np.abs(u - first - tap)
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        weight = np.where(x <= 1, near, np.where(x < 2, far, 0))
        np.add.at(basis, (np.arange(size), np.clip(first + tap, 0, knots - 1)), weight)
    return torch.from_numpy(basis).to(device)


@dataclass(frozen=True, eq=False)
class Deformation:
    """One drawn deformation: where in the image each pixel of a tile lies.

    Attributes:
        center: (row, column) of the tile's centre in the image, px.
        matrix: A, shape (2, 2): offset in the tile -> offset in the image.
        control: D, displacement (rows, columns) on the coarse grid that spans the tile, shape (2, n, n), image px.
    """

    center: tuple[float, float]
    matrix: NDArray[np.float64]
    control: NDArray[np.float64]

    def displacement(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """The elastic part alone: (row, column) displacement of every pixel, shape (2, h, w), float64, px."""
        device = torch.device(device)
        knots = self.control.shape[-1]
        rows, columns = (bicubic_basis(length, knots, device) for length in size)
        return rows @ torch.from_numpy(self.control).to(device) @ columns.T

    def grid(self, size: tuple[int, int], image_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """Where in the image the pixels of a tile lie, for :func:`torch.nn.functional.grid_sample`.

        Args:
            size: (h, w) of the tile, px.
            image_size: (H, W) of the image, px.
            device: where to compute.

        Returns:
            (x, y), shape (h, w, 2), float32; -1 and 1 are the edge pixels' centres (``align_corners=True``).
        """
        device = torch.device(device)
        knots = self.control.shape[-1]
        # the linear part joins the separable product: basis [b_1 .. b_n, v, 1],
        # coefficients [[D, 0, 0], [0, 0, A_row], [0, A_column, c]]
        coefficients = np.zeros((2, knots + 2, knots + 2))
        coefficients[:, :knots, :knots] = self.control
        coefficients[:, -2, -1], coefficients[:, -1, -2] = self.matrix.T
        coefficients[:, -1, -1] = self.center
        coefficients *= [[[2 / max(length - 1, 1)]] for length in image_size]
        coefficients[:, -1, -1] -= 1
        rows, columns = (_extended_basis(length, knots, device) for length in size)
        # in float64, which neither autocast nor TF32 touches: lower precision would be wrong by whole pixels here
        # non_blocking: a GPU takes its copy at once; the host does not wait until the GPU has done all before it
        x_y = rows @ torch.from_numpy(coefficients[::-1].copy()).to(device, non_blocking=True) @ columns.T
        return x_y.float().permute(1, 2, 0)


@lru_cache(maxsize=64)
def _extended_basis(size: int, knots: int, device: torch.device) -> Tensor:
    offset = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
    return torch.cat((bicubic_basis(size, knots, device), offset[:, None], torch.ones_like(offset)[:, None]), dim=1)


class RandElasticDeformation(RandomizableTransform):
    """Shifted, rotated and elastically deformed tile of an image (Ronneberger et al. 2015, section 3.1).

    Every call draws a new deformation (``randomize=False`` keeps the last one, to treat a label like its image) from
    the transform's own NumPy random state; the resampling runs on the device of the data. Beyond its edge the image is
    mirrored, any distance.

    Args:
        input_size: (rows, columns), or one number for both, of the network's input: the image tile, px.
        output_size: the same of the network's output: the label and weight tile at the centre of the image tile, px.
        std: standard deviation of the coarse displacements, px.
        grid_size: coarse grid lines in each direction, spread over the input tile; 3 in the paper.
        shift: "uniform" puts the tile's centre anywhere in the image, as the released code does; a number draws its row
            and column within that many px of the image's centre; 0 keeps the centre.
        rotate: range of the angle in degrees, counter-clockwise as ``numpy.rot90``.
        scale: range of the magnification (not in the paper: 1 to 1).
        flip: mirror rows and columns, each with probability 1/2 (not in the paper: off).
        image_mode: interpolation of images; labels and weights are always sampled from the nearest pixel.

    Raises:
        ValueError: for sizes that do not nest with a whole margin, what is no range (low, high), or a number that is
            none or out of range.

    Attributes:
        deformation: the deformation last drawn.

    >>> import torch
    >>> transform = RandElasticDeformation(input_size=28, output_size=12).set_random_state(seed=0)
    >>> image = torch.rand(1, 40, 50)
    >>> transform(image).shape, transform(image > 0.5, label=True, randomize=False).shape
    (torch.Size([1, 28, 28]), torch.Size([1, 12, 12]))
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self,
        *,
        input_size: int | Sequence[int] = 572,
        output_size: int | Sequence[int] = 388,
        std: float = 10.0,
        grid_size: int = 3,
        shift: float | Literal["uniform"] = "uniform",
        rotate: tuple[float, float] = (0.0, 360.0),
        scale: tuple[float, float] = (1.0, 1.0),
        flip: bool = False,
        image_mode: Interpolation = "bilinear",
    ) -> None:
        super().__init__(prob=1.0)
        self.input_size = _size("input_size", input_size)
        self.output_size = _size("output_size", output_size)
        for larger, smaller in zip(self.input_size, self.output_size, strict=True):
            if larger < smaller or (larger - smaller) % 2:
                raise ValueError(
                    f"output_size={output_size}: must be input_size={input_size} less an even number of px "
                    f"(the network loses the same margin on both sides)"
                )
        if not (is_number(std) and std >= 0):
            raise ValueError(f"std={std!r}: a standard deviation in px, 0 or more")
        if not (is_whole(grid_size) and grid_size >= 2):
            raise ValueError(f"grid_size={grid_size!r}: a whole number of lines, at least 2; the paper has 3")
        if shift != "uniform" and not (is_number(shift) and shift >= 0):
            raise ValueError(f'shift={shift!r}: "uniform" or a distance in px, 0 or more')
        for name, given in {"rotate": rotate, "scale": scale}.items():
            if not is_range(given):
                raise ValueError(f"{name}={given!r}: a range (low, high) of numbers with low <= high is needed")
        if not scale[0] > 0:
            raise ValueError(f"scale={scale}: magnifications are greater than 0")
        if flip not in (0, 1):
            raise ValueError(f"flip={flip!r}: True or False is needed")
        if image_mode not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(f'image_mode={image_mode!r}: "nearest", "bilinear" or "bicubic"')
        self.std = std
        self.grid_size = grid_size
        self.shift = shift
        self.rotate = rotate
        self.scale = scale
        self.flip = flip
        self.image_mode: Interpolation = image_mode
        self.deformation: Deformation | None = None

    def randomize(self, image_size: tuple[int, int]) -> None:
        """Draws ``deformation`` for an image of ``image_size`` (H, W) px."""
        # always the same number of draws in the same order: an option switched off leaves the others as they were
        draws = self.R.uniform(size=2)
        angle = math.radians(self.R.uniform(*self.rotate))
        magnification = self.R.uniform(*self.scale)
        mirrored = self.R.uniform(size=2) < 0.5
        control = self.R.normal(0.0, self.std, size=(2, self.grid_size, self.grid_size))
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        signs = np.where(mirrored & self.flip, -1.0, 1.0)
        self.deformation = Deformation(
            center=(
                self._center(image_size[0], self.input_size[0], draws[0]),
                self._center(image_size[1], self.input_size[1], draws[1]),
            ),
            matrix=rotation * signs / magnification,
            control=control,
        )

    def _center(self, length: int, tile: int, draw: float) -> float:
        if self.shift == "uniform":
            return draw * length - 0.5
        # (length - tile) // 2 whole pixels before the tile: unrotated tiles fall on pixels, whatever the parity
        return (length - tile) // 2 + (tile - 1) / 2 + self.shift * (2 * draw - 1)

    def grid(self, image_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """Sampling grid of the input tile for the deformation last drawn: see :meth:`Deformation.grid`."""
        return self._drawn().grid(self.input_size, image_size, device)

    def displacement(self) -> Tensor:
        """Elastic displacement (row, column) over the input tile last drawn, shape (2, *input_size), image px."""
        return self._drawn().displacement(self.input_size)

    def _drawn(self) -> Deformation:
        if self.deformation is None:
            raise RuntimeError("randomize=False: nothing drawn yet, call randomize(image_size) first")
        return self.deformation

    def sample(self, image: Tensor, grid: Tensor, *, label: bool) -> Tensor:
        """The input tile of an image, or the output tile of a label, on the ``grid`` of the input tile."""
        if not label:
            return sample(image, grid, self.image_mode)
        top, left = ((large - small) // 2 for large, small in zip(self.input_size, self.output_size, strict=True))
        rows, columns = self.output_size
        return sample(image, grid[top : top + rows, left : left + columns], "nearest")

    def __call__(self, image: NdarrayOrTensor, *, label: bool = False, randomize: bool = True) -> Tensor:
        """Deforms one array.

        Args:
            image: shape (C, H, W), any dtype: array, tensor or MetaTensor.
            label: sample the nearest pixel on the output tile instead of interpolating on the input tile.
            randomize: draw a new deformation.

        Returns:
            plain tensor of the same dtype and device, shape (C, *input_size) or (C, *output_size). NumPy's uint16 and
            uint32 become int32 and int64, as MONAI converts them.

        Raises:
            ValueError: for an array that is not channel first, or ids that 64 bits with a sign do not hold.
        """
        tensor = _channel_first("image", image)
        height, width = tensor.shape[1:]
        if randomize:
            self.randomize((height, width))
        return self.sample(tensor, self.grid((height, width), tensor.device), label=label)


class RandElasticDeformationd(RandomizableTransform, MapTransform):
    """Dictionary version of :class:`RandElasticDeformation`: one deformation for image, label and weight.

    Args:
        keys: arrays to deform, all of the same height and width.
        image_keys: those of ``keys`` to be interpolated on the input tile; all others are labels or weights, sampled
            from the nearest pixel on the output tile.
        input_size, output_size, std, grid_size, shift, rotate, scale, flip, image_mode: see
            :class:`RandElasticDeformation`.
        allow_missing_keys: pass over keys that an item lacks (an image without a weight map, say).

    Raises:
        ValueError: for an image key that is not among ``keys``; for arrays of one item that differ in height or width.

    >>> import torch
    >>> transform = RandElasticDeformationd(input_size=188, output_size=4)
    >>> image = torch.rand(1, 64, 80)
    >>> item = {"image": image, "label": image > 0.5, "weight": image + 1}
    >>> {key: tuple(value.shape) for key, value in transform(item).items()}
    {'image': (1, 188, 188), 'label': (1, 4, 4), 'weight': (1, 4, 4)}
    """

    backend = RandElasticDeformation.backend

    def __init__(
        self,
        keys: KeysCollection = ("image", "label", "weight"),
        *,
        image_keys: KeysCollection = ("image",),
        input_size: int | Sequence[int] = 572,
        output_size: int | Sequence[int] = 388,
        std: float = 10.0,
        grid_size: int = 3,
        shift: float | Literal["uniform"] = "uniform",
        rotate: tuple[float, float] = (0.0, 360.0),
        scale: tuple[float, float] = (1.0, 1.0),
        flip: bool = False,
        image_mode: Interpolation = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.image_keys: tuple[Hashable, ...] = ensure_tuple(image_keys)
        for key in self.image_keys:
            if key not in self.keys:
                raise ValueError(f"image_keys={self.image_keys}: {key!r} is not among keys={self.keys}")
        self.deform = RandElasticDeformation(
            input_size=input_size,
            output_size=output_size,
            std=std,
            grid_size=grid_size,
            shift=shift,
            rotate=rotate,
            scale=scale,
            flip=flip,
            image_mode=image_mode,
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandElasticDeformationd":
        """Seeds the draws (MONAI's ``Randomizable``)."""
        super().set_random_state(seed, state)
        self.deform.set_random_state(seed, state)
        return self

    def randomize(self, image_size: tuple[int, int]) -> None:
        """Draws the deformation for items of ``image_size`` (H, W) px."""
        self.deform.randomize(image_size)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Deforms the item; values become plain tensors of unchanged dtype and device."""
        item = dict(data)
        tensors = {key: _channel_first(str(key), item[key]) for key in self.key_iterator(item)}
        if not tensors:
            return item
        sizes = {key: tuple(tensor.shape[1:]) for key, tensor in tensors.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{sizes}: height and width of all keys must be equal")
        height, width = next(iter(sizes.values()))
        self.randomize((height, width))
        grids: dict[torch.device, Tensor] = {}
        for key, tensor in tensors.items():
            if tensor.device not in grids:
                grids[tensor.device] = self.deform.grid((height, width), tensor.device)
            item[key] = self.deform.sample(tensor, grids[tensor.device], label=key not in self.image_keys)
        return item


def _size(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    given: tuple[int, ...] = ensure_tuple(value)
    pair = given * 2 if len(given) == 1 else given
    if len(pair) != 2 or not all(is_whole(length) and length > 0 for length in pair):
        raise ValueError(f"{name}={value}: one positive number of px or two (rows, columns)")
    return int(pair[0]), int(pair[1])


def _channel_first(name: str, array: NdarrayOrTensor) -> Tensor:
    largest = np.iinfo(np.int64).max
    if isinstance(array, np.ndarray) and array.dtype == np.uint64 and array.max(initial=0) > largest:
        raise ValueError(f"{name}: holds {array.max()}, and numbers up to {largest} are supported; {NUMBER_ANEW}")
    tensor: Tensor = convert_to_tensor(array, track_meta=False)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, must be channel first (C, H, W) and not empty")
    return tensor
