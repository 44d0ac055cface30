"""Clips whose frames are image files, with boxes of the last one: what all data sets for detection share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np

from accel.datasets.clips import Clip, ClipDataset
from accel.files.images import read_frames


class StoredBoxes(ClipDataset):
    """Frames with boxes whose images are files. Each data set defines `image_paths` and `truth`.

    own_files: whether each labelled frame has a file of boxes of its own.
    """

    own_files = True

    @abstractmethod
    def image_paths(self, index: int, length: int) -> list[Path]:
        """Return the files of the clip's frames, oldest first. There may be fewer than `length`."""

    @abstractmethod
    def truth(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        """Return the boxes (M, 5) of labelled frame `index`, as in `Clip`, and one line for each mistake.

        size: (H, W) of the frame. A box with a mistake is not among the boxes.

        Raises FileNotFoundError or ValueError, with the file, if there is no readable list of boxes.
        """

    def boxes(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Return the boxes of `truth`. Raises ValueError for the first mistake among them."""
        boxes, mistakes = self.truth(index, size)
        if mistakes:
            more = f" ({len(mistakes) - 1} more like it in this frame)" if len(mistakes) > 1 else ""
            raise ValueError(f"{mistakes[0]}{more}")
        return boxes

    def gaps(self, index: int, length: int) -> list[Path]:
        """Return the missing files, as in `StoredClips.gaps`. The default is an empty list."""
        return []

    def clip(self, index: int, length: int) -> Clip:
        history = self.history(index)
        if not 1 <= length <= history + 1:
            image = self.image_paths(index, 1)[-1]
            raise ValueError(f"{image}: {history} frames come before it, a clip of {length} needs more")
        return self._clip(index, self.image_paths(index, length))

    def _clip(self, index: int, paths: list[Path]) -> Clip:
        """Return the clip of these files, the last of which is that of labelled frame `index`."""
        frames = read_frames(paths)
        return Clip(frames, None, None, self.name(index), self.boxes(index, frames.shape[1:3]))
