"""Where results are from: what a file of figures has to say, so that they can be made again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch

from accel.benchmark.machine import commit, machine_name


@dataclass(frozen=True)
class Origin:
    """command: as typed; machine: that it ran on; commit: of the checkout, None outside one; time: in UTC; checkpoints:
    by model."""

    command: str
    machine: str
    commit: str | None
    time: str
    checkpoints: dict[str, str]

    @classmethod
    def of(cls, checkpoints: Mapping[str, str], device: torch.device) -> Origin:
        """That of the program as it runs."""
        return cls(
            command=shlex.join(["python", *sys.argv]),
            machine=machine_name(device),
            commit=commit(),
            time=datetime.now(timezone.utc).isoformat(timespec="minutes"),
            checkpoints=dict(checkpoints),
        )

    def as_dict(self) -> dict:
        return asdict(self)
