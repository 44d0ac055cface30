"""What the data sets of a user's own boxes share: frames in folders, and boxes that are checked one by one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.datasets.box_counts import BoxCounts
from accel.datasets.clips import OnMissing
from accel.datasets.stored_boxes import StoredBoxes
from accel.files.listing import not_there
from accel.video.reader import IMAGE_SUFFIXES, frame_files

BEYOND = 1.0  # pixels that a box may reach over the frame's border: programs count corners differently
_ENDINGS = sorted(IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Corners:
    """A box as it is written, and its class index: left, top, right, bottom in pixels of the frame, where the frame
    itself has 0, 0, width, height."""

    left: float
    top: float
    right: float
    bottom: float
    class_index: int

    def mistake(self, size: tuple[int, int] | None) -> str:
        """Return what is wrong with the box. Empty if nothing is.

        size: (H, W) of the frame. None: unknown.
        """
        sides = self.left, self.top, self.right, self.bottom
        if not all(map(math.isfinite, sides)):
            return "a corner is no number"
        width, height = self.right - self.left, self.bottom - self.top
        if width <= 0 or height <= 0:
            kind = "inverted" if width < 0 or height < 0 else "empty"
            return f"an {kind} box, {width:g} x {height:g} pixels (width x height)"
        if size is None:
            return ""
        outside = max(-self.left, -self.top, self.right - size[1], self.bottom - size[0])
        if outside > BEYOND:
            return (
                f"a box outside the frame: x {self.left:g} to {self.right:g}, y {self.top:g} to {self.bottom:g} in "
                f"{size[1]} x {size[0]} pixels (width x height)"
            )
        return ""

    def row(self, size: tuple[int, int]) -> tuple[float, float, float, float, float]:
        """Return the box within a frame of `size` (H, W) as a row of `Clip.boxes`, where both corners are within."""
        height, width = size
        x1, y1 = max(self.left, 0.0), max(self.top, 0.0)
        x2, y2 = min(self.right, width) - 1, min(self.bottom, height) - 1
        return x1, y1, max(x1, x2), max(y1, y2), float(self.class_index)


class OwnBoxes(StoredBoxes):
    """Frames that a file of boxes, or one for each, names. A frame in a folder of its own belongs to the video of that
    folder; frames of the video without boxes files serve as history. All others are single images.

    Each data set defines `written`.

    images: the folder that the names of frames start from.
    names: of the labelled frames, such as `NAME.jpg` or `VIDEO/NAME.jpg`.
    on_missing: a function that is called with a message for each frame without an image. The frame is left out. None:
        it is an error.
    """

    def __init__(self, images: Path, names: Sequence[str], on_missing: OnMissing | None = None):
        self.images = images
        videos: dict[Path, tuple[tuple[Path, ...], dict[Path, int]]] = {}
        self._frames: list[tuple[str, tuple[Path, ...], int]] = []  # name, video, number in it
        for name in names:
            path = images / name
            if not path.is_file():
                if on_missing is None:
                    raise FileNotFoundError(not_there(path))
                on_missing(not_there(path))
            elif path.parent == images:
                self._frames.append((name, (path,), 0))
            else:
                if path.parent not in videos:
                    frames = tuple(frame_files(path.parent))
                    videos[path.parent] = frames, {frame: number for number, frame in enumerate(frames)}
                frames, numbers = videos[path.parent]
                if path not in numbers:
                    raise ValueError(f"{path}: expected an image with one of the endings {', '.join(_ENDINGS)}")
                self._frames.append((name, frames, numbers[path]))

    def __len__(self) -> int:
        return len(self._frames)

    def history(self, index: int) -> int:
        return self._frames[index][2]

    def name(self, index: int) -> str:
        return self._frames[index][0]

    def place(self, index: int) -> tuple[str, int]:
        name, video, number = self._frames[index]
        return (name if len(video) == 1 else name.rpartition("/")[0]), number

    def image_paths(self, index: int, length: int) -> list[Path]:
        _, video, number = self._frames[index]
        return list(video[max(0, number - length + 1) : number + 1])

    @abstractmethod
    def written(self, index: int, size: tuple[int, int] | None) -> tuple[list[tuple[str, Corners]], list[str]]:
        """Return the boxes of labelled frame `index`, each with words that say where it is written, and one line for
        each other mistake.

        size: (H, W) of the image. None: it has not been read.

        Raises FileNotFoundError or ValueError, with the file, if there is no readable list of boxes.
        """

    def truth(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        boxes, mistakes = self.written(index, size)
        wrong = [(where, each.mistake(size)) for where, each in boxes]
        rows = [each.row(size) for (_, each), (_, mistake) in zip(boxes, wrong, strict=True) if not mistake]
        mistakes += [f"{where}: {mistake}" for where, mistake in wrong if mistake]
        return np.array(rows, np.float32).reshape(-1, 5), mistakes

    def count(self, index: int, counts: BoxCounts) -> None:
        """Count the boxes of labelled frame `index` without reading its image."""
        counts.add(np.array([each.class_index for _, each in self.written(index, None)[0]], int))
