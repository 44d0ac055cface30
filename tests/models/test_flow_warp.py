"""Flows joined and followed in every type, against float64."""

import accel_ops
import pytest
import torch

from accel.models import FlowWarp

SIZE = (40, 120)  # cells of a map; bfloat16 holds whole numbers up to 256 only, and of 120 no fraction but a half
HALVES = [torch.bfloat16, torch.float16]


def noisy_flows(count, dtype):
    """Flows (1, 2, h, w) of some cells that differ much from one cell to the next, rounded to a type."""
    made = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, *SIZE, generator=made, dtype=torch.float64).mul(3).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_joined_flows_are_those_of_float64(dtype):
    first, second, third = noisy_flows(3, dtype)
    joined = FlowWarp.join(FlowWarp.join(first, second), third)
    exact = FlowWarp.join(FlowWarp.join(first.double(), second.double()), third.double())
    assert joined.dtype == torch.float32
    torch.testing.assert_close(joined.double(), exact, rtol=0, atol=2e-3)


def test_float64_flows_are_joined_in_float64():
    assert FlowWarp.join(*noisy_flows(2, torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_joined_flow_moves_features_of_a_half_type(dtype):
    joined = FlowWarp.join(*noisy_flows(2, dtype))
    features = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)
    moved = FlowWarp.move(features, joined)
    assert moved.dtype == dtype
    exact = accel_ops.reference.warp(features.double(), joined.double())
    torch.testing.assert_close(moved.double(), exact, rtol=torch.finfo(dtype).eps, atol=2e-3)
