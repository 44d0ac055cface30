"""Measure accuracy by distance from the key frame, for several models and intervals, in one reading of the data.

A model's prediction for a frame d frames after key frame p does not depend on the interval. So every key frame is
propagated once, as far as the longest interval needs. Each (key frame, distance) serves all intervals. On a video with
labels for every frame, one such pass scores a labelled frame at every step.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from accel.datasets.clips import ClipDataset, long_enough
from accel.evaluation.results import EvaluationResult
from accel.evaluation.running.passes import Pass, PassWindow, Target, distances
from accel.evaluation.running.reading import read_stretches
from accel.inference.timing import timed_predictions
from accel.models.video import VideoModel
from accel.playing.schedules import FixedInterval
from accel.progress import bar, console
from accel.tasks import Score, Task, task_of

OnLabels = Callable[[str, Tensor], None]


@dataclass
class Tally:
    """The counts of one model. Tallies of parts of a data set can be added up.

    intervals, average: the arguments of the sweep. `result_of` gives results for these.
    task: the task that was scored.
    scores: scores by (distance, reach). The reach of a labelled frame is the longest of the intervals for which it has
        enough frames before it. Interval k scores the frames with a reach of k or more, the same frames at all its
        distances.
    scored: the number of labelled frames by reach.
    damaged: the number of labelled frames lost because of a missing file, by interval.
    seconds_key, seconds_current: the time of each frame that was labelled.
    """

    task: Task
    intervals: tuple[int, ...]
    average: bool
    scores: dict[tuple[int, int], Score] = field(default_factory=dict)
    scored: Counter[int] = field(default_factory=Counter)
    damaged: Counter[int] = field(default_factory=Counter)
    seconds_key: list[float] = field(default_factory=list)
    seconds_current: list[float] = field(default_factory=list)

    def score(self, distance: int, interval: int) -> Score:
        """Return the score of an interval at a distance."""
        return self.task.sum_of(s for (d, reach), s in self.scores.items() if d == distance and reach >= interval)

    def add(self, distance: int, target: Target, said: NamedTuple) -> None:
        place = distance, target.reach
        if place not in self.scores:
            self.scores[place] = self.task.score()
        self.scores[place].update(said, target.truth)

    def on_host(self) -> Tally:
        """Move the counts to host memory, so that they can be sent to another process."""
        self.scores = {place: score.on_host() for place, score in self.scores.items()}
        return self

    def __add__(self, other: Tally) -> Tally:
        """Return the sum. Raises ValueError for tallies of different sweeps."""
        if (self.intervals, self.average) != (other.intervals, other.average):
            raise ValueError(f"tallies of the intervals {self.intervals} and {other.intervals} cannot be added")
        scores = dict(self.scores)
        for place, score in other.scores.items():
            scores[place] = scores[place] + score if place in scores else score
        return Tally(
            self.task,
            self.intervals,
            self.average,
            scores,
            self.scored + other.scored,
            self.damaged + other.damaged,
            self.seconds_key + other.seconds_key,
            self.seconds_current + other.seconds_current,
        )


class Looks:
    """Says when to look at figures on the way: once a second at most, because looking makes the host wait for an
    accelerator, and for a small share of the time only, because the figures of many boxes take seconds."""

    SHARE = 0.02

    def __init__(self) -> None:
        self.next = time.monotonic() + 1

    def is_due(self) -> bool:
        return time.monotonic() > self.next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A block that looks."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self.next = now + max(1.0, (now - began) / self.SHARE)


class Counted(Protocol):
    """A tally of a model, on the way: its task, and scores of any kind that can be added up."""

    @property
    def task(self) -> Task: ...

    @property
    def scores(self) -> Mapping[Any, Score]: ...


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
    measures: Sequence[str] = (),
) -> dict[str, Tally]:
    """Count each model's scores at all these intervals. `result_of` turns the counts into results.

    models: the models by name, all on one device. They take turns, pass by pass, so that their times can be compared.
    average: whether to try every distance 0..k-1 of an interval k. Otherwise only the farthest, k-1, is tried.
    widths: the widths of the trimaps that are scored too; see `accel.measures.boundary`.
    indices: the labelled frames to score, if several processes share the work. Neighbours should stay together.
    on_labels: a function that is called with a labelled frame's name and its predicted labels, (H, W) uint8 on the
        model's device, each time they are counted. With one model, one interval and no `average`, this is once for each
        frame.
    measures: further measures of the task (`Task.also_measuring`).

    An unreadable file is reported. The frames that need it are counted and left out.

    Raises ValueError for an interval under 1 or one for which no labelled frame has enough frames before it, and for
    models of different tasks.
    """
    intervals = check_intervals(intervals)
    if indices is None:
        for interval in intervals:
            long_enough(dataset, interval)  # refuses one that is too long
        indices = range(len(dataset))
    indices = [i for i in indices if dataset.history(i) >= intervals[0] - 1]
    device = next(iter(models.values())).device
    task = common_task(models, dataset, widths, measures)
    tallies = {name: Tally(task, intervals, average) for name in models}
    window = PassWindow(dataset, intervals, average, device)
    rehearsed: set[str] = set()

    def run(passes: Iterator[Pass]) -> None:
        for each in passes:
            for name, model in models.items():
                if name not in rehearsed:  # the first calls set up memory and kernels
                    rehearsed.add(name)
                    list(timed_predictions(model.eval(), each.frames[:2], {len(each.frames[:2]) - 1}))
                for distance, target, said in _predict(name, model, each, tallies[name]):
                    tallies[name].add(distance, target, said)
                    if on_labels is not None:
                        on_labels(target.name, task.labels(said))

    title = f"interval {', '.join(map(str, intervals))}"
    with bar(title, len(indices), quiet) as progress:
        note, looks = "", Looks()
        stretches = read_stretches(dataset, indices, intervals[-1] - 1, task.truth, workers=workers)
        for done, stretch in enumerate(stretches, 1):
            if stretch.problem:
                console.print(f"left out: {stretch.problem}")
            run(window.add(stretch))
            if looks.is_due():
                with looks.timed():
                    note = so_far(tallies.values())
            progress.update(done, note)
        run(window.close())
    for tally in tallies.values():
        tally.scored += window.scored
        tally.damaged += window.damaged
    return tallies


def result_of(tally: Tally, interval: int, average: bool = True) -> EvaluationResult:
    """Return the figures of one interval.

    Raises ValueError if this interval, or the average, was not swept, if nothing could be read, or if nothing is
    labelled.
    """
    if interval not in tally.intervals:
        swept = ", ".join(map(str, tally.intervals))
        raise ValueError(f"interval {interval} was not swept, so it has no figures; swept were {swept}")
    if average and not tally.average and interval > 1:
        raise ValueError(f"interval {interval} was swept at its farthest distance only: there is no average over all")
    return EvaluationResult.of(
        tally.task,
        interval,
        {distance: tally.score(distance, interval) for distance in distances(interval, average)},
        sum(n for reach, n in tally.scored.items() if reach >= interval),
        tally.damaged[interval],
        tally.seconds_key,
        tally.seconds_current,
    )


def common_task(
    models: dict[str, VideoModel], dataset: ClipDataset, widths: Sequence[int] = (), measures: Sequence[str] = ()
) -> Task:
    """Return the task of all these models. widths, measures: as in `sweep`. Raises ValueError for models of different
    tasks, and for measures that the task does not have."""
    task, *others = (task_of(model, dataset) for model in models.values())
    for other in others:
        if other.name != task.name:
            raise ValueError(f"models for {task.name} and for {other.name} cannot be compared")
    return task.near_borders(widths).also_measuring(measures) if measures else task.near_borders(widths)


def check_intervals(intervals: Sequence[int]) -> tuple[int, ...]:
    """Return the intervals, ascending. Raises ValueError for no interval, one under 1 and one that occurs twice."""
    if not intervals:
        raise ValueError("no interval; expected at least one")
    for interval in intervals:
        FixedInterval(interval)
        if list(intervals).count(interval) > 1:
            raise ValueError(f"interval {interval} occurs twice in {', '.join(map(str, intervals))}")
    return tuple(sorted(intervals))


def _predict(name: str, model: VideoModel, each: Pass, tally: Tally) -> Iterator[tuple[int, Target, NamedTuple]]:
    """Yield a model's predictions for the targets of a pass, with their distances. The times go into the tally."""
    if model.carries_state:
        for distance, said, seconds in timed_predictions(model, each.frames, each.targets):
            (tally.seconds_current if distance else tally.seconds_key).append(seconds)
            if distance in each.targets:
                yield distance, each.targets[distance], said
        return
    for distance, target in each.targets.items():
        if name not in target.known:
            ((_, said, seconds),) = timed_predictions(model, [each.frames[distance]], ())
            target.known[name] = said
            tally.seconds_key.append(seconds)
            tally.seconds_current.append(seconds)
        yield distance, target, target.known[name]


def so_far(tallies: Iterable[Counted]) -> str:
    """Return the figures of some tallies for a line of progress. Empty if nothing was counted yet."""
    tallies = list(tallies)
    pooled = [tally.task.sum_of(tally.scores.values()) for tally in tallies]
    counted = [score for score in pooled if not math.isnan(score.value())]
    if not counted:
        return ""
    note = f"{counted[0].name} {', '.join(f'{100 * score.value():.1f}%' for score in counted)}"
    caveats = {score.caveats(tally.task.class_names) for score, tally in zip(pooled, tallies, strict=True)}
    shared = caveats.pop() if len(caveats) == 1 else ""  # a line has room for one; all are in the result
    return f"{note} ({shared})" if shared else note
