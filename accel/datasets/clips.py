"""The sample of training and evaluation: a clip whose last frame has the label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from accel.datasets.label_counts import LabelCounts

OnMissing = Callable[[str], None]


@dataclass(frozen=True)
class Clip:
    """Consecutive frames, oldest first, with what is known about the last one.

    frames: (T, H, W, 3) uint8 RGB.
    labels: (H, W) uint8 class indices of the last frame (255 = ignored), or None.
    flow:   (T-1, H, W, 2) float32, or None. `flow[t, y, x]` is the displacement (dx, dy) in pixels from
            pixel (x, y) of frame t+1 to where the same point was seen in frame t; NaN where it was not visible.
    name:   what a person would call the last frame; unique in its data set.
    boxes:  (M, 5) float32: x1, y1, x2, y2 in pixels of the last frame, both corners within, and the class index; or
            None. M may be 0.
    motion: (M,) float32: how slow the object in each box is, or None. It is the mean overlap of its box with its own
            boxes in the 10 frames before and after; see `accel.datasets.box_motion`.
    """

    frames: np.ndarray
    labels: np.ndarray | None
    flow: np.ndarray | None
    name: str
    boxes: np.ndarray | None = None
    motion: np.ndarray | None = None


def frames_to_tensor(frames: np.ndarray) -> Tensor:
    """Turn (T, H, W, 3), uint8, into (T, 3, H, W), channels-last in memory, without a copy."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Batch:
    """Clips of one size, stacked: frames (B, T, 3, H, W) uint8, labels (B, H, W) uint8 or None,
    flow (B, T-1, 2, H, W) float32 in pixels with NaN where unknown, or None.

    Where clips have boxes, these are the labels: (B, M, 5) float32 as in `Clip`, filled up with rows of class -1.
    """

    frames: Tensor
    labels: Tensor | None
    flow: Tensor | None
    names: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        labels, flow = (None if x is None else change(x) for x in (self.labels, self.flow))
        return Batch(change(self.frames), labels, flow, self.names)


def collate(clips: list[Clip]) -> Batch:
    """Stack clips of equal length and size. Labels, boxes and flow are kept only if every clip has them."""
    shapes = {c.frames.shape for c in clips}
    if len(shapes) > 1:
        sizes = ", ".join(f"{c.name}: {c.frames.shape}" for c in clips)
        raise ValueError(f"clips of one batch must have the same size (crop or resize them); got {sizes}")

    def stack(arrays: list[np.ndarray | None]) -> Tensor | None:
        there = [a for a in arrays if a is not None]
        return torch.from_numpy(np.stack(there)) if len(there) == len(arrays) else None

    labels = stack([c.labels for c in clips])
    boxes = [c.boxes for c in clips]
    frames = torch.from_numpy(np.stack([c.frames for c in clips])).permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
    flow = stack([c.flow for c in clips])
    return Batch(
        frames,
        labels if all(of_clip is None for of_clip in boxes) else _stacked_boxes(boxes),
        None if flow is None else flow.permute(0, 1, 4, 2, 3),
        tuple(c.name for c in clips),
    )


def _stacked_boxes(boxes: list[np.ndarray | None]) -> Tensor | None:
    there = [of_clip for of_clip in boxes if of_clip is not None]
    if len(there) < len(boxes):
        return None
    stacked = np.zeros((len(there), max(map(len, there)), 5), np.float32)
    stacked[..., 4] = -1
    for row, of_clip in zip(stacked, there, strict=True):
        row[: len(of_clip)] = of_clip
    return torch.from_numpy(stacked)


class ClipDataset(Dataset, ABC):
    """Labelled frames of videos. Item i is one labelled frame; a clip ends in it.

    `class_names` and `palette` ((K, 3) uint8 RGB) describe the classes. `history(i)` says how many frames of the
    same video come directly before labelled frame i, hence the longest clip that may end there. `knows_flow` says
    whether clips carry their exact flow. `generated`: this program made the labels, and nobody need check them.
    `plays_videos`: every frame of each video is labelled, and the data set's own evaluation plays videos as a whole.
    `may_be_short`: where a labelled frame has too few frames before it, training takes a shorter clip; else it leaves
    that frame out.
    """

    class_names: tuple[str, ...]
    palette: np.ndarray
    knows_flow: bool = False
    generated: bool = False
    plays_videos: bool = False
    may_be_short: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def history(self, index: int) -> int:
        """Return the number of available frames directly before labelled frame `index`."""

    def following(self, index: int) -> int:
        """Return the number of available frames directly after labelled frame `index`, for `backward_clip`."""
        return 0

    def backward_clip(self, index: int, length: int) -> Clip:
        """Return the clip of the `length - 1` frames after labelled frame `index` and that frame, played backwards.

        Raises the errors of `clip`.
        """
        raise ValueError(f"{self.name(index)}: frames after labelled ones are not known in these data")

    def place(self, index: int) -> tuple[str, int]:
        """Return the video of labelled frame `index`, and its number in the video, counted from any frame.

        Two labelled frames of one video whose numbers differ by n have n - 1 frames between them, if the history of the
        later one reaches that far. By default, every labelled frame is its own video.
        """
        return str(index), self.history(index)

    def name(self, index: int) -> str:
        """Return a readable name of labelled frame `index`, which is the name of its clip. The default is its video and
        its number."""
        return "-".join(map(str, self.place(index)))

    @abstractmethod
    def clip(self, index: int, length: int) -> Clip:
        """Return the clip of `length` frames that ends in labelled frame `index`, as stored: without augmentation.

        Raises ValueError if fewer than `length - 1` frames come before it, or if a file is damaged or differs in size
        from the rest. Raises FileNotFoundError if a file is missing. Both name the file.
        """

    def only_labels(self, index: int) -> np.ndarray | None:
        """Return the labels of labelled frame `index`, (H, W) uint8, without reading frames.

        None (the default) if they are not available alone. Raises the errors of `clip`.
        """
        return None

    def box_motion(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Return `Clip.motion` of labelled frame `index`, whose size is (H, W).

        Raises ValueError for data that do not tell which boxes of a video are of one object.
        """
        raise ValueError(
            f"{type(self).__name__}: does not tell which boxes are of one object, so nothing is known of their motion"
        )

    def likely_cause(self, counts: LabelCounts) -> str:
        """Explain why a class is missing from these labels, or why so many pixels are ignored, and what to do about it.

        Empty (the default) if the cause is unknown.
        """
        return ""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes in `Clip.labels`: `class_names`, unless clips have boxes of other classes."""
        return self.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def long_enough(dataset: ClipDataset, length: int) -> list[int]:
    """Return the labelled frames with at least `length - 1` frames before them. Raises ValueError if there are none."""
    indices = [i for i in range(len(dataset)) if dataset.history(i) >= length - 1]
    if not indices:
        longest = max((dataset.history(i) + 1 for i in range(len(dataset))), default=0)
        raise ValueError(
            f"interval {length} needs {length - 1} frames before a labelled one; "
            f"the longest clip in this data set has {longest}"
        )
    return indices
