"""Optimised detectors find what the others find."""

import pytest
import torch
from small_detectors import CLASSES, shallow_detector, small_detector, small_faster_detector
from small_models import clip_of

from accel.models.detection.rfcn import SimplifiedRFCN

SIZE = (58, 75)


def found(model, clip):
    said, state = model.key_frame(clip[:, 0])
    frames = [said]
    for image in clip[:, 1:].unbind(1):
        said, state = model.next_frame(image, state)
        frames.append(said)
    return frames


@pytest.mark.parametrize("name", ["frame_by_frame", "deep_feature_flow", "faster", "shallow, compiled"])
@torch.no_grad()
def test_it_gives_the_same_detections(name):
    compiled = name == "shallow, compiled"
    model = shallow_detector() if compiled else small_faster_detector() if name == "faster" else small_detector(name)
    fast = model.optimized(SIZE, dtype=torch.float32, compile=compiled)
    clip = clip_of(SIZE, 3)
    for ours, expected in zip(found(fast, clip), found(model, clip), strict=True):
        torch.testing.assert_close(ours.regions, expected.regions, rtol=0, atol=5e-3)
        torch.testing.assert_close(ours.probabilities, expected.probabilities, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.deltas, expected.deltas, rtol=0, atol=1e-4)
        ours, expected = ours.at(SIZE), expected.at(SIZE)
        assert torch.equal(ours.count, expected.count) and torch.equal(ours.classes, expected.classes)
        assert expected.count > 2
        torch.testing.assert_close(ours.boxes, expected.boxes, rtol=0, atol=1e-2)


@pytest.mark.parametrize("make", [lambda: small_detector("deep_feature_flow"), small_faster_detector])
@torch.no_grad()
def test_it_is_near_in_bfloat16(make):
    model = make()
    fast = model.optimized(SIZE, dtype=torch.bfloat16, compile=False)
    clip = clip_of(SIZE, 2)
    (_, state), (_, exact) = fast.key_frame(clip[:, 0]), model.key_frame(clip[:, 0])
    assert state.anchor.features.dtype == torch.bfloat16
    spread = float(exact.anchor.features.std())
    torch.testing.assert_close(state.anchor.features.float(), exact.anchor.features, rtol=0, atol=0.1 * spread)
    said, _ = fast.next_frame(clip[:, 1], state)
    assert said.probabilities.dtype == torch.float32  # and so are the maps that decide


def test_boxes_of_the_background_are_not_worked_out():
    fast = small_detector("frame_by_frame").optimized(SIZE, dtype=torch.float32, compile=False)
    reference = fast.reference
    assert isinstance(reference, SimplifiedRFCN) and reference.simplified() is reference
    maps = reference.maps(torch.zeros(1, 16, 4, 5))
    assert maps.boxes.shape[1] == 4 * 49 and maps.classes.shape[1] == (1 + CLASSES) * 49


@torch.no_grad()
def test_a_key_frame_can_be_spread_over_frames():
    model = small_detector("deep_feature_flow")
    fast = model.optimized(SIZE, dtype=torch.float32, compile=False, parts=2)
    fast.check_spreads_key_frames()
    clip = clip_of(SIZE, 4)
    _, state = fast.key_frame(clip[:, 0])
    _, state = fast.next_frame(clip[:, 1], state)
    state = fast.renew(state, 2)
    _, state = fast.next_frame(clip[:, 2], state)
    said, _ = fast.next_frame(clip[:, 3], state)
    expected, _ = model.next_frame(clip[:, 3], model.key_frame(clip[:, 1])[1])
    torch.testing.assert_close(said.probabilities, expected.probabilities, rtol=0, atol=1e-4)
