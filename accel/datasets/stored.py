"""Clips that are stored as image files: one file for each frame, one for the labels."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np

from accel.datasets.clips import Clip, ClipDataset
from accel.files.images import read_frames


class StoredClips(ClipDataset):
    """Labelled frames whose images and labels are files. Each data set defines `image_paths` and `labels`: where the
    files are, and what is in a label file.

    with_labels: whether clips carry labels. If not, no label file is read.
    why_short: an explanation, in brackets, for the error about a clip that is longer than its video. Empty: none.
    """

    with_labels: bool = True
    why_short: str = ""

    @abstractmethod
    def image_paths(self, index: int, length: int) -> list[Path]:
        """Return the files of the clip's frames, oldest first. `clip` reads only these and the label file."""

    @abstractmethod
    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        """Return the label file of labelled frame `index` and its class indices (H, W), uint8. Raises the errors of
        `clip`."""

    def only_labels(self, index: int) -> np.ndarray | None:
        return self.labels(index)[1] if self.with_labels else None

    def flows(self, index: int, length: int, size: tuple[int, int]) -> np.ndarray | None:
        """Return the exact flow of a clip with frames of `size` (H, W), as in `Clip`. None (the default) if it is
        unknown."""
        return None

    def gaps(self, index: int, length: int) -> list[Path]:
        """Return the missing files that prevent a clip of `length` frames from ending here, although older frames of
        the video exist.

        The default is an empty list.
        """
        return []

    def clip(self, index: int, length: int) -> Clip:
        if length < 1:
            raise ValueError(f"a clip has at least one frame; got {length}")
        history = self.history(index)
        if length - 1 > history:
            raise ValueError(
                f"{self.image_paths(index, 1)[0]}: {history} frames come directly before it, a clip of {length} needs "
                f"{length - 1}{self.why_short and f' ({self.why_short})'}"
            )
        path, labels = self.labels(index) if self.with_labels else (None, None)
        frames = read_frames(self.image_paths(index, length), path, None if labels is None else labels.shape)
        return Clip(frames, labels, self.flows(index, length, frames.shape[1:3]), self.name(index))
