"""Train an experiment, or all stages of a recipe.

accel train --cfg experiments/accel/accel18_cityscapes.yaml train.steps=1000
accel train --cfg experiments/accel/accel18_cityscapes.yaml --check-data
accel train --cfg experiments/accel/accel18_cityscapes.yaml --devices 4 --resume
torchrun --nproc-per-node 4 -m accel train --cfg experiments/accel/accel18_cityscapes.yaml --resume

On several nodes, use torchrun, or srun in a Slurm job; see docs/training.md. Ctrl-C saves and ends; a second one ends
at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

from accel.cli import Parser, add_threads


def main(arguments: Sequence[str] | None = None, of: str = "train") -> int:
    """of: the command whose help is shown, and which says what it trains: "train", or "distil"."""
    parser = Parser(import_module(f"accel.commands.{of}").__doc__ or "")
    parser.add_argument("--cfg", required=True, help="configuration (YAML), or a recipe with `stages:`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add_threads(parser)
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="number of GPUs (or processes) to use")
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run, or begin one")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    parser.add_argument("--check-data", action="store_true", help="only read all training files and list the bad ones")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args(arguments)
    if args.devices < 1:
        parser.error(f"--devices {args.devices}: expected 1 or more")
    if args.resume and args.overwrite:
        parser.error("--resume continues a run, --overwrite begins it again: choose one")

    from accel.process_groups import started

    ours = started()
    if args.devices > 1 or ours.count > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process tells what DDP need not look for

    from accel.config import load_stages

    stages = load_stages(args.cfg, args.overrides)  # its mistakes are told before anything heavy is loaded
    other = next((stage for stage in stages if of == "distil" and stage.train.loss.name != "distillation"), None)
    if other is not None:
        raise ValueError(
            f"{args.cfg}: train.loss of {other.output} is {other.train.loss.name}, expected distillation; "
            "accel train trains everything"
        )

    from accel.datasets.class_counts import with_num_classes
    from accel.progress import console
    from accel.training.feeding import share_out
    from accel.training.label_check import check_recipe
    from accel.training.launch import launch
    from accel.training.run_folder import check_starts
    from accel.training.trainer import train

    stages = [with_num_classes(stage) for stage in stages]
    if args.check_data:
        from accel.datasets.checking import check_data

        return check_data(stages) if ours.rank == 0 else 0
    for stage in stages:  # not days later, when its turn comes
        share_out(stage, max(args.devices, ours.count))
    if len(stages) > 1:  # one alone says so itself
        check_starts(stages)
        if ours.rank == 0:
            check_recipe(stages)
    if args.devices > 1 and ours.count == 1:
        return launch(args.devices)
    for number, config in enumerate(stages, 1):
        if len(stages) > 1:
            console.print(f"stage {number} of {len(stages)}: {config.output}")
        weights = train(config, args.device, args.resume, args.overwrite)
        console.print(f"weights: {weights}")
    return 0
