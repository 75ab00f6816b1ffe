"""Networks that run without this package: TorchScript, ONNX and TensorRT files, with what their input must look like.

An exported file is silent about grey values and sizes: fed with other ones it predicts nonsense without an error. So
every file carries its facts (``FACTS`` as an extra file of TorchScript, ``metadata_props`` of ONNX), and the loaders
here, which ``inference_torchscript.yaml``, ``inference_onnx.yaml`` and ``inference_trt.yaml`` use, compare them with
the config.
"""

import importlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unet_paper import geometry
from unet_paper.network import UNet
from unet_paper.running import checkpoint
from unet_paper.running.facts import USUAL, KnownFacts

logger = logging.getLogger(__name__)

FACTS = "unet_paper.json"
MONAI_METADATA = "metadata.json"
# What MONAI's exports leave: the config that they were given, named after it.
_MONAI_CONFIG = "inference.json"
_REMEDY = "export with the overlay export, or take the file unchecked with --expected_facts '{}'"


def network_facts(network: UNet) -> dict[str, Any]:
    """What a caller must know of a network that is only a file: channels, levels and sizes.

    Returns:
        ``in_channels``, ``out_channels``, ``features``, ``levels``, ``scaling`` (words), ``smallest_input`` and
        ``input_step`` (valid sizes of a side are the smallest plus multiples of the step, px), ``margin`` (px that
        every side of the output lacks).

    >>> facts = network_facts(UNet())
    >>> facts["smallest_input"], facts["input_step"], facts["margin"]
    (188, 16, 92)
    """
    return {
        "in_channels": network.in_channels,
        "out_channels": network.classifier.out_channels,
        "features": list(network.features),
        "levels": network.levels,
        "scaling": "grey_minimum to grey_maximum (null: white of the file, 255 or 65535 by its dtype) becomes 0 to 1; "
        "with grey_log k then log(1 + value / k) / log(1 + 1 / k); then (value - grey_mean) / grey_std",
        "smallest_input": geometry.input_size(1, network.levels),
        "input_step": geometry.pooling_factor(network.levels),
        "margin": geometry.margin(network.levels),
    }


def export_network(
    network: UNet,
    path: str | Path,
    ckpt_path: str | Path,
    facts: Mapping[str, Any],
    expected_sha256: str | None = None,
) -> Path:
    """Load a checkpoint and write the network as TorchScript or ONNX, for any valid size and batch.

    Args:
        network: filled with the checkpoint, and put into evaluation mode.
        path: file to write; ``.ts`` is TorchScript, ``.onnx`` ONNX.
        ckpt_path: weights.
        facts: of the data that the network was trained on, such as ``grey_mean`` and ``grey_std``; carried by the
            file together with ``network_facts`` and the checksum of the weights.
        expected_sha256: refuse any other checkpoint.

    Returns:
        ``path``.

    Raises:
        ValueError: another suffix, or as ``checkpoint.load_weights``.
        ImportError: ONNX without the packages that write it.
    """
    path = Path(path)
    writers = {".ts": _write_torchscript, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise ValueError(f"export_path={path}: must end in {' or '.join(writers)}")
    checkpoint.load_weights(network, ckpt_path, expected_sha256)
    carried = {**facts, **network_facts(network), "weights_sha256": checkpoint.sha256(ckpt_path)}
    network.facts = ""  # settings may have come before those of the weights; what holds is carried
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with torch.no_grad():
        writers[path.suffix](network.eval(), part, carried)
    os.replace(part, path)
    logger.info("%s -> %s", ckpt_path, path)
    return path


def embedded_facts(path: str | Path) -> dict[str, Any]:
    """Facts that an exported file carries; nothing in it is run.

    Args:
        path: file of ``export_network`` or of MONAI's ``ckpt_export`` (then what its weights knew).

    Returns:
        The facts, empty if it carries none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an exported network.
        ImportError: ONNX without onnxruntime.
    """
    path = Path(path)
    _check_file(path)
    if path.suffix == ".onnx":
        return _session_facts(_session(path))
    try:
        with zipfile.ZipFile(path) as archive:
            extra = {name.rsplit("/extra/")[-1]: name for name in archive.namelist() if "/extra/" in name}
            if FACTS in extra:
                return dict(json.loads(archive.read(extra[FACTS])))
            config = json.loads(archive.read(extra[_MONAI_CONFIG])) if _MONAI_CONFIG in extra else {}
    except zipfile.BadZipFile as error:
        raise ValueError(f"ckpt_path={path}: is no TorchScript file ({error})") from error
    # what its config takes from the weights, these have told the network itself
    literal = {name: value for name, value in config.items() if not str(value).startswith(("$", "@"))}
    facts = {**literal, **_scripted_facts(path)}
    return {**facts, "levels": len(facts["features"])} if "features" in facts else facts


def known_facts(path: str | Path, expected_sha256: str | None = None) -> KnownFacts:
    """``embedded_facts`` for a config: asking for one that the file does not carry says which setting to give.

    Args:
        path: exported network.
        expected_sha256: refuse any other file.
    """
    _check_file(path, expected_sha256)
    return KnownFacts(
        f"ckpt_path={path}", {**USUAL, "preset": None, **_shape_facts(Path(path)), **embedded_facts(path)}
    )


def check_facts(path: str | Path, facts: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare the facts of an exported file with those of the config that is going to use it.

    Args:
        path: the file, for the error.
        facts: what it carries.
        expected: what it must carry, by name.

    Raises:
        ValueError: naming the first fact that the file lacks, or that differs.

    >>> check_facts("hela.onnx", {"levels": 5, "grey_mean": 0.5}, {"levels": 5})
    """
    for name, value in expected.items():
        if name not in facts:
            raise ValueError(f"ckpt_path={path}: carries no {name}; {_REMEDY}")
        if facts[name] != value:
            raise ValueError(
                f"ckpt_path={path}: was exported with {name} {facts[name]}, the config has {value}; "
                f"set --{name} {facts[name]} or name another file with --ckpt_path"
            )


def load_torchscript(path: str | Path, expected: Mapping[str, Any], expected_sha256: str | None = None) -> nn.Module:
    """Network of a TorchScript file. Such a file holds code: load only files that you trust.

    Args:
        path: file of ``export_network`` or of MONAI's ``ckpt_export``.
        expected: facts that it must carry, by name.
        expected_sha256: refuse any other file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or other facts.
    """
    _check_file(path, expected_sha256)
    facts = embedded_facts(path)
    check_facts(path, facts, expected)
    _say_if_silent(path, facts)
    network: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    _say(path)
    return network.eval()


def load_onnx(
    path: str | Path, levels: int, expected: Mapping[str, Any], expected_sha256: str | None = None
) -> "OnnxNetwork":
    """Network of an ONNX file, run by onnxruntime: on CUDA where its GPU build is installed, else on the CPU.

    Args:
        path: file of ``export_network``, or of MONAI's ``onnx_export`` with dynamic axes.
        levels: resolution levels of the network.
        expected: facts that it must carry, by name.
        expected_sha256: refuse any other file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or other facts.
        ImportError: without onnxruntime.
    """
    _check_file(path, expected_sha256)
    session = _session(path)
    facts = _session_facts(session)
    check_facts(path, facts, expected)
    _say_if_silent(path, facts)
    _say(path)
    return OnnxNetwork(session, levels, facts.get("features"))


def load_tensorrt(
    path: str | Path, tile_size: int, levels: int, expected: Mapping[str, Any], expected_sha256: str | None = None
) -> "FixedSizeNetwork":
    """Network of a TensorRT engine in TorchScript, as MONAI's ``trt_export`` writes it. Load only what you trust.

    Args:
        path: file of ``trt_export``.
        tile_size: height and width in px that the engine was built for.
        levels: resolution levels of the network.
        expected: facts that it must carry, by name.
        expected_sha256: refuse any other file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or other facts.
        ImportError: without Torch-TensorRT.
    """
    # Importing registers the operator that engines are stored as.
    required("torch_tensorrt", "torch-tensorrt for your CUDA, on a machine with an NVIDIA GPU")
    _check_file(path, expected_sha256)
    # MONAI's trt_export leaves the config, and that asks the weights: such facts are theirs, and not in the engine
    carried = embedded_facts(path)
    known = {name: value for name, value in expected.items() if name in carried}
    return FixedSizeNetwork(load_torchscript(path, known, expected_sha256), tile_size, levels)


class OnnxNetwork(nn.Module):
    """An ONNX network in the place of a ``UNet``: tensors in, tensors out.

    Args:
        session: onnxruntime's session; its first input takes (B, C, H, W), its first output gives the scores.
        levels: resolution levels of the network: onnxruntime itself accepts sizes that do not pool.
        features: channels of each level, from which the inferer reckons memory; None: unknown.
    """

    def __init__(self, session: Any, levels: int, features: list[int] | None = None) -> None:
        super().__init__()
        self.levels = levels
        if features is not None:
            self.features = tuple(features)
        self._session = session
        self._input = session.get_inputs()[0].name

    def forward(self, image: Tensor) -> Tensor:
        """Scores (logits), (B, C, H, W) -> (B, K, H - 2 margin, W - 2 margin), on the image's device.

        Raises:
            ValueError: a size that is not valid, or autocast, which does not reach onnxruntime.
        """
        if torch.is_autocast_enabled(image.device.type):
            raise ValueError("precision=bfloat16: an ONNX network computes in float32; use --precision float32")
        for size in image.shape[2:]:
            geometry.output_size(size, self.levels)
        (scores, *_) = self._session.run(None, {self._input: image.float().cpu().numpy()})
        return torch.from_numpy(scores).to(image.device)


class FixedSizeNetwork(nn.Module):
    """A network that takes one size only, in the place of one that takes all smaller ones too.

    Smaller tiles are filled up with zeros below and to the right, and what these reach is cut off again: valid
    convolutions look no further than the margin, so the result is exactly that of the smaller tile.

    Args:
        network: takes (B, C, tile_size, tile_size).
        tile_size: its size in px.
        levels: its resolution levels.
    """

    def __init__(self, network: nn.Module, tile_size: int, levels: int) -> None:
        super().__init__()
        geometry.output_size(tile_size, levels)
        self.network = network
        self.tile_size = tile_size
        self.levels = levels

    def forward(self, image: Tensor) -> Tensor:
        """Scores (logits), (B, C, H, W) -> (B, K, H - 2 margin, W - 2 margin).

        Raises:
            ValueError: a size that is not valid, or larger than ``tile_size``.
        """
        height, width = image.shape[2:]
        if max(height, width) > self.tile_size:
            raise ValueError(
                f"tile of {height} x {width} px: this engine takes {self.tile_size} px; "
                f"use it as the inferer's tile_size, without memory_budget"
            )
        scores: Tensor = self.network(nn.functional.pad(image, (0, self.tile_size - width, 0, self.tile_size - height)))
        return scores[:, :, : geometry.output_size(height, self.levels), : geometry.output_size(width, self.levels)]


def _say_if_silent(path: str | Path, facts: Mapping[str, Any]) -> None:
    if "grey_mean" not in facts:
        logger.warning(
            "ckpt_path=%s: does not say how it was trained, as networks that MONAI exports: grey values, magnification "
            "and post-processing are used as given",
            path,
        )


def _say(path: str | Path) -> None:
    logger.info("weights: %s, sha256 %s", path, checkpoint.sha256(path)[:12])


def _scripted(path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception:  # of an engine whose operators are not there, of an archive of another kind
        return None


def _scripted_facts(path: Path) -> dict[str, Any]:
    """What the weights knew when MONAI's ckpt_export scripted their network; it is an attribute of the network."""
    text = getattr(_scripted(path), "facts", "")
    return dict(json.loads(text)) if text else {}


def _shape_facts(path: Path) -> dict[str, Any]:
    """What an exported network shows of itself."""
    if path.suffix == ".onnx":
        session = _session(path)
        sides = {"in_channels": session.get_inputs()[0].shape[1], "out_channels": session.get_outputs()[0].shape[1]}
        return {name: channels for name, channels in sides.items() if isinstance(channels, int)}
    network = _scripted(path)
    return {} if network is None else checkpoint.architecture(network.state_dict())


def _write_torchscript(network: UNet, path: Path, facts: Mapping[str, Any]) -> None:
    scripted = torch.jit.script(network)
    told = json.dumps(facts, indent=1)
    # monai.bundle.load(load_ts_module=True) fails without the second
    torch.jit.save(scripted, str(path), _extra_files={FACTS: told, MONAI_METADATA: told})


def _write_onnx(network: UNet, path: Path, facts: Mapping[str, Any]) -> None:
    required("onnxscript", "onnx onnxscript onnxruntime")
    step = facts["input_step"]
    # geometry's rule for valid sizes: 16k + 60
    offset = 4 * step - 4
    fewest = (facts["smallest_input"] - offset) // step
    sides = {axis: step * torch.export.Dim(name, min=fewest) + offset for axis, name in ((2, "k"), (3, "l"))}
    # Two images, and sides that differ: equal numbers would be taken for one, and a batch of 1 for a constant.
    example = torch.zeros(2, facts["in_channels"], facts["smallest_input"] + step, facts["smallest_input"] + 2 * step)
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=({0: torch.export.Dim("batch"), **sides},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    program.save(path, external_data=False)


def _session(path: str | Path) -> Any:
    onnxruntime = required("onnxruntime", "onnx onnxscript onnxruntime")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(str(path), providers=[name for name in wanted if name in available])
    except Exception as error:
        raise ValueError(f"ckpt_path={path}: onnxruntime cannot read it ({error})") from error


def _session_facts(session: Any) -> dict[str, Any]:
    facts = {}
    for name, value in session.get_modelmeta().custom_metadata_map.items():
        try:
            facts[name] = json.loads(value)
        except ValueError:  # of another program, in words of its own
            logger.debug("metadata %s of an ONNX file is no JSON: %s", name, value)
    return facts


def required(module: str, install: str) -> ModuleType:
    """An optional package.

    Args:
        module: name to import.
        install: what to install for it.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is not installed ({error}); install {install}") from error


def _check_file(path: str | Path, expected_sha256: str | None = None) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt_path={path}: no such exported network; write it with the overlay export")
    if expected_sha256 is not None and (found := checkpoint.sha256(path)) != expected_sha256:
        raise ValueError(f"ckpt_path={path}: sha256 is {found}, not {expected_sha256}; fetch the file again")
