"""accel_ops.sample_attend against its definition, float64, F.grid_sample and torch.library's own checks."""

import subprocess
import sys

import accel_ops
import pytest
import torch
import torch.nn.functional as F
from accel_ops import reference
from operator_cases import dtypes, gpu, layouts, opcheck

NOWHERE = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 2.0**31, -(2.0**63), 1000.0]


@pytest.fixture(scope="session")
def native(native_operators):
    return native_operators.sample_attend


@pytest.fixture(params=["native", "reference"])
def attend(request):
    return request.getfixturevalue("native") if request.param == "native" else reference.sample_attend


def sample(
    shape=(2, 5, 21, 7, 10),
    dtype=torch.float64,
    layout=torch.contiguous_format,
    offsets_dtype=None,
    device="cpu",
    reach=3.0,
    count=9,
):
    """Query, key, value and offsets, of (B, E, C, H, W). The offsets keep off whole cells, where samples have kinks."""
    made = torch.Generator().manual_seed(0)
    batch, embedding, channels, *size = shape
    maps = [torch.randn(batch, c, *size, generator=made, dtype=torch.float64) for c in (embedding, embedding, channels)]
    whole = (torch.rand(count, 2, generator=made, dtype=torch.float64) * 2 - 1).mul(reach).round()
    offsets = whole + 0.05 + 0.9 * torch.rand(count, 2, generator=made, dtype=torch.float64)
    maps = [t.to(device, dtype).contiguous(memory_format=layout) for t in maps]
    return *maps, offsets.to(device, offsets_dtype or dtype)


def slope_for(out):
    """An incoming gradient that every type holds exactly."""
    return ((torch.arange(out.numel(), device=out.device) % 33 - 16) / 16).view(out.shape).to(out.dtype)


def gradients(attend, *inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = attend(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, slope_for(out))


def grid_of(batch, size):
    """(2r + 1)**2 whole offsets."""
    steps = torch.arange(-size, size + 1.0, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps)


def shifted(features, offset):
    """The features, sampled one offset away from every cell."""
    return reference.warp(features, offset.view(1, 2, 1, 1).expand(len(features), 2, *features.shape[2:]))


def by_grid_sample(query, key, value, offsets):
    """The same attention, holding every sample."""
    height, width = query.shape[2:]

    def samples(features):  # (B, C, K, H, W)
        x = torch.arange(width, dtype=offsets.dtype) + offsets[:, 0, None, None]
        y = torch.arange(height, dtype=offsets.dtype)[:, None] + offsets[:, 1, None, None]
        x, y = torch.broadcast_tensors((2 * x + 1) / width - 1, (2 * y + 1) / height - 1)
        grid = torch.stack([x, y], -1).view(1, -1, width, 2).expand(len(features), -1, -1, -1)
        found = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return found.view(*features.shape[:2], len(offsets), height, width)

    weights = torch.einsum("beyx,bekyx->bkyx", query, samples(key)).softmax(1)
    return torch.einsum("bkyx,bckyx->bcyx", weights, samples(value))


@layouts
@pytest.mark.parametrize("reach", [0, 3, 12], ids="reach {}".format)
def test_it_is_attention_over_what_grid_sample_finds_and_so_are_its_gradients(attend, layout, reach):
    inputs = sample(layout=layout, reach=reach)
    for ours, theirs in zip(gradients(attend, *inputs), gradients(by_grid_sample, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_whole_offsets_are_attention_over_a_window(attend):
    """The grid that offsets are initialised to, cut out by `F.unfold`, which knows no fractions."""
    query, key, value, _ = sample((2, 5, 4, 6, 9))
    offsets = grid_of(2, 2)

    def windows(features):  # (B, C, 25, H * W), y outside
        return F.unfold(features, 5, padding=2).view(2, features.shape[1], 25, -1)

    weights = torch.einsum("bep,bekp->bkp", query.flatten(2), windows(key)).softmax(1)
    expected = torch.einsum("bkp,bckp->bcp", weights, windows(value)).view(value.shape)
    torch.testing.assert_close(attend(query, key, value, offsets.flip(1)), expected, rtol=1e-12, atol=1e-12)
    # In another order they are the same set.
    torch.testing.assert_close(attend(query, key, value, offsets), expected, rtol=1e-12, atol=1e-12)


def test_an_offset_to_the_right_fetches_the_right_neighbour(attend):
    query, key, value, _ = sample(dtype=torch.float32)
    assert torch.equal(attend(query, key, value, torch.tensor([[1.0, 0.0]])), F.pad(value[..., 1:], (0, 1)))
    assert torch.equal(attend(query, key, value, torch.tensor([[0.0, 1.0]])), F.pad(value[..., 1:, :], (0, 0, 0, 1)))


def test_one_offset_is_a_warp_and_asks_nothing(attend):
    query, key, value, offsets = sample(count=1)
    flow = offsets.view(1, 2, 1, 1).expand(2, 2, 7, 10)
    out, to_query, to_key, to_value, to_offsets = gradients(attend, query, key, value, offsets)
    warped, warped_to_value, to_flow = gradients(reference.warp, value, flow)
    assert not to_query.any() and not to_key.any()
    torch.testing.assert_close(out, warped)
    torch.testing.assert_close(to_value, warped_to_value)
    torch.testing.assert_close(to_offsets[0], to_flow.sum((0, 2, 3)))


def test_the_same_offset_twice_is_that_offset_once(attend):
    query, key, value, offsets = sample(count=3)
    once = gradients(attend, query, key, value, offsets)
    twice = gradients(attend, query, key, value, offsets.repeat_interleave(2, 0))
    for a, b in zip(once[:4], twice[:4], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(once[4], twice[4].view(3, 2, 2).sum(1))


@layouts
@dtypes
@pytest.mark.parametrize("narrow_offsets", [True, False], ids=["offsets of the same type", "offsets float32"])
def test_it_and_its_gradients_are_those_of_float64_up_to_rounding(attend, layout, dtype, narrow_offsets):
    inputs = sample((2, 19, 37, 9, 14), dtype, layout, dtype if narrow_offsets else torch.float32)
    exact = gradients(reference.sample_attend, *(t.double() for t in inputs))
    results = gradients(attend, *inputs)
    assert [t.dtype for t in results] == [dtype, *(t.dtype for t in inputs)]
    for ours, theirs in zip(results, exact, strict=True):
        # Logits, weights and sums are float32 for all but float64; the results are rounded once to their type.
        step = torch.finfo(ours.dtype).eps
        scale = theirs.abs().max()
        atol = 1e-12 if dtype == torch.float64 and not narrow_offsets else 2e-5 * scale
        torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=float(atol))


@layouts
def test_the_reference_gradient_is_that_of_its_autograd(layout):
    inputs = sample(layout=layout)
    slope = torch.randn_like(inputs[2])
    by_formula = reference.sample_attend_backward(slope, *inputs, [True] * 4)
    inputs = [t.requires_grad_() for t in inputs]
    by_autograd = torch.autograd.grad(reference.sample_attend(*inputs), inputs, slope)
    for a, b in zip(by_autograd, by_formula, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@layouts
def test_gradcheck(native, layout):
    inputs = sample((2, 2, 3, 2, 3), layout=layout, reach=2.0, count=3)
    assert torch.autograd.gradcheck(native, [t.requires_grad_() for t in inputs])


def test_the_gradient_at_whole_offsets_is_that_of_a_step_right_or_down(attend):
    query, key, value, _ = sample((1, 3, 4, 5, 6))
    offsets = grid_of(1, 1)
    to_offsets = gradients(attend, query, key, value, offsets)[4]
    slope, step = slope_for(value), 1e-7
    before = (attend(query, key, value, offsets) * slope).sum()
    for k in range(len(offsets)):
        for axis in (0, 1):
            moved = offsets.clone()
            moved[k, axis] += step
            change = ((attend(query, key, value, moved) * slope).sum() - before) / step
            torch.testing.assert_close(to_offsets[k, axis], change, rtol=1e-4, atol=1e-5)


def test_gradcheck_of_all_but_offsets_at_whole_offsets(native):
    query, key, value, _ = sample((2, 2, 3, 2, 3))
    maps = [t.requires_grad_() for t in (query, key, value)]
    assert torch.autograd.gradcheck(lambda *maps: native(*maps, grid_of(1, 1)), maps)


@layouts
@dtypes
def test_opcheck(layout, dtype):
    inputs = sample((1, 3, 5, 4, 5), dtype, layout, torch.float32)
    opcheck(
        torch.ops.accel_ops.sample_attend.default, [t.requires_grad_() for t in inputs], dtype, rtol=1e-2, atol=1e-2
    )
    inputs = [t.detach() for t in inputs]
    for needs in ([True] * 4, [True, False, False, True], [False, True, True, False]):
        given = (torch.ones_like(inputs[2]), *inputs, needs)
        opcheck(torch.ops.accel_ops.sample_attend_backward.default, given, dtype)


@layouts
@pytest.mark.parametrize(
    "shape", [(0, 2, 3, 4, 5), (2, 2, 0, 4, 5), (2, 0, 3, 4, 5), (2, 2, 3, 0, 5), (2, 2, 3, 4, 0)], ids=str
)
def test_empty_maps(attend, shape, layout):
    inputs = sample(shape, layout=layout, count=2)
    out, *made = gradients(attend, *inputs)
    assert out.shape == inputs[2].shape
    assert [t.shape for t in made] == [t.shape for t in inputs]
    if shape[1]:
        assert torch.equal(made[3], torch.zeros_like(inputs[3]))
    else:  # nothing to tell offsets apart by: their mean
        mean = sum(reference.sample_attend(*inputs[:3], offset[None]) for offset in inputs[3]) / 2
        torch.testing.assert_close(out, mean)


@layouts
def test_a_map_of_one_cell(attend, layout):
    query, key = (torch.ones(1, 3, 1, 1).contiguous(memory_format=layout) for _ in range(2))
    value = torch.full((1, 3, 1, 1), 8.0)
    for x, y, share in [(0, 0, 1), (0.25, 0, 0.75), (-0.5, 0.5, 0.25), (1, 0, 0), (-1, -1, 0), (5, 5, 0)]:
        offsets = torch.tensor([[float(x), float(y)], [9.0, 9.0]])
        weight = torch.tensor([3.0 * share, 0.0]).softmax(0)[0]
        torch.testing.assert_close(attend(query, key, value, offsets), value * share * weight)


@layouts
@dtypes
@pytest.mark.parametrize("lost", NOWHERE)
def test_an_offset_to_nowhere_is_worth_a_logit_and_a_value_of_zero(attend, layout, dtype, lost):
    query, key, value, offsets = sample(dtype=dtype, layout=layout, offsets_dtype=torch.float32, count=3)
    if lost == 1000 and dtype == torch.float64:
        offsets = offsets.double()
    offsets[1, 0] = lost
    out, *made = gradients(attend, query, key, value, offsets)
    assert all(t.isfinite().all() for t in (out, *made))
    assert not made[3][1].any()
    rest = [query.double(), key.double(), value.double(), offsets[[0, 2]].double()]
    logits = torch.stack([(rest[0] * shifted(rest[1], o)).sum(1) for o in rest[3]], 1)
    weights = F.pad(logits, (0, 0, 0, 0, 0, 1)).softmax(1)  # the third logit is zero
    expected = sum(weights[:, k, None] * shifted(rest[2], o) for k, o in enumerate(rest[3]))
    torch.testing.assert_close(out.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("lost", NOWHERE)
def test_where_all_offsets_lead_nowhere_there_is_nothing(attend, lost):
    query, key, value, _ = sample(dtype=torch.float32)
    for results in gradients(attend, query, key, value, torch.full((3, 2), lost)):
        assert not results.any()


def test_offsets_that_leave_the_map_on_every_side(attend):
    """More displacements than cells, most of them outside for most cells."""
    query, key, value, _ = sample((1, 4, 6, 3, 5))
    offsets = grid_of(1, 8) + 0.3
    for ours, theirs in zip(
        gradients(attend, query, key, value, offsets),
        gradients(by_grid_sample, query, key, value, offsets),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_nan_is_seen_by_the_cells_next_to_whose_samples_it_lies(attend):
    query, key, value, _ = sample((1, 3, 4, 7, 9), torch.float32)
    offsets = torch.tensor([[1.5, 0.5], [2.0, -1.0]])
    reached = [(1, 0), (2, 0), (1, 1), (2, 1), (2, -1), (3, -1), (3, 0)]  # displacements: right, down
    seen = torch.zeros(7, 9, dtype=torch.bool)
    for dx, dy in reached:
        seen[3 - dy, 4 - dx] = True
    key_with, value_with = key.clone(), value.clone()
    key_with[0, 1, 3, 4] = value_with[0, 2, 3, 4] = float("nan")
    assert torch.equal(attend(query, key_with, value, offsets).isnan(), seen.expand(1, 4, 7, 9))
    blurred = attend(query, key, value_with, offsets).isnan()
    assert torch.equal(blurred[0, 2], seen) and blurred.sum() == seen.sum()
    query[0, 0, 3, 4] = float("nan")
    asked = attend(query, key, value, offsets).isnan()
    assert asked[0, :, 3, 4].all() and asked.sum() == 4


@layouts
def test_nothing_outside_the_own_map_is_read(attend, layout):
    *maps, offsets = sample((3, 3, 8, 5, 6), torch.float32, layout, reach=9.0)
    slope = slope_for(maps[2])
    expected = attend(*maps, offsets)[1]
    expected_gradients = torch.ops.accel_ops.sample_attend_backward(slope, *maps, offsets, [True, True, True, False])
    for t in (*maps, slope):
        t[0] = t[2] = float("nan")
    assert torch.equal(attend(*maps, offsets)[1], expected)
    made = torch.ops.accel_ops.sample_attend_backward(slope, *maps, offsets, [True, True, True, False])
    for ours, theirs in zip(made[:3], expected_gradients[:3], strict=True):
        assert torch.equal(ours[1], theirs[1])


def test_large_logits_do_not_overflow(attend):
    query, key, value, offsets = sample(dtype=torch.float32)
    out, *made = gradients(attend, query * 1e4, key * 1e4, value, offsets)
    assert all(t.isfinite().all() for t in (out, *made))
    best = reference.sample_attention(query, key, offsets).argmax(1, keepdim=True)
    chosen = torch.stack([shifted(value, o) for o in offsets], 1).gather(1, best[:, :, None].expand(-1, -1, 21, -1, -1))
    torch.testing.assert_close(out, chosen[:, 0], rtol=1e-4, atol=1e-4)


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
def test_views_give_what_their_copies_give(attend, view):
    *maps, offsets = sample((2, 9, 9, 7, 10), torch.float32)
    maps = [view(t) for t in maps]
    assert not maps[0].is_contiguous()
    results = gradients(attend, *maps, torch.stack([offsets, offsets], 1)[:, 0])
    copies = gradients(reference.sample_attend, *(t.contiguous() for t in maps), offsets)
    for a, b in zip(results, copies, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@layouts
def test_results_and_gradients_keep_the_layout(attend, layout):
    inputs = sample(dtype=torch.float32, layout=layout)
    assert attend(*inputs).is_contiguous(memory_format=layout)
    for backward in (torch.ops.accel_ops.sample_attend_backward, reference.sample_attend_backward):
        for made in backward(slope_for(inputs[2]), *inputs, [True] * 4)[:3]:
            assert made.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels", [1, 15, 16, 63, 65, 257])
def test_every_number_of_channels(native, channels):
    """The kernels work in blocks of channels: the last one may be short."""
    inputs = sample((1, channels, 258 - channels, 6, 5), torch.float32, torch.channels_last)
    inputs = (inputs[0] / channels**0.5, *inputs[1:])
    for a, b in zip(gradients(native, *inputs), gradients(reference.sample_attend, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (3, 4), (4, 5), (5, 7), (6, 8), (33, 2)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_every_size_of_map_and_number_of_offsets(native, size, count):
    """The kernels take some cells and some displacements at once: the last ones may be fewer."""
    inputs = sample((2, 3, 4, *size), count=count, reach=4.0)
    for a, b in zip(gradients(native, *inputs), gradients(reference.sample_attend, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@layouts
def test_results_on_the_cpu_repeat_exactly(native, layout):
    """Also where threads share a block of channels."""
    inputs = sample((2, 70, 70, 16, 20), torch.float32, layout)
    first = gradients(native, *inputs)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(native, *inputs), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("needed", range(4), ids=["query", "key", "value", "offsets"])
def test_a_gradient_nobody_needs_is_not_computed(attend, needed):
    inputs = sample(dtype=torch.float32)
    expected = gradients(attend, *inputs)[1:]
    native = attend is not reference.sample_attend
    backward = torch.ops.accel_ops.sample_attend_backward if native else reference.sample_attend_backward
    made = backward(slope_for(inputs[2]), *inputs, [i == needed for i in range(4)])
    for i in range(4):
        if i == needed:
            torch.testing.assert_close(made[i], expected[i], rtol=1e-5, atol=1e-5)
        else:
            assert made[i].numel() == 0


MAP, OFFSETS = torch.zeros(1, 3, 4, 5), torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("query", "key", "value", "offsets", "error"),
    [
        (MAP[0], MAP[0], MAP, OFFSETS, r"query must be \(B, E, H, W\), got \[3, 4, 5\]"),
        (MAP, MAP[:, :2], MAP, OFFSETS, r"key must have the shape of query \[1, 3, 4, 5\], got \[1, 2, 4, 5\]"),
        (MAP, MAP, MAP[0], OFFSETS, r"value must be \(B, C, H, W\) for query \[1, 3, 4, 5\], got \[3, 4, 5\]"),
        (MAP, MAP, MAP[..., 1:], OFFSETS, r"value must be .*got \[1, 3, 4, 4\]"),
        (MAP, MAP, MAP.expand(2, -1, -1, -1), OFFSETS, r"value must be .*got \[2, 3, 4, 5\]"),
        (MAP, MAP, MAP, OFFSETS[0], r"offsets must be \(K, 2\) with K of 1 or more, got \[2\]"),
        (MAP, MAP, MAP, OFFSETS[:0], r"offsets must be .*got \[0, 2\]"),
        (MAP, MAP, MAP, torch.zeros(2, 3), r"offsets must be .*got \[2, 3\]"),
        (*(MAP.byte(),) * 3, OFFSETS, r"query must be float16, bfloat16, float32 or float64, got"),
        (MAP, MAP.byte(), MAP, OFFSETS, r"key must be of the query's type .*got"),
        (MAP, MAP, MAP.long(), OFFSETS, r"value must be of the query's type .*got"),
        (MAP, MAP, MAP, OFFSETS.double(), r"offsets must be float32 or of the query's type"),
        (MAP, MAP, MAP, OFFSETS.long(), r"offsets must be float32 or of the query's type"),
    ],
)
def test_wrong_shapes_and_types_are_named(attend, query, key, value, offsets, error):
    with pytest.raises(ValueError, match=f"sample_attend: {error}"):
        attend(query, key, value, offsets)
    with pytest.raises(ValueError, match=f"sample_attend: {error}"):
        torch.ops.accel_ops.sample_attend(*(t.to("meta") for t in (query, key, value, offsets)))


def test_tensors_on_two_devices_are_named():
    with pytest.raises(ValueError, match="sample_attend: query is on cpu but offsets is on meta"):
        reference.sample_attend(MAP, MAP, MAP, OFFSETS.to("meta"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_backward_operator_checks_its_inputs_too(device):
    inputs = [t.to(device) for t in sample(dtype=torch.float32)]
    with pytest.raises(ValueError, match="gradient must have the value's shape"):
        torch.ops.accel_ops.sample_attend_backward(inputs[2][:, :1], *inputs, [True] * 4)


def test_second_derivatives_are_refused_clearly_and_the_reference_has_them():
    inputs = [t.requires_grad_() for t in sample((1, 2, 2, 2, 3), reach=1.0, count=2)]
    (slope,) = torch.autograd.grad(accel_ops.sample_attend(*inputs).square().sum(), inputs[3], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.sample_attend"):
        slope.sum().backward()
    assert torch.autograd.gradgradcheck(reference.sample_attend, inputs)


def test_autocast_needs_no_casts():
    """Embeddings are made by convolutions, hence half, of features that may not be."""
    query, key, value, offsets = sample(dtype=torch.float32)
    eye = torch.eye(5).view(5, 5, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = [F.conv2d(t, eye) for t in (query, key)]
        assert narrow[0].dtype == torch.bfloat16
        mixed = accel_ops.sample_attend(*narrow, value, offsets.bfloat16())
        assert mixed.dtype == torch.float32
        assert accel_ops.sample_attend(*narrow, value.bfloat16(), offsets).dtype == torch.bfloat16
    wide = accel_ops.sample_attend(*(t.float() for t in narrow), value, offsets.bfloat16().float())
    torch.testing.assert_close(mixed, wide)


def test_torch_compile_sees_one_operator():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(lambda a, *rest: accel_ops.sample_attend(a * 2, *rest), backend=keep, fullgraph=True)
    query, *rest = sample(dtype=torch.float32)
    assert torch.equal(compiled(query, *rest), accel_ops.sample_attend(query * 2, *rest))
    assert sum(node.target is torch.ops.accel_ops.sample_attend for node in graphs[0].graph.nodes) == 1


@layouts
def test_training_through_torch_compile(layout):
    torch._dynamo.reset()
    compiled = torch.compile(accel_ops.sample_attend, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((2, 4, 5, 6, 7), (1, 3, 4, 8, 9)):
        inputs = sample(shape, torch.float32, layout)
        for a, b in zip(gradients(compiled, *inputs), gradients(accel_ops.sample_attend, *inputs), strict=True):
            torch.testing.assert_close(a, b)


def test_torch_export_sees_one_operator():
    class Attend(torch.nn.Module):
        def forward(self, query, key, value, offsets):
            return accel_ops.sample_attend(query, key, value, offsets)

    inputs = sample(dtype=torch.float32)
    exported = torch.export.export(Attend(), inputs)
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.accel_ops.sample_attend.default]
    assert torch.equal(exported.module()(*inputs), accel_ops.sample_attend(*inputs))


def test_its_cost_is_counted():
    """So that optimised models are cut into parts of like cost: as if every offset were a whole one."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = sample((2, 5, 21, 7, 10), count=9)
    with FlopCounterMode(display=False) as counter:
        accel_ops.sample_attend(*inputs)
    assert counter.get_total_flops() == 2 * 2 * 7 * 10 * 9 * (5 + 21)


@pytest.mark.slow
def test_forward_and_backward_take_little_memory(native):
    """At 38 x 63 cells, 256 channels of embedding and 1024 of features; all samples at once would be 800 MB."""
    code = """
import resource, torch, accel_ops
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB
steps = torch.arange(-4, 5.0)
offsets = (torch.cartesian_prod(steps, steps) + 0.3).requires_grad_()
query, key, value = (torch.randn(1, c, 38, 63, requires_grad=True) for c in (256, 256, 1024))
small = [t.detach()[:, :8, :4, :4].requires_grad_() for t in (query, key, value)]
accel_ops.sample_attend(*small, offsets).sum().backward()  # whatever is loaded by the first call
before = peak()
accel_ops.sample_attend(query, key, value, offsets).sum().backward()
print(peak() - before)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


# On a GPU


@pytest.fixture(scope="session")
def cuda(cuda_operators):
    return cuda_operators.sample_attend


class TestCuda:
    pytestmark = gpu

    @layouts
    @dtypes
    @pytest.mark.parametrize("channels", [1, 19, 64, 264])
    def test_it_and_its_gradients_are_those_of_the_reference(self, cuda, layout, dtype, channels):
        inputs = sample((2, channels, 265 - channels, 17, 33), dtype, layout, torch.float32, "cuda")
        inputs = (inputs[0] / channels**0.5, *inputs[1:])
        exact = gradients(reference.sample_attend, *(t.double() for t in inputs))
        for ours, theirs in zip(gradients(cuda, *inputs), exact, strict=True):
            step = torch.finfo(ours.dtype).eps
            atol = 1e-4 * float(theirs.abs().max())
            torch.testing.assert_close(ours.double(), theirs, rtol=step, atol=atol)
        assert cuda(*inputs).is_contiguous(memory_format=layout)

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 7), (33, 2)], ids=str)
    @pytest.mark.parametrize("count", [1, 5, 300])
    def test_every_size_of_map_and_number_of_offsets(self, cuda, size, count):
        inputs = sample((3, 3, 4, *size), count=count, reach=4.0, device="cuda")
        for a, b in zip(gradients(cuda, *inputs), gradients(reference.sample_attend, *inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

    def test_whole_offsets(self, cuda):
        inputs = (*sample((2, 5, 4, 6, 9), device="cuda")[:3], grid_of(2, 4).cuda())
        for a, b in zip(gradients(cuda, *inputs), gradients(reference.sample_attend, *inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

    @layouts
    def test_gradcheck(self, cuda, layout):
        inputs = sample((2, 2, 3, 3, 4), layout=layout, reach=2.0, count=4, device="cuda")
        assert torch.autograd.gradcheck(cuda, [t.requires_grad_() for t in inputs])

    @layouts
    def test_opcheck(self, cuda, layout):
        inputs = sample((1, 8, 8, 4, 5), torch.float32, layout, device="cuda")
        inputs = [t.requires_grad_() for t in inputs]
        torch.library.opcheck(torch.ops.accel_ops.sample_attend.default, inputs, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("lost", NOWHERE)
    def test_an_offset_to_nowhere(self, cuda, lost):
        inputs = sample(dtype=torch.float32, device="cuda", count=3)
        inputs[3][1, 0] = lost
        results = gradients(cuda, *inputs)
        for a, b in zip(results, gradients(reference.sample_attend, *inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert not results[4][1].any()

    def test_a_view_that_is_not_aligned_to_16_bytes(self, cuda):
        maps = [torch.randn(2 * 16 * 8 * 8 + 1, device="cuda")[1:].view(2, 8, 8, 16).permute(0, 3, 1, 2) for _ in "qkv"]
        offsets = torch.tensor([[0.5, -0.25], [1.5, 2.0]], device="cuda")
        for a, b in zip(
            gradients(cuda, *maps, offsets), gradients(reference.sample_attend, *maps, offsets), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    def test_empty_maps(self, cuda):
        for shape in [(0, 2, 3, 4, 5), (2, 2, 0, 4, 5), (2, 0, 3, 4, 5), (2, 2, 3, 0, 5)]:
            inputs = sample(shape, torch.float32, device="cuda")
            out, *made = gradients(cuda, *inputs)
            assert out.shape == inputs[2].shape and [t.shape for t in made] == [t.shape for t in inputs]

    def test_it_repeats_exactly(self, cuda):
        inputs = sample((2, 70, 70, 16, 20), torch.float32, device="cuda")
        torch.use_deterministic_algorithms(True)
        try:
            first = gradients(cuda, *inputs)
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(cuda, *inputs), strict=True))
        finally:
            torch.use_deterministic_algorithms(False)

    def test_a_cuda_graph_follows_the_offsets(self, cuda):
        """Nothing of the plan is worked out on the CPU."""
        inputs = sample(dtype=torch.float32, device="cuda")
        cuda(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = cuda(*inputs)
        inputs[3].mul_(1.7).sub_(0.4)
        graph.replay()
        torch.testing.assert_close(out, reference.sample_attend(*inputs), rtol=1e-4, atol=1e-4)

    def test_the_current_stream_is_used(self, cuda):
        inputs, stream = sample((1, 64, 256, 38, 63), torch.float32, device="cuda"), torch.cuda.Stream()
        expected = cuda(*inputs)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late = [t.neg().neg() for t in inputs]
            out = cuda(*late)
        stream.synchronize()
        assert torch.equal(out, expected)

    def test_tensors_on_two_devices_are_named(self, cuda):
        query, key, value, offsets = sample(dtype=torch.float32, device="cuda")
        with pytest.raises(ValueError, match="query is on cuda:0 but offsets is on cpu"):
            cuda(query, key, value, offsets.cpu())
