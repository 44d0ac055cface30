"""Where results are from: what a file of figures has to say, so that they can be made again."""

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
    """What made results, as it was when that began.

    command: the program and its arguments, without what started it, such as torchrun; processes: that shared the work.
    machine: that it ran on; commit: of the checkout, None outside one; time: in UTC; checkpoints: by model.
    """

    command: str
    processes: int
    machine: str
    commit: str | None
    time: str
    checkpoints: dict[str, str]

    @classmethod
    def of(cls, checkpoints: Mapping[str, str], device: torch.device, processes: int = 1) -> Origin:
        """That of the program as it runs."""
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
