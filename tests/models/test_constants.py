"""Constant tensors are kept, but never those that were made while a program was traced."""

import copy

import pytest
import torch
from processes import run_code

from accel.models.backbones.encoders import PixelScaling
from accel.models.backbones.smp import SmpBackbone, scaled
from accel.models.constants import constant, per_channel
from accel.models.images import PIXEL_MEANS, subtract_mean
from accel.models.propagation.classical_flow import _grey
from accel.models.propagation.flow_warp import _cells, _stretch
from accel.models.propagation.learned_sampling import Quality

TRACERS = {
    "export": "torch.export.export(Mean(), (frame,), strict=False)",
    "strict export": "torch.export.export(Mean(), (frame,), strict=True)",
    "compile": "torch.compile(Mean(), backend='eager')(frame)",
    "make_fx": "make_fx(subtract_mean, tracing_mode='fake')(frame)",
    "fake tensors": "with FakeTensorMode() as mode: subtract_mean(mode.from_tensor(frame))",
    "derivatives": "torch.func.grad(lambda image: subtract_mean(image).sum())(frame)",
}
IN_ANOTHER_PROCESS = """
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
def test_a_frame_after_tracing_is_a_real_one(tmp_path, tracer):
    done = run_code(IN_ANOTHER_PROCESS.format(tracer=tracer), tmp_path)
    assert done.process.exitcode == 0, done.errors


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


DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)


def frames(dtype=torch.float32, size=(64, 96)):
    made = torch.Generator().manual_seed(0)
    return (torch.rand(2, 3, *size, generator=made, dtype=torch.float64).mul(255) - 110).to(dtype)


def with_tensors_of_python_numbers(image):
    """`scaled` as it was first written."""
    published, mean, std = (image.new_tensor(c).view(3, 1, 1) for c in (PIXEL_MEANS, *PixelScaling()))
    return ((image + published) / 255 - mean) / std


@DTYPES
def test_smp_encoders_see_the_same_numbers(dtype):
    image = frames(dtype)
    assert torch.equal(scaled(image, PixelScaling()), with_tensors_of_python_numbers(image))


@DTYPES
@pytest.mark.parametrize("missing", [(1, 0), (0, 1), (1, 1)], ids=str)
def test_stretched_flow_is_the_same(dtype, missing):
    made = torch.Generator().manual_seed(0)
    height, width = 7, 11
    features = torch.randn(1, 2, height - missing[0], width - missing[1], generator=made).to(dtype)
    flow = torch.randn(1, 2, height, width, generator=made).mul(3).to(dtype)
    wide = flow.to(torch.promote_types(dtype, torch.float32))
    home = _cells(wide)
    h, w = features.shape[2:]
    scale = home.new_tensor([(w - 1) / (width - 1), (h - 1) / (height - 1)]).view(2, 1, 1)
    padded, stretched = _stretch(features, flow)
    assert padded.shape[2:] == flow.shape[2:]
    assert torch.equal(stretched, (home + wide) * scale - home)


@DTYPES
def test_grey_frames_are_the_same(dtype):
    images = frames(dtype)
    means, luma = (images.new_tensor(c).view(3, 1, 1) for c in (PIXEL_MEANS, (0.299, 0.587, 0.114)))
    expected = ((images + means) * luma).sum(1).round().clamp(0, 255).to(torch.uint8).numpy()
    assert (_grey(images) == expected).all()


class Both(torch.nn.Module):
    """A backbone and a quality network, which hold constants."""

    def __init__(self):
        super().__init__()
        self.backbone = SmpBackbone("resnet18", depth=4)
        self.quality = Quality(self.backbone.out_channels, 8)

    def forward(self, image):
        return self.quality(self.backbone(image))


@pytest.fixture(scope="module")
def both():
    torch.manual_seed(0)
    return Both().eval().requires_grad_(False)


def test_constants_are_not_in_checkpoints_and_change_with_no_type(both):
    image = frames()
    expected = both(image)
    names = set(both.state_dict())
    assert names == {name for name, _ in both.named_parameters()} | {
        name for name, _ in both.named_buffers() if "running_" in name or "num_batches" in name
    }
    assert torch.equal(copy.deepcopy(both)(image), expected)
    exact = copy.deepcopy(both).double()
    narrow = copy.deepcopy(both).bfloat16()
    assert narrow(image.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert both(image).dtype == torch.bfloat16
    for module in (narrow, exact):
        module.float().load_state_dict(both.state_dict())
        assert torch.equal(module(image), expected)


def test_constants_survive_a_model_that_is_built_without_memory(both):
    image = frames()
    made = copy.deepcopy(both).to("meta")
    made.load_state_dict(both.state_dict(), assign=True)
    assert torch.equal(made(image), both(image))


def test_constants_are_exported(both):
    image = frames()
    exported = torch.export.export(both, (image,)).module()
    torch.testing.assert_close(exported(image), both(image))


def test_no_frame_but_the_first_makes_constants(both):
    image = frames()
    flow = torch.zeros(1, 2, 4, 6)
    work = [lambda: both(subtract_mean(image)), lambda: _stretch(torch.zeros(1, 2, 3, 6), flow), lambda: _grey(image)]
    for step in work:
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for step in work:
            step()
    done = {event.key for event in profile.key_averages()}
    assert "aten::convolution" in done
    assert not done & {"aten::lift_fresh", "aten::eye", "aten::full", "aten::detach_", "aten::_local_scalar_dense"}


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
