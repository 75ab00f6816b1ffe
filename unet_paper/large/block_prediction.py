"""The network's prediction, block by block, bit for bit that of the whole image.

The tiles are those of :class:`unet_paper.inferer.OverlapTileInferer` for the whole image: a block is a number of them,
and a tile reads the same pixels and is predicted alone, whichever block it is in. So a pixel's scores depend on its
tile only. The halo of a block is the network's margin; at the image's border it is mirrored, as there.

At another magnification the tiles lie in the resized image, of which a block's part is resized alone
(:func:`unet_paper.magnification.resize_axis` gives each pixel the same bits in a part as in the whole), and the scores
are kept at that size; they are resized back for each box that is asked for.

Test-time averaging turns and mirrors the whole image, and with it the grid of tiles: a turned tile is no tile of the
image. It is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.inferer import Span, mirrored_indices, plan_spans
from unet_paper.large.grid import Box, Grid
from unet_paper.magnification import Taps, magnified_length, resize_axis, resize_taps
from unet_paper.probability import class_probabilities

# tiles along a block's side: few enough for a scheduler's tasks to be minutes, not hours
TILES = 4


@dataclass(frozen=True)
class TileGrid:
    """Tiles of an image and their blocks, in px of the network's image.

    Args:
        height: of the image in px.
        width: of the image in px.
        magnification: size of the network's image / size of the image.
        tile_size: of the network's input in px.
        levels: of the network.
        tiles: along a block's side.
    """

    height: int
    width: int
    magnification: float
    tile_size: int
    levels: int
    tiles: int = TILES

    @property
    def seen(self) -> tuple[int, int]:
        """Size of the image that the network sees."""
        if self.magnification == 1:
            return self.height, self.width
        return magnified_length(self.height, self.magnification), magnified_length(self.width, self.magnification)

    @property
    def stride(self) -> int:
        """Px from one tile to the next: a multiple of the pooling factor."""
        predicted = geometry.output_size(self.tile_size, self.levels)
        return max(predicted - predicted % geometry.pooling_factor(self.levels), 1)

    @property
    def blocks(self) -> Grid:
        """Blocks of the network's image."""
        return Grid(*self.seen, self.stride * self.tiles)

    def spans(self, index: int) -> tuple[list[Span], list[Span]]:
        """Tiles of a block, along rows and along columns."""
        box = self.blocks.box(index)
        rows, columns = (plan_spans(length, self.tile_size, self.levels) for length in self.seen)
        # the last tile may predict a few px more than one stride: it lies with the block in which it begins
        return (
            [span for span in rows if box.top <= span.start < box.bottom],
            [span for span in columns if box.left <= span.start < box.right],
        )


@dataclass(frozen=True)
class BlockPrediction:
    """Scores of one plane, block by block.

    Args:
        tiles: the tiles and their blocks.
        network: (1, C, h, w) -> (1, 2, h - 2 margin, w - 2 margin), in evaluation mode, on ``device``.
        image: gives normalised grey values of a box, float32, shape (C, h, w).
        scores: array that takes and gives boxes: probability of the cell, shape (1, H, W), at magnification 1; else
            the two scores, shape (2, h, w), of the network's image; float32.
        device: where the network computes.
        autocast: precision to compute in, None for that of the network.
    """

    tiles: TileGrid
    network: nn.Module | None
    image: Callable[[Box], Tensor]
    scores: Any
    device: torch.device
    autocast: torch.dtype | None = None

    def predict(self, index: int) -> dict[str, NDArray[Any]]:
        """Predict one block; returns nothing but the number of its tiles."""
        rows, columns = self.tiles.spans(index)
        if not rows or not columns:  # the last tile of the block before reaches over this one
            return {"tiles": np.array(0)}
        height, width = self.tiles.seen
        row_indices, column_indices = (
            [mirrored_indices(span.start - geometry.margin(self.tiles.levels), span.read, length) for span in spans]
            for spans, length in ((rows, height), (columns, width))
        )
        needed = Box(*_ends(row_indices, column_indices))
        seen = self._seen(needed)
        block = np.empty(
            (self.scores.shape[0], rows[-1].stop - rows[0].start, columns[-1].stop - columns[0].start), np.float32
        )
        for row, row_index in zip(rows, row_indices, strict=True):
            for column, column_index in zip(columns, column_indices, strict=True):
                tile = _picked(_picked(seen, 1, row_index - needed.top), 2, column_index - needed.left).contiguous()
                scores = self._tile_scores(tile)[:, : row.stop - row.start, : column.stop - column.start]
                kept = class_probabilities(scores)[1:] if self.tiles.magnification == 1 else scores
                inside = Box(row.start, column.start, row.stop, column.stop)
                block[:, *inside.moved(-rows[0].start, -columns[0].start).slices] = kept.cpu().numpy()
        written = slice(rows[0].start, rows[-1].stop), slice(columns[0].start, columns[-1].stop)
        self.scores[:, *written] = block
        return {"tiles": np.array(len(rows) * len(columns))}

    def probability(self, box: Box) -> NDArray[np.float32]:
        """Probability of the cell in a box of the image, float32, shape (h, w), once its blocks are predicted."""
        if self.tiles.magnification == 1:
            return np.asarray(self.scores[0, *box.slices])
        rows, columns = self._taps(box, (self.tiles.height, self.tiles.width), self.tiles.seen, antialias=False)
        source = Box(*_ends([rows.sources], [columns.sources]))
        scores = torch.from_numpy(np.asarray(self.scores[:, *source.slices]))
        scores = resize_axis(scores, 1, rows, source.top)
        return class_probabilities(resize_axis(scores, 2, columns, source.left))[1].numpy()

    def _seen(self, box: Box) -> Tensor:
        """What the network sees in a box of its image."""
        if self.tiles.magnification == 1:
            return self.image(box)
        rows, columns = self._taps(box, self.tiles.seen, (self.tiles.height, self.tiles.width), antialias=True)
        source = Box(*_ends([rows.sources], [columns.sources]))
        return resize_axis(resize_axis(self.image(source), 1, rows, source.top), 2, columns, source.left)

    @staticmethod
    def _taps(box: Box, size: tuple[int, int], source: tuple[int, int], *, antialias: bool) -> tuple[Taps, Taps]:
        return (
            resize_taps(source[0], size[0], box.top, box.bottom, antialias=antialias),
            resize_taps(source[1], size[1], box.left, box.right, antialias=antialias),
        )

    def _tile_scores(self, tile: Tensor) -> Tensor:
        assert self.network is not None
        context: AbstractContextManager[Any] = nullcontext()
        if self.autocast is not None:
            context = torch.autocast(self.device.type, self.autocast)
        with torch.no_grad(), context:
            scores = self.network(tile[None].to(self.device))
        return scores[0].float()


def _picked(pixels: Tensor, axis: int, index: Tensor) -> Tensor:
    """Pixels at these places along an axis; a view where nothing is mirrored, which is most often."""
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 == len(index):
        return pixels.narrow(axis, first, len(index))
    return pixels.index_select(axis, index)


def _ends(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> tuple[int, int, int, int]:
    """Box around indices of rows and columns."""
    row, column = torch.cat([index.flatten() for index in rows]), torch.cat([index.flatten() for index in columns])
    return int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max()) + 1
