"""The plan of a run in blocks: all that its result depends on, written down before work starts.

Bits are equal for one plan. Two runs with different tiles, threads or processors agree to rounding; workers of one run
must agree wholly, or there would be seams between their blocks. So whoever works on a block compares the plan with
itself first: other weights, another version of the package or of PyTorch, or a processor with other instructions is
refused, and so is another plan in an output folder that has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import unet_paper
from unet_paper.running import checkpoint
from unet_paper.running.placement import placed

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What the result of a run in blocks depends on; every value is one that JSON keeps.

    Attributes:
        image: identity and state of the image, see :class:`unet_paper.data.image_store.ImageStore`.
        channels: numbers of the channels that the network sees.
        weights: path and SHA-256 of the checkpoint.
        network: arguments of :class:`unet_paper.network.UNet`.
        grey: mean, std, minimum and maximum, see ``inference.yaml``.
        engine: device, precision, memory format, threads, and the processor or GPU.
        software: versions of this package and of PyTorch.
        tile_size: of the network's input in px.
        magnification: of the image before prediction.
        cells: arguments of :func:`unet_paper.instances.label_instances`.
        block: side of a block in px.
        tiles: of the network along the side of a block that is predicted.
        memory: bytes that a component that is gathered may take.
        output: formats of labels, probability and table.
        pixel_size: height and width of a pixel in micrometres.
        channel_names: of all channels of the image, in the table.
    """

    image: Mapping[str, Any]
    channels: list[int]
    weights: Mapping[str, str]
    network: Mapping[str, Any]
    grey: Mapping[str, Any]
    engine: Mapping[str, Any]
    software: Mapping[str, str]
    tile_size: int
    magnification: float
    cells: Mapping[str, Any]
    block: int
    tiles: int
    memory: int
    output: Mapping[str, Any]
    pixel_size: list[float] | None = None
    channel_names: list[str] = field(default_factory=list)

    @property
    def content(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return dict(json.loads(json.dumps(asdict(self))))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Put the plan into a folder."""
        with placed(folder / PLAN) as part:
            part.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")

    def refuse_other(self, folder: Path) -> None:
        """Raise if a folder belongs to another plan.

        Raises:
            ValueError: naming the first difference, and what to do.
        """
        there = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if changed := self.differences(there):
            before, now = _flat(there).get(changed[0]), _flat(self.content).get(changed[0])
            raise ValueError(
                f"output_dir={folder.parent}: holds a run with another plan, {changed[0]} is {before!r} there and "
                f"{now!r} now{self.remark(changed)}; choose another with --output_dir, or go on with the same settings"
            )

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Names of what another plan's content has otherwise, such as ``cells.min_size``."""
        there, here = _flat(other), _flat(self.content)
        return [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]

    @staticmethod
    def remark(changed: Sequence[str]) -> str:
        """What differences mean, where their names do not say it."""
        written = changed and all(name.startswith("image.") for name in changed)
        return " (the image was written to meanwhile)" if written else ""


def read_plan(folder: Path) -> Plan:
    """The plan in a folder.

    Raises:
        FileNotFoundError: none there.
    """
    file = folder / PLAN
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such plan; workers need the output folder under the same path everywhere")
    return Plan(**json.loads(file.read_text(encoding="utf-8")))


def software() -> dict[str, str]:
    """Versions that this process computes with."""
    return {"unet_paper": unet_paper.__version__, "torch": str(torch.__version__)}


def processor(device: str) -> str:
    """What this process computes on: the name of its GPU, or the instructions that its CPU offers PyTorch."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return str(torch.backends.cpu.get_cpu_capability())


def refuse_other_worker(plan: Plan) -> None:
    """Raise if this process would compute otherwise than planned.

    Raises:
        RuntimeError: naming what differs, and what to do.
    """
    weights = plan.weights["path"]
    found = {
        **{f"version of {name}": version for name, version in software().items()},
        "processor": processor(plan.engine["device"]),
        "sha256 of the weights": _sha256(weights) if Path(weights).is_file() else "no such file",
    }
    planned = {
        **{f"version of {name}": version for name, version in plan.software.items()},
        "processor": plan.engine["processor"],
        "sha256 of the weights": plan.weights["sha256"],
    }
    for name, value in planned.items():
        if found.get(name) != value:
            raise RuntimeError(
                f"this worker would compute otherwise than planned: {name} is {found.get(name)}, planned {value} "
                f"({weights}); give all workers the same package, PyTorch, weights and kind of processor"
            )


@lru_cache(maxsize=4)
def _sha256(path: str) -> str:
    return checkpoint.sha256(path)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
