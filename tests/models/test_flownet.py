"""FlowNet-S: where its cells lie, and what comes out before training. `test_published` compares its numbers."""

import pytest
import torch

from accel.models import FlowNetS

SIZES = [(64, 128), (50, 70), (17, 33), (1, 1)]


def levels(size):
    """Cells of each level: 1/128, 1/64, 1/32, 1/16 and once more 1/16 of the frame, always rounded up."""
    return [tuple(-(-side // step) for side in size) for step in (128, 64, 32, 16, 16)]


@pytest.fixture(scope="module")
def flownet():
    torch.manual_seed(0)
    return FlowNetS(1 / 16).eval()


@pytest.mark.parametrize("size", SIZES)
def test_every_level_covers_the_frame(flownet, size):
    frames = torch.randn(2, 3, *size)
    pyramid = flownet.pyramid(frames, frames)
    assert [tuple(flow.shape) for flow in pyramid] == [(2, 2, *cells) for cells in levels(size)]


@pytest.mark.parametrize("size", SIZES)
def test_the_flow_is_the_last_level(flownet, size):
    current, previous = 100 * torch.randn(2, 1, 3, *size)
    assert torch.equal(flownet(current, previous), flownet.pyramid(current, previous)[-1])


def test_an_untrained_network_says_hardly_any_motion(flownet):
    current, previous = 60 * torch.randn(2, 1, 3, 64, 128)
    assert flownet(current, previous).abs().max() < 0.1  # cells


def test_the_two_frames_are_told_apart(flownet):
    current, previous = 60 * torch.randn(2, 1, 3, 64, 128)
    assert not torch.allclose(flownet(current, previous), flownet(previous, current), atol=1e-7)


def test_the_published_width_has_the_published_channels():
    shapes = {name: tuple(parameter.shape) for name, parameter in FlowNetS().named_parameters()}
    assert shapes["encoder.conv1.weight"] == (64, 6, 7, 7)
    assert shapes["encoder.conv6_1.weight"] == (1024, 1024, 3, 3)


@pytest.mark.parametrize("width", [0.001, 0.5])
def test_any_width_makes_a_network(width):
    assert FlowNetS(width)(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 40)).shape == (1, 2, 3, 3)
