"""Score trained models on labelled video: mIoU, IoU of every class, seconds a frame.

python tools/evaluate.py --cfg experiments/accel/accel18_camvid.yaml --checkpoint runs/accel18_camvid --interval 5
python tools/evaluate.py --sweep 1,2,5,10 --cfg A.yaml --checkpoint runs/A --cfg B.yaml --checkpoint runs/B --csv ab.csv
"""

from __future__ import annotations

from pathlib import Path

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, action="append", help="configuration (YAML): the data and the model")
    parser.add_argument("--checkpoint", required=True, action="append", help="folder of a run, or a .safetensors file")
    parser.add_argument("--name", action="append", help="what to call the model (default: as its configuration)")
    parser.add_argument("-i", "--interval", type=int, help="frames from key frame to key frame (default: 1)")
    parser.add_argument("--avg", action="store_true", help="average over all distances from the key frame")
    parser.add_argument("--sweep", metavar="LIST", help="several intervals, such as 1,2,5, at all distances")
    parser.add_argument("--boundary", action="store_true", help="also mIoU near the class borders")
    parser.add_argument("--widths", metavar="LIST", default="1,2,4,8,16", help="how near, in pixels (1,2,4,8,16)")
    parser.add_argument("--temporal", action="store_true", help="also temporal consistency and flicker")
    parser.add_argument("--flow", default="auto", help="for --temporal: auto, exact, dis, model (default: auto)")
    parser.add_argument("--split", help="split to score (default: the configuration's data.test_split)")
    parser.add_argument("--json", help="write the result here too")
    parser.add_argument("--csv", help="write the figures by interval and distance here")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the files'")
    args = parser.parse_args()

    from accel.devices import choose_device
    from accel.evaluation import report
    from accel.evaluation.comparison import load_comparison, pair_up, run_comparison, whole_numbers
    from accel.inference.schedule import FixedInterval

    # What is wrong with the command itself is told before anything is loaded.
    sweeping = args.sweep is not None
    if sweeping and (args.interval is not None or args.avg):
        raise ValueError("--sweep has the intervals, and takes all distances: leave --interval and --avg out")
    intervals = whole_numbers("--sweep", args.sweep) if sweeping else (1 if args.interval is None else args.interval,)
    FixedInterval(intervals[0])
    widths = whole_numbers("--widths", args.widths) if args.boundary else ()
    entries = pair_up(args.cfg, args.checkpoint, args.name)
    if len(entries) > 1 and not sweeping:
        raise ValueError(f"{len(entries)} models are compared by --sweep, such as --sweep 1,5")
    for path in filter(None, (args.json, args.csv)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)

    comparison = load_comparison(entries, args.overrides, args.split, choose_device(args.device))
    flow = args.flow if args.temporal else None
    found = run_comparison(comparison, intervals, sweeping or args.avg, widths, flow, args.workers)
    if sweeping:
        report.print_sweep(found)
    else:
        report.print_result(found.single())
    if args.json:
        report.write_json(args.json, found.as_dict() if sweeping else found.single().as_dict())
    if args.csv:
        report.write_csv(args.csv, found)


if __name__ == "__main__":
    run(main)
