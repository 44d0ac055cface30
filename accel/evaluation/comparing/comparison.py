"""Compare models on one data set: from configurations and checkpoints to results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch

from accel.config import DataConfig, MotionConfig, load_config
from accel.datasets import GENERATED, ClipDataset, build_test_dataset, data_root, generated_part
from accel.datasets.class_maps import ClassMap
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.mapped_classes import MappedDataset, bring_together
from accel.evaluation.running.processes import ALONE, Processes
from accel.evaluation.running.sweep import OnLabels, common_task
from accel.evaluation.running.videos import Run, run_videos
from accel.evaluation.running.whole_videos import check_whole, compare_on_videos
from accel.inference.loading import load_model
from accel.measures.temporal import choose_flow
from accel.models.copying import Copying
from accel.models.video import VideoModel
from accel.weights.names import find_weights

Protocol: TypeAlias = Literal["distances", "videos"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
COPYING = "copying"  # the name of that model


@dataclass(frozen=True)
class Entry:
    """A model to compare: its name, its configuration file and its weights."""

    name: str
    cfg: str
    checkpoint: str


@dataclass(frozen=True)
class Comparison:
    """Models by name, on their device, and the data they are compared on, in one set of classes.

    class_maps: by name, the class maps of models whose own classes, or those of the data, differ from these.
    """

    models: dict[str, VideoModel]
    data: DataConfig
    split: str
    dataset: ClipDataset
    class_maps: dict[str, ClassMap] = field(default_factory=dict)

    def mappings(self) -> dict[str, dict]:
        """Return the class maps as names."""
        return {name: class_map.as_dict() for name, class_map in self.class_maps.items()}


def pair_up(cfgs: Sequence[str], checkpoints: Sequence[str], names: Sequence[str] | None = None) -> list[Entry]:
    """Return the entries of a command line, in its order.

    names: the names of the models. By default, the name of the configuration file, or of the run if the file lies in a
        run's folder. If two would be equal, the name of the checkpoint is added.

    Raises ValueError if the numbers of arguments differ, or if a name occurs twice.
    """
    if len(cfgs) != len(checkpoints):
        raise ValueError(f"{len(cfgs)} --cfg and {len(checkpoints)} --checkpoint: a model needs one of each, in order")
    if names and len(names) != len(cfgs):
        raise ValueError(f"{len(names)} --name for {len(cfgs)} models: name all of them, or none")
    if not names:
        names = [_name(Path(cfg)) for cfg in cfgs]
        doubled = {name for name in names if names.count(name) > 1}
        names = [f"{n} ({Path(c).name})" if n in doubled else n for n, c in zip(names, checkpoints, strict=True)]
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}: tell them apart with --name")
    return [Entry(*entry) for entry in zip(names, cfgs, checkpoints, strict=True)]


def load_comparison(
    entries: Sequence[Entry],
    overrides: Sequence[str],
    split: str | None,
    device: torch.device,
    optimize: bool = False,
) -> Comparison:
    """Load the models and the data, on which all configurations must agree.

    overrides: `key=value` settings, for all configurations.
    split: the split to score. The default is that of the configurations.
    optimize: whether to optimise the models (`VideoModel.optimized`).

    Raises ValueError or FileNotFoundError for settings, weights, classes or data that do not fit.
    """
    configs = [load_config(entry.cfg, overrides) for entry in entries]
    data = configs[0].data
    for entry, config in zip(entries, configs, strict=True):
        if differing := _differences(config.data, data, split):
            raise ValueError(
                f"{entry.cfg} and {entries[0].cfg} score different data ({', '.join(differing)}): "
                "models are compared on one data set (data.KEY=VALUE sets it for all)"
            )
    split = split or data.test_split
    models = {e.name: load_model(e.checkpoint, c.model, device) for e, c in zip(entries, configs, strict=True)}
    if optimize:
        models = {name: model.optimized() for name, model in models.items()}
    dataset = build_test_dataset(data, split)
    models, dataset, maps = bring_together({e.name: find_weights(e.checkpoint) for e in entries}, models, dataset)
    return Comparison(models, data, split, dataset, maps)


def with_copying(comparison: Comparison) -> Comparison:
    """Return the comparison with one more model, "copying": the first model on key frames, whose predictions stay for
    the frames after them. It says what it is worth to carry features along.

    Raises ValueError if a model is called so already.
    """
    name, model = next(iter(comparison.models.items()))
    if COPYING in comparison.models:
        raise ValueError(f"--copying adds a model called {COPYING!r}: give yours another --name")
    maps = comparison.class_maps
    return replace(
        comparison,
        models=comparison.models | {COPYING: Copying(model).eval()},
        class_maps=maps | ({COPYING: maps[name]} if name in maps else {}),
    )


def choose_protocol(asked: str | None, dataset: ClipDataset, average: bool = False) -> Protocol:
    """Return the protocol that was asked for. By default, it is that of the data set.

    average: whether one interval is to be scored at all distances, which is what "distances" does.

    Raises ValueError for a protocol that does not exist or does not fit the data set.
    """
    if asked is None:
        return "videos" if dataset.plays_videos and not average else "distances"
    protocol = next((known for known in PROTOCOLS if known == asked), None)
    if protocol is None:
        raise ValueError(f"--protocol {asked}: expected one of {', '.join(PROTOCOLS)}")
    if protocol == "videos":
        if average:
            raise ValueError("--avg scores each frame at all distances, and --protocol videos at one: leave out --avg")
        try:
            check_whole(dataset)
        except ValueError as error:
            raise ValueError(f"--protocol videos: {error}") from None
    return protocol


def run_comparison(
    comparison: Comparison,
    intervals: Sequence[int],
    average: bool = True,
    widths: Sequence[int] = (),
    flow: str | None = None,
    workers: int = 1,
    on_labels: OnLabels | None = None,
    recorder: ClipRecorder | None = None,
    processes: Processes = ALONE,
    protocol: Protocol = "distances",
    measures: Sequence[str] = (),
) -> SweepResult | None:
    """Run every model at every interval.

    average, widths, on_labels: as in `sweep`. With the protocol "videos", only widths count.
    flow: the flow for temporal consistency, as in `choose_flow`. None: consistency and flicker are not measured.
    recorder: the recorder of clips to show, made by `record_clips`.
    processes: the processes that share the work. All of them must make this call. The first gets the result, the others
        None.
    protocol: "distances" scores each labelled frame at the distances from a key frame, as `sweep` does. "videos" plays
        videos once, as `compare_on_videos` does.
    measures: further measures of the task, as in `sweep`. "motion" needs data that know it (`WithMotion`).
    """
    models, dataset = comparison.models, comparison.dataset
    if flow is not None:
        common_task(models, dataset).check_labels()  # before hours of work
        videos = build_test_dataset(comparison.data, comparison.split, with_flow=flow in ("auto", "exact"))
        if isinstance(dataset, MappedDataset):
            videos = MappedDataset(videos, dataset.class_map)
        flow = choose_flow(videos, models.values(), flow)
    if protocol == "videos":
        results = compare_on_videos(
            models, dataset, intervals, widths=widths, workers=workers, processes=processes, measures=measures
        )
    else:
        results = compare(
            models,
            dataset,
            intervals,
            average,
            widths,
            workers,
            on_labels=on_labels,
            processes=processes,
            measures=measures,
        )
    if flow is not None:
        at = {(name, k): _lasting(model, k) for name, model in models.items() for k in intervals}
        runs = {(name, k): Run(models[name], k) for (name, _), k in at.items()}
        temporal = run_videos(runs, videos, flow, watch=recorder, workers=workers, processes=processes)
        results = {
            name: tuple(replace(r, temporal=temporal[name, at[name, r.interval]]) for r in found)
            for name, found in results.items()
        }
    elif recorder is not None:
        runs = {(name, k): Run(models[name], k) for name, k in recorder.shown}
        run_videos(runs, dataset, None, recorder.indices, recorder, workers, processes=processes)
    if recorder is not None:
        recorder.gather(processes)
    if not processes.is_first:
        return None
    return SweepResult(
        data=comparison.data.name,
        split=comparison.split,
        class_names=tuple(dataset.class_names),
        palette=tuple(map(tuple, dataset.palette.tolist())),
        intervals=tuple(sorted(intervals)),
        models=results,
        class_maps=comparison.mappings(),
        simulated=_simulated(comparison.data),
        protocol=protocol,
    )


def record_clips(comparison: Comparison, interval: int, clips: Sequence[str] | None = None) -> ClipRecorder:
    """Return a recorder of clips for `run_comparison`.

    clips: the names of the clips' last frames. The default is the first two videos.

    Raises ValueError for a name that no labelled frame has.
    """
    task = common_task(comparison.models, comparison.dataset)
    shown = [(name, _lasting(model, interval)) for name, model in comparison.models.items()]
    return ClipRecorder(comparison.dataset, choose_clips(comparison.dataset, clips), shown, task)


def whole_numbers(argument: str, text: str) -> tuple[int, ...]:
    """Read the numbers in an argument such as "1,2,5", and return them in ascending order. Raise ValueError for any
    other content."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise ValueError(f"{argument} {text}: expected whole numbers from 1, with commas between them, such as 1,2,5")
    numbers = sorted(map(int, parts))
    if twice := [n for n in numbers if numbers.count(n) > 1]:
        raise ValueError(f"{argument} {text}: {twice[0]} occurs twice")
    return tuple(numbers)


def _lasting(model: VideoModel, interval: int) -> int:
    """Return the interval for a model. For a model without state, every interval is the same as 1."""
    return interval if model.carries_state else 1


def _name(cfg: Path) -> str:
    return cfg.resolve().parent.name if cfg.name == "config.yaml" else cfg.stem


def _differences(data: DataConfig, other: DataConfig, split: str | None) -> list[str]:
    """Return the settings, with their values, that make two configurations score different data."""
    here, there = _scored(data, split), _scored(other, split)
    keys = [key for key in here if key in there and here[key] != there[key]]  # those of one alone follow from these
    return [f"{key} is {here[key]} and {there[key]}" for key in keys]


def _scored(data: DataConfig, split: str | None) -> dict[str, object]:
    """Return the settings that decide what is scored.

    Settings of training clips do not, nor does `motion` if it is only used for training.
    """
    split = split or data.test_split
    settings: dict[str, object] = {"data.name": data.name, "data.root": data_root(data), "data.test_split": split}
    if data.name in GENERATED:
        part = generated_part(split)
        settings |= {f"data.snippets.{part}": data.snippets.get(part), "data.size": data.size}
    simulated = _simulated(data) or {"simulated_test_frames": None}
    return settings | {f"data.{key}": value for key, value in simulated.items()}


def _simulated(data: DataConfig) -> dict[str, object] | None:
    """Return the settings of simulated test clips, by their keys in `data`. None for stored frames."""
    if data.simulated_test_frames is None:
        return None
    motion = (data.motion or MotionConfig()).model_dump()
    return {
        "simulated_test_frames": data.simulated_test_frames,
        **{f"motion.{key}": value for key, value in motion.items()},
    }
