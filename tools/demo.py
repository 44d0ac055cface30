"""Show Accel at work: label snippets of Cityscapes (or of generated scenes), or any video.

python tools/demo.py --interval 5 --num_ex 100
python tools/demo.py --input drive.mp4 --interval 5 --output output/drive
python tools/demo.py --input 0 --interval 5 --flat-latency
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accel.cli import Parser, frame_rate, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("-v", "--version", default="18", choices=("18", "34", "50", "101"), help="update branch")
    parser.add_argument("-i", "--interval", type=int, default=1, help="frames from key frame to key frame (default: 1)")
    parser.add_argument("-e", "--num_ex", type=int, default=10, help="snippets to label (default: 10)")
    parser.add_argument("--avg", action="store_true", help="score at all distances from the key frame, not the longest")
    parser.add_argument("--cfg", help="configuration (YAML) whose model and data to take")
    parser.add_argument("--checkpoint", help="folder of a run, or a .safetensors file")
    parser.add_argument(
        "--input",
        help="to label instead: video file, folder of frames, or folder of those; camera (0); rtsp://... or such",
    )
    parser.add_argument(
        "--fps", type=frame_rate, help="frames a second of a folder of frames: 10, 30000/1001 (default: 25)"
    )
    parser.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="drop frames to keep up with the input (default: with cameras and live streams; Ctrl-C ends those)",
    )
    parser.add_argument("--scene-cuts", action="store_true", help="start afresh wherever the picture changes, too")
    parser.add_argument("--flat-latency", action="store_true", help="spread a key frame's work over the interval")
    parser.add_argument("--optimize", action="store_true", help="prepare the model for speed first (half a minute)")
    parser.add_argument("--output", type=Path, help="folder for what comes out (default: output/demo, output/INPUT)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--compare", action="store_true", help="print the demo models side by side as well")
    args = parser.parse_args()

    from accel.demo import Options, compare_demo_models, run_demo
    from accel.video.opening import source_name

    args.output = args.output or Path("output") / (source_name(args.input) if args.input else "demo")
    options = vars(args) | {"average": args.avg}
    options = {key: options[key] for key in Options.__dataclass_fields__}
    run_demo(Options(**options))
    if args.compare:
        compare_demo_models(args.version, args.interval, args.output, args.device)


if __name__ == "__main__":
    run(main)
