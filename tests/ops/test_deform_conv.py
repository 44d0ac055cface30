"""accel_ops.deform_conv against its definition, float64, torchvision's operator and torch.library's own checks."""

from contextlib import contextmanager

import accel_ops
import pytest
import torch
import torch.nn.functional as F
from accel_ops import reference
from operator_cases import dtypes, gpu, layouts, opcheck
from torchvision.ops import deform_conv2d

# groups, (kh, kw), stride, padding, dilation
PUBLISHED = 1, (3, 3), (1, 1), (2, 2), (2, 2)
WIDE = 1, (3, 3), (1, 1), (3, 3), (2, 2)  # padded so much that it is defined on a map without rows
GEOMETRIES = {
    "published": PUBLISHED,
    "published, 4 groups": (4, *PUBLISHED[1:]),
    "plain": (1, (3, 3), (1, 1), (0, 0), (1, 1)),
    "uneven": (2, (3, 2), (2, 1), (1, 3), (1, 2)),
    "1x1": (4, (1, 1), (2, 3), (0, 0), (1, 1)),
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


@pytest.fixture(scope="session")
def native(native_operators):
    return native_operators.deform_conv


@pytest.fixture(params=["native", "reference"])
def deform_conv(request):
    return request.getfixturevalue("native") if request.param == "native" else reference.deform_conv


def sample(
    shape=(2, 8, 7, 9),
    geometry=PUBLISHED,
    out_channels=6,
    dtype=torch.float64,
    layout=torch.contiguous_format,
    offset_dtype=None,
    device="cpu",
    reach=3.0,
):
    """Features, offsets that reach over the edges but keep off whole cells, where samples have kinks, and a weight."""
    made = torch.Generator().manual_seed(0)
    groups, kernel, *rest = geometry
    features = torch.randn(shape, generator=made, dtype=torch.float64)
    weight = torch.randn(out_channels, shape[1], *kernel, generator=made, dtype=torch.float64)
    size = F.conv2d(features[:1, :1], weight[:1, :1], None, *rest).shape[2:]
    moves = torch.rand(shape[0], groups * 2 * kernel[0] * kernel[1], *size, generator=made, dtype=torch.float64)
    whole = (moves * 2 - 1).mul(reach).round()
    offset = whole + 0.05 + 0.9 * torch.rand(whole.shape, generator=made, dtype=torch.float64)
    features, weight = (t.to(device, dtype).contiguous(memory_format=layout) for t in (features, weight))
    return features, offset.to(device, offset_dtype or dtype), weight


def slope_for(out):
    """An incoming gradient that every type holds exactly."""
    return ((torch.arange(out.numel(), device=out.device) % 33 - 16) / 16).view(out.shape).to(out.dtype)


def gradients(deform_conv, inputs, geometry):
    """The result, and its gradients by features, offset and weight."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = deform_conv(*inputs, *geometry[2:])
    return out.detach(), *torch.autograd.grad(out, inputs, slope_for(out))


def homes(size, geometry):
    """Where every tap is without an offset: (kh * kw, 2, H', W'), vertical and horizontal."""
    _, kernel, stride, padding, dilation = geometry
    rows = torch.arange(kernel[0])[:, None] * dilation[0] + torch.arange(size[0]) * stride[0] - padding[0]
    columns = torch.arange(kernel[1])[:, None] * dilation[1] + torch.arange(size[1]) * stride[1] - padding[1]
    shape = (*kernel, *size)
    y, x = rows[:, None, :, None].expand(shape), columns[None, :, None, :].expand(shape)
    return torch.stack([y, x], 2).view(-1, 2, *size)


def torchvision_with_published_borders(features, offset, weight, stride, padding, dilation):
    """torchvision's operator, its samples moved to where its rule for the borders and the published one agree."""
    geometry = None, weight.shape[2:], stride, padding, dilation
    home = homes(offset.shape[2:], geometry)
    last = torch.tensor(features.shape[2:]).view(2, 1, 1) - 1
    moves = offset.unflatten(1, (-1, *home.shape[:2]))
    at = home + moves
    # At -1 torchvision gives zero. NaN, too, goes there: torchvision would read out of bounds for it.
    moves = torch.where(~(at >= 0), (-1 - home).to(offset.dtype), moves)
    moves = torch.where((at > last) & (at < last + 1), (last - home).to(offset.dtype), moves)
    return deform_conv2d(features, moves.flatten(1, 3), weight, None, stride, padding, dilation)


def assert_equal_up_to_rounding(ours, exact):
    """To a few units in the last place of the largest value; two for the half types, which sum in float32."""
    step = torch.finfo(ours.dtype).eps * (2 if ours.element_size() == 2 else 64)
    scale = exact.abs().max().item() if exact.numel() else 0
    torch.testing.assert_close(ours.to(exact), exact, rtol=0, atol=step * scale)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- what it computes -----------------------------------------------------------------------------------------


@geometries
def test_without_offsets_it_is_a_plain_convolution(deform_conv, geometry):
    features, offset, weight = sample(geometry=geometry)
    expected = F.conv2d(features, weight, None, *geometry[2:])
    torch.testing.assert_close(deform_conv(features, torch.zeros_like(offset), weight, *geometry[2:]), expected)


def test_offsets_are_vertical_then_horizontal(deform_conv):
    features, _, weight = sample()
    offset = torch.tensor([1.0, -2.0], dtype=torch.float64).repeat(9).view(1, 18, 1, 1).expand(2, -1, 7, 9)
    moved = F.pad(features, (2 + 2, 2 - 2, 2 - 1, 2 + 1))  # a row down, two columns to the left
    torch.testing.assert_close(
        deform_conv(features, offset, weight, *PUBLISHED[2:]), F.conv2d(moved, weight, None, 1, 0, 2)
    )


def test_a_group_of_offsets_moves_its_own_channels(deform_conv):
    geometry = GEOMETRIES["published, 4 groups"]
    features, offset, weight = sample(geometry=geometry)
    parts = [
        deform_conv(
            features[:, 2 * g : 2 * g + 2], offset[:, 18 * g : 18 * g + 18], weight[:, 2 * g : 2 * g + 2], *geometry[2:]
        )
        for g in range(4)
    ]
    torch.testing.assert_close(deform_conv(features, offset, weight, *geometry[2:]), sum(parts))


@layouts
@geometries
def test_within_the_map_it_and_its_gradients_are_those_of_torchvision(deform_conv, geometry, layout):
    features, offset, weight = sample(geometry=geometry, layout=layout)
    home = homes(offset.shape[2:], geometry)
    last = torch.tensor(features.shape[2:]).view(2, 1, 1) - 1
    at = torch.rand(offset.unflatten(1, (-1, *home.shape[:2])).shape, generator=torch.Generator().manual_seed(1))
    offset = (at.double() * last - home).flatten(1, 3)

    def torchvision(features, offset, weight, *rest):
        return deform_conv2d(features, offset, weight, None, *rest)

    inputs = features, offset, weight
    for ours, theirs in zip(
        gradients(deform_conv, inputs, geometry), gradients(torchvision, inputs, geometry), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@layouts
@geometries
def test_everywhere_it_and_its_gradients_are_those_of_torchvision_with_published_borders(deform_conv, geometry, layout):
    inputs = sample(geometry=geometry, layout=layout)
    expected = gradients(torchvision_with_published_borders, inputs, geometry)
    for ours, theirs in zip(gradients(deform_conv, inputs, geometry), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("axis", "name"), [(0, "y"), (1, "x")])
def test_samples_before_the_map_are_zero_and_those_beyond_its_last_cell_are_that_cell(deform_conv, axis, name):
    features = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    weight = torch.ones(1, 1, 1, 1)
    centre_line = features[0, 0].select(1 - axis, 1)  # values along the axis
    for at, expected in [
        (-0.01, 0),
        (0.0, centre_line[0]),
        (0.5, centre_line[:2].mean()),
        (2.0, centre_line[2]),
        (2.99, centre_line[2]),
        (3.0, 0),
    ]:
        offset = torch.zeros(1, 2, 3, 3)
        offset[0, axis, 1, 1] = at - 1
        assert deform_conv(features, offset, weight, (1, 1), (0, 0), (1, 1))[0, 0, 1, 1] == expected, f"{name} = {at}"


@layouts
@dtypes
@geometries
@pytest.mark.parametrize("narrow_offset", [True, False], ids=["offset of the same type", "offset float32"])
def test_it_and_its_gradients_are_those_of_float64_up_to_rounding(deform_conv, layout, dtype, geometry, narrow_offset):
    inputs = sample((2, 24, 7, 9), geometry, 5, dtype, layout, offset_dtype=dtype if narrow_offset else torch.float32)
    exact = gradients(reference.deform_conv, [t.double() for t in inputs], geometry)
    results = gradients(deform_conv, inputs, geometry)
    assert [t.dtype for t in results] == [dtype, dtype, inputs[1].dtype, dtype]
    for ours, theirs in zip(results, exact, strict=True):
        assert_equal_up_to_rounding(ours, theirs)


def test_half_precision_keeps_positions_exact(deform_conv):
    """Sampling positions in bfloat16 would be off by a quarter of a cell at the far end of this map."""
    features = torch.arange(80.0).expand(1, 4, 3, 80).bfloat16()  # each cell holds its own position
    offset = torch.zeros(1, 18, 3, 80, dtype=torch.bfloat16)
    offset[:, 1::2] = -0.25
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.bfloat16)
    weight[:, 0, 1, 1] = 1
    exact = deform_conv(features.double(), offset.double(), weight.double(), *PUBLISHED[2:])
    assert torch.equal(deform_conv(features, offset, weight, *PUBLISHED[2:]), exact.bfloat16())


@geometries
@layouts
def test_the_reference_gradient_is_that_of_its_autograd(geometry, layout):
    inputs = sample(geometry=geometry, layout=layout)
    out, *by_autograd = gradients(reference.deform_conv, inputs, geometry)
    by_formula = reference.deform_conv_backward(slope_for(out), *inputs, *geometry[2:], [True, True, True])
    for a, b in zip(by_autograd, by_formula, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@layouts
@geometries
def test_gradcheck(native, geometry, layout):
    inputs = [t.requires_grad_() for t in sample((1, 4, 3, 4), geometry, 2, layout=layout, reach=1.0)]
    assert torch.autograd.gradcheck(native, (*inputs, *geometry[2:]))


@layouts
@dtypes
def test_opcheck(layout, dtype):
    geometry = GEOMETRIES["uneven"]
    features, offset, weight = sample((1, 4, 5, 6), geometry, 3, dtype, layout, torch.float32)
    trained = [t.clone().requires_grad_() for t in (features, offset, weight)]
    operators = torch.ops.accel_ops
    opcheck(operators.deform_conv.default, (*trained, *geometry[2:]), dtype, rtol=1e-2, atol=1e-2)
    slope = torch.ones(1, 3, *offset.shape[2:], dtype=dtype)
    for needs in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
        inputs = (slope, features, offset, weight, *geometry[2:], needs)
        opcheck(operators.deform_conv_backward.default, inputs, dtype)


# --- unusual inputs -------------------------------------------------------------------------------------------


@layouts
@pytest.mark.parametrize(
    ("shape", "out_channels"), [((0, 8, 7, 9), 6), ((2, 8, 7, 9), 0), ((2, 0, 7, 9), 6), ((2, 8, 0, 9), 6)], ids=str
)
def test_empty_maps(deform_conv, shape, out_channels, layout):
    features = torch.zeros(shape).contiguous(memory_format=layout)
    weight = torch.ones(out_channels, shape[1], 3, 3)
    offset = torch.zeros(shape[0], 18, shape[2] + 2, 11)
    results = gradients(deform_conv, (features, offset, weight), WIDE)
    assert [t.shape for t in results] == [
        (shape[0], out_channels, *offset.shape[2:]),
        shape,
        offset.shape,
        weight.shape,
    ]
    assert not any(t.any() for t in results)


@layouts
@dtypes
@pytest.mark.parametrize("lost", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**63)])
def test_an_offset_to_nowhere_samples_nothing_and_has_no_gradient(deform_conv, layout, dtype, lost):
    features, offset, weight = sample(dtype=dtype, layout=layout, offset_dtype=torch.float32)
    offset[0, 4, 2, 3] = offset[1, 11, 4, 5] = lost  # tap 2 vertically, tap 5 horizontally
    outside = offset.clone()
    outside[0, 4, 2, 3] = outside[1, 11, 4, 5] = -100
    results = gradients(deform_conv, (features, offset, weight), PUBLISHED)
    for ours, expected in zip(results, gradients(deform_conv, (features, outside, weight), PUBLISHED), strict=True):
        assert torch.equal(ours, expected)
    assert not results[2][0, 4:6, 2, 3].any() and not results[2][1, 10:12, 4, 5].any()


@layouts
def test_nothing_outside_the_own_map_is_read(deform_conv, layout):
    features, offset, weight = sample((3, 8, 5, 6), dtype=torch.float32, layout=layout, reach=9.0)
    expected = deform_conv(features, offset, weight, *PUBLISHED[2:])[1]
    features[0] = features[2] = float("nan")
    assert torch.equal(deform_conv(features, offset, weight, *PUBLISHED[2:])[1], expected)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, 1:, 1:, :-1],
        lambda t: t.contiguous(memory_format=torch.channels_last)[:, 2:7, :, 1:],
        lambda t: t.transpose(2, 3),
        lambda t: t[::2, ::3],
        lambda t: t[:1, :1].expand(2, 5, -1, -1),
        lambda t: t.flip(3)[:, :, ::2],
    ],
    ids=["slice", "channels-last slice", "transposed", "steps", "expanded", "flipped"],
)
def test_views_give_what_their_copies_give(deform_conv, view):
    features = view(sample(dtype=torch.float32)[0])
    assert not features.is_contiguous()
    _, offset, weight = sample(features.shape, out_channels=7, dtype=torch.float32)
    expected = gradients(reference.deform_conv, (features.contiguous(), offset, weight), PUBLISHED)
    turned = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (offset, weight)]
    for others in ((offset, weight), turned, (offset, weight.flip(0).contiguous().flip(0))):
        for a, b in zip(gradients(deform_conv, (features, *others), PUBLISHED), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-5)


@layouts
def test_results_and_gradients_keep_the_layout(deform_conv, layout):
    features, offset, weight = sample(dtype=torch.float32, layout=layout)
    offset = offset.contiguous(memory_format=layout)
    out = deform_conv(features, offset, weight, *PUBLISHED[2:])
    assert out.is_contiguous(memory_format=layout)
    for backward in (torch.ops.accel_ops.deform_conv_backward, reference.deform_conv_backward):
        made = backward(slope_for(out), features, offset, weight, *PUBLISHED[2:], [True, True, True])
        assert all(t.is_contiguous(memory_format=layout) for t in made)


@pytest.mark.parametrize("channels", [1, 15, 16, 63, 65, 200])
def test_every_number_of_channels(native, channels):
    """The kernels work in blocks of channels: the last one may be short."""
    inputs = sample((1, channels, 6, 5), dtype=torch.float32, layout=torch.channels_last)
    expected = gradients(reference.deform_conv, inputs, PUBLISHED)
    for a, b in zip(gradients(native, inputs, PUBLISHED), expected, strict=True):
        assert_equal_up_to_rounding(a, b)


@pytest.mark.parametrize("width", [1, 127, 128, 129, 700])
def test_every_number_of_cells(native, width):
    """The kernels work in tiles of cells, across images: the last one may be short."""
    geometry = GEOMETRIES["published, 4 groups"]
    inputs = sample((3, 520, 1, width), geometry, 4, torch.float32, torch.channels_last)
    expected = gradients(reference.deform_conv, inputs, geometry)
    for a, b in zip(gradients(native, inputs, geometry), expected, strict=True):
        assert_equal_up_to_rounding(a, b)


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
def test_results_on_the_cpu_repeat_exactly(native, layout, dtype):
    inputs = sample((2, 264, 16, 20), GEOMETRIES["published, 4 groups"], 40, dtype, layout)  # several tiles
    exact = gradients(reference.deform_conv, [t.double() for t in inputs], PUBLISHED)
    for count in (1, 2, 3):
        with threads(count):
            first, again = (gradients(native, inputs, PUBLISHED) for _ in range(2))
        for a, b, expected in zip(first, again, exact, strict=True):
            assert torch.equal(a, b)
            assert_equal_up_to_rounding(a, expected)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_without_onednn_the_result_is_the_same(native):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = sample(dtype=dtype)
        expected = native(*inputs, *PUBLISHED[2:])
        with torch.backends.mkldnn.flags(enabled=False):
            assert_equal_up_to_rounding(native(*inputs, *PUBLISHED[2:]), expected.double())


def test_gradients_nobody_needs_are_not_computed():
    features, offset, weight = sample(dtype=torch.float32)
    out, *wanted = gradients(accel_ops.deform_conv, (features, offset, weight), PUBLISHED)
    for k in range(3):
        needs = [k == i for i in range(3)]
        made = torch.ops.accel_ops.deform_conv_backward(slope_for(out), features, offset, weight, *PUBLISHED[2:], needs)
        assert torch.equal(made[k], wanted[k])
        assert [t.numel() for t in made if t is not made[k]] == [0, 0]


# --- errors ---------------------------------------------------------------------------------------------------

X, OFFSET, WEIGHT = torch.zeros(2, 8, 5, 6), torch.zeros(2, 18, 5, 6), torch.zeros(4, 8, 3, 3)
SAME = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"features": X[0]}, r"features must be \(B, C, H, W\), got \[8, 5, 6\]"),
        ({"features": X.byte()}, r"features must be float16, bfloat16, float32 or float64"),
        ({"weight": WEIGHT[0]}, r"weight must be \(C', C, kh, kw\) for features \[2, 8, 5, 6\], got \[8, 3, 3\]"),
        ({"weight": WEIGHT[:, :4]}, r"got \[4, 4, 3, 3\]; groups of weights are not supported"),
        ({"weight": WEIGHT[:, :, :0]}, r"weight must be .*got \[4, 8, 0, 3\]"),
        ({"weight": WEIGHT.half()}, r"weight must be of the features' type"),
        ({"stride": (1, 0)}, r"stride must be two integers, 1 or more, got \[1, 0\]"),
        ({"padding": (-1, 1)}, r"padding must be two integers, 0 or more, got \[-1, 1\]"),
        ({"dilation": (0, 1)}, r"dilation must be two integers, 1 or more, got \[0, 1\]"),
        ({"dilation": (1, 1, 1)}, r"dilation must be two integers, 1 or more, got \[1, 1, 1\]"),
        (
            {"dilation": (1, 4)},
            r"weight \[4, 8, 3, 3\] at dilation \[1, 4\] is larger than features \[2, 8, 5, 6\] with padding \[1, 1\]",
        ),
        ({"offset": OFFSET[0]}, r"offset must be \(2, G \* 18, 5, 6\) .*got \[18, 5, 6\]"),
        ({"offset": OFFSET[:1]}, r"offset must be \(2, G \* 18, 5, 6\) .*got \[1, 18, 5, 6\]"),
        ({"offset": OFFSET[:, :9]}, r"offset must be .*got \[2, 9, 5, 6\]"),
        ({"offset": OFFSET[:, :0]}, r"offset must be .*got \[2, 0, 5, 6\]"),
        ({"offset": torch.zeros(2, 54, 5, 6)}, r"with a G that divides the 8 channels, got \[2, 54, 5, 6\]"),
        ({"stride": (2, 1)}, r"offset must be \(2, G \* 18, 3, 6\) .*got \[2, 18, 5, 6\]"),
        ({"offset": OFFSET.double()}, r"offset must be float32 or of the features' type"),
        ({"offset": OFFSET.long()}, r"offset must be float32 or of the features' type"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_wrong_arguments_are_named(deform_conv, changed, error):
    arguments = {"features": X, "offset": OFFSET, "weight": WEIGHT, **SAME, **changed}
    with pytest.raises(ValueError, match=f"deform_conv: .*{error}"):
        deform_conv(*arguments.values())
    on_meta = (t.to("meta") if isinstance(t, torch.Tensor) else t for t in arguments.values())
    with pytest.raises(ValueError, match=f"deform_conv: .*{error}"):
        torch.ops.accel_ops.deform_conv(*on_meta)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_backward_operator_checks_its_inputs_too(device):
    inputs = [t.to(device) for t in (X, OFFSET, WEIGHT)]
    backward = torch.ops.accel_ops.deform_conv_backward
    for wrong in (torch.zeros(2, 8, 5, 6), torch.zeros(2, 4, 5, 6).double(), torch.zeros(4, 5, 6)):
        with pytest.raises(ValueError, match="gradient must have the result's shape"):
            backward(wrong.to(device), *inputs, *SAME.values(), [True, True, True])


def test_second_derivatives_are_refused_clearly_and_the_reference_has_them():
    inputs = [t.requires_grad_() for t in sample((1, 2, 3, 3), out_channels=2, reach=1.0)]
    out = accel_ops.deform_conv(*inputs, *PUBLISHED[2:])
    (slope,) = torch.autograd.grad(out.square().sum(), inputs[1], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.deform_conv"):
        slope.sum().backward()
    assert torch.autograd.gradgradcheck(reference.deform_conv, (*inputs, *PUBLISHED[2:]))


# --- within PyTorch -------------------------------------------------------------------------------------------


def test_one_integer_stands_for_both_directions():
    features, offset, weight = sample()
    expected = accel_ops.deform_conv(features, offset, weight, (1, 1), (2, 2), (2, 2))
    assert torch.equal(accel_ops.deform_conv(features, offset, weight, 1, 2, 2), expected)
    assert torch.equal(accel_ops.deform_conv(features, offset, weight, padding=2, dilation=2), expected)


def test_under_autocast_it_is_cast_as_any_convolution_and_offsets_keep_their_precision(native):
    features, offset, weight = sample(dtype=torch.float32)
    weight.requires_grad_()
    narrow = features.bfloat16(), offset, weight.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = accel_ops.deform_conv(features, offset, weight, *PUBLISHED[2:])
        assert out.dtype == F.conv2d(features, weight).dtype == torch.bfloat16
        assert torch.equal(out, accel_ops.deform_conv(*narrow, *PUBLISHED[2:]))
        # The operators themselves know no autocast, also in the matrix products inside.
        wide = torch.ops.accel_ops.deform_conv(features, offset, weight, *PUBLISHED[2:])
        torch.testing.assert_close(wide, reference.deform_conv(features, offset, weight, *PUBLISHED[2:]))
        double = accel_ops.deform_conv(features.double(), offset, weight.double(), *PUBLISHED[2:])
        assert double.dtype == torch.float64
    out.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    assert torch.equal(out, accel_ops.deform_conv(*narrow, *PUBLISHED[2:]))


def test_offsets_of_another_half_type_are_widened():
    features, offset, weight = sample(dtype=torch.float32)
    offset = offset.bfloat16()
    expected = accel_ops.deform_conv(features, offset.float(), weight, *PUBLISHED[2:])
    assert torch.equal(accel_ops.deform_conv(features, offset, weight, *PUBLISHED[2:]), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_with_weights_that_are_trained_elsewhere(native, mode):
    """The kernel's threads know nothing of the mode they are called in."""
    features, offset, weight = sample((2, 264, 16, 20), dtype=torch.float32)
    with threads(2):
        expected = native(features, offset, weight, *PUBLISHED[2:])
        weight.requires_grad_()
        with mode():
            out = native(features * 1, offset, weight, *PUBLISHED[2:])
    assert not out.requires_grad and torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_thread_has_the_same_share(native, dtype):
    """A frame of CamVid is 6 tiles as large as the product likes best."""
    inputs = sample((1, 512, 23, 30), (4, *PUBLISHED[1:]), 8, dtype, torch.channels_last, torch.float32)
    exact = reference.deform_conv(*(t.double() for t in inputs), *PUBLISHED[2:])
    products = {}
    for count in (1, 2, 3, 4, 16):
        with threads(count), all_threads_profiled() as profiler:
            out = native(*inputs, *PUBLISHED[2:])
        assert_equal_up_to_rounding(out, exact)
        products[count] = sum(event.name == "accel_ops::product" for event in profiler.events())
    assert products[1] <= 6 and products[16] >= 15
    assert all(products[count] % count == 0 for count in (2, 3, 4))


def all_threads_profiled():
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    every = _ExperimentalConfig(profile_all_threads=True)
    return profile(activities=[ProfilerActivity.CPU], experimental_config=every)


@layouts
def test_torch_compile_sees_one_operator(layout):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    inputs = sample(dtype=torch.float32, layout=layout)
    compiled = torch.compile(lambda *t: accel_ops.deform_conv(*t, padding=2, dilation=2), backend=keep, fullgraph=True)
    assert torch.equal(compiled(*inputs), accel_ops.deform_conv(*inputs, padding=2, dilation=2))
    assert sum(node.target is torch.ops.accel_ops.deform_conv for node in graphs[0].graph.nodes) == 1
    with torch.autocast("cpu", torch.bfloat16):
        expected = accel_ops.deform_conv(*inputs, padding=2, dilation=2)
        assert expected.dtype == torch.bfloat16 and torch.equal(compiled(*inputs), expected)


@layouts
def test_training_through_torch_compile(layout):
    torch._dynamo.reset()
    compiled = torch.compile(accel_ops.deform_conv, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 5, 6, 7), (1, 4, 8, 9)):
        inputs = sample(shape, dtype=torch.float32, layout=layout)
        expected = gradients(accel_ops.deform_conv, inputs, PUBLISHED)
        for a, b in zip(gradients(compiled, inputs, PUBLISHED), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_torch_export_sees_one_operator():
    class Layer(torch.nn.Module):
        def forward(self, features, offset, weight):
            return accel_ops.deform_conv(features, offset, weight, padding=2, dilation=2)

    inputs = sample(dtype=torch.float32)
    exported = torch.export.export(Layer(), inputs)
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.accel_ops.deform_conv.default]
    assert torch.equal(exported.module()(*inputs), Layer()(*inputs))


# --- on a GPU -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cuda(cuda_operators):
    return cuda_operators.deform_conv


class TestCuda:
    pytestmark = gpu

    @layouts
    @dtypes
    @geometries
    @pytest.mark.parametrize("channels", [4, 20, 64, 1056])
    def test_it_and_its_gradients_are_those_of_float64_up_to_rounding(self, cuda, layout, dtype, geometry, channels):
        inputs = sample((2, channels, 17, 33), geometry, 24, dtype, layout, torch.float32, "cuda")
        exact = gradients(reference.deform_conv, [t.double() for t in inputs], geometry)
        results = gradients(cuda, inputs, geometry)
        assert results[0].is_contiguous(memory_format=layout)
        for ours, theirs in zip(results, exact, strict=True):
            assert_equal_up_to_rounding(ours, theirs)

    @layouts
    @geometries
    def test_gradcheck(self, cuda, geometry, layout):
        inputs = sample((1, 4, 4, 5), geometry, 3, layout=layout, reach=1.0, device="cuda")
        inputs = [t.requires_grad_() for t in inputs]
        assert torch.autograd.gradcheck(cuda, (*inputs, *geometry[2:]), nondet_tol=1e-12)

    @layouts
    def test_opcheck(self, cuda, layout):
        geometry = GEOMETRIES["uneven"]
        inputs = sample((1, 8, 5, 6), geometry, 3, torch.float32, layout, device="cuda")
        inputs = [t.requires_grad_() for t in inputs]
        operator = torch.ops.accel_ops.deform_conv.default
        torch.library.opcheck(operator, (*inputs, *geometry[2:]), rtol=1e-4, atol=1e-4)

    def test_more_columns_than_are_made_at_once(self, cuda):
        geometry = GEOMETRIES["published, 4 groups"]
        inputs = sample((3, 1024, 64, 80), geometry, 8, torch.float32, torch.channels_last, device="cuda")
        expected = [
            gradients(cuda, (inputs[0][i : i + 1], inputs[1][i : i + 1], inputs[2]), geometry) for i in range(3)
        ]
        out, to_features, to_offset, _ = gradients(cuda, inputs, geometry)
        assert_equal_up_to_rounding(out, torch.cat([e[0] for e in expected]))
        assert to_features.isfinite().all() and to_offset.isfinite().all()

    @layouts
    @pytest.mark.parametrize("lost", [float("nan"), float("inf"), -1e30])
    def test_an_offset_to_nowhere_samples_nothing_and_has_no_gradient(self, cuda, layout, lost):
        features, offset, weight = sample(dtype=torch.float32, layout=layout, device="cuda")
        offset[0, 4, 2, 3] = lost
        outside = offset.clone()
        outside[0, 4, 2, 3] = -100
        results = gradients(cuda, (features, offset, weight), PUBLISHED)
        for ours, expected in zip(results, gradients(cuda, (features, outside, weight), PUBLISHED), strict=True):
            torch.testing.assert_close(ours, expected)
        assert not results[2][0, 4:6, 2, 3].any()

    def test_a_view_that_is_not_aligned_to_16_bytes(self, cuda):
        buffer = torch.randn(2 * 16 * 8 * 8 + 1, device="cuda")
        features = buffer[1:].view(2, 8, 8, 16).permute(0, 3, 1, 2)
        _, offset, weight = sample(features.shape, dtype=torch.float32, device="cuda")
        expected = reference.deform_conv(features, offset, weight, *PUBLISHED[2:])
        torch.testing.assert_close(cuda(features, offset, weight, *PUBLISHED[2:]), expected, rtol=1e-4, atol=1e-4)

    def test_empty_maps(self, cuda):
        for shape in [(0, 8, 7, 9), (2, 0, 7, 9), (2, 8, 0, 9)]:
            features = torch.zeros(shape, device="cuda")
            weight = torch.ones(6, shape[1], 3, 3, device="cuda")
            offset = torch.zeros(shape[0], 18, shape[2] + 2, 11, device="cuda")
            assert not any(t.any() for t in gradients(cuda, (features, offset, weight), WIDE))

    def test_autocast(self, cuda):
        features, offset, weight = sample(dtype=torch.float32, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            out = cuda(features, offset, weight, *PUBLISHED[2:])
        assert torch.equal(out, cuda(features.bfloat16(), offset, weight.bfloat16(), *PUBLISHED[2:]))

    def test_the_gradient_by_features_refuses_deterministic_mode(self, cuda):
        inputs = sample(dtype=torch.float32, device="cuda")
        torch.use_deterministic_algorithms(True)
        try:
            with pytest.raises(RuntimeError, match="deterministic"):
                gradients(cuda, inputs, PUBLISHED)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_tensors_on_two_devices_are_named(self, cuda):
        features, offset, weight = sample(dtype=torch.float32, device="cuda")
        with pytest.raises(ValueError, match="cuda:0 but offset is on cpu"):
            cuda(features, offset.cpu(), weight, *PUBLISHED[2:])
        with pytest.raises(ValueError, match="cuda:0 but weight is on cpu"):
            cuda(features, offset, weight.cpu(), *PUBLISHED[2:])


def test_its_operations_are_counted_as_a_convolutions():
    from torch.utils.flop_counter import FlopCounterMode

    x, weight = torch.randn(2, 4, 6, 8), torch.randn(5, 4, 3, 3)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(x, weight, padding=1)
    with FlopCounterMode(display=False) as own:
        accel_ops.deform_conv(x, torch.zeros(2, 18, 6, 8), weight, padding=1)
    assert own.get_total_flops() == counter.get_total_flops() > 0
