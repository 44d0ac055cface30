"""The streaming segmenter: every frame once, key frames by schedule."""

import numpy as np
import pytest
import torch

from accel.config import parse_model
from accel.inference.schedule import FixedInterval
from accel.inference.segmenter import Segmenter
from accel.models import build_model

BRANCH = {"encoder": "resnet18", "head_channels": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    values = {"name": "accel", "num_classes": 5, "reference": BRANCH, "update": BRANCH, "flow": {"width": 1 / 16}}
    return build_model(parse_model(values, "test")).eval()


def video(frames, size=(50, 70), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), np.uint8))


@pytest.mark.parametrize("interval", [1, 3, 99])
def test_a_stream_is_key_frames_and_what_follows(model, interval):
    frames = video(7)
    found = list(Segmenter(model, FixedInterval(interval)).stream(iter(frames)))
    assert [s.is_key for s in found] == [t % interval == 0 for t in range(7)]
    state = None
    for t, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        with torch.no_grad():
            scores, state = model.key_frame(image) if t % interval == 0 else model.next_frame(image, state)
        np.testing.assert_array_equal(segmented.labels, scores.labels((50, 70))[0].numpy())
        assert segmented.labels.dtype == np.uint8 and segmented.seconds > 0
        assert segmented.frame is frame


def test_a_frame_of_another_size_is_a_key_frame(model):
    frames = video(4) + video(4, (33, 40)) + video(2)
    found = list(Segmenter(model, FixedInterval(3)).stream(frames))
    assert [s.is_key for s in found] == [True, False, False, True] + [True, False, False, True] + [True, False]
    assert [s.labels.shape for s in found] == [f.shape[:2] for f in frames]


def test_frames_are_labelled_as_they_come(model):
    """A camera: the first labels are there before the second frame is."""
    arrived = []

    def camera():
        for frame in video(3):
            arrived.append(frame)
            yield frame

    stream = Segmenter(model, FixedInterval(2)).stream(camera())
    next(stream)
    assert len(arrived) == 1


def test_two_streams_do_not_disturb_each_other(model):
    segmenter = Segmenter(model, FixedInterval(4))
    a, b = video(4), video(4, seed=1)
    alone = [s.labels for s in segmenter.stream(a)]
    together = [s.labels for s, _ in zip(segmenter.stream(a), segmenter.stream(b), strict=True)]
    np.testing.assert_array_equal(alone, together)


def test_an_empty_stream_is_empty(model):
    assert list(Segmenter(model, FixedInterval(1)).stream([])) == []


def read_only(frame):
    frame.flags.writeable = False
    return frame


@pytest.mark.parametrize("view", [lambda f: f[:, ::-1], lambda f: f[..., ::-1], np.asfortranarray, read_only])
def test_frames_may_be_views_of_other_arrays(model, view, recwarn):
    """OpenCV's BGR turned round is one; decoders hand out read-only ones."""
    frame = view(video(1)[0])
    (found,) = Segmenter(model, FixedInterval(1)).stream([frame])
    (copied,) = Segmenter(model, FixedInterval(1)).stream([frame.copy()])
    np.testing.assert_array_equal(found.labels, copied.labels)
    assert not recwarn.list


@pytest.mark.parametrize("interval", [0, -3])
def test_a_schedule_without_key_frames_is_refused(interval):
    with pytest.raises(ValueError, match=f"interval {interval}: expected 1"):
        FixedInterval(interval)
