"""Write a video of several models side by side, with the input and the ground truth.

python tools/show_side_by_side.py --cfg experiments/camvid/dff.yaml --checkpoint runs/camvid/dff --interval 5 \\
    --cfg experiments/camvid/accel18.yaml --checkpoint runs/camvid/accel18 --output side_by_side.mp4
"""

from __future__ import annotations

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, action="append", help="configuration (YAML): the data and the model")
    parser.add_argument("--checkpoint", required=True, action="append", help="folder of a run, or a .safetensors file")
    parser.add_argument("--name", action="append", help="name of the model (default: that of its configuration)")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--split", help="split to show (default: the configuration's data.test_split)")
    parser.add_argument("--video", action="append", help="name of a video of the data set (default: the first)")
    parser.add_argument("--fps", type=float, default=15, help="frames per second of the video (default: 15)")
    parser.add_argument("--optimize", action="store_true", help="optimise the models for speed, for each frame size")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default: 1)")
    parser.add_argument("--output", required=True, metavar="MP4", help="the video to write")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the files'")
    args = parser.parse_args()

    from accel.devices import choose_device
    from accel.evaluation.comparing.comparison import load_comparison, pair_up
    from accel.evaluation.comparing.side_by_side import write_side_by_side
    from accel.playing.schedules import FixedInterval
    from accel.progress import console

    FixedInterval(args.interval)
    entries, device = pair_up(args.cfg, args.checkpoint, args.name), choose_device(args.device)
    comparison = load_comparison(entries, args.overrides, args.split, device, args.optimize)
    what = comparison.models, comparison.dataset, args.interval, args.fps, args.video, args.workers
    frames = write_side_by_side(args.output, *what)
    console.print(f"{args.output}: {frames} frames")


if __name__ == "__main__":
    run(main)
