"""What the machine does best: precision, memory format, strategy, threads and engine of a run, chosen once and said.

A setting that is given always wins; ``auto`` is chosen by the rules of :func:`choose`. A resumed run takes what the run
recorded, not what the machine it now runs on would choose.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from unet_paper.inferer import Strategy, fastest_strategy
from unet_paper.running.checkpoint import LAST

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
Engine = Literal["torch", "openvino"]
AUTO = "auto"
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# What runs did before they recorded it.
_UNRECORDED = {"precision": "float32", "memory_format": "contiguous", "strategy": "tiles", "engine": "torch"}
# Parts of the names that oneDNN's ONEDNN_MAX_CPU_ISA gives to what it may use: those that multiply in bfloat16.
_BFLOAT16_LIMITS = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")


@dataclass(frozen=True)
class Machine:
    """What a process has to compute with.

    Attributes:
        device: ``"cpu"``, ``"cuda"`` or another type of device.
        name: of the processor or GPU, for the reader.
        instructions: of the CPU, those of ``avx2``, ``avx512``, ``avx512_bf16``, ``amx`` that it has and may use.
        capability: of a CUDA GPU, else None.
        cores: that affinity, cgroup quota and the processes that torchrun started beside this one leave to it.
        openvino: whether OpenVINO is installed.
    """

    device: str
    name: str = ""
    instructions: frozenset[str] = frozenset()
    capability: tuple[int, int] | None = None
    cores: int = 1
    openvino: bool = False

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether the hardware multiplies bfloat16 itself; elsewhere it is converted to float32 and back."""
        if self.device == "cuda":
            return self.capability is not None and self.capability >= (8, 0)
        return self.device == "cpu" and not self.instructions.isdisjoint({"amx", "avx512_bf16"})


@dataclass(frozen=True)
class Choices:
    """What a run computes with.

    Attributes:
        precision: of the convolutions; weights, optimiser and loss stay in float32.
        layout: name of the memory format.
        strategy: of overlap-tile prediction.
        threads: of the CPU.
        engine: what runs the network in prediction.
    """

    precision: Precision
    layout: str
    strategy: Strategy
    threads: int
    engine: Engine

    @property
    def memory_format(self) -> torch.memory_format:
        """As ``Module.to`` takes it."""
        return _FORMATS[self.layout]

    def record(self) -> dict[str, Any]:
        """For a checkpoint or a report: names and numbers by setting."""
        found = asdict(self)
        found["memory_format"] = found.pop("layout")
        return found


def choose(
    device: str | torch.device,
    network: nn.Module | None = None,
    *,
    precision: str = AUTO,
    memory_format: str | torch.memory_format = AUTO,
    strategy: str = AUTO,
    threads: int | str = AUTO,
    engine: str = AUTO,
    training: bool = False,
    folder: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Choices:
    """Choose what is left to the machine, set the threads of this process, and log one line.

    ``precision``: bfloat16 where the hardware multiplies it, never where it would be emulated. ``memory_format``:
    channels_last, but for training on a CPU without AVX-512, whose kernels for the gradient of the weights take three
    to five times as long with it, and for GPUs that compute in float32. ``engine``: OpenVINO for prediction on a CPU
    where it is installed. ``strategy``: rows, or tiles where another engine or a network that is not ours runs.
    ``threads``: the cores of ``Machine``, or ``OMP_NUM_THREADS`` where it is set.

    Args:
        device: that the run computes on.
        network: that predicts, as it is before it is wrapped; None: one of another kind than ours.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"``.
        memory_format: ``"auto"``, ``"contiguous"``, ``"channels_last"``, or torch's own.
        strategy: ``"auto"``, or one of the inferer's.
        threads: ``"auto"``, or a number.
        engine: ``"auto"``, ``"torch"`` or ``"openvino"``.
        training: whether gradients are computed too.
        folder: of the run.
        resume: go on with the run that is in the folder: what it recorded stands for ``"auto"``.
        quiet: log nothing (for all processes but one).

    Raises:
        ValueError: an unknown name or number, or an engine and a device or strategy that exclude each other.
        ImportError: an engine that is not installed.
    """
    given = {
        "precision": precision,
        "memory_format": _format_name(memory_format),
        "strategy": strategy,
        "threads": threads,
        "engine": engine,
    }
    _check(given)
    machine = describe(device)
    past = recorded(folder) if resume and folder is not None else {}
    chosen = resolve({name: past.get(name, AUTO) if value == AUTO else value for name, value in given.items()},
                     machine, network, training)  # fmt: skip
    torch.set_num_threads(chosen.threads)
    if not quiet:
        origins = {
            name: "given" if value != AUTO else "resumed" if name in past else "" for name, value in given.items()
        }
        logger.info("%s", _line(machine, chosen, origins))
    return chosen


def resolve(given: Mapping[str, Any], machine: Machine, network: nn.Module | None, training: bool) -> Choices:
    """The rules of :func:`choose`, for any machine.

    Args:
        given: value or ``"auto"`` of each setting.
        machine: what there is to compute with.
        network: that predicts.
        training: whether gradients are computed too.

    Raises:
        ValueError, ImportError: as ``choose``.
    """
    precision = given["precision"]
    if precision == AUTO:
        precision = "bfloat16" if machine.multiplies_bfloat16 else "float32"
    layout = given["memory_format"]
    if layout == AUTO:
        slow_gradient = training and machine.instructions.isdisjoint({"avx512", "amx"})
        wins = not slow_gradient if machine.device == "cpu" else machine.device == "cuda" and precision == "bfloat16"
        layout = "channels_last" if wins else "contiguous"
    engine = _engine(given["engine"], given["strategy"], machine, network, training)
    strategy = given["strategy"]
    if strategy == AUTO:
        strategy = "tiles" if engine != "torch" else fastest_strategy(network)
    threads = machine.cores if given["threads"] == AUTO else given["threads"]
    return Choices(precision=precision, layout=layout, strategy=strategy, threads=int(threads), engine=engine)


def _engine(given: str, strategy: str, machine: Machine, network: nn.Module | None, training: bool) -> Engine:
    streams = strategy == "rows"
    if given == AUTO:
        fits = machine.device == "cpu" and machine.openvino and not training and not streams
        return "openvino" if fits and fastest_strategy(network) == "rows" else "torch"
    if given == "openvino":
        if machine.device != "cpu":
            raise ValueError(f"engine=openvino: computes on the CPU, not on {machine.device}; use --engine torch")
        if streams:
            raise ValueError("engine=openvino: takes tiles, no strips of rows; use --strategy tiles or --engine torch")
        if not machine.openvino:
            raise ImportError("engine=openvino: is not installed; pip install openvino or --engine torch")
    return cast(Engine, given)


def recorded(folder: str | Path) -> dict[str, Any]:
    """What the run in a folder computed with, by setting; nothing if there is no checkpoint to go on from."""
    last = Path(folder) / LAST
    if not last.is_file():
        return {}
    try:
        content = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whoever loads the weights says what is wrong with the file
        return {}
    return {**_UNRECORDED, **content.get("machine", {})} if isinstance(content, dict) else {}


def describe(device: str | torch.device) -> Machine:
    """The machine that this process runs on."""
    kind = torch.device(device).type
    openvino = importlib.util.find_spec("openvino") is not None
    cores = own_cores()
    if kind == "cuda":
        name = torch.cuda.get_device_name(device)
        return Machine(kind, name, capability=torch.cuda.get_device_capability(device), cores=cores, openvino=openvino)
    return Machine(kind, processor(), instructions(), cores=cores, openvino=openvino)


def instructions() -> frozenset[str]:
    """Instruction sets of this CPU that torch finds, less those that ``ONEDNN_MAX_CPU_ISA`` forbids."""
    found = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    if not any(name in limit for name in _BFLOAT16_LIMITS):
        found |= {"avx512_bf16": False, "amx": False}
    if not any(name in limit for name in ("512", *_BFLOAT16_LIMITS)):
        found["avx512"] = False
    return frozenset(name for name, has in found.items() if has)


def processor() -> str:
    """Name of the CPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def own_cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Cores for this process: those of its affinity within its cgroup's quota, shared with its siblings of torchrun.

    Hyper-threads of one core count once. ``OMP_NUM_THREADS``, where it is set, is the answer.

    Args:
        root: where ``/proc`` and ``/sys`` lie.
        environment: the process's variables.
    """
    asked = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    numbers = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = (root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list" for number in numbers)
    cores = {path.read_text().strip() if path.is_file() else str(path) for path in siblings}
    available = min(len(cores), cpu_quota(root))
    processes = environment.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(available) // max(1, int(processes) if processes.isdigit() else 1))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPUs that the cgroups of this process grant it, version 1 or 2; infinite where none limits it."""
    return min((_quota(group) for group in cgroups("cpu", root)), default=math.inf)


def cgroups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the cgroups of this process, version 1 or 2, whose limits hold for it.

    Args:
        controller: ``"cpu"`` or ``"memory"``.
        root: where ``/proc`` and ``/sys`` lie.
    """
    table = root / "proc/self/cgroup"
    for line in table.read_text().splitlines() if table.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        here = mount / path.strip("/")
        # A parent's limit holds for its children. Within a container the path of the host may not exist.
        for group in (here, *here.parents):
            yield group
            if group == mount:
                break


def _quota(group: Path) -> float:
    files = [group / "cpu.max"], [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
    for paths in files:
        if all(path.is_file() for path in paths):
            quota, period = " ".join(path.read_text() for path in paths).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf


def _format_name(memory_format: str | torch.memory_format) -> str:
    names = {value: name for name, value in _FORMATS.items()}
    return memory_format if isinstance(memory_format, str) else names.get(memory_format, str(memory_format))


def _check(given: Mapping[str, Any]) -> None:
    known = {
        "precision": get_args(Precision),
        "memory_format": tuple(_FORMATS),
        "strategy": tuple(name for name in get_args(Strategy) if name != AUTO),
        "engine": get_args(Engine),
    }
    for name, values in known.items():
        if given[name] not in (AUTO, *values):
            raise ValueError(f"{name}={given[name]!r}: must be one of {AUTO}, {', '.join(values)}")
    threads = given["threads"]
    if threads != AUTO and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads={threads!r}: must be {AUTO} or a number from 1")


def _line(machine: Machine, chosen: Choices, origins: Mapping[str, str]) -> str:
    what = ", ".join(
        f"{name} {value}{f' ({origins[name]})' if origins[name] else ''}" for name, value in chosen.record().items()
    )
    found = " ".join(sorted(machine.instructions)) or (
        f"capability {machine.capability[0]}.{machine.capability[1]}" if machine.capability else machine.device
    )
    return f"{machine.name} ({found}): {what}"
