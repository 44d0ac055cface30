"""Key frames in the middle of their segments, for recordings: half of the frames are nearer to one than when it comes
first. A stream cannot be played so, because key frames are looked at before the frames that lead to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from torch import Tensor

from accel.playing.player import Playable, Step
from accel.playing.schedules import Decision, check_interval


class Centrable(Playable, Protocol):
    """The calls that `play_centred` makes on a model. `accel.models.VideoModel` documents each of them."""

    @property
    def moves_on(self) -> bool: ...


def play_centred(model: Centrable, frames: Iterable[Tensor], interval: int) -> Iterator[Step]:
    """What a model says of the frames (B, 3, H, W) of a video, in order, with a key frame in each segment of `interval`
    frames: at interval / 2 - 1, rounded down, so 4, 14, 24, ... of 10; in a last segment that ends before it, its last
    frame (Jiang et al., LSTS, ECCV 2020, as in the authors' code).

    `Step.distance` is 0 on a key frame, and else how far it is away, on either side. As many frames are read ahead as a
    segment has.

    Raises ValueError for an interval of less than 1, for a model that carries motion from frame to frame, which cannot
    go back to a frame before its key frame, and for frames of two sizes.
    """
    check_interval(interval)
    if model.moves_on:
        raise ValueError(
            f"key frames in the middle of their segments: {type(model).__name__} carries features from frame to frame; "
            "expected a model that compares each frame with the key frame"
        )
    return _segments(model, iter(frames), interval)


def _segments(model: Centrable, frames: Iterator[Tensor], interval: int) -> Iterator[Step]:
    middle, state, size = max(interval // 2 - 1, 0), None, None
    while segment := list(islice(frames, interval)):
        for frame in segment:
            size = size or tuple(frame.shape[2:])
            if tuple(frame.shape[2:]) != size:
                raise ValueError(f"a frame of {tuple(frame.shape[2:])} among frames of {size}; expected one size")
        key = min(middle, len(segment) - 1)
        decision = Decision.AFRESH if state is None else Decision.KEY
        of_key, state = model.key_frame(segment[key], state)
        for number, frame in enumerate(segment):
            if number == key:
                yield Step(of_key, decision, 0)
            else:
                yield Step(model.next_frame(frame, state)[0], Decision.CURRENT, abs(number - key))
