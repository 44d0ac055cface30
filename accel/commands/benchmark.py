"""Measure how fast operators, models and streams run on this machine, each in comparison with something else.

accel benchmark --json docs/results/speed.json
accel benchmark models --size 1024 2048 --versions accel-18 deeplab-101
accel benchmark profile --versions accel-18
accel benchmark propagation --size 608 1008
accel benchmark accuracy --cfg experiments/demo/accel18.yaml --checkpoint runs/demo/accel18
accel benchmark training --cfg experiments/demo/accel18.yaml --rounds 50
accel benchmark --quick
accel benchmark expectations --json docs/results/expectations.json
accel benchmark waiting --versions deeplab-101 --rounds 30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, add_threads


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "sections",
        nargs="*",
        help="operators models streams (default); profile memory accuracy propagation training waiting expectations",
    )
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"), help="of frames")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds for the medians (default: 10)")
    parser.add_argument("--versions", nargs="+", default=["accel-18", "dff", "deeplab-101"], help="published networks")
    parser.add_argument("--eager", action="store_true", help="also time the models without optimisation")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add_threads(parser)
    parser.add_argument("--dtype", help="type of optimised models: bfloat16, float16, float32 (default: the best here)")
    parser.add_argument("--mxnet", metavar="PYTHON", help="also time the original, with this interpreter")
    parser.add_argument("--symbols", type=Path, metavar="FOLDER", help="with its key-symbol.json and cur-symbol.json")
    parser.add_argument("--mxnet-operators", type=Path, metavar="FILE", help="of Python: operators that MXNet lacks")
    parser.add_argument("--cfg", help="accuracy, training: configuration")
    parser.add_argument("--checkpoint", help="accuracy: folder of a run, or a .safetensors file")
    parser.add_argument("--clips", type=int, default=20, help="accuracy: labelled frames to score (default: 20)")
    parser.add_argument("--quick", action="store_true", help="only what to expect of this machine, in two minutes")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args(arguments)

    from accel.benchmark.run import SECTIONS, Options, run_benchmark

    args.sections = args.sections or (["expectations"] if args.quick else list(SECTIONS[:3]))
    args.size = tuple(args.size)
    run_benchmark(Options(**vars(args)))
