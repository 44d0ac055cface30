"""Compare ways to choose key frames at an equal number of them: fixed, adaptive, random, and an oracle.

python tools/compare_key_frames.py --model runs/any_model/camvid --video data/camvid_halves/first --every 8
python tools/compare_key_frames.py --model runs/any_model/camvid --video a.mp4 --video b.mp4 --joined --json cut.json

Scored is the agreement with the reference branch on every frame: mIoU over all frames, and the mean of the worst tenth
of the frames. --joined plays the videos as one, with cuts between them. The oracle knows for each frame how much of its
labels agrees with the reference branch, and takes as many key frames where that is least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from accel.cli import Parser, run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, help="run distilled with model.adaptive")
    parser.add_argument("--video", action="append", type=Path, required=True, help="video file or folder of frames")
    parser.add_argument("--every", type=float, default=8.0, help="frames from key frame to key frame (default: 8)")
    parser.add_argument("--joined", action="store_true", help="play the videos as one, with cuts")
    parser.add_argument("--seeds", type=int, default=3, help="of random key frames (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--json", help="also write the results to this file")
    args = parser.parse_args(arguments)

    import numpy as np

    from accel.evaluation.key_frames import compare_key_frames, comparison_table
    from accel.evaluation.tables import write_json
    from accel.inference.loading import load_model
    from accel.video.folder import VideoFolder

    def films() -> Iterator[list[np.ndarray]]:
        for source in args.video:
            folder = VideoFolder(source)
            for name in folder.videos():
                with folder.open(name) as reader:
                    yield list(reader)

    videos = list(films())
    if args.joined:
        videos = [[frame for video in videos for frame in video]]
    model = load_model(args.model, device=args.device)
    results = compare_key_frames(model, videos, args.every, args.seeds)
    print(comparison_table(results))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    run(main)
