"""Lines about images that say something once or twice, not for each of ten thousand files."""

import logging
import math
import threading
import time


class Notices:
    """Warns of the first few of a kind, then says that it stops.

    Args:
        logger: where the lines go.
        limit: lines of one kind.
    """

    def __init__(self, logger: logging.Logger, limit: int = 3) -> None:
        self.logger = logger
        self.limit = limit
        self._said: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def warn(self, kind: str, source: str, message: str) -> None:
        """Log ``message`` about ``source``, once a source.

        Args:
            kind: what is said, in a few words; counted.
            source: the file.
            message: the line, which names the file.
        """
        with self._lock:
            said = self._said.setdefault(kind, set())
            if source in said or len(said) >= self.limit:
                return
            said.add(source)
            more = f" (of further files with {kind} nothing is said)" if len(said) == self.limit else ""
        self.logger.warning("%s%s", message, more)

    def __getstate__(self) -> dict[str, object]:
        # transforms travel to worker processes, locks do not
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class Progress:
    """Says in the log from time to time how far something has come that takes long.

    Args:
        logger: where the lines go.
        what: is done, such as ``"reading images"``.
        total: how many there are.
        seconds: between two lines; what takes less is not spoken of, the first line comes sooner.
    """

    def __init__(self, logger: logging.Logger, what: str, total: int, seconds: float = 30.0) -> None:
        self.logger = logger
        self.what = what
        self.total = total
        self.seconds = seconds
        self._done = 0
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._said = self._begun - 2 * seconds / 3

    def step(self) -> None:
        """One more is done."""
        with self._lock:
            self._done += 1
            now = time.monotonic()
            if now - self._said < self.seconds or self._done == self.total:
                return
            self._said = now
            left = (self.total - self._done) * (now - self._begun) / self._done
        self.logger.info("%s: %d of %d, about %d min to go", self.what, self._done, self.total, math.ceil(left / 60))
