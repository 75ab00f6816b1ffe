"""Packages for BioImage.IO, which Fiji (deepImageJ), ilastik, QuPath, napari and BiaPy run: NAME.zip, format 0.5.

A package holds a :class:`unet_paper.release.mirrored_network.MirroredNetwork` three times: state dict with the one
file of code that it needs, TorchScript, and ONNX. Its format is the oldest that says what we say, and its ONNX the
oldest that holds what we need, since the programs that read them are of any age. https://bioimage.io/docs
"""

import ast
import hashlib
import inspect
import io
import json
import logging
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tifffile
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import unet_paper
from unet_paper import arguments, geometry, magnification, network
from unet_paper.data import phantom
from unet_paper.data.channels import Channel
from unet_paper.inferer import SYMMETRIES
from unet_paper.network import UNet
from unet_paper.release import bioimage_io_card, export, mirrored_network
from unet_paper.release.mirrored_network import BlockSizes, MirroredNetwork, block_sizes
from unet_paper.running import checkpoint
from unet_paper.running.facts import class_names
from unet_paper.running.placement import placed

logger = logging.getLogger(__name__)

# the first that may leave out what only a publication needs, such as a licence
FORMAT = "0.5.5"
# onnxruntime of 2021 reads it
OPSET = 13
WHITE = 255
DESCRIPTION = "rdf.yaml"
CODE = "network.py"
STATE_DICT = "weights.pt"
TORCHSCRIPT = "weights_torchscript.pt"
ONNX = "weights.onnx"
_TEST_SIZE = 256
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644
# of a resized px to so many of the image; and of the magnification that is asked for
_MOST_PX = 8
_CLOSE = 1e-3
# a cell measures as much: said, not refused
_NEAR = 1e-2


def export_package(
    network: UNet,
    path: str | Path,
    ckpt_path: str | Path,
    facts: Mapping[str, Any],
    card: bioimage_io_card.Card,
    expected_sha256: str | None = None,
) -> Path:
    """Load a checkpoint and write it as a package.

    Args:
        network: filled with the checkpoint.
        path: file to write, ``NAME.zip``.
        ckpt_path: weights.
        facts: what they know of their training, as it is used: grey values, magnification, post-processing.
        card: what is said of them.
        expected_sha256: refuse any other checkpoint.

    Returns:
        ``path``.

    Raises:
        ValueError: another suffix, a magnification that is no simple fraction, or as ``checkpoint.load_weights``.
        ImportError: without the packages that write ONNX.
    """
    path = Path(path)
    if path.suffix != ".zip":
        raise ValueError(f"export_path={path}: must end in .zip")
    checkpoint.load_weights(network, ckpt_path, expected_sha256)
    facts = {
        **facts,
        "classes": class_names(facts["classes"], network.classifier.out_channels),
        "magnification": float(fraction(facts["magnification"])),  # by which the package resizes
    }
    wrapped = Wrapped.of(network, facts)
    content = {**_weights(wrapped), **_tests(wrapped, facts), **card.attachments}
    content["unet_paper.json"] = _json({**facts, "weights_sha256": checkpoint.sha256(ckpt_path)})
    content["postprocessing.json"] = _json(facts["cells"])
    content["README.md"] = bioimage_io_card.page(card, facts, wrapped.sizes, wrapped.grey_range).encode()
    content[DESCRIPTION] = _description(wrapped, facts, card, content)
    with placed(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.external_attr = _MODE << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    for missing in card.missing():
        logger.info("%s: to publish it, give %s", path, missing)
    logger.info("%s -> %s", ckpt_path, path)
    return path


@dataclass(frozen=True)
class Wrapped:
    """A network with what prediction does around it, and how it was made."""

    network: MirroredNetwork
    arguments: dict[str, Any]
    sizes: BlockSizes
    grey_range: tuple[float, float]

    @classmethod
    def of(cls, network: UNet, facts: Mapping[str, Any]) -> "Wrapped":
        """Around a network, as its facts say.

        Raises:
            ValueError: a magnification that is no simple fraction, or grey values taken by their logarithm.
        """
        if facts.get("grey_log") is not None:
            raise ValueError(
                f"grey_log={facts['grey_log']}: a package scales grey values in proportion, and these weights know "
                "their logarithm; train with --grey_log null, or hand on model.pt, which unet-paper predict takes"
            )
        scale = fraction(facts["magnification"])
        black = float(facts["grey_minimum"] or 0)
        white = float(facts["grey_maximum"] or WHITE)
        mean, std = (_of_channels(facts[name], network.in_channels) for name in ("grey_mean", "grey_std"))
        views = SYMMETRIES[facts["symmetries"]]
        arguments: dict[str, Any] = {
            "network": {
                "in_channels": network.in_channels,
                "out_channels": network.classifier.out_channels,
                "features": list(network.features),
                "preset": facts["preset"],
                "dropout": 0.0,
            },
            "black": [black + value * (white - black) for value in mean],
            "spread": [value * (white - black) for value in std],
        }
        if scale != 1:
            arguments |= {"shrink": resizing(scale, antialias=True), "enlarge": resizing(1 / scale, antialias=False)}
        if len(views) > 1:
            arguments["views"] = [[turns, int(mirrored)] for turns, mirrored in views]
        wrapped = MirroredNetwork(**arguments).eval()
        wrapped.network.load_state_dict(network.state_dict())
        return cls(wrapped, arguments, block_sizes(network.levels, scale), (black, white))


def fraction(value: float) -> Fraction:
    """A magnification as the simple fraction that it stands for; one that differs by up to a hundredth is said.

    Raises:
        ValueError: if it is none, naming the nearest.

    >>> fraction(0.5), fraction(0.3333), fraction(1.12)
    (Fraction(1, 2), Fraction(1, 3), Fraction(9, 8))
    """
    near = Fraction(value).limit_denominator(_MOST_PX)
    if near == 0 or abs(near - Fraction(value)) > _NEAR * value:
        near = near or Fraction(1, _MOST_PX)
        raise ValueError(
            f"magnification={value}: a package resizes by a fraction of small numbers; "
            f"--magnification {float(near):.4g} is the nearest, {near}"
        )
    if abs(near - Fraction(value)) > _CLOSE * value:
        logger.warning("magnification=%s: the package resizes by %s, %.4g, in its place", value, near, float(near))
    return near


def resizing(scale: Fraction, *, antialias: bool) -> dict[str, Any]:
    """Arguments of :class:`mirrored_network.Resizing` that resize as :mod:`unet_paper.magnification` does.

    Args:
        scale: of the result.
        antialias: as of ``magnification.resize_taps``.

    >>> resizing(Fraction(1, 2), antialias=True)["weights"]
    [[0.125, 0.375, 0.375, 0.125]]
    """
    resized, period = scale.numerator, scale.denominator
    # the weights of a period in the middle of a long axis; all periods are alike
    before = 4 * _MOST_PX
    taps = magnification.resize_taps(
        2 * before * period, 2 * before * resized, before * resized, (before + 1) * resized, antialias=antialias
    )
    sources = taps.sources - before * period
    first = min(0, int(sources.min()))
    weights = torch.zeros(resized, max(period, int(sources.max()) + 1) - first)
    for places, shares in zip(sources, taps.weights, strict=True):
        weights[torch.arange(resized), places - first] += shares
    used = int(weights.any(dim=0).nonzero().max()) + 1
    return {"weights": weights[:, :used].tolist(), "first": first, "period": period, "renormalise": antialias}


def code() -> str:
    """The one file of Python that builds the network, from this package's modules: it needs PyTorch alone."""
    parts = [
        f'"""The network of this package, from unet_paper {unet_paper.__version__}, Apache-2.0."""\n\nimport types\n'
    ]
    for module in (arguments, geometry, network, mirrored_network):
        parts.append(f"\n# --- {module.__name__}\n\n{_without_own_imports(module)}")
        if module is geometry:
            parts.append("\n\ngeometry = types.SimpleNamespace(**globals())\n")
    return "".join(parts)


def _without_own_imports(module: ModuleType) -> str:
    source = inspect.getsource(module)
    dropped: set[int] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == unet_paper.__name__:
            dropped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return "".join(line for number, line in enumerate(source.splitlines(keepends=True), 1) if number not in dropped)


def _weights(wrapped: Wrapped) -> dict[str, bytes]:
    export.required("onnx", "unet_paper[onnx]")
    state, scripted = io.BytesIO(), io.BytesIO()
    torch.save({name: _stored(value) for name, value in wrapped.network.state_dict().items()}, state)
    example = torch.zeros(1, wrapped.network.network.in_channels, *[wrapped.sizes.smallest] * 2)
    axes = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # of both exporters, that others take their place; of tracing, that sizes are remembered: they are traced too
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(wrapped.network), scripted)
        torch.onnx.export(
            wrapped.network,
            (example,),
            file := Path(folder) / ONNX,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["probability"],
            dynamic_axes={"image": axes, "probability": axes},
            dynamo=False,
        )
        onnx = file.read_bytes()
    return {CODE: code().encode(), STATE_DICT: state.getvalue(), TORCHSCRIPT: scripted.getvalue(), ONNX: onnx}


def _stored(value: Tensor) -> Tensor:
    """In half precision if that is exact, as it is for weights of a release."""
    half = value.half()
    return half if half.float().equal(value) else value


def _tests(wrapped: Wrapped, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """Test tensors and a cover: a phantom with the grey values of the training images, and what is predicted."""
    size = _test_side(wrapped)
    kind = phantom.em_stack if facts["cells_preset"] == "isbi2012" else phantom.touching_cells
    pixels = kind(1, size, seed=0)[0][0].astype(np.float64)
    standard = (pixels - pixels.mean()) / pixels.std()
    model = wrapped.network
    grey = model.black.numpy() + standard * model.spread.numpy()
    image = torch.from_numpy(np.clip(np.rint(grey), *wrapped.grey_range).astype(np.float32))[None]
    with torch.no_grad():
        probability = model(image)
    return {
        "test_input.npy": _npy(image.numpy()),
        "test_output.npy": _npy(probability.numpy()),
        "sample_input.tif": _tiff(image.numpy()[0]),
        "sample_output.tif": _tiff(probability.numpy()[0]),
        "cover.png": _cover(standard, probability[0, 1:].sum(0).numpy()),
    }


def _cover(image: NDArray[np.float64], probability: NDArray[np.float32]) -> bytes:
    """Image and probability side by side, 2:1."""
    low, high = np.percentile(image, (1, 99))
    pictures = np.hstack([np.clip((image - low) / (high - low), 0, 1), probability])
    target = io.BytesIO()
    Image.fromarray(np.rint(255 * pictures).astype(np.uint8)).resize((1024, 512)).save(target, "PNG")
    return target.getvalue()


def _description(
    wrapped: Wrapped, facts: Mapping[str, Any], card: bioimage_io_card.Card, content: Mapping[str, bytes]
) -> bytes:
    """``rdf.yaml``: what the other files are, with their checksums."""

    def file(name: str, **further: Any) -> dict[str, Any]:
        return {"source": name, "sha256": hashlib.sha256(content[name]).hexdigest(), **further}

    made_by = {"pytorch_version": torch.__version__.split("+")[0]}
    code_file = file(CODE, callable=MirroredNetwork.__name__, kwargs=wrapped.arguments)
    black, white = wrapped.grey_range
    described = {
        "format_version": FORMAT,
        "type": "model",
        **card.described(),
        # format 0.5.5 knows no checksums of these
        "documentation": "README.md",
        "covers": ["cover.png"],
        "attachments": [file(name) for name in ("postprocessing.json", "unet_paper.json", *card.attachments)],
        "inputs": [
            {
                "id": "image",
                "description": f"grey values, {black:g} is black and {white:g} white",
                "axes": _axes(wrapped, facts, _channels(facts["channel"], len(wrapped.arguments["black"]))),
                "data": {"type": "float32", "range": [black, white]},
                "test_tensor": file("test_input.npy"),
                "sample_tensor": file("sample_input.tif"),
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "description": "of each class; that of a pixel adds up to 1",
                "axes": _axes(wrapped, facts, list(facts["classes"]), output=True),
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": file("test_output.npy"),
                "sample_tensor": file("sample_output.tif"),
            }
        ],
        "weights": {
            "pytorch_state_dict": file(STATE_DICT, architecture=code_file, **made_by),
            "torchscript": file(TORCHSCRIPT, parent="pytorch_state_dict", **made_by),
            "onnx": file(ONNX, parent="pytorch_state_dict", opset_version=OPSET),
        },
    }
    return yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=120).encode()


def _test_side(wrapped: Wrapped) -> int:
    """Side of the test image, px."""
    smallest, step, _ = wrapped.sizes
    return smallest + step * max(0, -(-(_TEST_SIZE - smallest) // step))


def _scale(pixel_size: float, side: int) -> float:
    """Side of a pixel, with fewer digits where a side times and divided by it would be another side.

    So bioimageio checks sizes; with the 24 bits of a float32 the product is exact.

    Args:
        pixel_size: micrometres.
        side: of the test image, px.

    >>> 480 * 0.189999118 / 0.189999118 == 480, _scale(0.65, 480)
    (False, 0.65)
    >>> scale = _scale(0.189999118, 480)
    >>> 480 * scale / scale == 480, round(scale, 7)
    (True, 0.1899991)
    """
    return float(pixel_size) if side * pixel_size / pixel_size == side else float(np.float32(pixel_size))


def _axes(
    wrapped: Wrapped, facts: Mapping[str, Any], channels: list[str], *, output: bool = False
) -> list[dict[str, Any]]:
    smallest, step, halo = wrapped.sizes
    pixel = (
        {"unit": "micrometer", "scale": _scale(facts["pixel_size"], _test_side(wrapped))} if facts["pixel_size"] else {}
    )
    space = [
        {"type": "space", "id": name, **pixel}
        | (
            {"size": {"tensor_id": "image", "axis_id": name}, "halo": halo}
            if output
            else {"size": {"min": smallest, "step": step}}
        )
        for name in ("y", "x")
    ]
    # which must be identifiers; the page has them as they are
    names = [name if name.isidentifier() else re.sub(r"\W", "_", f"_{name}") for name in channels]
    return [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space]


def _channels(channel: Channel | None, count: int) -> list[str]:
    """Names of the input's channels: those by which they are taken from an image, or numbers.

    >>> _channels(["DAPI", "GFP"], 2), _channels([2, 0], 2), _channels(None, 1)
    (['DAPI', 'GFP'], ['channel_2', 'channel_0'], ['channel_0'])
    """
    taken = [channel] if isinstance(channel, int | str) else list(channel or range(count))
    return [f"channel_{one}" if str(one).isdecimal() else str(one) for one in taken]


def _of_channels(value: Any, channels: int) -> list[float]:
    found = [float(number) for number in value] if isinstance(value, list | tuple) else [float(value)]
    return found if len(found) == channels else found * channels


def _tiff(channels: NDArray[np.float32]) -> bytes:
    """An image (C, H, W) as Fiji opens it."""
    target = io.BytesIO()
    tifffile.imwrite(target, channels, photometric="minisblack", imagej=True, metadata={"axes": "CYX"})
    return target.getvalue()


def _npy(array: NDArray[np.float32]) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=False)
    return target.getvalue()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
