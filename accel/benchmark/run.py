"""The whole benchmark: what to measure, in which order, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.table import Table

from accel.benchmark.accuracy import optimisation_accuracy
from accel.benchmark.machine import describe_machine
from accel.benchmark.models import benchmark_models, frame_times, profile_model, time_mxnet
from accel.benchmark.operators import COUNTERPARTS, benchmark_operators
from accel.benchmark.streams import latencies, memory, throughput
from accel.devices import choose_device
from accel.evaluation.report import write_json
from accel.models import build_published
from accel.progress import console

SECTIONS = ("operators", "models", "streams", "profile", "memory", "accuracy")


@dataclass(frozen=True)
class Options:
    """What to measure. `mxnet` is a command that times the original, see `time_mxnet`; `cfg`, `checkpoint` are a
    trained model and its data, for `accuracy`; `eager` times models that are not optimised as well."""

    sections: list[str]
    size: tuple[int, int] = (512, 1024)
    interval: int = 5
    rounds: int = 10
    versions: list[str] = field(default_factory=lambda: ["accel-18", "dff", "deeplab-101"])
    eager: bool = False
    device: str = "auto"
    mxnet: str | None = None
    cfg: str | None = None
    checkpoint: str | None = None
    clips: int = 20
    json: Path | None = None


def run_benchmark(options: Options) -> dict:
    """Measure, print tables and write JSON if asked to. Raises ValueError for what cannot be measured."""
    device = choose_device(options.device)
    if "accuracy" in options.sections and not (options.cfg and options.checkpoint):
        raise ValueError("accuracy needs a trained model and its data: give --cfg and --checkpoint")
    measures: dict[str, Callable[[Options, torch.device], dict]] = {
        "operators": _operators,
        "models": _models,
        "streams": _streams,
        "profile": _profile,
        "memory": _memory,
        "accuracy": _accuracy,
    }
    results = {"machine": describe_machine(device), "size": list(options.size), "interval": options.interval}
    for section in options.sections:
        results[section] = measures[section](options, device)
    if options.json:
        write_json(options.json, results)
    return results


def _operators(options: Options, device: torch.device) -> dict:
    results = benchmark_operators(options.size, device, options.rounds)
    _print("operator", {name: {k: f"{v:.2f}" for k, v in row.items()} for name, row in results.items()})
    return {"counterparts": COUNTERPARTS, **results}


def _models(options: Options, device: torch.device) -> dict:
    times = {}
    if options.mxnet:  # before and after ours, as it cannot run in turns with it
        before = time_mxnet(options.mxnet)
    models = {version: build_published(version).eval().to(device) for version in options.versions}
    times |= benchmark_models(models, options.size, options.interval, options.rounds, options.eager)
    if options.mxnet:
        after = time_mxnet(options.mxnet)
        key, current = ((b + a) / 2 for b, a in zip(before, after, strict=True))
        times["MXNet 1.9.1, accel-18"] = frame_times(key, current, options.interval)
    first = next(iter(times.values()))
    _print(
        "model",
        {
            name: {
                "key s": f"{t.key:.4f}",
                "current s": f"{t.current:.4f}",
                f"frame s at interval {options.interval}": f"{t.mean:.4f}",
                "times the first": f"{t.mean / first.mean:.2f}",
                "preparation s": f"{t.preparation:.0f}",
            }
            for name, t in times.items()
        },
    )
    return {name: asdict(t) | {"times_the_first": t.mean / first.mean} for name, t in times.items()}


def _fast_model(options: Options, device: torch.device, parts: int = 1):
    return build_published(options.versions[0]).eval().to(device).optimized(options.size, parts=parts)


def _streams(options: Options, device: torch.device) -> dict:
    model = _fast_model(options, device, options.interval)
    results = {
        "flat_latency": latencies(model, options.size, options.interval, flat=True, frames=200),
        "key_frames_at_once": latencies(model, options.size, options.interval, flat=False, frames=200),
        "frames_per_second": throughput(model, options.size, options.interval, frames=25, rounds=5),
    }
    _print("latency, 200 frames", {k: _round(v) for k, v in results.items() if k != "frames_per_second"})
    _print("frames/s", {"": _round(results["frames_per_second"])})
    return results


def _profile(options: Options, device: torch.device) -> dict:
    found = profile_model(_fast_model(options, device), options.size)
    for frame, taken in found.items():
        _print(f"{options.versions[0]}, {frame}", {name: {"ms a frame": f"{ms:.2f}"} for name, ms in taken.items()})
    return found


def _memory(options: Options, device: torch.device) -> dict:
    result = memory(_fast_model(options, device), options.size, options.interval, frames=2000)
    _print("memory of a stream", {"": _round(result)})
    return result


def _accuracy(options: Options, device: torch.device) -> dict:
    from accel.config import load_config
    from accel.datasets import build_dataset
    from accel.inference.loading import check_classes, load_model

    config = load_config(options.cfg)
    model = load_model(options.checkpoint, config.model, device)
    dataset = build_dataset(config.data, config.data.test_split)
    check_classes(options.checkpoint, dataset)
    result = optimisation_accuracy(model, dataset, options.interval, options.clips)
    _print("accuracy", {"": {k: f"{v:.4f}" for k, v in result.items()}})
    return {"cfg": options.cfg, **result}


def _round(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in values.items()}


def _print(title: str, rows: dict[str, dict[str, str]]) -> None:
    columns = list(next(iter(rows.values())))
    table = Table(title, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        table.add_row(name, *row.values())
    console.print(table)
