"""Key frames in the middle of their segments."""

import pytest
import torch
from small_detectors import small_detector, small_sampling_detector
from small_models import clip_of, small

from accel.playing.centred import play_centred
from accel.playing.schedules import Decision

SIZE = (34, 50)


class Teller:
    """Says which frame it was shown, and which key frame it had. Frames are numbered by their value."""

    moves_on = False

    def key_frame(self, image, state=None):
        number = int(image[0, 0, 0, 0])
        return (number, number, state), number

    def next_frame(self, image, state):
        return (int(image[0, 0, 0, 0]), state), state + 1000


def numbered(count):
    return [torch.full((1, 3, 2, 2), float(n)) for n in range(count)]


def test_key_frames_are_4_14_24_and_the_last_one_of_a_short_end():
    steps = list(play_centred(Teller(), numbered(23), 10))
    assert [step.prediction[0] for step in steps] == list(range(23))
    assert [n for n, step in enumerate(steps) if step.is_key] == [4, 14, 22]
    assert [step.prediction[1] for step in steps] == [4] * 10 + [14] * 10 + [22] * 3
    assert [step.distance for step in steps] == [4, 3, 2, 1, 0, 1, 2, 3, 4, 5] * 2 + [2, 1, 0]
    assert steps[4].decision is Decision.AFRESH and steps[14].decision is Decision.KEY
    assert [steps[n].prediction[2] for n in (4, 14, 22)] == [None, 4, 14]  # key frames build on those before


@pytest.mark.parametrize(("interval", "keys"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (4, [1, 4])])
def test_short_intervals(interval, keys):
    assert [n for n, step in enumerate(play_centred(Teller(), numbered(5), interval)) if step.is_key] == keys


def test_no_more_than_a_segment_is_read_ahead():
    read = []

    def frames():
        for n, frame in enumerate(numbered(9)):
            read.append(n)
            yield frame

    played = play_centred(Teller(), frames(), 3)
    next(played)
    assert read == [0, 1, 2]
    assert list(play_centred(Teller(), [], 3)) == []


@torch.no_grad()
@pytest.mark.parametrize("make", [small_sampling_detector, lambda: small_detector("deep_feature_flow")])
def test_detectors_are_played_so(make):
    model, clip = make(), clip_of(SIZE, 5)
    steps = list(play_centred(model, clip.unbind(1), 4))
    of_key, state = model.key_frame(clip[:, 1])
    for n in (0, 2, 3):
        expected = model.next_frame(clip[:, n], state)[0]
        assert torch.equal(steps[n].prediction.probabilities, expected.probabilities)
    assert torch.equal(steps[1].prediction.probabilities, of_key.probabilities)
    last = model.key_frame(clip[:, 4], state)[0]
    assert torch.equal(steps[4].prediction.probabilities, last.probabilities)


class Walker(Teller):
    """Says how it came to a frame: the key frame, and all frames after it on the way."""

    moves_on = True

    def key_frame(self, image, state=None):
        number = int(image[0, 0, 0, 0])
        return [number], [number]

    def next_frame(self, image, state):
        path = [*state, int(image[0, 0, 0, 0])]
        return path, path


def test_features_that_go_from_frame_to_frame_go_on_in_both_directions():
    steps = list(play_centred(Walker(), numbered(7), 5, kept=tuple))
    assert [step.prediction for step in steps] == [(1, 0), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (6, 5), (6,)]
    assert [step.distance for step in steps] == [1, 0, 1, 2, 3, 1, 0]


@torch.no_grad()
def test_a_model_with_flow_is_played_so():
    model, clip = small("accel"), clip_of(SIZE, 4)
    steps = list(play_centred(model, clip.unbind(1), 4))
    of_key, state = model.key_frame(clip[:, 1])
    before, after = (model.next_frame(clip[:, n], state) for n in (0, 2))
    last = model.next_frame(clip[:, 3], after[1])[0]
    for step, expected in zip(steps, (before[0], of_key, after[0], last), strict=True):
        assert torch.equal(step.prediction.scores, expected.scores)


def test_what_cannot_be_played_so_is_told():
    with pytest.raises(ValueError, match="interval 0: expected 1"):
        play_centred(Teller(), [], 0)
    with pytest.raises(ValueError, match=r"a frame of \(3, 3\) among frames of \(2, 2\)"):
        list(play_centred(Teller(), [*numbered(1), torch.zeros(1, 3, 3, 3)], 2))
