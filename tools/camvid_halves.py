"""Lay out CamVid's clip in two halves: frames to learn from without labels, and labelled frames to be scored on.

python tools/camvid_halves.py --root data/camvid --out data/camvid_halves

OUT/first/ then holds the first 50 frames of the clip, and OUT/second is CamVid with a split `val` of its frames 50 to
100 only. All of it are links.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, run

HALF = 50


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="CamVid: val/ and valannot/ of single files")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    args = parser.parse_args(arguments)

    from accel.datasets.camvid import CamVid

    clip = CamVid(args.root, "val")
    videos = {clip.place(index)[0] for index in range(len(clip))}
    if len(videos) != 1 or len(clip) <= HALF:
        raise ValueError(f"{args.root}: val holds {len(videos)} videos of {len(clip)} frames; expected the clip of 101")
    names = [clip.name(index) for index in sorted(range(len(clip)), key=lambda index: clip.place(index)[1])]
    for name in names[:HALF]:
        _link(args.root / "val" / f"{name}.png", args.out / "first" / f"{name}.png")
    second = args.out / "second"
    for folder in ("train", "trainannot", "val", "valannot", "test", "testannot"):
        if (args.root / folder).is_dir():
            _link(args.root / folder, second / folder)
    (second / "val.txt").write_text("".join(f"{name}.png\n" for name in names[HALF:]), encoding="utf-8")
    print(f"written: {args.out}/first ({HALF} frames), {second} ({len(names) - HALF} labelled frames)")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        os.symlink(source.resolve(), target)


if __name__ == "__main__":
    run(main)
