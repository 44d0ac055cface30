"""The sources of a run: the weights it started from and the labelled frames it learns from.

Both are identified by their content, not by path or date, because files are moved, copied to other machines, and
reached by other paths. The sources are written into the run's folder when it begins.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from accel.config import Config, DataConfig
from accel.datasets import GENERATED, ClipDataset, build_training_dataset, data_root
from accel.files.digests import sha256_of
from accel.files.whole_files import write_whole
from accel.weights.checkpoints import weights_path

SOURCES = "sources.json"


def write_sources(config: Config, dataset: ClipDataset | None = None) -> None:
    """Record the sources of the run in the output folder."""
    start = {part: sha256_of(weights_path(_run(source))) for part, source in config.init.items()}
    data = {} if dataset is None else {"data": _frames(dataset)}
    write_whole(config.output / SOURCES, json.dumps({"init": start} | data, indent=2).encode())


def other_start(config: Config) -> str:
    """Return the name in `init` whose weights are no longer those from which the run in the output folder started.

    Empty if they are the same, no longer exist, or were not recorded.
    """
    known = _read(config.output).get("init", {})
    for part, source in config.init.items():
        try:
            file = weights_path(_run(source))
        except FileNotFoundError:
            continue
        if part in known and sha256_of(file) != known[part]:
            return _run(source)
    return ""


def knows_start(folder: Path) -> bool:
    """Return whether a run's folder records the weights it started from."""
    return "init" in _read(folder)


def has_other_data(folder: Path, there: DataConfig, now: DataConfig) -> bool:
    """Return whether a configuration names other labelled frames than the run in a folder learns from.

    there: the data settings of that run.
    now: the data settings of the configuration.

    The result is False if the place is the same, or if they cannot be compared: the data are missing or were not
    recorded.
    """
    noted = _read(folder).get("data")
    if noted is None or now.name in GENERATED or _place(there) == _place(now):
        return False
    try:
        return _frames(build_training_dataset(now)) != noted
    except (ValueError, OSError):
        return False


def _place(data: DataConfig) -> list[Path]:
    """Return where the frames lie that a run learns from."""
    return [path.expanduser().resolve() for path in data.videos or [data_root(data)]]


def _run(source: str) -> str:
    return source.partition("#")[0]


def _frames(dataset: ClipDataset) -> str:
    """Return a checksum of the classes and of all labelled frames: their names, and the number of frames before
    each."""
    names = [(dataset.name(index), dataset.history(index)) for index in range(len(dataset))]
    return hashlib.sha256(json.dumps([list(dataset.class_names), names]).encode()).hexdigest()


def _read(folder: Path) -> dict:
    """Return the record. Empty for a folder of an older version and for a damaged record."""
    try:
        found = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("init", {}), dict) else {}
