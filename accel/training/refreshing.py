"""Which frames of training clips are key frames, besides the first."""

from __future__ import annotations

import numpy as np

SHARE = 0.5  # of the steps that have a second key frame
_STREAM = 1  # tells these draws from others of the same seed and step


def refreshed_frames(remembers: bool, length: int, seed: int, step: int) -> tuple[int, ...]:
    """The frames of a step's clips after the first, counted from 0 for the first, that are key frames too.

    remembers: whether the model builds key frames on those before (`VideoModel.remembers`), which it has to learn.
    length: frames of the clips.

    In half of the steps it is one of those between the first and the last: the last frame, whose labels count, always
    is a current frame, so that all that makes one learns at every step. A function of seed and step alone: the same on
    all devices, and for a run that is resumed.
    """
    if not remembers or length < 3:
        return ()
    random = np.random.default_rng((seed, step, _STREAM))
    return (int(random.integers(1, length - 1)),) if random.random() < SHARE else ()
