"""Label a video, a folder of frames or of videos, a camera or a stream.

accel label drive.mp4
accel label drive.mp4 --model NAME --interval 10 --view overlay
accel label 0
accel label rtsp://CAMERA/live
accel label --input cams.txt
accel label --manifest videos.txt --shard 3/64 --write png,npz --output results

`accel models` lists the names. Ctrl-C ends it; frames labelled by then are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accel.cli import Parser, add_threads, frame_rate

VIEWS = ("panels", "overlay", "labels")
BOXES = ("jsonl", "coco", "mot")  # of accel.tasks.box_files
_WRITTEN = {"coco": "coco-results", "mot": "mot"}  # the formats that --boxes names, as --write names them
_NOT_OPTIONS = ("model", "inputs", "output", "manifest", "shard", "retry_failed", "segment")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "input",
        metavar="VIDEO",
        nargs="?",
        help="video file, folder of frames or of videos; camera (0); stream (rtsp://...)",
    )
    parser.add_argument("--model", help="name of weights, folder of a run, .safetensors file, or hf://OWNER/NAME")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--view", default="panels", choices=VIEWS, help="what the video shows (default: panels)")
    add_ways(parser)
    parser.add_argument("--output", type=Path, help="folder for the results (default: output/VIDEO)")
    parser.add_argument(
        "--input",
        dest="inputs",
        action="append",
        metavar="SOURCE",
        help="one of several cameras, streams or videos for one model; or a .txt file with one in each line",
    )
    many = parser.add_argument_group("many videos, each into a folder of its own; see docs/fleet.md")
    many.add_argument("--manifest", help="file with a path in each line; or a folder of videos, or a pattern")
    many.add_argument("--shard", help="the share of them to label, such as 3/64 (default: all)")
    add_results(many)
    args = parser.parse_args(arguments)
    if [args.input, args.inputs, args.manifest].count(None) != 2:
        parser.error("expected a VIDEO to label, or --input SOURCE ..., or --manifest FILE")
    if args.input is None:
        for option in ("look_ahead", "adaptive", "batch", "engine", "int8", "accept_loss", "strict"):
            if getattr(args, option):
                parser.error(f"--{option.replace('_', '-')} is for one VIDEO")
        if args.boxes != BOXES[0]:
            parser.error(f"--boxes is for one VIDEO; --write {_WRITTEN[args.boxes]} is for several")
    if args.manifest is not None:
        return _label_many(args)
    for option in ("shard", "retry_failed", "segment"):
        if getattr(args, option):
            parser.error(f"--{option.replace('_', '-')} is for --manifest")

    from accel.demo import Options, run_demo
    from accel.video.opening import source_name

    output = args.output or (Path("output") if args.inputs else Path("output") / source_name(args.input))
    options = Options(
        version=None,
        num_ex=1,
        average=False,
        cfg=None,
        compare=False,
        train=False,
        checkpoint=args.model,
        **{key: value for key, value in vars(args).items() if key not in _NOT_OPTIONS},
        output=output,
    )
    if args.inputs:
        from accel.streams import label_streams, listed_sources

        label_streams(listed_sources(args.inputs), replace(options, input=args.inputs[0]), args.write)
        return 0
    return run_demo(options)


def _label_many(args: argparse.Namespace) -> int:
    from accel.fleet.manifest import Shard, find_videos
    from accel.fleet.shard import run_shard
    from accel.fleet.starting import settle
    from accel.fleet.units import FAILED

    if args.live is not None:
        raise ValueError(
            "--live, --no-live: expected with one VIDEO; videos of a manifest are read without dropping any"
        )
    if args.output is None:
        raise ValueError("--manifest: expected --output FOLDER too, the folder for the results of all shards")
    shard, videos = Shard.parse(args.shard or "0/1"), find_videos(args.manifest)
    ways = {key: getattr(args, key) for key in ("scene_cuts", "flat_latency", "optimize", "fps", "segment")}
    weights = chosen_weights(args.model, args.device)
    settings = settle(weights, args.interval, args.write, device=args.device, **ways)
    rows = run_shard(videos, shard, settings, args.output, args.retry_failed)
    failed = sum(row.status == FAILED for row in rows)
    print(
        f"written: {args.output}/videos/ ({len(rows) - failed} done, {failed} failed; {args.output}/index/ lists them)"
    )
    return 1 if rows and failed == len(rows) else 0


def chosen_weights(model: str | None, device: str) -> Path:
    """Return the weights that are named, or those for real video."""
    from accel.demo_models import weights_for_video
    from accel.weights.names import find_weights

    return find_weights(model) if model else weights_for_video(None, device)


def add_results(parser: argparse._ActionsContainer) -> None:
    """Add the arguments about the results of many videos."""
    parser.add_argument("--write", type=names, default=(), help="formats to write, such as npz,coco; see docs/fleet.md")
    parser.add_argument("--retry-failed", action="store_true", help="label videos again that failed")
    parser.add_argument("--segment", type=float, help="cut longer videos into parts of so many seconds (default: 600)")


def names(text: str) -> tuple[str, ...]:
    """Read a list of names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
    parser.add_argument(
        "--boxes",
        default="jsonl",
        choices=BOXES,
        help="files of a detector: jsonl, one for each frame (default); coco, COCO results; mot, MOTChallenge's",
    )
    parser.add_argument("--strict", action="store_true", help="stop at anything that would be left out")
    parser.add_argument("--scene-cuts", action="store_true", help="also take a fresh key frame at every scene cut")
    parser.add_argument(
        "--look-ahead", action="store_true", help="of a recording: key frames in the middle of their intervals"
    )
    parser.add_argument(
        "--adaptive", action="store_true", help="key frames when they are due: one in --interval on average"
    )
    parser.add_argument("--flat-latency", action="store_true", help="spread a key frame's work over the interval")
    parser.add_argument("--batch", action="store_true", help="run each key frame and those after it in one batch")
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
