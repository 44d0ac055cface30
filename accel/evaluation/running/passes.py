"""Turn a video's stretches into the passes of a model over it: one from every key frame, as far as frames are
scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from accel.datasets.clips import ClipDataset, frames_to_tensor
from accel.evaluation.running.reading import Stretch
from accel.tasks import as_tensors


@dataclass(frozen=True)
class Target:
    """A labelled frame to score.

    name: the frame's name.
    truth: its ground truth (`Task.truth`, as tensors).
    reach: the longest of the intervals for which it has enough frames before it.
    known: the predictions that models without state have already made for it, by model.
    """

    name: str
    truth: NamedTuple
    reach: int
    known: dict[str, NamedTuple] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """A key frame and the frames after it, (3, H, W) each, with the labelled frames to score by their distance."""

    frames: list[Tensor]
    targets: dict[int, Target]


def distances(interval: int, average: bool) -> range:
    """Return the distances from the key frame at which an interval is scored."""
    return range(interval) if average else range(interval - 1, interval)


class PassWindow:
    """The last frames of a video, and the passes over them that remain to be made."""

    def __init__(self, dataset: ClipDataset, intervals: tuple[int, ...], average: bool, device: torch.device):
        self.dataset, self.intervals, self.average, self.device = dataset, intervals, average, device
        self.scored: Counter[int] = Counter()
        self.damaged: Counter[int] = Counter()
        self.frames: dict[int, Tensor] = {}  # by number, without gaps
        self.unbroken = 0  # frames up to the last one that directly follow each other, those let go included
        self.targets: dict[int, dict[int, Target]] = {}  # by number of the key frame, then by distance

    def add(self, stretch: Stretch) -> Iterator[Pass]:
        """Add frames, and yield the passes that are now complete."""
        history = self.dataset.history(stretch.index) + 1
        if stretch.clip is None:
            self._count(0, history)
            return
        if not stretch.follows:
            yield from self.close()
        fresh = frames_to_tensor(stretch.clip.frames).to(self.device)  # (T, 3, H, W)
        first = stretch.number - len(fresh) + 1
        self.frames |= dict(enumerate(fresh, first))
        self.unbroken += len(fresh)
        reach = self._count(min(self.unbroken, history), history)
        if reach:
            target = Target(stretch.clip.name, as_tensors(stretch.extra, self.device), reach)
            tried = {d for k in self.intervals if k <= reach for d in distances(k, self.average)}
            for distance in tried:
                self.targets.setdefault(stretch.number - distance, {})[distance] = target
        # No later frame is scored from the key frames up to this one.
        yield from self._passes(stretch.number - self.intervals[-1] + 1)

    def close(self) -> Iterator[Pass]:
        """Yield the remaining passes. The next frames belong to another video."""
        yield from self._passes(max(self.frames, default=0))
        self.unbroken = 0

    def _passes(self, last: int) -> Iterator[Pass]:
        """Yield the passes from key frames up to number `last`, and drop the frames up to it."""
        for key in sorted(n for n in self.targets if n <= last):
            targets = self.targets.pop(key)
            yield Pass([self.frames[key + d] for d in range(max(targets) + 1)], targets)
        for number in [n for n in self.frames if n <= last]:
            del self.frames[number]

    def _count(self, readable: int, there: int) -> int:
        """Count a labelled frame and return its reach.

        readable: the number of readable frames up to it, including itself.
        there: the number of frames up to it that exist, including itself.
        """
        reach = max((k for k in self.intervals if k <= readable), default=0)
        if reach:
            self.scored[reach] += 1
        self.damaged.update(k for k in self.intervals if reach < k <= there)
        return reach
