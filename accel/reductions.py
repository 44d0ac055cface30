"""Sums over the processes of a run. In a run of one process they cost nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def shared_count(count: Tensor) -> Tensor:
    """What a process divides its sum by, so that the mean over the processes is the mean over all that was counted.

    count: how many pixels (or cells) this process has summed over, or the sum of their weights. All processes call this
    together. Their gradients are averaged, so the divisor is the mean of their counts: a process with few labelled
    pixels then weighs little, as it would in one large batch. 1 where nothing was counted at all.
    """
    count = count.detach()
    if world_size() == 1:
        return torch.where(count > 0, count, 1)
    count = count.to(torch.float64)
    dist.all_reduce(count)
    return (torch.where(count > 0, count, 1) / world_size()).float()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, on all of them."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
