"""Runs of `tools/train.py` in processes of their own, to be signalled, killed and spread over several ranks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from processes import PATIENCE, TOOLS, Program
from safetensors.torch import load_file

TRAIN = TOOLS / "train.py"


def started_by(launcher: str, rank: int, size: int) -> dict[str, str]:
    """What torchrun, or Slurm's srun on a node each, leave in the environment of a rank."""
    if launcher == "torchrun":
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        return {name: str(value) for name, value in ranks.items()} | {"TORCHELASTIC_RUN_ID": "test"}
    ranks = {
        "PROCID": rank,
        "LOCALID": 0,
        "NODEID": rank,
        "NTASKS": size,
        "STEP_NUM_TASKS": size,
        "NNODES": size,
        "NTASKS_PER_NODE": 1,
    }
    ranks |= {"JOB_NAME": "train", "JOB_ID": 4711, "NODELIST": "node[1-2]"}
    return {f"SLURM_{name}": str(value) for name, value in ranks.items()}


class Job:
    """`size` ranks of one training on the CPU; the arguments are those of `tools/train.py`, or of another tool."""

    def __init__(
        self,
        arguments: Iterable[object],
        folder: Path,
        size: int = 1,
        launcher: str = "torchrun",
        missing: int = 0,
        script: Path = TRAIN,
        **environment: str,
    ):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.ranks = []
        folder.mkdir(exist_ok=True, parents=True)
        for rank in range(size - missing):  # the last ones never come
            ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | started_by(launcher, rank, size)
            output = folder / f"rank{rank}.txt"
            values = environment | (ranks if size > 1 else {})
            self.ranks.append(Program(script, [*arguments, "--device", "cpu"], (output, output), values))

    @property
    def processes(self) -> list[BaseProcess]:
        return [rank.process for rank in self.ranks]

    def wait(self, seconds: float = PATIENCE) -> list[int | None]:
        """The exit codes; None for ranks that are still running, which are then killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()

    def output(self, rank: int = 0) -> str:
        return self.ranks[rank].said


def wait_for_step(folder: Path, step: int, job: Job) -> None:
    """Until the run in this folder has logged that step, or is no more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and job.processes[0].is_alive():
        if any(line["step"] >= step for line in logged(folder)):
            return
        time.sleep(0.02)


WAITS = """
import runpy, time
from pathlib import Path
from accel.training import loop

rate = loop.learning_rate

def waits(step, settings):
    while step == {step} and not Path("{go_on}").exists():
        time.sleep(0.01)
    return rate(step, settings)

loop.learning_rate = waits
runpy.run_path("{train}", run_name="__main__")
"""


def waiting_at(step: int, folder: Path) -> tuple[Path, Path]:
    """A `tools/train.py` that waits once it has logged so many steps, and the file that it waits for."""
    script, go_on = folder / "waits.py", folder / "go_on"
    script.write_text(WAITS.format(step=step, go_on=go_on, train=TRAIN))
    return script, go_on


def logged(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def course(folder: Path) -> list[dict]:
    """The log without what a clock measured."""
    clocks = {"seconds_per_step", "waiting_for_data"}
    return [{key: value for key, value in line.items() if key not in clocks} for line in logged(folder)]


def same_weights(run: Path, other: Path) -> bool:
    """Bit for bit; the files may differ, in the order of what they say of themselves."""
    first, second = (load_file(folder / "weights.safetensors") for folder in (run, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
