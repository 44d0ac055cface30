"""Draw outlines of COCO, LabelMe or Ultralytics as label images, for training on data of your own.

accel polygons annotations.json --images photos --output mine/train
accel polygons photos --output mine/train
accel polygons dataset/labels/train --output mine/train

The first is COCO's JSON, the second a folder of LabelMe's JSON files, the third one of Ultralytics' text files. It
writes mine/train/images and mine/train/labels, and mine/classes.txt if there is none. Where areas overlap, the smaller
one is on top; with LabelMe, the later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser

NAMED = 5  # lines about what was left out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("source", type=Path, help="JSON file of COCO, or folder of LabelMe's or Ultralytics' files")
    parser.add_argument("--images", type=Path, help="folder with the images (default: where the format has them)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER/SPLIT", help="folder to write")
    parser.add_argument("--rest", default="background", choices=("background", "ignored"), help="pixels in no area")
    args = parser.parse_args(arguments)

    from accel.datasets.polygons import convert
    from accel.labels import percent

    done = convert(args.source, args.output, args.images, args.rest == "ignored")
    for name, share in done.shares.items():
        print(f"{percent(share):>6}% {name}")
    print(f"pixels in no area: {args.rest} (--rest)")
    for line in done.left_out[:NAMED]:
        print(f"left out: {line}")
    if len(done.left_out) > NAMED:
        print(f"left out: {len(done.left_out) - NAMED} more")
    root = args.output.parent
    print(f"written: {done.images} images to {args.output}")
    print(f"next: accel train --cfg folder/all data.root={root} data.train_split={args.output.name} --check-data")
