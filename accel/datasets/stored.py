"""Clips that are stored as image files: one file a frame, one for the labels."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np

from accel.datasets.clips import Clip, ClipDataset
from accel.files.images import read_frames


class StoredClips(ClipDataset):
    """Labelled frames whose images and labels are files. Where they are, and what is in a label file, is said by each
    data set's `image_paths` and `labels`.

    with_labels: whether clips carry labels; if not, no label file is read.
    why_short: stands in brackets behind the error for a clip that is longer than its video; empty: nothing does.
    """

    with_labels: bool = True
    why_short: str = ""

    @abstractmethod
    def image_paths(self, index: int, length: int) -> list[Path]:
        """The files of the clip's frames, oldest first; those and the label's are all that `clip` reads."""

    @abstractmethod
    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        """The label file of labelled frame `index` and the (H, W) uint8 class indices in it. Raises as `clip` does."""

    def only_labels(self, index: int) -> np.ndarray | None:
        return self.labels(index)[1] if self.with_labels else None

    def flows(self, index: int, length: int, size: tuple[int, int]) -> np.ndarray | None:
        """The exact flow of a clip of frames of `size` (H, W), as `Clip` has it. Here: it is not known."""
        return None

    def gaps(self, index: int, length: int) -> list[Path]:
        """The files for want of which a clip of `length` frames cannot end here, where older frames of the video are
        there. Here: none is known."""
        return []

    def clip(self, index: int, length: int) -> Clip:
        if length < 1:
            raise ValueError(f"a clip has at least one frame; asked for {length}")
        history = self.history(index)
        if length - 1 > history:
            raise ValueError(
                f"{self.image_paths(index, 1)[0]}: {history} frames come directly before it, a clip of {length} needs "
                f"{length - 1}{self.why_short and f' ({self.why_short})'}"
            )
        path, labels = self.labels(index) if self.with_labels else (None, None)
        frames = read_frames(self.image_paths(index, length), path, None if labels is None else labels.shape)
        return Clip(frames, labels, self.flows(index, length, frames.shape[1:3]), self.name(index))
