"""Signals to a training run, and two runs that want one folder."""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attacking import Arena, Outcome, Trial, attack
from training_runs import SETTINGS, Runs, difference, kill, last_line, state, trial, wait_for


@attack("signals", short=False)
def signals(arena: Arena) -> Iterator[Trial]:
    """Each ends the step in progress, is answered with 128 + its number, and no step is lost."""
    runs = Runs(arena)
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]
    for number in numbers[:2] if arena.short else numbers:
        for step in (2,) if arena.short else (1, 3, 5):
            yield trial(f"{number.name} in step {step}", _signalled(runs, number, step))


def _signalled(runs: Runs, number: signal.Signals, step: int) -> str:
    folder = runs.folder()
    status = runs.finish(runs.start(folder, at_step=[step, int(number)]))
    done = state(folder)["iteration"] if (folder / "last.pt").exists() else 0
    if done < step:
        return f"{step - done} of {step} steps are lost"
    if status != 128 + number:
        return f"status {status}, not {128 + number}"
    log = runs.log(folder)
    if "--resume True" not in log or log.count('File "'):
        return f"does not say how to go on: {last_line(log)}"
    return runs.go_on(folder)


# more than any machine takes while a command is left alone, so that the signal finds it at work
LONG_EPOCH = 3000
LEFT_ALONE = 2.0  # s


@attack("commands that are told to stop", short=False)
def commands(arena: Arena) -> Iterator[Trial]:
    """Whole commands, of one and of two processes: the command that each prints is run, and must end it."""
    runs = Runs(arena)
    for processes in (1, 2):
        for number in (signal.SIGINT, signal.SIGTERM):
            folder = runs.folder()
            what = f"{number.name} to a command of {processes} processes"
            yield trial(what, _commanded(arena, runs, folder, processes, number))


def _commanded(arena: Arena, runs: Runs, folder: Path, processes: int, number: signal.Signals) -> str:
    configs = arena.package / "bundle" / "configs"
    files = [str(configs / "train.yaml")] + ([str(configs / "multi_gpu_train.yaml")] if processes > 1 else [])
    settings = {
        **SETTINGS,
        "steps_per_epoch": LONG_EPOCH,
        "max_epochs": 2,
        "dataset_dir": runs.data,
        "output_dir": folder,
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words = [sys.executable, *(torchrun if processes > 1 else []), "-m", "monai.bundle", "run", "training"]
    words += ["--config_file", str(files)]
    words += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    started = {"cwd": arena.folder, "env": arena.environment(), "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, stdout=subprocess.PIPE, **started) as process:  # type: ignore[call-overload]
        wait_for(folder)
        time.sleep(LEFT_ALONE)
        process.send_signal(number)
        try:
            log, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            return "did not stop within a minute"
    if not (folder / "last.pt").exists():
        return f"all steps are lost: {last_line(log)}"
    done = state(folder)["iteration"]
    advised = re.search(r"Go on with:\n\s*(.*)", log)
    if advised is None:
        return f"does not say how to go on: {last_line(log)}"
    again = [*shlex.split(advised[1]), "--steps_per_epoch", str(LONG_EPOCH), "--max_epochs", "1"]
    went_on = subprocess.run(again, stdout=subprocess.PIPE, check=False, timeout=300, **started)  # type: ignore[call-overload]
    if went_on.returncode:
        return f"the command that it printed fails: {last_line(went_on.stdout)}"
    reached = state(folder)["iteration"]
    return "" if done < reached == LONG_EPOCH else f"went on from step {done} to {reached}, not {LONG_EPOCH}"


@attack("two runs in one folder", short=True)
def two_runs(arena: Arena) -> Iterator[Trial]:
    """The second comes while the first works, or both at once: one of them has the folder, the other is told."""
    runs = Runs(arena)
    for resume in (False,) if arena.short else (False, True):
        yield trial(f"a second run, resume {resume}", _second(runs, resume=resume), good=Outcome.REFUSED)
    for number in range(1 if arena.short else 4):
        yield trial(f"both at once, {number + 1}", _both(runs, resume=number % 2 == 1), good=Outcome.REFUSED)
    folder = runs.folder()
    first = runs.start(folder)
    wait_for(folder / "last.pt")
    kill(first)
    # at once: nothing has had the time to clean up
    yield trial("resumed at once after a kill", runs.go_on(folder))


def _second(runs: Runs, *, resume: bool) -> str:
    folder = runs.folder()
    first = runs.start(folder)
    wait_for(folder / "last.pt")
    status = runs.finish(runs.start(folder, resume=resume, settings={"seed": 5}))
    refusal = runs.log(folder)
    ended = runs.finish(first)
    if status == 0:
        return "the second ran as well"
    if ended != 0:
        return f"the first died of it (status {ended})"
    if str(first) not in refusal:
        return f"the second does not name the first: {last_line(refusal)}"
    if folder.with_name(f"{folder.name}.1").exists():
        return "the folder of the first was moved away"
    return difference(folder, runs.whole)


def _both(runs: Runs, *, resume: bool) -> str:
    folder = runs.folder()
    statuses = [runs.finish(pid) for pid in [runs.start(folder, resume=resume) for _ in range(2)]]
    if sorted(map(bool, statuses)) != [False, True]:
        return f"they ended with {statuses}"
    return difference(folder, runs.whole)
