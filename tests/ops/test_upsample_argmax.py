"""accel_ops.upsample_argmax against PyTorch's interpolation and the published transposed convolution."""

import warnings
from pathlib import Path

import accel_ops
import pytest
import torch
import torch.nn.functional as F
from accel_ops import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_cases import LAYOUTS, TYPES, dtypes, gpu, layouts, opcheck
from processes import run_code
from torch.utils._python_dispatch import TorchDispatchMode

borders = pytest.mark.parametrize("border", ["replicate", "zero"])


class Operators:
    """Both operators of one implementation."""

    def __init__(self, module):
        self.labels, self.both = module.upsample_argmax, module.upsample_argmax_margin


@pytest.fixture(scope="session")
def native(native_operators):
    return Operators(native_operators)


@pytest.fixture(params=["native", "reference"])
def operators(request):
    return request.getfixturevalue("native") if request.param == "native" else Operators(reference)


def cells(size, more=(0, 0), stride=16):
    return [max(-(-side // stride) + extra, 1) for side, extra in zip(size, more, strict=True)]


def sample(
    size, classes=5, batch=2, dtype=torch.float64, layout=torch.contiguous_format, more=(0, 0), seed=0, stride=16
):
    """Scores that change slowly in half of the images, so that few classes compete, and are noise in the others."""
    generator = torch.Generator().manual_seed(seed)
    height, width = cells(size, more, stride)
    scores = torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    scores[::2] = 0.1 * scores[::2] + torch.randn(batch, classes, 1, 1, generator=generator)[::2]
    return scores.to(dtype).contiguous(memory_format=layout)


def full_size(scores, size, bias=None, border="replicate", stride=16):
    """The independent source: logits (B, K, H, W) of PyTorch's upsampling, float64."""
    scores = F.pad(scores.double(), (0, 1, 0, 1), mode="constant" if border == "zero" else "replicate")
    if border == "replicate":
        full = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    else:
        full = transposed_convolution(scores, stride // 2, stride)
    full = full[..., : size[0], : size[1]]
    return full if bias is None else full + bias.double().view(-1, 1, 1)


def transposed_convolution(scores, padding, stride=16):
    """MXNet's Deconvolution with its bilinear kernel: for stride 16 a kernel of 32, a group a class."""
    wide = 2 * stride
    line = 1 - (torch.arange(wide, dtype=scores.dtype) / stride - (wide - 1) / wide).abs()
    kernel = (line[:, None] * line).expand(scores.shape[1], 1, wide, wide)
    return F.conv_transpose2d(scores, kernel, stride=stride, padding=padding, groups=scores.shape[1])


def margin_of(logits):
    if logits.shape[1] == 1:
        return torch.full_like(logits[:, 0], torch.inf)
    highest = logits.topk(2, 1).values
    return highest[:, 0] - highest[:, 1]


def assert_right(labels, logits, rounding):
    """Every label is the argmax, except where the two highest logits differ by no more than rounding."""
    assert labels.dtype == torch.uint8
    assert labels.shape == (logits.shape[0], *logits.shape[2:])
    clear = margin_of(logits) > rounding
    assert torch.equal(labels.long()[clear], logits.argmax(1)[clear])
    chosen = logits.gather(1, labels.long()[:, None])[:, 0]
    assert (chosen >= logits.amax(1) - rounding).all()


def assert_same(operators, scores, size, bias, border, rounding, stride=16):
    logits = full_size(scores, size, bias, border, stride)
    assert_right(operators.labels(scores, size, bias, border, stride), logits, rounding)
    labels, margin = operators.both(scores, size, bias, border, stride)
    assert_right(labels, logits, rounding)
    assert margin.dtype == torch.float32
    torch.testing.assert_close(margin.double(), margin_of(logits), rtol=1e-6, atol=2 * rounding)


@borders
@dtypes
@pytest.mark.parametrize("classes", [1, 2, 11, 19, 150, 255])
def test_labels_and_margins_are_those_of_the_full_size_logits(operators, classes, dtype, border):
    size = (37, 70)
    scores, bias = sample(size, classes, dtype=dtype), torch.randn(classes)
    assert_same(operators, scores, size, bias, border, 1e-13 if dtype == torch.float64 else 4e-6)


@borders
@layouts
@pytest.mark.parametrize("more", [(0, 0), (1, 1), (-1, -1), (1, -1)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (16, 16), (17, 24), (25, 41), (200, 9), (64, 160)], ids=str)
def test_every_size_of_frame_and_map(operators, size, more, layout, border):
    scores = sample(size, 6, layout=layout, more=more)
    assert_same(operators, scores, size, None, border, 1e-13)


@borders
@pytest.mark.parametrize("more", [(0, 0), (1, -1), (-1, 1)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (8, 3), (37, 70), (9, 200)], ids=str)
@pytest.mark.parametrize("stride", [2, 4, 8, 32])
def test_cells_of_other_sides(operators, stride, size, more, border):
    scores = sample(size, 6, more=more, stride=stride)
    assert_same(operators, scores, size, torch.randn(6), border, 1e-13, stride)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_drawn_is_labelled_right(native, data):
    """Whole numbers: every sum is exact in every type, so that labels, ties and margins must be equal."""
    draw = data.draw
    size = draw(st.tuples(st.integers(1, 130), st.integers(1, 130)), "size")
    more = draw(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), "cells more")
    stride = draw(st.sampled_from([2, 4, 8, 16, 32]), "stride")
    classes, batch = draw(st.integers(1, 40), "classes"), draw(st.integers(0, 3), "batch")
    dtype, border = draw(st.sampled_from(TYPES), "type"), draw(st.sampled_from(["replicate", "zero"]), "border")
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31), "seed"))
    most = draw(st.sampled_from([2, 12]), "highest score")
    scores = torch.randint(-most, most, (batch, classes, *cells(size, more, stride)), generator=generator).to(dtype)
    scores = scores.contiguous(memory_format=draw(st.sampled_from(list(LAYOUTS.values())), "layout"))
    bias = torch.randint(-2, 3, (classes,), generator=generator).to(dtype) if draw(st.booleans(), "bias") else None
    for implementation in (native, Operators(reference)):
        labels, margin = implementation.both(scores, size, bias, border, stride)
        logits = full_size(scores, size, bias, border, stride)
        assert torch.equal(labels.long(), logits.argmax(1))
        assert torch.equal(margin.double(), margin_of(logits))
        assert torch.equal(implementation.labels(scores, size, bias, border, stride), labels)


@borders
@dtypes
def test_a_tie_goes_to_the_lower_class(operators, dtype, border):
    scores = sample((50, 70), 4, dtype=dtype)
    doubled = torch.cat([scores, scores], 1)[:, [0, 4, 5, 1, 2, 6, 7, 3]]  # 0 0 1 1 2 2 3 3
    labels, margin = operators.both(doubled, (50, 70), None, border)
    assert torch.equal(labels, 2 * operators.labels(scores, (50, 70), None, border))
    assert not margin.any()
    assert torch.equal(operators.labels(doubled, (50, 70), None, border), labels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_classes_as_close_as_rounding_are_never_skipped_wrongly(native, dtype, scale):
    """Of classes a rounding apart one that is never more than a few roundings below the highest must be named."""
    base = torch.rand(4, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0)) * scale
    step = torch.finfo(dtype).eps
    scores = base * (1 + step * torch.randint(-2, 3, (4, 9, 8, 8), generator=torch.Generator().manual_seed(1)))
    scores = torch.cat([scores, scores[:, :4] - scale], 1)
    assert_right(native.labels(scores, (128, 128)), full_size(scores, (128, 128)), 4 * step * scale)
    assert_right(native.both(scores, (128, 128))[0], full_size(scores, (128, 128)), 4 * step * scale)


@borders
@dtypes
@layouts
@pytest.mark.parametrize(
    "odd", [[float("nan")], [float("inf")], [float("-inf")], [float(x) for x in ("inf", "-inf", "nan")]], ids=str
)
def test_nan_and_infinity_are_ranked_as_argmax_ranks_them_and_reach_no_further_than_a_cell(
    operators, odd, layout, dtype, border
):
    size, generator = (90, 120), torch.Generator().manual_seed(0)
    scores = torch.randint(-4, 5, (3, 7, *cells(size)), generator=generator).double()
    where = torch.randperm(scores[:2].numel(), generator=generator)[:24]  # not in the last image
    scores.view(-1)[where] = torch.tensor(odd, dtype=torch.float64).repeat(24 // len(odd))
    # interpolate() would multiply what is beyond the border by zero, which makes NaN of an infinity.
    padded = F.pad(scores, (1, 1, 1, 1), mode="constant" if border == "zero" else "replicate")
    logits = transposed_convolution(padded, padding=24)[..., : size[0], : size[1]]
    assert not logits.isfinite().all() and logits[2].isfinite().all()
    scores = scores.to(dtype).contiguous(memory_format=layout)
    labels, margin = operators.both(scores, size, None, border)
    assert torch.equal(labels.long(), logits.argmax(1))
    assert torch.equal(operators.labels(scores, size, None, border), labels)
    torch.testing.assert_close(margin.double(), margin_of(logits), rtol=0, atol=0, equal_nan=True)


def test_a_class_with_a_bias_of_minus_infinity_never_wins(operators):
    scores, bias = sample((64, 64), 4), torch.tensor([0, float("-inf"), 0, float("-inf")])
    labels = operators.labels(scores, (64, 64), bias)
    assert labels.unique().tolist() == [0, 2]
    assert torch.equal(labels, 2 * operators.labels(scores[:, ::2], (64, 64)))


def test_where_all_are_minus_infinity_the_first_class_is_named(operators):
    labels, margin = operators.both(torch.full((1, 3, 2, 2), float("-inf")), (32, 32))
    assert not labels.any() and margin.isnan().all()


@pytest.mark.parametrize("value", [3.0, float("nan"), float("-inf")])
def test_with_one_class_the_margin_is_infinite(operators, value):
    labels, margin = operators.both(torch.full((1, 1, 2, 3), value), (32, 48))
    assert not labels.any() and margin.isposinf().all()


def test_the_bias_does_not_fade_with_the_zero_border(operators):
    bias = torch.tensor([1.0, 3.5, 2.0])
    labels, margin = operators.both(torch.zeros(1, 3, 2, 2), (32, 32), bias, "zero")
    assert torch.equal(labels, torch.ones_like(labels))
    assert torch.equal(margin, torch.full_like(margin, 1.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_widened_before_interpolation(operators, dtype):
    scores, bias = sample((64, 96), 19, dtype=dtype), torch.randn(19).to(dtype)
    for narrow, wide in zip(
        operators.both(scores, (64, 96), bias), operators.both(scores.float(), (64, 96), bias.float()), strict=True
    ):
        assert torch.equal(narrow, wide)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, 1:-1, 1:, :-1],
        lambda t: t.contiguous(memory_format=torch.channels_last)[:, 2:7, :, 1:],
        lambda t: t.transpose(2, 3),
        lambda t: t[:, ::3],
        lambda t: t[:1, :1].expand(2, 5, -1, -1),
        lambda t: t[:, :, ::2, 1::2],
    ],
    ids=["slice", "channels-last slice", "transposed", "steps", "expanded", "every other cell"],
)
def test_views_give_what_their_copies_give(operators, view):
    scores = view(sample((128, 160), 9, batch=3, dtype=torch.float32))
    assert not scores.is_contiguous()
    size, bias = (scores.shape[2] * 16 - 5, scores.shape[3] * 16 - 3), torch.randn(2, scores.shape[1])[0]
    assert_same(operators, scores, size, bias[::1], "zero", 4e-6)
    for seen, copied in zip(
        operators.both(scores, size, bias), operators.both(scores.contiguous(), size, bias), strict=True
    ):
        assert torch.equal(seen, copied)


def test_a_bias_of_any_stride_and_type(operators):
    scores, bias = sample((40, 40), 5), torch.randn(5, 3)
    expected = full_size(scores, (40, 40), bias[:, 1]).argmax(1)
    assert torch.equal(operators.labels(scores, (40, 40), bias[:, 1]).long(), expected)
    narrow = bias[:, 1].bfloat16()
    expected = full_size(scores, (40, 40), narrow).argmax(1)
    assert torch.equal(operators.labels(scores, (40, 40), narrow).long(), expected)


def test_an_empty_batch(operators):
    labels, margin = operators.both(torch.zeros(0, 3, 2, 2), (32, 20))
    assert labels.shape == margin.shape == operators.labels(torch.zeros(0, 3, 2, 2), (32, 20)).shape == (0, 32, 20)


def test_results_do_not_depend_on_the_number_of_threads(native):
    scores = sample((300, 700), 19, batch=3, dtype=torch.float32)
    first = native.both(scores, (300, 700))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for a, b in zip(first, native.both(scores, (300, 700)), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def peak_of(call):
    """Bytes that `call` adds to this process at its peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        pytest.skip("this system does not tell the peak memory of a process")

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])

    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def test_full_size_logits_are_never_held(native):
    scores, size = torch.randn(1, 40, 128, 64), (2048, 1024)
    logits, pixels = scores.numel() * 256 * 4, size[0] * size[1]
    assert peak_of(lambda: full_size(scores, size)) > logits
    assert peak_of(lambda: native.labels(scores, size)) < pixels + logits / 50
    assert peak_of(lambda: native.both(scores, size)) < 5 * pixels + logits / 50


def test_the_reference_holds_a_strip_at_a_time():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.numel = max(self.numel, result.numel())
            return result

    scores, size = torch.randn(1, 40, 64, 32), (1024, 512)
    for operator in (reference.upsample_argmax, reference.upsample_argmax_margin):
        with Largest() as largest:
            operator(scores, size)
        assert 64 * 512 * 40 <= largest.numel < 1.2 * 64 * 512 * 40


def test_there_is_no_gradient(operators):
    scores, bias = sample((32, 32)).requires_grad_(), torch.zeros(5, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [operators.labels(scores, (32, 32), bias), *operators.both(scores, (32, 32), bias)]
    assert not any(result.requires_grad for result in results)


@pytest.mark.parametrize(
    ("scores", "size", "bias", "border", "error"),
    [
        (torch.zeros(3, 2, 2), (32, 32), None, "zero", r"scores must be \(B, K, h, w\), got \[3, 2, 2\]"),
        (torch.zeros(1, 3, 2, 2).int(), (32, 32), None, "zero", r"scores must be float16, bfl"),
        (torch.zeros(1, 256, 2, 2), (32, 32), None, "zero", r"uint8 labels hold 1 to 255 classes, got 256"),
        (torch.zeros(1, 0, 2, 2), (32, 32), None, "zero", r"uint8 labels hold 1 to 255 classes, got 0"),
        (torch.zeros(1, 3, 2, 2), (32, 32), None, "reflect", r"border must be 'replicate' or 'zero', got 'reflect'"),
        (torch.zeros(1, 3, 2, 2), (32, 32), torch.zeros(2), "zero", r"bias must be \(K,\) = \[3\], got \[2\]"),
        (torch.zeros(1, 3, 2, 2), (32, 32), torch.zeros(1, 3), "zero", r"bias must be \(K,\) = \[3\], got \[1, 3\]"),
        (torch.zeros(1, 3, 2, 2), (32, 32), torch.zeros(3).int(), "zero", r"bias must be float16, bfl"),
        (torch.zeros(1, 3, 2, 2), (32, 32, 32), None, "zero", r"size must be \(H, W\), got \[32, 32, 32\]"),
        (torch.zeros(1, 3, 4, 2), (32, 33), None, "zero", r"\(4, 2\) cells does not belong .* size \(32, 33\): each"),
        (torch.zeros(1, 3, 4, 2), (64, 49), None, "zero", r"\(4, 2\) cells does not belong .* size \(64, 49\): each"),
        (torch.zeros(1, 3, 1, 1), (0, 16), None, "zero", r"\(1, 1\) cells does not belong .* size \(0, 16\): each"),
        (torch.zeros(1, 3, 1, 1), (16, -1), None, "zero", r"\(1, 1\) cells does not belong .* size \(16, -1\): each"),
        (torch.zeros(1, 3, 0, 1), (16, 16), None, "zero", r"\(0, 1\) cells does not belong .* size \(16, 16\): each"),
    ],
)
def test_wrong_arguments_are_named(operators, scores, size, bias, border, error):
    on_meta = (scores.to("meta"), size, None if bias is None else bias.to("meta"), border)
    for operator in (operators.labels, operators.both):
        for arguments in ((scores, size, bias, border), on_meta):
            with pytest.raises(ValueError, match=error):
                operator(*arguments)


@pytest.mark.parametrize("stride", [0, 1, 6, 64, -16])
def test_a_stride_that_there_is_not_is_named(operators, stride):
    for operator in (operators.labels, operators.both):
        for scores in (torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2, device="meta")):
            with pytest.raises(ValueError, match=f"stride must be 2, 4, 8, 16 or 32, got {stride}"):
                operator(scores, (32, 32), None, "zero", stride)


def test_the_size_must_belong_to_the_stride(operators):
    for operator in (operators.labels, operators.both):
        with pytest.raises(ValueError, match=r"\(4, 4\) cells does not belong .*\(64, 64\).*ceil\(pixels / 8\) cells"):
            operator(torch.zeros(1, 3, 4, 4), (64, 64), None, "zero", 8)


def test_tensors_on_two_devices_are_named():
    with pytest.raises(ValueError, match="scores are on cpu but bias is on meta"):
        reference.upsample_argmax(torch.zeros(1, 3, 2, 2), (32, 32), torch.zeros(3, device="meta"))


# torch.library and torch.compile


def test_without_kernels_the_operator_is_the_reference_and_knows_its_defaults(tmp_path):
    code = """
import accel_ops, torch
scores, size = torch.arange(24.0).view(1, 2, 3, 4).cos(), (40, 50)
for arguments in ((scores, size), (scores, size, torch.ones(2)), (scores, size, None, "zero")):
    labels, margin = torch.ops.accel_ops.upsample_argmax_margin(*arguments)
    assert torch.equal(labels, torch.ops.accel_ops.upsample_argmax(*arguments))
    for ours, theirs in zip((labels, margin), accel_ops.reference.upsample_argmax_margin(*arguments), strict=True):
        assert torch.equal(ours, theirs)
print(accel_ops.load())"""
    done = run_code(code, tmp_path, ACCEL_OPS="reference")
    assert (done.said, done.errors) == ("reference\n", "")


@layouts
@dtypes
@borders
def test_opcheck(layout, dtype, border):
    scores = sample((20, 40), dtype=dtype, layout=layout)
    finer = sample((20, 40), dtype=dtype, layout=layout, stride=8)
    for inputs in (
        (scores, [20, 40]),
        (scores.requires_grad_(), [20, 40], torch.zeros(5), border),
        (finer, [20, 40], None, border, 8),
    ):
        opcheck(torch.ops.accel_ops.upsample_argmax.default, inputs, dtype)
        opcheck(torch.ops.accel_ops.upsample_argmax_margin.default, inputs, dtype)


@layouts
def test_torch_compile_sees_one_operator(layout):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda t, b: accel_ops.upsample_argmax(t * 2, (20, 40), b, "zero"), backend=keep, fullgraph=True
    )
    scores, bias = sample((20, 40), layout=layout), torch.randn(5)
    assert torch.equal(compiled(scores, bias), accel_ops.upsample_argmax(scores * 2, (20, 40), bias, "zero"))
    assert sum(node.target is torch.ops.accel_ops.upsample_argmax for node in graphs[0].graph.nodes) == 1


def test_sizes_may_change_under_torch_compile():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda t, size: accel_ops.upsample_argmax_margin(t, size), backend="aot_eager", fullgraph=True, dynamic=True
    )
    for size in ((20, 40), (33, 70)):
        scores = sample(size)
        for a, b in zip(compiled(scores, size), accel_ops.upsample_argmax_margin(scores, size), strict=True):
            assert torch.equal(a, b)


def test_torch_export_sees_one_operator():
    class Labels(torch.nn.Module):
        def forward(self, scores):
            return accel_ops.upsample_argmax(scores, (20, 40))

    scores = sample((20, 40))
    exported = torch.export.export(Labels(), (scores,))
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.accel_ops.upsample_argmax.default]
    assert torch.equal(exported.module()(scores), accel_ops.upsample_argmax(scores, (20, 40)))


# On a GPU


@pytest.fixture(scope="session")
def cuda(cuda_operators):
    return Operators(cuda_operators)


class TestCuda:
    pytestmark = gpu

    @borders
    @layouts
    @dtypes
    @pytest.mark.parametrize("classes", [1, 2, 19, 33, 150, 255])
    def test_labels_and_margins_are_those_of_the_full_size_logits(self, cuda, classes, dtype, layout, border):
        size = (37, 170)
        scores, bias = sample(size, classes, dtype=dtype, layout=layout), torch.randn(classes)
        logits = full_size(scores, size, bias, border)
        rounding = 1e-13 if dtype == torch.float64 else 4e-6
        assert_right(cuda.labels(scores.cuda(), size, bias.cuda(), border).cpu(), logits, rounding)
        labels, margin = cuda.both(scores.cuda(), size, bias.cuda(), border)
        assert_right(labels.cpu(), logits, rounding)
        torch.testing.assert_close(margin.cpu().double(), margin_of(logits), rtol=1e-6, atol=2 * rounding)

    @borders
    @dtypes
    @pytest.mark.parametrize("odd", [0.0, float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("size", [(1, 1), (7, 9), (90, 120), (200, 9), (520, 1030)], ids=str)
    def test_ties_nan_and_infinity_are_those_of_the_reference(self, cuda, size, odd, dtype, border):
        """Whole numbers: every sum is exact."""
        generator = torch.Generator().manual_seed(0)
        scores = torch.randint(-4, 5, (3, 40, *cells(size)), generator=generator).to(dtype)
        scores.view(-1)[torch.randperm(scores.numel(), generator=generator)[: scores.numel() // 50 + 1]] = odd
        expected = reference.upsample_argmax_margin(scores, size, None, border)
        labels, margin = cuda.both(scores.cuda(), size, None, border)
        assert torch.equal(labels.cpu(), expected[0])
        torch.testing.assert_close(margin.cpu(), expected[1], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(cuda.labels(scores.cuda(), size, None, border), labels)

    @borders
    @pytest.mark.parametrize("size", [(1, 1), (37, 70), (200, 9), (260, 515)], ids=str)
    @pytest.mark.parametrize("stride", [2, 4, 8, 32])
    def test_cells_of_other_sides(self, cuda, stride, size, border):
        """Whole numbers: every sum is exact."""
        generator = torch.Generator().manual_seed(0)
        scores = torch.randint(-4, 5, (2, 40, *cells(size, stride=stride)), generator=generator).float()
        expected = reference.upsample_argmax_margin(scores, size, None, border, stride)
        got = cuda.both(scores.cuda(), size, None, border, stride)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))
        assert torch.equal(cuda.labels(scores.cuda(), size, None, border, stride), got[0])

    def test_views_give_what_their_copies_give(self, cuda):
        scores = sample((128, 160), 9, dtype=torch.float32).cuda().transpose(2, 3)[:, 1::2]
        for seen, copied in zip(cuda.both(scores, (160, 128)), cuda.both(scores.contiguous(), (160, 128)), strict=True):
            assert torch.equal(seen, copied)

    def test_more_images_than_blocks_of_a_grid(self, cuda):
        scores = torch.randint(-4, 5, (70_000, 2, 1, 1), device="cuda").float()
        assert torch.equal(cuda.labels(scores, (2, 2))[:, 1, 1].long(), scores[..., 0, 0].argmax(1))

    def test_an_image_of_more_rows_than_blocks_of_a_grid(self, cuda):
        size = (16 * 70_000, 3)
        scores = torch.randint(-4, 5, (1, 3, 70_000, 1), device="cuda").float()
        assert torch.equal(cuda.labels(scores, size).cpu(), reference.upsample_argmax(scores.cpu(), size))

    def test_labels_beyond_32_bit_indices(self, cuda):
        """Two images of more than 2**31 pixels together, the last pixels of which must be right."""
        size = (16 * 2048, 16 * 2112)
        scores = torch.zeros(2, 2, 2048, 2112, dtype=torch.bfloat16, device="cuda")
        scores[1, 1, -1, -1] = 1
        labels = cuda.labels(scores, size)
        assert labels.numel() > 2**31
        assert labels.count_nonzero() == labels[1, -24:, -24:].count_nonzero() == 24 * 24

    def test_the_current_stream_is_used(self, cuda):
        scores, stream = sample((512, 1024), 19, dtype=torch.float32).cuda(), torch.cuda.Stream()
        expected = cuda.labels(scores, (512, 1024))
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late = scores.neg().neg()
            labels = cuda.labels(late, (512, 1024))
        stream.synchronize()
        assert torch.equal(labels, expected)

    def test_a_cuda_graph_repeats_it(self, cuda):
        scores, bias = sample((64, 96), 19, dtype=torch.bfloat16).cuda(), torch.randn(19, device="cuda")
        cuda.both(scores, (64, 96), bias, "zero")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = cuda.both(scores, (64, 96), bias, "zero")
        scores.neg_()
        graph.replay()
        for a, b in zip(results, cuda.both(scores, (64, 96), bias, "zero"), strict=True):
            assert torch.equal(a, b)

    @layouts
    def test_opcheck(self, cuda, layout):
        scores = sample((20, 40), dtype=torch.float32, layout=layout).cuda()
        inputs = (scores, [20, 40], torch.zeros(5, device="cuda"), "zero")
        torch.library.opcheck(torch.ops.accel_ops.upsample_argmax.default, inputs)
        torch.library.opcheck(torch.ops.accel_ops.upsample_argmax_margin.default, inputs)

    def test_no_memory_but_the_results(self, cuda):
        scores = torch.randn(1, 19, 64, 128, device="cuda")
        cuda.labels(scores, (1024, 2048))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        labels = cuda.labels(scores, (1024, 2048))
        assert torch.cuda.max_memory_allocated() - before <= labels.numel() + 512

    def test_an_empty_batch(self, cuda):
        labels, margin = cuda.both(torch.zeros(0, 3, 2, 2, device="cuda"), (32, 20))
        assert labels.shape == margin.shape == (0, 32, 20)

    def test_tensors_on_two_devices_are_named(self, cuda):
        with pytest.raises(ValueError, match="cuda:0 but bias is on cpu"):
            cuda.labels(torch.zeros(1, 3, 2, 2, device="cuda"), (32, 32), torch.zeros(3))
