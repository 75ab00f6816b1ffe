"""Two processes that train together stop together, wherever a signal meets one of them."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from conftest import CONFIGS, TINY

from unet_paper.data import phantom
from unet_paper.running import engines
from unet_paper.running.checkpoint import Checkpoints

SETTINGS: dict[str, Any] = {**TINY, "features": [4, 8], "tile_size": 44}
SECONDS = 120
# rank that gets the signal; method in whose n-th call, and whether before or after it; epochs and steps in last.pt
PLACES = {
    "before the first step": (1, Checkpoints, "_start", 1, False, None),
    "in a step": (1, engines.TrainingStep, "__call__", 2, False, (0, 2)),
    "after the last step of an epoch": (1, Checkpoints, "_end_step", 3, True, (0, 3)),
    "in the first image of a validation": (1, engines.EvaluationStep, "__call__", 1, False, (0, 3)),
    "in the last image, which the other has not": (0, engines.EvaluationStep, "__call__", 2, False, (0, 3)),
    "after a validation": (1, Checkpoints, "_end_epoch", 1, True, (1, 3)),
}


def train(rank: int, port: int, folder: Path, place: str) -> None:
    """What each of two processes does: it trains, and gets a signal if the place says so."""
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    signalled, kind, method, at, after, _ = PLACES[place]
    if rank == signalled:
        setattr(kind, method, signalling(getattr(kind, method), at, after))
    configs = [str(CONFIGS / f"{name}.yaml") for name in ("train", "multi_gpu_train")]
    settings = {**SETTINGS, "dataset_dir": str(folder / "data"), "output_dir": str(folder / "run")}
    monai.bundle.run("training", config_file=configs, logging_file=False, **settings)
    sys.exit(0)


def signalling(original: Callable[..., Any], at: int, after: bool) -> Callable[..., Any]:
    """A method that sends this process SIGTERM before or after what its n-th call does."""
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            signal.raise_signal(signal.SIGTERM)
        found = original(*arguments)
        if calls == at and after:
            signal.raise_signal(signal.SIGTERM)
        return found

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images to validate on: two for the first process, one for the second."""
    folder = tmp_path_factory.mktemp("cells") / "phantom"
    return Path(phantom.write(folder, kind="cells", frames=3, size=96, seed=1))


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_to_one_process_ends_both_at_the_same_step(place: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(data)
    # a server that has imported everything once saves each process from doing so
    multiprocessing.set_forkserver_preload([__name__])
    context = multiprocessing.get_context("forkserver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=train, args=(rank, port, tmp_path, place)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [128 + signal.SIGTERM] * 2, logs
    assert not any("Traceback" in log for log in logs), logs
    assert "stopped by SIGTERM" in logs[0]
    reached = PLACES[place][-1]
    assert (tmp_path / "run" / "last.pt").exists() == (reached is not None)
    if reached is not None:
        content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
        assert (content["epoch"], content["iteration"]) == reached
