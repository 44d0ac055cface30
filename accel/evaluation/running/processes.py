"""Share one evaluation among several processes, started by `torchrun` or Slurm.

Each process scores a part of the labelled frames on its own copy of the models. Only counts are sent. So any network is
fast enough, and nothing here runs on a GPU. An error in one process ends all of them, and the first one reports it.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from accel.datasets.clips import ClipDataset
from accel.devices import choose_device
from accel.evaluation.running.reading import connected
from accel.process_groups import before_joining, started
from accel.progress import console

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=1)  # for the slowest process, which may have the longest video; half an hour by default
SMALLEST_PIECE = 4  # of a long video, in times the longest interval


class EndedError(RuntimeError):
    """This or another process of the evaluation has failed. `code` is the exit code."""

    def __init__(self, message: str, code: int, is_gone: bool = False):
        super().__init__(message)
        self.code, self.is_gone = code, is_gone


@dataclass(frozen=True)
class Failure:
    """The error of a process, in one line, and the exit code of the command."""

    message: str
    code: int


@dataclass(frozen=True)
class Processes:
    """This process, with number `rank` among `count`, and `local_rank` among those on its machine. A single process
    shares nothing."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Choose the device as `choose_device` does. With "auto" and "cuda", each process of a machine gets the next
        GPU in turn."""
        gpus = torch.cuda.device_count()
        if self.count > 1 and gpus and name in ("auto", "cuda"):
            name = f"cuda:{self.local_rank % gpus}"
        return choose_device(name)

    def share(self, dataset: ClipDataset, indices: Sequence[int], context: int | None) -> list[int]:
        """Return the labelled frames of these that this process reads and scores; see `shares`."""
        return list(indices) if self.count == 1 else shares(dataset, indices, context, self.count)[self.rank]

    def collect(self, part: T) -> list[T]:
        """In the first process, return the parts of all processes in order. In the others, return only their own
        part."""
        if self.count == 1:
            return [part]
        self.agree()
        parts: list[Any] = [None] * self.count
        dist.gather_object(part, parts if self.is_first else None)
        return parts if self.is_first else [part]

    def spread(self, value: T) -> T:
        """Return the value of the first process in all of them."""
        if self.count == 1:
            return value
        self.agree()
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """A block that the other processes enter after the first has left it. The first may write what all of them
        read."""
        if not self.is_first:
            self.agree()
        yield
        if self.is_first:
            self.agree()

    def agree(self, failure: Failure | None = None) -> None:
        """Wait for all processes. The first one prints the output of the others. Raises `EndedError` if one has
        failed."""
        if self.count == 1:
            return
        found: list[Any] = [None] * self.count
        said = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
        try:
            dist.all_gather_object(found, (failure, said))
        except RuntimeError as cause:
            reason = str(cause).splitlines()[0][:200]
            message = f"process {self.rank} of {self.count}: another process of this evaluation is gone ({reason})"
            raise EndedError(message, 1, is_gone=True) from None
        if self.is_first:
            console.print("".join(said for _, said in found[1:]), end="")
        elif said:
            console.file = io.StringIO()
        failed = [(rank, each) for rank, (each, _) in enumerate(found) if each is not None]
        if failed:
            rank, first = failed[0]
            where = "" if len(failed) == self.count else f"process {rank} of {self.count}: "
            raise EndedError(where + first.message, first.code)


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Give the processes that this one was started with by `torchrun` or Slurm's `srun`. Otherwise it is alone.

    Only the first one prints. An error in any of them ends all with its message, at the next point where they wait for
    each other. The exit code is 2 for a user's mistake (ValueError, OSError), otherwise 1.
    """
    processes = _started()
    if processes.count == 1:
        yield processes
        return
    before_joining()
    dist.init_process_group("gloo", rank=processes.rank, world_size=processes.count, timeout=LONGEST_WAIT)
    if not processes.is_first:
        console.file = io.StringIO()
    try:
        try:
            yield processes
        except EndedError:
            raise
        except Exception as error:
            if not isinstance(error, ValueError | OSError):
                traceback.print_exc()
            message = " ".join(str(error).split()) or type(error).__name__
            processes.agree(Failure(message, 2 if isinstance(error, ValueError | OSError) else 1))
        else:
            processes.agree()
    except EndedError as end:
        if processes.is_first or end.is_gone:
            print(f"error: {end}", file=sys.stderr, flush=True)
        if not end.is_gone:  # nobody leaves before that is said: who started the processes ends those that are left
            with suppress(RuntimeError):
                dist.barrier()
        sys.exit(end.code)
    finally:
        dist.destroy_process_group()


def _started() -> Processes:
    ours = started()
    if ours.by == "srun":  # which does not say where they meet
        from lightning_fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    return Processes(ours.rank, ours.count, ours.local_rank)


def shares(dataset: ClipDataset, indices: Sequence[int], context: int | None, count: int) -> list[list[int]]:
    """Divide labelled frames among `count` processes. Each frame is in one share. Shares have about the same size, and
    a share may be empty.

    Frames that share passes or images (`reading.connected`) stay together, so that every pass is made once. Only a
    video that is longer than a share, with a `context` of known length, is cut. Its pieces have at least
    `SMALLEST_PIECE` times that length. At each cut, the passes from up to `context` key frames begin in both processes.
    """
    pieces: list[list[int]] = []
    whole = connected(dataset, indices, context)
    fair = -(-sum(map(len, whole)) // count)
    for group in whole:
        pieces_at_most = 1 if context is None else max(1, len(group) // (SMALLEST_PIECE * (context + 1)))
        parts = min(-(-len(group) // fair), pieces_at_most)
        bounds = [len(group) * i // parts for i in range(parts + 1)]
        pieces += [group[a:b] for a, b in pairwise(bounds)]
    found: list[list[int]] = [[] for _ in range(count)]
    for piece in sorted(pieces, key=len, reverse=True):  # the longest first, each to whom has least
        min(found, key=len).extend(piece)
    return [sorted(each) for each in found]
