"""Score trained models on labelled video: mIoU or mAP, that of every class, seconds per frame.

accel evaluate --cfg experiments/camvid/accel18.yaml --checkpoint runs/camvid/accel18 --interval 5
accel evaluate --sweep 1,2,5,10 --cfg A.yaml --checkpoint runs/A --cfg B.yaml --checkpoint runs/B --csv ab.csv

On data in Cityscapes' layout, --official also scores the predictions with cityscapesscripts, and --submission DIR
writes the files for the test server. Several processes can share the work:
torchrun --nproc-per-node 2 -m accel evaluate ...
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", required=True, action="append", help="configuration (YAML): the data and the model")
    parser.add_argument("--checkpoint", required=True, action="append", help="weights: name, folder of a run, or file")
    parser.add_argument("--name", action="append", help="name of the model (default: that of its configuration)")
    parser.add_argument("-i", "--interval", type=int, help="frames from key frame to key frame (default: 1)")
    parser.add_argument("--avg", action="store_true", help="average over all distances from the key frame")
    parser.add_argument("--sweep", metavar="LIST", help="several intervals, such as 1,2,5, at all distances")
    parser.add_argument("--protocol", help="distances: each labelled frame; videos: each played once (as VID is)")
    parser.add_argument("--copying", action="store_true", help="with --sweep: add a model that repeats its key frames")
    parser.add_argument("--boundary", action="store_true", help="also measure mIoU near the class borders")
    parser.add_argument("--widths", metavar="LIST", help="for --boundary: distances in pixels (default: 1,2,4,8,16)")
    parser.add_argument("--motion", action="store_true", help="of boxes: also measure slow, medium and fast objects")
    parser.add_argument("--coco", action="store_true", help="of boxes: also measure COCO's mAP (needs pycocotools)")
    parser.add_argument("--temporal", action="store_true", help="also measure temporal consistency and flicker")
    parser.add_argument("--flow", help="for --temporal: auto, exact, dis, model (default: auto)")
    parser.add_argument("--split", help="split to score (default: the configuration's data.test_split)")
    parser.add_argument("--official", action="store_true", help="also score the predictions with cityscapesscripts")
    parser.add_argument("--predictions", metavar="DIR", help="with --official: keep the predictions (labelIds) here")
    parser.add_argument("--submission", metavar="DIR", help="only write labelIds of the split (default: test) here")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--csv", help="write the figures by interval and distance to this file")
    parser.add_argument("--report", metavar="DIR", help="write an HTML report here, with plots, JSON and CSV")
    parser.add_argument("--clip", metavar="NAME", action="append", help="for --report: show the frames up to this one")
    parser.add_argument("--optimize", action="store_true", help="optimise the models for speed, for each frame size")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the files'")
    args = parser.parse_args(arguments)

    from accel.evaluation.command import evaluate
    from accel.evaluation.running.processes import joined

    with joined() as processes:
        evaluate(args, processes)
