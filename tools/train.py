"""Train an experiment, or all stages of a recipe.

python tools/train.py --cfg experiments/accel/accel18_cityscapes.yaml train.steps=1000
python tools/train.py --cfg experiments/accel/accel18_cityscapes.yaml --check-data
"""

from __future__ import annotations

from accel.cli import Parser, run


def main() -> int | None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, help="configuration (YAML), or a recipe with `stages:`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that stands in the output folder")
    parser.add_argument("--check-data", action="store_true", help="only read all training files and list the bad ones")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args()

    from accel.config import load_stages
    from accel.progress import console
    from accel.training.trainer import train

    stages = load_stages(args.cfg, args.overrides)
    if args.check_data:
        from accel.datasets.checking import check_data

        return check_data(stages)
    for number, config in enumerate(stages, 1):
        if len(stages) > 1:
            console.print(f"stage {number} of {len(stages)}: {config.output}")
        weights = train(config, args.device, args.resume, args.overwrite)
        console.print(f"weights: {weights}")
    return None


if __name__ == "__main__":
    run(main)
