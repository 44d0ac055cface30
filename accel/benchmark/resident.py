"""How much memory this process holds, as Linux tells it."""

from __future__ import annotations

import sys
from pathlib import Path


def resident(which: str = "VmRSS") -> float:
    """Megabytes now, or the most since `begin_anew` (`VmHWM`). Raises ValueError where the system is not Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise ValueError(f"memory is measured on Linux only, this is {sys.platform}") from None
    return int(next(line for line in lines if line.startswith(which)).split()[1]) / 1024


def begin_anew() -> None:
    """From here on, `VmHWM` is the most. Raises ValueError as `resident`."""
    resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_resident() -> float:
    """Megabytes that this process has held at most; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
