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

# of a schedule's state: what changes while it runs
_RUNNING = ("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "_schedulers")
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
    content: Mapping[str, Any], optimizer: torch.optim.Optimizer, lr_scheduler: Any, source: str
) -> dict[str, tuple[Any, Any]]:
    """Put the state of a checkpoint into optimiser and schedule, and keep what their config has changed since.

    Args:
        content: of ``last.pt``.
        optimizer: as the config makes it.
        lr_scheduler: as the config makes it, or None.
        source: the checkpoint, for errors.

    Returns:
        What has changed: before and now, by name.

    Raises:
        ValueError: another optimiser.
    """
    before = content.get("identity") or _guess(content)
    now = identity(optimizer, lr_scheduler)
    if before["optimizer"] != now["optimizer"]:
        raise ValueError(
            f"resume={source}: was trained with the optimiser {before['optimizer']}, the config has "
            f"{now['optimizer']}; go on with {before['optimizer']}, or {_ANOTHER_RUN} {source}"
        )
    wanted, configured = now["hyperparameters"], [dict(group) for group in optimizer.param_groups]
    fresh = {} if lr_scheduler is None else lr_scheduler.state_dict()
    changed = {
        name: (before["hyperparameters"][name], value)
        for name, value in wanted.items()
        if name in before["hyperparameters"] and before["hyperparameters"][name] != value
    }
    optimizer.load_state_dict(content["optimizer"])
    for group, given in zip(optimizer.param_groups, configured, strict=True):
        group.update({name: given[name] for name in changed if name != "lr"})
        if "lr" in changed:
            group["lr"] = given.get("initial_lr", given["lr"])
            group["initial_lr"] = group["lr"]
    if lr_scheduler is not None:
        saved = dict(content["lr_scheduler"])
        other = {
            name: (saved[name], value)
            for name, value in fresh.items()
            if name not in (*_RUNNING, "base_lrs") and name in saved and saved[name] != value
        }
        if before["lr_scheduler"] != now["lr_scheduler"]:
            other["lr_scheduler"] = (before["lr_scheduler"], now["lr_scheduler"])
        changed |= other
        if (other or "lr" in changed) and not isinstance(lr_scheduler, ReduceLROnPlateau):
            for group, given in zip(optimizer.param_groups, configured, strict=True):
                group.update(lr=given["lr"], initial_lr=given.get("initial_lr", given["lr"]))
            _fast_forward(lr_scheduler, int(saved.get("last_epoch", 0)))
        else:
            lr_scheduler.load_state_dict(saved)
    return changed


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
        listed = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changed.items())
        logger.warning("resume: changed since %s, and applied from here on: %s", source, listed)


def _hyperparameters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    numbers = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
    numbers["lr"] = group.get("initial_lr", group["lr"])
    return {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}


def _guess(content: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a checkpoint from before it was written down."""
    group = dict(content["optimizer"]["param_groups"][0])
    names = {"Adam": "betas", "SGD": "nesterov", "Adadelta": "rho", "RMSprop": "alpha", "Adagrad": "lr_decay"}
    optimizer = next((name for name, sign in names.items() if sign in group), "another optimiser")
    numbers = {"lr": group.get("initial_lr", group["lr"])}
    return {"optimizer": optimizer, "hyperparameters": numbers, "lr_scheduler": None}


def _fast_forward(lr_scheduler: LRScheduler, steps: int) -> None:
    """The schedule as it is configured now, after so many steps."""
    with warnings.catch_warnings():
        # the steps of the optimiser lie in an earlier process
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for _ in range(steps):
            lr_scheduler.step()


def _settings(facts: "Facts") -> dict[str, Any]:
    found = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name != "training"}
    found |= {name: value for name, value in facts.training.items() if name != "images"}
    return {name: value for name, value in found.items() if name not in _NOT_COMPARED}
