"""accel_ops.psroi_pool against its definition, float64, MXNet's own numbers and torch.library's own checks."""

import accel_ops
import numpy as np
import pytest
import torch
from accel_ops import reference
from operator_cases import dtypes, gpu, layouts, opcheck


@pytest.fixture(scope="session")
def native(native_operators):
    return native_operators.psroi_pool


@pytest.fixture(params=["native", "reference"])
def psroi_pool(request):
    return request.getfixturevalue("native") if request.param == "native" else reference.psroi_pool


def sample(shape=(2, 3 * 49, 9, 14), dtype=torch.float64, layout=torch.contiguous_format, count=40, device="cpu"):
    """Features, and regions within, over the edges of and outside their maps, some of no size or reversed."""
    made = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=made, dtype=torch.float64)
    height, width = 16 * shape[2], 16 * shape[3]
    corners = torch.rand(count, 2, 2, generator=made) * 1.4 - 0.2  # two corners, (x, y)
    corners[: count // 2] = corners[: count // 2].sort(1).values
    corners = (corners * torch.tensor([width, height])).flatten(1)
    corners[::5] = (2 * corners[::5]).round() / 2  # halves
    image = torch.randint(0, max(shape[0], 1), (count, 1), generator=made)
    rois = torch.cat([image, corners], 1)
    return features.to(device, dtype).contiguous(memory_format=layout), rois.to(device)


def slope_for(out):
    """An incoming gradient that every type holds exactly."""
    return ((torch.arange(out.numel(), device=out.device) % 33 - 16) / 16).view(out.shape).to(out.dtype)


def with_gradient(pool, features, rois, *settings):
    features = features.detach().requires_grad_()
    out = pool(features, rois, *settings)
    (to_features,) = torch.autograd.grad(out, features, slope_for(out))
    return out.detach(), to_features


def test_pooled_values_and_gradients_are_mxnets(psroi_pool, parity):
    with np.load(parity("rfcn/operators.npz")) as stored:
        data, rois, pooled, grad_out, grad_data = (
            torch.from_numpy(stored[f"psroi_{name}"]) for name in ("data", "rois", "pooled", "grad_out", "grad_data")
        )
        scale, *settings = stored["psroi_settings"]
    data.requires_grad_()
    out = psroi_pool(data, rois, *map(int, settings), float(scale))
    torch.testing.assert_close(out, pooled, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(out[: len(grad_out)], data, grad_out)
    torch.testing.assert_close(gradient, grad_data, rtol=1e-6, atol=1e-6)


def test_groups_of_fewer_maps_than_bins_are_mxnets(psroi_pool, parity):
    with np.load(parity("rfcn/operators.npz")) as stored:
        data, rois, pooled = (torch.from_numpy(stored[f"psroi3_{name}"]) for name in ("data", "rois", "pooled"))
    torch.testing.assert_close(psroi_pool(data, rois, 2, 7, 3, 0.0625), pooled, rtol=0, atol=1e-6)


def test_torchvision_rounds_otherwise(psroi_pool):
    """Which is why this operator is here."""
    from torchvision.ops import ps_roi_pool

    features, rois = sample(dtype=torch.float32, count=20)
    assert not torch.allclose(psroi_pool(features, rois, 3), ps_roi_pool(features, rois, 7, 0.0625), atol=1e-2)


def test_corners_are_rounded_halves_away_from_zero(psroi_pool):
    features = torch.arange(6.0).view(1, 1, 1, 6)
    for corner, start in ((2.4999, 2), (2.5, 3), (1.5, 2), (0.49999997, 0), (-0.5, -1), (-0.4, 0)):
        rois = torch.tensor([[0, corner, 0, 4, 0]])
        expected = torch.arange(max(start, 0), 5.0).mean()
        assert psroi_pool(features, rois, 1, 1, 1, 1.0).item() == expected, corner


@layouts
@dtypes
def test_it_and_its_gradient_are_those_of_float64_up_to_rounding(psroi_pool, layout, dtype):
    features, rois = sample(dtype=dtype, layout=layout)
    exact = with_gradient(reference.psroi_pool, features.double(), rois, 3)
    for ours, theirs in zip(with_gradient(psroi_pool, features, rois, 3), exact, strict=True):
        assert ours.dtype == dtype
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("settings", [(3, 7, 7), (12, 5, 3), (1, 3, 2), (2, 1, 1), (37, 4, 2)], ids=str)
def test_every_number_of_outputs_bins_and_groups(native, settings):
    outputs, _, group = settings
    features, rois = sample((2, outputs * group * group, 6, 7), torch.float32, count=30)
    for scale in (0.0625, 0.05):
        ours = with_gradient(native, features, rois, *settings, scale)
        for a, b in zip(ours, with_gradient(reference.psroi_pool, features, rois, *settings, scale), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_reference_gradient_is_that_of_its_autograd():
    features, rois = sample()
    features.requires_grad_()
    out = reference.psroi_pool(features, rois, 3)
    (by_autograd,) = torch.autograd.grad(out, features, slope_for(out))
    by_formula = reference.psroi_pool_backward(slope_for(out), rois, features.shape, 7, 0.0625)
    torch.testing.assert_close(by_autograd, by_formula, rtol=1e-12, atol=1e-12)


@layouts
def test_gradcheck(native, layout):
    features, rois = sample((2, 2 * 4, 3, 4), layout=layout, count=6)
    assert torch.autograd.gradcheck(lambda maps: native(maps, rois, 2, 3, 2), features.requires_grad_())


@layouts
@dtypes
def test_opcheck(layout, dtype):
    features, rois = sample((1, 8, 4, 5), dtype, layout, count=3)
    inputs = (features.requires_grad_(), rois, 2, 2, 2, 0.0625)
    opcheck(torch.ops.accel_ops.psroi_pool.default, inputs, dtype, rtol=1e-2, atol=1e-2)
    gradient = torch.ones(3, 2, 2, 2, dtype=dtype)
    opcheck(torch.ops.accel_ops.psroi_pool_backward.default, (gradient, rois, [1, 8, 4, 5], 2, 0.0625), dtype)


@pytest.mark.parametrize("shape", [(0, 8, 4, 5), (2, 8, 0, 5), (2, 8, 4, 0)], ids=str)
def test_empty_maps(psroi_pool, shape):
    features, rois = sample((1, 8, 4, 5), torch.float32, count=3)
    out, to_features = with_gradient(psroi_pool, features.new_zeros(shape), rois, 2, 2, 2)
    assert out.shape == (3, 2, 2, 2) and not out.any() and to_features.shape == shape


def test_no_regions(psroi_pool):
    features, rois = sample((1, 8, 4, 5), torch.float32)
    out, to_features = with_gradient(psroi_pool, features, rois[:0], 2, 2, 2)
    assert out.shape == (0, 2, 2, 2) and to_features.shape == features.shape and not to_features.any()


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", range(5))
def test_a_region_of_nowhere_gives_zero_and_no_gradient(psroi_pool, lost, place):
    features, rois = sample(dtype=torch.float32, count=2)
    rois[0, 0] = 0
    rois[1, place] = lost
    out, to_features = with_gradient(psroi_pool, features, rois, 3)
    assert not out[1].any() and out[0].any() and to_features.isfinite().all()
    rois[1] = torch.tensor([7.0, 0, 0, 50, 50])  # of no image
    assert not psroi_pool(features, rois, 3)[1].any()
    far = torch.tensor([[0, 1e30, -1e30, 2e30, 1e30], [0, -1e30, -1e30, -2e29, 5]])
    assert not psroi_pool(features, far, 3).any()


def test_views_give_what_their_copies_give(psroi_pool):
    features, rois = sample(dtype=torch.float32)
    for view in (
        features[:, :, 1:, ::2],
        features.transpose(2, 3),
        features.flip(3),
        features[:1].expand(2, -1, -1, -1),
    ):
        for a, b in zip(
            with_gradient(psroi_pool, view, rois.t().contiguous().t(), 3),
            with_gradient(reference.psroi_pool, view.contiguous(), rois, 3),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.flip(2).transpose(2, 3),
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t[:1, :1, :1, :1].expand_as(t),
    ],
    ids=["transposed", "channels last", "expanded"],
)
def test_views_of_gradients_give_what_their_copies_give(native, view):
    features, rois = sample(dtype=torch.float32)
    slope = view(slope_for(native(features, rois, 3)))
    backward = torch.ops.accel_ops.psroi_pool_backward
    expected = reference.psroi_pool_backward(slope.contiguous(), rois, features.shape, 7, 0.0625)
    torch.testing.assert_close(backward(slope, rois, features.shape, 7, 0.0625), expected, rtol=1e-5, atol=1e-5)


def test_results_on_the_cpu_repeat_exactly(native):
    features, rois = sample(dtype=torch.float32, count=100)
    first = with_gradient(native, features, rois, 3)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, with_gradient(native, features, rois, 3), strict=True))
    finally:
        torch.set_num_threads(threads)


MAPS, ROIS = torch.zeros(1, 8, 4, 5), torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("features", "rois", "settings", "error"),
    [
        (torch.zeros(8, 4, 5), ROIS, (2, 2, 2), r"features must be \(B, C, H, W\), got \[8, 4, 5\]"),
        (MAPS.to(torch.uint8), ROIS, (2, 2, 2), r"features must be float16, bfl"),
        (MAPS, torch.zeros(3, 4), (2, 2, 2), r"rois must be \(R, 5\), got \[3, 4\]"),
        (MAPS, ROIS.double(), (2, 2, 2), r"rois must be float32, got "),
        (MAPS, ROIS, (3, 2, 2), r"must have outputs \* group \* group = 12 channels, got 8"),
        (MAPS, ROIS, (2, 0, 2), r"outputs, pooled and group must be 1 or more, got 2, 0, 2"),
        (MAPS, ROIS, (2, 2, 2, -1.0), r"scale must be positive, got -1"),
    ],
)
def test_wrong_shapes_and_types_are_named(psroi_pool, features, rois, settings, error):
    with pytest.raises(ValueError, match=error):
        psroi_pool(features, rois, *settings)
    with pytest.raises(ValueError, match=error):
        accel_ops.psroi_pool(features.to("meta"), rois.to("meta"), *settings)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_backward_operator_checks_its_inputs_too(device):
    gradient, rois = torch.zeros(3, 2, 2, 2, device=device), ROIS.to(device)
    backward = torch.ops.accel_ops.psroi_pool_backward
    with pytest.raises(ValueError, match=r"gradient must be \(R, outputs, pooled, pooled\)"):
        backward(gradient[:2], rois, [1, 8, 4, 5], 2, 0.0625)
    with pytest.raises(ValueError, match="do not belong together"):
        backward(gradient, rois, [1, 9, 4, 5], 2, 0.0625)


def test_second_derivatives_are_refused_clearly_and_the_reference_has_them():
    features, rois = sample((1, 8, 3, 3), count=2)
    features.requires_grad_()
    (slope,) = torch.autograd.grad(
        accel_ops.psroi_pool(features, rois, 2, 2, 2).square().sum(), features, create_graph=True
    )
    with pytest.raises(NotImplementedError, match=r"reference\.psroi_pool"):
        slope.sum().backward()
    assert torch.autograd.gradgradcheck(lambda maps: reference.psroi_pool(maps, rois, 2, 2, 2), features)


def test_torch_export_sees_one_operator():
    class Pool(torch.nn.Module):
        def forward(self, features, rois):
            return accel_ops.psroi_pool(features, rois, 3)

    features, rois = sample(dtype=torch.float32)
    exported = torch.export.export(Pool(), (features, rois))
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.accel_ops.psroi_pool.default]
    assert torch.equal(exported.module()(features, rois), accel_ops.psroi_pool(features, rois, 3))


def test_training_through_torch_compile():
    torch._dynamo.reset()
    compiled = torch.compile(accel_ops.psroi_pool, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape, count in (((2, 27, 6, 7), 10), ((1, 27, 8, 9), 4)):
        inputs = sample(shape, torch.float32, count=count)
        for a, b in zip(
            with_gradient(compiled, *inputs, 3, 3, 3),
            with_gradient(accel_ops.psroi_pool, *inputs, 3, 3, 3),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


# On a GPU


@pytest.fixture(scope="session")
def cuda(cuda_operators):
    return cuda_operators.psroi_pool


class TestCuda:
    pytestmark = gpu

    @layouts
    @dtypes
    def test_it_and_its_gradient_are_those_of_the_reference(self, cuda, layout, dtype):
        features, rois = sample((2, 31 * 49, 9, 14), dtype, layout, 100, "cuda")
        exact = with_gradient(reference.psroi_pool, features.double(), rois, 31)
        for ours, theirs in zip(with_gradient(cuda, features, rois, 31), exact, strict=True):
            step = torch.finfo(dtype).eps
            torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=1e-4)

    def test_regions_of_nowhere_and_empty_maps(self, cuda):
        features, rois = sample(dtype=torch.float32, device="cuda")
        rois[1, 2], rois[2, 0] = float("nan"), 9
        out, to_features = with_gradient(cuda, features, rois, 3)
        assert not out[1:3].any() and to_features.isfinite().all()
        assert not cuda(features[:, :, :0], rois, 3).any()

    def test_the_gradient_refuses_deterministic_mode(self, cuda):
        features, rois = sample(dtype=torch.float32, device="cuda")
        torch.use_deterministic_algorithms(True)
        try:
            with pytest.raises(RuntimeError, match="deterministic"):
                with_gradient(cuda, features, rois, 3)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_tensors_on_two_devices_are_named(self, cuda):
        features, rois = sample(dtype=torch.float32, device="cuda")
        with pytest.raises(ValueError, match="cuda:0 but rois are on cpu"):
            cuda(features, rois.cpu(), 3)
