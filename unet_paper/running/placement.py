"""Files that are never half there: written beside their place, flushed to the disk, then moved into it."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a disk says that takes no more: no space left, quota used up, file larger than the limit.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def placed(path: str | Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; when the block ends well, that file is flushed and moved to ``path``.

    Whoever looks at ``path``, now or after a power cut, finds the old file or the new one, whole. If the block fails,
    the old file stays and what was written of the new one is removed.

    Args:
        path: where the file is to be; its folder is made.

    Raises:
        OSError: of the kind that the system reported, but naming ``path`` and what to do: the disk is full, the folder
            is gone or cannot be written to.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        os.replace(part, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if (reported := _system_error(error)) is not None:
            raise _explained(reported, path) from error
        raise


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the move itself outlast a power cut, where a folder can be opened: not on Windows."""
    if sys.platform == "win32":
        return
    with suppress(OSError):  # some network file systems know no fsync of a folder; the file itself is flushed
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's own report, also inside what a library made of it: torch.save turns it into a RuntimeError."""
    if isinstance(error, OSError):
        return error if error.errno is not None else None
    while isinstance(error, Exception):
        error = error.__cause__ or error.__context__
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
    return None


def _explained(error: OSError, path: Path) -> OSError:
    if error.errno in _FULL:
        remedy = "there is no room left for it; free some, or name another disk with --output_dir"
    elif error.errno in _READ_ONLY:
        remedy = "its folder cannot be written to; give yourself the right to, or name another with --output_dir"
    elif error.errno == errno.ENOENT:
        remedy = "its folder has vanished; name one that stays with --output_dir"
    else:
        remedy = "name another folder with --output_dir"
    return OSError(error.errno, f"{error.strerror}: {remedy} (what was there before is kept)", str(path))
