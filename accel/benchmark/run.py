"""The whole benchmark: measurements in order, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accel_ops.instruction_sets import processor_flags
from rich.table import Table

from accel.benchmark.accuracy import optimisation_accuracy
from accel.benchmark.expectations import (
    COMPANY,
    HERE,
    MODELS,
    QUICK_SECONDS,
    SIZES,
    Candidate,
    expectations,
    instruction_sets_here,
)
from accel.benchmark.models import (
    Contender,
    benchmark_models,
    image_contenders,
    peak_memory,
    profile_model,
    time_mxnet,
    video_contenders,
)
from accel.benchmark.operators import COUNTERPARTS, benchmark_operators
from accel.benchmark.propagation import FRAME, learning_memory, model_operations, propagation_times
from accel.benchmark.streams import latencies, memory, throughput
from accel.benchmark.waiting import waiting_times
from accel.devices import choose_device
from accel.evaluation.tables import write_json
from accel.fast import engines
from accel.machine import describe_machine, matrix_gflops
from accel.models import build_published
from accel.models.published_models import check_version
from accel.progress import console

SECTIONS = (
    *("operators", "models", "streams", "profile", "memory", "accuracy", "propagation", "training", "waiting"),
    "expectations",
)


TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Options:
    """The choice of measurements.

    dtype: the type of the optimised models. None: the best one for this machine.
    eager: whether to measure the models without optimisation too. In the section `waiting`, they replace the optimised
        one.
    mxnet, symbols: MXNet's Python and the folder of the published graphs of the first version, to time the original.
    quick: whether `expectations` is to take two minutes, with few models on this machine as it is.
    mxnet_operators: a Python file that registers the operators which MXNet lacks; the graphs of detectors have some.
    cfg, checkpoint, clips: a trained model, its data and the number of labelled frames, for `accuracy`.
    """

    sections: list[str]
    size: tuple[int, int] = (512, 1024)
    interval: int = 5
    rounds: int = 10
    versions: list[str] = field(default_factory=lambda: ["accel-18", "dff", "deeplab-101"])
    dtype: str | None = None
    eager: bool = False
    device: str = "auto"
    mxnet: str | None = None
    symbols: Path | None = None
    mxnet_operators: Path | None = None
    cfg: str | None = None
    checkpoint: str | None = None
    clips: int = 20
    json: Path | None = None
    quick: bool = False

    def check(self) -> None:
        """Raise ValueError for options that cannot be measured, before anything is measured."""
        unknown = [name for name in self.sections if name not in SECTIONS]
        if unknown:
            raise ValueError(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
        if self.dtype not in (None, *TYPES):
            raise ValueError(f"dtype {self.dtype!r}: expected {', '.join(TYPES)}")
        for name in ("interval", "rounds", "clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected 1 or more")
        if min(self.size) < 3:
            raise ValueError(f"size {self.size[0]} x {self.size[1]}: expected 3 pixels or more a side")
        for version in self.versions:
            check_version(version)
        if (self.mxnet is None) != (self.symbols is None):
            raise ValueError("to time the original, give both --mxnet PYTHON and --symbols FOLDER")
        if "accuracy" in self.sections and not (self.cfg and self.checkpoint):
            raise ValueError("accuracy needs a trained model and its data: give --cfg and --checkpoint")
        if "training" in self.sections and not self.cfg:
            raise ValueError("training needs a configuration to train: give --cfg")


def run_benchmark(options: Options) -> dict:
    """Measure, print tables and, if requested, write JSON after every section.

    Raises ValueError for options that cannot be measured.
    """
    options.check()
    device = choose_device(options.device)
    measures: dict[str, Callable[[Options, torch.device], dict]] = {
        "operators": _operators,
        "models": _models,
        "streams": _streams,
        "profile": _profile,
        "memory": _memory,
        "accuracy": _accuracy,
        "propagation": _propagation,
        "training": _training,
        "waiting": _waiting,
        "expectations": _expectations,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
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
    if options.mxnet and options.symbols:
        version, original = time_mxnet(
            options.mxnet,
            options.symbols,
            options.size,
            options.interval,
            options.rounds,
            options.mxnet_operators,
        )
        times[f"original graph, MXNet {version}"] = original
    contenders: dict[str, Contender] = {}
    for version in options.versions:
        model = build_published(version).eval().to(device)
        contenders |= video_contenders(version, model, options.size, _type(options), options.eager)
    if model.task == "segmentation":  # so are those of other libraries
        contenders |= image_contenders(options.size, device)
    rate = max(matrix_gflops(device).values())
    times |= benchmark_models(contenders, options.interval, options.rounds, device, rate)
    first = times[options.versions[0]]
    _print(
        f"model, interval {options.interval}",
        {
            name: {
                "key ms": f"{1e3 * t.key:.1f}",
                "current ms": f"{1e3 * t.current:.1f}",
                "mean ms": f"{1e3 * t.mean:.1f}",
                f"of {options.versions[0]}": f"{t.mean / first.mean:.2f}",
                "p95 ms": f"{1e3 * t.p95:.1f}",
                "GFLOP": "-" if t.gflop is None else f"{t.gflop:.0f}",
                "share": "-" if t.share_of_matrix_rate is None else f"{100 * t.share_of_matrix_rate:.0f}%",
            }
            for name, t in times.items()
        },
    )
    rows = {name: asdict(t) | {"times_the_first": t.mean / first.mean} for name, t in times.items()}
    return {"matrix_gflops": rate, "peak_megabytes_of_all": peak_memory(device), "times": rows}


def _fast_model(options: Options, device: torch.device, parts: int = 1):
    model = build_published(options.versions[0]).eval().to(device)
    return model.optimized(options.size, _type(options), parts=parts)


def _type(options: Options) -> torch.dtype | None:
    return None if options.dtype is None else TYPES.get(options.dtype)


def _streams(options: Options, device: torch.device) -> dict:
    model, cut = _fast_model(options, device), _fast_model(options, device, options.interval)
    results = {
        "flat_latency": latencies(cut, options.size, options.interval, flat=True, frames=200),
        "key_frames_at_once": latencies(model, options.size, options.interval, flat=False, frames=200),
        "frames_per_second": throughput(model, options.size, options.interval, frames=50, rounds=5),
    }
    _print("latency, 200 frames", {k: _round(v) for k, v in results.items() if k != "frames_per_second"})
    _print("frames/s", {"": _round(results["frames_per_second"])})
    return results


def _profile(options: Options, device: torch.device) -> dict:
    model = build_published(options.versions[0]).eval().to(device)
    found = {
        f"{which} {frame}": taken
        for which, optimised in (("eager", False), ("optimised", True))
        for frame, taken in profile_model(model, options.size, optimised=optimised).items()
    }
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

    assert options.cfg is not None and options.checkpoint is not None, "the section was refused without them"
    config = load_config(options.cfg)
    model = load_model(options.checkpoint, config.model, device)
    dataset = build_dataset(config.data, config.data.test_split)
    check_classes(options.checkpoint, dataset)
    result = optimisation_accuracy(model, dataset, options.interval, options.clips)
    _print("accuracy", {"": {k: f"{v:.4f}" for k, v in result.items() if k != "caveats"}})
    if result["caveats"]:
        console.print(f"mIoU: {result['caveats']}")
    return {"cfg": options.cfg, **result}


def _training(options: Options, device: torch.device) -> dict:
    from accel.benchmark.training import training_overhead
    from accel.config import load_config

    assert options.cfg is not None, "the section was refused without it"
    result = training_overhead(load_config(options.cfg), str(device), options.rounds)
    _print("training", {name: {"seconds or share": f"{value:.4f}"} for name, value in result.items()})
    return {"cfg": options.cfg, **result}


def _propagation(options: Options, device: torch.device) -> dict:
    times = propagation_times(options.size, device, options.rounds)
    ways = next(iter(times.values()))
    _print("propagation, ms", {way: {name: f"{row[way]:.1f}" for name, row in times.items()} for way in ways})
    taken = learning_memory(options.size, device)
    _print("forward and backward", {name: _round(row) for name, row in taken.items()})
    operations = model_operations()
    columns = dict.fromkeys(column for row in operations.values() for column in row)
    shown = {
        name: {column: f"{row[column]:.1f}" if column in row else "" for column in columns}
        for name, row in operations.items()
    }
    _print(f"GFLOP, {FRAME[0]} x {FRAME[1]}", shown)
    return {
        "milliseconds": times,
        "learning_memory": taken,
        "operations": {"size": list(FRAME), "gflop": operations},
    }


def _waiting(options: Options, device: torch.device) -> dict:
    """Measure waiting. This is always on the CPU, because it does not concern a GPU."""
    version, form = options.versions[0], "eager" if options.eager else "optimised"
    times = waiting_times(version, options.size, options.rounds, optimised=not options.eager)
    first = next(iter(times.values()))
    results = {name: waiting.figures(first) for name, waiting in times.items()}
    _print(f"{version}, {form}", {name: _round(row) for name, row in results.items()})
    return {"version": version, "form": form, **results}


def _expectations(options: Options, device: torch.device) -> dict:
    """Measure what to expect of this machine, always on the CPU."""
    forms = [name for name in ("fastest", "int8") if name != "int8" or engines.OPENVINO in engines.installed()]
    if options.quick:
        wanted = [Candidate("lite", "fastest", "480x360"), Candidate("accel-18", "fastest", "512x1024")]
        rows = expectations(wanted, options.interval, 3, ("idle", "beside 1"), QUICK_SECONDS)
    else:
        sets = instruction_sets_here(sorted(processor_flags())) or [HERE]
        wanted = [Candidate(m, form, size, name) for m in MODELS for size in SIZES for form in forms for name in sets]
        rows = expectations(wanted, options.interval, options.rounds, tuple(COMPANY))
    found = [asdict(candidate) | row.figures(options.interval) for candidate, row in rows.items()]
    columns = ["idle", "beside 1", *([] if options.quick else ["beside 2"])]
    _print(
        f"frames a second, interval {options.interval}",
        {
            f"{row['model']}, {row['form']}, {row['size']}, {row['instructions']}": {
                column: str(row.get(column, row.get("failure", "-"))) for column in columns
            }
            for row in found
        },
    )
    return {"rows": found}


def _round(values: Mapping[str, float | None]) -> dict[str, str]:
    return {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in values.items()}


def _print(title: str, rows: dict[str, dict[str, str]]) -> None:
    columns = list(next(iter(rows.values())))
    table = Table(title, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        table.add_row(name, *row.values())
    console.print(table)
