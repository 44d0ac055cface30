"""Average precision of boxes, as the evaluation of ImageNet VID in Deep Feature Flow's release counts it.

Boxes are x1, y1, x2, y2 in pixels. Both corners are within the box, so a side is x2 - x1 + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accel.datasets.box_motion import overlaps

MOST_OVERLAP = 0.5  # a true box never asks for more overlap
MARGIN = 10  # pixels: a small box asks for less, as if a detection may be half of this off on each side
SCORE_DECIMALS, CORNER_DECIMALS = 4, 2  # the release writes detections to a file with so many decimals


class Matches(NamedTuple):
    """The detections of a frame, best first, and the true boxes that they match.

    scores: (N,) float64.
    classes: (N,) class indices.
    matched: (N,) the index of the true box. -1: none, so the detection is wrong.
    overlaps: (N, M) intersection over union with the M true boxes.
    """

    scores: np.ndarray
    classes: np.ndarray
    matched: np.ndarray
    overlaps: np.ndarray


class AveragePrecision:
    """Detections and true boxes, counted frame by frame.

    Detections take true boxes in the order of their scores. Each takes the free box of its class that it overlaps most,
    if the overlap is enough. A detection that finds no such box is wrong.

    Equal scores count in the order of the frames' names, so parts of a data set can be added up in any order.

    num_classes: K.

    true: (K,) the number of true boxes of each class.
    frames: the number of frames.
    """

    def __init__(self, num_classes: int):
        self.true = np.zeros(num_classes, np.int64)
        self.frames = 0
        self._names: list[str] = []
        self._classes: list[np.ndarray] = []  # of detections, frame by frame, best first
        self._scores: list[np.ndarray] = []
        self._right: list[np.ndarray] = []

    def update(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        true: np.ndarray,
        of: np.ndarray,
        name: str = "",
    ) -> Matches:
        """Count a frame. Return what its detections match.

        boxes, scores, classes: the detections: boxes (N, 4), scores (N,) and class indices (N,).
        true, of: the true boxes (M, 4) and their class indices (M,).
        name: the name of the frame.

        Raises ValueError for a class index that is not one of the K.
        """
        for given, what in ((classes, "detections"), (of, "true boxes")):
            if given.size and not 0 <= given.min() <= given.max() < len(self.true):
                raise ValueError(f"{what} of the classes {given.min()} to {given.max()}; there are {len(self.true)}")
        found = match(boxes, scores, classes, true, of)
        self._names.append(name)
        self._scores.append(found.scores)
        self._classes.append(found.classes.astype(np.int16))  # there may be millions
        self._right.append(found.matched >= 0)
        self.true += np.bincount(of, minlength=len(self.true))
        self.frames += 1
        return found

    def __add__(self, other: AveragePrecision) -> AveragePrecision:
        """Return the sum. Raises ValueError for another number of classes."""
        if len(self.true) != len(other.true):
            raise ValueError(f"counts of {len(self.true)} and of {len(other.true)} classes cannot be added")
        both = AveragePrecision(len(self.true))
        both.true, both.frames = self.true + other.true, self.frames + other.frames
        for own in ("_names", "_classes", "_scores", "_right"):
            setattr(both, own, getattr(self, own) + getattr(other, own))
        return both

    def of_classes(self) -> np.ndarray:
        """Return the average precision of each class, (K,), 0..1. NaN for a class without true boxes.

        It is the area under the curve of precision over recall, after each precision is raised to the highest one at
        any higher recall.
        """
        order = by_name(self._names)
        classes, scores, right = (joined(parts, order) for parts in (self._classes, self._scores, self._right))
        found = np.full(len(self.true), np.nan)
        for k in np.flatnonzero(self.true):
            own = classes == k
            best_first = np.argsort(-scores[own], kind="stable")
            hits = right[own][best_first].astype(np.float64)
            found[k] = area(hits, 1 - hits, float(self.true[k]))
        return found

    def mean(self) -> float:
        """Return the mean over the classes that have true boxes. NaN if none has."""
        return self.mean_of(self.of_classes())

    @staticmethod
    def mean_of(of_classes: np.ndarray) -> float:
        """Return the mean of the figures of `of_classes` (K,) that exist. NaN if none does."""
        return float(np.nanmean(of_classes)) if np.isfinite(of_classes).any() else float("nan")


def match(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, true: np.ndarray, of: np.ndarray) -> Matches:
    """Return what the detections of a frame match. Arguments as in `AveragePrecision.update`."""
    scores, boxes = np.round(scores.astype(np.float64), SCORE_DECIMALS), np.round(boxes, CORNER_DECIMALS)
    order = np.argsort(-scores, kind="stable")
    boxes, scores, classes = boxes[order].astype(np.float64), scores[order], classes[order]
    true = true.astype(np.float64)
    shared = overlaps(boxes, true)
    matched = np.full(len(boxes), -1, np.int64)
    if len(true):
        width, height = true[:, 2] - true[:, 0] + 1, true[:, 3] - true[:, 1] + 1
        enough = np.minimum(MOST_OVERLAP, width * height / ((width + MARGIN) * (height + MARGIN)))
        free = np.ones(len(true), bool)
        for n in range(len(boxes)):
            candidates = np.where(free & (of == classes[n]) & (shared[n] >= enough), shared[n], -1)
            best = int(candidates.argmax())
            if candidates[best] >= 0:
                matched[n], free[best] = best, False
    return Matches(scores, classes, matched, shared)


def area(right: np.ndarray, wrong: np.ndarray, true: float) -> float:
    """Return the average precision of detections (N,), best first.

    right, wrong: how much each detection counts as right and as wrong: 1 and 0, or 0 and 1. A detection that is to be
        ignored has 0 twice.
    true: the number of true boxes.
    """
    hits, misses = right.cumsum(), wrong.cumsum()
    recall = np.concatenate([[0], hits / true, [1]])
    precision = np.concatenate([[0], hits / np.maximum(hits + misses, np.finfo(np.float64).eps), [0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * precision[1:]).sum())


def by_name(names: list[str]) -> list[int]:
    """Return the places of frames in the order of their names. Frames of one name keep their order."""
    return sorted(range(len(names)), key=names.__getitem__)


def joined(parts: list[np.ndarray], order: list[int]) -> np.ndarray:
    """Return the arrays of frames, in this order, as one array."""
    return np.concatenate([parts[place] for place in order]) if parts else np.zeros(0)
