"""Schedules, which decide when to take a key frame, and the clues they use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor


class Decision(Enum):
    """The kind of the next frame of a stream.

    AFRESH: a key frame that ignores all frames before it: the first frame of another scene.
    KEY: a key frame within a video.
    RENEW: a current frame, after which the work on its own reference features begins. That work is spread over the
        frames that follow.
    CURRENT: a current frame.
    """

    AFRESH = "afresh"
    KEY = "key"
    RENEW = "renew"
    CURRENT = "current"


@dataclass(frozen=True)
class Clue:
    """What a decider may know about a frame before the model has run on it.

    distance: the number of frames since the last key frame, or since the last renewal began. It is 1 for the frame
        after it.
    frame: (B, 3, H, W), in host memory if the caller has it there. Reading it then does not make a GPU wait.
    seconds: the time of the last finished frame. 0 if it is unknown.
    dropped: the number of frames dropped since the frame before.
    previous: the `Prediction` for the frame before. It has been computed, so nothing waits for it. None if the frame
        before was skipped.
    """

    distance: int
    frame: Tensor
    seconds: float
    dropped: int
    previous: Any


class Decider(ABC):
    """Decides for one stream, frame by frame. It may remember earlier frames."""

    @abstractmethod
    def decide(self, clue: Clue) -> Decision:
        """Return the kind of the next frame."""


class Schedule(ABC):
    """A rule for key frames. `start` makes a decider for each stream.

    interval: the largest number of frames from one key frame to the next. None if there is no such bound. Then there is
        no number of frames over which the work of a key frame could be spread.
    renews: whether the deciders of this schedule answer RENEW themselves.
    """

    interval: int | None = None
    renews = False

    @abstractmethod
    def start(self, first: Tensor) -> Decider:
        """Return a decider for a stream whose first frame is `first` (B, 3, H, W), a key frame."""


def check_interval(interval: int) -> None:
    """Raise ValueError for an interval of less than 1."""
    if interval < 1:
        raise ValueError(f"interval {interval}: expected 1 (every frame is a key frame) or more")


@dataclass(frozen=True)
class FixedInterval(Schedule):
    """Every `interval`-th frame is a key frame, beginning with the first. Raises ValueError for an interval of less
    than 1."""

    interval: int

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def start(self, first: Tensor) -> Decider:
        return _EveryNth(self.interval)


class _EveryNth(Decider):
    def __init__(self, interval: int):
        self.interval = interval

    def decide(self, clue: Clue) -> Decision:
        return Decision.CURRENT if clue.distance < self.interval else Decision.KEY


class KeyFramesAt(Schedule):
    """Key frames at chosen places of a clip: the first frame, and the listed frames after it.

    frames: the numbers of those frames. The first frame has number 0.
    """

    def __init__(self, frames: Collection[int] = ()):
        self.frames = frozenset(frames)

    def start(self, first: Tensor) -> Decider:
        return _Named(self.frames)


class _Named(Decider):
    def __init__(self, frames: frozenset[int]):
        self.frames, self.number = frames, 0

    def decide(self, clue: Clue) -> Decision:
        self.number += 1
        return Decision.KEY if self.number in self.frames else Decision.CURRENT
