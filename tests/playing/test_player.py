"""The player: which call it makes of a model for each frame."""

import pytest
import torch
from small_models import small

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
    model = small("deep_feature_flow").eval()
    with pytest.raises(ValueError, match=r"flat latency needs .* model\.optimized\(parts=N\)"):
        Player(model, FixedInterval(3), flat_latency=True)
    Player(model.optimized((32, 48), torch.float32, compile=False, parts=3), FixedInterval(3), flat_latency=True)


@torch.no_grad()
def test_flat_latency_renews_as_one_would_by_hand():
    size, interval = (32, 48), 3
    model = small("deep_feature_flow").eval().optimized(size, torch.float32, compile=False, parts=interval)
    frames = torch.rand(2 * interval + 2, 1, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    player = Player(model, FixedInterval(interval), flat_latency=True)
    played = [player.step(frame).prediction.scores for frame in frames]
    said, state = model.key_frame(frames[0])
    by_hand = [said.scores]
    for number in range(1, len(frames)):
        said, state = model.next_frame(frames[number], state)
        by_hand.append(said.scores)
        if number % interval == 0:
            state = model.renew(state, interval)
    assert all(torch.equal(a, b) for a, b in zip(played, by_hand, strict=True))
    plain = Player(model, FixedInterval(100))
    never_renewed = [plain.step(frame).prediction.scores for frame in frames]
    same = [torch.equal(a, b) for a, b in zip(played, never_renewed, strict=True)]
    assert same == [True] * (2 * interval) + [False] * 2  # the features of frame 3 come into use with frame 6


@torch.no_grad()
def test_a_cut_during_a_renewal_throws_it_away():
    size = (32, 48)
    model = small("deep_feature_flow").eval().optimized(size, torch.float32, compile=False, parts=2)
    frames = torch.rand(8, 1, 3, *size, generator=torch.Generator().manual_seed(1)) * 255

    class CutAtFour(Schedule, Decider):
        interval = 2

        def start(self, first):
            self.number = 0
            return self

        def decide(self, clue):
            self.number += 1
            return {2: Decision.KEY, 4: Decision.AFRESH}.get(self.number, Decision.CURRENT)

    player = Player(model, CutAtFour(), flat_latency=True)
    played = [player.step(frame) for frame in frames]
    assert [step.decision for step in played[2:5]] == [Decision.RENEW, Decision.CURRENT, Decision.AFRESH]
    fresh = Player(model, FixedInterval(100))
    for step, frame in zip(played[4:], frames[4:], strict=True):
        assert torch.equal(step.prediction.scores, fresh.step(frame).prediction.scores)


def test_what_cannot_be_spread_is_refused_before_the_first_frame():
    class Renewing(FixedInterval):
        renews = True

    with pytest.raises(ValueError, match="flat latency needs a schedule with an interval, and KeyFramesAt has none"):
        Player(Noting(), KeyFramesAt((2,)), flat_latency=True)
    with pytest.raises(ValueError, match=r"model\.optimized\(parts=N\)"):
        Player(small("deep_feature_flow").eval(), Renewing(3))


def test_a_model_that_cannot_renew_is_refused_in_its_fast_form_too():
    class Plain(VideoModel):
        def key_frame(self, image, state=None):
            return Number(0), 0

        def next_frame(self, image, state):
            return Number(0), 0

    with pytest.raises(ValueError, match="Plain cannot spread a key frame's work over several frames"):
        Player(Plain().optimized(parts=3, compile=False), FixedInterval(3), flat_latency=True)
    Player(small("deep_feature_flow").eval().optimized(parts=3, compile=False), FixedInterval(3), flat_latency=True)
