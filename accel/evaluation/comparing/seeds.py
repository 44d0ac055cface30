"""Runs of one model that differ in their seed, as one row: their mean and their spread."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.files.small_files import decode
from accel.tasks import TASKS
from accel.tasks.accuracy import Accuracy, Words

SEED_MARK = " #"  # between a model's name and its seed, as in "Accel-18 #2"


@dataclass(frozen=True)
class Figure:
    """The mean of `count` runs and their standard deviation (n - 1). The deviation is None for a single run."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self, factor: float = 100, digits: int = 1) -> str:
        spread = "" if self.deviation is None else f" ± {factor * self.deviation:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Summary:
    """Models by name, in the order of the files. Every figure of a model covers all its runs.

    accuracy: mIoU (mAP), 0..1, averaged over the distances from the key frame, by interval.
    by_distance: mIoU (mAP) at each distance of the longest interval.
    seconds: the seconds of a frame, by interval, averaged over key frames and others.
    caveats: the notes on a model's mIoU (mAP), each only once; see `Accuracy.caveats`.
    words: the words for the figures.
    """

    accuracy: dict[str, dict[int, Figure]]
    by_distance: dict[str, dict[int, Figure]]
    seconds: dict[str, dict[int, Figure]]
    caveats: dict[str, list[str]]
    words: Words


@dataclass(frozen=True)
class _File:
    """A results file.

    data: the settings that decide what was scored, by name.
    predicted: by model, the class that each predicted class was counted as.
    models: the results of the models, by interval.
    """

    path: Path
    data: dict[str, object]
    predicted: dict[str, dict[str, str | None]]
    models: dict[str, dict[int, dict]]


def summarize(paths: Sequence[str | Path]) -> Summary:
    """Summarise the results of `accel evaluate --sweep ... --json` in these files. "NAME #SEED" are runs of NAME.

    Raises FileNotFoundError. Raises ValueError for a file with other content, results on different data or in different
    classes, a model that occurs twice, and runs of a model at different intervals.
    """
    files = [_read(Path(path)) for path in paths]
    runs: dict[str, list[dict[int, dict]]] = {}
    seen: dict[str, _File] = {}
    first_of: dict[str, str] = {}
    for file in files:
        _check_data(files[0], file)
        for name, results in file.models.items():
            if name in seen:
                raise ValueError(f"{file.path}: {name!r} is also in {seen[name].path}; give each a different name")
            model = name.partition(SEED_MARK)[0]
            first = first_of.setdefault(model, name)
            seen[name] = file
            _check_run(seen[first], first, file, name)
            runs.setdefault(model, []).append(results)
    accuracy, by_distance, seconds, caveats = {}, {}, {}, {}
    kind = _kind(next(iter(files[0].models[next(iter(files[0].models))].values())))
    for model, seeds in runs.items():
        intervals = sorted(seeds[0])
        accuracy[model] = {k: Figure.of(results[k]["mean"] for results in seeds) for k in intervals}
        seconds[model] = {k: Figure.of(1 / results[k]["fps"] for results in seeds) for k in intervals}
        longest = [results[intervals[-1]]["by_distance"] for results in seeds]
        by_distance[model] = {d: Figure.of(r[str(d)][kind.words.key] for r in longest) for d in range(intervals[-1])}
        every = (kind.caveats_in(result) for results in seeds for result in results.values())
        caveats[model] = list(dict.fromkeys(filter(None, every)))
    return Summary(accuracy, by_distance, seconds, caveats, kind.words)


def _check_data(first: _File, file: _File) -> None:
    """Raise ValueError if two files are not about the same data."""
    if key := _difference(first.data, file.data):
        raise ValueError(
            f"{file.path} has {key} {file.data.get(key)}, {first.path} {first.data.get(key)}: "
            "results on different data cannot be compared"
        )


def _check_run(first: _File, first_name: str, file: _File, name: str) -> None:
    """Raise ValueError if a run must not be averaged with the first run of its model."""
    here, there = sorted(file.models[name]), sorted(first.models[first_name])
    if here != there:
        raise ValueError(
            f"{file.path} has {name!r} at the intervals {_listed(here)}, {first.path} {first_name!r} at "
            f"{_listed(there)}: the runs of a model need the same intervals"
        )
    own, others = file.predicted[name], first.predicted[first_name]
    if key := _difference(others, own):
        raise ValueError(
            f"{file.path} has the predicted {key} of {name!r} counted as {own.get(key)}, {first.path} that of "
            f"{first_name!r} as {others.get(key)}: the runs of a model need the same class map"
        )


def _difference(one: Mapping[str, object], other: Mapping[str, object]) -> str | None:
    """Return the first key with different values. None if there is none."""
    return next((key for key in {**one, **other} if one.get(key) != other.get(key)), None)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def markdown(summary: Summary) -> str:
    """Return three tables with the number of runs: mIoU (mAP) by interval, milliseconds a frame by interval, mIoU (mAP)
    by distance.

    Below them is a line for each model whose figure is not simply the mean over all classes.
    """
    figure = summary.words.figure
    parts = [
        _table(f"{figure} %, mean over distances, at interval", summary.accuracy, 100, 1),
        _table("ms a frame at interval", summary.seconds, 1000, 0),
        _table(f"{figure} % by distance from the key frame", summary.by_distance, 100, 1),
    ]
    parts += (f"{name}, {figure}: {each}" for name, found in summary.caveats.items() for each in found)
    return "\n\n".join(parts)


def _table(title: str, rows: dict[str, dict[int, Figure]], factor: float, digits: int) -> str:
    columns = sorted({column for row in rows.values() for column in row})
    lines = [[title, "runs", *map(str, columns)], ["---"] * (len(columns) + 2)]
    for name, row in rows.items():
        cells = (row[column].text(factor, digits) if column in row else "" for column in columns)
        runs = next(iter(row.values())).count  # all runs of a model have the same columns
        lines.append([name, str(runs), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kind(result: Mapping[str, Any]) -> type[Accuracy]:
    """Return the type of the accuracy that a result in JSON has. Raise ValueError for none, and LookupError if the
    result has no distance."""
    accuracy = result["by_distance"]["0"]
    kind = next((task.accuracy_type for task in TASKS.values() if task.accuracy_type.words.key in accuracy), None)
    if kind is None:
        raise ValueError
    return kind


def _read(path: Path) -> _File:
    """Read one file and check that all its figures are there."""
    try:
        values = json.loads(decode(path.read_bytes()))
        classes, class_maps = list(map(str, values["class_names"])), values["class_maps"]
        data: dict[str, object] = {
            "data": str(values["data"]),
            "split": str(values["split"]),
            "classes": _listed(classes),
        }
        own: dict[str, str | None] = dict(zip(classes, classes, strict=True))  # what is not mapped counts as itself
        truth = own.copy()
        for class_map in class_maps.values():
            truth |= class_map["truth"]
        data["protocol"] = values.get("protocol", "distances")  # which older versions did not write
        data |= {f"the true {name} counted as": counted for name, counted in truth.items()}
        data |= {f"data.{key}": value for key, value in (values.get("simulated") or {}).items()}
        models = {name: _by_interval(results) for name, results in values["models"].items()}
        predicted = {name: own | class_maps[name]["predictions"] if name in class_maps else own for name in models}
        if not models:
            raise ValueError
    except FileNotFoundError:
        raise FileNotFoundError(f"no result file {path}") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        raise ValueError(f"{path}: not the result of accel evaluate --sweep ... --json FILE") from None
    return _File(path, data, predicted, models)


def _by_interval(results: list[dict]) -> dict[int, dict]:
    """Return the results of a model by interval. Raise ValueError, TypeError or KeyError if there are none, or if a
    figure is missing."""
    found = {}
    for result in results:
        interval, by_distance, kind = result["interval"], result["by_distance"], _kind(result)
        figures = [
            result["mean"],
            result["fps"],
            *(by_distance[str(d)][kind.words.key] for d in range(len(by_distance))),
        ]
        usable = (
            isinstance(interval, int)
            and interval not in found
            and len(by_distance) == interval >= 1
            and all(map(math.isfinite, figures))
            and result["fps"] > 0
        )
        if not usable:
            raise ValueError
        kind.caveats_in(result)
        found[interval] = result
    if not found:
        raise ValueError
    return found
