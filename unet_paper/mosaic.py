"""The whole put together from pieces: of the image as it is, or turned and mirrored for test-time averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# of scores (B, K, h, w): what becomes of each pixel, whatever is beside it, shape (B, K', h, w)
Pointwise = Callable[[Tensor], Tensor]
# of an average that are divided and handed to a function at a time
BAND_PIXELS = 2**20


class View:
    """Images turned and mirrored, read piece by piece and never copied as a whole.

    As ``torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3))``.

    Args:
        image: shape (B, C, H, W).
        turns: quarter turns.
        mirrored: whether it is mirrored before.

    >>> image = torch.arange(6.0).view(1, 1, 2, 3)
    >>> View(image, 1, False).read(slice(0, 1), torch.arange(3), torch.arange(2))[0, 0].tolist()
    [[2.0, 5.0], [1.0, 4.0], [0.0, 3.0]]
    """

    def __init__(self, image: Tensor, turns: int, mirrored: bool) -> None:
        self.image = image
        self.turns = turns
        self.mirrored = mirrored

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, C, H, W) as seen."""
        batch, channels, height, width = self.image.shape
        return (batch, channels, width, height) if self.turns % 2 else (batch, channels, height, width)

    def read(self, images: slice, rows: Tensor, columns: Tensor) -> Tensor:
        """Pixels at some rows and columns as seen, shape (b, C, len(rows), len(columns))."""
        rows, columns = self._in_image(rows, columns)
        device = self.image.device
        piece = self.image[images].index_select(2, rows.to(device)).index_select(3, columns.to(device))
        return piece.transpose(2, 3).contiguous() if self.turns % 2 else piece

    def place(self, piece: Tensor, top: int, left: int) -> tuple[slice, slice, Tensor]:
        """Where in the image a piece (b, K, h, w) lies that is seen at ``top`` and ``left``, and the piece turned back.

        Returns:
            Rows, columns and the piece as it lies there.
        """
        height, width = piece.shape[2:]
        rows, columns = self._in_image(torch.arange(top, top + height), torch.arange(left, left + width))
        turned = torch.rot90(piece, -self.turns, (2, 3)) if self.turns else piece
        return _span(rows), _span(columns), turned.flip(3) if self.mirrored else turned

    def _in_image(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the image that are seen at some rows and columns, or at some columns and rows."""
        height, width = self.image.shape[2:]
        for turned in (1, 2, 3)[: self.turns]:
            # one quarter turn shows at (i, j) what was at (j, last - i)
            last = (width if (self.turns - turned) % 2 == 0 else height) - 1
            rows, columns = columns, last - rows
        return rows, width - 1 - columns if self.mirrored else columns


def _span(indices: Tensor) -> slice:
    return slice(int(indices.min()), int(indices.max()) + 1)


def check_images(inputs: Tensor) -> None:
    """Refuse what is no batch of images (B, C, H, W) for a network.

    Raises:
        TypeError: no tensor.
        ValueError: another shape, no pixel, integers, or NaN or infinite grey values, which spread without a word.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs: {type(inputs).__name__}, must be a tensor of images (B, C, H, W), in floating point")
    if inputs.dim() != 4 or inputs.numel() == 0 or not inputs.is_floating_point():
        raise ValueError(
            f"inputs: shape {tuple(inputs.shape)}, {inputs.dtype}: must be images (B, C, H, W) in floating point"
        )
    low, high = (float(value) for value in inputs.aminmax())
    if not math.isfinite(high - low):
        raise ValueError(f"inputs: grey values from {low:g} to {high:g}; find out where what is not finite comes from")


class Mosaic:
    """Scores of whole images, or what a function makes of them, from pieces in any order.

    Args:
        shape: of the images (B, C, H, W).
        function: of the scores; None keeps them.
    """

    def __init__(self, shape: Sequence[int], function: Pointwise | None) -> None:
        self.shape = shape
        self.function = function
        self.whole: Tensor | None = None

    def add(self, images: slice, rows: slice, columns: slice, piece: Tensor) -> None:
        """Add a piece (b, K, h, w) to what is there: 0 at first."""
        # Half precision would lose the averaging over symmetries and whatever follows the network.
        piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
        if self.function is not None:
            piece = self.function(piece)
        if self.whole is None:
            self.whole = piece.new_zeros((self.shape[0], piece.shape[1], *self.shape[2:]))
        self.whole[images, :, rows, columns].add_(piece)

    def average(self, count: int, function: Pointwise | None) -> Tensor:
        """The sum of ``count`` members divided by their number, and what a function makes of that."""
        whole = self.whole
        assert whole is not None
        if function is None:
            return whole.div_(count)
        return in_bands(lambda rows: function(whole[:, :, rows] / count), whole.shape)


def in_bands(piece: Callable[[slice], Tensor], shape: Sequence[int]) -> Tensor:
    """Images put together from bands of rows, each computed when the one before is in its place.

    Args:
        piece: of rows, gives shape (B, K, rows, W).
        shape: of the images (B, ..., H, W).
    """
    whole: Tensor | None = None
    step = max(1, BAND_PIXELS // max(1, shape[0] * shape[-1]))
    for top in range(0, shape[-2], step):
        rows = slice(top, min(top + step, shape[-2]))
        band = piece(rows)
        if whole is None:
            whole = band.new_empty((*band.shape[:2], *shape[-2:]))
        whole[:, :, rows] = band
    assert whole is not None
    return whole
