"""The one loop that plays a model over the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
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
        return self._take(decision, *_called(self.model, decision, image, self._state))

    def _take(self, decision: Decision, prediction: Any, state: Any) -> Step:
        """Go on from what the model said of a frame."""
        self._state = state
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


def _called(model: Playable, decision: Decision, image: Tensor, state: Any) -> tuple[Any, Any]:
    """Return what a model says of a frame, and its new state."""
    if decision is Decision.AFRESH:
        return model.key_frame(image)
    if decision is Decision.KEY:
        return model.key_frame(image, state)
    return model.next_frame(image, state)


@dataclass(frozen=True)
class Arrival:
    """A frame of one of several streams, and what `Player.step` asks for beside it. player: the stream's."""

    player: Player
    image: Tensor
    seen: Tensor | None = None
    seconds: float = 0.0
    dropped: int = 0


def step_together(arrivals: Sequence[Arrival]) -> list[Step]:
    """Do what `Player.step` does on a frame each of several streams, with as few calls of their model as possible.

    All players have the same model. Frames of one size that are of the same kind, key or current, go through it as one
    batch. Frames of streams in the middle of a renewal go alone.
    """
    decisions = [
        each.player._decide(each.image, each.image if each.seen is None else each.seen, each.seconds, each.dropped)
        for each in arrivals
    ]
    groups: dict[tuple, list[int]] = {}
    for number, (each, decision) in enumerate(zip(arrivals, decisions, strict=True)):
        renews = decision is Decision.RENEW or getattr(each.player._state, "pending", None) is not None
        key = (number,) if renews else (decision, each.image.shape, each.player._state is None)
        groups.setdefault(key, []).append(number)
    steps: dict[int, Step] = {}
    for members in groups.values():
        players, decision = [arrivals[number].player for number in members], decisions[members[0]]
        if len(members) == 1:
            (player,), image = players, arrivals[members[0]].image
            steps[members[0]] = player._take(decision, *_called(player.model, decision, image, player._state))
            continue
        images = torch.cat([arrivals[number].image for number in members])
        state = None if decision is Decision.AFRESH else _joined([player._state for player in players])
        prediction, state = _called(players[0].model, decision, images, state)
        shared = _SharedPrediction(prediction)
        for place, (number, player) in enumerate(zip(members, players, strict=True)):
            steps[number] = player._take(decision, _OneOfBatch(shared, place), _row(state, place))
    return [steps[number] for number in range(len(arrivals))]


def _joined(states: Sequence[Any]) -> Any:
    """Return one state of a batch from those of its streams: tensors, and what consists of them."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: _joined([getattr(state, name) for state in states]) for name in names})
    if isinstance(first, tuple):
        return tuple(_joined(parts) for parts in zip(*states, strict=True))
    assert all(state == first for state in states), "what is no tensor is the same for all streams"
    return first


def _row(state: Any, place: int) -> Any:
    """Return the state of one stream from that of a batch."""
    if isinstance(state, Tensor):
        return state[place : place + 1]
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{field.name: _row(getattr(state, field.name), place) for field in fields(state)})
    if isinstance(state, tuple):
        return tuple(_row(part, place) for part in state)
    return state


class _SharedPrediction:
    """The prediction for a batch, brought to frame size once."""

    def __init__(self, prediction: Any):
        self.prediction = prediction
        self._made: dict[tuple, NamedTuple] = {}

    def made(self, how: str, size: tuple[int, int]) -> NamedTuple:
        if (how, size) not in self._made:
            self._made[how, size] = getattr(self.prediction, how)(size)
        return self._made[how, size]


@dataclass(frozen=True)
class _OneOfBatch:
    """The prediction for one frame of a batch; see `accel.models.prediction.Prediction`."""

    shared: _SharedPrediction
    place: int

    def at(self, size: tuple[int, int]) -> NamedTuple:
        return self._of(self.shared.made("at", size))

    def with_confidence_at(self, size: tuple[int, int]) -> NamedTuple:
        return self._of(self.shared.made("with_confidence_at", size))

    def _of(self, tensors: NamedTuple) -> NamedTuple:
        made: Any = type(tensors)
        return made(*(tensor[self.place : self.place + 1] for tensor in tensors))
