"""Runs of one model that differ in their seed, as one row: the mean over them and their spread."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED_MARK = " #"  # between a model's name and its seed, as in "Accel-18 #2"


@dataclass(frozen=True)
class Figure:
    """The mean of `count` runs and their standard deviation (n - 1); None for a single run."""

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
    """Models by name, in the order of the files.

    accuracy: mIoU, 0..1, averaged over the distances from the key frame, by interval.
    by_distance: mIoU at each distance of the longest interval.
    seconds: a frame, by interval, over key frames and others.
    """

    accuracy: dict[str, dict[int, Figure]]
    by_distance: dict[str, dict[int, Figure]]
    seconds: dict[str, dict[int, Figure]]


def summarize(paths: Sequence[str | Path]) -> Summary:
    """The results of `tools/evaluate.py --sweep ... --json` in these files; "NAME #SEED" are runs of NAME.

    Raises FileNotFoundError, or ValueError for a file that holds something else or a model that stands twice.
    """
    runs: dict[str, list[list[dict]]] = {}
    seen: dict[str, Path] = {}
    for path in map(Path, paths):
        for name, results in _read(path).items():
            if name in seen:
                raise ValueError(f"{path}: {name!r} stands in {seen[name]}, too; give each run a name of its own")
            seen[name] = path
            runs.setdefault(name.partition(SEED_MARK)[0], []).append(results)
    accuracy, by_distance, seconds = {}, {}, {}
    for name, seeds in runs.items():
        intervals = sorted({result["interval"] for results in seeds for result in results})
        at = {k: [result for results in seeds for result in results if result["interval"] == k] for k in intervals}
        accuracy[name] = {k: Figure.of(result["mean"] for result in at[k]) for k in intervals}
        seconds[name] = {k: Figure.of(1 / result["fps"] for result in at[k]) for k in intervals}
        longest = at[intervals[-1]]
        distances = sorted({int(d) for result in longest for d in result["by_distance"]})
        by_distance[name] = {d: Figure.of(r["by_distance"][str(d)]["miou"] for r in longest) for d in distances}
    return Summary(accuracy, by_distance, seconds)


def markdown(summary: Summary) -> str:
    """Three tables: mIoU by interval, milliseconds a frame by interval, mIoU by distance."""
    parts = [
        _table("mIoU %, mean over distances, at interval", summary.accuracy, 100, 1),
        _table("ms a frame at interval", summary.seconds, 1000, 0),
        _table("mIoU % by distance from the key frame", summary.by_distance, 100, 1),
    ]
    return "\n\n".join(parts)


def _table(title: str, rows: dict[str, dict[int, Figure]], factor: float, digits: int) -> str:
    columns = sorted({column for row in rows.values() for column in row})
    lines = [[title, *map(str, columns)], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        cells = (row[column].text(factor, digits) if column in row else "" for column in columns)
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _read(path: Path) -> dict[str, list[dict]]:
    """Models of one file."""
    try:
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        for results in models.values():
            for result in results:
                usable = (
                    result["by_distance"] and result["interval"] >= 1 and math.isfinite(result["mean"] + result["fps"])
                )
                if not usable:
                    raise ValueError
    except FileNotFoundError:
        raise FileNotFoundError(f"no result file {path}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{path}: not the result of tools/evaluate.py --sweep ... --json FILE") from None
    return models
