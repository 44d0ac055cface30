"""The common base of all video sources: frames with their places, one iteration at a time, and reports of damage."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np

OnDamage = Callable[[str], None]
Self = TypeVar("Self", bound="VideoReader")
T = TypeVar("T")


@dataclass(frozen=True)
class SourceFrame:
    """A frame with its place in its source.

    image: (H, W, 3) uint8 RGB.
    index: its number in the source, from 0. Unreadable frames have a number too.
    time: seconds from the start of the source at which it is shown. None: when it comes.
    """

    image: np.ndarray
    index: int
    time: float | None = None


class VideoReader(ABC):
    """The frames of one video, oldest first: `for frame in reader`, each (H, W, 3) uint8 RGB.

    `for frame in reader.frames()` gives each as a `SourceFrame`, with its place.

    name: a readable name of the video.
    fps: frames per second. None if unknown (some cameras and streams).
    live: whether frames come in real time, without waiting for a reader.
    size: (H, W) of every frame.
    len_hint: the approximate number of frames, for a progress bar. None if unknown.
    damaged: the number of damage reports in the iteration so far.
    missing: for a recording, the frames that could not be read in the iteration so far, as ranges of their numbers.

    on_damage: a function that is called with a one-line message about data that cannot be decoded, which are then
        skipped. None: damage raises ValueError with the same message.

    Only one iteration runs at a time. Starting another ends the one before and, for files, begins again at the first
    frame. An iteration may run in one thread and be closed from another, which then waits for the frame that is being
    read.
    """

    name: str
    fps: Fraction | float | None
    live: bool = False
    size: tuple[int, int]
    len_hint: int | None
    damaged: int = 0

    def __init__(self, name: str, on_damage: OnDamage | None) -> None:
        self.name = name
        self.missing: list[range] = []
        self._on_damage = on_damage
        self._running: _Iteration | None = None

    @abstractmethod
    def _frames(self) -> Generator[SourceFrame, None, None]:
        """Yield all frames. The generator frees everything it opened when it is closed."""

    def frame_name(self, index: int) -> str:
        """Return the name of frame number `index`, for files about it: the number, or that of its own file."""
        return f"{index:06d}"

    def frames(self) -> Iterator[SourceFrame]:
        """Return an iterator over the frames with their places."""
        return self._begin(lambda frame: frame)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._begin(lambda frame: frame.image)

    def _begin(self, each: Callable[[SourceFrame], T]) -> Iterator[T]:
        self._end_iteration()
        self.damaged = 0
        self.missing = []
        self._running = _Iteration(self._frames(), each)
        return self._running

    def close(self) -> None:
        """End the current iteration, if there is one, and free its file."""
        self._end_iteration()

    def _end_iteration(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(self, message: str, cause: Exception | None = None) -> None:
        self.damaged += 1
        if self._on_damage is None:
            raise ValueError(message) from cause
        self._on_damage(message)

    def _place(self, index: int, expected: int) -> int:
        """Record which frames are missing, now that number `index` comes instead of `expected`. Return the next
        expected number."""
        if self.live:  # it may go on for ever
            return index + 1
        if index > expected:
            self.missing.append(range(expected, index))
        elif index < expected:  # it comes late
            self.missing = [part for gap in self.missing for part in _without(gap, index)]
        return max(index + 1, expected)


def _without(gap: range, index: int) -> list[range]:
    if index not in gap:
        return [gap]
    return [part for part in (range(gap.start, index), range(index + 1, gap.stop)) if part]


class _Iteration(Generic[T]):
    """A generator that one thread may close while another runs it. It closes between two frames."""

    def __init__(self, frames: Generator[SourceFrame, None, None], each: Callable[[SourceFrame], T]) -> None:
        self._frames, self._each = frames, each
        self._lock = threading.RLock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return self._each(next(self._frames))

    def close(self) -> None:
        with self._lock:
            self._frames.close()
