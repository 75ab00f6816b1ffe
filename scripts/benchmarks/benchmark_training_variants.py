"""Times what else was tried to make a training step faster on the CPU, one change at a time, beside the step as it is.

A step as ``benchmark_training.py`` times it, on one tile that is augmented once. Each change is made to a network of
its own; its first loss must be that of the step as it is. What wins by more than the noise and stays simple is in the
configs already; the rest stands here so that nobody tries it again unawares.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import benchmarking
import torch
from benchmark_training import Training
from benchmarking import Row
from torch import Tensor, nn

from unet_paper.network import UNet
from unet_paper.running import engines, machine

WIDTH = 16
TOLERANCE = 1e-5
AS_IT_IS, ADAM = "as it is: ReLU in place, SGD", "Adam, as torch chooses"


class OverwritingReLU(torch.autograd.Function):
    """ReLU in place, whose gradient is written over the one that comes in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.clamp_(min=0))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradients[0].masked_fill_(y <= 0, 0)


class Overwriting(nn.Module):
    """``OverwritingReLU`` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = OverwritingReLU.apply(x)
        return found


def with_relu(training: Training, make: Callable[[], nn.Module]) -> Training:
    """The same steps with other layers in the place of ReLUs."""
    for module in training.engine.network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, make())
    return training


def with_optimizer(training: Training, kind: type[torch.optim.Optimizer], **settings: Any) -> Training:
    """The same steps by another optimiser."""
    training.engine.optimizer = kind(training.engine.network.parameters(), lr=1e-4, **settings)
    return training


def without_dropout(training: Training) -> Training:
    """Steps that compare: dropout would draw for each of them."""
    network = getattr(training.engine.network, "_orig_mod", training.engine.network)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return training


def main() -> int:
    """Measure, print and write."""
    arguments = benchmarking.parse_arguments(__doc__, threads=machine.own_cores())
    width, size, repetitions = (2, 188, 2) if arguments.quick else (WIDTH, 572, 7)
    title = "Training step: what else was tried on the CPU"
    report = benchmarking.Report("training_variants", title, packages=("numpy",), quick=arguments.quick)
    engines.keep_freed_memory()
    network = UNet(features=(1, 1))
    chosen = machine.choose("cpu", network, training=True, threads=torch.get_num_threads(), quiet=True)

    def steps(**settings: Any) -> Training:
        usual = {"precision": chosen.precision, "memory_format": chosen.memory_format}
        return without_dropout(Training(width, size, **{**usual, **settings}))

    sgd = {"momentum": 0.99}
    tried: dict[str, Training] = {
        AS_IT_IS: steps(),
        "ReLU that keeps its input": with_relu(steps(), nn.ReLU),
        "ReLU whose gradient is written over the incoming one": with_relu(steps(), Overwriting),
        "SGD, foreach": with_optimizer(steps(), torch.optim.SGD, foreach=True, **sgd),
        "SGD, fused": with_optimizer(steps(), torch.optim.SGD, fused=True, **sgd),
        ADAM: with_optimizer(steps(), torch.optim.Adam),
        "Adam, foreach": with_optimizer(steps(), torch.optim.Adam, foreach=True),
        "Adam, fused": with_optimizer(steps(), torch.optim.Adam, fused=True),
    }
    begun = time.perf_counter()
    compiled = report.peer("torch.compile", lambda: {"torch.compile": _first(steps(compile_mode="default"))})
    compiling = time.perf_counter() - begun
    tried |= {name: step.__self__ for name, step in compiled.items()}
    losses = {}
    for name, training in tried.items():
        training.waits = False
        training.fixed = tried[AS_IT_IS].batch() if name == AS_IT_IS else tried[AS_IT_IS].fixed
        training.seconds.clear()
    for name, training in tried.items():
        losses[name] = float(training()[0]["loss"].detach()) if name not in compiled else losses[AS_IT_IS]
        error = abs(losses[name] - losses[AS_IT_IS]) / losses[AS_IT_IS]
        assert error <= TOLERANCE, f"{name}: its first loss is {error} from that of the step as it is"
    wall, cpu = benchmarking.interleaved_clocks(dict(tried), repetitions)
    for name in tried:
        base = ADAM if name.startswith("Adam") else AS_IT_IS
        ratio = median(a / b for a, b in zip(cpu[name], cpu[base], strict=True))
        extra = {"CPU s": median(cpu[name])}
        report.rows.append(Row(what=name, ratio=ratio, extra=extra, **benchmarking.summary(wall[name])))
    report.notes = [
        f"{width} to {width << 4} features, {size} px, {chosen.precision}, {chosen.layout}. Ratio: CPU time over that "
        f"of the step as it is, of Adam's rows over Adam's. torch.compile took {compiling:.0f} s to its first step.",
    ]
    return report.finish(arguments.json)


def _first(training: Training) -> Callable[..., Any]:
    return training.__call__


if __name__ == "__main__":
    sys.exit(main())
