"""The signals that end a run, and when: at once, or after the training step in progress.

SLURM and other schedulers send SIGTERM, SIGUSR1 or what one asks them for, a closed terminal sends SIGHUP, Ctrl-C
SIGINT.
"""

import ctypes
import logging
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

# Windows has no SIGHUP and SIGUSR1, but SIGBREAK: Ctrl-Break, or its window was closed.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
)
# torchrun and timeout send again what a terminal has sent already; a person takes longer for a second Ctrl-C.
AGAIN = 1.0


# bytes of the stack of signal handlers: what a CPU with AVX-512 or AMX saves there fits many times
_STACK = 2**18
_IN_USE, _NONE = 1, 2  # SS_ONSTACK, SS_DISABLE


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


class Interrupted(SystemExit):
    """The end of a run that a signal asked for; ends the program with 128 + the signal's number, without a traceback.

    Args:
        number: of the signal.

    Attributes:
        explained: whether it has been said how to go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.explained = False

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class Signals:
    """The signals that this process has received while it listens.

    Attributes:
        received: number of the first one; 0 is none.
        deferred: a training step is in progress, which must be finished first.
        together: other processes take part, and all stop at a place on which they agree: no signal ends this one alone.
        speaks: the process says so when it has received one.
        listens: it takes them now.
    """

    def __init__(self) -> None:
        self.received = 0
        self.deferred = False
        self.together = False
        self.speaks = True
        self.listens = False

    @contextmanager
    def listening(self, together: bool = False) -> Iterator[None]:
        """Take the signals in the block, if this is the main thread, which alone can.

        Signals that the process was told to ignore, SIGHUP by ``nohup``, stay ignored.

        Args:
            together: see above.
        """
        self.received, self.deferred, self.together = 0, False, together
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
        _take_own_stack()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(ours,), name="signals", daemon=True)
        watcher.start()
        for number in taken:
            signal.signal(number, self._receive)
        listened, self.listens = self.listens, True
        try:
            yield
        finally:
            self.listens, self.together = listened, False
            for number in taken:
                signal.signal(number, before[number])
            signal.set_wakeup_fd(wakeup)
            # not close alone: a process forked meanwhile, of a data loader, holds a copy that keeps the connection open
            theirs.shutdown(socket.SHUT_RDWR)
            theirs.close()
            watcher.join()
            ours.close()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        first = not self.received
        self.received = self.received or number
        if first and not (self.deferred or self.together):
            raise Interrupted(number)

    def _watch(self, socket_: socket.socket) -> None:
        """In a thread of its own: Python itself tells of a signal only after the operation in progress, maybe long."""
        interrupted_at = 0.0
        said = False
        while received := socket_.recv(1):
            number = received[0]
            if number == signal.SIGINT:
                if interrupted_at and time.monotonic() - interrupted_at > AGAIN:
                    os._exit(128 + number)
                interrupted_at = interrupted_at or time.monotonic()
            if not said and number in SIGNALS and self.speaks:
                said = True
                what = "stopping after this training step" if self.deferred else "stopping"
                again = ", again ends it at once" if number == signal.SIGINT else ""
                logger.warning("%s: %s%s", signal.Signals(number).name, what, again)


PROCESS = Signals()
_own_stack: mmap.mmap | None = None


def _take_own_stack() -> None:
    """Give this thread a stack for signal handlers in the place of the one it has, if it has one.

    Python's handlers run there. A library that has set a stack of its own and freed it, or one too small for what this
    CPU saves, would let the first signal end the process by a fault.
    """
    global _own_stack
    if not sys.platform.startswith("linux"):
        return
    known, libc = _Stack(), ctypes.CDLL(None)
    if libc.sigaltstack(None, ctypes.byref(known)) or known.flags & (_IN_USE | _NONE):
        return
    _own_stack = _own_stack or mmap.mmap(-1, _STACK)  # for as long as the process lives
    start = ctypes.addressof(ctypes.c_char.from_buffer(_own_stack))
    libc.sigaltstack(ctypes.byref(_Stack(start, 0, _STACK)), None)


def _leave_to_parent() -> None:
    """In a process just forked: its signals are not those of the process that it was forked from."""
    if PROCESS.listens:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def withheld_from_children() -> Iterator[None]:
    """Processes that are started in the block never hear of a Ctrl-C, which a terminal sends to all of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(worker_id: int) -> None:
    """``worker_init_fn`` of a DataLoader: seeds as MONAI's does, and leaves signals to the process that trains.

    A terminal and SLURM signal all processes of a job, but the step in progress still needs its workers.
    """
    from monai.data.utils import worker_init_fn  # a worker has MONAI; a command that only helps has not

    worker_init_fn(worker_id)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
