"""The order of training clips: an endless, numbered sequence of samples.

Sample i (its clip, crop and colours) depends only on (seed, i). Step s of training takes its samples by number
(`StepSampler`). So a run that is resumed at step s, or has other workers, gets the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from accel.datasets.clips import Clip, ClipDataset
from accel.datasets.simulation.motion import SimulatedMotion
from accel.datasets.transforms import ClipTransform

_ORDER, _VIEW, _MOTION, _SIDE = 0, 1, 2, 3  # the streams of random numbers of a seed


class TrainingClips(Dataset):
    """Numbered training samples 0, 1, 2, ... without end. Each epoch of `len(self)` samples is one shuffled pass.

    dataset:   where the clips come from.
    length:    frames a clip; labelled frames with fewer than `length - 1` frames before them are left out, or have
               shorter clips where the data set says so (`may_be_short`).
    transform: the random view; None: clips as stored.
    motion:    makes each clip from its labelled frame alone; then frames before it are not needed.
    seed:      0 or more.
    around:    take frames after the labelled one, too: a clip of those is played backwards. A side is drawn as often as
               it has frames.

    Raises ValueError if no labelled frame has enough frames before it, or none any after it and `around` asks for them.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        length: int,
        transform: ClipTransform | None = None,
        seed: int = 0,
        motion: SimulatedMotion | None = None,
        around: bool = False,
    ):
        if length < 1:
            raise ValueError(f"a clip has at least one frame; got {length}")
        if seed < 0:
            raise ValueError(f"the seed must be 0 or more; got {seed}")
        self.stored = 1 if motion else length  # frames read of each clip
        histories = [dataset.history(i) for i in range(len(dataset))]
        least = 1 if dataset.may_be_short else self.stored
        if max(histories, default=-1) < least - 1:
            raise ValueError(
                f"no clip of {length} frames: none of the {len(histories)} labelled frames has "
                f"{length - 1} frames directly before it "
                f"(the longest possible clip has {max(histories, default=-1) + 1})"
            )
        self.dataset, self.length, self.transform, self.seed = dataset, length, transform, seed
        self.motion = motion
        self.around = around
        if around and not any(dataset.following(i) for i in range(len(dataset))):
            raise ValueError("data.key_frames around: frames after labelled ones are not known in these data")
        self.indices = np.array([i for i, history in enumerate(histories) if history >= least - 1])

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return len(self.indices)

    def __getitem__(self, number: int) -> Clip:
        """Return sample `number`, which may be beyond the first epoch.

        Raises ValueError or FileNotFoundError, with the sample and the file, if it cannot be read.
        """
        number = int(number)
        if number < 0:
            raise IndexError(f"samples are numbered from 0; got {number}")
        epoch, position = divmod(number, len(self))
        index = int(self.indices[_order(self.seed, epoch, len(self))[position]])
        try:
            clip = self._stored(index, number)
        except (ValueError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"training sample {number} (labelled frame {index}): {error}") from error
        if self.motion is not None:
            clip = self.motion(clip, self.length, np.random.default_rng([self.seed, _MOTION, number]))
        if self.transform is None:
            return clip
        return self.transform(clip, np.random.default_rng([self.seed, _VIEW, number]))

    def _stored(self, index: int, number: int) -> Clip:
        """The clip of labelled frame `index` as stored, for sample `number`."""
        before, after = (min(n, self.stored - 1) for n in (self.dataset.history(index), self.dataset.following(index)))
        if self.around and (self.dataset.may_be_short or after == self.stored - 1):
            draw = np.random.default_rng([self.seed, _SIDE, number]).random()
            if draw * (before + after) < after:
                return self.dataset.backward_clip(index, after + 1)
        return self.dataset.clip(index, before + 1)


class StepSampler(Sampler[list[int]]):
    """The sample numbers of steps start, ..., stop - 1: a batch sampler for one of `world_size` processes.

    In step s, process r takes `batch_size` numbers from (s * world_size + r) * batch_size on.
    """

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world_size: int = 1):
        if not 0 <= start <= stop:
            raise ValueError(f"steps must satisfy 0 <= start <= stop; got {start}, {stop}")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1; got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must be between 0 and world_size - 1; got {rank} of {world_size}")
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def init_worker(worker: int) -> None:
    """Initialise a DataLoader worker (`worker_init_fn`): OpenCV starts no threads, because the workers already run in
    parallel."""
    import cv2

    cv2.setNumThreads(0)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the shuffled positions of one epoch."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(length)
