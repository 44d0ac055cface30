"""The results of evaluation: plain records, from which tables, files and reports are made.

Shares (IoU, consistency, flicker) are 0..1. They are None if there was nothing to measure, for example for a class that
is neither in the ground truth nor predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from accel.inference.timing import frames_per_second
from accel.tasks import Score, Task
from accel.tasks.accuracy import Accuracy, Words


@dataclass(frozen=True)
class TemporalResult:
    """How steady the labels of a video are (`accel.measures.temporal`), at a certain interval.

    consistency: mIoU between each frame's labels and those of the frame before, moved here by `flow`.
    consistency_iou: the same for each class by name.
    flow: "exact", "dis" or "model". None if frames were not compared.
    compared: the share of pixels that have flow and are compared.
    flicker: the share of pixels that change and change back within three frames.
    frames, pairs, triples: the numbers of labelled frames, and of comparisons of two and of three frames.
    """

    consistency: float | None
    consistency_iou: dict[str, float | None]
    flow: str | None
    compared: float | None
    flicker: float | None
    frames: int
    pairs: int
    triples: int


@dataclass(frozen=True)
class EvaluationResult:
    """The result of a model at an interval.

    accuracy: the accuracy on everything that was scored, counted together.
    by_distance: the accuracy at each tried distance from the key frame.
    mean, worst: the mean and the lowest of the figures (mIoU, mAP) of these distances. `worst_distance` is the distance
        of the lowest.
    frames_scored, frames_damaged: the numbers of labelled frames that were scored, and that could not be scored because
        a file was missing or damaged.
    seconds_key, seconds_current: median times of a key frame and of any other frame, over the frames that were
        predicted. The time runs from the frame on the device to its prediction there.
    fps: frames per second at this interval.
    temporal: None if it was not requested.
    """

    accuracy: Accuracy
    interval: int
    frames_scored: int
    frames_damaged: int
    seconds_key: float
    seconds_current: float | None
    fps: float
    by_distance: dict[int, Accuracy]
    mean: float
    worst: float
    worst_distance: int
    temporal: TemporalResult | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        interval: int,
        scores: Mapping[int, Score],
        scored: int,
        damaged: int,
        seconds_key: Sequence[float],
        seconds_current: Sequence[float],
    ) -> EvaluationResult:
        """Return the result with these scores by distance.

        scored, damaged: the numbers of labelled frames.
        seconds_key, seconds_current: the time of each frame.

        Raises ValueError if nothing was scored, or nothing that says anything.
        """
        if not scored:
            raise ValueError(f"none of the labelled frames could be read (interval {interval})")
        pooled = task.sum_of(scores.values())
        if reason := pooled.emptiness():
            raise ValueError(f"nothing to score: {reason}")
        by_distance = {distance: score.accuracy(task.class_names) for distance, score in sorted(scores.items())}
        known = {distance: each.value for distance, each in by_distance.items() if each.value is not None}
        worst = min(known, key=lambda distance: known[distance])
        key = float(np.median(seconds_key))
        current = float(np.median(seconds_current)) if interval > 1 and len(seconds_current) else None
        return cls(
            accuracy=by_distance[worst] if len(by_distance) == 1 else pooled.accuracy(task.class_names),
            interval=interval,
            frames_scored=scored,
            frames_damaged=damaged,
            seconds_key=key,
            seconds_current=current,
            fps=frames_per_second(key, current, interval),
            by_distance=by_distance,
            mean=float(np.mean(list(known.values()))),
            worst=known[worst],
            worst_distance=worst,
        )

    @property
    def words(self) -> Words:
        """The words for its figures."""
        return self.accuracy.words

    @property
    def value(self) -> float:
        """The figure with everything counted together."""
        value = self.accuracy.value
        assert value is not None, "something was scored"
        return value

    def as_dict(self) -> dict:
        """Return the result for a JSON file. The fields of the accuracy are among the others."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "accuracy"}
        own["by_distance"] = {distance: accuracy.brief() for distance, accuracy in self.by_distance.items()}
        own["temporal"] = None if self.temporal is None else asdict(self.temporal)
        return asdict(self.accuracy) | own


@dataclass(frozen=True)
class SweepResult:
    """Models at intervals, on one split of one data set. `models[name][i]` belongs to `intervals[i]`.

    class_maps: the class maps (`ClassMap.as_dict`) of models that were not scored in their own classes or in those of
        the data.
    simulated: the settings of simulated clips. None if stored frames were scored.
    protocol: how frames were scored, "distances" or "videos"; see `accel.evaluation.comparing.comparison`.
    """

    data: str
    split: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    intervals: tuple[int, ...]
    models: dict[str, tuple[EvaluationResult, ...]]
    class_maps: dict[str, dict] = field(default_factory=dict)
    simulated: dict | None = None
    protocol: str = "distances"

    def single(self) -> EvaluationResult:
        """Return the only result."""
        ((result,),) = self.models.values()
        return result

    def class_map(self) -> dict | None:
        """Return the class map of the only result. None if nothing was mapped."""
        return next(iter(self.class_maps.values()), None)

    @property
    def words(self) -> Words:
        """The words for the figures of all results."""
        return next(iter(self.models.values()))[0].words

    def as_dict(self) -> dict:
        """Return the results for a JSON file."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"models": {name: [r.as_dict() for r in results] for name, results in self.models.items()}}
