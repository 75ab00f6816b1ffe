"""Runs in blocks end well on signals, own their folder, put all into place or nothing, and overwrite nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_large_job import CELLS, Job, cells_of, picture, write_store
from test_large_job import job as job
from test_large_job import weights as weights

from unet_paper.large import results, runners, tasks
from unet_paper.running.lock import FolderInUseError, FolderLock
from unet_paper.running.signals import SIGNALS, Interrupted

SHAPE = (70, 90)


@pytest.fixture(autouse=True)
def sigint_is_taken() -> Iterator[None]:
    """What runs in the background of a shell inherits that Ctrl-C is ignored, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_store(tmp_path / "image.zarr", picture(SHAPE))


@pytest.fixture
def run(job: Job, small: Path) -> Callable[..., Any]:
    return lambda **settings: job(small, cells=CELLS, **settings).run()


@pytest.fixture
def heard() -> Iterator[None]:
    """Every signal as a terminal gives it; those that the background of a shell or nohup ignores stay ignored."""
    usual = {number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["image_cells.csv", "image_cells.zarr"])
def test_a_result_of_which_a_part_is_gone_is_not_finished(name: str, run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cells = run(output_dir=out)["cells"]
    (out / name).rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=f"{name}: is gone, and .*image_summary.json says that it was written"):
        run(output_dir=out)
    # the remedy
    for path in out.glob("image_*"):
        path.rename(tmp_path / f"old_{path.name}")
    assert run(output_dir=out)["cells"] == cells
    assert (out / name).exists()


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_a_signal_ends_it_at_once_with_a_line_and_the_rest_is_done_later(
    number: int,
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(output_dir=tmp_path / "whole")
    work = tasks.Case.run
    done: list[tuple[str, int]] = []

    def signalled(self: tasks.Case, stage: str, index: int) -> None:
        if len(done) == 5:
            signal.raise_signal(number)
        work(self, stage, index)
        done.append((stage, index))

    before = [signal.getsignal(each) for each in SIGNALS]
    with monkeypatch.context() as patch:
        patch.setattr(tasks.Case, "run", signalled)
        with pytest.raises(Interrupted) as info:
            run()
    assert info.value.code == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before
    said = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name}; what was finished is in {tmp_path / 'out'}. Go on with:" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["image_work"]
    run()
    np.testing.assert_array_equal(cells_of(tmp_path / "out"), cells_of(tmp_path / "whole"))


def test_processes_are_ended_in_the_middle_of_a_task() -> None:
    import time

    began = time.monotonic()
    pool = runners.ProcessPoolExecutor(1)
    processes = runners.Processes(1)
    processes._pool = pool
    pool.submit(time.sleep, 300)
    processes.kill()
    processes.close()
    assert time.monotonic() - began < 60


def test_a_folder_with_another_run_in_it_is_refused_naming_it_and_parts_work_side_by_side(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    other = FolderLock(tmp_path / "out")
    other.acquire()
    with pytest.raises(FolderInUseError, match=f"out: is in use by another run: process {os.getpid()} on"):
        run()
    other.release()

    shared: list[str] = []
    work = tasks.Case.run

    def watching(self: tasks.Case, stage: str, index: int) -> None:
        if not shared:
            shared.extend(path.name for path in (tmp_path / "out" / ".shared").iterdir())
            assert run(part="2/2") is None
            for refused in ({"part": "1/2"}, {"part": "2/2", "block": 32}, {}):
                with pytest.raises(FolderInUseError):
                    run(**refused)
        work(self, stage, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.Case, "run", watching)
        run(part="1/2")
    assert [name.partition(".")[2] for name in shared] == ["1_of_2"]
    assert run()["cells"] > 0
    assert not (tmp_path / "out" / ".shared").exists()


@pytest.mark.parametrize("labels", ["ome-zarr-0.5", "tiff"])
def test_a_run_that_dies_while_it_puts_its_results_into_place_goes_on(
    labels: str, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"labels": labels, "probability": None}
    expected = run(**settings, output_dir=tmp_path / "whole")
    for moved in range(3):
        out = tmp_path / f"died_{moved}"
        calls = 0

        def dying(source: Path, target: Path, last: int = moved) -> None:
            nonlocal calls
            if calls == last:
                raise KeyboardInterrupt
            calls += 1
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(results, "_move", dying)
            with pytest.raises(KeyboardInterrupt):
                run(**settings, output_dir=out)
        assert run(**settings, output_dir=out)["cells"] == expected["cells"]
        assert sorted(path.name for path in out.iterdir()) == sorted(
            path.name for path in (tmp_path / "whole").iterdir()
        )
        assert (out / "image_cells.csv").read_bytes() == (tmp_path / "whole" / "image_cells.csv").read_bytes()


@pytest.mark.parametrize("taken", ["image_cells.zarr", "image_cells.csv", "image_summary.json"])
def test_what_is_the_users_is_not_written_over(taken: str, run: Callable[..., Any], tmp_path: Path) -> None:
    mine = tmp_path / "out" / taken
    mine.parent.mkdir()
    if mine.suffix == ".zarr":
        (mine / "0").mkdir(parents=True)
    else:
        mine.write_text("{}")
    with pytest.raises(FileExistsError, match=f"{taken}: .*move it away"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [taken]
