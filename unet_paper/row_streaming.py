"""Row streaming: an image flows through the network as strips of rows, nothing is computed twice and little is held.

Valid convolutions need no neighbours beyond their receptive field. So each layer takes the rows that have come, adds
the few it kept from before (two for a 3x3 convolution, at most one for a pooling), and hands on what is complete. The
skips wait in queues, one a level, until the expanding path has caught up: 88, 40, 16 and 4 rows behind in the paper's
network, whatever the height of the image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.network import UNet


class RowStream:
    """The network as a stream of rows: strips of an image in, rows of scores out, equal to those of the whole image.

    Strips may have any height, also different ones. In training mode dropout draws anew for each strip, which is the
    same distribution. One stream serves one image, or one batch of images of the same size.

    Args:
        network: a :class:`unet_paper.network.UNet`, of either preset.

    Raises:
        TypeError: for another network: its layers must be known one by one.
    """

    def __init__(self, network: object) -> None:
        if not isinstance(network, UNet):
            raise TypeError(
                f"network: row streaming needs the layers of unet_paper.network.UNet, got {type(network).__name__}; "
                "use strategy='tiles'"
            )
        self._network = network
        self._shape: tuple[int, int, int] | None = None
        self._levels = _Level(network, level=0)
        self._classifier = network.classifier

    def push(self, strip: Tensor) -> Tensor | None:
        """Take the next rows of the image, give the rows of scores that they complete.

        Args:
            strip: shape (B, C, rows, W), W a valid input size.

        Returns:
            Scores, shape (B, K, rows completed, W - 2 margin), or None while no row is complete.

        Raises:
            ValueError: a strip of another shape, of no valid width, or of another size than those before.
        """
        channels = self._network.in_channels
        if strip.dim() != 4 or strip.shape[1] != channels:
            raise ValueError(f"strip of shape {tuple(strip.shape)}: (B, {channels}, rows, W) is needed by the network")
        batch, _, _, width = strip.shape
        if self._shape is None:
            geometry.output_size(width, self._network.levels)
            self._shape = (batch, channels, width)
        if self._shape != (batch, channels, width):
            raise ValueError(
                f"strip of shape {tuple(strip.shape)}: those before have {self._shape[0]} images, {self._shape[2]} px "
                "wide; a stream is for one batch, begin another with a new RowStream"
            )
        rows = self._levels.push(strip)
        return None if rows is None else self._classifier(rows)


class _Level:
    """Contracting and expanding convolutions of one level, and between them the levels below."""

    def __init__(self, network: UNet, level: int) -> None:
        self.contract = _Convolutions(network.contracting[level])
        self.below: _Level | None = None
        if level < network.levels - 1:
            self.skips = _Skips(geometry.skip_crops(network.levels)[level])
            self.pool = _Pooling()
            self.below = _Level(network, level + 1)
            stage = network.levels - 2 - level  # the expanding path counts from the bottom
            self.up = network.up[stage]
            self.expand = _Convolutions(network.expanding[stage])

    def push(self, rows: Tensor) -> Tensor | None:
        contracted = self.contract.push(rows)
        if contracted is None or self.below is None:
            return contracted
        self.skips.push(contracted)
        pooled = self.pool.push(contracted)
        del contracted  # from here on only the queue holds it
        below = None if pooled is None else self.below.push(pooled)
        if below is None:
            return None
        # Handed over unnamed, so that the rows are freed as soon as the first convolution has added those it kept.
        return self.expand.push(self._with_skip(below))

    def _with_skip(self, below: Tensor) -> Tensor:
        upsampled: Tensor = self.up(below)
        return torch.cat([self.skips.take(upsampled.shape[2]), upsampled], dim=1)


class _Convolutions:
    """A chain of unpadded 3x3 convolutions; each keeps the last two rows it was given."""

    def __init__(self, layers: nn.Module) -> None:
        self.layers = list(layers.children())
        self.kept: dict[int, Tensor] = {}

    def push(self, rows: Tensor) -> Tensor | None:
        for index, layer in enumerate(self.layers):
            if isinstance(layer, nn.Conv2d):
                if index in self.kept:
                    rows = torch.cat([self.kept[index], rows], dim=2)
                self.kept[index] = rows[:, :, -2:].clone()  # a view would hold the whole strip
                if rows.shape[2] < 3:
                    return None
            rows = layer(rows)
        return rows


class _Pooling:
    """2x2 max pooling; keeps an odd row until its partner comes."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def push(self, rows: Tensor) -> Tensor | None:
        if self.kept is not None:
            rows = torch.cat([self.kept, rows], dim=2)
        even = rows.shape[2] - rows.shape[2] % 2
        self.kept = rows[:, :, even:].clone() if even < rows.shape[2] else None
        return nn.functional.max_pool2d(rows[:, :, :even], kernel_size=2) if even else None


class _Skips:
    """Rows of a skip, cropped at the left, right and top, waiting for the expanding path."""

    def __init__(self, crop: int) -> None:
        self.crop = crop
        self.leading = crop
        self.waiting: deque[Tensor] = deque()

    def push(self, rows: Tensor) -> None:
        dropped = min(self.leading, rows.shape[2])
        self.leading -= dropped
        if dropped < rows.shape[2]:
            self.waiting.append(rows[:, :, dropped:, self.crop : rows.shape[3] - self.crop])

    def take(self, count: int) -> Tensor:
        taken = []
        while count > 0:
            rows = self.waiting.popleft()
            if rows.shape[2] > count:
                self.waiting.appendleft(rows[:, :, count:])
                rows = rows[:, :, :count]
            taken.append(rows)
            count -= rows.shape[2]
        return taken[0] if len(taken) == 1 else torch.cat(taken, dim=2)


def streaming_bytes(shape: tuple[int, int, int, int], features: Sequence[int], itemsize: int = 4) -> int:
    """Most bytes that a stream of strips of this shape takes at any moment, without gradients, beside the weights.

    Args:
        shape: of a strip (B, C, rows, W).
        features: channels of each level, full resolution first.
        itemsize: bytes per number.
    """
    batch, channels, rows, width = shape
    levels = len(features)
    crops = geometry.skip_crops(levels)
    waiting = 0
    working = 0
    for level, outgoing in enumerate(features):
        incoming = features[level - 1] if level else channels
        height = -(-rows // 2**level) + 2
        width = width // 2 if level else width
        if level < levels - 1:
            # A skip waits for the levels below: its crop, the strip just come, and a row of the bottleneck at most.
            waiting += (crops[level] + height + 2 ** (levels - 1 - level)) * width * outgoing
            # upsampled and concatenated rows (phseg_v5 keeps twice the channels), both convolutions
            incoming = max(incoming, outgoing + features[level + 1])
        # each convolution's operands, and a copy of them and of the weights in a layout of the library's own
        operands = 2 * batch * height * width * (incoming + 2 * outgoing)
        working = max(working, operands + 9 * outgoing * max(incoming, outgoing))
        width -= 4
    return (batch * waiting + working) * itemsize
