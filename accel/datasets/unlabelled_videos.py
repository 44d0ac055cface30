"""Videos without labels, for learning from the reference branch."""

from __future__ import annotations

import colorsys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from accel.datasets.clips import Clip, ClipDataset
from accel.video.folder import VideoFolder
from accel.video.random_access import NumberedFrames


class UnlabelledVideos(ClipDataset):
    """All frames of some videos. A clip may end in any of them; it has no labels.

    sources: video files, folders of frames, or folders of those, as in `VideoFolder`.
    class_names: the names of the classes of the models that learn from it.
    palette: their colours, (K, 3) uint8 RGB. None: different hues.
    progress: a function that is called with (done, total) while the videos are looked through.

    Raises FileNotFoundError if there is no such file or folder, and ValueError if there is no video in it.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        class_names: Sequence[str],
        palette: np.ndarray | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.class_names = tuple(class_names)
        self.palette = hues(len(class_names)) if palette is None else palette
        self.videos: list[NumberedFrames] = []
        folders = [VideoFolder(source.expanduser()) for source in sources]
        for folder in folders:
            for name in folder.videos():
                with folder.open(name) as reader:
                    self.videos.append(NumberedFrames(reader))
                if progress is not None:
                    progress(len(self.videos), sum(map(len, folders)))
        self.starts = list(accumulate((len(video) for video in self.videos), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, index: int) -> tuple[str, int]:
        video, number = self._find(index)
        return video.name, number

    def history(self, index: int) -> int:
        return self._find(index)[1]

    def clip(self, index: int, length: int) -> Clip:
        video, number = self._find(index)
        if not 1 <= length <= number + 1:
            raise ValueError(f"{self.name(index)}: {number} frames come before it; a clip of {length} needs more")
        return Clip(video.read(number - length + 1, length), None, None, self.name(index))

    def _find(self, index: int) -> tuple[NumberedFrames, int]:
        """Return the video of a frame, and the frame's number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        video = bisect_right(self.starts, index) - 1
        return self.videos[video], index - self.starts[video]


def hues(count: int) -> np.ndarray:
    """Return different colours for so many classes: (K, 3) uint8 RGB."""
    colours = [colorsys.hsv_to_rgb(i / max(count, 1), 0.8, 0.9) for i in range(count)]
    return np.array([[round(255 * channel) for channel in colour] for colour in colours], np.uint8).reshape(-1, 3)
