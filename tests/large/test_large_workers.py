"""Real workers that die: a Dask cluster on the loopback, and processes of this machine. Minutes; `make large-test`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_large_job import CELLS, MEAN, NETWORK, STD, cells_of, expected_cells, picture, write_store
from test_large_job import threshold as threshold
from test_large_job import weights as weights

from unet_paper.large import runners
from unet_paper.large.job import LargePrediction

pytestmark = pytest.mark.large
SHAPE = (500, 610)


@pytest.fixture
def settings(tmp_path: Path, weights: Path, threshold: float) -> dict[str, Any]:
    return {
        "dataset_dir": write_store(tmp_path / "image.zarr", picture(SHAPE)),
        "output_dir": tmp_path / "out",
        "ckpt_path": weights,
        "network": NETWORK,
        "grey_mean": MEAN,
        "grey_std": STD,
        "tile_size": 92,
        "tiles": 1,
        "block": 64,
        "threads": 1,
        "cells": {**CELLS, "threshold": threshold},
    }


def kill_after(done: Path, count: int, victims: list[int]) -> threading.Thread:
    """Kills the first of the processes once so many tasks of a stage are done."""

    def work() -> None:
        end = time.monotonic() + 200
        while len(list(done.glob("*.npz"))) < count and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(victims[0], signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_killed_in_the_middle(settings: dict[str, Any], weights: Path, threshold: float) -> None:
    distributed = pytest.importorskip("dask.distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        processes = list(client.run(os.getpid).values())
        done = settings["output_dir"] / "image_work" / "plane" / "done" / "predict"
        killer = kill_after(done, 10, processes)
        LargePrediction(**settings, dask=cluster.scheduler_address).run()
        killer.join(timeout=1)
        assert not killer.is_alive()
        assert set(client.run(os.getpid).values()) != set(processes)
    np.testing.assert_array_equal(cells_of(settings["output_dir"]), expected_cells(picture(SHAPE), weights, threshold))


@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_with_another_version_is_refused_before_work(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("dask.distributed")
    # what the leader plans with; the worker, a process of its own, has the real one
    monkeypatch.setattr("unet_paper.large.job.software", lambda: {"unet_paper": "9.9", "torch": "9.9"})
    monkeypatch.setattr("unet_paper.large.job.check_worker", lambda _: None)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        pytest.raises(RuntimeError, match="would compute otherwise than planned: version of"),
    ):
        LargePrediction(**settings, dask=cluster.scheduler_address).run()
    assert not (settings["output_dir"] / "image_work" / "plane" / "done" / "predict").exists()


def test_a_process_killed_in_the_middle(
    settings: dict[str, Any], weights: Path, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = runners.Processes._started
    killers: list[threading.Thread] = []

    def watched(self: runners.Processes, work: runners.Work) -> Any:
        pool = started(self, work)
        if not killers:
            pool.submit(os.getpid).result(timeout=300)
            done = settings["output_dir"] / "image_work" / "plane" / "done" / "predict"
            killers.append(kill_after(done, 10, list(pool._processes)))
        return pool

    monkeypatch.setattr(runners.Processes, "_started", watched)
    LargePrediction(**settings, workers=2).run()
    killers[0].join(timeout=1)
    assert not killers[0].is_alive()
    np.testing.assert_array_equal(cells_of(settings["output_dir"]), expected_cells(picture(SHAPE), weights, threshold))
