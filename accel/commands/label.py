"""Label a video, a folder of frames or of videos, a camera or a stream.

accel label drive.mp4
accel label drive.mp4 --model NAME --interval 10 --view overlay
accel label 0
accel label rtsp://CAMERA/live

`accel models` lists the names. Ctrl-C ends it; frames labelled by then are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, add_threads, frame_rate

VIEWS = ("panels", "overlay", "labels")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "input", metavar="VIDEO", help="video file, folder of frames or of videos; camera (0); stream (rtsp://...)"
    )
    parser.add_argument("--model", help="name of weights, folder of a run, .safetensors file, or hf://OWNER/NAME")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--view", default="panels", choices=VIEWS, help="what the video shows (default: panels)")
    add_ways(parser)
    parser.add_argument("--output", type=Path, help="folder for the results (default: output/VIDEO)")
    args = parser.parse_args(arguments)

    from accel.demo import Options, run_demo
    from accel.video.opening import source_name

    output = args.output or Path("output") / source_name(args.input)
    run_demo(
        Options(
            version=None,
            num_ex=1,
            average=False,
            cfg=None,
            compare=False,
            train=False,
            checkpoint=args.model,
            **{key: value for key, value in vars(args).items() if key not in ("model", "output")},
            output=output,
        )
    )


def add_ways(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about how a video is run through a model."""
    parser.add_argument(
        "--fps", type=frame_rate, help="frames per second of a folder of frames: 10, 30000/1001 (default: 25)"
    )
    parser.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="drop frames to keep up with the input (default: with cameras and live streams; Ctrl-C ends those)",
    )
    parser.add_argument("--scene-cuts", action="store_true", help="also take a fresh key frame at every scene cut")
    parser.add_argument("--flat-latency", action="store_true", help="spread a key frame's work over the interval")
    parser.add_argument("--optimize", action="store_true", help="first optimise the model for speed (minutes, once)")
    parser.add_argument(
        "--engine", help="for --optimize: inductor, openvino, onnxruntime, auto (default: auto, the fastest one)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="as --optimize, in eight bits, calibrated on the video's first frames (CPU)"
    )
    parser.add_argument("--accept-loss", action="store_true", help="for --int8: even if over 2%% of the labels change")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add_threads(parser)
