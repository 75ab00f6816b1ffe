"""Trains a small network twice on made-up touching cells, in float32 and in bfloat16: how far the two come apart.

Weights, tiles and their order are the same. After every 50 steps: mean training loss of these steps, and on tiles that
neither has seen (the same cells elsewhere, other noise) the loss and the share of wrong pixels. A third run, in float32
from other first weights, shows what chance alone does. Where the CPU multiplies no bfloat16 it is emulated, with the
same rounding.
"""

import sys
from statistics import mean

import benchmarking
import numpy as np
import torch
from benchmark_weight_map import made_up_cells
from benchmarking import Row
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.loss import PixelWeightedCrossEntropy
from unet_paper.network import UNet
from unet_paper.weight_map import WeightMap

FEATURES = (8, 16, 32, 64)
STEPS, INTERVAL = 200, 50
TILE = 188
Sample = tuple[Tensor, Tensor, Tensor]


def samples(seed: int, count: int) -> list[Sample]:
    """Tiles of an image of touching cells, with noise: image, label and weight."""
    rng = np.random.default_rng(seed)
    label, weight = (torch.as_tensor(value) for value in WeightMap()(torch.from_numpy(made_up_cells(100))[None]))
    inside = geometry.output_size(TILE, len(FEATURES))
    margin = (TILE - inside) // 2
    found = []
    for _ in range(count):
        top, left = (int(value) for value in rng.integers(0, label.shape[-1] - TILE, 2))
        seen = label[..., top : top + TILE, left : left + TILE].float()
        noise = torch.from_numpy(rng.normal(0, 0.5, (1, TILE, TILE)).astype(np.float32))
        cut = (..., slice(top + margin, top + margin + inside), slice(left + margin, left + margin + inside))
        found.append(((seen + noise)[None], label[cut][None], weight[cut][None]))
    return found


def train(precision: torch.dtype, seed: int, training: list[Sample], unseen: list[Sample]) -> list[tuple[float, ...]]:
    """Training loss, loss and share of wrong pixels on unseen tiles, after every interval."""
    torch.manual_seed(seed)
    network = UNet(features=FEATURES, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = PixelWeightedCrossEntropy()
    losses: list[float] = []
    found = []

    def scores(module: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            result: Tensor = module(image)
        return result.float()

    for step, (image, label, weight) in enumerate(training, start=1):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(scores(network, image), label, weight)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % INTERVAL == 0:
            with torch.no_grad():
                predicted = [(scores(network, image), label, weight) for image, label, weight in unseen]
            wrong = mean(float((s.argmax(1, keepdim=True) != t).float().mean()) for s, t, _ in predicted)
            found.append((mean(losses[-INTERVAL:]), mean(loss_function(*each).item() for each in predicted), wrong))
    return found


def main() -> int:
    """Train, print and write."""
    arguments = benchmarking.parse_arguments(__doc__)
    report = benchmarking.Report("precision", "Training in bfloat16", packages=("numpy",), quick=arguments.quick)
    training, unseen = samples(0, INTERVAL if arguments.quick else STEPS), samples(1, 2 if arguments.quick else 16)
    runs = {
        "float32": (torch.float32, 0),
        "bfloat16": (torch.bfloat16, 0),
        "float32, other first weights": (torch.float32, 1),
    }
    for name, (precision, seed) in runs.items():
        for number, (loss, unseen_loss, wrong) in enumerate(train(precision, seed, training, unseen), start=1):
            row = Row(what=name, group=f"after {number * INTERVAL} steps")
            row.extra = {"training loss": loss, "loss on unseen tiles": unseen_loss, "wrong pixels": wrong}
            report.rows.append(row)
    report.rows.sort(key=lambda row: int(row.group.split()[1]))
    report.notes.append(
        f"{FEATURES[0]} to {FEATURES[-1]} features, tiles of {TILE} px. Weights, optimiser and loss are in float32; "
        f"bfloat16 is {'native' if benchmarking.has_bfloat16() else 'emulated'} on this machine."
    )
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
