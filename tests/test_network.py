"""The network's layers, sizes, initialisation, dropout and receptive field, against the paper's text and figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper import network as network_module
from unet_paper.network import Preset, UNet

FEATURES = (4, 8, 16, 32, 64)


def convolution_parameters(incoming: int, outgoing: int, kernel: int) -> int:
    return kernel * kernel * incoming * outgoing + outgoing


def paper_parameters(features: Sequence[int], incoming: int, classes: int, kept_by_last_up: bool) -> int:
    """Parameters counted along Fig. 1."""
    total = 0
    for outgoing in features:
        total += convolution_parameters(incoming, outgoing, 3) + convolution_parameters(outgoing, outgoing, 3)
        incoming = outgoing
    for outgoing in reversed(features[:-1]):
        upsampled = incoming if kept_by_last_up and outgoing == features[0] else outgoing
        total += convolution_parameters(incoming, upsampled, 2)
        total += convolution_parameters(upsampled + outgoing, outgoing, 3)
        total += convolution_parameters(outgoing, outgoing, 3)
        incoming = outgoing
    return total + convolution_parameters(incoming, classes, 1)


@pytest.mark.parametrize(("preset", "expected"), [("paper", 31_030_658), ("phseg_v5", 31_100_354)])
def test_parameters_of_the_papers_network(preset: Preset, expected: int) -> None:
    with torch.device("meta"):
        network = UNet(preset=preset)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == expected
    assert counted == paper_parameters((64, 128, 256, 512, 1024), 1, 2, preset == "phseg_v5")


@pytest.mark.parametrize(("features", "incoming", "classes"), [((3,), 2, 5), ((2, 7), 1, 1), ((5, 4, 3, 6), 3, 4)])
@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
def test_any_channels_classes_and_levels(features: Sequence[int], incoming: int, classes: int, preset: Preset) -> None:
    network = UNet(incoming, classes, features, preset)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == paper_parameters(features, incoming, classes, preset == "phseg_v5")
    levels = len(features)
    height, width = geometry.input_size(5, levels), geometry.input_size(30, levels)
    output = network(torch.rand(2, incoming, height, width))
    assert output.shape == (2, classes, height - 2 * geometry.margin(levels), width - 2 * geometry.margin(levels))


def test_the_figures_sizes_and_its_23_convolutions() -> None:
    network = UNet(features=(1, 1, 1, 1, 1)).eval()
    sides: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    assert network(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    contracting = [570, 568, 282, 280, 138, 136, 66, 64, 30, 28]
    expanding = [56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]
    assert sides == [*contracting, *expanding, 388]
    assert len(sides) == 23


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 570, 572), "input_size=570: .* nearest 556 and 572"),
        ((1, 1, 188, 190), "input_size=190: .* nearest 188 and 204"),
        ((1, 1, 60, 60), "the smallest is 188"),
        ((1, 3, 188, 188), r"must be \(B, 1, H, W\)"),
        ((1, 188, 188), r"must be \(B, 1, H, W\)"),
    ],
)
def test_a_wrong_size_is_refused_before_any_convolution(shape: tuple[int, ...], message: str) -> None:
    network = UNet(features=FEATURES)
    called: list[nn.Module] = []
    for module in network.modules():
        if module is not network:
            module.register_forward_pre_hook(lambda module, _inputs: called.append(module))
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))
    assert called == []
    network(torch.zeros(1, 1, 188, 188))
    assert called  # the hooks do see the layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "phseg_v7"}, "preset='phseg_v7': must be one of paper, phseg_v5"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"features": ()}, r"features=\(\)"),
        ({"features": (4, 0)}, r"features=\(4, 0\)"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"in_channels": 1.5}, "in_channels=1.5: a whole number"),
        ({"in_channels": True}, "in_channels=True"),
        ({"out_channels": None}, "out_channels=None"),
        ({"features": "abc"}, "features='abc': whole numbers"),
        ({"features": (True, 8)}, r"features=\(True, 8\)"),
        ({"features": (8.0, 16)}, r"features=\(8.0, 16\)"),
        ({"features": 8}, "features=8"),
        ({"dropout": "a"}, "dropout='a'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


def test_channels_may_be_numbers_of_numpy() -> None:
    assert UNet(features=np.array([2, 3])).features == (2, 3)


def incoming_nodes(module: nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Inputs that one output neuron is connected to, found by its gradient."""
    probe = torch.ones(1, module.in_channels, 8, 8, requires_grad=True)
    with torch.no_grad():
        weight = torch.ones_like(module.weight)
    operation = nn.functional.conv_transpose2d if isinstance(module, nn.ConvTranspose2d) else nn.functional.conv2d
    output = operation(probe, weight, stride=module.stride[0])
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert probe.grad is not None
    return int(probe.grad.count_nonzero())


@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
def test_weights_are_gaussian_with_std_sqrt_2_over_incoming_nodes(preset: Preset) -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=3, out_channels=16, features=(16, 24, 32, 48, 64), preset=preset)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        normal = (module.weight.detach() / math.sqrt(2 / incoming_nodes(module))).flatten().double()
        samples = normal.numel()
        # five standard errors of the mean, the variance and the fourth moment of samples of a standard Gaussian
        assert abs(float(normal.mean())) < 5 / math.sqrt(samples), name
        assert abs(float(normal.square().mean()) - 1) < 5 * math.sqrt(2 / samples), name
        assert abs(float(normal.pow(4).mean()) - 3) < 5 * math.sqrt(96 / samples), name
        assert module.bias is not None
        assert torch.count_nonzero(module.bias) == 0, name


def test_initialise_draws_anew() -> None:
    network = UNet(features=(4, 8))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network.initialise()
    changed = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert changed == [parameter.dim() == 4 for parameter in network.parameters()]  # weights, not the zero biases


def test_dropout_sits_at_the_end_of_the_contracting_path_and_its_skip_is_dropped_too() -> None:
    torch.manual_seed(0)
    network = UNet(features=FEATURES).train()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) or name == "expanding.0":
            module.register_forward_hook(
                lambda _module, inputs, output, name=name: seen.update({name: (inputs[0].clone(), output.clone())})
            )
    network(torch.rand(1, 1, 220, 220))
    assert list(seen) == ["contracting.3.4", "contracting.4.4", "expanding.0"]
    for name in ("contracting.3.4", "contracting.4.4"):
        given, dropped = (tensor[seen[name][0] > 0] for tensor in seen[name])
        kept = dropped > 0
        torch.testing.assert_close(dropped[kept], 2 * given[kept])
        assert abs(float(kept.double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(kept.numel())
    skip = seen["contracting.3.4"][1]
    cropped = skip[:, :, 4:-4, 4:-4]
    assert torch.equal(seen["expanding.0"][0][:, : FEATURES[3]], cropped)


def test_dropout_is_inactive_in_evaluation_and_can_be_left_out() -> None:
    network = UNet(features=FEATURES).eval()
    image = torch.rand(1, 1, 188, 188)
    assert torch.equal(network(image), network(image))
    without = UNet(features=FEATURES, dropout=0.0)
    without.load_state_dict(network.state_dict())
    assert torch.equal(without.train()(image), network(image))


@pytest.mark.parametrize(("preset", "negative"), [("paper", True), ("phseg_v5", False)])
def test_only_the_released_network_rectifies_its_up_convolutions(preset: Preset, negative: bool) -> None:
    torch.manual_seed(0)
    network = UNet(features=FEATURES, preset=preset).eval()
    for stage, (up, below) in enumerate(zip(network.up, reversed(FEATURES[1:]), strict=True)):
        upsampled = up(torch.randn(1, below, 6, 6))
        assert bool((upsampled < 0).any()) is negative
        last = stage == len(network.up) - 1
        assert upsampled.shape == (1, below if preset == "phseg_v5" and last else below // 2, 12, 12)


def reads(pixel: int, size: int) -> set[int]:
    """Input rows that an output row depends on, followed backwards through every layer."""
    skip_crops = (88, 40, 16, 4)

    def contracted(level: int, rows: set[int]) -> set[int]:
        rows = {row + offset for row in rows for offset in range(5)}
        return contracted(level - 1, {2 * row + half for row in rows for half in (0, 1)}) if level else rows

    def expanded(level: int, rows: set[int]) -> set[int]:
        if level == 4:
            return contracted(4, rows)
        rows = {row + offset for row in rows for offset in range(5)}
        skip = contracted(level, {row + skip_crops[level] for row in rows})
        return skip | expanded(level + 1, {row // 2 for row in rows})

    rows = expanded(0, {pixel})
    assert rows <= set(range(size))
    return rows


@pytest.mark.parametrize("pixel", [(0, 0), (3, 15), (16, 35), (20, 7)])
def test_receptive_field_is_exactly_what_the_layers_reach(
    pixel: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = UNet(features=(1, 1, 1, 1, 1)).double().eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)  # no path cancels another, every ReLU is open
    # a maximum hides three of its four inputs from the gradient, an average shows them
    monkeypatch.setattr(nn.functional, "max_pool2d", nn.functional.avg_pool2d)
    image = torch.ones(1, 1, 220, 220, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, pixel[0], pixel[1]].backward()
    assert image.grad is not None
    seen = np.argwhere(image.grad[0, 0].numpy() != 0)
    rows, columns = (reads(index, 220) for index in pixel)
    assert {(int(row), int(column)) for row, column in seen} == {(row, column) for row in rows for column in columns}
    assert len(rows) > 2 * 92 - 16


def test_predictions_move_with_the_image_by_whole_pooling_steps() -> None:
    torch.manual_seed(0)
    network = UNet(features=FEATURES).double().eval()
    image = torch.rand(1, 1, 236, 236, dtype=torch.float64)
    whole = network(image)
    part = network(image[:, :, 16:, 32:])
    torch.testing.assert_close(part, whole[:, :, 16:, 32:], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("preset", ["paper", "phseg_v5"])
def test_torchscript_predicts_the_same_and_refuses_the_same(preset: Preset, tmp_path: Path) -> None:
    network = UNet(features=FEATURES, preset=preset).eval()
    torch.jit.script(network).save(str(tmp_path / "model.ts"))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    for size in (188, 220):
        image = torch.rand(1, 1, size, 204)
        torch.testing.assert_close(scripted(image), network(image))
    with pytest.raises(torch.jit.Error, match="nearest 556 and 572"):
        scripted(torch.zeros(1, 1, 570, 572))


def test_compiles_without_graph_breaks() -> None:
    network = UNet(features=FEATURES).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for size in (188, 220):
        image = torch.rand(1, 1, size, 204)
        torch.testing.assert_close(compiled(image), network(image))


def sliced_crop(skip: Tensor, like: Tensor) -> Tensor:
    """The crop as an index expression, which the network's must equal."""
    top, left = ((skip.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    return skip[:, :, top : top + like.shape[2], left : left + like.shape[3]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (20, 12), (28, 20)])
def test_the_crop_and_its_gradient_keep_the_memory_format(layout: torch.memory_format, rows: int, columns: int) -> None:
    skip = torch.randn(2, 3, 28, 20).to(memory_format=layout).requires_grad_()
    like = torch.empty(2, 5, rows, columns)
    cropped = network_module._centre_crop(skip, like)
    expected = sliced_crop(skip, like)
    assert torch.equal(cropped, expected)
    assert cropped.is_contiguous(memory_format=layout)
    outside = torch.randn_like(cropped)
    (gradient,) = torch.autograd.grad(cropped, skip, outside, retain_graph=True)
    assert gradient.is_contiguous(memory_format=layout)
    assert torch.equal(gradient, torch.autograd.grad(expected, skip, outside)[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_training_gradients_do_not_depend_on_how_skips_are_cropped(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(layout: torch.memory_format) -> list[Tensor]:
        torch.manual_seed(0)
        network = UNet(features=(3, 5), dropout=0.0).double().to(memory_format=layout)
        called = torch.compile(network, backend="aot_eager", fullgraph=True) if compiled else network
        image = torch.randn(2, 1, 36, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        called(image).square().sum().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    found = gradients(torch.channels_last)
    monkeypatch.setattr(network_module, "_centre_crop", sliced_crop)
    expected = gradients(torch.contiguous_format)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_older_onnx_opsets_with_free_batch_and_sizes(opset: int) -> None:
    network = UNet(features=(4, 8, 16)).eval()
    file = io.BytesIO()
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("image", "pred")}
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 92, 92),),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["image"],
        output_names=["pred"],
        dynamic_axes=axes,
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for shape in ((1, 1, 92, 92), (2, 1, 100, 124), (1, 1, 44, 60)):
        image = torch.rand(shape)
        (result,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(result, network(image).detach().numpy(), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_export_with_free_batch_and_sizes(tmp_path: Path) -> None:
    network = UNet(features=FEATURES).eval()
    dimension = torch.export.Dim
    program = torch.onnx.export(
        network,
        (torch.rand(1, 1, 188, 204),),
        dynamo=True,
        dynamic_shapes={"image": {0: dimension("b"), 2: 16 * dimension("h") + 12, 3: 16 * dimension("w") + 12}},
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for shape in ((1, 1, 188, 204), (2, 1, 220, 188)):
        image = torch.rand(shape)
        (result,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(result, network(image).detach().numpy(), rtol=0, atol=1e-4)
