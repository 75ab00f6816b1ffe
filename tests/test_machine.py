"""What a run computes with: the rules on described machines, cores, and what a resumed run keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import nn

from unet_paper.network import UNet
from unet_paper.running import machine
from unet_paper.running.machine import Machine

AUTO = dict.fromkeys(("precision", "memory_format", "strategy", "threads", "engine"), "auto")
CPU_AVX2 = Machine("cpu", instructions=frozenset({"avx2"}), cores=2)
CPU_AVX512 = Machine("cpu", instructions=frozenset({"avx2", "avx512"}), cores=8)
CPU_BF16 = Machine("cpu", instructions=frozenset({"avx2", "avx512", "avx512_bf16"}), cores=8)
CPU_AMX = Machine("cpu", instructions=frozenset({"avx2", "avx512", "avx512_bf16", "amx"}), cores=8)
CPU_ARM = Machine("cpu", cores=4)
V100 = Machine("cuda", capability=(7, 0), cores=8)
A100 = Machine("cuda", capability=(8, 0), cores=8)
H100 = Machine("cuda", capability=(9, 0), cores=8)
APPLE = Machine("mps", cores=8)


@pytest.fixture
def network() -> UNet:
    return UNet(features=(2, 3))


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("what", "precision", "in_training", "in_prediction"),
    [
        (CPU_AVX2, "float32", "contiguous", "channels_last"),
        (CPU_ARM, "float32", "contiguous", "channels_last"),
        (CPU_AVX512, "float32", "channels_last", "channels_last"),
        (CPU_BF16, "bfloat16", "channels_last", "channels_last"),
        (CPU_AMX, "bfloat16", "channels_last", "channels_last"),
        (V100, "float32", "contiguous", "contiguous"),
        (A100, "bfloat16", "channels_last", "channels_last"),
        (H100, "bfloat16", "channels_last", "channels_last"),
        (APPLE, "float32", "contiguous", "contiguous"),
    ],
)
def test_precision_and_memory_format_of_each_kind_of_machine(
    what: Machine, precision: str, in_training: str, in_prediction: str, network: UNet
) -> None:
    for training, layout in ((True, in_training), (False, in_prediction)):
        chosen = machine.resolve(AUTO, what, network, training)
        assert (chosen.precision, chosen.layout) == (precision, layout)
        assert chosen.memory_format is (torch.channels_last if layout == "channels_last" else torch.contiguous_format)
        assert chosen.threads == what.cores


def test_rows_where_the_network_is_ours_and_tiles_otherwise(network: UNet) -> None:
    compiled = torch.compile(network, backend="eager")
    for ours in (network, compiled):
        assert machine.resolve(AUTO, CPU_AVX2, ours, training=False).strategy == "rows"
    for other in (nn.Conv2d(1, 2, 3), torch.jit.script(network), None):
        chosen = machine.resolve(AUTO, CPU_AVX2, other, training=False)
        assert (chosen.strategy, chosen.engine) == ("tiles", "torch")


def test_openvino_for_prediction_by_our_network_on_a_cpu_where_it_is_installed(network: UNet) -> None:
    def chosen(base: Machine, training: bool = False, predictor: nn.Module = network, **given: Any) -> tuple[str, str]:
        what = Machine(base.device, instructions=base.instructions, capability=base.capability, openvino=True)
        found = machine.resolve({**AUTO, **given}, what, predictor, training)
        return found.engine, found.strategy

    assert chosen(CPU_AVX2) == chosen(CPU_AMX) == ("openvino", "tiles")
    assert chosen(H100) == chosen(CPU_AMX, training=True) == chosen(CPU_AMX, strategy="rows") == ("torch", "rows")
    assert chosen(CPU_AMX, engine="torch") == ("torch", "rows")
    assert chosen(CPU_AMX, predictor=nn.Conv2d(1, 2, 3)) == ("torch", "tiles")
    assert chosen(CPU_AMX, strategy="whole") == ("openvino", "whole")
    assert machine.resolve(AUTO, CPU_AMX, network, training=False).engine == "torch"  # not installed


def test_an_explicit_setting_wins_on_every_machine(network: UNet) -> None:
    given = {
        "precision": "bfloat16",
        "memory_format": "contiguous",
        "strategy": "whole",
        "threads": 3,
        "engine": "torch",
    }
    for what in (CPU_AVX2, CPU_AMX, V100, H100, APPLE):
        for training in (True, False):
            assert machine.resolve(given, what, network, training).record() == given


@pytest.mark.parametrize(
    ("given", "what", "error", "message"),
    [
        ({"engine": "openvino"}, H100, ValueError, "not on cuda; use --engine torch"),
        ({"engine": "openvino"}, CPU_AMX, ImportError, r"pip install openvino or --engine torch"),
        ({"engine": "openvino", "strategy": "rows"}, CPU_AMX, ValueError, "use --strategy tiles or --engine torch"),
    ],
)
def test_an_engine_that_cannot_run_is_refused_with_a_way_out(
    given: dict[str, str], what: Machine, error: type[Exception], message: str, network: UNet
) -> None:
    with pytest.raises(error, match=message):
        machine.resolve({**AUTO, **given}, what, network, training=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "float16"}, "precision='float16': must be one of auto, float32, bfloat16"),
        (
            {"memory_format": torch.preserve_format},
            "memory_format='torch.preserve_format': must be one of auto, contig",
        ),
        ({"strategy": "columns"}, "strategy='columns': must be one of auto, tiles, whole, rows"),
        ({"engine": "onnx"}, "engine='onnx': must be one of auto, torch, openvino"),
        ({"threads": 0}, "threads=0: must be auto or a number from 1"),
        ({"threads": "many"}, "threads='many'"),
        ({"threads": True}, "threads=True"),
    ],
)
def test_unknown_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        machine.choose("cpu", **given)


def test_one_line_says_what_was_chosen_and_what_was_given(network: UNet, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=machine.__name__):
        chosen = machine.choose("cpu", network, precision="float32", threads=1, engine="torch")
        machine.choose("cpu", network, precision="float32", threads=1, engine="torch", quiet=True)
    (record,) = caplog.records
    assert "precision float32 (given), strategy rows, threads 1 (given), engine torch (given)" in record.message
    assert torch.get_num_threads() == chosen.threads == 1


def tree(root: Path, **files: str) -> Path:
    """A made-up root of a file system; ``__`` in a name stands for a slash, ``_`` stays."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "max 100000\n"}, float("inf")),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "150000 100000\n"}, 1.5),
        # a parent's limit holds, the smaller one counts
        (
            {
                "proc__self__cgroup": "0::/a/b\n",
                "sys__fs__cgroup__a__cpuDOTmax": "200000 100000\n",
                "sys__fs__cgroup__a__b__cpuDOTmax": "400000 100000\n",
            },
            2.0,
        ),
        # version 1, the host's path does not exist within the container
        (
            {
                "proc__self__cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
                "sys__fs__cgroup__cpu,cpuacct__cpuDOTcfs_quota_us": "300000\n",
                "sys__fs__cgroup__cpu,cpuacct__cpuDOTcfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc__self__cgroup": "4:cpu:/\n",
                "sys__fs__cgroup__cpu__cpuDOTcfs_quota_us": "-1\n",
                "sys__fs__cgroup__cpu__cpuDOTcfs_period_us": "100000\n",
            },
            float("inf"),
        ),
    ],
)
def test_quota_of_either_version_of_cgroups(files: dict[str, str], quota: float, tmp_path: Path) -> None:
    assert machine.cpu_quota(tree(tmp_path, **files)) == quota


def test_cores_are_those_of_affinity_quota_and_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7}, raising=False)
    # eight hyper-threads are four cores
    threads = {
        f"sys__devices__system__cpu__cpu{n}__topology__thread_siblings_list": f"{n % 4},{n % 4 + 4}" for n in range(8)
    }
    root = tree(tmp_path, **threads)
    assert machine.own_cores(root, {}) == 4
    assert machine.own_cores(root, {"LOCAL_WORLD_SIZE": "2"}) == 2
    assert machine.own_cores(root, {"LOCAL_WORLD_SIZE": "16"}) == 1
    assert machine.own_cores(root, {"OMP_NUM_THREADS": "7"}) == 7
    tree(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpuDOTmax="350000 100000\n")
    assert machine.own_cores(root, {}) == 3
    tree(tmp_path, sys__fs__cgroup__cpuDOTmax="50000 100000\n")
    assert machine.own_cores(root, {}) == 1


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ("ALL", {"avx2", "avx512", "avx512_bf16", "amx"}),
        ("AVX512_CORE_BF16", {"avx2", "avx512", "avx512_bf16", "amx"}),
        ("avx512_core", {"avx2", "avx512"}),
        ("AVX2", {"avx2"}),
    ],
)
def test_a_limit_on_onednn_is_obeyed(limit: str, kept: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("avx2", "avx512", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert machine.instructions() == kept


def last(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "last.pt", weights_only=True)
    return content


def test_a_resumed_run_keeps_what_it_recorded_and_equals_one_that_was_not_interrupted(
    run_bundle: Callable[..., None], cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**TINY, "features": [4, 8], "tile_size": 44, "steps_per_epoch": 2, "val_interval": 2}
    settings = {**small, "dataset_dir": cells_folder, "lr_scheduler#total_iters": 4}
    monkeypatch.setattr(machine, "describe", lambda _: CPU_AVX512)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    run_bundle("training", "train", **settings, output_dir=str(tmp_path / "whole"))
    run_bundle("training", "train", **{**settings, "max_epochs": 1}, output_dir=str(tmp_path / "parts"))
    recorded = {
        "precision": "float32",
        "memory_format": "channels_last",
        "strategy": "rows",
        "threads": 8,
        "engine": "torch",
    }
    assert last(tmp_path / "parts")["machine"] == recorded
    # the rest on a machine that would choose otherwise
    monkeypatch.setattr(machine, "describe", lambda _: Machine("cpu", instructions=frozenset({"amx"}), cores=3))
    run_bundle("training", "train", **settings, resume=True, output_dir=str(tmp_path / "parts"))
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert parts["machine"] == recorded
    assert parts["iteration"] == 4
    for name, value in whole["network"].items():
        assert torch.equal(value, parts["network"][name]), name
    # and a setting that is given wins over the record
    assert machine.choose("cpu", memory_format="contiguous", folder=tmp_path / "parts", resume=True).record() == {
        **recorded,
        "memory_format": "contiguous",
    }


def test_runs_from_before_there_was_a_record_go_on_as_they_began(tmp_path: Path) -> None:
    torch.save({"network": {}}, tmp_path / "last.pt")
    monkey = Machine("cpu", instructions=frozenset({"amx"}), cores=3)
    past = machine.recorded(tmp_path)
    chosen = machine.resolve({**AUTO, **past}, monkey, UNet(features=(2, 3)), training=True)
    assert (chosen.precision, chosen.layout, chosen.strategy) == ("float32", "contiguous", "tiles")
    assert machine.recorded(tmp_path / "nothing") == {}
