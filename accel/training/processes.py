"""The processes of a run, started by Lightning Fabric: one for each device, on one node or several."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy

from accel.devices import choose_device, has_bfloat16
from accel.process_groups import before_joining, started
from accel.progress import console

PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bf16": "bf16-mixed"}
SLACK = 60.0  # seconds: what watches over the run should speak first, and knows more
T = TypeVar("T")

# What tells Fabric who the processes are, by what started them.
ENVIRONMENTS: dict[str | None, Callable[[], ClusterEnvironment]] = {
    None: LightningEnvironment,
    "torchrun": TorchElasticEnvironment,
    "srun": lambda: SLURMEnvironment(auto_requeue=False),
}


def start_fabric(device: str, precision: str, timeout: float) -> Fabric:
    """Start Fabric on that device. If this process is one of several, connect it with the others.

    device: as for `choose_device`. If there are several processes on a node, each takes the GPU of its number.
    precision: float32 or bf16. bf16 becomes float32 if the device does not have it.
    timeout: seconds to wait for the other processes, first to start, and later in each common operation.

    Raises ValueError for devices that this machine lacks, and ConnectionError if the others do not start.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    ours = started()
    several = ours.count > 1
    chosen = choose_device(device)
    if several and chosen.index is not None:
        raise ValueError(f"device {device!r} is one GPU, and this is one of {ours.count} processes; expected 'cuda'")
    if several and chosen.type == "cuda" and ours.local_count > torch.cuda.device_count():
        raise ValueError(f"{ours.local_count} processes on a machine with {torch.cuda.device_count()} CUDA devices")
    fabric = Fabric(
        accelerator=chosen.type,
        devices=ours.local_count if several or chosen.index is None else [chosen.index],
        num_nodes=ours.nodes,
        plugins=[ENVIRONMENTS[ours.by]()],  # it would find others in a Slurm job, where this process is alone
        # A step may not use all that is trained: a flow network on clips of one frame, or the flow loss. Looking for
        # such parameters also keeps the order in which gradients are summed the same from the first step on.
        strategy=DDPStrategy(timeout=timedelta(seconds=timeout + SLACK), find_unused_parameters=True)
        if several
        else "auto",
        precision=PRECISION["float32" if precision == "bf16" and not has_bfloat16(chosen) else precision],
    )
    if several:
        before_joining()
        try:
            fabric.launch()
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"{ours.count} processes did not find each other ({reason})") from error
        console.quiet = not fabric.is_global_zero
    if precision == "bf16" and not has_bfloat16(chosen):
        console.print(f"{chosen} has no bfloat16 in hardware: training in float32")
    return fabric


def on_main(fabric: Fabric, decide: Callable[[], T]) -> T:
    """Call `decide` on the first process and return its result on all. So all act on the same state of the file system.

    An error is raised on the first process. The others exit with code 2 and no message.
    """
    outcome: T | None = None
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            outcome = decide()
        except (ValueError, OSError) as caught:
            error = caught
    outcome, failed = fabric.broadcast((outcome, error is not None))
    if error is not None:
        raise error
    if failed:
        raise SystemExit(2)
    return outcome  # type: ignore[return-value] # all have it now


def use_deterministic_algorithms() -> None:
    """Use only algorithms that give the same bits for the same input. An operator without one raises RuntimeError."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
