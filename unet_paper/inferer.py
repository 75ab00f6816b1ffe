"""Overlap-tile strategy of Ronneberger et al. (2015), Fig. 2: seamless segmentation of images of any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from unet_paper import geometry
from unet_paper.activation_memory import activation_bytes
from unet_paper.arguments import is_number, is_whole
from unet_paper.mosaic import Mosaic, Pointwise, View, check_images
from unet_paper.network import UNet
from unet_paper.row_streaming import RowStream, streaming_bytes

Strategy = Literal["tiles", "whole", "rows"]
Symmetries = Literal["none", "flips", "rotations", "all"]

# members of each group as (quarter turns, mirrored before turning)
SYMMETRIES: dict[Symmetries, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "rotations": ((0, False), (1, False), (2, False), (3, False)),
    "all": tuple(itertools.product(range(4), (False, True))),
}
# images of a batch, first row and column in the image as it is seen, scores (b, K, h, w)
Piece = tuple[slice, int, int, Tensor]
USUAL_OUTPUT = 388
# 64 px take a quarter longer than the image in one piece, 128 px no longer; no more memory than that needs.
STRIP_HEIGHT = 128
STRIP_PIXELS = 160_000
# seconds before a progress bar shows: nothing flickers for images that are done at once
PROGRESS_DELAY = 2.0


class Span(NamedTuple):
    """A tile along one axis, in px of the image: it writes [start, stop) and reads ``read`` px from start - margin."""

    start: int
    stop: int
    read: int


def plan_spans(length: int, tile_size: int, levels: int = 5) -> list[Span]:
    """Cut one axis of an image into tiles that write every pixel once and sit on the pooling grid of the whole image.

    The network repeats its predictions exactly only under shifts by multiples of the pooling factor (16 px), so tiles
    start at such multiples: a tile of 572 px, which predicts 388 px, advances by 384 px. The last tile keeps the grid
    and reads no more than it needs.

    Args:
        length: image size along the axis in px.
        tile_size: size of the network's input in px.
        levels: resolution levels of the network.

    Raises:
        ValueError: if ``tile_size`` is no valid size, or predicts less than one step of the grid.

    >>> plan_spans(512, 572)
    [Span(start=0, stop=384, read=572), Span(start=384, stop=512, read=316)]
    """
    predicted = geometry.output_size(tile_size, levels)
    factor = geometry.pooling_factor(levels)
    stride = predicted - predicted % factor
    if length > predicted and stride == 0:
        raise ValueError(
            f"tile_size={tile_size}: predicts {predicted} px, less than one step of the pooling grid ({factor} px); "
            f"use {geometry.input_size(factor, levels)} or more"
        )
    spans = []
    start = 0
    while start + predicted < length:
        spans.append(Span(start, start + stride, tile_size))
        start += stride
    spans.append(Span(start, length, geometry.input_size(length - start, levels)))
    return spans


def mirrored_indices(start: int, count: int, size: int) -> Tensor:
    """Indices into an axis of ``size`` px that continue it by reflection, as often as needed, at both of its ends.

    The edge pixel is not repeated; an axis of one pixel repeats it.

    >>> mirrored_indices(-4, 10, 3).tolist()
    [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    period = max(2 * (size - 1), 1)
    indices = torch.arange(start, start + count).remainder(period)
    return torch.minimum(indices, period - indices)


class OverlapTileInferer(Inferer):
    """Scores (logits) of the whole image, of any height and width, by a network whose output is smaller than its input.

    Missing input at the image's border is extrapolated by mirroring (Fig. 2), repeatedly for images smaller than the
    margin. The result does not depend on strategy and tile size: all equal that of the whole image in one piece.

    Test-time averaging: the scores of the turned or mirrored image are turned back and averaged, as the released code
    does. The paper averages "7 rotated versions of the input data" for the EM images and does not list them; we read
    them as what the 8 symmetries of the square (``"all"``) add to the image itself.

    Modes are left alone: call under ``torch.no_grad()`` with the network in evaluation mode, as MONAI's evaluator does.

    Args:
        levels: resolution levels of the network.
        strategy: ``"tiles"``; ``"whole"``, the image in one piece, whatever memory that takes; ``"rows"``, strips of
            rows through a :class:`unet_paper.network.UNet`, computing nothing twice.
        tile_size: height and width of the network's input in px (the paper's figure: 572). Default: the smallest that
            predicts 388 px, as the paper's does. With ``"rows"`` the height of a strip, any number; by default 128, and
            less for images wider than about 1,000 px.
        memory_budget: bytes that the network's activations may take, instead of ``tile_size``: the largest tile or
            strip that fits is used. Counts neither the images, nor the weights, nor the result.
        batch_size: tiles per call of the network; with ``"rows"`` images per stream.
        symmetries: ``"none"``, ``"flips"`` (4), ``"rotations"`` (4 quarter turns) or ``"all"`` (8).
        engine: given the network, returns what computes in its place, such as the same network in OpenVINO.
        progress: show a progress bar when work takes longer than two seconds.

    Raises:
        ValueError: unknown names, a size that is not valid for ``levels``, a size and a budget that exclude each other,
            or a number that is none or below what it can be.
    """

    def __init__(
        self,
        *,
        levels: int = 5,
        strategy: Strategy = "tiles",
        tile_size: int | None = None,
        memory_budget: int | None = None,
        batch_size: int = 1,
        symmetries: Symmetries = "none",
        engine: Callable[[object], object] | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        for name, number in (("levels", levels), ("batch_size", batch_size), ("tile_size", tile_size)):
            if not (is_whole(number) or (number is None and name == "tile_size")):
                raise ValueError(f"{name}={number!r}: a whole number is needed")
        geometry.pooling_factor(levels)
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy={strategy!r}: must be one of {', '.join(get_args(Strategy))}")
        if symmetries not in tuple(SYMMETRIES):
            raise ValueError(f"symmetries={symmetries!r}: must be one of {', '.join(SYMMETRIES)}")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if memory_budget is not None and not (is_number(memory_budget) and memory_budget > 0):
            raise ValueError(f"memory_budget={memory_budget!r}: a number of bytes is needed, such as {2**30}")
        if engine is not None and not callable(engine):
            raise ValueError(f"engine={engine!r}: must be called with a network and return what computes in its place")
        if progress not in (0, 1):
            raise ValueError(f"progress={progress!r}: True or False is needed")
        if tile_size is not None and memory_budget is not None:
            raise ValueError(f"tile_size={tile_size}, memory_budget={memory_budget}: give one, not both")
        if strategy == "whole" and (tile_size is not None or memory_budget is not None):
            raise ValueError("strategy='whole': takes neither tile_size nor memory_budget")
        if strategy == "rows" and engine is not None:
            raise ValueError("strategy='rows': calls the layers one by one in PyTorch, and takes no engine")
        if tile_size is not None and strategy == "tiles":
            geometry.output_size(tile_size, levels)
        if tile_size is not None and tile_size < 1:
            raise ValueError(f"tile_size={tile_size}: must be at least 1 row")
        self.levels = levels
        self.strategy = strategy
        self.tile_size = tile_size
        self.memory_budget = memory_budget
        self.batch_size = batch_size
        self.symmetries = symmetries
        self.engine = engine
        self.progress = progress

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Predict whole images.

        Args:
            inputs: images, shape (B, C, H, W), any H and W, in floating point; computed in the network's precision.
            network: module, scripted module or function: (b, C, h, w) -> (b, K, h - 2 margin, w - 2 margin).
            args: further positional arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            Scores, shape (B, K, H, W), float32 where the network computes in half precision, on the inputs' device,
            with the inputs' metadata where they have some.

        Raises:
            ValueError: inputs of another shape, without pixels, of integers or with NaN, a network with other levels,
                channels or output sizes, a memory budget that no tile fits.
            TypeError: ``"rows"`` with another network, or with further arguments; inputs or a result that are no
                tensor; a network that cannot be called.
        """
        return self.mapped(inputs, network, None, *args, **kwargs)

    def mapped(
        self, inputs: Tensor, network: Callable[..., Tensor], function: Pointwise | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Like a call, with what a function makes of the scores in their place, piece by piece as they are there.

        The scores of a large image are twice the size of the probability that is wanted of them, or more.

        Args:
            inputs: as of a call.
            network: as of a call.
            function: of scores (B, K, h, w), what becomes of each pixel whatever is beside it; None: the scores.
            args: as of a call.
            kwargs: as of a call.

        Returns:
            Shape (B, K', H, W), K' channels of the function, else as a call.

        Raises:
            ValueError, TypeError: as a call.
        """
        check_images(inputs)
        if not callable(network):
            raise TypeError(f"network: {type(network).__name__}, must be a module or a function")
        if self.engine is not None:
            network = cast(Callable[..., Tensor], self.engine(network))
        module = unwrapped(network)
        own = getattr(module, "levels", self.levels)
        if own != self.levels:
            raise ValueError(f"levels={self.levels}: the network has {own} levels; give the inferer levels={own}")
        if self.strategy == "rows" and (args or kwargs):
            raise TypeError("args, kwargs: strategy='rows' calls the network's layers, which take no further arguments")
        image = _in_precision_of(module, inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs)
        members = SYMMETRIES[self.symmetries]
        # an average is complete with its last member
        result = Mosaic(image.shape, function if len(members) == 1 else None)
        with tqdm(
            total=len(members) * image.shape[0] * image.shape[2] * image.shape[3],
            desc="overlap-tile",
            unit="px",
            unit_scale=True,
            delay=PROGRESS_DELAY,
            leave=False,
            disable=not self.progress,
        ) as bar:
            for turns, mirrored in members:
                seen = View(image, turns, mirrored)
                for images, top, left, piece in (
                    self._stream(seen, module)
                    if self.strategy == "rows"
                    else self._tile(seen, module, lambda tiles: network(tiles, *args, **kwargs))
                ):
                    result.add(images, *seen.place(piece, top, left))
                    bar.update(piece[:, 0].numel())
        found = result.average(len(members), function) if len(members) > 1 else result.whole
        assert found is not None
        return MetaTensor(found).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else found

    def _tile(self, seen: View, module: object, network: Callable[[Tensor], Tensor]) -> Iterator[Piece]:
        tile_size = self._choose_tile_size(seen, module)
        rows, columns = (plan_spans(length, tile_size, self.levels) for length in seen.shape[2:])
        classes: int | None = None
        for tiles in _batches(seen.shape[0], rows, columns, self.batch_size):
            given = [self._read(seen, slice(i, i + 1), row, column) for i, row, column in tiles]
            result = network(torch.cat(given))
            self._check_result(result, tiles, classes)
            classes = result.shape[1]
            for (index, row, column), tile in zip(tiles, result, strict=True):
                written = tile[None, :, : row.stop - row.start, : column.stop - column.start]
                yield slice(index, index + 1), row.start, column.start, written

    def _stream(self, seen: View, module: object) -> Iterator[Piece]:
        batch, _, height, width = seen.shape
        strip_height = self._choose_strip_height(seen, module)
        total = geometry.input_size(height, self.levels)
        columns = Span(0, width, geometry.input_size(width, self.levels))
        for first in range(0, batch, self.batch_size):
            images = slice(first, min(first + self.batch_size, batch))
            stream = RowStream(module)
            done = 0
            for start in range(0, total, strip_height):
                rows = Span(start, start + strip_height, min(strip_height, total - start))
                result = stream.push(self._read(seen, images, rows, columns))
                if result is None:
                    continue
                written = result[:, :, : height - done, :width]
                yield images, done, 0, written
                done += written.shape[2]

    def _read(self, seen: View, images: slice, row: Span, column: Span) -> Tensor:
        margin = geometry.margin(self.levels)
        rows, columns = (
            mirrored_indices(span.start - margin, span.read, length)
            for span, length in zip((row, column), seen.shape[2:], strict=True)
        )
        return seen.read(images, rows, columns)

    def _choose_tile_size(self, seen: View, module: object) -> int:
        largest = geometry.input_size(max(seen.shape[2:]), self.levels)
        if self.strategy == "whole":
            return largest
        if self.memory_budget is None:
            return self.tile_size or geometry.input_size(getattr(module, "usual_output", USUAL_OUTPUT), self.levels)
        factor = geometry.pooling_factor(self.levels)
        smallest = min(largest, geometry.input_size(factor, self.levels))

        def needed(size: int) -> int:
            height, width = (min(size, geometry.input_size(length, self.levels)) for length in seen.shape[2:])
            shape = (self.batch_size, seen.shape[1], height, width)
            return activation_bytes(shape, _features(module, self.levels), _itemsize(seen.image))

        return _largest(range(largest, smallest - 1, -factor), needed, self.memory_budget, "tile")

    def _choose_strip_height(self, seen: View, module: object) -> int:
        height, width = (geometry.input_size(length, self.levels) for length in seen.shape[2:])
        batch = min(self.batch_size, seen.shape[0])
        factor = geometry.pooling_factor(self.levels)
        if self.memory_budget is None:
            usual = min(STRIP_HEIGHT, STRIP_PIXELS // (batch * width))
            return self.tile_size or max(usual - usual % factor, factor)

        def needed(rows: int) -> int:
            shape = (batch, seen.shape[1], rows, width)
            return streaming_bytes(shape, _features(module, self.levels), _itemsize(seen.image))

        heights = range(height - height % factor, 0, -factor)
        return _largest(heights, needed, self.memory_budget, "strip")

    def _check_result(self, result: object, tiles: Sequence[tuple[int, Span, Span]], classes: int | None) -> None:
        _, row, column = tiles[0]
        size = tuple(geometry.output_size(span.read, self.levels) for span in (row, column))
        if not isinstance(result, Tensor):
            raise TypeError(f"network: returned {type(result).__name__}, must return one tensor of scores (b, K, h, w)")
        if result.dim() != 4 or result.shape[0] != len(tiles) or result.shape[2:] != size:
            raise ValueError(
                f"network: returned shape {tuple(result.shape)} for an input of {row.read} x {column.read} px; with "
                f"levels={self.levels} valid convolutions give ({len(tiles)}, K, {size[0]}, {size[1]})"
            )
        if not result.is_floating_point() or result.shape[1] != (classes or max(1, result.shape[1])):
            before = f", and {classes} channels for a tile before" if classes else ""
            raise ValueError(
                f"network: returned {result.dtype} with {result.shape[1]} channels{before}; must return scores of "
                "every class, in floating point, as many for each tile"
            )


def _in_precision_of(module: object, image: Tensor) -> Tensor:
    """The image as the network's weights need it; autocast sees to that by itself, but not for float64."""
    weights = module.parameters() if isinstance(module, torch.nn.Module) else iter(())
    kinds = {weight.dtype for weight in weights if weight.is_floating_point()}
    if len(kinds) != 1 or (image.dtype != torch.float64 and torch.is_autocast_enabled(image.device.type)):
        return image
    return image.to(kinds.pop())


def fastest_strategy(network: object) -> Strategy:
    """Rows where the network's layers are known one by one, else tiles."""
    return "rows" if isinstance(unwrapped(network), UNet) else "tiles"


def unwrapped(network: object) -> object:
    """The module itself: DistributedDataParallel and torch.compile hide its attributes behind their own."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return getattr(network, "_orig_mod", network)


def _batches(
    images: int, rows: Sequence[Span], columns: Sequence[Span], batch_size: int
) -> Iterator[tuple[tuple[int, Span, Span], ...]]:
    """Tiles (image, row span, column span) in batches of one shape."""

    def shape(tile: tuple[int, Span, Span]) -> tuple[int, int]:
        return tile[1].read, tile[2].read

    ordered = sorted(itertools.product(range(images), rows, columns), key=shape, reverse=True)
    for _, tiles in itertools.groupby(ordered, key=shape):
        remaining = list(tiles)
        for first in range(0, len(remaining), batch_size):
            yield tuple(remaining[first : first + batch_size])


def _features(module: object, levels: int) -> tuple[int, ...]:
    """Channels of each level, the paper's where the network does not tell."""
    return getattr(module, "features", tuple(64 << level for level in range(levels)))


def _itemsize(image: Tensor) -> int:
    device = image.device.type
    return (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype).itemsize


def _largest(sizes: range, needed: Callable[[int], int], budget: int, what: str) -> int:
    """First of the falling sizes whose need the budget covers."""
    for size in sizes:
        if needed(size) <= budget:
            return size
    raise ValueError(
        f"memory_budget={budget}: the smallest {what}, {sizes[-1]} px, needs {needed(sizes[-1])} bytes; "
        "raise the budget or lower batch_size"
    )
