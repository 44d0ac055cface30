"""The interface of the formats in which the results of a video are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from accel.inference.segmenter import SegmentedFrame
from accel.tasks import Task
from accel.tasks.result_files import Place

PART = ".part"  # the suffix of a file that is being written


@dataclass(frozen=True)
class VideoFacts:
    """What files say of a video besides its frames.

    name: its name.
    size: (H, W) of every frame.
    fps: frames a second. None if unknown.
    """

    name: str
    size: tuple[int, int]
    fps: Fraction | float | None


def head(video: VideoFacts, task: Task) -> dict[str, Any]:
    """Return what a file must say of a video to be read back, for JSON."""
    return {
        "task": task.name,
        "video": video.name,
        "size": list(video.size),
        "classes": list(task.class_names),
        "palette": task.palette.tolist(),
    }


class FrameWriter(ABC):
    """Writes the results of one video in one format, frame by frame.

    Each frame reaches the file system before `write` returns. If the program is killed, everything up to the last whole
    frame can be read: from the file under its own name, or from the one with `.part` after it. Only `close` gives a
    file that needs an end its own name.

    place: takes the name of a file within the folder of results, and returns its path.
    video: the video's facts.
    task: the task of the model, with class names and colours.

    needs_confidence: whether the frames must have `confidence`, see `Segmenter`.
    """

    needs_confidence = False

    def __init__(self, place: Place, video: VideoFacts, task: Task):
        self.place, self.video, self.task = place, video, task

    @staticmethod
    @abstractmethod
    def names() -> Sequence[str]:
        """Return the names of the files and folders that this format writes. Those of folders end with a slash."""

    @abstractmethod
    def write(self, frame: SegmentedFrame) -> None:
        """Add the result of a frame. Frames come in the order of their numbers; some numbers may be missing."""

    @abstractmethod
    def close(self) -> None:
        """Finish the files."""

    def abort(self) -> None:  # noqa: B027 # most formats hold nothing open
        """Free what is open, without finishing the files."""
