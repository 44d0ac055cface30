"""Average precision of slow, medium and fast objects (Zhu et al., "Flow-guided feature aggregation for video object
detection", ICCV 2017), as its published evaluation counts it.

The *motion IoU* of an object says how fast it moves; see `accel.datasets.box_motion`.
"""

from __future__ import annotations

import numpy as np

from accel.measures.average_precision import AveragePrecision, Matches, area, by_name, joined

SLOW, FAST = 0.9, 0.7  # motion IoU above the first is slow, under the second is fast
GROUPS = ("slow", "medium", "fast")
_EMPTY = -1.0  # in place of a weight: a frame without true boxes, whose weights depend on all frames


def groups_of(motion: np.ndarray) -> np.ndarray:
    """Return the index in `GROUPS` of each motion IoU (M,): (M,)."""
    return np.where(motion > SLOW, 0, np.where(motion < FAST, 2, 1))


class MotionPrecision:
    """Detections and true boxes, counted frame by frame for each of `GROUPS`.

    Boxes are matched as in `AveragePrecision`, those of all groups together. For a group, a detection that matches a
    box of another group is ignored. A wrong detection counts for the group whose box it overlaps most. Without overlap,
    it counts partly, as in the published evaluation:

    - in a frame with boxes, by the share of the boxes of other groups (the published code has it so);
    - in a frame without boxes, by the share of the group among all true boxes.

    num_classes: K.

    true: (3, K) the number of true boxes of each group and class.
    """

    def __init__(self, num_classes: int):
        self.true = np.zeros((len(GROUPS), num_classes), np.int64)
        self._names: list[str] = []
        self._classes: list[np.ndarray] = []  # of detections, frame by frame, best first
        self._scores: list[np.ndarray] = []
        self._group: list[np.ndarray] = []  # of the box that is matched; -1: none
        self._wrong: list[np.ndarray] = []  # (N, 3) weight as wrong detection in each group, or _EMPTY

    def update(self, found: Matches, of: np.ndarray, motion: np.ndarray, name: str = "") -> None:
        """Count a frame.

        found: what its detections match.
        of: the class indices (M,) of its true boxes.
        motion: their motion IoU (M,).
        name: the name of the frame.
        """
        groups = groups_of(motion)
        wrong = np.full((len(found.matched), len(GROUPS)), _EMPTY)
        for group in range(len(GROUPS)) if len(of) else ():
            within = groups == group
            best, other = (_most(found.overlaps[:, chosen]) for chosen in (within, ~within))
            wrong[:, group] = np.where(best > other, 1, np.where(best < other, 0, (~within).mean()))
            self.true[group] += np.bincount(of[within], minlength=self.true.shape[1])
        missed = found.matched < 0
        wrong[~missed] = 0
        self._names.append(name)
        self._scores.append(found.scores)
        self._classes.append(found.classes)
        self._group.append(np.where(missed, -1, groups[found.matched] if len(of) else -1))
        self._wrong.append(wrong)

    def __add__(self, other: MotionPrecision) -> MotionPrecision:
        both = MotionPrecision(self.true.shape[1])
        both.true = self.true + other.true
        for own in ("_names", "_classes", "_scores", "_group", "_wrong"):
            setattr(both, own, getattr(self, own) + getattr(other, own))
        return both

    def of_classes(self) -> dict[str, np.ndarray]:
        """Return the average precision of each class, (K,), 0..1, by group. NaN for a class without true boxes in the
        group."""
        order = by_name(self._names)
        parts = self._classes, self._scores, self._group, self._wrong
        classes, scores, groups, wrong = (joined(part, order) for part in parts)
        best_first = np.argsort(-scores, kind="stable")
        all_boxes = max(int(self.true.sum()), 1)
        found = {}
        for group, name in enumerate(GROUPS):
            share = self.true[group].sum() / all_boxes
            found[name] = np.full(self.true.shape[1], np.nan)
            for k in np.flatnonzero(self.true[group]):
                own = best_first[classes[best_first] == k]
                misses = wrong[own, group] if len(own) else np.zeros(0)
                misses = np.where(misses == _EMPTY, share, misses)
                found[name][k] = area((groups[own] == group).astype(np.float64), misses, float(self.true[group, k]))
        return found

    def means(self) -> dict[str, float]:
        """Return the mean over the classes that have true boxes, by group. NaN if none has."""
        return {name: AveragePrecision.mean_of(each) for name, each in self.of_classes().items()}


def _most(overlaps: np.ndarray) -> np.ndarray:
    """Return the highest of each row of (N, M). Without a column, -1: less than no overlap."""
    return overlaps.max(1) if overlaps.shape[1] else np.full(len(overlaps), -1.0)
