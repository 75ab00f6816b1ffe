"""Memory that the network's activations take, reckoned from its shape before any tensor exists."""

from collections.abc import Iterator, Sequence


def activation_bytes(shape: tuple[int, int, int, int], features: Sequence[int], itemsize: int = 4) -> int:
    """Most bytes that the activations of :class:`unet_paper.network.UNet` take at any moment, without gradients.

    Besides a convolution's input and output and the waiting skips it counts a copy of the convolution's operands and
    weights: libraries bring them into layouts of their own.

    Args:
        shape: of the network's input (B, C, h, w).
        features: channels of each level, full resolution first.
        itemsize: bytes per number.
    """
    return max(_moments(*shape, features)) * itemsize


def _moments(batch: int, channels: int, height: int, width: int, features: Sequence[int]) -> Iterator[int]:
    """Numbers alive at each step of the network."""

    def convolve(incoming: int, outgoing: int, waiting: int) -> Iterator[int]:
        sizes = [batch * (height - crop) * (width - crop) for crop in (0, 2, 4)]
        given, between, made = sizes[0] * incoming, sizes[1] * outgoing, sizes[2] * outgoing
        yield waiting + 2 * (given + between) + 9 * incoming * outgoing
        yield waiting + given + 2 * (between + made) + 9 * outgoing * outgoing

    skips: list[int] = []
    incoming = channels
    for level, outgoing in enumerate(features):
        if level > 0:
            height, width = height // 2, width // 2
            yield sum(skips) + 3 * batch * height * width * incoming  # maxima and their 8-byte positions
        yield from convolve(incoming, outgoing, sum(skips))
        height, width = height - 4, width - 4
        skips.append(batch * height * width * outgoing)
        incoming = outgoing
    skips.pop()
    for outgoing in reversed(features[:-1]):
        height, width = 2 * height, 2 * width
        # phseg_v5 keeps all channels in its last up-convolution; counted for either preset
        upsampled = batch * height * width * incoming
        yield sum(skips) + 2 * upsampled + 2 * batch * height * width * outgoing  # cropped skip, and both side by side
        skips.pop()
        yield from convolve(incoming + outgoing, outgoing, sum(skips) + upsampled)
        height, width = height - 4, width - 4
        incoming = outgoing
