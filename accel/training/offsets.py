"""Record how the offsets of learned sampling move in training: one line in the run's folder for each logged step."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import nn

from accel.files.positions import open_binary, write_at
from accel.models.propagation.learned_sampling import LearnedSampling

OFFSETS = "offsets.jsonl"


def start_offsets(folder: Path, model: nn.Module, step: int) -> None:
    """Record the initial offsets of a run. If the run resumes, keep what it recorded up to `step`.

    Lines of later steps are dropped, and so is everything after an unreadable line. A resumed run leaves the same lines
    as one that was not stopped.
    """
    path = folder / OFFSETS
    if path.is_file():
        length = _length_up_to(path, step) if step else 0
        if length:
            os.truncate(path, length)
        else:
            path.unlink()
    if not step:
        record_offsets(folder, model, step)


def record_offsets(folder: Path, model: nn.Module, step: int) -> None:
    """Append the model's offsets to the record in `folder`. Do nothing for a model without offsets."""
    sampling = next((module for module in model.modules() if isinstance(module, LearnedSampling)), None)
    if sampling is None:
        return
    offsets = [[round(x, 4), round(y, 4)] for x, y in sampling.offsets.detach().float().tolist()]
    line = json.dumps({"step": step, "offsets": offsets}).encode() + b"\n"
    with suppress(OSError):  # a full disk: a picture is not worth a run
        _append(folder / OFFSETS, line)


def _append(path: Path, line: bytes) -> None:
    """Append the whole line, or leave the file unchanged and raise OSError."""
    file = open_binary(path, os.O_WRONLY | os.O_CREAT)
    try:
        end = written = os.fstat(file).st_size
        try:
            while written < end + len(line):
                written += write_at(file, line[written - end :], written)
        except OSError:
            os.ftruncate(file, end)
            raise
    finally:
        os.close(file)


def read_offsets(folder: str | Path) -> tuple[list[int], np.ndarray]:
    """Return the steps that a run recorded, in order, and the offsets at each: (T, K, 2), (dx, dy) in cells.

    Raises FileNotFoundError for a folder without a record, and ValueError for a path that is not a folder or an
    unreadable line.
    """
    if Path(folder).is_file():
        raise ValueError(f"{folder} is a file; expected the folder of a run, where training records offsets")
    path = Path(folder) / OFFSETS
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: only training with learned sampling records offsets")
    found: dict[int, np.ndarray] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):  # it is being written
            continue
        try:
            step, offsets = _read(line)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: not a step with its offsets") from None
        found = {s: o for s, o in found.items() if s < step and o.shape == offsets.shape} | {step: offsets}
    if not found:
        raise ValueError(f"{path}: holds no offsets")
    return list(found), np.stack(list(found.values()))


def _read(line: str | bytes) -> tuple[int, np.ndarray]:
    """Read a line. Raise ValueError, KeyError or TypeError for a line that this program did not write."""
    entry = json.loads(line)
    return int(entry["step"]), np.array(entry["offsets"], np.float32).reshape(-1, 2)


def _length_up_to(path: Path, step: int) -> int:
    """Return the length in bytes of the complete lines at the beginning whose steps are up to `step`."""
    length = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            if _read(line)[0] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        length += len(line) + 1
    return length
