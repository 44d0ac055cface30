"""Score video models on labelled frames, at intervals, and time them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from accel.datasets.clips import ClipDataset, long_enough
from accel.evaluation.results import EvaluationResult
from accel.evaluation.running.processes import ALONE, Processes
from accel.evaluation.running.sweep import OnLabels, check_intervals, result_of, sweep
from accel.models.video import VideoModel


def evaluate(
    model: VideoModel,
    dataset: ClipDataset,
    interval: int = 1,
    average: bool = False,
    workers: int = 1,
    quiet: bool = False,
    on_labels: OnLabels | None = None,
) -> EvaluationResult:
    """Return the mIoU over the labelled frames that have at least `interval - 1` frames before them.

    interval: the key frame lies interval-1 frames before the labelled one, where results are worst. With `average`,
        every distance 0..interval-1 is tried, and all have the same weight.
    on_labels: a function that is called with the name of each labelled frame and its predicted labels whenever they are
        counted.

    An unreadable clip is reported, counted and left out. The model runs on the device where it is.

    Raises ValueError for an interval under 1 or one for which no labelled frame has enough frames before it. Raises
    ValueError if nothing could be read or nothing is labelled.
    """
    models = {"model": model}
    found = compare(models, dataset, (interval,), average, workers=workers, quiet=quiet, on_labels=on_labels)
    return found["model"][0]


def compare(
    models: dict[str, VideoModel],
    dataset: ClipDataset,
    intervals: Sequence[int],
    average: bool = True,
    widths: Sequence[int] = (),
    workers: int = 1,
    quiet: bool = False,
    on_labels: OnLabels | None = None,
    processes: Processes = ALONE,
    measures: Sequence[str] = (),
) -> dict[str, tuple[EvaluationResult, ...]]:
    """Return each model's result at each interval, ascending. This is `evaluate` for all of them, with every forward
    pass made only once.

    Arguments and errors are those of `sweep` and of `evaluate`.

    processes: the processes that share the work. All of them must make this call. The first gets the results, the
        others none.
    """
    intervals = check_intervals(intervals)
    for interval in intervals:
        long_enough(dataset, interval)  # refuses one that is too long
    indices = processes.share(dataset, long_enough(dataset, intervals[0]), intervals[-1] - 1)
    quiet = quiet or not processes.is_first
    own = sweep(models, dataset, intervals, average, widths, indices, workers, quiet, on_labels, measures)
    parts = processes.collect({name: tally.on_host() for name, tally in own.items()})
    if not processes.is_first:
        return {}
    tallies = {name: reduce(add, (part[name] for part in parts)) for name in models}
    return {
        name: tuple(result_of(tally, interval, average) for interval in sorted(intervals))
        for name, tally in tallies.items()
    }
