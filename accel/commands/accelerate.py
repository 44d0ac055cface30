"""Make your segmentation model several times faster on video. It learns from videos alone; nothing needs labels.

accel accelerate transformers:nvidia/segformer-b2-finetuned-cityscapes-1024-1024 drive.mp4
accel accelerate smp:fpn:resnet34:mine.pt --classes 12 drives/ --output runs/mine
accel accelerate mine.yaml drive1.mp4 drive2.mp4

MODEL is one of: transformers:NAME (of Hugging Face's hub, or a folder), torchvision:NAME,
smp:ARCHITECTURE:ENCODER:WEIGHTS, own:NAME (see accel.register_model), a .yaml file with num_classes and reference, or
weights of this program. The run's folder then holds the weights, for accel label, and a report of what was gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="the model to accelerate")
    parser.add_argument(
        "videos", metavar="VIDEO", nargs="+", type=Path, help="video file, or folder of frames or videos"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/accelerated"), help="folder of the run")
    parser.add_argument("--classes", type=int, help="number of the model's classes, if it does not say")
    parser.add_argument("--steps", type=int, default=600, help="training steps (default: 600)")
    parser.add_argument("--batch-size", type=int, default=4, help="clips a step (default: 4)")
    parser.add_argument("--fresh", action="store_true", help="update branch without ImageNet weights: learns slower")
    parser.add_argument("--frames", type=int, default=200, help="frames of each video in the report (default: 200)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run, or begin one")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")
    args = parser.parse_args(arguments)
    for name in ("steps", "batch_size", "frames"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected 1 or more")

    from accel.acceleration import Options, accelerate_model

    accelerate_model(Options(**vars(args)))
