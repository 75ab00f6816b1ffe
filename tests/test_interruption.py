"""Signals end a run well, and what goes on from there equals a run that was never stopped."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import CONFIGS, TINY

from unet_paper.network import UNet
from unet_paper.running import checkpoint, engines, interruption
from unet_paper.running.logbook import read_table
from unet_paper.running.settings import cause
from unet_paper.running.signals import PROCESS, SIGNALS, Interrupted

Run = Callable[..., None]

# dropout draws from the state that an epoch has at its middle
SMALL: dict[str, Any] = {**TINY, "features": [4, 8], "tile_size": 44, "dropout": 0.5, "steps_per_epoch": 4}


@pytest.fixture(autouse=True)
def sigint_is_taken() -> Iterator[None]:
    """What runs in the background of a shell inherits that Ctrl-C is ignored, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser and schedule to the last bit, and the table but for its column of seconds."""
    first, second = last(one), last(other)
    for part in ("network", "optimizer", "lr_scheduler", "epoch", "iteration", "best_metric", "best_metric_epoch"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    tables = [
        [[cell for column, cell in enumerate(line.split(",")) if column != 2] for line in text.splitlines()]
        for text in ((folder / "metrics.csv").read_text() for folder in (one, other))
    ]
    assert tables[0] == tables[1]
    models = [torch.load(folder / "model.pt", weights_only=True) for folder in (one, other)]
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)


class SignalIn:
    """Sends this process a signal in the n-th call of a class."""

    def __init__(self, kind: type, number: int, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        original = kind.__call__

        def call(step: Any, engine: Any, batch: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                signal.raise_signal(number)
            return original(step, engine, batch)

        monkeypatch.setattr(kind, "__call__", call)


@pytest.fixture(scope="module")
def whole(cells_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folder of an uninterrupted run, with so many workers."""
    folders: dict[int, Path] = {}

    def run(workers: int) -> Path:
        if workers not in folders:
            import monai.bundle

            folders[workers] = tmp_path_factory.mktemp("whole") / "run"
            settings = {**SMALL, "dataset_dir": cells_folder, "num_workers": workers}
            config = str(CONFIGS / "train.yaml")
            output = str(folders[workers])
            monai.bundle.run("training", config_file=config, logging_file=False, output_dir=output, **settings)
        return folders[workers]

    return run


@pytest.mark.parametrize(
    ("number", "at", "workers"),
    [(signal.SIGTERM, 2, 0), (signal.SIGUSR1, 4, 0), (signal.SIGINT, 7, 2)],
)
def test_a_signal_ends_the_step_and_the_resumed_run_equals_one_never_stopped(
    number: int,
    at: int,
    workers: int,
    whole: Callable[[int], Path],
    run_bundle: Run,
    cells_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**SMALL, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "num_workers": workers}
    before = [signal.getsignal(number) for number in SIGNALS]
    with monkeypatch.context() as patch:
        SignalIn(engines.TrainingStep, number, at, patch)
        with pytest.raises(Interrupted) as info:
            run_bundle("training", "train", **settings)
    assert info.value.code == 128 + number
    assert last(tmp_path / "run")["iteration"] == at
    assert "--resume True" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in SIGNALS] == before
    content = last(tmp_path / "run")
    assert content["handlers"]["logbook"]["seconds"] > 0
    content["handlers"]["logbook"]["seconds"] = 3600.0  # steps of an unfinished epoch took their time too
    checkpoint.save(content, tmp_path / "run" / "last.pt")
    run_bundle("training", "train", **settings, resume=True)
    assert_same_run(tmp_path / "run", whole(workers))
    assert read_table(tmp_path / "run" / "metrics.csv")[-1]["seconds"] > 3600


def test_a_signal_in_a_validation_loses_neither_epoch_nor_validation(
    whole: Callable[[int], Path], run_bundle: Run, cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    for resume in (False, True):
        with monkeypatch.context() as patch:
            SignalIn(engines.EvaluationStep, signal.SIGTERM, 2, patch)
            with pytest.raises(Interrupted):
                run_bundle("training", "train", **settings, resume=resume)
        assert (last(tmp_path / "run")["epoch"], last(tmp_path / "run")["iteration"]) == (0, 4)
    run_bundle("training", "train", **settings, resume=True)
    assert_same_run(tmp_path / "run", whole(0))


def test_checkpoints_within_an_epoch_change_nothing(
    whole: Callable[[int], Path], run_bundle: Run, cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    save = checkpoint.save

    def note(content: Any, path: Path) -> None:
        if path.name == "last.pt":
            written.append((content["epoch"], content["iteration"]))
        save(content, path)

    monkeypatch.setattr(checkpoint, "save", note)
    settings = {**SMALL, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **settings, checkpoint_minutes=1e-9)
    assert written == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (2, 8)]
    assert_same_run(tmp_path / "run", whole(0))


def test_poisoned_weights_reach_no_file_and_the_advice_works(
    run_bundle: Run, cells_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    calls = 0
    original = engines.TrainingStep.__call__

    def poisoned(step: Any, engine: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        output = original(step, engine, batch)
        if calls == 8:  # the last step of the second epoch, whose own loss is as good as any
            for weight in engine.network.parameters():
                weight.data *= 1e30
        return output

    with monkeypatch.context() as patch:
        patch.setattr(engines.TrainingStep, "__call__", poisoned)
        with pytest.raises(RuntimeError) as info:
            run_bundle("training", "train", **settings)
    error = cause(info.value)
    assert isinstance(error, FloatingPointError)
    for name in ("last.pt", "model.pt"):
        content = torch.load(tmp_path / "run" / name, weights_only=True)
        weights = [value for value in content.get("network", content).values() if value.is_floating_point()]
        assert max(float(value.abs().max()) for value in weights) < 100
    assert last(tmp_path / "run")["epoch"] == 1
    words = str(error).split()
    advice = {name: words[words.index(f"--{name}") + 1] for name in ("learning_rate", "resume")}
    assert advice == {"learning_rate": "0.0002", "resume": "True"}
    run_bundle("training", "train", **settings, learning_rate=0.0002, resume=True)
    assert last(tmp_path / "run")["epoch"] == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b"epoch,step\n1,x\n", None])
def test_rows_come_back_from_the_checkpoint(
    damage: bytes | None, run_bundle: Run, cells_folder: str, tmp_path: Path
) -> None:
    settings = {**SMALL, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run"), "val_interval": 2}
    run_bundle("training", "train", **{**settings, "max_epochs": 1})
    table = tmp_path / "run" / "metrics.csv"
    row = table.read_text().splitlines()[1]
    table.unlink()
    if damage is not None:
        table.write_bytes(damage)
    run_bundle("training", "train", **settings, resume=True)
    assert [line.split(",")[:2] for line in table.read_text().splitlines()] == [
        ["epoch", "step"],
        ["1", "4"],
        ["2", "8"],
    ]
    kept = table.read_text().splitlines()[1].split(",")
    assert kept[3:5] == row.split(",")[3:5]  # learning rate and loss; the clock of a lost table is lost
    if damage is not None:
        assert (tmp_path / "run" / "metrics.csv.damaged").read_bytes() == damage


def test_the_command_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    begin = ["python", "-m", "monai.bundle", "run", "training"]
    monkeypatch.setattr(sys, "orig_argv", [*begin, "--resume", "False", "--output_dir", "my run", "--learning_rate=1"])
    said = interruption.command({"learning_rate": "0.1", "resume": "True"})
    assert said == "python -m monai.bundle run training --output_dir 'my run' --learning_rate 0.1 --resume True"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = interruption.command({"resume": "True"})
    assert said.startswith(
        "python -m torch.distributed.run --standalone --nproc_per_node=2 -m monai.bundle run training --output_dir"
    )


def test_the_command_of_ours_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for begin in (["python", "-m", "unet_paper"], ["python", "/somewhere/bin/unet-paper"]):
        monkeypatch.setattr(sys, "orig_argv", [*begin, "train", "my cells", "--max_epochs", "9"])
        said = interruption.command({"resume": "True"})
        assert said == f"{' '.join(begin)} train 'my cells' --max_epochs 9 --resume True"
    monkeypatch.setattr(sys, "orig_argv", ["python", "mine.py"])
    assert interruption.command({"resume": "True"}) == "the same again with --resume True"


def test_a_second_ctrl_c_ends_the_process_within_an_operation() -> None:
    """One that takes long tells Python of no signal until it is done."""
    script = (
        "import signal, sys, hashlib, threading, time, os\n"
        "from unet_paper.running import signals\n"
        "signals.PROCESS.deferred = True\n"
        "with signals.PROCESS.listening():\n"
        "    signals.PROCESS.deferred = True\n"
        "    def press():\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(1.2); os.kill(os.getpid(), signal.SIGINT)\n"
        "    threading.Thread(target=press, daemon=True).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == 128 + signal.SIGINT


def test_a_process_that_outlives_the_run_does_not_hold_it_up() -> None:
    """As a data loader's may: forked, it has copies of what the listener waits on, and signals of its own."""
    script = (
        "import os, signal, sys, time\n"
        "from unet_paper.running import signals\n"
        "with signals.PROCESS.listening():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        "            time.sleep(60)\n"
        "    time.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "print(signals.PROCESS.received)\n"
        "os.kill(child, signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=50, capture_output=True, text=True)
    assert done.stdout == "0\n"
    assert "SIGTERM" not in done.stderr


def test_what_nohup_told_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with PROCESS.listening():
            signal.raise_signal(signal.SIGHUP)
            assert PROCESS.received == 0
            with pytest.raises(Interrupted, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_a_prediction_keeps_what_is_finished_and_the_same_command_does_the_rest(
    run_bundle: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(UNet(features=[4, 8]).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "images").mkdir()
    for name in "abc":
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", np.full((40, 40), ord(name), np.uint8))
    settings: dict[str, Any] = {
        "dataset_dir": str(tmp_path / "images"),
        "output_dir": str(tmp_path / "out"),
        "ckpt_path": str(tmp_path / "weights.pt"),
        "features": [4, 8],
        "cells_preset": "phantom",
        "grey_mean": 0.5,
        "grey_std": 0.17,
        "device": "cpu",
    }
    with monkeypatch.context() as patch:
        SignalIn(engines.EvaluationStep, signal.SIGTERM, 2, patch)
        with pytest.raises(Interrupted):
            run_bundle("run", "inference", **settings)
    assert "Go on with:" in capsys.readouterr().err
    assert [path.name for path in sorted((tmp_path / "out").glob("*_cells.tif"))] == ["a_cells.tif"]
    assert not list((tmp_path / "out").glob("*.part"))
    first = (tmp_path / "out" / "a_cells.tif").stat().st_mtime_ns
    run_bundle("run", "inference", **settings)
    assert len(list((tmp_path / "out").glob("*_cells.tif"))) == 3
    assert (tmp_path / "out" / "a_cells.tif").stat().st_mtime_ns == first


@pytest.mark.skipif(sys.platform != "linux", reason="stacks of signal handlers are ours on Linux alone")
@pytest.mark.parametrize("left", ["munmap(start, size)", "sigaltstack(byref(Stack(start, 0, 2048)), None)"])
def test_a_signal_is_survived_where_a_library_has_left_its_stack_freed_or_small(left: str) -> None:
    script = (
        "import signal\n"
        "from ctypes import CDLL, byref, c_void_p\n"
        "from unet_paper.running.signals import PROCESS, Interrupted, _Stack as Stack\n"
        "libc, size = CDLL(None), 65536\n"
        "libc.mmap.restype = c_void_p\n"
        "start = libc.mmap(None, size, 3, 0x22, -1, 0)\n"
        "munmap = lambda start, size: libc.munmap(c_void_p(start), size)\n"
        "sigaltstack = libc.sigaltstack\n"
        "assert not sigaltstack(byref(Stack(start, 0, size)), None)\n"
        f"assert not {left}\n"
        "try:\n"
        "    with PROCESS.listening():\n"
        "        signal.raise_signal(signal.SIGUSR1)\n"
        "except Interrupted:\n"
        "    print('survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr
