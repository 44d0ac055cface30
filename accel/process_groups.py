"""Which process of several this is, and the common preparation of evaluation and training before processes join."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Started:
    """How this process was started.

    by: what started it together with others. None: it is alone.
    rank, count: its number among all, and how many there are.
    local_rank, local_count: the same among those on its machine.
    """

    by: Literal["torchrun", "srun"] | None = None
    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def nodes(self) -> int:
        return self.count // self.local_count


def started() -> Started:
    """Return how this process was started.

    torchrun, `accel.training.launch` and Slurm's srun say so to each process. A process in a Slurm job that srun has
    not started, such as the job script itself, is alone, whatever the job asked for.

    Raises ValueError for a Slurm job that does not give the number of tasks on each node.
    """
    values = os.environ
    if "TORCHELASTIC_RUN_ID" in values:
        count = int(values["WORLD_SIZE"])
        local = int(values.get("LOCAL_WORLD_SIZE", "1"))
        return Started("torchrun", int(values["RANK"]), count, int(values.get("LOCAL_RANK", "0")), local)
    count = int(values.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1:
        return Started()
    if "SLURM_NTASKS_PER_NODE" not in values:
        raise ValueError(f"a Slurm job of {count} tasks: expected --ntasks-per-node, not only --ntasks")
    local = int(values["SLURM_NTASKS_PER_NODE"])
    return Started("srun", int(values["SLURM_PROCID"]), count, int(values["SLURM_LOCALID"]), local)


def before_joining() -> None:
    """Prepare the process group, so that `destroy_process_group` ends its threads. Call this before the group is made.

    The default arguments of `torch.distributed.nn.functional` are the group that exists when the module is first
    imported, and much of PyTorch imports it late. Such a group outlives its end. A thread of gloo that releases a
    tensor while Python shuts down then aborts the process (as in https://github.com/pytorch/pytorch/pull/179291).
    """
    importlib.import_module("torch.distributed.nn.functional")
