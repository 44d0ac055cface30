"""Frames brought to the size that a detector has learned on, and boxes brought back."""

import cv2
import numpy as np
import pytest
import torch
from small_detectors import small_detector, small_reference
from small_models import clip_of, enlivened

from accel.config.sections import RfcnLossConfig
from accel.inference.segmenter import Segmenter
from accel.models import FrameByFrame, build_published
from accel.models.detection.resizing import Resizing
from accel.playing.schedules import FixedInterval
from accel.tasks import build_task

SIZES = {  # frames to what the release makes of them
    (360, 480): (600, 800),
    (720, 1280): (562, 1000),  # 562.5, which Python and OpenCV round to the even number
    (1080, 1920): (562, 1000),
    (500, 333): (901, 600),
    (600, 1000): (600, 1000),
    (300, 500): (600, 1000),
    (100, 900): (111, 1000),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_frames_become_what_the_release_makes_of_them(size):
    resizing = Resizing()
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 2)
    scale = 600 / min(size)
    if round(scale * max(size)) > 1000:
        scale = 1000 / max(size)
    expected = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    assert resizing.size(size) == expected.shape[:2] == SIZES[size] and resizing.scale(size) == scale
    made = resizing(torch.from_numpy(frame).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    difference = np.abs(made.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.15
    assert resizing.size(SIZES[size]) == SIZES[size]  # once is enough


def resized(name="deep_feature_flow", resizing=Resizing(64, 96)):  # noqa: B008
    model = small_detector(name)
    model.reference.resizing = resizing
    return model


@torch.no_grad()
def test_boxes_are_those_of_the_frame():
    clip = clip_of((40, 52), 3)
    model, plain = resized(), small_detector("deep_feature_flow")
    seen = [model.reference.resizing(image) for image in clip.unbind(1)]
    assert seen[0].shape[2:] == (64, 83)
    state = other = None
    for n, image in enumerate(clip.unbind(1)):
        said, state = model.next_frame(image, state) if n else model.key_frame(image)
        expected, other = plain.next_frame(seen[n], other) if n else plain.key_frame(seen[n])
        assert torch.equal(said.regions, expected.regions)
        torch.testing.assert_close(said.kept((40, 52))[0], expected.kept((64, 83))[0] / 1.6)
    assert state.image.shape[2:] == (64, 83)


@torch.no_grad()
@pytest.mark.parametrize("size", [None, (40, 52)], ids=["any size", "one size"])
def test_optimised_it_finds_the_same(size):
    model = resized()
    fast = model.optimized(size, dtype=torch.float32, compile=False, parts=2)
    frames = list(clip_of((40, 52), 5)[0].permute(0, 2, 3, 1).numpy())
    for flat in (False, True):
        found = list(Segmenter(fast, FixedInterval(2), flat_latency=flat).stream(frames))
        if flat:
            continue  # key frames come later there
        for ours, theirs in zip(found, Segmenter(model, FixedInterval(2)).stream(frames), strict=True):
            assert ours.prediction.count == theirs.prediction.count
            np.testing.assert_allclose(ours.prediction.boxes, theirs.prediction.boxes, rtol=0, atol=1e-2)


def test_truth_is_resized_with_the_frames():
    task = build_task("detection", ("a", "b", "c"), np.zeros((3, 3), np.uint8))
    frames, boxes = clip_of((40, 52), 1), torch.tensor([[[4.0, 5, 30, 33, 1], [0, 0, 0, 0, -1]]])
    model = resized("frame_by_frame")
    plain = enlivened(FrameByFrame(small_reference()))
    plain.load_state_dict(model.state_dict())
    losses = []
    for each, shown, truth in (
        (model, frames, boxes),
        (plain, model.reference.resizing(frames[:, 0])[:, None], boxes * torch.tensor([1.6, 1.6, 1.6, 1.6, 1])),
    ):
        torch.manual_seed(0)
        # The box along x ends elsewhere by the rounding of the width: 52 * 1.6 = 83.2.
        losses.append(task.objective(each, RfcnLossConfig(name="rfcn"))(shown, truth, None).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_published_detectors_see_frames_of_600_pixels():
    with torch.device("meta"):
        model = build_published("dff-rfcn")
    assert model.seen_size((720, 1280)) == (562, 1000)
    assert build_published("deeplab-18").seen_size((720, 1280)) == (720, 1280)
