"""Run a command of `accel evaluate`. Mistakes in the command itself are reported before anything is loaded."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.config import load_config
from accel.datasets import data_root
from accel.datasets.label_counts import Doubts
from accel.datasets.label_sample import look_at_labels
from accel.datasets.with_motion import WithMotion
from accel.evaluation import tables as report
from accel.evaluation.cityscapes import official as cityscapes
from accel.evaluation.comparing.comparison import (
    COPYING,
    Comparison,
    Entry,
    choose_protocol,
    load_comparison,
    pair_up,
    record_clips,
    run_comparison,
    whole_numbers,
    with_copying,
)
from accel.evaluation.origin import Origin
from accel.evaluation.report.page import check_folder, write_report
from accel.evaluation.running.predictions import Predictions, write_submission
from accel.evaluation.running.processes import ALONE, Processes
from accel.evaluation.running.sweep import common_task
from accel.inference.loading import load_model
from accel.measures.coco_precision import require_coco
from accel.playing.schedules import FixedInterval
from accel.progress import console

SAMPLE = 50  # frames whose ground truth is looked at before the work


@dataclass(frozen=True)
class Request:
    """The request of a command, for `run_comparison`."""

    entries: list[Entry]
    intervals: tuple[int, ...]
    average: bool
    widths: tuple[int, ...]
    flow: str | None
    copying: bool
    measures: tuple[str, ...]


def evaluate(args: Namespace, processes: Processes) -> None:
    """Run a command of `accel evaluate`: print and write what it requests.

    processes: the processes that share the work. All of them must make this call; the first one prints and writes.

    Raises ValueError or OSError for arguments, data or files that do not fit.
    """
    with processes.first_alone():  # which makes folders
        asked, device = read_request(args), processes.device(args.device)
    if args.submission:
        where = args.submission, asked, args.overrides, args.split
        written = submit(*where, device, args.optimize, args.workers, processes)
        if processes.is_first:
            console.print(written)
        return

    with processes.first_alone():  # which makes generated scenes
        comparison = load_comparison(asked.entries, args.overrides, args.split, device, args.optimize)
    protocol = choose_protocol(args.protocol, comparison.dataset, args.avg)
    if asked.copying:
        comparison = with_copying(comparison)
    if "motion" in asked.measures:
        comparison = replace(comparison, dataset=WithMotion(comparison.dataset))
    check_truth(comparison, asked.intervals, processes)
    if args.official:
        cityscapes.require_truth(asked.entries[0].checkpoint, comparison.dataset)
    if processes.is_first:
        report.print_class_maps(comparison.class_maps)
        if protocol == "videos":
            console.print("each video is played once, and each frame is scored (--protocol videos)")
    checkpoints = {entry.name: entry.checkpoint for entry in asked.entries}
    if asked.copying:
        checkpoints[COPYING] = asked.entries[0].checkpoint
    origin = Origin.of(checkpoints, device, processes.count)
    recorder = record_clips(comparison, asked.intervals[-1], args.clip) if args.report else None
    with Predictions.shared(args.predictions, processes) if args.official else nullcontext() as predictions:
        record: Any = None if predictions is None else predictions.write
        how = asked.intervals, asked.average, asked.widths, asked.flow, args.workers
        found = run_comparison(
            comparison,
            *how,
            on_labels=record,
            recorder=recorder,
            processes=processes,
            protocol=protocol,
            measures=asked.measures,
        )
        if predictions:
            predictions.gather(processes)
        if not processes.is_first:
            return
        assert found is not None, "the first process has what all found"
        if predictions:
            predictions.finish()
        data: Any = comparison.dataset  # Cityscapes, as was seen above
        official = None if predictions is None else cityscapes.score_predictions(predictions, data)

    if args.sweep:
        report.print_sweep(found)
    else:
        report.print_result(found.single(), None if official is None else cityscapes.official_table(official))
    if args.json:
        values = found.as_dict() if args.sweep else found.single().as_dict() | {"class_map": found.class_map()}
        values |= {"official": asdict(official)} if official else {}
        report.write_json(args.json, values | {"origin": origin.as_dict()})
    if args.csv:
        report.write_csv(args.csv, found)
    if recorder is not None:
        page = write_report(args.report, found, recorder.clips(), origin)
        console.print(f"report: {page}", soft_wrap=True)
    if official:  # last: where the two disagree this raises, and nothing is lost
        console.print(cityscapes.check_agreement(found.single().value, official))


def check_truth(comparison: Comparison, intervals: Sequence[int], processes: Processes) -> None:
    """Check some of the labels that will be scored, and print what may be wrong with them.

    processes: all of them must make this call; the first one checks.

    Raises ValueError if all pixels of all these labels are ignored, or if no frame has a box.
    """
    where = f"{comparison.data.name} {comparison.split} at {data_root(comparison.data)}"
    found = Doubts()
    if processes.is_first:
        dataset = comparison.dataset
        indices = [i for i in range(len(dataset)) if dataset.history(i) >= min(intervals) - 1]
        found = look_at_labels(dataset, indices, "validation", strict=False, where=where)
        if found == Doubts():
            found = _look_at_truth(comparison, indices)
    found = processes.spread(found)
    if processes.is_first:
        for warning in found.warnings:
            console.print(f"warning: {where}: {warning}")
    if found.errors:
        raise ValueError(f"nothing to score: {where}: {'; '.join(found.errors)}")


def _look_at_truth(comparison: Comparison, indices: Sequence[int]) -> Doubts:
    """Look for one frame with something to be right about, in a sample. There is an error if all frames were looked
    at."""
    task = common_task(comparison.models, comparison.dataset)
    sample = np.unique(np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).round().astype(int)).tolist()
    looked_at = 0
    for place in sample:
        try:
            truth = task.truth(comparison.dataset.clip(indices[place], 1))
        except (ValueError, OSError):
            continue  # the evaluation reports it
        if not task.is_empty(truth):
            return Doubts()
        looked_at += 1
    if not looked_at:
        return Doubts()
    told = (f"none of the {looked_at} frames that were looked at has anything to find",)
    return Doubts(errors=told) if looked_at == len(indices) else Doubts(warnings=told)


def read_request(args: Namespace) -> Request:
    """Return the request in the arguments, and make the folders of result files.

    Raises ValueError for invalid arguments or arguments that cannot be combined, and OSError for a folder that cannot
    be made.
    """
    sweeping = args.sweep is not None
    if sweeping and (args.interval is not None or args.avg):
        raise ValueError("--sweep gives the intervals and scores all distances: leave out --interval and --avg")
    if args.official and (sweeping or args.avg):
        raise ValueError("--official scores one prediction a frame; --sweep and --avg make several: leave these out")
    if args.official and args.protocol == "videos":
        raise ValueError("--official scores frames by their distance from a key frame: leave out --protocol videos")
    if args.predictions and not args.official:
        raise ValueError("--predictions needs --official; to write predictions alone, use --submission")
    if args.submission:
        scoring = "sweep avg boundary temporal official json csv report widths flow protocol copying motion coco"
        if given := [f"--{name}" for name in scoring.split() if getattr(args, name) not in (None, False)]:
            raise ValueError(f"--submission only writes predictions, and scores nothing: leave out {', '.join(given)}")
    intervals = whole_numbers("--sweep", args.sweep) if sweeping else (1 if args.interval is None else args.interval,)
    FixedInterval(intervals[0])
    widths = whole_numbers("--widths", args.widths or "1,2,4,8,16") if args.boundary else ()
    measures = tuple(name for name in ("motion", "coco") if getattr(args, name))
    if args.coco:
        require_coco()
    entries = pair_up(args.cfg, args.checkpoint, args.name)
    if len(entries) > 1 and args.submission:
        raise ValueError(f"--submission takes one model, got {len(entries)}")
    if len(entries) > 1 and not sweeping:
        raise ValueError(f"to compare {len(entries)} models, use --sweep, such as --sweep 1,5")
    if args.copying and not sweeping:
        raise ValueError("--copying adds a model to compare with: use --sweep, such as --sweep 1,5")
    if args.flow is not None and not args.temporal:
        raise ValueError("--flow needs --temporal")
    if args.widths is not None and not args.boundary:
        raise ValueError("--widths needs --boundary")
    _check_outputs(args)
    if args.report:
        check_folder(args.report)
    elif args.clip:
        raise ValueError("--clip chooses what --report shows: add --report DIR")
    for path in filter(None, (args.json, args.csv)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    flow = (args.flow or "auto") if args.temporal else None
    return Request(entries, intervals, sweeping or args.avg, widths, flow, args.copying, measures)


def _check_outputs(args: Namespace) -> None:
    """Raise ValueError for output files that are folders, that are the same file, or that lie in the report's
    folder."""
    files = {name: Path(getattr(args, name)).resolve() for name in ("json", "csv") if getattr(args, name)}
    for name, path in files.items():
        if path.is_dir():
            raise ValueError(f"--{name} {path}: is a folder; expected the name of a file to write")
    if len(files) == 2 and files["json"] == files["csv"]:
        raise ValueError(f"--json and --csv name the same file, {files['json']}: give two different ones")
    if args.report:
        own = Path(args.report).resolve()
        others = files | ({"predictions": Path(args.predictions).resolve()} if args.predictions else {})
        for name, path in others.items():
            if path == own or own in path.parents:
                raise ValueError(f"--{name} {path}: lies in the folder of --report, which may hold only the report")


def submit(
    folder: str | Path,
    request: Request,
    overrides: Sequence[str],
    split: str | None,
    device: torch.device,
    optimize: bool = False,
    workers: int = 1,
    processes: Processes = ALONE,
) -> str:
    """Run `write_submission` for the one model of a request. Return a line about what was written. split: "test" by
    default."""
    ((entry,), (interval,)), split = (request.entries, request.intervals), split or "test"
    config = load_config(entry.cfg, overrides)
    model = load_model(entry.checkpoint, config.model, device)
    model = model.optimized() if optimize else model
    frames = write_submission(
        folder, entry.checkpoint, model, config.data, split, interval, workers, processes=processes
    )
    return f"{frames} frames of {split} as labelIds in {folder}; the test server takes them as a ZIP file"
