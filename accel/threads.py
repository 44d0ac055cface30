"""The processor cores that this program may use, and how PyTorch's threads share them with other programs."""

from __future__ import annotations

import os
import sys

# What says how the threads of OpenMP wait: to every runtime, to GNU's alone, to Intel's and LLVM's alone.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# How often a thread looks for its next work before it sleeps. GNU's OpenMP, which comes with PyTorch for Linux, looks
# 300,000 times unless told: for some milliseconds nobody else has that core. The measurement is in docs/performance.md;
# `accel benchmark waiting` repeats it.
SPINS = 10_000


def wait_briefly() -> None:
    """Make the threads that PyTorch will start go to sleep soon when they have nothing to do.

    Call it before PyTorch is loaded, because OpenMP reads its environment only then. If PyTorch is loaded already, or
    the user has set any of `WAITING`, nothing happens. Processes started by this one inherit the setting.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def usable_cores() -> int:
    """Return how many cores this process may use. A container or `taskset` may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS, nor on Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
