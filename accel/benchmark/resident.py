"""Measure the memory of this process, as Linux reports it."""

from __future__ import annotations

import sys
from pathlib import Path


def resident(which: str = "VmRSS") -> float:
    """Return the present megabytes, or the peak since `begin_anew` (`VmHWM`). Raises ValueError on systems other than
    Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise ValueError(f"memory is measured on Linux only, this is {sys.platform}") from None
    return int(next(line for line in lines if line.startswith(which)).split()[1]) / 1024


def begin_anew() -> None:
    """Reset `VmHWM`: from now on it is the peak. Raises the errors of `resident`."""
    resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_resident() -> float:
    """Return the peak memory of this process in megabytes. NaN on Windows."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
