"""Choose the key frames of training clips, besides the first frame."""

from __future__ import annotations

import numpy as np

SHARE = 0.5  # of the steps that have a second key frame
_STREAM = 1  # tells these draws from others of the same seed and step


def refreshed_frames(remembers: bool, length: int, seed: int, step: int) -> tuple[int, ...]:
    """Return the frames after the first that are key frames too, for the clips of one step. The first frame has number
    0.

    remembers: whether the model builds key frames on earlier ones (`VideoModel.remembers`), which it has to learn.
    length: the number of frames of the clips.

    In half of the steps it is one frame between the first and the last. The last frame, which has the labels, is always
    a current frame, so that everything that makes a current frame is trained at every step. The result depends only on
    seed and step. It is the same on all devices, and in a resumed run.
    """
    if not remembers or length < 3:
        return ()
    random = np.random.default_rng((seed, step, _STREAM))
    return (int(random.integers(1, length - 1)),) if random.random() < SHARE else ()
