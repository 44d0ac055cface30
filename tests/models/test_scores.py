"""Score maps at full size, against PyTorch's own upsampling and the published transposed convolution."""

import pytest
import torch
import torch.nn.functional as F

from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.segmentation.score_map import ScoreMap

SIZES = [(64, 96), (50, 70), (17, 33), (16, 16), (1, 1), (150, 40)]
BORDERS = ["replicate", "zero"]


def cells(size):
    return [-(-side // 16) for side in size]


def random_scores(size, classes=5, batch=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, *cells(size), generator=generator, dtype=torch.float64).to(dtype)


def published_upsampling(scores):
    """MXNet's Deconvolution with its bilinear kernel: kernel 32, stride 16, a group a class, 8 pixels cut off."""
    classes = scores.shape[1]
    centre = 31 / 32
    line = 1 - (torch.arange(32, dtype=scores.dtype) / 16 - centre).abs()
    kernel = (line[:, None] * line).expand(classes, 1, 32, 32)
    return F.conv_transpose2d(scores, kernel, stride=16, padding=8, groups=classes)


def upsampled(scores, border, size):
    """The independent source."""
    if border == "zero":
        full = published_upsampling(scores)
    else:
        full = F.interpolate(scores, scale_factor=16, mode="bilinear", align_corners=False)
    return full[..., : size[0], : size[1]]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_upsampling_is_bilinear_cut_to_the_frame(size, border):
    scores = random_scores(size)
    torch.testing.assert_close(ScoreMap(scores, border).upsample(size), upsampled(scores, border, size))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_labels_are_the_highest_upsampled_scores(size, border):
    scores, bias = random_scores(size), torch.randn(5, dtype=torch.float64)
    expected = (upsampled(scores, border, size) + bias.view(-1, 1, 1)).argmax(1)
    labels = ScoreMap(scores, border, bias).labels(size)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), expected)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("more", "pad"), [(1, None), (-1, (0, 1, 0, 1))])
def test_maps_a_cell_larger_or_smaller_are_cut_or_continued(more, pad, border):
    size = (50, 70)
    h, w = (n + more for n in cells(size))
    scores = torch.randn(1, 3, h, w, dtype=torch.float64)
    whole = scores
    if pad:
        whole = F.pad(scores, pad, mode="constant" if border == "zero" else "replicate")
    torch.testing.assert_close(ScoreMap(scores, border).upsample(size), upsampled(whole, border, size))


@pytest.mark.parametrize("size", [(32, 33), (100, 32), (0, 32)])
def test_a_frame_size_that_does_not_belong_to_the_map_is_refused(size):
    with pytest.raises(ValueError, match=r"4, 2.*frame size \(" + f"{size[0]}, {size[1]}"):
        ScoreMap(torch.zeros(1, 3, 4, 2)).upsample(size)
    with pytest.raises(ValueError, match=r"4, 2.*frame size \(" + f"{size[0]}, {size[1]}"):
        ScoreMap(torch.zeros(1, 3, 4, 2)).labels(size)


def test_bias_is_added_after_upsampling():
    """Under the zero border the scores fade at the frame's edge; a bias must not."""
    bias = torch.tensor([1.0, -2.0])
    full = ScoreMap(torch.zeros(1, 2, 2, 2), "zero", bias).upsample((32, 32))
    assert torch.equal(full, bias.view(1, 2, 1, 1).expand(1, 2, 32, 32))


@pytest.mark.parametrize("border", BORDERS)
def test_the_margin_is_how_far_the_highest_score_is_above_the_next(border):
    scores, bias = random_scores((50, 70)), torch.randn(5, dtype=torch.float64)
    scored = ScoreMap(scores, border, bias)
    highest = (upsampled(scores, border, (50, 70)) + bias.view(-1, 1, 1)).topk(2, 1).values
    labels, margin = scored.labels_and_margin((50, 70))
    assert torch.equal(labels, scored.labels((50, 70)))
    torch.testing.assert_close(margin, (highest[:, 0] - highest[:, 1]).float())


def test_labels_and_margins_of_scores_in_training_have_no_gradient():
    scored = ScoreMap(random_scores((50, 70)).requires_grad_(), bias=torch.zeros(5, requires_grad=True))
    assert scored.upsample((50, 70)).requires_grad
    assert not any(result.requires_grad for result in (scored.labels((50, 70)), *scored.labels_and_margin((50, 70))))


def test_a_tie_goes_to_the_lower_class():
    scores = torch.zeros(1, 4, 2, 3)
    scores[:, 2:] = 1
    assert ScoreMap(scores).labels((32, 48)).unique().tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_upsampled_in_float32(dtype):
    scores = random_scores((50, 70), dtype=dtype)
    full = ScoreMap(scores).upsample((50, 70))
    assert full.dtype == torch.float32
    expected = upsampled(scores.double(), "replicate", (50, 70))
    torch.testing.assert_close(full.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ScoreMap(scores.float()).upsample((50, 70)), full)


@pytest.mark.parametrize("border", BORDERS)
def test_upsampling_has_the_gradient_of_interpolation(border):
    scores = random_scores((50, 70)).requires_grad_()
    weights = torch.randn(2, 5, 50, 70, dtype=torch.float64)
    (ours,) = torch.autograd.grad((ScoreMap(scores, border).upsample((50, 70)) * weights).sum(), scores)
    (theirs,) = torch.autograd.grad((upsampled(scores, border, (50, 70)) * weights).sum(), scores)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", [(64, 96), (50, 70), (1, 1)])
@pytest.mark.parametrize("stride", [2, 4, 8, 32])
def test_cells_may_have_other_sides(stride, size, border):
    scores = torch.randn(2, 5, *(-(-side // stride) for side in size), dtype=torch.float64)
    scored, bias = ScoreMap(scores, border, stride=stride), torch.randn(5, dtype=torch.float64)
    if border == "zero":  # a transposed convolution sees what is beyond as zeros
        expected = F.interpolate(F.pad(scores, (1, 1, 1, 1)), scale_factor=stride, mode="bilinear")
        expected = expected[..., stride : stride + size[0], stride : stride + size[1]]
    else:
        expected = F.interpolate(scores, scale_factor=stride, mode="bilinear")[..., : size[0], : size[1]]
    torch.testing.assert_close(scored.upsample(size), expected)
    expected = (expected + bias.view(-1, 1, 1)).topk(2, 1)
    labels, margin = ScoreMap(scores, border, bias, stride).labels_and_margin(size)
    assert torch.equal(labels.long(), expected.indices[:, 0])
    torch.testing.assert_close(margin, (expected.values[:, 0] - expected.values[:, 1]).float())


# --- fusion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_fusing_before_upsampling_gives_the_scores_of_fusing_after_it(size, border):
    fusion = ScoreFusion(5).double()
    torch.nn.init.normal_(fusion.correction.weight)
    torch.nn.init.normal_(fusion.correction.bias)
    reference, update = random_scores(size, seed=1), random_scores(size, seed=2)
    published = fusion.correction(torch.cat([upsampled(s, border, size) for s in (reference, update)], 1))
    fused = fusion(ScoreMap(reference, border), ScoreMap(update, border))
    torch.testing.assert_close(fused.upsample(size), published)
    assert torch.equal(fused.labels(size).long(), published.argmax(1))


@pytest.mark.parametrize("border", BORDERS)
def test_branches_that_differ_by_a_cell_are_fused_as_if_upsampled_first(border):
    size = (50, 70)
    fusion = ScoreFusion(3).double()
    torch.nn.init.normal_(fusion.correction.weight)
    reference = ScoreMap(torch.randn(1, 3, 4, 5, dtype=torch.float64), border)
    update = ScoreMap(torch.randn(1, 3, 3, 4, dtype=torch.float64), border)
    expected = fusion.correction(torch.cat([reference.upsample(size), update.upsample(size)], 1))
    torch.testing.assert_close(fusion(reference, update).upsample(size), expected)


def test_fusion_starts_as_the_mean_of_both_branches():
    a, b = torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    torch.testing.assert_close(ScoreFusion(7)(ScoreMap(a), ScoreMap(b)).scores, (a + b) / 2)
    torch.testing.assert_close(FeatureFusion(7)(a, b), (a + b) / 2)
