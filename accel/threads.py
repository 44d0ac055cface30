"""The processor cores that this program may use, and how PyTorch's threads share them with other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What says how the threads of OpenMP wait: to every runtime, to GNU's alone, to Intel's and LLVM's alone.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# How often a thread looks for its next work before it sleeps. GNU's OpenMP, which comes with PyTorch for Linux, looks
# 300,000 times unless told: for some milliseconds nobody else has that core. The measurement is in docs/performance.md;
# `accel benchmark waiting` repeats it.
SPINS = 10_000

# The variables that set the number of threads, the strongest first. PyTorch reads the second one when it is loaded.
OWN, OPENMP = "ACCEL_THREADS", "OMP_NUM_THREADS"
SLURM = "SLURM_CPUS_PER_TASK"

FAST_ENOUGH = 0.9  # of the fastest core: slower ones would be waited for


def wait_briefly() -> None:
    """Make the threads that PyTorch will start go to sleep soon when they have nothing to do.

    Call it before PyTorch is loaded, because OpenMP reads its environment only then. If PyTorch is loaded already, or
    the user has set any of `WAITING`, nothing happens. Processes started by this one inherit the setting.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)


@dataclass(frozen=True)
class Threads:
    """How many threads compute a network, and what decided that, in words."""

    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count} thread{'s' * (self.count > 1)} ({self.reason})"


_chosen: Threads | None = None  # by `set_threads`


def threads() -> Threads:
    """Return how many threads PyTorch should use in this process.

    ACCEL_THREADS and OMP_NUM_THREADS decide if they are set. Otherwise there is one thread for each fast physical core
    that the process may use: two threads on one core, or one on a slow core, make all others wait.

    Raises ValueError for a variable that is no number of threads.
    """
    if _chosen is not None:
        return _chosen
    if os.environ.get(OWN):
        return Threads(thread_count(os.environ[OWN], OWN), OWN)
    if os.environ.get(OPENMP):
        # It may list a number for each level of nesting. The first one counts.
        return Threads(thread_count(os.environ[OPENMP].split(",")[0], OPENMP), OPENMP)
    allowed = _allowed()
    fast = _fast_cores(allowed)
    found = [Threads(len(fast), "one for each core")]
    if len(allowed) < (os.cpu_count() or 1):
        found = [Threads(len(fast), "one for each core that this process may run on")]
    elif len(fast) < len(_physical(allowed)):
        found = [Threads(len(fast), "one for each fast core")]
    found += [Threads(number, why) for number, why in _limits()]
    return min(found, key=lambda each: each.count)


def set_threads(count: int | None = None) -> None:
    """Set the number of threads of PyTorch. Processes started by this one inherit it.

    count: the number. None: what `threads` says, unless PyTorch is loaded already: then its number stays.

    Raises the ValueError of `threads`.
    """
    global _chosen
    loaded = "torch" in sys.modules
    if count is None and loaded:
        return
    chosen = threads() if count is None else Threads(count, "--threads")
    if chosen.reason != OPENMP:
        os.environ[OPENMP] = str(chosen.count)
    _chosen = chosen
    if loaded:
        import torch

        torch.set_num_threads(chosen.count)


def thread_count(text: str, name: str = "threads") -> int:
    """Read a number of threads. Raises ValueError that names `name` for anything else."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= 1024:
        raise ValueError(f"{name} {text}: expected a number of threads from 1 to 1024")
    return count


def video_threads() -> int:
    """Return how many threads a video's decoder, or its encoder, may use beside the model: a quarter of the cores. Left
    alone, each of them would start one thread for each core or more, and the model would wait for its own threads."""
    return max(1, usable_cores() // 4)


def usable_cores() -> int:
    """Return how many cores this process may use. A container, a Slurm task or `taskset` may allow fewer than the
    machine has."""
    return min([len(_allowed()), *(number for number, _ in _limits())])


def _allowed() -> list[int]:
    """Return the numbers of the logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS, nor on Windows
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _limits() -> Iterator[tuple[int, str]]:
    """Yield upper limits of the number of cores that are used at the same time, and where they come from."""
    quota = cgroup_quota()
    if quota is not None:
        yield max(1, int(quota)), f"this container may use {quota:g} cores"
    if os.environ.get(SLURM, "").isdigit() and int(os.environ[SLURM]):
        yield int(os.environ[SLURM]), SLURM


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return how many cores' time Linux grants this process's control group, or any group around it. None without a
    limit. Both versions of control groups are read.

    root: where /proc and /sys lie. Tests use another.
    """
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if not controllers:  # version 2
            tops, limit = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _limit_2
        elif "cpu" in controllers.split(","):
            tops, limit = ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"], _limit_1
        else:
            continue
        for top in tops:
            # Inside a container, its own group may be mounted as the top one, so that `path` is not there.
            group = Path(path.lstrip("/"))
            found += [limit(root / top / part) for part in (group, *group.parents)]
    known = [each for each in found if each is not None]
    return min(known) if known else None


def _limit_2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _limit_1(group: Path) -> float | None:
    quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None  # -1: none


def _physical(cores: list[int], root: Path = Path("/")) -> list[int]:
    """Return one logical core of each physical one."""
    first: dict[object, int] = {}
    for core in cores:
        siblings = _read(root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").strip()
        first.setdefault(siblings or core, core)
    return list(first.values())


def _fast_cores(cores: list[int], root: Path = Path("/")) -> list[int]:
    """Return one logical core of each physical one, without the slow ones of a processor that has two kinds."""
    physical = _physical(cores, root)
    if sys.platform == "darwin":
        return physical[: _fast_on_macos() or len(physical)]
    slow = _listed(_read(root / "sys/devices/cpu_atom/cpus"))  # Intel's
    capacity = {core: _read(root / f"sys/devices/system/cpu/cpu{core}/cpu_capacity").strip() for core in physical}
    known = {core: int(value) for core, value in capacity.items() if value.isdigit()}  # ARM's
    least = FAST_ENOUGH * max(known.values(), default=0)
    fast = [core for core in physical if core not in slow and known.get(core, least) >= least]
    return fast or physical  # a process may be bound to slow ones alone


def _fast_on_macos() -> int:
    command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def _listed(text: str) -> set[int]:
    """Return the numbers in a list of the kernel's, such as 0-3,8."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {number for each in ends for number in range(int(each[0]), int(each[-1]) + 1)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
