"""Who does the tasks of a stage: this process, several, or the workers of a Dask scheduler.

All are given the same plain function and may die: what has no marker is done again, by this or a later run. Processes
come from the standard library, everything between machines from ``dask.distributed``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from unet_paper.large.plan import Plan
from unet_paper.large.tasks import PREDICT, check_worker, run_task
from unet_paper.running.signals import Interrupted, withheld_from_children

logger = logging.getLogger(__name__)

# seconds before a progress bar shows, and between its lines
_DELAY = 2.0
# how often in a row processes may die without a task being done
_ATTEMPTS = 3
_TIMEOUT = 20


class Runner(Protocol):
    """Does tasks of one stage."""

    def __call__(self, folder: Path, plan: Plan, plane: tuple[int, ...], stage: str, indices: Sequence[int]) -> None:
        """Return when all are done.

        Raises:
            Exception: what a task raised.
        """


class ThisProcess:
    """This process alone: of the network, which has threads of its own, one task after the other, of the rest as many
    at a time as the plan has threads.
    """

    def __call__(self, folder: Path, plan: Plan, plane: tuple[int, ...], stage: str, indices: Sequence[int]) -> None:
        """See :class:`Runner`."""

        def work(index: int) -> None:
            run_task(str(folder), plan.fingerprint, plane, stage, index)

        if stage == PREDICT:
            for index in _progress(indices, stage, len(indices)):
                work(index)
            return
        threads = ThreadPoolExecutor(plan.engine["threads"])
        try:
            for _ in _progress(threads.map(work, indices), stage, len(indices)):
                pass
        finally:
            threads.shutdown(cancel_futures=True)


class Processes:
    """Several processes of this machine.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, folder: Path, plan: Plan, plane: tuple[int, ...], stage: str, indices: Sequence[int]) -> None:
        """See :class:`Runner`; tasks of processes that die are given to new ones."""
        left, attempts = set(indices), 0
        with tqdm(total=len(left), desc=stage, delay=_DELAY, leave=False) as bar:
            while left:
                pool = self._started(folder)
                futures = {
                    pool.submit(run_task, str(folder), plan.fingerprint, plane, stage, index): index
                    for index in sorted(left)
                }
                before = len(left)
                try:
                    for future in as_completed(futures):
                        future.result()
                        left.discard(futures[future])
                        bar.update()
                except BrokenProcessPool as error:
                    self.close()
                    attempts = attempts + 1 if len(left) == before else 0
                    if attempts >= _ATTEMPTS:
                        raise RuntimeError(
                            f"{stage}: worker processes die again and again, killed for lack of memory? Start fewer "
                            f"(workers={self._workers}) or smaller blocks; what is done is kept"
                        ) from error
                    logger.warning("%s: a worker process died; its tasks are done again", stage)
                except BaseException:
                    for future in futures:
                        future.cancel()
                    raise

    def _started(self, folder: Path) -> ProcessPoolExecutor:
        if self._pool is None:
            # PyTorch's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, check_worker, (str(folder),))
            with withheld_from_children():
                self._pool.submit(os.getpid)  # starts them all
        return self._pool

    def kill(self) -> None:
        """End the processes in the middle of their tasks, which are then done again."""
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class Dask:
    """Workers of a Dask scheduler.

    Args:
        client: connected to it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._checked: set[str] = set()

    def __call__(self, folder: Path, plan: Plan, plane: tuple[int, ...], stage: str, indices: Sequence[int]) -> None:
        """See :class:`Runner`; the scheduler gives tasks of workers that die to others."""
        from dask.distributed import as_completed as completed

        if str(folder) not in self._checked:
            # every worker there is now says no before any begins; those that come later say it with their first task
            self._client.run(check_worker, str(folder))
            self._checked.add(str(folder))
        futures = [
            self._client.submit(run_task, str(folder), plan.fingerprint, plane, stage, index, pure=False, retries=1)
            for index in indices
        ]
        try:
            for future in _progress(completed(futures), stage, len(futures)):
                future.result()
        finally:
            self._client.cancel(futures)


@contextmanager
def runner(workers: int = 1, dask: str | None = None) -> Iterator[Runner]:
    """Whoever is to do the work, ready, and dismissed afterwards.

    Args:
        workers: processes of this machine; with ``dask="local"``, workers of the cluster.
        dask: address of a scheduler, such as ``tcp://host:8786``, or ``"local"`` for a cluster of this machine.

    Raises:
        ValueError: fewer than one worker.
        ConnectionError: no scheduler answers.
        ModuleNotFoundError: Dask is asked for and not installed.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1 process does the work")
    if dask is not None:
        with _client(dask, workers) as client:
            logger.info("Dask dashboard: %s", client.dashboard_link)
            yield Dask(client)
    elif workers == 1:
        yield ThisProcess()
    else:
        processes = Processes(workers)
        try:
            yield processes
        except Interrupted:
            processes.kill()
            raise
        finally:
            processes.close()


@contextmanager
def _client(address: str, workers: int) -> Iterator[Any]:
    try:
        from dask.distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"dask={address}: Dask is not installed; pip install 'dask[distributed]', or leave dask out"
        ) from error
    if address == "local":
        # one thread a worker: PyTorch has its own
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=_TIMEOUT)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectionError(
            f"dask={address}: no scheduler answers there ({error}); start one (dask scheduler) and name its address, "
            "tcp://HOST:8786, or use dask: local"
        ) from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            logger.warning("dask=%s: the scheduler has no workers yet; waiting for the first", address)
            client.wait_for_workers(1)
        yield client


def _progress(tasks: Any, stage: str, total: int) -> Any:
    return tqdm(tasks, total=total, desc=stage, delay=_DELAY, leave=False)
