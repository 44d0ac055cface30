"""Measure the task's figure on a split during training, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from signal import Signals
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from accel.config import Config
from accel.datasets import ClipDataset, build_test_dataset
from accel.datasets.clips import Clip, frames_to_tensor
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.progress import console
from accel.reductions import world_size
from accel.tasks import Score, Task, as_tensors, task_of
from accel.training.feeding import start_worker
from accel.training.signals import StopSignals
from accel.training.watch import Watch

VOTE_EVERY = 8  # frames of a process


class Validation:
    """The frames of `train.validation`, and the measurement on them.

    Raises ValueError if the data set and the model have different classes, or if no labelled frame of the split has
    enough frames before it.
    """

    def __init__(self, fabric: Fabric, config: Config):
        assert config.train.validation is not None, "who validates has settings for it"
        self.fabric, self.settings, self.workers = fabric, config.train.validation, config.train.workers
        self.told: set[str] = set()
        self.damaged = 0  # frames of the last validation that could not be read, in all processes
        try:
            self.dataset: ClipDataset = build_test_dataset(config.data, self.settings.split)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} (to train without validation: train.validation=null)") from None
        if self.dataset.num_classes != config.model.num_classes:
            raise ValueError(
                f"train.validation: the model has {config.model.num_classes} classes, the split "
                f"{self.settings.split} of {config.data.name} has {self.dataset.num_classes}"
            )
        history = self.settings.interval - 1
        long = [i for i in range(len(self.dataset)) if self.dataset.history(i) >= history]
        if not long:
            raise ValueError(
                f"train.validation.interval: no frame of {self.settings.split} has {history} frames before it"
            )
        number = min(self.settings.frames or len(long), len(long))
        self.indices = [long[i] for i in np.linspace(0, len(long) - 1, number).round().astype(int)]
        if self.settings.split == config.data.test_split:
            console.print(
                f"note: the best weights are chosen on {self.settings.split}, which is also data.test_split: their "
                "score there is too good"
            )

    def is_due(self, step: int, last: int) -> bool:
        """Return whether to validate after this many steps."""
        return step > last and step % self.settings.every == 0

    @torch.no_grad()
    def score(self, model: VideoModel, watch: Watch, step: int, signals: StopSignals | None = None) -> Score | Signals:
        """Return the model's score, the same on all processes. The model is left in evaluation mode.

        Frames that cannot be read are named once, left out and counted in `damaged`.

        signals: if given, a signal that any process received ends the validation early. All processes then return that
            signal.

        Raises ValueError if these frames say nothing.
        """
        model.eval()
        task = task_of(model, self.dataset)
        score = task.score()
        rank, size = self.fabric.global_rank, self.fabric.world_size
        own = self.indices[rank::size]
        # Not more than needed: they are started anew for every validation.
        loader = DataLoader(
            _Frames(self.dataset, own, self.settings.interval, task),
            batch_size=None,
            num_workers=min(self.workers, len(own)),
            collate_fn=_as_is,
            worker_init_fn=start_worker,
        )
        frames, damaged = iter(loader), 0
        for first in range(0, len(self.indices), size):  # all processes vote equally often, also where one has no frame
            watch.at("validating", step)
            if signals is not None and first // size % VOTE_EVERY == 0:
                stop = signals.vote(self.fabric.device)
                if stop is not None:
                    return stop
            if first + rank >= len(self.indices):
                continue
            read = next(frames)
            if isinstance(read, str):
                damaged += 1
                if read not in self.told:
                    console.print(f"left out of validation: {read}")
                    self.told.add(read)
                continue
            clip, truth = read
            images = frames_to_tensor(clip.frames).to(self.fabric.device)  # (T, 3, H, W)
            with self.fabric.autocast():
                prediction = model(images[None])
            said = of_first(prediction.at(tuple(images.shape[2:])))
            score.update(said, as_tensors(truth, self.fabric.device))
        parts = [(score.on_host(), damaged)] * size
        if world_size() > 1:
            dist.all_gather_object(parts, parts[0])
        self.damaged = sum(number for _, number in parts)
        if self.damaged == len(self.indices):
            raise ValueError(f"train.validation: none of the {len(self.indices)} frames can be read")
        total = reduce(add, (part for part, _ in parts))
        if reason := total.emptiness():
            raise ValueError(f"train.validation: nothing to score on {self.settings.split}: {reason}")
        return total


class _Frames(Dataset):
    """Item i is the clip that ends in labelled frame `indices[i]` and its ground truth, or why it cannot be read."""

    def __init__(self, dataset: ClipDataset, indices: Sequence[int], length: int, task: Task):
        self.dataset, self.indices, self.length, self.task = dataset, indices, length, task

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Clip, Any] | str:
        try:
            clip = self.dataset.clip(self.indices[item], self.length)
        except (ValueError, OSError) as error:
            return str(error)
        return clip, self.task.truth(clip)


def _as_is(item: Any) -> Any:
    return item
