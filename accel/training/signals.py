"""Signals that ask a run to stop. The run finishes its step, saves, and can be resumed later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import torch

from accel.reductions import sum_over_processes

AGAIN = 1.0  # seconds; sooner, it is the same Ctrl-C, passed on by a launcher as well
SCONTROL_TIMEOUT = 60.0  # seconds


class Stopped(SystemExit):
    """The run was asked to stop by `signal` and has saved. The exit code says whether all went well."""

    def __init__(self, code: int, signal: signal.Signals):
        super().__init__(code)
        self.signal = signal


class StopSignals:
    """While this context is open, SIGINT (Ctrl-C), SIGTERM and the `preemption` signal only set `received`.

    A second Ctrl-C raises KeyboardInterrupt. Outside the main thread, where Python accepts no signals, the context does
    nothing.
    """

    def __init__(self, preemption: str = "SIGUSR1"):
        self.numbers = (getattr(signal, preemption, None), signal.SIGINT, signal.SIGTERM)  # Windows has no SIGUSR1
        self.received: signal.Signals | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._receive) for number in self.numbers if number}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self.since = signal.Signals(number), now
        elif number == signal.SIGINT and now - self.since > AGAIN:
            raise KeyboardInterrupt

    def votes(self) -> list[float]:
        """Return one number for each signal: 1 for the one received. Their sums over the processes decide what all of
        them do."""
        return [float(number is not None and number is self.received) for number in self.numbers]

    def vote(self, device: torch.device) -> signal.Signals | None:
        """Return the signal that any process has received, or None. All processes call this together and get the same
        answer."""
        votes = torch.tensor(self.votes(), dtype=torch.float64, device=device)
        return self.elected(sum_over_processes(votes).tolist())

    def elected(self, votes: list[float]) -> signal.Signals | None:
        """Return the signal that any process received. Pre-emption comes before the others."""
        return next((number for number, count in zip(self.numbers, votes, strict=True) if count), None)

    def stop(self, number: signal.Signals, is_main: bool) -> Stopped:
        """Return the exception that ends the program after everything is saved.

        Its code is 0 after Ctrl-C and pre-emption (in a Slurm job, SIGTERM is one), and 143 for a SIGTERM from
        elsewhere. It is 1 if the Slurm job should have been requeued and was not.
        """
        if number is self.numbers[0]:
            return Stopped(0 if not is_main or requeue() else 1, number)
        in_job = "SLURM_JOB_ID" in os.environ
        return Stopped(128 + number if number is signal.SIGTERM and not in_job else 0, number)


def requeue() -> bool:
    """Ask Slurm to start this job again. Return False if Slurm refuses. Outside a Slurm job, there is nothing to
    ask."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return True
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(
            ["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        print(f"error: Slurm did not requeue job {job} ({reason}); submit it again", file=sys.stderr)
        return False
    return True
