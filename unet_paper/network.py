"""The network of Ronneberger et al. (2015), section 2 and Fig. 1."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.arguments import is_number, is_whole

Preset = Literal["paper", "phseg_v5"]

# entry of a state dict on disk that tells how its weights were trained, see running.facts: JSON as bytes
FACTS = "facts"


class UNet(nn.Module):
    """U-Net with unpadded ("valid") convolutions: 572 x 572 in, 388 x 388 out.

    .. code-block:: text

        572 ─ conv conv ─ 568 ──────────── crop 88, copy ───────────┐ 392 ─ conv conv ─ 388 ─ 1x1 ─ classes
                    pool │ 2                                        │ up-conv 2
            284 ─ conv conv ─ 280 ──────── crop 40, copy ───────┐ 200 ─ conv conv ─ 196
                        pool │ 2                                │ up-conv 2
                140 ─ conv conv ─ 136 ──── crop 16, copy ───┐ 104 ─ conv conv ─ 100
                            pool │ 2                        │ up-conv 2
                     68 ─ conv conv ─ 64 ─ crop 4, copy ─┐ 56 ─ conv conv ─ 52
                                pool │ 2                 │ up-conv 2
                          32 ─ conv conv ─ 28 ───────────┘

    Every ``conv`` is 3x3 without padding, followed by a ReLU. Weights are drawn from a Gaussian of standard deviation
    sqrt(2 / N) with N the incoming nodes of one neuron (section 3, He et al. 2015); biases start at zero.

    Args:
        in_channels: channels of the image.
        out_channels: classes; the output holds one score (logit) per class.
        features: channels of each level, full resolution first; their number is the number of levels.
        preset: ``"paper"``: linear up-convolutions that halve the channels. ``"phseg_v5"``: the network of the authors'
            release of 2015-10-02: a ReLU after each up-convolution, and the last one keeps its channels.
        dropout: probability of dropping a unit at the end of the contracting path: after the last convolution of
            the two deepest levels. The upper one's skip is dropped with it, as in the released code.

    Raises:
        ValueError: unknown preset, numbers of channels that are not whole or below 1, no ``features``, ``dropout``
            outside [0, 1).

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H - 184, W - 184) with H, W = 16k + 60 (five levels).

    A state dict on disk may have an entry ``facts``, which tells how its weights were trained. Loading accepts it,
    strictly or not, and keeps it as ``facts``; it belongs to the weights as they were in the file, so ``state_dict()``
    leaves it out.

    >>> sum(parameter.numel() for parameter in UNet().parameters())
    31030658
    """

    facts: str

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        preset: Preset = "paper",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if preset not in get_args(Preset):
            raise ValueError(f"preset={preset!r}: must be one of {', '.join(get_args(Preset))}")
        if not (is_number(dropout) and 0 <= dropout < 1):
            raise ValueError(f"dropout={dropout!r}: must be in [0, 1), 0.5 in the released code")
        for name, number in (("in_channels", in_channels), ("out_channels", out_channels)):
            if not (is_whole(number) and number >= 1):
                raise ValueError(f"{name}={number!r}: a whole number of channels, at least 1, is needed")
        given = tuple(features) if isinstance(features, Collection) else ()
        if not given or not all(is_whole(number) and number >= 1 for number in given):
            raise ValueError(
                f"features={features!r}: whole numbers of channels, at least 1, are needed, one for each level"
            )
        features = tuple(int(number) for number in given)
        released = preset == "phseg_v5"
        self.levels = len(features)
        self.features = features
        self.in_channels = in_channels
        self.facts = ""
        self.contracting = nn.ModuleList(
            _convolutions(incoming, outgoing, dropout if level >= self.levels - 2 else 0.0)
            for level, (incoming, outgoing) in enumerate(zip((in_channels, *features), features, strict=False))
        )
        self.up = nn.ModuleList()
        self.expanding = nn.ModuleList()
        for level in reversed(range(self.levels - 1)):
            below, here = features[level + 1], features[level]
            upsampled = below if released and level == 0 else here
            up_convolution = nn.ConvTranspose2d(below, upsampled, kernel_size=2, stride=2)
            self.up.append(nn.Sequential(up_convolution, nn.ReLU(inplace=True)) if released else up_convolution)
            self.expanding.append(_convolutions(upsampled + here, here))
        self.classifier = nn.Conv2d(features[0], out_channels, kernel_size=1)
        self.initialise()

    def initialise(self) -> None:
        """Draw all weights anew (section 3): Gaussian, std sqrt(2 / N), N = incoming nodes of one neuron."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # With stride = kernel size each output of an up-convolution meets one kernel tap per input channel.
                taps = 1 if isinstance(module, nn.ConvTranspose2d) else module.weight[0, 0].numel()
                nn.init.normal_(module.weight, std=(2 / (module.in_channels * taps)) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Scores (logits) of every class, (B, C, H, W) -> (B, out_channels, H - 2 margin, W - 2 margin)."""
        self._check(image)
        skips: list[Tensor] = []
        x = image
        for level, convolutions in enumerate(self.contracting):
            if level > 0:
                x = nn.functional.max_pool2d(x, kernel_size=2)
            x = convolutions(x)
            skips.append(x)
        skips.pop()  # the bottleneck's own output is no skip
        for up, convolutions in zip(self.up, self.expanding):  # noqa: B905 - TorchScript knows no `strict`
            x = up(x)
            x = convolutions(torch.cat([_centre_crop(skips.pop(), x), x], dim=1))
        return self.classifier(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PyTorch has handed over a copy of the mapping; a program of one's own may have made floats of all its entries
        entry = state_dict.pop(prefix + FACTS, None)
        self.facts = (
            "" if entry is None else bytes(entry.round().to("cpu", torch.uint8).numpy()).decode(errors="replace")
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check(self, image: Tensor) -> None:
        if image.dim() != 4 or image.size(1) != self.in_channels:
            raise ValueError(f"image.shape={image.shape}: must be (B, {self.in_channels}, H, W)")
        geometry.output_size(image.size(2), self.levels)
        geometry.output_size(image.size(3), self.levels)


def _convolutions(in_channels: int, out_channels: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, kernel_size=3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Dropout(dropout)) if dropout else nn.Sequential(*layers)


def _centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    # The contracting path's map is larger by twice geometry.skip_crops()[level], which is even: the centre is exact.
    # Cropped by padding with less than nothing: unlike that of a slice, its gradient keeps the memory format.
    rows = (skip.shape[2] - like.shape[2]) // 2
    columns = (skip.shape[3] - like.shape[3]) // 2
    return nn.functional.pad(skip, [-columns, -columns, -rows, -rows])
