"""Measure the cost of making a training run resumable: a step with and without that."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from accel.clock import now
from accel.config import Config, without_pretrained
from accel.datasets import Batch
from accel.models import build_model
from accel.progress import Bar
from accel.tasks import build_task
from accel.training.checkpoints import Progress
from accel.training.freezing import freeze
from accel.training.loop import Loop
from accel.training.objectives import build_objective
from accel.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from accel.training.processes import start_fabric
from accel.training.signals import StopSignals
from accel.training.watch import Watch
from accel.weights.checkpoints import Description


def training_overhead(config: Config, device: str, rounds: int) -> dict[str, float]:
    """Measure steps in turns: the loop's own, supervised, and bare ones (forward, backward, clip, update the weights).

    Both use the same random clips with the configuration's crop. The results are medians in seconds. The `overhead` of
    the loop's step, and of checkpoints at `train.save_every`, are shares of a bare step. The `processor` seconds of a
    step are those of this process on all its threads. On a CPU that others use too, they are more reliable than the
    clock.
    """
    alike = config.train.model_copy(update={"random_distance": False, "accumulate": 1})
    config = config.model_copy(update={"train": alike})
    fabric = start_fabric(device, config.train.precision, config.train.timeout)
    model = build_model(without_pretrained(config.model))
    freeze(model, config.train.freeze)
    model = model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    names, palette = tuple(map(str, range(config.model.num_classes))), ((0, 0, 0),) * config.model.num_classes
    task = build_task(model.task, names, np.array(palette))
    objective, optimizer = fabric.setup(build_objective(config.train, model, task), optimizer)
    batch = _batch(config).to(fabric.device)

    class Same:
        def next(self) -> Batch:
            return batch

    with TemporaryDirectory() as folder, Watch(fabric, 1e6) as watch, StopSignals() as signals:
        config = config.model_copy(update={"output": Path(folder)})
        description = Description(config.model, names, palette, 0)
        loop = Loop(fabric, objective, model, optimizer, config, Progress(), description)
        objective.train()
        bar = Bar("", None, None)
        bar.last = float("inf")

        def guarded() -> None:
            loop.step(cast(Any, Same()), signals, watch, bar)

        def bare() -> None:
            set_learning_rate(optimizer, learning_rate(0, config.train))
            loss = objective(batch.frames, batch.labels, batch.flow)
            fabric.backward(loss)
            loss.item()
            if config.train.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

        taken: dict[Callable[[], None], list[tuple[float, float]]] = {guarded: [], bare: []}
        for turn in range(rounds + 1):
            loop.progress.step = 0  # every step is alike
            for step in (guarded, bare) if turn % 2 else (bare, guarded):
                start, began = now(fabric.device), time.process_time()
                step()
                if turn:
                    taken[step].append((now(fabric.device) - start, time.process_time() - began))
        saving = []
        for number in range(1, 4):
            start = time.monotonic()
            loop.progress.step = number
            loop.checkpoints.save(loop.progress, model, optimizer, description)
            saving.append(time.monotonic() - start)
    clock = {step: np.array(pairs)[:, 0] for step, pairs in taken.items()}
    processor = {step: np.array(pairs)[:, 1] for step, pairs in taken.items()}
    return {
        "bare_step": float(np.median(clock[bare])),
        "step": float(np.median(clock[guarded])),
        "step_overhead": float(np.median(clock[guarded] / clock[bare])) - 1,
        "processor_overhead": float(np.median(processor[guarded] / processor[bare])) - 1,
        "checkpoint": float(np.median(saving)),
        "checkpoint_overhead": float(np.median(saving) / (config.train.save_every * np.median(clock[bare]))),
    }


def _batch(config: Config) -> Batch:
    """Return random clips with random labels, of the configuration's size."""
    random = torch.Generator().manual_seed(0)
    height, width = config.data.augmentation.crop or (512, 1024)
    count, length = config.train.batch_size, config.data.clip_length
    frames = torch.randint(0, 256, (count, length, 3, height, width), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, config.model.num_classes, (count, height, width), generator=random, dtype=torch.uint8)
    flow = torch.randn(count, length - 1, 2, height, width, generator=random)
    return Batch(frames, labels, flow, ("random",) * count)
