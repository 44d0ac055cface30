"""When to take a key frame: schedules, and what they go by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor


class Decision(Enum):
    """What the next frame of a stream is to be.

    AFRESH:  a key frame that ignores all frames before it: the first one of another scene.
    KEY:     a key frame in the course of a video.
    RENEW:   a current frame, after which the work on its own reference features begins, spread over the frames that
             follow.
    CURRENT: a current frame.
    """

    AFRESH = "afresh"
    KEY = "key"
    RENEW = "renew"
    CURRENT = "current"


@dataclass(frozen=True)
class Clue:
    """What a decider may know of a frame before the model has looked at it.

    distance: frames since the last key frame, or since the last renewal began; 1 for the frame after it.
    frame:    (B, 3, H, W) as the caller has it, in host memory where that is so: to look at it costs a GPU no wait.
    seconds:  how long the last finished frame took; 0 if that is unknown.
    dropped:  frames that were dropped since the frame before.
    previous: what the model said of the frame before (a `Prediction`): its evidence is there, nothing waits for it.
              None where the frame before was passed over.
    """

    distance: int
    frame: Tensor
    seconds: float
    dropped: int
    previous: Any


class Decider(ABC):
    """Decides for one stream, frame by frame. It may remember what it has seen."""

    @abstractmethod
    def decide(self, clue: Clue) -> Decision:
        """What the next frame is to be."""


class Schedule(ABC):
    """A rule for key frames; `start` makes a decider of it for each stream.

    interval: frames from one key frame to the next, at most. None: there is no such bound, and so no number of frames
        that the work of a key frame could be spread over.
    renews: whether its deciders answer RENEW of their own accord.
    """

    interval: int | None = None
    renews = False

    @abstractmethod
    def start(self, first: Tensor) -> Decider:
        """A decider for a stream that begins with the frame `first` (B, 3, H, W), a key frame."""


def check_interval(interval: int) -> None:
    """ValueError for an interval of less than 1."""
    if interval < 1:
        raise ValueError(f"interval {interval}: expected 1 (every frame is a key frame) or more")


@dataclass(frozen=True)
class FixedInterval(Schedule):
    """Every `interval`-th frame, from the first on. ValueError for less than 1."""

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
    """The first frame, and those frames after it that are named: for clips of which somebody has chosen them.

    frames: their numbers, counted from 0 for the first.
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
