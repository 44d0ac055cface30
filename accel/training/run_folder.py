"""The run's folder: what is done, what may be gone on with, and what must not be touched."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from accel.config import Config, dump_config, load_config
from accel.files.whole_files import sweep, write_whole
from accel.training.checkpoints import Checkpoints
from accel.training.run_log import LOG, remove_curves
from accel.weights.checkpoints import WEIGHTS

CONFIG = "config.yaml"
# Keys of `train` that change how a run is looked after, but not what comes out of it.
CARE = {"workers", "save_every", "keep", "timeout", "max_skipped", "preempt_signal"}


def is_done(config: Config, overwrite: bool = False) -> bool:
    """Whether the run's folder holds finished weights of exactly these settings, no older than those they start
    from."""
    if overwrite or not (config.output / WEIGHTS).is_file() or not has_settings(config):
        return False
    return not newer_start(config)


def has_settings(config: Config) -> bool:
    """Whether the run in the output folder, done or not, has these settings: all that decide what comes out."""
    try:
        return _deciding(load_config(config.output / CONFIG)) == _deciding(config)
    except (ValueError, FileNotFoundError):
        return False


def check_starts(stages: Sequence[Config]) -> None:
    """FileNotFoundError for a stage of a recipe that starts from a run that neither is there nor is made before it."""
    made: set[Path] = set()
    for stage in stages:
        for part, source in stage.init.items():
            run = Path(source.partition("#")[0])
            if run not in made and not run.exists():
                raise FileNotFoundError(
                    f"{stage.output}: init.{part}: no run at {run}, and no stage before this one makes it"
                )
        made.add(stage.output)


def newer_start(config: Config) -> str:
    """The run in `init` that was trained again after this one was done or, if it is not done, began; if any."""
    done = config.output / WEIGHTS
    made = (done if done.is_file() else config.output / CONFIG).stat().st_mtime
    sources = (source.partition("#")[0] for source in config.init.values())
    files = {s: Path(s) / WEIGHTS if Path(s).is_dir() else Path(s) for s in sources}
    return next((s for s, file in files.items() if file.is_file() and file.stat().st_mtime > made), "")


def may_go_on(config: Config, resume: bool, overwrite: bool) -> bool:
    """Whether the run's folder holds checkpoints to go on from. FileExistsError if it holds what must not be
    touched."""
    folder, checkpoints = config.output, Checkpoints(config.output)
    held = checkpoints.steps() or any((folder / name).exists() for name in (WEIGHTS, LOG))
    if overwrite:
        return False
    if not held:
        _refuse_to_replace(folder / CONFIG, dump_config(config))
        return False
    if not has_settings(config):
        raise FileExistsError(
            f"{folder} holds a run with other settings{_difference(config)}; "
            "choose another output=FOLDER, or --overwrite"
        )
    done = (folder / WEIGHTS).exists()
    newer = newer_start(config) if done or checkpoints.steps() else ""
    if newer:
        raise FileExistsError(
            f"{folder} started from {newer}, which has been trained again since; "
            "choose another output=FOLDER, or --overwrite"
        )
    if done:
        raise FileExistsError(f"{folder}: another process has just finished this run")
    if not resume:
        raise FileExistsError(f"{folder} holds an unfinished run; --resume to go on, or --overwrite")
    return bool(checkpoints.steps())


def claim(config: Config, resumed: bool) -> None:
    """Make the run's folder its own: without what another run left, unless this one goes on from it."""
    folder = config.output
    Checkpoints(folder).sweep()
    for name in (WEIGHTS, CONFIG):
        sweep(folder / name)
    if not resumed:
        for name in (WEIGHTS, LOG):
            (folder / name).unlink(missing_ok=True)
        remove_curves(folder)
        Checkpoints(folder).clear()
    began = (folder / CONFIG).stat() if resumed else None
    write_whole(folder / CONFIG, dump_config(config).encode())
    if began:  # the time of the file says when the run began
        os.utime(folder / CONFIG, ns=(began.st_atime_ns, began.st_mtime_ns))


def _refuse_to_replace(path: Path, settings: str) -> None:
    """FileExistsError if the file at `path` was written by someone, not by a run, and holds anything but `settings`."""
    if not path.exists():
        return
    try:
        there = path.read_text(encoding="utf-8")
        by_hand = there not in (settings, dump_config(load_config(path)))
    except (ValueError, OSError):
        by_hand = True
    if by_hand:
        raise FileExistsError(
            f"{path} was not written by a run and would be replaced; choose another output=FOLDER, or --overwrite"
        )


def _deciding(config: Config) -> dict:
    values = config.model_dump(mode="json")
    values["train"] = {key: value for key, value in values["train"].items() if key not in CARE}
    del values["data"]["label_check"]  # it decides whether there is a run, not what comes out
    return values


def _difference(config: Config) -> str:
    """The first setting in which the run in the folder and this one differ."""
    stored = config.output / CONFIG
    if not stored.is_file():
        return ""
    try:
        there = _deciding(load_config(stored))
    except (ValueError, FileNotFoundError) as error:
        return f" ({error})"
    for key, now in _leaves(_deciding(config)).items():
        before = _leaves(there).get(key)
        if before != now:
            return f" (there: {key}: {json.dumps(before)}; now: {key}: {json.dumps(now)})"
    return ""


def _leaves(values: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
