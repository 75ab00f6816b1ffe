"""Two processes that train together stop together, wherever a signal meets one of them."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from conftest import CONFIGS, TINY

from unet_paper.data import phantom
from unet_paper.running import engines
from unet_paper.running.checkpoint_handler import Checkpoints
from unet_paper.running.signals import Interrupted

SETTINGS: dict[str, Any] = {**TINY, "features": [4, 8], "tile_size": 44}
SECONDS = 300
# rank that gets the signal; method in whose n-th call, and whether before or after it; epochs and steps in last.pt
PLACES = {
    "before the first step": (1, Checkpoints, "_start", 1, False, None),
    "in a step": (1, engines.TrainingStep, "__call__", 2, False, (0, 2)),
    "after the last step of an epoch": (1, Checkpoints, "_end_step", 3, True, (0, 3)),
    "in the first image of a validation": (1, engines.EvaluationStep, "__call__", 1, False, (0, 3)),
    "in the last image, which the other has not": (0, engines.EvaluationStep, "__call__", 2, False, (0, 3)),
    "after a validation": (1, Checkpoints, "_end_epoch", 1, True, (1, 3)),
}


def train(rank: int, ports: Sequence[int], folder: Path) -> None:
    """What each of two processes does: it trains once for each place, and gets a signal there."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in variables.items()})
    configs = [str(CONFIGS / f"{name}.yaml") for name in ("train", "multi_gpu_train")]
    ended: list[object] = []
    for number, (port, place) in enumerate(zip(ports, PLACES.values(), strict=True)):
        log = os.open(folder / f"{number}.{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["MASTER_PORT"] = str(port)
        signalled, kind, method, at, after, _ = place
        original = getattr(kind, method)
        if rank == signalled:
            setattr(kind, method, signalling(original, at, after))
        settings = {**SETTINGS, "dataset_dir": str(folder / "data"), "output_dir": str(folder / f"run{number}")}
        try:
            monai.bundle.run("training", config_file=configs, logging_file=False, **settings)
        except BaseException as error:
            ended.append(error.code if isinstance(error, Interrupted) else repr(error))
        else:
            ended.append("came to its end")
        setattr(kind, method, original)
    (folder / f"{rank}.json").write_text(json.dumps(ended))


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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, one for each place. Of three images to validate on the first process has two."""
    folder = tmp_path_factory.mktemp("processes")
    phantom.write(folder / "data", kind="cells", frames=6, size=96, seed=1)
    # a server that has imported everything once saves each process from doing so
    multiprocessing.set_forkserver_preload(["monai.bundle", "unet_paper.data.phantom", "unet_paper.running.checkpoint"])
    context = multiprocessing.get_context("forkserver")
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in PLACES]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    processes = [context.Process(target=train, args=(rank, ports, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_to_one_process_ends_both_at_the_same_step(place: str, trained: Path) -> None:
    number = list(PLACES).index(place)
    logs = [(trained / f"{number}.{rank}.log").read_text() for rank in range(2)]
    codes = [json.loads((trained / f"{rank}.json").read_text())[number] for rank in range(2)]
    assert codes == [128 + signal.SIGTERM] * 2, logs
    assert not any("Traceback" in log for log in logs), logs
    assert "stopped by SIGTERM" in logs[0]
    reached = PLACES[place][-1]
    last = trained / f"run{number}" / "last.pt"
    assert last.exists() == (reached is not None)
    if reached is not None:
        content = torch.load(last, weights_only=True)
        assert (content["epoch"], content["iteration"]) == reached
