"""OpenVINO in the place of PyTorch for prediction on a CPU: the same network, built in memory from its weights."""

from __future__ import annotations

import functools
import importlib
import threading
from typing import Any

import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.inferer import unwrapped
from unet_paper.network import UNet

# px that a tile predicts: measured faster than 388 px, and than images of 1024 px in one piece
USUAL_OUTPUT = 772


def prediction_engine(name: str) -> OpenVinoEngine | None:
    """What the inferer takes as its ``engine``.

    Args:
        name: ``"torch"`` or ``"openvino"``.

    Raises:
        ValueError: another name.
    """
    if name not in ("torch", "openvino"):
        raise ValueError(f"engine={name!r}: must be torch or openvino")
    return OpenVinoEngine() if name == "openvino" else None


class OpenVinoEngine:
    """Turns a :class:`unet_paper.network.UNet` into one that OpenVINO runs; done again only when its weights change.

    Raises:
        ImportError: without OpenVINO.
    """

    def __init__(self) -> None:
        _openvino()
        self._known: tuple[Any, OpenVinoNetwork] | None = None
        self._lock = threading.Lock()

    def __call__(self, network: object) -> object:
        """The network in OpenVINO; itself while it is in training mode, whose dropout OpenVINO knows nothing of.

        Raises:
            TypeError: for another network.
            ValueError: for a network on a GPU.
        """
        module = unwrapped(network)
        if not isinstance(module, UNet):
            raise TypeError(
                f"network: engine=openvino builds unet_paper.network.UNet, got {type(module).__name__}; "
                "use --engine torch"
            )
        if module.training:
            return network
        device = module.classifier.weight.device
        if device.type != "cpu":
            raise ValueError(f"engine=openvino: computes on the CPU, the network is on {device}; use --engine torch")
        bfloat16 = torch.is_autocast_enabled("cpu")
        weights = tuple((value.data_ptr(), value._version) for value in module.parameters())
        key = (id(module), weights, bfloat16, torch.get_num_threads())
        with self._lock:
            if self._known is None or self._known[0] != key:
                self._known = key, OpenVinoNetwork(module, bfloat16=bfloat16, threads=torch.get_num_threads())
            return self._known[1]


class OpenVinoNetwork(nn.Module):
    """A copy of a ``UNet`` as it is now, compiled by OpenVINO for every valid size.

    Args:
        network: to copy; dropout is left out, as in evaluation mode.
        bfloat16: compute in bfloat16 where the CPU multiplies it.
        threads: of the CPU.
    """

    def __init__(self, network: UNet, *, bfloat16: bool = False, threads: int = 1) -> None:
        super().__init__()
        self.levels = network.levels
        self.features = network.features
        self.usual_output = USUAL_OUTPUT
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = _core().compile_model(build(network), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._lock = threading.Lock()

    def forward(self, image: Tensor) -> Tensor:
        """Scores (logits), (B, C, H, W) -> (B, K, H - 2 margin, W - 2 margin), float32.

        Raises:
            ValueError: a size that is not valid.
        """
        for size in image.shape[2:]:
            geometry.output_size(size, self.levels)
        with self._lock:  # a request serves one caller at a time
            result = self._request.infer([image.float().contiguous().numpy()], share_inputs=True)
            return torch.from_numpy(result[0].copy())


def build(network: UNet) -> Any:
    """The network as an ``openvino.Model`` with free batch and sizes: :meth:`UNet.forward`, operation by operation.

    Made from the layers and not by tracing, which takes seconds.
    """
    graph = importlib.import_module("openvino.opset13")
    openvino = _openvino()

    def constant(value: Tensor | None, shape: tuple[int, ...]) -> Any:
        assert value is not None
        return graph.constant(value.detach().float().reshape(shape).contiguous().numpy())

    def apply(x: Any, layer: nn.Module) -> Any:
        if isinstance(layer, nn.Sequential):
            for child in layer:
                x = apply(x, child)
            return x
        if isinstance(layer, nn.ReLU):
            return graph.relu(x)
        if isinstance(layer, nn.Dropout):
            return x
        weight: Any = layer.weight
        if isinstance(layer, nn.ConvTranspose2d):
            x = graph.convolution_backprop_data(x, constant(weight, tuple(weight.shape)), [2, 2])
        else:
            x = graph.convolution(x, constant(weight, tuple(weight.shape)), [1, 1], [0, 0], [0, 0], [1, 1])
        bias: Any = layer.bias
        return graph.add(x, constant(bias, (1, -1, 1, 1)))

    def crop(x: Any, by: int) -> Any:
        return graph.slice(x, *(constants([value, value]) for value in (by, -by, 1)), constants([2, 3]))

    def constants(values: list[int]) -> Any:
        return graph.constant(torch.tensor(values).numpy())

    image = graph.parameter(openvino.PartialShape([-1, network.in_channels, -1, -1]), openvino.Type.f32, name="image")
    x, skips = image, []
    for level, layers in enumerate(network.contracting):
        if level > 0:
            x = graph.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        x = apply(x, layers)
        skips.append(x)
    skips.pop()
    crops = list(geometry.skip_crops(network.levels))
    for up, layers in zip(network.up, network.expanding, strict=True):
        x = apply(x, up)
        x = apply(graph.concat([crop(skips.pop(), crops.pop()), x], 1), layers)
    return openvino.Model([apply(x, network.classifier)], [image], "UNet")


@functools.cache
def _core() -> Any:
    """The one of this process, for good.

    Each sets a stack for signal handlers and frees it when it goes; of two that go in the order they came in, the
    second puts back the freed one of the first, and the next signal, Ctrl-C say, ends the process by a segmentation
    fault.
    """
    return _openvino().Core()


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise ImportError(
            f"engine=openvino: is not installed ({error}); pip install openvino or use --engine torch"
        ) from error
