"""accel_ops.warp against its definition, float64, F.grid_sample and torch.library's own checks."""

import accel_ops
import pytest
import torch
import torch.nn.functional as F
from accel_ops import reference
from operator_cases import dtypes, gpu, layouts, opcheck


@pytest.fixture(scope="session")
def native(native_operators):
    return native_operators.warp


@pytest.fixture(params=["native", "reference"])
def warp(request):
    return request.getfixturevalue("native") if request.param == "native" else reference.warp


def sample(
    shape=(2, 21, 7, 10),
    dtype=torch.float64,
    layout=torch.contiguous_format,
    flow_dtype=None,
    device="cpu",
    reach=3.0,
):
    """Features, and a flow that reaches over the edges but keeps off whole cells, where warp has kinks."""
    made = torch.Generator().manual_seed(0)
    batch, _, height, width = shape
    features = torch.randn(shape, generator=made, dtype=torch.float64)
    whole = (torch.rand(batch, 2, height, width, generator=made, dtype=torch.float64) * 2 - 1).mul(reach).round()
    flow = whole + 0.05 + 0.9 * torch.rand(whole.shape, generator=made, dtype=torch.float64)
    features = features.to(device, dtype).contiguous(memory_format=layout)
    return features, flow.to(device, flow_dtype or dtype)


def slope_for(out):
    """An incoming gradient that every type holds exactly."""
    return ((torch.arange(out.numel(), device=out.device) % 33 - 16) / 16).view(out.shape).to(out.dtype)


def gradients(warp, features, flow):
    features, flow = features.detach().requires_grad_(), flow.detach().requires_grad_()
    out = warp(features, flow)
    slope = slope_for(out)
    return out.detach(), *torch.autograd.grad(out, (features, flow), slope)


def grid_sample(features, flow):
    height, width = features.shape[2:]
    x = flow[:, 0] + torch.arange(width, dtype=flow.dtype)
    y = flow[:, 1] + torch.arange(height, dtype=flow.dtype)[:, None]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def test_a_flow_of_one_cell_to_the_right_fetches_the_right_neighbour(warp):
    features, flow = sample(dtype=torch.float32)
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand_as(flow)
    assert torch.equal(warp(features, flow), F.pad(features[..., 1:], (0, 1)))


def test_a_flow_of_one_cell_down_fetches_the_lower_neighbour(warp):
    features, flow = sample(dtype=torch.float32)
    flow = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand_as(flow)
    assert torch.equal(warp(features, flow), F.pad(features[..., 1:, :], (0, 0, 0, 1)))


@layouts
def test_warp_and_its_gradients_are_those_of_grid_sample(warp, layout):
    inputs = sample(layout=layout)
    for ours, theirs in zip(gradients(warp, *inputs), gradients(grid_sample, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@layouts
@dtypes
@pytest.mark.parametrize("narrow_flow", [True, False], ids=["flow of the same type", "flow float32"])
def test_warp_and_its_gradients_are_those_of_float64_up_to_rounding(warp, layout, dtype, narrow_flow):
    features, flow = sample((2, 37, 9, 14), dtype, layout, flow_dtype=dtype if narrow_flow else torch.float32)
    exact = gradients(reference.warp, features.double(), flow.double())
    results = gradients(warp, features, flow)
    assert [t.dtype for t in results] == [dtype, dtype, flow.dtype]
    for ours, theirs in zip(results, exact, strict=True):
        # Positions are float32 for all but float64; the results are rounded once to their type.
        step = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=1e-12 if dtype == torch.float64 else 1e-4)


@layouts
def test_the_reference_gradient_is_that_of_its_autograd(layout):
    features, flow = sample(layout=layout)
    slope = torch.randn_like(features)
    features.requires_grad_()
    flow.requires_grad_()
    by_autograd = torch.autograd.grad(reference.warp(features, flow), (features, flow), slope)
    by_formula = reference.warp_backward(slope, features.detach(), flow.detach(), [True, True])
    for a, b in zip(by_autograd, by_formula, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@layouts
def test_gradcheck(warp, layout):
    features, flow = sample((2, 3, 3, 4), layout=layout, reach=1.0)
    assert torch.autograd.gradcheck(warp, (features.requires_grad_(), flow.requires_grad_()))


@layouts
@dtypes
def test_opcheck(layout, dtype):
    features, flow = sample((1, 3, 4, 5), dtype, layout, flow_dtype=torch.float32)
    opcheck(
        torch.ops.accel_ops.warp.default,
        (features.requires_grad_(), flow.requires_grad_()),
        dtype,
        rtol=1e-2,
        atol=1e-2,
    )
    for needs in ([True, True], [True, False], [False, True]):
        inputs = (torch.ones_like(features).detach(), features.detach(), flow.detach(), needs)
        opcheck(torch.ops.accel_ops.warp_backward.default, inputs, dtype)


@layouts
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)], ids=str)
def test_empty_maps(warp, shape, layout):
    features = torch.zeros(shape).contiguous(memory_format=layout)
    flow = torch.zeros(shape[0], 2, *shape[2:])
    out, to_features, to_flow = gradients(warp, features, flow)
    assert out.shape == to_features.shape == features.shape
    assert torch.equal(to_flow, torch.zeros_like(flow))


@layouts
def test_a_map_of_one_pixel(warp, layout):
    features = torch.full((1, 3, 1, 1), 8.0).contiguous(memory_format=layout)
    for x, y, share in [(0, 0, 1), (0.25, 0, 0.75), (-0.5, 0.5, 0.25), (1, 0, 0), (-1, -1, 0), (5, 5, 0)]:
        flow = torch.tensor([float(x), float(y)]).view(1, 2, 1, 1)
        assert torch.equal(warp(features, flow), features * share)


@layouts
@dtypes
@pytest.mark.parametrize("lost", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**63)])
def test_a_flow_to_nowhere_gives_zero_and_no_gradient(warp, layout, dtype, lost):
    features, flow = sample(dtype=dtype, layout=layout, flow_dtype=torch.float32)
    usual = warp(features, flow)
    flow[0, 0, 2, 3] = flow[1, 1, 4, 5] = lost
    out, to_features, to_flow = gradients(warp, features, flow)
    for image, y, x in ((0, 2, 3), (1, 4, 5)):
        assert not out[image, :, y, x].any()
        assert not to_flow[image, :, y, x].any()
        usual[image, :, y, x] = 0
    assert torch.equal(out, usual)
    assert to_features.isfinite().all() and to_flow.isfinite().all()


@layouts
def test_nothing_outside_the_own_map_is_read(warp, layout):
    features, flow = sample((3, 8, 5, 6), torch.float32, layout, reach=9.0)
    expected = warp(features, flow)[1]
    features[0] = features[2] = float("nan")
    assert torch.equal(warp(features, flow)[1], expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, 1:-1, 1:, :-1],
        lambda t: t.contiguous(memory_format=torch.channels_last)[:, 2:7, :, 1:],
        lambda t: t.transpose(2, 3),
        lambda t: t[::2, ::3],
        lambda t: t[:1, :1].expand(2, 5, -1, -1),
        lambda t: t.flip(3)[:, :, ::2],
    ],
    ids=["slice", "channels-last slice", "transposed", "steps", "expanded", "flipped"],
)
def test_views_give_what_their_copies_give(warp, view):
    features = view(sample(dtype=torch.float32)[0])
    assert not features.is_contiguous()
    flow = sample((features.shape[0], 1, *features.shape[2:]), torch.float32)[1]
    for flow_view in (flow, flow.transpose(2, 3).contiguous().transpose(2, 3)):
        results = gradients(warp, features, flow_view)
        copies = gradients(reference.warp, features.contiguous(), flow)
        for a, b in zip(results, copies, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


@layouts
def test_the_result_and_the_gradient_keep_the_layout(warp, layout):
    features, flow = sample(dtype=torch.float32, layout=layout)
    assert warp(features, flow).is_contiguous(memory_format=layout)
    for backward in (torch.ops.accel_ops.warp_backward, reference.warp_backward):
        to_features, _ = backward(slope_for(features), features, flow, [True, True])
        assert to_features.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels", [1, 15, 16, 63, 65, 200])
def test_every_number_of_channels(native, channels):
    """The kernels work in blocks of channels: the last one may be short."""
    inputs = sample((1, channels, 6, 5), torch.float32, torch.channels_last)
    for a, b in zip(gradients(native, *inputs), gradients(reference.warp, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-5)


@layouts
def test_results_on_the_cpu_repeat_exactly(native, layout):
    inputs = sample((2, 70, 16, 20), torch.float32, layout)
    first = gradients(native, *inputs)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(native, *inputs), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_a_gradient_nobody_needs_is_not_computed():
    features, flow = sample(dtype=torch.float32)
    both = gradients(accel_ops.warp, features, flow)
    slope = slope_for(features)
    only_features, nothing = torch.ops.accel_ops.warp_backward(slope, features, flow, [True, False])
    assert torch.equal(only_features, both[1]) and nothing.numel() == 0
    nothing, only_flow = torch.ops.accel_ops.warp_backward(slope, features, flow, [False, True])
    assert torch.equal(only_flow, both[2]) and nothing.numel() == 0


@pytest.mark.parametrize(
    ("features", "flow", "error"),
    [
        (torch.zeros(3, 4, 5), torch.zeros(1, 2, 4, 5), r"features must be \(B, C, H, W\), got \[3, 4, 5\]"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(2, 4, 5), r"flow must be \(B, 2, H, W\).*got \[2, 4, 5\]"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), r"flow must be .*got \[1, 3, 4, 5\]"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(2, 2, 4, 5), r"features \[1, 3, 4, 5\], got \[2, 2, 4, 5\]"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 5, 4), r"features \[1, 3, 4, 5\], got \[1, 2, 5, 4\]"),
        (
            torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
            torch.zeros(1, 2, 4, 5),
            r"features must be float16, bfl",
        ),
        (
            torch.zeros(1, 3, 4, 5),
            torch.zeros(1, 2, 4, 5, dtype=torch.float64),
            r"flow must be float32 or of the",
        ),
        (
            torch.zeros(1, 3, 4, 5),
            torch.zeros(1, 2, 4, 5, dtype=torch.int64),
            r"flow must be float32 or of the",
        ),
    ],
)
def test_wrong_shapes_and_types_are_named(warp, features, flow, error):
    with pytest.raises(ValueError, match=error):
        warp(features, flow)
    with pytest.raises(ValueError, match=error):
        torch.ops.accel_ops.warp(features.to("meta"), flow.to("meta"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_backward_operator_checks_its_inputs_too(device):
    features, flow = (t.to(device) for t in sample(dtype=torch.float32))
    with pytest.raises(ValueError, match="gradient must have the features' shape"):
        torch.ops.accel_ops.warp_backward(features[:, :1], features, flow, [True, True])


def test_second_derivatives_are_refused_clearly_and_the_reference_has_them():
    features, flow = (t.requires_grad_() for t in sample((1, 2, 3, 3), reach=1.0))
    (slope,) = torch.autograd.grad(accel_ops.warp(features, flow).square().sum(), flow, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.warp"):
        slope.sum().backward()
    assert torch.autograd.gradgradcheck(reference.warp, (features, flow))


def test_autocast_needs_no_casts():
    features, flow = sample(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = F.conv2d(flow, torch.eye(2).view(2, 2, 1, 1))
        assert narrow.dtype == torch.bfloat16
        assert accel_ops.warp(features, narrow).dtype == torch.float32
        assert accel_ops.warp(features.bfloat16(), flow).dtype == torch.bfloat16
        torch.testing.assert_close(accel_ops.warp(features, narrow), accel_ops.warp(features, narrow.float()))


@layouts
def test_torch_compile_sees_one_operator(layout):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: accel_ops.warp(a * 2, b), backend=keep, fullgraph=True)
    features, flow = sample(dtype=torch.float32, layout=layout)
    assert torch.equal(compiled(features, flow), accel_ops.warp(features * 2, flow))
    assert sum(node.target is torch.ops.accel_ops.warp for node in graphs[0].graph.nodes) == 1


@layouts
def test_training_through_torch_compile(layout):
    torch._dynamo.reset()
    compiled = torch.compile(accel_ops.warp, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 5, 6, 7), (1, 4, 8, 9)):
        inputs = sample(shape, torch.float32, layout)
        for a, b in zip(gradients(compiled, *inputs), gradients(accel_ops.warp, *inputs), strict=True):
            torch.testing.assert_close(a, b)


def test_torch_export_sees_one_operator():
    class Warp(torch.nn.Module):
        def forward(self, features, flow):
            return accel_ops.warp(features, flow)

    features, flow = sample(dtype=torch.float32)
    exported = torch.export.export(Warp(), (features, flow))
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.accel_ops.warp.default]
    assert torch.equal(exported.module()(features, flow), accel_ops.warp(features, flow))


# On a GPU


@pytest.fixture(scope="session")
def cuda(cuda_operators):
    return cuda_operators.warp


class TestCuda:
    pytestmark = gpu

    @layouts
    @dtypes
    @pytest.mark.parametrize("channels", [1, 19, 64, 264])
    def test_warp_and_its_gradients_are_those_of_the_reference(self, cuda, layout, dtype, channels):
        features, flow = sample((2, channels, 17, 33), dtype, layout, torch.float32, "cuda")
        exact = gradients(reference.warp, features.double(), flow.double())
        for ours, theirs in zip(gradients(cuda, features, flow), exact, strict=True):
            step = torch.finfo(ours.dtype).eps
            torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=5e-4)
        assert cuda(features, flow).is_contiguous(memory_format=layout)

    @layouts
    def test_gradcheck(self, cuda, layout):
        features, flow = sample((2, 3, 3, 4), layout=layout, reach=1.0, device="cuda")
        inputs = (features.requires_grad_(), flow.requires_grad_())
        assert torch.autograd.gradcheck(cuda, inputs, nondet_tol=1e-12)

    @layouts
    def test_opcheck(self, cuda, layout):
        features, flow = sample((1, 8, 4, 5), torch.float32, layout, device="cuda")
        inputs = (features.requires_grad_(), flow.requires_grad_())
        torch.library.opcheck(torch.ops.accel_ops.warp.default, inputs, rtol=1e-4, atol=1e-4)

    @layouts
    @pytest.mark.parametrize("lost", [float("nan"), float("inf"), -1e30])
    def test_a_flow_to_nowhere_gives_zero_and_no_gradient(self, cuda, layout, lost):
        features, flow = sample(dtype=torch.float32, layout=layout, device="cuda")
        flow[0, 0, 2, 3] = lost
        out, to_features, to_flow = gradients(cuda, features, flow)
        assert not out[0, :, 2, 3].any() and not to_flow[0, :, 2, 3].any()
        assert to_features.isfinite().all()

    def test_a_view_that_is_not_aligned_to_16_bytes(self, cuda):
        buffer = torch.randn(2 * 16 * 8 * 8 + 1, device="cuda")
        features = buffer[1:].view(2, 8, 8, 16).permute(0, 3, 1, 2)
        flow = torch.full((2, 2, 8, 8), 0.5, device="cuda")
        torch.testing.assert_close(cuda(features, flow), reference.warp(features, flow))

    def test_empty_maps(self, cuda):
        for shape in [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)]:
            features = torch.zeros(shape, device="cuda")
            out, _, to_flow = gradients(cuda, features, torch.zeros(shape[0], 2, *shape[2:], device="cuda"))
            assert out.shape == features.shape and not to_flow.any()

    def test_the_gradient_refuses_deterministic_mode(self, cuda):
        features, flow = sample(dtype=torch.float32, device="cuda")
        torch.use_deterministic_algorithms(True)
        try:
            with pytest.raises(RuntimeError, match="deterministic"):
                gradients(cuda, features, flow)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_tensors_on_two_devices_are_named(self, cuda):
        features, flow = sample(dtype=torch.float32, device="cuda")
        with pytest.raises(ValueError, match="cuda:0 but flow is on cpu"):
            cuda(features, flow.cpu())
