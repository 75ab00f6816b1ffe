"""Times the network's forward pass, 572 -> 388 px, on the CPU: layouts and precisions, beside a bare convolution.

The paper's network needs 150.4 G multiplications for a tile. What the machine can do at most is what a bare 256 -> 256
convolution reaches in the same run. Peers: OpenVINO and ONNX Runtime running the same network; MONAI's BasicUNet, the
nearest thing to a U-Net of this width that installs from the registry beside MONAI.
"""

import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmarking
import torch
from benchmarking import Call, Row
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.network import UNet
from unet_paper.release import export
from unet_paper.running import checkpoint, machine, openvino_engine

PAPER = 64
TIME_GOAL, PEAK_GOAL, OPENVINO_GOAL = 0.38, 0.60, 1.05
NO_BFLOAT16 = "this CPU multiplies in no 16-bit format; bfloat16 would be converted to float32 and back"
OURS, CHANNELS_LAST, BFLOAT16 = "ours, float32", "ours, float32, channels_last", "ours, bfloat16, channels_last"
OPENVINO = "OpenVINO, float32, the same network by its own converter"
OPENVINO_BFLOAT16 = "OpenVINO, bfloat16, the same network by its own converter"
ONNX = "ONNX Runtime, float32, the same network as export.yaml writes it"
DEFAULT = "ours, default settings"
BARE, BARE_BFLOAT16 = "bare 256 -> 256 convolution", "bare 256 -> 256 convolution, bfloat16"
# of the largest score
TOLERANCES = {CHANNELS_LAST: 1e-4, BFLOAT16: 0.05, OPENVINO: 1e-4, OPENVINO_BFLOAT16: 0.05, ONNX: 1e-4, DEFAULT: 0.05}


def multiplications(network: nn.Module, image: Tensor) -> int:
    """Multiplications of all convolutions in one forward pass."""
    found = [0]

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        # each output pixel of an up-convolution of stride 2 meets one tap per input channel
        taps = 1 if isinstance(module, nn.ConvTranspose2d) else module.weight[0, 0].numel()
        found[0] += output.numel() * module.in_channels * taps

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    network(image)
    for hook in hooks:
        hook.remove()
    return found[0]


def bare_convolution(scale: int, dtype: torch.dtype) -> tuple[Call, int]:
    """A 256 -> 256 convolution as on the paper's third level, and its multiplications."""
    size = 136 // scale
    last = torch.channels_last
    convolution = nn.Conv2d(256, 256, kernel_size=3).to(dtype, memory_format=last)
    image = torch.randn(1, 256, size, size).to(dtype).contiguous(memory_format=last)
    return lambda: convolution(image), (size - 2) ** 2 * 256 * 256 * 9


def openvino_calls(network: nn.Module, image: Tensor) -> Mapping[str, Call]:
    """The network, traced and converted by OpenVINO itself, on the same number of threads."""
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=image)
    precisions = {OPENVINO: "f32", **({OPENVINO_BFLOAT16: "bf16"} if benchmarking.has_bfloat16() else {})}
    pixels = image.numpy()
    calls: dict[str, Call] = {}
    for name, precision in precisions.items():
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        calls[name] = lambda compiled=compiled: torch.from_numpy(compiled(pixels)[0])
    return calls


def onnx_calls(network: UNet, image: Tensor) -> Mapping[str, Call]:
    """The network, exported as ``export.yaml`` does it, on the same number of threads."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as name:
        weights, file = Path(name) / "weights.pt", Path(name) / "network.onnx"
        checkpoint.save(network.state_dict(), weights)
        export.export_network(network, file, weights, {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    pixels = image.numpy()
    return {ONNX: lambda: torch.from_numpy(session.run(None, {"image": pixels})[0])}


def default_call(network: UNet, image: Tensor) -> Call:
    """The network as inference.yaml runs it on this machine: its engine, precision and layout."""
    chosen = machine.choose("cpu", network, threads=torch.get_num_threads(), quiet=True)
    network = network.to(memory_format=chosen.memory_format)
    engine = openvino_engine.prediction_engine(chosen.engine)

    def predict() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=chosen.precision == "bfloat16"):
            module: Any = engine(network) if engine else network
            scores: Tensor = module(image)
        return scores

    return predict


def main() -> int:
    """Measure, print and write."""
    arguments = benchmarking.parse_arguments(__doc__)
    report = benchmarking.Report(
        "forward", "Forward pass", packages=("monai", "openvino", "onnxruntime"), quick=arguments.quick
    )
    width, size, repetitions = (2, 188, 1) if arguments.quick else (PAPER, 572, 3)
    features = tuple(width << level for level in range(5))
    torch.manual_seed(0)
    network = UNet(features=features).eval()
    image = torch.randn(1, 1, size, size)
    with torch.no_grad():
        work = multiplications(network, image)
        expected = network(image)
        assert expected.shape[-1] == geometry.output_size(size)
        convolution, convolution_work = bare_convolution(4 if arguments.quick else 1, torch.float32)
        basic = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(*features, width)).eval()
        padded = torch.randn(1, 1, size // 16 * 16, size // 16 * 16)
        last = UNet(features=features).eval().to(memory_format=torch.channels_last)
        last.load_state_dict(network.state_dict())
        calls: dict[str, Call] = {
            OURS: lambda: network(image),
            CHANNELS_LAST: lambda: last(image),
            BARE: convolution,
            DEFAULT: default_call(last, image),
        }
        if benchmarking.has_bfloat16():
            calls[BFLOAT16] = lambda: autocast(last, image)
            calls[BARE_BFLOAT16] = bare_convolution(4 if arguments.quick else 1, torch.bfloat16)[0]
        calls |= report.peer("MONAI BasicUNet", lambda: {"MONAI BasicUNet, float32, padded": lambda: basic(padded)})
        calls |= report.peer("OpenVINO", lambda: openvino_calls(network, image))
        if not arguments.quick:  # its export alone takes longer than all the rest
            calls |= report.peer("ONNX Runtime", lambda: onnx_calls(network, image))
        errors: dict[str, float] = {}
        for name, tolerance in TOLERANCES.items():
            if name in calls:
                errors[name] = float((calls[name]() - expected).abs().max() / expected.abs().max())
                assert errors[name] <= tolerance, f"{name}: {errors[name]} of the largest score, above {tolerance}"
        rows = benchmarking.compare(calls, repetitions)
    for name, error in errors.items():
        rows[name].accuracy = f"{error:.1e}"
    for bare, ours in ((BARE, (OURS, CHANNELS_LAST)), (BARE_BFLOAT16, (BFLOAT16,))):
        if bare in rows:
            peak = convolution_work / (rows[bare].median_s or 1)
            rows[bare].extra["of the bare convolution's throughput"] = 1.0
            for name in ours:
                rows[name].extra["of the bare convolution's throughput"] = work / (rows[name].median_s or 1) / peak
    report.rows += rows.values()
    report.rows += goals(rows)
    report.notes.append(
        f"{work / 1e9:.3f} G multiplications, {features[0]} to {features[-1]} features, {size} px. Ratio: time over "
        "that of ours in float32. jvanvugt's U-Net, against which the goal of 0.38 is set, comes from no registry and "
        "cannot be measured here; ours in float32 does the same work and stands in its place. Accuracy: largest "
        "difference from ours in float32, of the largest score, asserted before anything is timed. "
        f"{benchmarking.onednn_kernels('channels_last')}."
    )
    return report.finish(arguments.json)


def autocast(network: nn.Module, image: Tensor) -> Tensor:
    """Scores in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        scores: Tensor = network(image)
    return scores


def goals(rows: Mapping[str, Row]) -> list[Row]:
    """What the best of ours reaches, in rows of their own."""
    found = []
    if BFLOAT16 in rows:
        time = Row(what="bfloat16 / float32, time", group="goals", ratio=rows[BFLOAT16].ratio)
        time.at_most(TIME_GOAL)
        peak = Row(what="bfloat16 / bare convolution in bfloat16, throughput", group="goals")
        peak.ratio = rows[BFLOAT16].extra["of the bare convolution's throughput"]
        peak.at_least(PEAK_GOAL)
        found += [time, peak]
    else:
        found.append(Row(what="bfloat16", group="goals", goal=f"<= {TIME_GOAL}", failed=NO_BFLOAT16, known=True))
    peers = [rows[name].ratio for name in (OPENVINO, OPENVINO_BFLOAT16) if name in rows]
    own = rows[DEFAULT].ratio
    if peers and own is not None:
        row = Row(what="default settings / the faster of OpenVINO, time", group="goals")
        row.ratio = own / min(ratio for ratio in peers if ratio is not None)
        row.at_most(OPENVINO_GOAL)
        found.append(row)
    return found


if __name__ == "__main__":
    sys.exit(main())
