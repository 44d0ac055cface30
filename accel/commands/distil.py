"""Train a video model on videos without labels: its frozen reference branch is the teacher.

accel distil --cfg experiments/any_model/distil.yaml data.videos=FOLDER
accel distil --cfg experiments/any_model/distil.yaml data.videos=drive.mp4 train.steps=400 --resume

The configuration is one of `accel train` whose train.loss is distillation; all options are those of `accel train`. In a
recipe for `accel train`, such a configuration is a stage like all others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from accel.commands.train import main as train


def main(arguments: Sequence[str] | None = None) -> int:
    return train(sys.argv[1:] if arguments is None else arguments, of="distil")
