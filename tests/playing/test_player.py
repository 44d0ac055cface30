"""The player: which call it makes of a model for each frame."""

import numpy as np
import pytest
import torch

from accel.models import VideoModel
from accel.models.prediction import Labels, Prediction
from accel.playing.player import Player
from accel.playing.schedules import Decider, Decision, FixedInterval, KeyFramesAt, Schedule


class Number(Prediction):
    def __init__(self, number):
        self.number = number

    def at(self, size):
        return Labels(torch.full((1, *size), self.number, dtype=torch.uint8))


class Noting(VideoModel):
    """Writes down how it is called; its state is the number of the frame."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def key_frame(self, image, state=None):
        return self._call("afresh" if state is None else "key", image, state)

    def next_frame(self, image, state):
        return self._call("next", image, state)

    def advance(self, image, state):
        return self._call("advance", image, state)[1]

    def renew(self, state, frames):
        self.calls.append(f"renew in {frames}")
        return state

    def check_spreads_key_frames(self):
        pass

    def _call(self, kind, image, state):
        number = int(image[0, 0, 0, 0])
        assert state in (None, number - 1)
        self.calls.append(f"{kind} {number}")
        return Number(number), number


def frame(number, size=(4, 6)):
    return torch.full((1, 3, *size), number, dtype=torch.uint8)


def play(player, count):
    return [player.step(frame(number)) for number in range(count)]


def test_every_nth_frame_is_a_key_frame():
    model = Noting()
    steps = play(Player(model, FixedInterval(3)), 7)
    assert model.calls == ["afresh 0", "next 1", "next 2", "key 3", "next 4", "next 5", "key 6"]
    assert [step.distance for step in steps] == [0, 1, 2, 0, 1, 2, 0]
    assert [step.is_key for step in steps] == [True, False, False, True, False, False, True]
    assert [step.prediction.number for step in steps] == [*range(7)]


def test_with_flat_latency_key_frames_that_are_due_are_spread():
    model = Noting()
    steps = play(Player(model, FixedInterval(2), flat_latency=True), 5)
    assert model.calls == ["afresh 0", "next 1", "next 2", "renew in 2", "next 3", "next 4", "renew in 2"]
    assert [step.distance for step in steps] == [0, 1, 0, 1, 0]


def test_at_interval_1_there_is_nothing_to_spread():
    model = Noting()
    play(Player(model, FixedInterval(1), flat_latency=True), 3)
    assert model.calls == ["afresh 0", "key 1", "key 2"]


def test_frames_may_be_passed_over():
    model = Noting()
    player = Player(model, KeyFramesAt((2, 4)))
    for number in range(6):
        player.skip(frame(number))
    assert model.calls == ["afresh 0", "advance 1", "key 2", "advance 3", "key 4", "advance 5"]


def test_another_size_or_a_new_start_begins_afresh():
    model = Noting()
    player = Player(model, FixedInterval(3))
    play(player, 2)
    player.step(frame(2, (8, 8)))
    player.step(frame(3, (8, 8)))
    player.start()
    player.step(frame(4, (8, 8)))
    assert model.calls == ["afresh 0", "next 1", "afresh 2", "next 3", "afresh 4"]


def test_a_decider_is_told_what_there_is_to_know():
    clues = []

    class Asked(Schedule, Decider):
        interval = 9

        def start(self, first):
            assert int(first[0, 0, 0, 0]) == 0
            return self

        def decide(self, clue):
            clues.append(clue)
            return [Decision.CURRENT, Decision.AFRESH, Decision.CURRENT][len(clues) - 1]

    player = Player(Noting(), Asked())
    player.step(frame(0))
    player.step(frame(1), seen=frame(1), seconds=0.5, dropped=2)
    player.step(frame(2))
    player.skip(frame(3))
    assert [clue.distance for clue in clues] == [1, 2, 1]
    assert (clues[0].seconds, clues[0].dropped) == (0.5, 2)
    assert [clue.previous.number for clue in clues] == [0, 1, 2]
    assert [int(clue.frame[0, 0, 0, 0]) for clue in clues] == [1, 2, 3]


def test_flat_latency_is_refused_with_the_call_that_prepares_the_model():
    from accel.config import parse_model
    from accel.models import build_model

    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    values = {"name": "deep_feature_flow", "num_classes": 5, "reference": branch, "flow": {"width": 1 / 16}}
    model = build_model(parse_model(values, "test")).eval()
    with pytest.raises(ValueError, match=r"flat latency needs .* model\.optimized\(parts=N\)"):
        Player(model, FixedInterval(3), flat_latency=True)
    size = (32, 48)
    cut = model.optimized(size, torch.float32, compile=False, parts=3)
    steps = [Player(cut, FixedInterval(3), flat_latency=True).step(torch.zeros(1, 3, *size)) for _ in range(2)]
    assert np.array_equal(*(step.prediction.at(size).labels for step in steps))
