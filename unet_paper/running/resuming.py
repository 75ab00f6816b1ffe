"""Going on with a run whose config has changed since: what can be applied is applied and said, the rest is refused.

A learning rate, a schedule or other numbers of the optimiser hold from the next step on, as if the schedule had been
the new one from the first step: a run of 10 epochs that decays to zero, resumed with 20, goes on at the rate that a run
of 20 has after 10. Other networks, other optimisers and other validation images are another run: that starts from the
weights of this one, with ``fine_tune.yaml``.
"""

import dataclasses
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

if TYPE_CHECKING:
    from unet_paper.running.facts import Facts

logger = logging.getLogger(__name__)

# of a schedule's state: what changes while it runs, of the schedules in it too
_RUNNING = (
    *("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "_schedulers", "base_lrs"),
    *("T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"),
)
# what optimisers keep for a parameter where one of their numbers is not 0 or false, and cannot begin without
_KEPT_FOR = {
    "Adam": {"amsgrad": "max_exp_avg_sq"},
    "AdamW": {"amsgrad": "max_exp_avg_sq"},
    "RMSprop": {"centered": "grad_avg", "momentum": "momentum_buffer"},
}
_NOT_COMPARED = ("versions", "start", "cells", "threshold", "min_size")
_ANOTHER_RUN = "start a run of its own from these weights: take the config fine_tune and --pretrained"


def identity(optimizer: torch.optim.Optimizer, lr_scheduler: Any) -> dict[str, Any]:
    """What a checkpoint must hold of optimiser and schedule besides their states, to notice that they are others."""
    return {
        "optimizer": type(optimizer).__name__,
        "hyperparameters": _hyperparameters(optimizer),
        "lr_scheduler": None if lr_scheduler is None else type(lr_scheduler).__name__,
    }


def restore(
    content: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    lr_scheduler: Any,
    source: str,
    epoch_length: int | None = None,
) -> dict[str, tuple[Any, Any]]:
    """Put the state of a checkpoint into optimiser and schedule, and keep what their config has changed since.

    Args:
        content: of ``last.pt``.
        optimizer: as the config makes it.
        lr_scheduler: as the config makes it, or None.
        source: the checkpoint, for errors.
        epoch_length: steps of an epoch from here on; None: as many as before.

    Returns:
        What has changed: before and now, by name.

    Raises:
        ValueError: another optimiser, or a schedule that ends before the steps that are done.
    """
    before = content.get("identity") or _guess(content)
    now = identity(optimizer, lr_scheduler)
    if before["optimizer"] != now["optimizer"]:
        raise ValueError(
            f"resume={source}: was trained with the optimiser {before['optimizer']}, the config has "
            f"{now['optimizer']}; go on with {before['optimizer']}, or {_ANOTHER_RUN} {source}"
        )
    configured = [dict(group) for group in optimizer.param_groups]
    changed = {
        name: (before["hyperparameters"][name], value)
        for name, value in now["hyperparameters"].items()
        if name in before["hyperparameters"] and before["hyperparameters"][name] != value
    }
    fresh = {} if lr_scheduler is None else lr_scheduler.state_dict()
    optimizer.load_state_dict(content["optimizer"])
    for group, given in zip(optimizer.param_groups, configured, strict=True):
        group.update({name: given[name] for name in changed if name != "lr"})
        if "lr" in changed:
            _take_rate(group, {**given, "lr": given.get("initial_lr", given["lr"])})
    _begin_what_is_missing(optimizer, changed)

    saved = dict(content["lr_scheduler"])
    other = _other_numbers(saved, fresh)
    is_another = before["lr_scheduler"] != now["lr_scheduler"]
    if is_another:
        other["lr_scheduler"] = (before["lr_scheduler"], now["lr_scheduler"])
    steps = _steps(content, saved, epoch_length)
    by_steps = not (lr_scheduler is None or isinstance(lr_scheduler, ReduceLROnPlateau))
    anew = bool(other or "lr" in changed or steps != _position(saved)) if by_steps else is_another
    if anew:
        for group, given in zip(optimizer.param_groups, configured, strict=True):
            _take_rate(group, given)
        if by_steps:
            _fast_forward(lr_scheduler, steps, source)
    elif lr_scheduler is not None:
        # other numbers of one that follows the scores hold beside what it has seen
        lr_scheduler.load_state_dict({**saved, **{name: fresh[name] for name in other}})
    # what a schedule works out for itself says nothing beside what it was given
    given_anew = {name: values for name, values in other.items() if not name.startswith("_")}
    return changed | (given_anew or other)


def compare(before: "Facts | None", now: "Facts | None", source: str) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that are others than those of its checkpoint.

    Args:
        before: facts of the checkpoint; None if it has none.
        now: facts of the config.
        source: the checkpoint, for errors.

    Returns:
        Before and now, by name; all of them can be applied.

    Raises:
        ValueError: for other validation images, which the network may have learnt from.
    """
    if before is None or now is None:
        return {}
    old, new = _settings(before), _settings(now)
    # Counts of images and what selects them come first in the message.
    held_out = [(facts.training.get("images") or {}).get("held_out") for facts in (before, now)]
    if None not in held_out and held_out[0] != held_out[1]:
        selects = [name for name in ("data", "fold", "folds") if old.get(name) != new.get(name)]
        both = ", ".join(f"{name} {old.get(name)} there and {new.get(name)} here" for name in selects)
        raise ValueError(
            f"resume={source}: was validated on other images than these ({both or 'images were added or taken away'}): "
            f"the network may have learnt what it would be scored on; go on with the former, or {_ANOTHER_RUN} {source}"
        )
    changed = {name: (old[name], new[name]) for name in new if name in old and old[name] != new[name]}
    counts = [(facts.training.get("images") or {}).get("training") for facts in (before, now)]
    if None not in counts and counts[0] != counts[1]:
        changed["training images"] = (counts[0], counts[1])
    return changed


def begun_as(before: "Facts | None", now: "Facts | None") -> "Facts | None":
    """Facts of a run that goes on: what it began with is what its checkpoint says, whatever the config names by now."""
    if before is None or now is None or "start" not in before.training:
        return now
    return dataclasses.replace(now, training={**now.training, "start": before.training["start"]})


def say(changed: Mapping[str, tuple[Any, Any]], source: str) -> None:
    """One line of what is applied."""
    if changed:
        listed = ", ".join(f"{name.lstrip('_')} {before} -> {now}" for name, (before, now) in changed.items())
        logger.warning("resume: changed since %s, and applied from here on: %s", source, listed)


def _hyperparameters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    # schedules that go up and down move the momentum too
    moved = ("momentum", "betas") if "base_momentum" in group else ()
    numbers = {name: value for name, value in group.items() if name not in ("params", "initial_lr", *moved)}
    # a schedule that notes no first rate may have lowered that of the group
    numbers["lr"] = group.get("initial_lr", optimizer.defaults.get("lr", group["lr"]))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}


def _guess(content: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a checkpoint from before it was written down."""
    group = dict(content["optimizer"]["param_groups"][0])
    names = {"Adam": "betas", "SGD": "nesterov", "Adadelta": "rho", "RMSprop": "alpha", "Adagrad": "lr_decay"}
    optimizer = next((name for name, sign in names.items() if sign in group), "another optimiser")
    numbers = {"lr": group.get("initial_lr", group["lr"])}
    return {"optimizer": optimizer, "hyperparameters": numbers, "lr_scheduler": None}


def _take_rate(group: dict[str, Any], given: Mapping[str, Any]) -> None:
    group.update(lr=given["lr"], initial_lr=given.get("initial_lr", given["lr"]))


def _begin_what_is_missing(optimizer: torch.optim.Optimizer, changed: Mapping[str, Any]) -> None:
    """Begin at zero what the optimiser keeps from now on and did not keep before."""
    kept = _KEPT_FOR.get(type(optimizer).__name__, {})
    for name in (kept[number] for number in changed if number in kept):
        for parameter, state in optimizer.state.items():
            state.setdefault(name, torch.zeros_like(parameter, memory_format=torch.preserve_format))


def _other_numbers(saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Numbers of a schedule, and of the schedules in it, that are others than those of a checkpoint."""
    other = {
        name: (saved[name], value)
        for name, value in fresh.items()
        if name not in _RUNNING and name in saved and saved[name] != value
    }
    before, now = (state.get("_schedulers", ()) for state in (saved, fresh))
    if len(before) != len(now):
        other["schedules"] = (len(before), len(now))
    for one, another in zip(before, now, strict=False):
        # of another kind where it has other numbers
        names = [name for name in {**one, **another} if name not in _RUNNING]
        alone = {name: (one.get(name), another.get(name)) for name in names if (name in one) != (name in another)}
        other |= alone | _other_numbers(one, another)
    return other


def _position(schedule: Mapping[str, Any]) -> int:
    """Steps that a schedule has done, by its state."""
    if "last_epoch" in schedule:
        return int(schedule["last_epoch"])
    return max((_position(part) for part in schedule.get("_schedulers", ())), default=0)


def _steps(content: Mapping[str, Any], schedule: Mapping[str, Any], epoch_length: int | None) -> int:
    """Steps that a schedule would have done in the epochs of a checkpoint, had they always had so many steps."""
    done = _position(schedule) if schedule else int(content.get("iteration", 0))
    length = content.get("epoch_length", epoch_length)
    by_steps = done == content.get("iteration")
    if epoch_length is None or epoch_length == length or not by_steps:
        return done
    return int(content["epoch"]) * epoch_length


def _fast_forward(lr_scheduler: LRScheduler, steps: int, source: str) -> None:
    """The schedule as it is configured now, after so many steps."""
    with warnings.catch_warnings():
        # the steps of the optimiser lie in an earlier process
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        try:
            for _ in range(steps):
                lr_scheduler.step()
        except ValueError as error:
            raise ValueError(
                f"resume={source}: {steps} steps are done, and the lr_scheduler {type(lr_scheduler).__name__} has "
                f"fewer ({error}); give more with --max_epochs"
            ) from error


def _settings(facts: "Facts") -> dict[str, Any]:
    found = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name != "training"}
    found |= {name: value for name, value in facts.training.items() if name != "images"}
    return {name: value for name, value in found.items() if name not in _NOT_COMPARED}
