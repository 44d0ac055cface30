"""From which frame to which features are carried, and what becomes of work that is spread over frames."""

import pytest
import torch
from colour_cells import Cells
from small_models import CLASSES
from torch import nn

from accel.models import DeepFeatureFlow, DeepLab, FlowWarp
from accel.models.images import subtract_mean
from accel.models.propagation.flow_warp import ScaledFlowWarp
from accel.models.propagation.routes import FrameToFrame, KeyToCurrent


class Shift(nn.Module):
    """The flow between two frames that carry their place in red: whole cells to the right, for each unit between."""

    def forward(self, current, previous):
        moved = (current - previous)[:, :1, ::16, ::16]
        return torch.cat([moved, torch.zeros_like(moved)], 1)


class Fading(Shift):
    """And a scale: half for each unit between, in the second of three channels alone."""

    def forward(self, current, previous):
        flow = super().forward(current, previous)
        scale = torch.ones_like(flow[:, :1]).repeat(1, 3, 1, 1)
        scale[:, 1] = 0.5 ** flow[:, 0]
        return flow, scale


def film(*places):
    """Frames of noise (1, 3, 64, 160) whose red says where they are."""
    frames = torch.rand(len(places), 1, 3, 64, 160, generator=torch.Generator().manual_seed(0)) * 255
    for frame, place in zip(frames, places, strict=True):
        frame[:, 0] = place
    return frames


def dff(propagation):
    torch.manual_seed(0)
    return DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), propagation).eval()


def shifted(features, cells):
    """What is `cells` to the right comes here; outside there is nothing."""
    return nn.functional.pad(features[..., cells:], (0, cells))


def key_features(model, image):
    return model.key_frame(image)[1].anchor.features


def scores(model, features):
    return model.reference.predict(features).scores


@pytest.mark.parametrize("route", [FrameToFrame(), KeyToCurrent()], ids=lambda route: type(route).__name__)
@torch.no_grad()
def test_both_routes_come_to_the_same_place(route):
    model, frames = dff(FlowWarp(Shift(), route)), film(0, 1, 3, 4)
    said, state = model.key_frame(frames[0])
    for image, place in zip(frames[1:], (1, 3, 4), strict=True):
        said, state = model.next_frame(image, state)
        expected = scores(model, shifted(key_features(model, frames[0]), place))
        torch.testing.assert_close(said.scores, expected)


@torch.no_grad()
def test_straight_from_the_key_frame_what_left_the_frame_may_come_back():
    """From frame to frame it is lost at the border."""
    found = {}
    for route in (FrameToFrame(), KeyToCurrent()):
        model, frames = dff(FlowWarp(Shift(), route)), film(0, 4, 0)
        said, state = model.key_frame(frames[0])
        for image in frames[1:]:
            said, state = model.next_frame(image, state)
        found[type(route)] = said.scores
    whole = scores(model, key_features(model, frames[0]))
    torch.testing.assert_close(found[KeyToCurrent], whole)
    assert not torch.allclose(found[FrameToFrame], whole)


@torch.no_grad()
def test_frames_in_between_are_passed_over_at_no_cost_straight_from_the_key_frame():
    model, frames = dff(FlowWarp(Shift(), KeyToCurrent())), film(0, 1, 3, 4)
    _, state = model.key_frame(frames[0])
    flow, model.propagation.flow = model.propagation.flow, None  # not to be called
    for image in frames[1:3]:
        state = model.advance(image, state)
    model.propagation.flow = flow
    said, _ = model.next_frame(frames[3], state)
    torch.testing.assert_close(said.scores, scores(model, shifted(key_features(model, frames[0]), 4)))


class Remembering(FlowWarp):
    """Its memory is a map of its own, and counts for the next key frame."""

    remembers = True

    def update(self, memory, features):
        return features + memory, 1000 * features


@torch.no_grad()
def test_from_frame_to_frame_the_memory_goes_along():
    model, frames = dff(Remembering(Shift(), FrameToFrame())), film(0, 1, 3, 4)
    raw = [model.reference.features(subtract_mean(frame)) for frame in frames]
    _, state = model.key_frame(frames[0])
    _, state = model.key_frame(frames[1], state)
    torch.testing.assert_close(state.anchor.memory, 1000 * raw[1])
    _, state = model.next_frame(frames[2], state)
    said, _ = model.key_frame(frames[3], state)
    torch.testing.assert_close(said.scores, scores(model, raw[3] + shifted(1000 * raw[1], 2)))


@pytest.mark.parametrize("step", ["next_frame", "advance"])
@pytest.mark.parametrize("route", [FrameToFrame(), KeyToCurrent()], ids=lambda route: type(route).__name__)
@torch.no_grad()
def test_renewed_features_come_from_their_own_frame(route, step):
    model, frames = dff(FlowWarp(Shift(), route)), film(0, 1, 3, 4, 6)
    _, state = model.key_frame(frames[0])
    _, state = model.next_frame(frames[1], state)
    state = model.renew(state, 2)
    if step == "advance":
        state = model.advance(frames[3], model.advance(frames[2], state))
    else:
        early, state = model.next_frame(frames[2], state)
        torch.testing.assert_close(early.scores, scores(model, shifted(key_features(model, frames[0]), 3)))
        late, state = model.next_frame(frames[3], state)
        torch.testing.assert_close(late.scores, scores(model, shifted(key_features(model, frames[1]), 3)))
    assert state.pending is None
    said, _ = model.next_frame(frames[4], state)
    torch.testing.assert_close(said.scores, scores(model, shifted(key_features(model, frames[1]), 5)))


@pytest.mark.parametrize("route", [FrameToFrame(), KeyToCurrent()], ids=lambda route: type(route).__name__)
@torch.no_grad()
def test_a_renewal_during_a_renewal_loses_nothing(route):
    """The first one is finished at once, and its frame's features count until those of the second are there."""
    model, frames = dff(FlowWarp(Shift(), route)), film(0, 1, 2, 3, 4, 5)
    _, state = model.key_frame(frames[0])
    state = model.next_frame(frames[1], state)[1]
    state = model.renew(state, 4)  # of frame 1
    state = model.next_frame(frames[2], state)[1]
    state = model.renew(state, 2)  # of frame 2
    said, state = model.next_frame(frames[3], state)
    torch.testing.assert_close(said.scores, scores(model, shifted(key_features(model, frames[1]), 2)))
    said, state = model.next_frame(frames[4], state)
    torch.testing.assert_close(said.scores, scores(model, shifted(key_features(model, frames[2]), 2)))
    # At the very frame at which the first began, too.
    state = model.renew(model.renew(state, 3), 1)
    said, state = model.next_frame(frames[5], state)
    torch.testing.assert_close(said.scores, scores(model, shifted(key_features(model, frames[4]), 1)))


@pytest.mark.parametrize("route", [FrameToFrame(), KeyToCurrent()], ids=lambda route: type(route).__name__)
@torch.no_grad()
def test_a_motion_may_be_a_flow_and_a_scale(route):
    model, frames = dff(ScaledFlowWarp(Fading(), route)), film(0, 1, 3)
    said, state = model.key_frame(frames[0])
    features = key_features(model, frames[0]).clone()
    for image in frames[1:]:
        said, state = model.next_frame(image, state)
    features[:, 1] /= 8
    torch.testing.assert_close(said.scores, scores(model, shifted(features, 3)))


@torch.no_grad()
def test_joined_motions_of_flow_and_scale_do_what_one_after_the_other_does():
    torch.manual_seed(0)
    features = torch.rand(1, 3, 4, 10)
    flow = torch.zeros(1, 2, 4, 10)
    first, second = ((flow + torch.tensor([n, 0.0]).view(1, 2, 1, 1), torch.rand(1, 3, 4, 10)) for n in (1.0, 2.0))
    in_turn = ScaledFlowWarp.move(ScaledFlowWarp.move(features, first), second)
    at_once = ScaledFlowWarp.move(features, ScaledFlowWarp.join(first, second))
    torch.testing.assert_close(at_once, in_turn)
