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
    """Let the threads that PyTorch is about to start sleep soon when they have nothing to do.

    Call it before PyTorch is loaded: OpenMP reads its environment then, and only then. Where PyTorch is loaded, or the
    user has set any of `WAITING`, nothing happens. Processes that this one starts are told the same.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def usable_cores() -> int:
    """How many cores this process may use: fewer than the machine has where a container or `taskset` says so."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS, nor on Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
