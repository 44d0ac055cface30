"""Key frames where the picture changes: features of one scene are worth nothing in the next."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from accel.playing.schedules import Clue, Decider, Decision, Schedule, check_interval

SIZE = 54, 96  # (H, W) of the small frames that are compared
BLOCK = 12  # pixels of a small frame along the sides of a block that is looked for in the frame before
REACH = 10  # how far around its place it is looked for: a tenth of the frame's width a frame
TEXTURE = 6.0  # standard deviation of grey under which a block has nothing to be found by
# Measured: no pair of neighbours lies under 0.83 in the CamVid clip at 5 and at 15 frames/s and in 14 generated
# scenes; no pair of different scenes over 0.73 (682 pairs of CamVid and generated frames).
LIKENESS = 0.78
FLAT_CHANGE = 30.0  # grey levels by which frames without texture must differ


@dataclass(frozen=True)
class SceneCuts(Schedule):
    """A fresh start wherever the picture changes, and a key frame `every` so many frames in between.

    every: frames from one key frame to the next, at most.
    likeness: how much of a frame must be found again in the frame after it, 0..1: below that there is a cut. The
        default misses fades; frames of very low rate (under about 3 a second) may need less.

    Raises ValueError for `every` under 1 or a likeness outside 0..1.
    """

    every: int
    likeness: float = LIKENESS

    def __post_init__(self) -> None:
        check_interval(self.every)
        if not 0 <= self.likeness <= 1:
            raise ValueError(f"likeness {self.likeness}: expected 0 (there are no cuts) to 1")

    @property
    def interval(self) -> int:
        return self.every

    def start(self, first: Tensor) -> Decider:
        return _Watching(self, first)


class _Watching(Decider):
    def __init__(self, schedule: SceneCuts, first: Tensor):
        self.schedule = schedule
        self.last = small_grey(first)

    def decide(self, clue: Clue) -> Decision:
        before, self.last = self.last, small_grey(clue.frame)
        if likeness(before, self.last) < self.schedule.likeness:
            return Decision.AFRESH
        return Decision.KEY if clue.distance >= self.schedule.every else Decision.CURRENT


def small_grey(frame: Tensor) -> np.ndarray:
    """A frame (B, 3, H, W), uint8 or float in 0..255, of which the first of the batch counts, as a small grey picture
    of `SIZE`, uint8."""
    picture = frame[0].permute(1, 2, 0).cpu().numpy()
    picture = cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(picture.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def likeness(before: np.ndarray, after: np.ndarray) -> float:
    """How well the blocks of a small frame are found again in the one before, -1..1.

    It is the median, over all blocks with some texture, of the best correlation near the block's place. So what is
    hidden or new, motion and changes of light do not count as a change of scene.
    """
    found = []
    for top in range(0, SIZE[0] - BLOCK + 1, BLOCK):
        for left in range(0, SIZE[1] - BLOCK + 1, BLOCK):
            block = after[top : top + BLOCK, left : left + BLOCK]
            if block.std() < TEXTURE:
                continue
            around = before[max(top - REACH, 0) : top + BLOCK + REACH, max(left - REACH, 0) : left + BLOCK + REACH]
            found.append(float(cv2.matchTemplate(around, block, cv2.TM_CCOEFF_NORMED).max()))
    if found:
        return float(np.median(found))
    changed = abs(float(before.mean()) - float(after.mean())) > FLAT_CHANGE
    return 0.0 if changed or before.std() >= TEXTURE else 1.0  # a flat frame after a flat one, or after a picture
