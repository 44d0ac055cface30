"""Label many videos on a Ray cluster, or with all cores of this machine.

accel fleet --videos videos.txt --checkpoint runs/NAME --out results
accel fleet --videos 'drives/**/*.mp4' --out results --address auto --gpus 0.5

The same command continues a run that ended early; what was finished is not done again. Every machine has to see the
videos and the folder for the results under these names. It needs `pip install accel-vss[cluster]`. See docs/fleet.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, frame_rate
from accel.commands.label import add_results, chosen_weights


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--videos", required=True, help="manifest (a path a line, CSV, or Parquet), folder, or pattern")
    parser.add_argument("--checkpoint", help="name of weights, folder of a run, .safetensors file, or hf://OWNER/NAME")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--scene-cuts", action="store_true", help="also take a fresh key frame at every scene cut")
    parser.add_argument("--optimize", action="store_true", help="first optimise the model for speed (half a minute)")
    parser.add_argument("--fps", type=frame_rate, help="frames per second of folders of frames (default: 25)")
    add_results(parser)
    parser.add_argument("--address", help="of a Ray cluster, such as auto (default: start Ray on this machine)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each worker (default: 1)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each worker, such as 0.5 (default: none)")
    parser.add_argument("--workers", type=int, help="models that work at the same time (default: as many as fit)")
    args = parser.parse_args(arguments)

    from accel.fleet.cluster import INDEX, Resources, run_fleet
    from accel.fleet.manifest import find_videos
    from accel.fleet.starting import settle
    from accel.fleet.units import FAILED

    resources = Resources(args.address, args.cpus, args.gpus, args.workers)
    device = "cuda" if args.gpus else "cpu"
    settings = settle(
        chosen_weights(args.checkpoint, "cpu"),
        args.interval,
        args.write,
        scene_cuts=args.scene_cuts,
        optimize=args.optimize,
        fps=args.fps,
        segment=args.segment,
        device=device,
        threads=args.cpus,
    )
    rows = run_fleet(find_videos(args.videos), settings, args.out, resources, args.retry_failed)
    failed = sum(row.status == FAILED for row in rows)
    counts = f"{len(rows) - failed} done, {failed} failed"
    print(f"written: {args.out}/videos/ ({counts}; {args.out}/{INDEX} lists them)")
    return 1 if rows and failed == len(rows) else 0
