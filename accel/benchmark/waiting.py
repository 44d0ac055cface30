"""Measure how long OpenMP's threads should wait actively for their next work, alone on the machine and beside other
programs.

A thread that waits actively ("spins") starts at once when there is work, but keeps a core busy. Each setting runs in a
separate process, because OpenMP reads its environment once, when PyTorch is loaded. The processes take turns, one frame
each. So whatever slows the machine slows all of them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from accel.threads import WAITING, usable_cores

SETTINGS: dict[str, dict[str, str]] = {
    "OpenMP's default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (10_000, 30_000, 100_000)},
}
QUIET = 0.05  # share of the cores that others may use while a frame counts as run alone
PAUSE = 0.1  # seconds between frames: the threads of the last one have gone to sleep by then
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:  # it ends with who started it, however that ends
    sum(range(1_000_000))
"""


@dataclass
class Waiting:
    """The seconds of a frame under one setting, round by round.

    alone: without other work on the machine. None if other programs used more than `QUIET` of the machine meanwhile.
    beside: with one busy process for each core.
    """

    alone: list[float | None] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def figures(self, first: Waiting) -> dict[str, float | int | None]:
        """Return medians in milliseconds, and relative to the first setting in the same round."""
        return {
            "alone_ms": _milliseconds(self.alone),
            "alone_of_default": _ratio(self.alone, first.alone),
            "beside_ms": _milliseconds(self.beside),
            "beside_of_default": _ratio(self.beside, first.beside),
            "rounds": len(self.beside),
            "disturbed": self.alone.count(None),
        }


def waiting_times(
    version: str,
    size: tuple[int, int],
    rounds: int,
    optimised: bool = True,
    sittings: int = 3,
    settings: Mapping[str, dict[str, str]] = SETTINGS,
) -> dict[str, Waiting]:
    """Return the seconds of a key frame of a published network on the CPU under each setting.

    size: (height, width) of the frame.
    optimised: whether to optimise the network.
    sittings: how often all processes are started again, each time for `rounds` rounds. Two processes that do the same
        work may differ by some per cent for their whole life, because of where their memory lies.

    In each round, every setting runs one frame alone and one beside busy processes.
    """
    found = {name: Waiting() for name in settings}
    order = random.Random(0)
    for _ in range(sittings):
        with ExitStack() as stack:
            what = [version, size, optimised]
            frames = {name: stack.enter_context(_frames(what, values)) for name, values in settings.items()}
            turn = list(frames)
            for _ in range(rounds):
                order.shuffle(turn)  # so that nobody always follows the same one
                for name in turn:
                    found[name].alone.append(_alone(frames[name]))
                with busy(usable_cores()):
                    for name in turn:
                        time.sleep(PAUSE)
                        found[name].beside.append(_next(frames[name])[0])
    return found


def _alone(frames: subprocess.Popen) -> float | None:
    """Return the seconds of a frame, or None if other programs used the machine meanwhile."""
    time.sleep(PAUSE)
    before = _used()
    seconds, own = _next(frames)
    return seconds if _used() - before - own <= QUIET * seconds * usable_cores() else None


def _milliseconds(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return round(1e3 * float(np.median(known)), 1) if known else None


def _ratio(seconds: Sequence[float | None], first: Sequence[float | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(seconds, first, strict=True) if a is not None and b is not None]
    return round(float(np.median([a / b for a, b in pairs])), 3) if pairs else None


# --- processes ------------------------------------------------------------------------------------------------


@contextmanager
def _frames(what: list, settings: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Start a process that runs a frame for each line it is sent. It has warmed up when this returns."""
    environment = {key: value for key, value in os.environ.items() if key not in WAITING} | settings
    command = [sys.executable, "-m", __name__, json.dumps(what)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            answer(process)
            yield process
        finally:
            process.kill()


def _next(process: subprocess.Popen) -> tuple[float, float]:
    """Return the seconds of a frame by the clock, and those of processor time."""
    assert process.stdin is not None, "it was started with pipes"
    process.stdin.write("\n")
    process.stdin.flush()
    by_the_clock, of_the_processor = answer(process)
    return by_the_clock, of_the_processor


def answer(process: subprocess.Popen) -> list[float]:
    """Return what a process that measures prints next."""
    assert process.stdout is not None, "it was started with pipes"
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process that measures has ended with exit code {process.wait()}")
    return json.loads(line)


def _serve(version: str, size: tuple[int, int], optimised: bool) -> None:
    """Do the work of those processes."""
    import torch

    from accel.models import build_published

    model = build_published(version).eval()
    if optimised:
        model = model.optimized((size[0], size[1]))
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        for _ in range(3):
            model.key_frame(image)
        print("[]", flush=True)
        for _ in sys.stdin:
            start, used = time.perf_counter(), time.process_time()
            model.key_frame(image)
            print(json.dumps([time.perf_counter() - start, time.process_time() - used]), flush=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run this number of busy processes, one for each core, while the context is open."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(PAUSE)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _used() -> float:
    """Return the processor seconds that all programs have used, and that other guests of the host took. 0 if
    unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
