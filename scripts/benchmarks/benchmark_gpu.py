"""Times the paper's network on a GPU: training steps with augmentation, prediction of an image that lies in its memory.

Steps and images follow one another without waiting for the GPU; the host waits at the end only. Peak is what the GPU
reaches in the same run: the best of a large matrix product and a bare 256 -> 256 convolution in bfloat16.
"""

import sys
from collections.abc import Callable, Iterator
from statistics import median

import benchmarking
import torch
from benchmark_training import BFLOAT16_TOLERANCE, PAPER, Training, assert_accurate, features, peaks
from benchmarking import Row

from unet_paper.network import UNet
from unet_paper.running import machine

STEPS_PER_S, PREDICTION_S = 150.0, 2e-3
TOLERANCE = 0.05  # of the largest score, bfloat16 against float32


def training_rows(quick: bool) -> Iterator[Row]:
    """Steps of the paper's network, one after the other."""
    steps = 5 if quick else 60
    size, width = (188, 4) if quick else (572, PAPER)
    last = torch.channels_last
    variants = {
        "float32": {},
        "bfloat16": {"precision": "bfloat16"},
        "bfloat16, channels_last": {"precision": "bfloat16", "memory_format": last},
        "bfloat16, channels_last, compiled": {
            "precision": "bfloat16",
            "memory_format": last,
            "compile_mode": "default",
        },
        "bfloat16, channels_last, CUDA graphs": {
            "precision": "bfloat16",
            "memory_format": last,
            "compile_mode": "reduce-overhead",
        },
    }
    peak = 0.0
    for name, (call, work) in peaks("cuda", torch.bfloat16, quick).items():
        seconds = benchmarking.interleaved({name: waiting(call, 10)}, 5)[name]
        peak = max(peak, 10 * work / median(seconds))
    group = "GPU: one step of the paper's network (ratio: steps per second)"
    for name, settings in variants.items():
        training = Training(width, size, device="cuda", **settings)
        training.waits = False
        whole = benchmarking.interleaved({name: waiting(training, steps)}, 3)[name]
        training.fixed = training.batch()
        alone = benchmarking.interleaved({name: waiting(training, steps)}, 3)[name]
        row = Row(what=name, group=group, **benchmarking.summary([seconds / steps for seconds in whole]))
        row.ratio = steps / median(whole)
        row.extra = {
            "share of the network's own time": median(alone) / median(whole),
            "fraction of the measured bfloat16 peak": 2 * training.macs * row.ratio / peak,
        }
        if name.startswith("bfloat16, channels_last"):
            row.at_least(STEPS_PER_S)
        yield row


def waiting(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Calls one after the other, then waits for the GPU."""

    def run() -> None:
        for _ in range(times):
            call()
        torch.cuda.synchronize()

    return run


def prediction_rows(quick: bool) -> Iterator[Row]:
    """The network on one tile: 700 px, which give 516 px of prediction."""
    size, width, times = (188, 4, 3) if quick else (700, PAPER, 50)
    chosen = machine.choose("cuda", UNet(features=(1, 1)), quiet=True)
    torch.manual_seed(0)
    network = UNet(features=features(width)).eval().cuda()
    image = torch.randn(1, 1, size, size, device="cuda")
    with torch.no_grad():
        expected = network(image)
        network.to(memory_format=chosen.memory_format)
        compiled = torch.compile(network, mode="reduce-overhead")
        variants = {f"{chosen.precision}, {chosen.layout}: default": network, "the same, CUDA graphs": compiled}
        for name, module in variants.items():

            def predict(module: Callable[..., torch.Tensor] = module) -> torch.Tensor:
                with torch.autocast("cuda", torch.bfloat16, enabled=chosen.precision == "bfloat16"):
                    return module(image)

            error = float((predict().float() - expected).abs().max() / expected.abs().max())
            assert error <= TOLERANCE, f"{name}: {error} of the largest score, above {TOLERANCE}"
            seconds = benchmarking.interleaved({name: waiting(predict, times)}, 5)[name]
            row = Row(
                what=name,
                group=f"Prediction of {size - 184} px in memory",
                accuracy=f"{error:.1e}",
                **benchmarking.summary([value / times for value in seconds]),
            )
            row.within(PREDICTION_S)
            yield row


def main() -> int:
    """Measure, print and write."""
    arguments = benchmarking.parse_arguments(__doc__)
    if not torch.cuda.is_available():
        print("this machine has no CUDA GPU, or torch is built without CUDA: nothing to measure", file=sys.stderr)
        return 1
    report = benchmarking.Report("gpu", "GPU", packages=("monai",), quick=arguments.quick)
    error = assert_accurate("cuda", "bfloat16", BFLOAT16_TOLERANCE)
    report.rows += training_rows(arguments.quick)
    report.rows[-1].accuracy = f"{error:.1e}"
    report.rows += prediction_rows(arguments.quick)
    report.notes.append(
        f"Goals are those of one H100. CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}."
    )
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
