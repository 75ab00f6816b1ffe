"""Memory of prediction: what an image takes, reckoned before work begins, and what this process may still have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from unet_paper import geometry
from unet_paper.activation_memory import activation_bytes
from unet_paper.data.reader import NIFTI, extension, layout
from unet_paper.inferer import USUAL_OUTPUT, Strategy, Symmetries
from unet_paper.instances import Settings, splits
from unet_paper.network import UNet
from unet_paper.running.machine import cgroups

# bytes for each pixel of an image, beside the network's: the most that benchmark_inference.py saw (goals 12 and 20)
PIXEL_BYTES, SPLITTING_PIXEL_BYTES = 13, 29
# for each channel of a file: its values and two copies in single precision; 4 channels may be colour
CHANNEL_BYTES = 10
# for each pixel and page of a NIfTI volume, which is written in one piece
VOLUME_BYTES = 24


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still take without pushing anything out; infinite where the system does not say.

    What the system has available (``MemAvailable``, Linux), and what every cgroup that this process is in leaves of its
    limit, version 1 or 2. Files that the system keeps in memory and need not keep do not count as taken.

    Args:
        root: where ``/proc`` and ``/sys`` lie.
    """
    table = root / "proc/meminfo"
    found = re.search(r"^MemAvailable:\s+(\d+) kB", table.read_text(), re.MULTILINE) if table.is_file() else None
    least = int(found[1]) * 1024 if found else math.inf
    for group in cgroups("memory", root):
        least = min(least, _left_of(group))
    return max(least, 0)


def _left_of(group: Path) -> float:
    """Bytes that a cgroup leaves of its limit."""
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    )
    for limit, usage, idle in names:
        if not ((group / limit).is_file() and (group / usage).is_file()):
            continue
        most = (group / limit).read_text().strip()
        if most == "max":
            return math.inf
        statistics = group / "memory.stat"
        words = statistics.read_text().split() if statistics.is_file() else []
        kept = dict(zip(words[::2], words[1::2], strict=False))
        return int(most) - int((group / usage).read_text()) + int(kept.get(idle, 0))
    return math.inf


class PredictionMemory:
    """What the prediction of an image takes, beside what the process has taken before.

    Args:
        network: that predicts.
        strategy: of overlap-tile prediction.
        symmetries: of test-time averaging.
        magnification: of the images before prediction.
        cells: settings of post-processing, see :func:`unet_paper.instances.label_instances`.
        device: where the network computes; on another than the CPU its activations are not in this memory.
        memory_budget: bytes for activations, as the inferer has it.
        root: where ``/proc`` and ``/sys`` lie.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        strategy: Strategy,
        symmetries: Symmetries,
        magnification: float,
        cells: Mapping[str, Any],
        device: Any = "cpu",
        memory_budget: int | None = None,
        root: Path = Path("/"),
    ) -> None:
        self.features = tuple(getattr(network, "features", tuple(64 << level for level in range(5))))
        self.classes = _classes(network)
        self.strategy = strategy
        self.averaged = symmetries != "none"  # the inferer refuses what there is not
        self.magnification = magnification
        self.splits = splits(cast(Settings, cells))
        self.on_cpu = "cpu" in str(device)
        self.memory_budget = memory_budget
        self.root = root

    def needed(self, shape: Sequence[int], volume: int = 0) -> int:
        """Bytes that an image takes.

        Args:
            shape: (H, W) or (H, W, C), as its file has it.
            volume: pages of the volume that it is written into, 0 for none.
        """
        height, width = shape[:2]
        channels = shape[2] if len(shape) > 2 else 1
        # of several kinds of cells all probabilities are held, their sum, and each kind's map and labels in turn
        several = 0 if self.classes == 2 else 12 * self.classes
        seen = [max(1, round(length * self.magnification)) for length in (height, width)]
        pixel = SPLITTING_PIXEL_BYTES if self.splits or self.magnification != 1 else PIXEL_BYTES
        pixel = max(pixel + several + VOLUME_BYTES * volume, CHANNEL_BYTES * channels)
        # sums of scores wait for the last member of an average
        sums = 4 * self.classes * seen[0] * seen[1] if self.averaged else 0
        # the image as the network sees it, and its scores; at half the magnification the figures measured hold them
        magnified = 12 * seen[0] * seen[1] if self.magnification > 0.5 and self.magnification != 1 else 0
        return height * width * pixel + sums + magnified + self._activations(seen)

    def refuse(self, file: str, pages: int) -> None:
        """Refuse a file of which a page does not fit.

        Args:
            file: the image file.
            pages: how many of its pages are predicted.

        Raises:
            MemoryError: naming the file, the estimate, what there is, and what to do.
        """
        shapes = layout(file).shapes
        largest = max(shapes, key=lambda shape: math.prod(shape))
        needed = self.needed(largest, pages if extension(file) in NIFTI else 0)
        available = available_memory(self.root)
        if needed <= available:
            return
        save = "" if extension(file) in (".tif", ".tiff") else "save it as TIFF or OME-Zarr and "
        other = ", or --strategy rows or tiles instead of whole" if self.strategy == "whole" else ""
        raise MemoryError(
            f"{file}: {largest[0]} x {largest[1]} px take about {needed / 2**30:.2g} GiB of memory, and "
            f"{available / 2**30:.2g} GiB are available: {save}predict it in blocks, whose memory does not grow with "
            f"the image, with the config inference_large in place of inference{other}"
        )

    def _activations(self, seen: Sequence[int]) -> int:
        if not self.on_cpu:
            return 0
        levels = len(self.features)
        usual = max(seen) if self.strategy == "whole" else USUAL_OUTPUT
        sizes = [geometry.input_size(min(length, usual), levels) for length in seen]
        if self.strategy != "whole" and self.memory_budget is not None:
            return self.memory_budget
        return activation_bytes((1, 1, sizes[0], sizes[1]), self.features)


def _classes(network: nn.Module) -> int:
    """Classes of a network; 2 where it is not ours and does not tell."""
    return network.classifier.out_channels if isinstance(network, UNet) else 2
