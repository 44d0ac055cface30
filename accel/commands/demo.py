"""Show Accel at work: label snippets of Cityscapes (or of generated scenes), or any video.

accel demo --interval 5 --num_ex 100
accel demo --input drive.mp4 --interval 5 --output output/drive
accel demo --input 0 --interval 5 --flat-latency
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser
from accel.commands.label import VIEWS, add_ways


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "-v",
        "--version",
        choices=("18", "34", "50", "101"),
        help="update branch, of a published network or of the demo trained here",
    )
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("-e", "--num_ex", type=int, default=10, help="snippets to label (default: 10)")
    parser.add_argument("--task", choices=("segmentation", "detection"), help="what to show (default: segmentation)")
    parser.add_argument("--avg", action="store_true", help="score at all distances from the key frame, not only one")
    parser.add_argument("--cfg", help="configuration (YAML) with the model and data to use")
    parser.add_argument("--checkpoint", help="name of weights, folder of a run, .safetensors file, or hf://OWNER/NAME")
    parser.add_argument(
        "--input",
        help="label this instead: video file, folder of frames or of videos; camera (0); stream (rtsp://...)",
    )
    add_ways(parser)
    parser.add_argument("--output", type=Path, help="folder for the results (default: output/demo, output/INPUT)")
    parser.add_argument("--view", default="panels", choices=VIEWS, help="what the video shows (default: panels)")
    parser.add_argument("--compare", action="store_true", help="also print a comparison of the demo models")
    parser.add_argument(
        "--train",
        action="store_true",
        help="train the demo models here first, which takes half an hour on two cores",
    )
    args = parser.parse_args(arguments)

    from accel.demo import Options, run_demo
    from accel.demo_models import compare_demo_models
    from accel.video.opening import source_name

    args.output = args.output or Path("output") / (source_name(args.input) if args.input else "demo")
    options = vars(args) | {"average": args.avg}
    options = {key: value for key, value in options.items() if key in Options.__dataclass_fields__}
    code = run_demo(Options(**options))
    if args.compare:
        compare_demo_models(args.version, args.interval, args.output, args.device, args.train)
    return code
