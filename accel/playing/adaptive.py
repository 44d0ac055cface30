"""Key frames when they are due: when much of what is carried no longer holds, within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from accel.playing.scene_cuts import LIKENESS, is_cut, small_grey
from accel.playing.schedules import Clue, Decider, Decision, Schedule

GAIN = 0.01  # how far the threshold goes for a key frame too many, in shares of the frame
SETTLING = 3  # at first it goes farther, by 1 / SETTLING, and then less and less
BURST = 20.0  # key frames that may be taken ahead of the budget; at first as many as the budget had so far, and one
LONGEST = 4  # budgets without a key frame: then one is taken in any case
SMOOTH = 0.1  # weight of the newest time in the mean time of key and of current frames
FIRST = 0.9  # share of the frame that holds below which the first key frame is taken
FEWEST = 0.005  # key frames a frame, if the time allows next to none


@dataclass(frozen=True)
class Adaptive(Schedule):
    """A key frame when the model expects that many of the carried labels no longer hold, and at scene cuts.

    A model that was distilled with `model.adaptive` says, with the prediction for each current frame, how much of it is
    expected to hold (`ScoreMap.fresh`). A key frame follows when that is below a threshold. The threshold rises and
    falls so that key frames come as often as the budget allows: rarely in calm parts of a video, often in others.

    every: the budget: so many frames from one key frame to the next, on average.
    milliseconds: in place of `every`: the mean time of a frame that is wanted. `every` then counts until both kinds of
        frames have been timed.
    likeness: as in `SceneCuts`. 0: there are no cuts.

    Cuts are not counted in the budget. With flat latency, a key frame's work is spread over `every` frames.

    Raises ValueError for a budget of less than one frame, or of no time.
    """

    every: float = 8.0
    milliseconds: float | None = None
    likeness: float = LIKENESS

    def __post_init__(self) -> None:
        if not 1 <= self.every < math.inf:
            raise ValueError(f"a key frame in {self.every:g} frames: expected 1 or more")
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise ValueError(f"{self.milliseconds:g} ms a frame: expected more than 0")
        if not 0 <= self.likeness <= 1:
            raise ValueError(f"likeness {self.likeness}: expected 0 (there are no cuts) to 1")

    @property
    def interval(self) -> int:  # type: ignore[override] # of a schedule that does not change
        return math.ceil(self.every)

    def start(self, first: Tensor) -> Decider:
        return _Adapting(self, first)


class _Adapting(Decider):
    def __init__(self, schedule: Adaptive, first: Tensor):
        self.schedule = schedule
        self.last = small_grey(first) if schedule.likeness else None
        self.threshold, self.credit, self.frames = FIRST, 0.0, 0
        self.was_key = True
        self.seconds: dict[bool, float] = {}  # the mean time of key frames, and of current ones

    def decide(self, clue: Clue) -> Decision:
        self._time(clue.seconds)
        rate = self._rate()
        if self._is_cut(clue):
            self.was_key = True
            return Decision.AFRESH
        fresh = getattr(clue.previous, "fresh", None)
        share = 1.0 if fresh is None else float(fresh[0])
        self.credit = min(self.credit + rate, BURST)
        ahead = min(1 + self.frames * rate, BURST)
        due = clue.distance * rate >= LONGEST or (rate >= 1) or (share < self.threshold and self.credit > -ahead)
        # In the long run as many key frames as the budget has: each lowers the threshold, each frame without raises it.
        self.frames += 1
        gain = max(GAIN, 1 / (SETTLING + self.frames))
        self.threshold = min(max(self.threshold + gain * (rate - due), 0.0), 1.0)
        self.credit -= due
        self.was_key = due
        return Decision.KEY if due else Decision.CURRENT

    def _is_cut(self, clue: Clue) -> bool:
        if self.last is None:
            return False
        before, self.last = self.last, small_grey(clue.frame)
        return is_cut(before, self.last, self.schedule.likeness, clue.dropped)

    def _time(self, seconds: float) -> None:
        """Take note of the time of the frame before."""
        if seconds > 0:
            known = self.seconds.get(self.was_key, seconds)
            self.seconds[self.was_key] = known + SMOOTH * (seconds - known)

    def _rate(self) -> float:
        """Return how many key frames a frame the budget allows."""
        if self.schedule.milliseconds is None or len(self.seconds) < 2:
            return 1 / self.schedule.every
        key, current = self.seconds[True], self.seconds[False]
        wanted = self.schedule.milliseconds / 1000
        return min(max((wanted - current) / max(key - current, 1e-6), FEWEST), 1.0)
