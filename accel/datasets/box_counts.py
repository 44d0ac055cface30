"""Count boxes: how often each class occurs, and which counts cannot be intended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accel.datasets.label_counts import Doubts, Use, classes_occur
from accel.labels import percent


class BoxCounts:
    """The numbers of boxes, and of frames, that have each class.

    boxes, frames: (K,) int64, by class index.
    read: the number of counted frames.
    empty: the number of those without a box.
    """

    columns = "boxes", "frames %"

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.boxes, self.frames = (np.zeros(len(self.class_names), np.int64) for _ in range(2))
        self.read = self.empty = 0

    def add(self, classes: np.ndarray) -> None:
        """Count a frame, given the class indices (M,) of its boxes."""
        histogram = np.bincount(classes.astype(np.int64), minlength=len(self.class_names))
        self.boxes += histogram
        self.frames += histogram > 0
        self.read += 1
        self.empty += len(classes) == 0

    def rows(self) -> list[tuple[str, str, str]]:
        """Return, for each class and for frames without a box: index and name, the number of boxes, and the share of
        the frames, in per cent."""
        shares = [percent(count / max(1, self.read)) for count in (*self.frames, self.empty)]
        names = [*(f"{k} {name}" for k, name in enumerate(self.class_names)), "frames without a box"]
        return list(zip(names, [*map(str, self.boxes), ""], shares, strict=True))

    def doubts(self, use: Use, strict: bool, whole: bool = True) -> Doubts:
        """Return the reasons to doubt these boxes.

        strict: whether a class without a box is an error in training. No box at all always is.
        whole: whether all frames were counted. If not, everything is a warning.
        """
        if not self.read:
            return Doubts()
        frames = f"{'' if whole else 'the checked ones of '}the {self.read} frames"
        if not self.boxes.any():
            line = f"no box in {frames}"
            return Doubts(errors=(line,)) if whole else Doubts(warnings=(line,))
        missing = np.flatnonzero(self.boxes == 0).tolist()
        if not missing or not (use == "training" or whole):
            return Doubts()
        line = f"{classes_occur(missing, self.class_names)} in none of the boxes of {frames}"
        if strict and whole and use == "training":
            return Doubts(errors=(f"{line} (if nothing is wrong: data.label_check=warn)",))
        return Doubts(warnings=(line,))
