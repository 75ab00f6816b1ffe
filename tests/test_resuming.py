"""Resuming with a config that has changed: what can be applied is applied and said, the rest refused naming both."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from conftest import CONFIGS, TINY
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, PolynomialLR

from unet_paper.instances import PRESETS
from unet_paper.running import facts, resuming
from unet_paper.running.settings import cause

Run = Callable[..., None]


def rates(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["learning_rate"]) for row in csv.DictReader(file)]


@pytest.fixture
def begun(run_bundle: Run, cells_folder: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run of one epoch that lies in its folder."""
    settings = {**TINY, "steps_per_epoch": 2, "dataset_dir": cells_folder, "output_dir": str(tmp_path / "run")}
    run_bundle("training", "train", **{**settings, "max_epochs": 1})
    return settings


def test_what_can_be_applied_is_applied_and_said(
    begun: dict[str, Any], run_bundle: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rate falls to zero with the schedule of two epochs of a run that had one, at another height."""
    changed = {"learning_rate": 0.0005, "max_epochs": 2, "flip": True, "batch_size": 2, "optimizer#weight_decay": 0.01}
    with caplog.at_level(logging.INFO):
        run_bundle("training", "train", **{**begun, **changed}, resume=True)
    (line,) = (record.getMessage() for record in caplog.records if "changed since" in record.getMessage())
    for part in (
        "learning_rate 0.002 -> 0.0005",
        "max_epochs 1 -> 2",
        "flip False -> True",
        "batch_size 1 -> 2",
        "weight_decay 0 -> 0.01",
        "total_iters 2 -> 4",
    ):
        assert part in line
    assert rates(tmp_path / "run") == pytest.approx([0.0, 0.0], abs=1e-12)
    group = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.0005, 0.01)


def test_more_epochs_of_a_decaying_schedule_go_on_as_if_they_had_always_been_there(
    begun: dict[str, Any], run_bundle: Run, tmp_path: Path
) -> None:
    run_bundle("training", "train", **{**begun, "max_epochs": 4, "val_interval": 4}, resume=True)
    # of 8 steps the 4th, 6th and 8th are done: base rate times (1 - done / 8) ** 0.9
    expected = [0.002 * (1 - done / 8) ** 0.9 for done in (4, 6, 8)]
    assert rates(tmp_path / "run")[1:] == pytest.approx(expected, rel=1e-6)


def test_other_steps_per_epoch_go_on_where_a_run_of_such_epochs_would_be(
    begun: dict[str, Any], run_bundle: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rate falls to zero with the last step, not before it and not later; the weights know all steps."""
    shorter = {"max_epochs": 4, "steps_per_epoch": 1, "val_interval": 4}
    with caplog.at_level(logging.INFO):
        run_bundle("training", "train", **{**begun, **shorter}, resume=True)
    assert "1 steps an epoch, of 2 before: of the 2 steps done, epochs of now count 1" in caplog.text
    assert facts.read(tmp_path / "run" / "model.pt").trained_with("trained_steps") == 2 + 3
    expected = [0.002 * (1 - done / 4) ** 0.9 for done in (2, 3, 4)]
    assert rates(tmp_path / "run")[1:] == pytest.approx(expected, rel=1e-6)


def test_a_run_goes_on_at_one_rate_without_a_schedule(begun: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr_scheduler: null\n")
    files = [str(CONFIGS / "train.yaml"), str(tmp_path / "own.yaml")]
    given = {**begun, "max_epochs": 2, "resume": True}
    monai.bundle.run(run_id="training", config_file=files, logging_file=False, **given)
    assert rates(tmp_path / "run") == [0.0, 0.002]


def test_nothing_is_said_where_nothing_has_changed(
    begun: dict[str, Any], run_bundle: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run_bundle("training", "train", **{**begun, "max_epochs": 1}, resume=True)
    assert "changed since" not in caplog.text
    assert "all 1 epochs are done" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"}},
            "optimiser Adam, the config has SGD",
        ),
        ({"fold": 1}, "fold 0 there and 1 here"),
        ({"folds": 4}, "folds 2 there and 4 here"),
        ({"features": [4, 8, 12]}, r"(16, 8, 3, 3) there and (12, 8, 3, 3)"),
        ({"preset": "phseg_v5"}, "--preset 'paper'"),
    ],
)
def test_what_cannot_be_applied_is_refused_naming_both(
    changed: dict[str, Any], message: str, begun: dict[str, Any], run_bundle: Run, tmp_path: Path
) -> None:
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises((RuntimeError, ValueError)) as info:
        run_bundle("training", "train", **{**begun, "max_epochs": 2, **changed}, resume=True)
    assert message in str(cause(info.value))
    assert "resume=" in str(cause(info.value))
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def _facts(**images: Any) -> facts.Facts:
    return facts.Facts(
        in_channels=1, out_channels=2, features=[2, 4], preset="paper", dropout=0.0, grey_mean=0.4, grey_std=0.1,
        magnification=1.0, cells_preset="folder", cells=PRESETS["folder"], training={"images": images},
    )  # fmt: skip


def test_more_training_images_are_said_and_other_validation_images_refused() -> None:
    before = _facts(training=8, validation=2, held_out="ab", files={".tif": 10})
    more = _facts(training=9, validation=2, held_out="ab", files={".tif": 11})
    assert resuming.compare(before, more, "last.pt") == {"training images": (8, 9)}
    assert resuming.compare(before, before, "last.pt") == {}
    with pytest.raises(ValueError, match="images were added or taken away"):
        resuming.compare(before, _facts(training=8, validation=2, held_out="cd"), "last.pt")


def _training(schedule: Any = PolynomialLR, rate: float = 0.1, **arguments: Any) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate, momentum=0.9)
    return optimizer, schedule(optimizer, **arguments)


def _content(steps: int) -> dict[str, Any]:
    optimizer, schedule = _training(total_iters=10)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    return {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "identity": resuming.identity(optimizer, schedule),
    }


def test_another_schedule_holds_as_if_it_had_been_there_from_the_first_step() -> None:
    optimizer, schedule = _training(ConstantLR, factor=0.5, total_iters=6)
    changed = resuming.restore(_content(4), optimizer, schedule, "last.pt")
    assert changed["lr_scheduler"] == ("PolynomialLR", "ConstantLR")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_an_unchanged_config_restores_the_state_to_the_last_bit() -> None:
    content = _content(7)
    optimizer, schedule = _training(total_iters=10)
    assert resuming.restore(content, optimizer, schedule, "last.pt") == {}
    assert optimizer.state_dict() == content["optimizer"]
    assert schedule.state_dict() == content["lr_scheduler"]


def test_checkpoints_from_before_identities_were_written_are_understood() -> None:
    content = _content(3)
    del content["identity"]
    optimizer, schedule = _training(rate=0.05, total_iters=10)
    changed = resuming.restore(content, optimizer, schedule, "last.pt")
    assert changed["lr"] == (0.1, 0.05)
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="optimiser SGD, the config has Adam"):
        resuming.restore(content, adam, None, "last.pt")


Made = tuple[Any, Any]


def _stepped(optimizer: Any, schedule: Any, steps: int) -> None:
    (parameter,) = optimizer.param_groups[0]["params"]
    for _ in range(steps):
        parameter.grad = parameter.detach().clone()
        optimizer.step()
        schedule.step(*((1.0,) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else ()))


def _saved(made: Made, steps: int, tmp_path: Path) -> dict[str, Any]:
    """Of a run, what a checkpoint on disk gives back."""
    optimizer, schedule = made
    _stepped(optimizer, schedule, steps)
    states = {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    torch.save({**states, "identity": resuming.identity(*made)}, tmp_path / "last.pt")
    content: dict[str, Any] = torch.load(tmp_path / "last.pt", weights_only=True)
    return content


def _made(schedule: Callable[[Any], Any], optimizer: Callable[..., Any] = SGD, **numbers: Any) -> Made:
    numbers = {"lr": 0.1, **({"momentum": 0.9} if optimizer is SGD else {}), **numbers}
    made = optimizer([torch.nn.Parameter(torch.ones(2))], **numbers)
    return made, schedule(made)


def _warmed_up(steps: int) -> Callable[[Any], Any]:
    return lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), PolynomialLR(o, total_iters=steps)], milestones=[2]
    )


def _both(steps: int) -> Callable[[Any], Any]:
    return lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=2), PolynomialLR(o, total_iters=steps)]
    )


def _plateau(patience: int) -> Callable[[Any], Any]:
    return lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=patience)


def _one_cycle(steps: int) -> Callable[[Any], Any]:
    return lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=steps)


@pytest.mark.parametrize(
    "schedule",
    [
        _warmed_up(6),
        _both(6),
        _plateau(1),
        _one_cycle(9),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
        lambda o: lr_scheduler.MultiStepLR(o, [3, 6]),
    ],
)
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_of_any_schedule_unchanged_nothing_is_said_and_the_state_is_restored(
    schedule: Callable[[Any], Any], optimizer: Any, tmp_path: Path
) -> None:
    content = _saved(_made(schedule, optimizer), 5, tmp_path)
    made = _made(schedule, optimizer)
    assert resuming.restore(content, *made, "last.pt") == {}
    assert made[0].state_dict()["param_groups"] == content["optimizer"]["param_groups"]
    assert made[1].state_dict() == content["lr_scheduler"]


@pytest.mark.parametrize("schedule", [_warmed_up, _both])
def test_more_steps_of_a_schedule_within_another_hold_and_are_said(
    schedule: Callable[[int], Callable[[Any], Any]], tmp_path: Path
) -> None:
    """The old one is at its end after these steps: the rate would be zero to the end."""
    content = _saved(_made(schedule(4)), 6, tmp_path)
    made, whole = _made(schedule(20)), _made(schedule(20))
    assert resuming.restore(content, *made, "last.pt") == {"total_iters": (4, 20)}
    _stepped(*whole, 6)
    assert made[0].param_groups[0]["lr"] == pytest.approx(whole[0].param_groups[0]["lr"])
    assert made[0].param_groups[0]["lr"] > 0.05


def test_a_schedule_within_another_may_be_of_another_kind(tmp_path: Path) -> None:
    content = _saved(_made(_warmed_up(4)), 3, tmp_path)
    made = _made(
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
        )
    )
    assert resuming.restore(content, *made, "last.pt")["gamma"] == (None, 0.5)
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_numbers_of_a_schedule_that_follows_the_scores_hold_and_what_it_has_seen_is_kept(tmp_path: Path) -> None:
    content = _saved(_made(_plateau(1)), 3, tmp_path)  # two without a better score: the rate has fallen once
    made = _made(_plateau(5))
    assert resuming.restore(content, *made, "last.pt") == {"patience": (1, 5)}
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.01)
    assert (made[1].patience, made[1].best) == (5, 1.0)
    _stepped(*made, 5)
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.01)
    _stepped(*made, 1)
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.001)
    lower = _made(_plateau(1), lr=0.05)
    assert resuming.restore(content, *lower, "last.pt") == {"lr": (0.1, 0.05)}
    assert lower[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_schedule_that_follows_the_scores_in_place_of_another_begins_at_the_rate_that_is_given(
    tmp_path: Path,
) -> None:
    content = _saved(_made(lambda o: PolynomialLR(o, total_iters=10)), 9, tmp_path)
    made = _made(_plateau(3))
    assert set(resuming.restore(content, *made, "last.pt")) == {"lr_scheduler"}
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_run_may_go_on_without_its_schedule_or_with_its_first_one(tmp_path: Path) -> None:
    """Without one at the rate that is given, not at what was left of it; with one as if it had always been there."""

    def polynomial(made: Any) -> Any:
        return PolynomialLR(made, total_iters=10)

    content = _saved(_made(polynomial), 10, tmp_path)
    made = _made(lambda _: None)
    assert resuming.restore(content, *made, "last.pt") == {"lr_scheduler": ("PolynomialLR", None)}
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.1)
    without = {"lr_scheduler": {}, "identity": resuming.identity(*made), "iteration": 4, "epoch": 2, "epoch_length": 2}
    begun = _made(polynomial)
    changed = resuming.restore({**content, **without}, *begun, "last.pt", 2)
    assert changed == {"lr_scheduler": (None, "PolynomialLR")}
    assert begun[0].param_groups[0]["lr"] == pytest.approx(0.06)
    assert resuming.restore({**content, **without}, *_made(lambda _: None), "last.pt", 2) == {}


def test_a_schedule_that_ends_before_the_steps_that_are_done_is_refused_by_name(tmp_path: Path) -> None:
    content = _saved(_made(_one_cycle(9)), 5, tmp_path)
    with pytest.raises(ValueError, match=r"resume=last.pt: 5 steps are done, and the lr_scheduler OneCycleLR.*epochs"):
        resuming.restore(content, *_made(_one_cycle(3)), "last.pt")
    changed = resuming.restore(content, *_made(_one_cycle(12)), "last.pt")
    assert changed == {"total_steps": (9, 12)}


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        (Adam, {"amsgrad": True}),
        (AdamW, {"amsgrad": True}),
        (RMSprop, {"momentum": 0.9}),
        (RMSprop, {"centered": True}),
        (SGD, {"momentum": 0.5}),
    ],
)
def test_what_an_optimiser_did_not_keep_before_begins_now(
    optimizer: Any, numbers: dict[str, Any], tmp_path: Path
) -> None:
    """Adam's first maximum is that of the next step; what others begin with is zero, as in their first step."""

    def schedule(made: Any) -> Any:
        return PolynomialLR(made, total_iters=10)

    content = _saved(_made(schedule, optimizer, **({"momentum": 0.0} if optimizer is SGD else {})), 4, tmp_path)
    made = _made(schedule, optimizer, **numbers)
    (name,) = numbers
    changed = resuming.restore(content, *made, "last.pt")
    assert {name: now for name, (_, now) in changed.items()} == numbers
    _stepped(*made, 2)
    assert bool(torch.isfinite(made[0].param_groups[0]["params"][0]).all())
    if name == "amsgrad":
        (state,) = made[0].state.values()
        assert torch.all(state["max_exp_avg_sq"] >= state["exp_avg_sq"])
