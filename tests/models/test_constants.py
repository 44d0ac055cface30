"""Constant tensors are kept, but never those that were made while a program was traced."""

import subprocess
import sys

import pytest
import torch

from accel.models.constants import constant, per_channel
from accel.models.images import PIXEL_MEANS, subtract_mean

TRACERS = {
    "export": "torch.export.export(Mean(), (frame,), strict=False)",
    "strict export": "torch.export.export(Mean(), (frame,), strict=True)",
    "compile": "torch.compile(Mean(), backend='eager')(frame)",
    "make_fx": "make_fx(subtract_mean, tracing_mode='fake')(frame)",
    "fake tensors": "with FakeTensorMode() as mode: subtract_mean(mode.from_tensor(frame))",
    "derivatives": "torch.func.grad(lambda image: subtract_mean(image).sum())(frame)",
}
IN_A_FRESH_PROCESS = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from accel.models.images import PIXEL_MEANS, subtract_mean

class Mean(torch.nn.Module):
    def forward(self, image):
        return subtract_mean(image)

frame = torch.zeros(1, 3, 2, 2)
{tracer}
eager = subtract_mean(frame)
assert type(eager) is torch.Tensor, type(eager)
assert not torch._C._functorch.is_functorch_wrapped_tensor(eager)
assert torch.equal(eager, frame - torch.tensor(PIXEL_MEANS).view(3, 1, 1))
{tracer}
"""


@pytest.mark.parametrize("tracer", TRACERS.values(), ids=TRACERS)
def test_a_frame_after_tracing_is_a_real_one(tracer):
    code = IN_A_FRESH_PROCESS.format(tracer=tracer)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_those_of_a_tensor_made_of_them(dtype):
    like = torch.zeros(1, dtype=dtype)
    expected = torch.tensor(PIXEL_MEANS, dtype=dtype).view(3, 1, 1)
    assert torch.equal(per_channel(PIXEL_MEANS, like), expected)
    assert torch.equal(constant(torch.eye, 9, dtype=dtype, device=like.device), torch.eye(9, dtype=dtype))


def test_a_constant_is_made_once_for_each_type_and_device():
    frame = torch.zeros(1, 3, 2, 2)
    first = per_channel(PIXEL_MEANS, frame)
    assert per_channel(PIXEL_MEANS, frame) is first
    assert per_channel(PIXEL_MEANS, frame.double()).dtype == torch.float64
    assert per_channel(PIXEL_MEANS, frame.to("meta")).is_meta
    assert per_channel(PIXEL_MEANS, frame) is first


def test_a_constant_made_in_inference_serves_training():
    values = (0.125, 0.25, 0.75)  # of no other test
    weight = torch.ones(3, 1, 1, requires_grad=True)
    with torch.inference_mode():
        per_channel(values, weight)
    (weight * per_channel(values, weight)).sum().backward()
    assert weight.grad.flatten().tolist() == list(values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_frame_but_the_first_waits_for_the_gpu():
    frame = torch.zeros(1, 3, 2, 2, device="cuda")
    expected = subtract_mean(frame)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = subtract_mean(frame)
        graph = torch.cuda.CUDAGraph()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.cuda.graph(graph):
        captured = per_channel((1.0, 2.0, 3.0), frame)  # first made here: the graph's, hence not kept
    graph.replay()
    assert torch.equal(again, expected)
    assert captured.flatten().tolist() == [1, 2, 3]
    assert per_channel((1.0, 2.0, 3.0), frame) is not captured
