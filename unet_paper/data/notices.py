"""Lines about images that say something once or twice, not for each of ten thousand files."""

import logging
import threading


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
