"""The one loop that plays a model over the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from accel.playing.schedules import Clue, Decider, Decision, Schedule


class Playable(Protocol):
    """What a player asks of a model; `accel.models.VideoModel` says what each call means."""

    def key_frame(self, image: Tensor, state: Any = None) -> tuple[Any, Any]: ...

    def next_frame(self, image: Tensor, state: Any) -> tuple[Any, Any]: ...

    def advance(self, image: Tensor, state: Any) -> Any: ...

    def renew(self, state: Any, frames: int) -> Any: ...

    def check_spreads_key_frames(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """What a player did with a frame.

    prediction: what the model says of the frame.
    decision:   what the frame was.
    distance:   frames since the last key frame, or since the last renewal began; 0 on one of these.
    """

    prediction: Any
    decision: Decision
    distance: int

    @property
    def is_key(self) -> bool:
        """Whether the reference branch looks at this frame; in a renewal, whether its work begins with it."""
        return self.decision is not Decision.CURRENT


class Player:
    """Plays a model over a stream, frame by frame. `start` begins another stream.

    model: answers the two calls of a `VideoModel`.
    schedule: when to take a key frame. The first frame always is one, and so is one of another size than the frame
        before.
    flat_latency: spread the work of each key frame that is due over the `schedule.interval` frames after it, so that
        all frames take about the same time. The features of a key frame then come into use an interval later. Without
        effect at interval 1.

    Raises ValueError for `flat_latency` with a schedule that has no interval, and with a model that cannot spread the
    work, with the call that prepares one.
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
        """Forget the stream so far: the next frame is the first of another."""
        self._decider: Decider | None = None  # there is one as soon as there is a frame
        self._state: Any = None
        self._size: tuple[int, int] | None = None
        self._distance = 0
        self._previous: Any = None

    def step(self, image: Tensor, seen: Tensor | None = None, seconds: float = 0.0, dropped: int = 0) -> Step:
        """What the model says of the next frame (B, 3, H, W), on the model's device.

        seen: the same frame in host memory, where the caller has it: for the schedule to look at.
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
        """Go past the next frame (B, 3, H, W): nobody wants to know what the model says of it."""
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
