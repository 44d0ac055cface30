"""Measure the time of work on a device, fairly even on machines that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T", bound=Hashable)


def now(device: torch.device) -> float:
    """Return a clock reading after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each function. They are called in turns, so that whatever slows the machine slows
    all of them."""
    return {name: float(np.median(taken)) for name, taken in turns(functions, rounds, device).items()}


@torch.inference_mode()
def turns(functions: Mapping[T, Callable[[], object]], rounds: int, device: torch.device) -> dict[T, list[float]]:
    """Return the seconds of every call of each function. They are called in turns `rounds` times, after one turn to
    warm up."""
    taken: dict[T, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = now(device)
            function()
            if turn:
                taken[name].append(now(device) - start)
    return taken
