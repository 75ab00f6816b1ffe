"""The folder of a run: made and checked before work starts; an earlier run in it is moved aside, never overwritten."""

import logging
import os
from pathlib import Path

from unet_paper.running import checkpoint

logger = logging.getLogger(__name__)


def open_run_folder(output_dir: str | Path, resume: bool = False, read_only: bool = False) -> None:
    """Make the folder of a run ready.

    Args:
        output_dir: the folder; made if it is missing.
        resume: keep the run that is in it, to go on from its last checkpoint. Otherwise a folder with a run in it is
            renamed to the first free of ``NAME.1``, ``NAME.2``, ...
        read_only: leave everything to another process.

    Raises:
        NotADirectoryError, PermissionError: if the folder cannot be made or written to.
    """
    if read_only:
        return
    folder = Path(output_dir)
    if not resume and (folder / checkpoint.LAST).is_file():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(aside)
        logger.info("%s held an earlier run: it is now %s (--resume true would have gone on with it)", folder, aside)
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.remove(probe)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"output_dir={folder}: is no folder; choose another with --output_dir") from error
    except OSError as error:
        raise PermissionError(
            f"output_dir={folder}: cannot be written to ({error.strerror}); choose another with --output_dir"
        ) from error
