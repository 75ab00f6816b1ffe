"""Times training steps as the bundle runs them: phases, throughput against width, fraction of the machine's peak.

A step is what `engines.TrainingStep` does with one tile of 572 px, augmentation included; the weight map is computed
once per image and cached. Each width is timed as it runs by default and as it ran once: float32, contiguous, skips
cropped by slices, whose gradient is contiguous whatever the layout. Peak is what the machine reaches in the same run
and precision, interleaved: the best of a large matrix product and a bare 256 -> 256 convolution, forward or with its
gradients. All cores that the process may use; wall and CPU time.
"""

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from types import SimpleNamespace
from typing import Any

import benchmarking
import torch
from benchmark_weight_map import made_up_cells
from benchmarking import Row
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.transforms import Compose, NormalizeIntensityd
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from unet_paper import geometry
from unet_paper import network as network_module
from unet_paper.elastic_deformation import RandElasticDeformationd
from unet_paper.grey_values import RandGreyValuesd
from unet_paper.loss import PixelWeightedCrossEntropy
from unet_paper.network import UNet
from unet_paper.running import engines, machine
from unet_paper.weight_map import WeightMap

PAPER, NARROW = 64, 16
WIDTHS = (8, NARROW, 32, PAPER)
# of the CPU time that a step once took, by width: on CPUs that multiply bfloat16, and on others
TIME_GOALS = {True: {NARROW: 0.33, 32: 0.26, PAPER: 0.20}, False: {32: 0.85}}
# of the throughput of a bare convolution with its gradients, in the same precision
CONVOLUTION_GOAL = 0.60
# relative: of the loss and of all gradients together
TOLERANCE, BFLOAT16_TOLERANCE = 1e-4, 0.05
LEARNING = "convolution 256 -> 256, forward and both gradients"
PHASES = {
    IterationEvents.FORWARD_COMPLETED: "forward",
    IterationEvents.LOSS_COMPLETED: "loss",
    IterationEvents.BACKWARD_COMPLETED: "backward",
    IterationEvents.MODEL_COMPLETED: "optimiser",
}
NO_BFLOAT16 = "this CPU multiplies in no 16-bit format; bfloat16 would be converted to float32 and back"


class Training:
    """Training steps of one network on one made-up image; a call is a step and notes the seconds of its phases."""

    def __init__(
        self,
        width: int,
        size: int = 572,
        *,
        device: str = "cpu",
        precision: engines.Precision = "float32",
        memory_format: torch.memory_format = torch.contiguous_format,
        compile_mode: str | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.macs = step_macs(width, size)
        self.seconds: list[dict[str, float]] = []
        network = UNet(features=features(width)).to(self.device, memory_format=memory_format)
        network = network if compile_mode is None else torch.compile(network, mode=compile_mode)
        self.engine: Any = SimpleNamespace(
            state=SimpleNamespace(device=self.device, output=None),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.99),
            inferer=SimpleInferer(),
            loss_function=PixelWeightedCrossEntropy(),
            fire_event=lambda event: self._mark(PHASES[event]),
        )
        self.update = engines.TrainingStep(precision)
        instances = torch.from_numpy(made_up_cells(100))[None]
        label, weight = WeightMap()(instances)
        image = 0.3 + 0.4 * label + 0.05 * torch.randn(instances.shape)
        self.cached = {
            "image": image.to(self.device),
            "label": torch.as_tensor(label, device=self.device),
            "weight": torch.as_tensor(weight, device=self.device),
        }
        self.augmentation = Compose(
            [
                RandElasticDeformationd(input_size=size, output_size=geometry.output_size(size)),
                RandGreyValuesd(),
                NormalizeIntensityd("image", subtrahend=0.5, divisor=0.2),
            ]
        ).set_random_state(seed=0)
        self.fixed: dict[str, Tensor] | None = None
        self.waits = True

    def _mark(self, phase: str) -> None:
        if not self.waits:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[-1][phase] = now - self._last
        self._last = now

    def batch(self) -> dict[str, Tensor]:
        return {key: value[None] for key, value in self.augmentation(self.cached).items()}

    def __call__(self) -> dict[str, Tensor]:
        self.seconds.append({})
        self._last = time.perf_counter()
        batch = self.batch() if self.fixed is None else self.fixed
        self._mark("augmentation")
        return self.update(self.engine, batch)


def features(width: int) -> list[int]:
    return [width << level for level in range(5)]


def step_macs(width: int, size: int) -> int:
    """Multiplications of a training step: the forward pass, and twice as many for gradients of input and weights.

    The image needs no gradient: the first convolution counts twice only.
    """
    macs: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pixels = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        macs.append(module.weight.numel() * pixels.shape[2] * pixels.shape[3])

    network = UNet(features=features(width)).to("meta")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    network(torch.empty(1, 1, size, size, device="meta"))
    return 3 * sum(macs) - macs[0]


def assert_accurate(device: str, precision: engines.Precision, tolerance: float) -> float:
    """Largest relative error of loss and gradients of a small network, against float64 on the CPU.

    Raises:
        AssertionError: where it is above the tolerance.
    """
    training = Training(8, 204, device=device, precision=precision)
    training.engine.optimizer.param_groups[0]["lr"] = 0.0
    network: nn.Module = training.engine.network
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    (output,) = training()
    found = torch.cat([value.grad.flatten().double().cpu() for value in network.parameters()])
    reference = UNet(features=features(8), dropout=0.0).double()
    reference.load_state_dict({name: value.double().cpu() for name, value in network.state_dict().items()})
    label, weight = (output[key].cpu() for key in ("label", "weight"))
    loss = training.engine.loss_function(reference(output["image"].double().cpu()), label, weight)
    loss.backward()
    expected = torch.cat([value.grad.flatten() for value in reference.parameters()])
    errors = (
        float((found - expected).norm() / expected.norm()),
        abs(output["loss"].item() - loss.item()) / loss.item(),
    )
    assert max(errors) <= tolerance, f"{device}, {precision}: {errors}, at most {tolerance} is right"
    return max(errors)


def sliced_crop(skip: Tensor, like: Tensor) -> Tensor:
    """The crop of a skip as it once was."""
    top, left = ((skip.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    return skip[:, :, top : top + like.shape[2], left : left + like.shape[3]]


def as_it_once_was(training: Training) -> Callable[[], object]:
    """A step whose skips are cropped by slices."""

    def step() -> None:
        now, network_module._centre_crop = network_module._centre_crop, sliced_crop
        try:
            training()
        finally:
            network_module._centre_crop = now

    return step


def peaks(device: str, dtype: torch.dtype, quick: bool) -> dict[str, tuple[Callable[[], object], float]]:
    """What shows a machine's peak: name to (call, its FLOP)."""
    size, side = (512, 16) if quick else (2048 if device == "cpu" else 8192, 54)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    convolution = nn.Conv2d(256, 256, 3).to(device, dtype)
    channels = torch.randn(1 if device == "cpu" else 16, 256, side + 2, side + 2, device=device, dtype=dtype)
    learning = channels.clone().requires_grad_()
    flop = 2.0 * len(channels) * convolution.weight.numel() * side**2

    def convolve() -> None:
        with torch.no_grad():
            convolution(channels)

    def learn() -> None:
        result = convolution(learning)
        torch.autograd.grad(result, [learning, convolution.weight], torch.ones_like(result))

    name = str(dtype).removeprefix("torch.")
    return {
        f"matrix product {size} x {size}, {name}": (lambda: matrix @ matrix, 2.0 * size**3),
        f"convolution 256 -> 256, {name}": (convolve, flop),
        f"{LEARNING}, {name}": (learn, 3 * flop),
    }


def cpu_rows(quick: bool, repetitions: int) -> Iterator[tuple[Row, Training | None]]:
    """Interleaved: a step of every width by default and as it once was, and what shows the peak."""
    widths, size = ((2, 4), 188) if quick else (WIDTHS, 572)
    chosen = machine.choose("cpu", UNet(features=(1, 1)), training=True, threads=torch.get_num_threads(), quiet=True)
    precisions = dict.fromkeys((chosen.precision, "float32"))
    steps: dict[str, Training] = {}
    once: dict[str, Callable[[], object]] = {}
    widths_of: dict[str, int] = {}
    for width in widths:
        shown = f"{width}..{width << 4} features"
        name = f"{shown}, {chosen.precision}, {chosen.layout}: default"
        steps[name] = Training(width, size, precision=chosen.precision, memory_format=chosen.memory_format)
        widths_of[name] = width
        once[f"{shown}, float32, contiguous, sliced crops: as it once was"] = as_it_once_was(Training(width, size))
    bare: dict[str, tuple[Callable[[], object], float]] = {}
    for precision in precisions:
        bare |= peaks("cpu", getattr(torch, precision), quick)
    calls: dict[str, Callable[[], object]] = {}
    for (name, step), (name_once, step_once) in zip(steps.items(), once.items(), strict=True):
        calls |= {name_once: step_once, name: step}
    calls |= {name: call for name, (call, _) in bare.items()}
    wall, cpu = benchmarking.interleaved_clocks(calls, repetitions)
    rates = {name: work / median(wall[name]) for name, (_, work) in bare.items()}
    for name in calls:
        training = steps.get(name)
        group = "CPU: one step (ratio: fraction of the peak)"
        row = Row(what=name, group=group, **benchmarking.summary(wall[name]), extra={"CPU s": median(cpu[name])})
        if name not in once:
            work = bare[name][1] if training is None else 2.0 * training.macs
            precision = "bfloat16" if "bfloat16" in name else "float32"
            rate = work / median(wall[name])
            row.ratio = rate / max(value for other, value in rates.items() if other.endswith(precision))
            row.extra["GFLOP/s"] = rate / 1e9
        yield row, training
    for name, name_once in zip(steps, once, strict=True):
        ratios = [now / then for now, then in zip(cpu[name], cpu[name_once], strict=True)]
        row = Row(what=name, group="CPU time over that as it once was", ratio=median(ratios))
        goal = TIME_GOALS[benchmarking.has_bfloat16()].get(widths_of[name])
        if goal is not None:
            row.at_most(goal)
        yield row, None
    name, training = list(steps.items())[-1]
    rate = 2.0 * training.macs / median(wall[name])
    row = Row(what=f"{name} / {LEARNING}", group="Throughput over that of a bare convolution in the same precision")
    row.ratio = rate / rates[f"{LEARNING}, {chosen.precision}"]
    row.at_least(CONVOLUTION_GOAL)
    yield row, None


def phase_rows(name: str, training: Training) -> Iterator[Row]:
    """What the time of a step is spent on."""
    steps = training.seconds[1:]  # the first one warmed up
    whole = median(sum(step.values()) for step in steps)
    for phase in steps[0]:
        seconds = [step[phase] for step in steps]
        yield Row(
            what=phase,
            group=f"Phases of a step, {name} (ratio: share of the step)",
            ratio=median(seconds) / whole,
            **benchmarking.summary(seconds),
        )


def operator_rows(name: str, training: Training) -> Iterator[Row]:
    """Operators that a step on the CPU spends its time in."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        training()
    operators = sorted(profiled.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
    whole = sum(entry.self_cpu_time_total for entry in operators)
    for entry in operators[:8]:
        yield Row(
            what=f"`{entry.key}`, {entry.count} calls",
            group=f"Operators of a step, {name} (ratio: share of the step, one run under the profiler)",
            ratio=entry.self_cpu_time_total / whole,
        )


def weight_map_row(training: Training, repetitions: int) -> Row:
    instances = torch.from_numpy(made_up_cells(100))[None]
    times = benchmarking.interleaved({"": lambda: WeightMap()(instances)}, repetitions)[""]
    whole = median(sum(step.values()) for step in training.seconds[1:])
    return Row(
        what="weight map of 512 x 512 px, 100 cells: once per image and run",
        group="Weight map (ratio: of the time of the widest network's step)",
        ratio=median(times) / whole,
        **benchmarking.summary(times),
    )


def throughput(found: list[tuple[Row, Training | None]], size: int) -> dict[str, Any]:
    """The plot of steps per second against width, beside the limit that the peak sets."""
    steps = [(row, training) for row, training in found if training is not None]
    measured, limit = [], []
    for row, training in steps:
        assert training is not None
        assert row.median_s is not None
        assert row.ratio is not None
        width = int(row.what.split("..")[0])
        measured.append([width, 1 / row.median_s])
        limit.append([width, 1 / (row.median_s * row.ratio)])
    lines = {"training steps by default": measured, "limit: the step's multiplications at the measured peak": limit}
    title = f"Training on the CPU, tiles of {size} px, batch of one"
    return {
        "title": title,
        "x": "features of the first level",
        "panels": [{"y": "steps per second", "lines": lines}],
    }


def main() -> int:
    arguments = benchmarking.parse_arguments(__doc__, threads=machine.own_cores())
    quick, repetitions = arguments.quick, 2 if arguments.quick else 3
    report = benchmarking.Report("training", "Training step", packages=("monai", "numpy"), quick=quick)
    error = assert_accurate("cpu", "float32", TOLERANCE)
    engines.keep_freed_memory()
    found = list(cpu_rows(quick, repetitions))
    report.rows += [row for row, _ in found]
    if not benchmarking.has_bfloat16():
        report.rows.append(Row(what="bfloat16", group="CPU: goals in bfloat16", failed=NO_BFLOAT16, known=True))
    steps = [(row, training) for row, training in found if training is not None]
    for row, training in steps[1::2]:
        report.rows += phase_rows(row.what, training)
        report.rows += operator_rows(row.what, training)
    report.rows.append(weight_map_row(steps[-1][1], repetitions))
    steps[-1][0].accuracy = f"{error:.1e}"
    if not torch.cuda.is_available():
        none = "this machine has none; `make benchmark-gpu` measures one and adds it to this page"
        report.rows.append(Row(what="GPU", group="GPU", failed=none, known=True))
    report.series["training"] = throughput(found, 188 if quick else 572)
    report.notes = [
        f"{benchmarking.onednn_kernels('channels_last')}. {benchmarking.onednn_kernels('contiguous_format')}.",
        "Ratio in the first table: fraction of the peak measured in the same run and precision. Accuracy: relative "
        f"error of loss and gradients against float64, asserted to be at most {TOLERANCE:g} "
        f"({BFLOAT16_TOLERANCE:g} in bfloat16).",
    ]
    return report.finish(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
