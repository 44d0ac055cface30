"""Checkpoints of an unfinished run. Each is written completely or not at all, and is verified by its checksums.

checkpoints/
    step-00000500/          the last `train.keep` of them
        weights.safetensors
        optimizer.pt
        progress.json
        SHA256SUMS          as `sha256sum --check` reads it
    best/                   with `train.validation`
        weights.safetensors
    last/                   when the run is done, and `best` is its result
        weights.safetensors
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from accel.files.digests import sha256_of
from accel.files.whole_files import sweep, sync_folder, whole_path, write_whole
from accel.progress import console
from accel.weights.checkpoints import (
    WEIGHTS,
    Description,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from accel.weights.checksums import SUMS, read_sums, write_sums

FOLDER, BEST, LAST = "checkpoints", "best", "last"
OPTIMIZER, PROGRESS = "optimizer.pt", "progress.json"


@dataclass
class Progress:
    """The progress of a run: everything that the next step depends on, besides weights and optimizer.

    Random numbers are not part of it: they depend only on seed, step and process.
    """

    step: int = 0  # steps taken
    losses: list[float] = field(default_factory=list)  # of the steps since the last line of the log
    parts: dict[str, list[float]] = field(default_factory=dict)  # the addends of these losses, by name
    skipped: int = 0  # steps left out, for a loss or a gradient that was no finite number
    skipped_in_a_row: int = 0
    validated: int = 0  # the step of the last validation
    best: float | None = None  # the score of the best one


class Checkpoints:
    """The checkpoints of the run in `folder`. The last `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 1):
        self.folder, self.keep = folder / FOLDER, keep

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, oldest first, intact or not."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-[0-9]*"))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(
        self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, description: Description
    ) -> None:
        """Write a checkpoint, then remove the oldest.

        Raises OSError if the disk does not accept it. The existing checkpoints are then unchanged.
        """
        self._sweep()
        final = self.path(progress.step)
        made = self.folder / f".{final.name}"
        try:
            sums = {
                WEIGHTS: save_weights(made / WEIGHTS, model, description),
                OPTIMIZER: save_state(made / OPTIMIZER, optimizer.state_dict()),
                PROGRESS: write_whole(made / PROGRESS, json.dumps(asdict(progress)).encode()),
            }
            write_sums(made, sums)
            self._remove(final)  # a damaged one that the run went back behind
            os.rename(made, final)
            sync_folder(self.folder)
        except OSError:
            self._sweep()
            raise
        for step in self.steps()[: -self.keep]:
            self._remove(self.path(step))

    def save_best(self, model: nn.Module, description: Description) -> None:
        """Keep these weights as the best so far. Raises OSError."""
        save_weights(self.folder / BEST / WEIGHTS, model, description)

    def has_best(self) -> bool:
        """Return whether any weights were kept as the best."""
        return (self.folder / BEST / WEIGHTS).is_file()

    def save_last(self, model: nn.Module, description: Description) -> None:
        """Keep the weights of the last step beside the best. Raises OSError."""
        save_weights(self.folder / LAST / WEIGHTS, model, description)

    def take_best(self, path: Path) -> None:
        """Copy the best weights to `path`. Raises OSError."""
        with whole_path(path) as temporary:
            shutil.copyfile(self.folder / BEST / WEIGHTS, temporary)

    def newest(self) -> int | None:
        """Return the step of the newest intact checkpoint. None if there are no checkpoints.

        A damaged checkpoint is reported and ignored. Raises ValueError if all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            fault = self.fault(step)
            if not fault:
                return step
            console.print(f"warning: {self.path(step)} is damaged ({fault}): trying the one before")
        if steps:
            raise ValueError(f"{self.folder}: all checkpoints are damaged; --overwrite begins the run again")
        return None

    def fault(self, step: int) -> str:
        """Describe what is wrong with a checkpoint. Empty if nothing is."""
        folder = self.path(step)
        try:
            sums = read_sums(folder / SUMS)
        except (OSError, ValueError):
            return f"no {SUMS} to read"
        for name in (WEIGHTS, OPTIMIZER, PROGRESS):
            try:
                digest = sha256_of(folder / name)
            except OSError as error:
                return f"{name}: {error.strerror}"
            if digest != sums.get(name):
                return f"{name}: the checksum differs"
        return ""

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load model and optimizer, and return the progress. No code from the files is run.

        Raises ValueError for a checkpoint that another version of this program wrote.
        """
        folder = self.path(step)
        progress = _progress(folder / PROGRESS)
        load_weights(model, folder / WEIGHTS)
        try:
            optimizer.load_state_dict(load_state(folder / OPTIMIZER))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / OPTIMIZER}: not the state of this run's optimizer ({error})") from None
        return progress

    def sweep(self) -> None:
        """Remove what a killed process left half written or half removed. No other process may use the checkpoints
        now."""
        self._sweep()
        for name in (BEST, LAST):
            sweep(self.folder / name / WEIGHTS)

    def clear(self, keep_best: bool = False) -> None:
        """Remove all checkpoints, once the run is done or begins again."""
        self._sweep()
        for step in self.steps():
            self._remove(self.path(step))
        if not keep_best:
            for name in (BEST, LAST):
                self._remove(self.folder / name)
        with suppress(OSError):  # where something is left
            self.folder.rmdir()

    def _remove(self, path: Path) -> None:
        """Remove one checkpoint at once. A half-removed one never stands under its name."""
        with suppress(FileNotFoundError):
            hidden = self.folder / f".{path.name}.removed"
            shutil.rmtree(hidden, ignore_errors=True)
            os.rename(path, hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove half-written and half-removed checkpoints."""
        for path in (*self.folder.glob(".step-*"), *self.folder.glob(f".{BEST}.*"), *self.folder.glob(f".{LAST}.*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _progress(path: Path) -> Progress:
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the progress of a run of this version ({error})") from None
