"""The one loop that plays a model over the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from accel.playing.schedules import Clue, Decider, Decision, Schedule


class Playable(Protocol):
    """The calls that a player makes on a model. `accel.models.VideoModel` documents each of them."""

    def key_frame(self, image: Tensor, state: Any = None) -> tuple[Any, Any]: ...

    def next_frame(self, image: Tensor, state: Any) -> tuple[Any, Any]: ...

    def advance(self, image: Tensor, state: Any) -> Any: ...

    def renew(self, state: Any, frames: int) -> Any: ...

    def check_spreads_key_frames(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """The result of a player's step on one frame.

    prediction: the model's prediction for the frame.
    decision: what the frame was.
    distance: the number of frames since the last key frame, or since the last renewal began. It is 0 on such a frame.
    """

    prediction: Any
    decision: Decision
    distance: int

    @property
    def is_key(self) -> bool:
        """True if the reference branch runs on this frame. With a renewal: if its work begins with this frame."""
        return self.decision is not Decision.CURRENT


class Player:
    """Play a model over a stream, frame by frame. `start` begins another stream.

    model: a model with the two calls of a `VideoModel`.
    schedule: the rule for key frames. The first frame is always a key frame. So is a frame whose size differs from that
        of the frame before.
    flat_latency: whether to spread the work of each key frame that is due over the `schedule.interval` frames after it.
        All frames then take about the same time, and the features of a key frame come into use one interval later. This
        has no effect at interval 1.

    Raises ValueError for `flat_latency` with a schedule that has no interval, or with a model that cannot spread the
    work. The message names the call that prepares such a model.
    """

    def __init__(self, model: Playable, schedule: Schedule, flat_latency: bool = False):
        self.model, self.schedule = model, schedule
        if (flat_latency or schedule.renews) and schedule.interval is None:
            raise ValueError(f"flat latency needs a schedule with an interval, and {type(schedule).__name__} has none")
        self.spreads = flat_latency and (schedule.interval or 1) > 1
        if self.spreads or schedule.renews:
            model.check_spreads_key_frames()
        self.start()

    def start(self) -> None:
        """Forget the stream so far. The next frame is the first of another stream."""
        self._decider: Decider | None = None  # there is one as soon as there is a frame
        self._state: Any = None
        self._size: tuple[int, int] | None = None
        self._distance = 0
        self._previous: Any = None

    def step(self, image: Tensor, seen: Tensor | None = None, seconds: float = 0.0, dropped: int = 0) -> Step:
        """Run the model on the next frame (B, 3, H, W), which is on the model's device.

        seen: the same frame in host memory, if the caller has it. The schedule looks at it.
        seconds, dropped: see `Clue`.
        """
        decision = self._decide(image, image if seen is None else seen, seconds, dropped)
        if decision is Decision.AFRESH:
            prediction, self._state = self.model.key_frame(image)
        elif decision is Decision.KEY:
            prediction, self._state = self.model.key_frame(image, self._state)
        else:
            prediction, self._state = self.model.next_frame(image, self._state)
        self._begin_renewal(decision)
        self._previous = prediction
        return Step(prediction, decision, self._distance)

    def skip(self, image: Tensor) -> None:
        """Skip the next frame (B, 3, H, W): update the state without a prediction."""
        decision = self._decide(image, image, 0.0, 0)
        if decision is Decision.AFRESH:
            _, self._state = self.model.key_frame(image)
        elif decision is Decision.KEY:
            _, self._state = self.model.key_frame(image, self._state)
        else:
            self._state = self.model.advance(image, self._state)
        self._begin_renewal(decision)
        self._previous = None

    def _decide(self, image: Tensor, seen: Tensor, seconds: float, dropped: int) -> Decision:
        size = image.shape[2], image.shape[3]
        if self._decider is None or size != self._size:
            self.start()
            self._size = size
            self._decider = self.schedule.start(seen)
            return Decision.AFRESH
        self._distance += 1
        decision = self._decider.decide(Clue(self._distance, seen, seconds, dropped, self._previous))
        if decision is Decision.KEY and self.spreads:
            decision = Decision.RENEW
        if decision is not Decision.CURRENT:
            self._distance = 0
        return decision

    def _begin_renewal(self, decision: Decision) -> None:
        if decision is Decision.RENEW:
            assert self.schedule.interval is not None, "checked when the player was made"
            self._state = self.model.renew(self._state, self.schedule.interval)
