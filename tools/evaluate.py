"""Score a trained model on labelled video: mIoU, IoU of every class, seconds a frame.

python tools/evaluate.py --cfg experiments/accel/accel18_camvid.yaml --checkpoint runs/accel18_camvid --interval 5
"""

from __future__ import annotations

from pathlib import Path

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, help="configuration (YAML): the data and the model")
    parser.add_argument("--checkpoint", required=True, help="folder of a run, or a .safetensors file")
    parser.add_argument("-i", "--interval", type=int, default=1, help="frames from key frame to key frame (default: 1)")
    parser.add_argument("--avg", action="store_true", help="average over all distances from the key frame")
    parser.add_argument("--split", help="split to score (default: the configuration's data.test_split)")
    parser.add_argument("--json", help="write the result here too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args()

    from accel.config import load_config
    from accel.datasets import build_dataset
    from accel.devices import choose_device
    from accel.evaluation.evaluator import evaluate
    from accel.evaluation.report import class_table, summary, write_json
    from accel.inference.loading import check_classes, load_model
    from accel.inference.schedule import FixedInterval
    from accel.progress import console

    FixedInterval(args.interval)  # a wrong one is told before anything is loaded
    config = load_config(args.cfg, args.overrides)
    device = choose_device(args.device)
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)  # a place that cannot be is told first, too
    model = load_model(args.checkpoint, config.model, device)
    dataset = build_dataset(config.data, args.split or config.data.test_split)
    check_classes(args.checkpoint, dataset)
    result = evaluate(model, dataset, args.interval, args.avg, args.workers)
    console.print(class_table(result))
    console.print(summary(result))
    if args.json:
        write_json(args.json, result.as_dict())


if __name__ == "__main__":
    run(main)
