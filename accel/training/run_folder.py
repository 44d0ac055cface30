"""The run's folder: what is finished, what may be resumed, and what must not be changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from accel.config import Config, dump_config, load_config
from accel.datasets import ClipDataset, data_root
from accel.files.whole_files import sweep, write_whole
from accel.training.checkpoints import Checkpoints
from accel.training.run_log import LOG, remove_curves
from accel.training.sources import SOURCES, has_other_data, knows_start, other_start, write_sources
from accel.weights.checkpoints import WEIGHTS

CONFIG = "config.yaml"
# Keys of `train` that change how a run is looked after, but not what it learns.
CARE = {"workers", "save_every", "keep", "timeout", "max_skipped", "preempt_signal", "validation"}


def is_done(config: Config, overwrite: bool = False) -> bool:
    """Return whether the run's folder holds finished weights of exactly these settings.

    That run must also have started from the weights from which it would start now.
    """
    if overwrite or not (config.output / WEIGHTS).is_file() or not has_settings(config):
        return False
    return not other_start(config)


def has_settings(config: Config) -> bool:
    """Return whether the run in the output folder, finished or not, has the same settings.

    Only settings that influence the result count. The places of data and runs do not.
    """
    try:
        return not _difference(config)
    except FileNotFoundError:
        return False


def check_starts(stages: Sequence[Config]) -> None:
    """Raise FileNotFoundError if a stage of a recipe starts from a run that does not exist and that no earlier stage
    makes."""
    made: set[Path] = set()
    for stage in stages:
        for part, source in stage.init.items():
            run = Path(source.partition("#")[0])
            if run not in made and not run.exists():
                raise FileNotFoundError(f"{stage.output}: init.{part}: no run at {run}, and no earlier stage makes it")
        made.add(stage.output)


def may_go_on(config: Config, resume: bool, overwrite: bool) -> bool:
    """Return whether the run's folder holds checkpoints from which to resume.

    Raises FileExistsError if it holds something that must not be changed.
    """
    folder, checkpoints = config.output, Checkpoints(config.output)
    held = checkpoints.steps() or any((folder / name).exists() for name in (WEIGHTS, LOG))
    if overwrite:
        return False
    if not held:
        _refuse_to_replace(folder / CONFIG, dump_config(config))
        return False
    try:
        difference = _difference(config)
    except FileNotFoundError:
        difference = "its settings are missing"
    if difference:
        raise FileExistsError(
            f"{folder} holds a run with other settings ({difference}); choose another output=FOLDER, or --overwrite"
        )
    done = (folder / WEIGHTS).exists()
    other = other_start(config) if done or checkpoints.steps() else ""
    if other:
        raise FileExistsError(
            f"{folder} started from other weights than {other} holds now; choose another output=FOLDER, or --overwrite"
        )
    if done:
        raise FileExistsError(f"{folder}: another process has just finished this run")
    if not resume:
        raise FileExistsError(f"{folder} holds an unfinished run; --resume to go on, or --overwrite")
    return bool(checkpoints.steps())


def claim(config: Config, resumed: bool, dataset: ClipDataset | None = None) -> None:
    """Take over the run's folder. Remove what another run left, unless this one resumes it.

    dataset: the data set that the run learns from, to be recorded.
    """
    folder = config.output
    Checkpoints(folder).sweep()
    for name in (WEIGHTS, CONFIG, SOURCES):
        sweep(folder / name)
    if not resumed:
        for name in (WEIGHTS, LOG):
            (folder / name).unlink(missing_ok=True)
        remove_curves(folder)
        Checkpoints(folder).clear()
    write_whole(folder / CONFIG, dump_config(config).encode())
    if not resumed:
        write_sources(config, dataset)


def _refuse_to_replace(path: Path, settings: str) -> None:
    """Raise FileExistsError if a person, not a run, wrote the file at `path`, and it does not equal `settings`."""
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


def _deciding(config: Config, places: bool) -> dict:
    """Return the settings that influence the result.

    places: whether to include the paths of the initial weights. They identify these weights if nothing else does.
    """
    values = config.model_dump(mode="json")
    del values["output"], values["data"]["root"]
    if not places:
        values["init"] = {part: source.partition("#")[2] for part, source in values["init"].items()}
    values["train"] = {key: value for key, value in values["train"].items() if key not in CARE}
    del values["data"]["label_check"]  # it decides whether there is a run, not what comes out
    return values


def _difference(config: Config) -> str:
    """Describe the first setting in which the run in the folder and this one differ, or other data. Empty if there is
    none.

    Raises FileNotFoundError if the run has no settings.
    """
    try:
        there = load_config(config.output / CONFIG)
    except ValueError as error:
        return str(error)
    places = not knows_start(config.output)
    before, now = (_leaves(_deciding(each, places)) for each in (there, config))
    for key in (*now, *before):
        if before.get(key) != now.get(key):
            return f"there: {key}: {json.dumps(before.get(key))}; now: {key}: {json.dumps(now.get(key))}"
    if has_other_data(config.output, there.data, config.data):
        return f"it learns from other labelled frames than those at {data_root(config.data)}"
    return ""


def _leaves(values: dict, prefix: str = "") -> dict:
    found: dict = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
