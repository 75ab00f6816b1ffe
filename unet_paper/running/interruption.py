"""A run that ends before its time, by a signal or because it diverged, says how to go on, with a command that works."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unet_paper.running import checkpoint, engines, run_folder
from unet_paper.running.signals import PROCESS, Interrupted


def run(engine: Any, output_dir: str | Path) -> None:
    """Run an engine of MONAI so that signals end it well, and give its folder back.

    Args:
        engine: trainer or evaluator.
        output_dir: folder that ``run_folder`` has made ready; where a training run has its checkpoints.

    Raises:
        Interrupted: if a signal has ended it.
        FloatingPointError: if training has diverged; says how to go on.
    """
    try:
        PROCESS.speaks = not engines.is_secondary()
        with PROCESS.listening(together=engines.process_count() > 1):
            try:
                engine.run()
            except Interrupted as stop:
                _explain(engine, Path(output_dir), stop)
                engines.stop_processes()
                raise
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}; {after_divergence(engine, Path(output_dir))}") from error
            except Exception as error:
                # another process has stopped first, and its end was an error to this one
                if PROCESS.received and engines.process_count() > 1:
                    raise Interrupted(PROCESS.received) from error
                raise
    finally:
        run_folder.close_run_folder(output_dir)


@contextmanager
def saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Signals end the block at once; what is said is that the same command goes on with what is in a folder.

    Raises:
        Interrupted: if a signal has ended it.
    """
    with PROCESS.listening():
        try:
            yield
        except Interrupted as stop:
            _say(stop, f"{stop}; what was finished is in {folder}. Go on with:\n  {command({})}")
            raise


def after_divergence(engine: Any, folder: Path) -> str:
    """What to do about a diverged run, with a learning rate of a tenth."""
    rate = engine.optimizer.param_groups[0].get("initial_lr", engine.optimizer.param_groups[0]["lr"])
    lower = f"{rate / 10:.3g}"
    last = folder / checkpoint.LAST
    if last.is_file():
        settings, what = {"learning_rate": lower, "resume": "True"}, f"{last} holds the last good state. Go on from it"
    else:
        settings, what = {"learning_rate": lower}, "nothing has been saved yet. Start again"
    return f"{what} at a lower rate:\n  {command(settings)}"


def command(settings: Mapping[str, str]) -> str:
    """The command that started this process, with other settings.

    Args:
        settings: new values by name; what the command gave them before is taken out.
    """
    changed = [text for name, value in settings.items() for text in (f"--{name}", value)]
    words = list(sys.orig_argv)
    ours = any(Path(word).stem in ("unet-paper", "unet_paper") for word in words[:3])
    if "monai.bundle" not in words and not ours:
        # a notebook or a program of one's own
        return " ".join(["the same again", *(["with", *changed] if changed else [])])
    processes = os.environ.get("LOCAL_WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    if processes is not None:
        words = words[words.index("monai.bundle") - 1 :]
        nodes = ["--standalone"] if processes == os.environ.get("WORLD_SIZE") else ["..."]
        words = [sys.orig_argv[0], "-m", "torch.distributed.run", *nodes, f"--nproc_per_node={processes}", *words]
    kept: list[str] = []
    skip = False
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if skip:
            skip = False
        elif word.startswith("--") and name in settings:
            skip = "=" not in word
        else:
            kept.append(word)
    kept += changed
    return subprocess.list2cmdline(kept) if sys.platform == "win32" else shlex.join(kept)


def _explain(engine: Any, folder: Path, stop: Interrupted) -> None:
    if engines.is_secondary():
        return
    last = folder / checkpoint.LAST
    if not hasattr(engine, "optimizer"):
        text = f"{stop}; what was finished is in {folder}. Go on with:\n  {command({})}"
    elif last.is_file():
        where = f"epoch {engine.state.epoch}, step {engine.state.iteration}"
        text = f"{stop} in {where}; {last} holds the state. Go on with:\n  {command({'resume': 'True'})}"
    else:
        text = f"{stop} before the first step was done. Start again with:\n  {command({})}"
    _say(stop, text)


def _say(stop: Interrupted, text: str) -> None:
    stop.explained = True
    print(f"\n{text}", file=sys.stderr, flush=True)
