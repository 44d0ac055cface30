"""Sums over the processes of a run. In a run of one process they cost nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def shared_count(count: Tensor) -> Tensor:
    """Return the divisor of a process's sum that makes the mean over the processes the mean over everything counted.

    count: the number of pixels (or cells) in this process's sum, or the sum of their weights.

    All processes call this together. Their gradients are averaged, so the divisor is the mean of their counts. A
    process with few labelled pixels then has little weight, as in one large batch. The result is 1 if nothing was
    counted.
    """
    count = count.detach()
    if world_size() == 1:
        return torch.where(count > 0, count, 1)
    count = count.to(torch.float64)
    dist.all_reduce(count)
    return (torch.where(count > 0, count, 1) / world_size()).float()


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of every process's `values`, on all of them."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
