"""Average precision of boxes as ImageNet VID's evaluation in Deep Feature Flow's release has it.

Boxes are x1, y1, x2, y2 in pixels, both corners within, so a side is x2 - x1 + 1.
"""

from __future__ import annotations

import numpy as np

MOST_OVERLAP = 0.5  # that is ever asked for
MARGIN = 10  # pixels: of small boxes less overlap is asked for, as if they were off by half of this on each side
SCORE_DECIMALS, CORNER_DECIMALS = 4, 2  # the release's evaluation reads what detections are rounded to in a file


class AveragePrecision:
    """Detections and true boxes counted frame by frame.

    A detection is right if a true box of its class overlaps it enough that no detection of a higher score in the frame
    has taken; of several it takes the one of the highest overlap.

    num_classes: K.
    """

    def __init__(self, num_classes: int):
        self.true = np.zeros(num_classes, np.int64)  # boxes of each class
        self.frames = 0
        self._classes: list[np.ndarray] = []  # of detections, frame by frame, best first
        self._scores: list[np.ndarray] = []
        self._right: list[np.ndarray] = []

    def update(
        self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, true: np.ndarray, of: np.ndarray
    ) -> None:
        """Count a frame. Detections: boxes (N, 4), scores (N,) and class indices (N,). Truth: boxes `true` (M, 4) of
        class indices `of` (M,). ValueError for a class index that is none."""
        for given, what in ((classes, "detections"), (of, "true boxes")):
            if given.size and not 0 <= given.min() <= given.max() < len(self.true):
                raise ValueError(f"{what} of the classes {given.min()} to {given.max()}; there are {len(self.true)}")
        scores, boxes = np.round(scores.astype(np.float64), SCORE_DECIMALS), np.round(boxes, CORNER_DECIMALS)
        order = np.argsort(-scores, kind="stable")
        boxes, scores, classes = boxes[order].astype(np.float64), scores[order], classes[order]
        self._scores.append(scores)
        self._classes.append(classes)
        self._right.append(_matched(boxes, classes, true.astype(np.float64), of))
        self.true += np.bincount(of, minlength=len(self.true))
        self.frames += 1

    def __add__(self, other: AveragePrecision) -> AveragePrecision:
        both = AveragePrecision(len(self.true))
        both.true, both.frames = self.true + other.true, self.frames + other.frames
        for own in ("_classes", "_scores", "_right"):
            setattr(both, own, getattr(self, own) + getattr(other, own))
        return both

    def of_classes(self) -> np.ndarray:
        """The average precision of each class, (K,), 0..1: the area under its curve of precision, made to fall, over
        recall. NaN where there is no true box."""
        classes, scores, right = (
            np.concatenate(parts) if parts else np.zeros(0) for parts in (self._classes, self._scores, self._right)
        )
        found = np.full(len(self.true), np.nan)
        for k in np.flatnonzero(self.true):
            own = classes == k
            order = np.argsort(-scores[own], kind="stable")
            found[k] = _area(right[own][order].astype(bool), int(self.true[k]))
        return found

    def mean(self) -> float:
        """The mean over the classes that have true boxes; NaN if none has."""
        found = self.of_classes()
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _matched(boxes: np.ndarray, classes: np.ndarray, true: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Whether each of the detections (N, 4), best first, is right."""
    right = np.zeros(len(boxes), bool)
    if not len(true):
        return right
    width, height = true[:, 2] - true[:, 0] + 1, true[:, 3] - true[:, 1] + 1
    enough = np.minimum(MOST_OVERLAP, width * height / ((width + MARGIN) * (height + MARGIN)))
    shared = _overlaps(boxes, true)
    free = np.ones(len(true), bool)
    for n in range(len(boxes)):
        candidates = np.where(free & (of == classes[n]) & (shared[n] >= enough), shared[n], -1)
        best = int(candidates.argmax())
        if candidates[best] >= 0:
            right[n], free[best] = True, False
    return right


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def _area(right: np.ndarray, true: int) -> float:
    """The average precision of detections, best first. true: how many boxes there are."""
    hits = right.cumsum()
    recall = np.concatenate([[0], hits / true, [1]])
    precision = np.concatenate([[0], hits / np.arange(1, len(right) + 1), [0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * precision[1:]).sum())
