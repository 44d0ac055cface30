"""Build the batches of a run and each process's share of them, and explain failures of the data workers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from accel.config import Config
from accel.datasets.clips import Batch, ClipDataset, collate
from accel.datasets.sampling import StepSampler, TrainingClips, init_worker
from accel.datasets.simulation.motion import SimulatedMotion
from accel.datasets.transforms import ClipTransform
from accel.training.launch import STOPPING
from accel.wording import first_line

DYING = 0.5  # seconds


def share_out(config: Config, devices: int) -> tuple[int, int]:
    """Return how many clips each device computes together, and in how many such parts a step is taken.

    A step has `batch_size` times `accumulate` clips, whatever the number of devices. If a batch cannot be shared out
    evenly, batches grow and there are fewer of them: a batch of 1, accumulated 4 times, is one clip for each of 4
    devices. Raises ValueError if there is no such way.
    """
    settings = config.train
    clips = settings.batch_size * settings.accumulate
    for batch in range(settings.batch_size, clips + 1):
        if batch % devices == 0 and clips % batch == 0:
            return batch // devices, clips // batch
    several = f" times train.accumulate {settings.accumulate}" if settings.accumulate > 1 else ""
    raise ValueError(
        f"{config.output}: train.batch_size is {settings.batch_size}{several}, to be shared out evenly to {devices} "
        f"devices; expected a multiple of {devices}"
    )


def build_loader(dataset: ClipDataset, config: Config, start: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Build the loader of this process's equal share of each batch, from step `start` on.

    Raises ValueError if a batch cannot be divided evenly, or for settings that do not fit the data.
    """
    settings, augmentation = config.train, config.data.augmentation
    share, parts = share_out(config, world_size)
    transform = ClipTransform(**augmentation.model_dump())
    moving = config.motion
    motion = None if moving is None else SimulatedMotion(dataset.label_names, **moving.model_dump())
    around = config.data.key_frames == "around"
    clips = TrainingClips(dataset, config.data.clip_length, transform, config.seed, motion, around)
    return DataLoader(
        clips,
        batch_sampler=StepSampler(start * parts, settings.steps * parts, share, rank, world_size),
        num_workers=settings.workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        timeout=settings.timeout if settings.workers else 0,
    )


class Feed:
    """Give one batch after another while this context is open.

    `next` raises ValueError or FileNotFoundError, in one line, for an unreadable clip. It raises TimeoutError for a
    clip that takes longer than `train.timeout`. PyTorch may notice the death of a worker at any moment; the context
    then ends with ChildProcessError.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __enter__(self) -> Feed:
        before = set(multiprocessing.active_children())
        self.batches = iter(self.loader)
        self.workers = set(multiprocessing.active_children()) - before
        return self

    def next(self) -> Batch:
        try:
            return next(self.batches)
        except Exception as error:
            if self._worker_has_died():  # while it handed something over: then the connection breaks, in many ways
                raise _death(error) from error
            if isinstance(error, ValueError | FileNotFoundError):
                # A worker's error comes wrapped in its traceback; its own last line is what counts.
                last = str(error).strip().splitlines()[-1]
                raise ValueError(last.removeprefix("ValueError: ").removeprefix("FileNotFoundError: ")) from error
            if isinstance(error, RuntimeError) and "timed out" in str(error):
                raise TimeoutError(
                    f"no batch came from the data workers for {self.loader.timeout:g} s: a disk that hangs, or too "
                    "few train.workers; train.timeout says how long to wait"
                ) from error
            raise

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        with _deaths_unnoticed():
            if error is not None:
                self._kill_workers()  # PyTorch would wait for one that hangs
            del self.batches
            self._kill_workers()  # Python would wait for one that hangs, when it ends
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise _death(error) from error

    def _worker_has_died(self) -> bool:
        """Return whether a worker has died. A worker that breaks a connection by dying may take a moment to end."""
        sentinels = [worker.sentinel for worker in self.workers]
        return bool(sentinels and multiprocessing.connection.wait(sentinels, timeout=DYING))

    def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join()


@contextmanager
def _deaths_unnoticed() -> Iterator[None]:
    """Switch off PyTorch's signal handler, which raises at any line once a worker has been killed."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):  # as on Windows
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _death(error: Exception) -> ChildProcessError:
    told = first_line(error).rstrip(". ")
    return ChildProcessError(f"a data worker died ({told}); if the machine ran out of memory, fewer train.workers help")


def start_worker(worker: int) -> None:
    """Make workers ignore stop signals, so that the run can finish its step. Such signals often go to all processes."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    init_worker(worker)


def from_distance(batch: Batch, config: Config, step: int) -> Batch:
    """Return the clip from its key frame on. The key frame lies 0..clip_length-1 frames before the label.

    With `data.key_frames: around` it lies as far before or after the label, and the clip is played backwards if after.
    The distance is drawn for each step and is the same on all devices. Without `train.random_distance`, the key frame
    is always the first frame. At distance 0, the key frame's own scores are trained, as in Zhu et al.'s training. The
    smallest distance is 1 if these scores cannot be trained: the reference is frozen, or flow is trained.
    """
    length = batch.frames.shape[1]
    nearest = 1 if "reference" in config.train.freeze or config.train.loss.name == "flow" else 0
    if length <= 1 + nearest or not config.train.random_distance:
        return batch
    random = np.random.default_rng((config.seed, step))
    if config.data.key_frames == "around" and nearest == 0:
        # One in 2 * length - 1 frames is the labelled one itself.
        start = length - 1 - abs(int(random.integers(1 - length, length)))
    else:
        start = int(random.integers(0, length - nearest))
    flow = None if batch.flow is None else batch.flow[:, start:]
    return replace(batch, frames=batch.frames[:, start:], flow=flow)
