"""The origin of results: everything a results file needs to say so that the results can be made again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch

from accel.machine import commit, machine_name


@dataclass(frozen=True)
class Origin:
    """The program that made results, and its circumstances when it began.

    command: the program and its arguments, without a launcher such as torchrun.
    processes: the number of processes that shared the work.
    machine: the machine it ran on.
    commit: the commit of the checkout, or None outside a checkout.
    time: the time in UTC.
    checkpoints: the weights by model.
    """

    command: str
    processes: int
    machine: str
    commit: str | None
    time: str
    checkpoints: dict[str, str]

    @classmethod
    def of(cls, checkpoints: Mapping[str, str], device: torch.device, processes: int = 1) -> Origin:
        """Return the origin for the running program."""
        return cls(
            command=shlex.join(["python", *sys.argv]),
            processes=processes,
            machine=machine_name(device),
            commit=commit(),
            time=datetime.now(timezone.utc).isoformat(timespec="minutes"),
            checkpoints=dict(checkpoints),
        )

    def as_dict(self) -> dict:
        return asdict(self)
