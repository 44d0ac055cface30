"""Results as tables for the terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from accel.datasets.class_maps import ClassMap
from accel.evaluation.results import EvaluationResult, SweepResult, TemporalResult
from accel.evaluation.running.flow_accuracy import FlowScore
from accel.progress import console
from accel.tasks.accuracy import Accuracy


def print_result(result: EvaluationResult, table: Table | None = None) -> None:
    """Print the result of one model at one interval. table: a table of other scores, which replaces that of the
    classes."""
    console.print(table or class_table(result))
    if len(result.by_distance) > 1 or result.accuracy.breakdowns():
        for each in distance_tables(result):
            console.print(each)
    console.print(summary(result))
    if result.temporal is not None:
        console.print(temporal_summary(result.temporal))


def print_class_maps(class_maps: dict[str, ClassMap]) -> None:
    """Print a line for each model that is not scored in its own classes or in those of the data."""
    for name, class_map in class_maps.items():
        console.print(f"{name}: {class_map.describe()}")


def print_sweep(sweep: SweepResult) -> None:
    for table in sweep_tables(sweep):
        console.print(table)
    for line in sweep_caveats(sweep):
        console.print(line)


def sweep_caveats(sweep: SweepResult) -> Iterator[str]:
    """Yield a line for each model whose mIoU (mAP) is not simply the mean over all classes, with the intervals
    concerned."""
    for name, results in sweep.models.items():
        at: dict[str, list[str]] = {}
        for result in results:
            at.setdefault(result.accuracy.caveats(), []).append(str(result.interval))
        for caveats, intervals in at.items():
            if caveats:
                where = "" if len(at) == 1 else f" at interval {', '.join(intervals)}"
                yield f"{name}, {sweep.words.figure}{where}: {caveats}"


def class_table(result: EvaluationResult) -> Table:
    """Return a table of the IoU (AP) of each class in per cent, with the mean last."""
    table = _table("class", f"{result.words.of_class} %")
    for name, value in result.accuracy.of_classes.items():
        table.add_row(name, percent(value))
    table.add_section()
    scored, classes = result.accuracy.classes_scored, len(result.accuracy.of_classes)
    table.add_row("mean" if scored == classes else f"mean of {scored} of {classes}", percent(result.value))
    return table


def distance_tables(result: EvaluationResult) -> Iterator[Table]:
    """Yield tables of mIoU (mAP) in per cent at each distance from the key frame, over all that was scored and over
    parts of it. The last row counts all distances together. There is a table for each breakdown, or just one."""
    for number in range(max(1, len(result.accuracy.breakdowns()))):
        parts = _parts(result.accuracy, number)
        table = _table("frames from the key frame", f"{result.words.figure} %", *parts)
        for distance, accuracy in result.by_distance.items():
            own = _parts(accuracy, number)
            table.add_row(str(distance), percent(accuracy.value), *(percent(own.get(part)) for part in parts))
        table.add_section()
        table.add_row("all, counted together", percent(result.value), *map(percent, parts.values()))
        yield table


def _parts(accuracy: Accuracy, number: int) -> dict[str, float | None]:
    """Return the accuracy on the parts of one breakdown. Empty without breakdowns."""
    chosen = accuracy.breakdowns()[number : number + 1]
    return {each.head.format(part): value for each in chosen for part, value in each.parts.items()}


def flow_table(scores: Sequence[FlowScore]) -> Table:
    """Return a table that compares flows."""
    steps = sorted({step for score in scores for step in score.carried})
    carried = (f"labels carried {n} step{'s' * (n > 1)}, mIoU %" for n in steps)
    table = _table("flow", "end-point error, px", "photometric error", *carried)
    for score in scores:
        errors = ("-" if e is None else f"{e:.2f}" for e in (score.end_point_error, score.photometric_error))
        table.add_row(score.name, *errors, *(percent(score.carried.get(n)) for n in steps))
    table.caption = "\n".join(dict.fromkeys(f"mIoU: {score.caveats}" for score in scores if score.caveats)) or None
    return table


def sweep_tables(sweep: SweepResult) -> Iterator[Table]:
    """Yield tables of the models at their intervals: accuracy, speed, accuracy by distance (a table for each model)
    and, if measured, accuracy on parts of what was scored, and steadiness.

    Each fits a terminal of 80 columns.
    """
    found = [(name, result) for name, results in sweep.models.items() for result in results]
    place = "model", "interval"
    figure = sweep.words.figure

    title = f"{sweep.data} {sweep.split}: {figure} % over the distances from the key frame"
    table = _table(*place, "mean", "pooled", "worst", "at distance", "frames", title=title)
    for name, r in found:
        shares = percent(r.mean), percent(r.value), percent(r.worst)
        table.add_row(name, str(r.interval), *shares, str(r.worst_distance), str(r.frames_scored))
    yield table

    for name, results in sweep.models.items():
        intervals = (f"interval {r.interval}" for r in results)
        table = _table("frames from the key frame", *intervals, title=f"{name}: {figure} % by distance")
        for distance in range(sweep.intervals[-1]):
            each = (r.by_distance.get(distance) for r in results)
            table.add_row(str(distance), *("" if a is None else percent(a.value) for a in each))
        yield table

    for number, breakdown in enumerate(found[0][1].accuracy.breakdowns()):
        table = _table(*place, *breakdown.parts, "all", title=f"{breakdown.caption}, pooled")
        for name, r in found:
            parts = r.accuracy.breakdowns()[number].parts
            table.add_row(name, str(r.interval), *map(percent, parts.values()), percent(r.value))
        yield table

    if found[0][1].temporal:
        table = _table(*place, "consistency %", "compared %", "flicker %", title="from frame to frame")
        for name, r in found:
            t = r.temporal
            if t is None:
                continue
            table.add_row(name, str(r.interval), percent(t.consistency), percent(t.compared), percent(t.flicker, 2))
        yield table

    table = _table(*place, "key frame s", "current frame s", "frames/s", title="speed")
    for name, r in found:
        table.add_row(name, str(r.interval), f"{r.seconds_key:.4f}", _seconds(r.seconds_current), f"{r.fps:.1f}")
    yield table


def summary(result: EvaluationResult) -> str:
    """Return one line about the whole result."""
    current = "" if result.seconds_current is None else f", current frame {result.seconds_current:.4f} s"
    damaged = f", {result.frames_damaged} could not be read" if result.frames_damaged else ""
    caveats = f" ({result.accuracy.caveats()})" if result.accuracy.caveats() else ""
    return (
        f"{result.words.figure} {100 * result.value:.2f}%{caveats} over {result.frames_scored} frames{damaged} at "
        f"interval {result.interval}; key frame {result.seconds_key:.4f} s{current}, {result.fps:.1f} frames/s"
    )


def temporal_summary(result: TemporalResult) -> str:
    """Return one line about how steady the labels are."""
    return (
        f"temporal consistency {percent(result.consistency, 2)}% over {result.pairs} pairs of frames (flow: "
        f"{result.flow}, {percent(result.compared)}% of the pixels compared); flicker {percent(result.flicker, 2)}%"
    )


def model_table(results: dict[str, EvaluationResult], title: str) -> Table:
    """Return a table that compares models: accuracy and speed."""
    figure = next(iter(results.values())).words.figure
    table = _table("model", "interval", f"{figure} %", "key s", "current s", "frames/s", title=title)
    caveats = (f"{n}, {figure}: {r.accuracy.caveats()}" for n, r in results.items() if r.accuracy.caveats())
    table.caption = "\n".join(caveats) or None
    for name, r in results.items():
        speed = f"{r.seconds_key:.4f}", _seconds(r.seconds_current), f"{r.fps:.1f}"
        table.add_row(name, str(r.interval), percent(r.value), *speed)
    return table


def write_json(path: str | Path, values: dict) -> None:
    """Write JSON, and make the folder if necessary."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_csv(path: str | Path, sweep: SweepResult) -> None:
    """Write a row for each model, interval and distance, and one with the distance "all".

    The row "all" counts all distances together. It also has the figures of the whole interval. Shares are 0..1; an
    empty cell means there was nothing to measure.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for name, results in sweep.models.items() for result in results for row in _rows(name, result)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def _rows(name: str, result: EvaluationResult) -> Iterator[dict]:
    for distance, accuracy in result.by_distance.items():
        yield {"model": name, "interval": result.interval, "distance": distance, **accuracy.columns()}
    temporal = result.temporal
    yield {
        "model": name,
        "interval": result.interval,
        "distance": "all",
        **result.accuracy.columns(),
        "mean": result.mean,
        "worst": result.worst,
        "worst_distance": result.worst_distance,
        "frames_scored": result.frames_scored,
        "frames_damaged": result.frames_damaged,
        **result.accuracy.counts(),
        "seconds_key": result.seconds_key,
        "seconds_current": result.seconds_current,
        "fps": result.fps,
        "consistency": temporal and temporal.consistency,
        "compared": temporal and temporal.compared,
        "flicker": temporal and temporal.flicker,
        "flow": temporal and temporal.flow,
    }


def percent(share: float | None, digits: int = 1) -> str:
    """Return 0.123 as 12.3. A dash means there was nothing to measure."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.4f}"


def _table(*columns: str, title: str | None = None) -> Table:
    """Return a table whose columns, after the first, are numbers."""
    table = Table(*columns, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table
