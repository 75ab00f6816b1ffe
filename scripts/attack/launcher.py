"""Runs of the checkout under attack, started in a second instead of ten: from a process that has imported it all.

    python scripts/attack/launcher.py        # with the checkout on PYTHONPATH; reads one JSON request a line

The first request is a run that this process does itself: all is imported and compiled then. Each later one forks a
process that leads a group of its own and does one run of MONAI's bundle, with faults put into it:

- ``kill_at``: it kills itself before its n-th opening, renaming or removing of a file below ``output_dir``;
- ``at_step``: ``[n, fault]``, after the optimiser's n-th step: a signal's number, "poison" (every weight times 1e30)
  or "vanish" (``output_dir`` is renamed);
- ``largest_file``: no file can grow beyond so many bytes.

Its output goes to the file ``log``; the answers are ``{"pid": ...}`` at once and ``{"ended": pid, "status": ...}``.
"""

import json
import os
import resource
import selectors
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = ("open", "os.rename", "os.remove")


def main() -> None:
    """Serve requests until the input ends."""
    import monai.bundle

    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    buffer, running = b"", set[int]()
    log = os.open(os.devnull, os.O_WRONLY)
    out = os.dup(1)
    os.dup2(log, 1)
    monai.bundle.run(**json.loads(sys.stdin.buffer.raw.readline())["run"])
    os.dup2(out, 1)
    answer({"ready": True})
    while True:
        if selector.select(0.02):
            data = os.read(0, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    child(request, monai.bundle.run)
                running.add(pid)
                answer({"pid": pid})
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                answer({"ended": pid, "status": os.waitstatus_to_exitcode(status)})
    for pid in running:
        os.killpg(pid, signal.SIGKILL)


def answer(message: dict[str, Any]) -> None:
    """One line of JSON on the standard output."""
    os.write(1, json.dumps(message).encode() + b"\n")


def child(request: dict[str, Any], run: Any) -> None:
    """Do the run of a request and end the process as Python itself would."""
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(0)
    status = 0
    try:
        inject(request)
        run(**request["run"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def inject(request: dict[str, Any]) -> None:
    """Put the faults of a request into this process."""
    folder = os.path.realpath(request["run"]["output_dir"])
    if request.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if request.get("kill_at"):
        kill_at(request["kill_at"], folder)
    if request.get("at_step"):
        at_step(*request["at_step"], folder)


def kill_at(number: int, folder: str) -> None:
    """Die before the n-th change of a file below the folder."""
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not (set(str(arguments[1])) & set("wax+") or (arguments[2] or 0) & os.O_ACCMODE):
            return
        if os.path.abspath(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def at_step(number: int, fault: int | str, folder: str) -> None:
    """Let the fault happen after the n-th step of any optimiser."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    done = 0

    def after(optimizer: Any, _arguments: Any, _settings: Any) -> None:
        nonlocal done
        done += 1
        if done != number:
            return
        if fault == "poison":
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.data.mul_(1e30)
        elif fault == "vanish":
            Path(folder).rename(f"{folder} moved away")
        else:
            signal.raise_signal(int(fault))

    register_optimizer_step_post_hook(after)


if __name__ == "__main__":
    main()
