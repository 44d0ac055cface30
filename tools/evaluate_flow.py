"""Compare optical flow with no flow and with DIS: end-point error on simulated clips, and labels carried on real video.

python tools/evaluate_flow.py --cfg experiments/camvid/flownet.yaml --checkpoint runs/camvid/flownet --stills train/held
"""

from __future__ import annotations

from pathlib import Path

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, help="configuration (YAML) of the data")
    parser.add_argument("--checkpoint", action="append", default=[], help="folder of a run with a flow network")
    parser.add_argument(
        "--stills",
        help="split for simulated clips of 3 frames (or data.simulated_test_frames), for the end-point error",
    )
    parser.add_argument("--split", help="split of labelled video for carrying labels (default: data.test_split)")
    parser.add_argument("--steps", default="1,4,9", help="numbers of frames to carry labels (default: 1,4,9)")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args()

    from accel.config import load_config
    from accel.datasets import build_dataset, build_test_dataset
    from accel.devices import choose_device
    from accel.evaluation.command import whole_numbers
    from accel.evaluation.origin import Origin
    from accel.evaluation.running.flow_accuracy import (
        at_every_pixel,
        can_carry,
        of_checkpoint,
        of_network,
        score_flow,
        unmoved,
    )
    from accel.evaluation.tables import flow_table, write_json
    from accel.models import DenseInverseSearch
    from accel.progress import bar, console

    config, device = load_config(args.cfg, args.overrides), choose_device(args.device)
    steps = whole_numbers("--steps", args.steps)
    data, split = config.data, args.split or config.data.test_split
    video = build_dataset(data, split)
    if not can_carry(video):
        missing = f"{data.name} {split}: no two labelled frames directly follow one another, nothing can be carried"
        if not args.stills:
            raise ValueError(f"{missing}; choose another --split, or --stills SPLIT for the end-point error alone")
        console.print(f"{missing}: end-point error alone")
        video = None
    simulated = None
    if args.stills:
        frames = data.simulated_test_frames or 3
        if frames < 2:
            raise ValueError(f"data.simulated_test_frames={frames}: flow needs clips of 2 frames or more")
        simulated = build_test_dataset(data.model_copy(update={"simulated_test_frames": frames}), args.stills)
    flows = {"none": unmoved, "DIS, every pixel": at_every_pixel(), "DIS, cells": of_network(DenseInverseSearch())}
    flows |= {folder: of_checkpoint(folder, device) for folder in args.checkpoint}
    if args.json:
        if Path(args.json).is_dir():
            raise ValueError(f"--json {args.json}: is a folder; expected the name of a file to write")
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    origin = Origin.of({folder: folder for folder in args.checkpoint}, device)
    scores = []
    for name, flow in flows.items():
        with bar(name, 1) as progress:
            scores.append(score_flow(name, flow, simulated, video, steps, progress.of))
    console.print(flow_table(scores))
    if args.json:
        write_json(args.json, {"flows": [score.as_dict() for score in scores], "origin": origin.as_dict()})


if __name__ == "__main__":
    run(main)
