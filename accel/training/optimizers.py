"""Optimizers with one learning rate for each parameter group, and the learning-rate schedule."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from accel import config as c


def build_optimizer(model: nn.Module, config: c.TrainConfig) -> torch.optim.Optimizer:
    """Build SGD or AdamW over the trainable parameters.

    Every group carries its `multiplier` (`train.lr_multipliers`; the first matching pattern counts). Weight decay
    applies only to matrices and kernels, unless `train.optimizer.decay` says that it applies to biases and
    normalisation, too. It does not apply to the offsets of learned sampling, which are positions.

    Raises ValueError for a pattern that matches nothing.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    unused = set(config.lr_multipliers)
    decays_all = config.optimizer.name == "sgd" and config.optimizer.decay == "all"
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        pattern = next((p for p in config.lr_multipliers if fnmatchcase(name, p)), None)
        unused.discard(pattern)
        multiplier = 1.0 if pattern is None else config.lr_multipliers[pattern]
        decays = (parameter.dim() > 1 or decays_all) and name.rpartition(".")[2] != "offsets"
        groups.setdefault((multiplier, decays), []).append(parameter)
    if unused:
        raise ValueError(
            f"train.lr_multipliers: no trainable parameter is called {' or '.join(sorted(unused))}; "
            f"names look like {next(name for name, _ in model.named_parameters())}"
        )
    if not groups:
        raise ValueError("train.freeze leaves nothing to train")
    settings = config.optimizer
    parameters = [
        {"params": p, "multiplier": multiplier, "weight_decay": settings.weight_decay if decay else 0.0}
        for (multiplier, decay), p in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(parameters, lr=settings.lr)


def learning_rate(step: int, config: c.TrainConfig) -> float:
    """Return the base rate at step 0, 1, ...: warm-up, then (1 - progress) ** power, and a tenth after each drop."""
    schedule, peak = config.schedule, config.optimizer.lr
    peak *= 0.1 ** sum(step >= round(drop * config.steps) for drop in schedule.drops)
    if step < schedule.warmup_steps:
        if schedule.warmup_from is not None:
            risen = step / max(1, schedule.warmup_steps - 1)  # 1 at the last step of it
            return peak * (schedule.warmup_from + (1 - schedule.warmup_from) * risen)
        return schedule.warmup_lr or peak * (step + 1) / (schedule.warmup_steps + 1)
    progress = (step - schedule.warmup_steps) / max(1, config.steps - schedule.warmup_steps)
    return peak * (1 - progress) ** schedule.power


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
