"""Key frames when they are due."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from accel.playing.adaptive import BURST, Adaptive
from accel.playing.player import Player
from accel.playing.schedules import Decision

STILL = torch.zeros(1, 3, 36, 64, dtype=torch.uint8)


class Fading:
    """A model of which less holds with every frame: by so much as the frame's brightness says."""

    def key_frame(self, image, state=None):
        return SimpleNamespace(fresh=None), 1.0

    def next_frame(self, image, state):
        left = state * (1 - float(image.float().mean()) / 255)
        return SimpleNamespace(fresh=torch.tensor([left])), left


def keys(schedule, brightness, seconds=None):
    player, found = Player(Fading(), schedule), []
    for value in brightness:
        before = 0.0 if seconds is None or not found else seconds[found[-1]]
        found.append(player.step(STILL + value, seconds=before).is_key)
    return np.array(found)


@pytest.mark.parametrize("every", [3, 8, 20])
@pytest.mark.parametrize("value", [2, 10, 40])
def test_on_average_there_are_as_many_key_frames_as_the_budget_allows(every, value):
    found = keys(Adaptive(every, likeness=0), [value] * 1200)
    assert found[200:].mean() == pytest.approx(1 / every, rel=0.3)
    assert (found.cumsum() <= np.arange(1200) / every + BURST + 2).all()


def test_restless_parts_get_more_of_them():
    brightness = ([5] * 100 + [50] * 100) * 6
    found = keys(Adaptive(10, likeness=0), brightness)
    restless = np.array(brightness) == 50
    assert found[200:].mean() == pytest.approx(0.1, rel=0.25)
    assert found[200:][restless[200:]].mean() > 1.5 * found[200:][~restless[200:]].mean()


def test_the_budget_may_be_a_time():
    found = keys(Adaptive(milliseconds=30, likeness=0), [20] * 1500, {True: 0.1, False: 0.02})
    assert found[500:].mean() == pytest.approx(1 / 8, rel=0.15)  # 0.1 / 8 + 0.02 * 7 / 8 = 0.03
    assert keys(Adaptive(milliseconds=500, likeness=0), [20] * 30, {True: 0.1, False: 0.02})[5:].all()


def test_without_signs_there_is_a_key_frame_now_and_then():
    found = np.flatnonzero(keys(Adaptive(5, likeness=0), [0] * 100))
    assert np.diff(found).max() == 20


def test_a_scene_cut_is_a_fresh_start_whatever_the_budget():
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.integers(0, 256, (1, 3, 72, 128), dtype=np.uint8)) for _ in range(2))
    player = Player(Fading(), Adaptive(50))
    decisions = [player.step(frame).decision for frame in (first, first, second, second, first)]
    fresh, current = Decision.AFRESH, Decision.CURRENT
    assert decisions == [fresh, current, fresh, current, fresh]


def test_budgets_that_there_are_not():
    with pytest.raises(ValueError, match=r"a key frame in 0\.5 frames: expected 1"):
        Adaptive(0.5)
    with pytest.raises(ValueError, match="0 ms a frame"):
        Adaptive(milliseconds=0)
    assert Adaptive(7.5).interval == 8


class Spreading(Fading):
    """As `Fading`, with key frames whose work can be spread."""

    def __init__(self):
        self.renewed = []

    def check_spreads_key_frames(self):
        pass

    def renew(self, state, frames):
        self.renewed.append(frames)
        return 1.0


def test_with_flat_latency_the_work_is_spread_over_a_budget():
    model = Spreading()
    player = Player(model, Adaptive(6.5, likeness=0), flat_latency=True)
    decisions = [player.step(STILL + 10).decision for _ in range(300)]
    assert decisions[0] is Decision.AFRESH and set(decisions[1:]) == {Decision.CURRENT, Decision.RENEW}
    assert set(model.renewed) == {7}
    assert decisions.count(Decision.RENEW) == pytest.approx(300 / 6.5, rel=0.3)
