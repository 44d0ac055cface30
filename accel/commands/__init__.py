"""The commands of `accel`, each in its own module. The module's docstring is the help, and its `main` does the work.

Nothing heavy is imported before the arguments are read.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from accel._version import __version__
from accel.cli import run

COMMANDS = {
    "label": "label a video, a folder, a camera or a stream",
    "fleet": "label many videos on a cluster",
    "demo": "see labelled snippets and their accuracy",
    "models": "list the weights that can be used by name",
    "polygons": "make label images from outlines (COCO, LabelMe, Ultralytics)",
    "accelerate": "make a segmentation model of yours faster on video, without labels",
    "train": "train an experiment or a recipe",
    "distil": "train a video model on videos without labels",
    "evaluate": "score trained models on labelled video",
    "export": "export a model for ONNX Runtime, C++ or the browser",
    "benchmark": "measure how fast things run on this machine",
    "cache": "show or clear the compiled networks that are kept",
    "convert": "convert results to other formats, or weights from or to MXNet",
}

HELP = """Accel labels every pixel of a video, at a fraction of the usual cost.

Three things to try first:
  accel label drive.mp4     label a video of your own; results in output/drive.mp4
  accel demo                see how it works on videos with known labels
  accel models              see which weights are available

All commands (accel COMMAND --help says more):
{commands}
"""


def command() -> None:
    """Run the console script `accel`."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:11}{what}" for name, what in COMMANDS.items())), end="")
    elif first in ("-V", "--version"):
        print(f"accel {__version__}")
    elif first in COMMANDS:
        run(lambda: main_of(first)(rest))
    else:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: no command {first!r}; {hint}", file=sys.stderr)
        sys.exit(2)


def main_of(name: str) -> Callable[[Sequence[str]], int | None]:
    """Return the function that runs a command, given its arguments."""
    sys.argv[0] = f"accel {name}"  # what its help and its messages call it
    return import_module(f"accel.commands.{name}").main
