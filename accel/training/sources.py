"""What a run is made of: the weights it started from and the labelled frames it learns from.

Both are known by what they are, not by where they lie or when they were written: files are moved, copied to other
machines, and reached by other paths. What a run is made of is written into its folder when it begins.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from accel.config import Config, DataConfig
from accel.datasets import ClipDataset, build_dataset, data_root
from accel.files.whole_files import write_whole
from accel.weights.checkpoints import weights_path
from accel.weights.checksums import sha256_of

SOURCES = "sources.json"


def write_sources(config: Config, dataset: ClipDataset | None = None) -> None:
    """Note what the run in the output folder is made of."""
    start = {part: sha256_of(weights_path(_run(source))) for part, source in config.init.items()}
    data = {} if dataset is None else {"data": _frames(dataset)}
    write_whole(config.output / SOURCES, json.dumps({"init": start} | data, indent=2).encode())


def other_start(config: Config) -> str:
    """What `init` names, if that are other weights by now than those the run in the output folder started from.

    Empty where they are the same, are no longer there, or nothing is known of them.
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
    """Whether a run's folder says which weights it started from."""
    return "init" in _read(folder)


def has_other_data(folder: Path, there: DataConfig, now: DataConfig) -> bool:
    """Whether a configuration names other labelled frames than the run in a folder learns from, whose own one is
    `there`. Not if the place is the same, or nothing can be told, since nothing is there or nothing was noted."""
    noted = _read(folder).get("data")
    if noted is None or now.name == "streetscape" or data_root(there).resolve() == data_root(now).resolve():
        return False
    try:
        return _frames(build_dataset(now, now.train_split)) != noted
    except (ValueError, OSError):
        return False


def _run(source: str) -> str:
    return source.partition("#")[0]


def _frames(dataset: ClipDataset) -> str:
    """A checksum of the classes, and of the names of all labelled frames with how many frames come before each."""
    names = [(dataset.name(index), dataset.history(index)) for index in range(len(dataset))]
    return hashlib.sha256(json.dumps([list(dataset.class_names), names]).encode()).hexdigest()


def _read(folder: Path) -> dict:
    """What was noted; nothing in a folder of an older version, or where it is damaged."""
    try:
        found = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("init", {}), dict) else {}
