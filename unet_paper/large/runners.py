"""Who does tasks: this process, several, or the workers of a Dask scheduler.

All are given the same plain function and may die: what is not done is done again, by this or a later run. Processes
come from the standard library, everything between machines from ``dask.distributed``. No wait is without an end:
workers that do not come, or do not come back, are given up.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from unet_paper.running.signals import Interrupted, withheld_from_children

logger = logging.getLogger(__name__)

# seconds before a progress bar shows, and between its lines
_DELAY = 2.0
# how often in a row processes may die without a task being done
_ATTEMPTS = 3
_TIMEOUT = 20
# seconds to wait for workers of a scheduler that has none: they may stand in a queue; how often to look; and for a task
_PATIENCE = 6 * 3600.0
_LOOK = 5.0
_TICK = 0.02


@dataclass(frozen=True)
class Work:
    """Tasks of one kind.

    Attributes:
        name: shown with the progress.
        do: does the task of a number; may be called again, anywhere, with the same result, and can be pickled.
        check: raises where a process would compute otherwise than planned; can be pickled.
        at_once: how many tasks one process may do at a time.
    """

    name: str
    do: Callable[[int], None]
    check: Callable[[], None]
    at_once: int = 1


class Runner(Protocol):
    """Does tasks."""

    def __call__(self, work: Work, indices: Sequence[int]) -> None:
        """Return when all are done.

        Raises:
            Exception: what a task raised.
        """


class ThisProcess:
    """This process alone."""

    def __call__(self, work: Work, indices: Sequence[int]) -> None:
        """See :class:`Runner`."""
        if work.at_once == 1:
            for index in _progress(indices, work.name, len(indices)):
                work.do(index)
            return
        threads = ThreadPoolExecutor(work.at_once)
        try:
            for _ in _progress(threads.map(work.do, indices), work.name, len(indices)):
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

    def __call__(self, work: Work, indices: Sequence[int]) -> None:
        """See :class:`Runner`; tasks of processes that die are given to new ones."""
        left, attempts = set(indices), 0
        with tqdm(total=len(left), desc=work.name, delay=_DELAY, leave=False) as bar:
            while left:
                pool = self._started(work)
                futures = {pool.submit(work.do, index): index for index in sorted(left)}
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
                            f"{work.name}: worker processes die again and again, killed for lack of memory? Start "
                            f"fewer (workers={self._workers}) or smaller blocks; what is done is kept"
                        ) from error
                    logger.warning("%s: a worker process died; its tasks are done again", work.name)
                except BaseException:
                    for future in futures:
                        future.cancel()
                    raise

    def _started(self, work: Work) -> ProcessPoolExecutor:
        if self._pool is None:
            # PyTorch's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, work.check)
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
        self._checked = False

    def __call__(self, work: Work, indices: Sequence[int]) -> None:
        """See :class:`Runner`; the scheduler gives tasks of workers that die to others."""
        from dask.distributed import as_completed as completed

        if not self._checked:
            # every worker there is now says no before any begins; those that come later say it with their first task
            self._client.run(work.check)
            self._checked = True
        futures = [self._client.submit(work.do, index, pure=False, retries=1) for index in indices]
        try:
            with tqdm(total=len(futures), desc=work.name, delay=_DELAY, leave=False) as bar:
                for future in self._as_they_come(completed(futures)):
                    future.result()
                    bar.update()
        finally:
            self._client.cancel(futures)

    def _as_they_come(self, futures: Any) -> Iterator[Any]:
        """Futures that are done; gives up where for long there is nobody to do the others."""
        seen = looked = time.monotonic()
        while not futures.is_empty():
            if futures.has_ready():
                seen = time.monotonic()
                yield next(futures)
                continue
            time.sleep(_TICK)
            now = time.monotonic()
            if now - looked < _LOOK:
                continue
            looked = now
            if self._client.status != "running":
                raise ConnectionError("the Dask scheduler is gone; the same command goes on with what is done")
            if self._client.scheduler_info(n_workers=-1)["workers"]:
                seen = now
            elif now - seen > _PATIENCE:
                raise ConnectionError(_nobody("no Dask worker is left", now - seen))


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
            try:
                client.wait_for_workers(1, timeout=_PATIENCE)
            except TimeoutError as error:
                raise ConnectionError(_nobody(f"dask={address}: no worker came", _PATIENCE)) from error
        yield client


def _nobody(what: str, seconds: float) -> str:
    return f"{what} in {seconds:.0f} s; start some (dask worker), the same command goes on with what is done"


def _progress(tasks: Any, stage: str, total: int) -> Any:
    return tqdm(tasks, total=total, desc=stage, delay=_DELAY, leave=False)
