"""How long a step of training takes on this machine."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from unet_paper.geometry import output_size
from unet_paper.loss import PixelWeightedCrossEntropy
from unet_paper.network import UNet
from unet_paper.running.engines import select_device

_STEPS_TIMED, _SECONDS_TIMED = (3, 15), 3.0  # fewest and most, and for how long


def seconds_per_step(features: Sequence[int], tile: int, channels: int) -> float:
    """Time of a step of training on this machine, the median of some after two that make ready.

    One alone may have waited for another program: it would leave hardly any steps to a training of half an hour.
    """
    device = select_device()
    network = UNet(in_channels=channels, features=features).to(device)
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=1e-3), PixelWeightedCrossEntropy()
    image = torch.rand(1, channels, tile, tile, device=device)
    size = output_size(tile, len(features))
    label = torch.zeros(1, 1, size, size, dtype=torch.int64, device=device)
    weight = torch.ones(1, 1, size, size, device=device)
    taken: list[float] = []
    while len(taken) < 2 + _STEPS_TIMED[0] or (sum(taken) < _SECONDS_TIMED and len(taken) < 2 + _STEPS_TIMED[1]):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss(network(image), label, weight).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken[2:])) * 1.15  # augmentation and weight maps, measured on tiles of 284 and 444 px
