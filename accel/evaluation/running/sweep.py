"""Accuracy by distance from the key frame, for several models and intervals in one reading of the data.

What a model says of a frame d frames after key frame p does not depend on the interval it runs at. So every key frame
is propagated once, as far as the longest interval asks for, and each (key frame, distance) serves all intervals. On a
video with every frame labelled, one such pass scores a labelled frame at every step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from accel.datasets.clips import Clip, ClipDataset
from accel.evaluation.results import Accuracy, EvaluationResult
from accel.evaluation.running.passes import Pass, PassWindow, Target, distances
from accel.evaluation.running.reading import long_enough, read_stretches
from accel.inference.timing import frames_per_second, timed_predictions
from accel.measures.boundary import TrimapMatrix, check_widths, trimap_bands
from accel.models.video import VideoModel
from accel.playing.schedules import FixedInterval
from accel.progress import bar, console

OnLabels = Callable[[str, Tensor], None]


@dataclass
class Tally:
    """What was counted of one model. Tallies of a data set's parts add up to the one of the whole.

    intervals, average: that were swept; `result_of` has results for these.
    matrices: by (distance, reach), where the reach of a labelled frame is the longest of the intervals that it has
        enough frames before it for: interval k scores what has a reach of k or more, the same frames at all its
        distances.
    scored: labelled frames by reach; damaged: those lost to an interval, for want of a file, by interval.
    seconds_key, seconds_current: of each frame whose labels were made.
    """

    num_classes: int
    widths: tuple[int, ...]
    intervals: tuple[int, ...]
    average: bool
    matrices: dict[tuple[int, int], TrimapMatrix] = field(default_factory=dict)
    scored: Counter[int] = field(default_factory=Counter)
    damaged: Counter[int] = field(default_factory=Counter)
    seconds_key: list[float] = field(default_factory=list)
    seconds_current: list[float] = field(default_factory=list)

    def matrix(self, distance: int, interval: int) -> TrimapMatrix:
        """The counts that an interval makes of a distance."""
        parts = (m for (d, reach), m in self.matrices.items() if d == distance and reach >= interval)
        return sum(parts, TrimapMatrix(self.num_classes, self.widths))

    def add(self, distance: int, target: Target, labels: Tensor) -> None:
        place = distance, target.reach
        if place not in self.matrices:
            self.matrices[place] = TrimapMatrix(self.num_classes, self.widths)
        self.matrices[place].update(labels, target.labels, target.bands)

    def on_host(self) -> Tally:
        """Its counts leave the accelerator, to travel to another process."""
        for matrix in self.matrices.values():
            matrix.counts, matrix.strays = matrix.counts.cpu(), matrix.strays.cpu()
        return self

    def __add__(self, other: Tally) -> Tally:
        """ValueError for tallies of different sweeps."""
        if (self.intervals, self.average) != (other.intervals, other.average):
            raise ValueError(f"tallies of the intervals {self.intervals} and {other.intervals} do not add up")
        matrices = dict(self.matrices)
        for place, matrix in other.matrices.items():
            matrices[place] = matrices[place] + matrix if place in matrices else matrix
        return Tally(
            self.num_classes,
            self.widths,
            self.intervals,
            self.average,
            matrices,
            self.scored + other.scored,
            self.damaged + other.damaged,
            self.seconds_key + other.seconds_key,
            self.seconds_current + other.seconds_current,
        )


@torch.inference_mode()
def sweep(
    models: dict[str, VideoModel],
    dataset: ClipDataset,
    intervals: Sequence[int],
    average: bool = True,
    widths: Sequence[int] = (),
    indices: Sequence[int] | None = None,
    workers: int = 1,
    quiet: bool = False,
    on_labels: OnLabels | None = None,
) -> dict[str, Tally]:
    """What there is to count of each model, at all these intervals; `result_of` makes results of it.

    models: by name, all on one device. They take turns, pass by pass, so that their times compare.
    average: whether every distance 0..k-1 of an interval k is tried; else only k-1, the farthest.
    widths: of the trimaps that are scored, too; see `accel.measures.boundary`.
    indices: of the labelled frames to score, where several processes share the work; neighbours should go together.

    on_labels: called with a labelled frame's name and what a model says of it, (H, W) uint8 on the model's device, each
        time that this counts: once a frame for one model, one interval and without `average`.

    A file that cannot be read is reported, and the frames that need it are counted and left out.

    Raises ValueError for an interval under 1 or for which no labelled frame has enough frames before it.
    """
    intervals = check_intervals(intervals)
    widths = check_widths(widths)
    if indices is None:
        for interval in intervals:
            long_enough(dataset, interval)  # refuses one that is too long
        indices = range(len(dataset))
    indices = [i for i in indices if dataset.history(i) >= intervals[0] - 1]
    device = next(iter(models.values())).device
    tallies = {name: Tally(dataset.num_classes, widths, intervals, average) for name in models}
    window = PassWindow(dataset, intervals, average, device)
    rehearsed: set[str] = set()

    def run(passes: Iterator[Pass]) -> None:
        for each in passes:
            for name, model in models.items():
                if name not in rehearsed:  # the first calls set up memory and kernels
                    rehearsed.add(name)
                    list(timed_predictions(model.eval(), each.frames[:2], {len(each.frames[:2]) - 1}))
                for distance, target, labels in _score(name, model, each, tallies[name]):
                    tallies[name].add(distance, target, labels)
                    if on_labels is not None:
                        on_labels(target.name, labels)

    prepare = partial(_bands, widths=widths) if widths else None
    title = f"interval {', '.join(map(str, intervals))}"
    with bar(title, len(indices), quiet) as progress:
        note, noted = "", 0.0
        stretches = read_stretches(dataset, indices, intervals[-1] - 1, prepare, workers=workers)
        for done, stretch in enumerate(stretches, 1):
            if stretch.problem:
                console.print(f"left out: {stretch.problem}")
            run(window.add(stretch))
            if time.monotonic() - noted > 1:  # looking makes the host wait for an accelerator
                note, noted = _so_far(tallies), time.monotonic()
            progress.update(done, note)
        run(window.close())
    for tally in tallies.values():
        tally.scored += window.scored
        tally.damaged += window.damaged
    return tallies


def result_of(tally: Tally, class_names: Sequence[str], interval: int, average: bool = True) -> EvaluationResult:
    """The figures of one interval. ValueError where it, or the average, was not swept, nothing could be read or nothing
    is labelled."""
    if interval not in tally.intervals:
        swept = ", ".join(map(str, tally.intervals))
        raise ValueError(f"interval {interval} was not swept, and has no figures; there are those of {swept}")
    if average and not tally.average and interval > 1:
        raise ValueError(f"interval {interval} was swept at its farthest distance only: there is no average over all")
    scored = sum(n for reach, n in tally.scored.items() if reach >= interval)
    if not scored:
        raise ValueError(f"none of the labelled frames could be read (interval {interval})")
    matrices = {distance: tally.matrix(distance, interval) for distance in distances(interval, average)}
    pooled = sum(matrices.values(), TrimapMatrix(tally.num_classes, tally.widths))
    if not pooled.counts.any():
        raise ValueError("nothing to score: all pixels of these frames are labelled 255 (ignored)")
    by_distance = {distance: Accuracy.of(matrix, class_names) for distance, matrix in matrices.items()}
    worst = min(by_distance, key=lambda d: by_distance[d].miou)
    key = float(np.median(tally.seconds_key))
    current = float(np.median(tally.seconds_current)) if interval > 1 and tally.seconds_current else None
    every = Accuracy.of(pooled, class_names)
    return EvaluationResult(
        miou=every.miou,
        iou=every.iou,
        interval=interval,
        frames_scored=scored,
        frames_damaged=tally.damaged[interval],
        seconds_key=key,
        seconds_current=current,
        fps=frames_per_second(key, current, interval),
        by_distance=by_distance,
        mean=float(np.mean([accuracy.miou for accuracy in by_distance.values()])),
        worst=by_distance[worst].miou,
        worst_distance=worst,
        trimap=every.trimap,
        confusion=tuple(map(tuple, pooled.all_pixels().counts.tolist())),
    )


def check_intervals(intervals: Sequence[int]) -> tuple[int, ...]:
    """The intervals, ascending. ValueError for none, one under 1 or one that stands twice."""
    if not intervals:
        raise ValueError("no interval; expected at least one")
    for interval in intervals:
        FixedInterval(interval)
        if list(intervals).count(interval) > 1:
            raise ValueError(f"interval {interval} stands twice among {', '.join(map(str, intervals))}")
    return tuple(sorted(intervals))


def _score(name: str, model: VideoModel, each: Pass, tally: Tally) -> Iterator[tuple[int, Target, Tensor]]:
    """What a model says of the targets of a pass, with their distances; the tally is given the times."""
    if model.carries_state:
        for distance, said, seconds in timed_predictions(model, each.frames, each.targets):
            (tally.seconds_current if distance else tally.seconds_key).append(seconds)
            if distance in each.targets:
                yield distance, each.targets[distance], said.labels
        return
    for distance, target in each.targets.items():
        if name not in target.known:
            ((_, said, seconds),) = timed_predictions(model, [each.frames[distance]], ())
            target.known[name] = said.labels
            tally.seconds_key.append(seconds)
            tally.seconds_current.append(seconds)
        yield distance, target, target.known[name]


def _bands(clip: Clip, widths: tuple[int, ...]) -> np.ndarray:
    return trimap_bands(clip.labels, widths)


def _so_far(tallies: dict[str, Tally]) -> str:
    pooled = [sum(t.matrices.values(), TrimapMatrix(t.num_classes, t.widths)) for t in tallies.values()]
    shares = (f"{100 * matrix.all_pixels().miou():.1f}%" for matrix in pooled if matrix.counts.any())
    text = ", ".join(shares)
    return f"mIoU {text}" if text else ""
