"""Key frames in the middle of their segments, for recordings: half of the frames are nearer to one than when it comes
first. A stream cannot be played so, because key frames are looked at before the frames that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from torch import Tensor

from accel.playing.player import Playable, Step
from accel.playing.schedules import Decision, check_interval


class Centrable(Playable, Protocol):
    """The calls that `play_centred` makes on a model. `accel.models.VideoModel` documents each of them."""

    @property
    def moves_on(self) -> bool: ...


def play_centred(
    model: Centrable,
    frames: Iterable[Tensor],
    interval: int,
    kept: Callable[[Any], Any] = lambda said: said,
) -> Iterator[Step]:
    """What a model says of the frames (B, 3, H, W) of a video, in order, with a key frame in each segment of `interval`
    frames: at interval / 2 - 1, rounded down, so 4, 14, 24, ... of 10; in a last segment that ends before it, its last
    frame (Jiang et al., LSTS, ECCV 2020, as in the authors' code).

    `Step.distance` is 0 on a key frame, and else how far it is away, on either side. As many frames are read ahead as a
    segment has.

    kept: turns each prediction, as soon as it is made, into what the steps hold as `prediction`: such as labels, which
        take less memory than scores.

    A model that carries features from frame to frame goes on from the key frame in both directions. What it says of the
    frames before the key frame is kept until they are due, so as many predictions as half a segment has.

    Raises ValueError for an interval of less than 1, and for frames of two sizes.
    """
    check_interval(interval)
    return _segments(model, iter(frames), interval, kept)


def _segments(model: Centrable, frames: Iterator[Tensor], interval: int, kept: Callable[[Any], Any]) -> Iterator[Step]:
    middle, state, size = max(interval // 2 - 1, 0), None, None
    while segment := list(islice(frames, interval)):
        for frame in segment:
            size = size or tuple(frame.shape[2:])
            if tuple(frame.shape[2:]) != size:
                raise ValueError(f"a frame of {tuple(frame.shape[2:])} among frames of {size}; expected one size")
        key = min(middle, len(segment) - 1)
        decision = Decision.AFRESH if state is None else Decision.KEY
        prediction, state = model.key_frame(segment[key], state)
        of_key = kept(prediction)
        yield from _before(model, segment[:key], state, kept)
        yield Step(of_key, decision, 0)
        last = state
        for distance, frame in enumerate(segment[key + 1 :], 1):
            prediction, moved = model.next_frame(frame, last)
            if model.moves_on:
                last = moved
            yield Step(kept(prediction), Decision.CURRENT, distance)


def _before(model: Centrable, frames: list[Tensor], state: Any, kept: Callable[[Any], Any]) -> Iterator[Step]:
    """Yield the steps of the frames before a key frame, in the order of time. state: that of the key frame."""
    if not model.moves_on:
        for number, frame in enumerate(frames):
            yield Step(kept(model.next_frame(frame, state)[0]), Decision.CURRENT, len(frames) - number)
        return
    backward = []
    for frame in reversed(frames):
        prediction, state = model.next_frame(frame, state)
        backward.append(kept(prediction))
    for distance in range(len(backward), 0, -1):
        yield Step(backward[distance - 1], Decision.CURRENT, distance)
