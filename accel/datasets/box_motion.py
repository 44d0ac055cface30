"""How fast the object in a box moves (Zhu et al., "Flow-guided feature aggregation for video object detection", ICCV
2017).

It is the mean overlap of its box with its own boxes in the frames before and after: its *motion IoU*. The slower it is,
the more they overlap.

Boxes are x1, y1, x2, y2 in pixels. Both corners are within the box.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Track = TypeVar("Track", bound=Hashable)
REACH = 10  # frames before and after


def motion_iou(frames: Mapping[int, Mapping[Track, Sequence[float]]], number: int) -> dict[Track, float]:
    """Return the motion IoU of the objects of a frame, by track.

    frames: by frame number, the box (x1, y1, x2, y2) of each track, at least of the frames within `REACH` of `number`.
        A frame that does not exist, or has no box of a track, does not count for that track.
    number: the number of the frame.

    An object that is in none of the other frames has motion IoU 0, as in the published evaluation.
    """
    found = {}
    for track, box in frames[number].items():
        near = range(number - REACH, number + REACH + 1)
        others = [frames[n][track] for n in near if n != number and track in frames.get(n, ())]
        shared = overlaps(np.array([box], np.float64), np.array(others, np.float64).reshape(-1, 4))
        found[track] = float(shared.mean()) if others else 0.0
    return found


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (N, 4) and others (M, 4): (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)
