"""Score optical flow beside no flow and DIS: end-point error on simulated clips, and labels carried along real video.

python tools/evaluate_flow.py --cfg experiments/camvid/flownet.yaml --checkpoint runs/camvid/flownet --stills train/held
"""

from __future__ import annotations

from pathlib import Path

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, help="configuration (YAML) of the data")
    parser.add_argument("--checkpoint", action="append", default=[], help="folder of a run with a flow network")
    parser.add_argument("--stills", help="split to simulate clips from, for the end-point error (default: none)")
    parser.add_argument("--split", help="split of labelled video to carry labels along (default: data.test_split)")
    parser.add_argument("--steps", default="1,4,9", help="over how many frames to carry (default: 1,4,9)")
    parser.add_argument("--json", help="write the result here too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args()

    from accel.config import load_config
    from accel.datasets import build_dataset, build_test_dataset
    from accel.devices import choose_device
    from accel.evaluation.command import whole_numbers
    from accel.evaluation.flow import of_network, score_flow, unmoved
    from accel.evaluation.report import flow_table, write_json
    from accel.evaluation.temporal import own_flow
    from accel.inference.loading import load_model
    from accel.models import DenseInverseSearch
    from accel.progress import bar, console

    config, device = load_config(args.cfg, args.overrides), choose_device(args.device)
    steps = whole_numbers("--steps", args.steps)
    flows = {"none": unmoved, "DIS": of_network(DenseInverseSearch())}
    for folder in args.checkpoint:
        flows[folder] = of_network(own_flow(load_model(folder, device=device)), device)
    video = build_dataset(config.data, args.split or config.data.test_split)
    simulated = None
    if args.stills:
        simulated = build_test_dataset(config.data.model_copy(update={"simulated_test_frames": 3}), args.stills)
    if args.json:
        if Path(args.json).is_dir():
            raise ValueError(f"--json {args.json}: is a folder; expected the name of a file to write")
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    scores = []
    for name, flow in flows.items():
        with bar(name, 1) as progress:
            scores.append(score_flow(name, flow, simulated, video, steps, progress.of))
    console.print(flow_table(scores))
    if args.json:
        write_json(args.json, [score.as_dict() for score in scores])


if __name__ == "__main__":
    run(main)
