"""The branch with a decoder that keeps detail, against plain PyTorch, and what brings its finer maps together."""

import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, SIZE, assert_same, clip_of, enlivened, lively, scores_of

from accel.config import parse_model, without_pretrained
from accel.models import FeaturePyramid, PyramidBackbone, ScoreFusion, ScoreMap, build_model
from accel.models.backbones.smp import scaled
from accel.models.propagation.flow_warp import FlowWarp

FORMS = [  # encoder, stride, enlarge
    *((name, 8, 1) for name in ("tu-tf_efficientnet_lite0", "mobilenet_v2", "tu-convnext_atto", "mit_b0")),
    *(("resnet18", stride, enlarge) for stride, enlarge in ((8, 1), (4, 1), (4, 2), (16, 1))),
]
SIZES = [(64, 96), (50, 70), (17, 33), (1, 1)]


def cells(size, stride):
    return tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize(("name", "stride", "enlarge"), FORMS)
def test_features_have_the_wished_stride_for_any_frame_size(name, stride, enlarge):
    backbone = PyramidBackbone(name, stride=stride, channels=8, enlarge=enlarge).eval()
    for size in SIZES:
        with torch.no_grad():
            assert backbone(torch.zeros(1, 3, *size)).shape == (1, 8, *cells(size, stride))


def plain_features(backbone, image):
    """The same network written out, for frames that are a multiple of 32."""
    weights = dict(backbone.decoder.state_dict())

    def conv(x, name, **kinds):
        x = F.conv2d(x, weights[f"{name}.0.weight"], **kinds)
        mean, var, scale, shift = (
            weights[f"{name}.1.{kind}"].view(-1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    height, width = image.shape[2:]
    if backbone.enlarge == 2:
        image = F.interpolate(image, (2 * height, 2 * width), mode="bilinear", align_corners=False)
    maps = backbone.encoder(scaled(image, backbone.scaling))
    maps = [m for m in maps[2:] if m.shape[2] <= height // backbone.stride]
    whole = maps[-1].mean((2, 3), keepdim=True)
    gate = F.conv2d(whole, weights["weights.weight"], weights["weights.bias"]).sigmoid()
    x = F.relu(conv(maps[-1], "coarsest")) * gate
    for number in range(len(maps) - 2, -1, -1):
        finer = maps[number]
        x = F.interpolate(x, finer.shape[2:], mode="bilinear", align_corners=False)
        x = F.relu(x + conv(finer, f"laterals.{number}"))
    x = F.relu(conv(x, "last.0", padding=1, groups=x.shape[1]))
    return F.relu(conv(x, "last.2"))


@pytest.mark.parametrize(("stride", "enlarge"), [(8, 1), (4, 1), (4, 2)])
def test_the_branch_computes_as_written_out(stride, enlarge):
    torch.manual_seed(0)
    backbone = PyramidBackbone("resnet18", stride=stride, channels=12, enlarge=enlarge)
    branch = enlivened(FeaturePyramid(backbone, CLASSES)).double()
    image = 50 * torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = plain_features(backbone, image)
    torch.testing.assert_close(branch.features(image), expected)
    scores = branch(image)
    assert scores.stride == stride and scores.scores.shape == (2, CLASSES, 64 // stride, 96 // stride)
    torch.testing.assert_close(scores.scores, F.conv2d(expected, branch.score_layer.weight, branch.score_layer.bias))


@pytest.mark.parametrize("enlarge", [1, 2])
def test_a_cell_lies_where_its_pixels_are(enlarge):
    torch.manual_seed(0)
    backbone = PyramidBackbone("resnet18", stride=8, channels=16, enlarge=enlarge).eval()
    image = torch.zeros(1, 3, 320, 320)
    spot = image.clone()
    spot[..., 224:232, 64:72] = 100  # cell (28, 8)
    with torch.no_grad():
        change = (backbone(spot) - backbone(image)).abs().sum(1)[0]
    y, x = divmod(int(change.argmax()), change.shape[1])
    assert abs(y - 28) <= 2 and abs(x - 8) <= 2


@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_efficientnet_lite0"])
def test_every_parameter_learns(encoder):
    torch.manual_seed(0)
    branch = FeaturePyramid(PyramidBackbone(encoder, stride=4, channels=8), CLASSES)
    branch(50 * torch.randn(2, 3, 64, 96)).upsample((64, 96)).square().mean().backward()
    assert branch.training and all(module.training for module in branch.modules())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in branch.parameters())


def test_a_stride_that_there_is_not_and_encoders_without_its_maps_are_refused():
    with pytest.raises(ValueError, match="stride of features must be 4, 8 or 16, got 32"):
        PyramidBackbone("resnet18", stride=32)
    with pytest.raises(ValueError, match="unknown encoder 'resnet19'"):
        PyramidBackbone("resnet19")
    with pytest.raises(ValueError, match="encoder 'tu-vit_tiny_patch16_224' ."):
        PyramidBackbone("tu-vit_tiny_patch16_224")


# --- video models of such branches ----------------------------------------------------------------------------


def pyramid(stride, **more):
    return {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": stride} | more


def built(reference, update, **more):
    torch.manual_seed(0)
    parts = {"reference": reference, "update": update, "flow": {"width": 1 / 16}, **more}
    return build_model(parse_model({"name": "accel", "num_classes": CLASSES, **parts}, "test"))


def plainly(reference, update, model, size):
    """Of an `Accel` and its two score maps: the fused full-size scores, by PyTorch alone."""
    finer = update.scores.shape[2:]
    coarse = F.interpolate(reference.scores, scale_factor=reference.stride // update.stride, mode="bilinear")
    stacked = torch.cat([coarse[..., : finer[0], : finer[1]], update.scores], 1)
    fused = F.conv2d(stacked, model.fusion.correction.weight, model.fusion.correction.bias)
    return F.interpolate(fused, scale_factor=update.stride, mode="bilinear")[..., : size[0], : size[1]]


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
@pytest.mark.parametrize("strides", [(8, 4), (16, 8), (16, 4)])
def test_branches_of_two_strides_are_fused_at_the_finer_one(strides, size):
    model = enlivened(built(*map(pyramid, strides)))
    torch.nn.init.normal_(model.fusion.correction.weight)
    clip = clip_of(size, 2)
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        fused, after = model.next_frame(clip[:, 1], state)
        propagated, update = model.reference.predict(after.anchor.features), model.update(after.image)
        expected = plainly(propagated, update, model, size)
    assert fused.stride == strides[1]
    torch.testing.assert_close(fused.upsample(size), expected, atol=1e-4, rtol=1e-4)
    assert (fused.at(size).labels == expected.argmax(1)).float().mean() > 0.999


def test_a_deeplab_and_a_pyramid_are_one_accel():
    model = enlivened(built({"encoder": "tu-test_resnet", "head_channels": 8}, pyramid(8)))
    key, current = scores_of(model, clip_of(SIZE, 2))
    assert (key.stride, current.stride) == (16, 8)


def test_an_accel_of_pyramids_learns_in_all_its_parts():
    model = built(pyramid(8), pyramid(4))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # as in `make`
    clip = clip_of((64, 96), 3, batch=2)
    model(clip).upsample((64, 96)).square().mean().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    # The flow network starts with no motion, of which only its last layer learns.
    assert all(name.startswith("propagation.flow.") for name in still)
    assert any(name not in still for name, _ in model.propagation.named_parameters(prefix="propagation"))


@pytest.mark.parametrize("border", ["replicate", "zero"])
def test_the_coarser_map_is_seen_from_the_finer_cells_centres(border):
    """A ramp stays one; beyond the border it repeats or fades."""
    coarse = ScoreMap(torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4), border, stride=16)
    fine = ScoreMap(torch.zeros(1, 1, 8, 7), border, stride=8)
    fusion = ScoreFusion(1)
    fused = 2 * fusion(coarse, fine).scores[0, 0]
    assert fused.shape == (8, 7)
    torch.testing.assert_close(fused[4], torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))
    if border == "zero":
        torch.testing.assert_close(fused[0], 0.75 * fused[4])


@pytest.mark.parametrize("times", [2, 4])
def test_finer_features_follow_the_flow_of_coarse_cells(times):
    features = torch.randn(1, 3, 6 * times - 1, 5 * times)
    flow = torch.zeros(1, 2, 6, 5)
    flow[:, 0], flow[:, 1] = 1, -0.5  # one cell to the right, half a cell up
    moved = FlowWarp.move(features, flow)
    expected = torch.zeros_like(features)
    expected[..., times // 2 :, :-times] = features[..., : -(times // 2), times:]
    torch.testing.assert_close(moved, expected)


def test_the_flow_of_finer_cells_is_that_of_pixels_in_between():
    """A flow that grows evenly, as when the camera moves ahead."""
    flow = torch.zeros(1, 2, 4, 8)
    flow[:, 0] = torch.arange(8) * 0.1
    features = torch.arange(16.0).expand(1, 1, 8, 16)  # each cell's place
    moved = FlowWarp.move(features, flow)[0, 0, 3]
    centres = (torch.arange(16) + 0.5) / 2 - 0.5  # in coarse cells
    expected = torch.arange(16) + 2 * 0.1 * centres
    torch.testing.assert_close(moved[1:13], expected[1:13])


def test_a_flow_of_one_cell_moves_features_of_one_cell():
    features, flow = torch.ones(1, 1, 1, 1), torch.tensor([0.25, 0.0]).view(1, 2, 1, 1)
    assert FlowWarp.move(features, flow).item() == 0.75


# --- optimised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frame_by_frame", "deep_feature_flow", "accel_shared"])
def test_optimised_pyramids_give_the_same_labels(name):
    parts = {"reference": pyramid(8, enlarge=2)}
    parts |= {} if name == "frame_by_frame" else {"flow": {"width": 1 / 16}}
    torch.manual_seed(0)
    model = enlivened(build_model(parse_model({"name": name, "num_classes": CLASSES, **parts}, "test")))
    clip, size = clip_of((50, 70), 3), (50, 70)
    fast = model.optimized(size, dtype=torch.float32, compile=False)
    for got, expected in zip(scores_of(fast, clip), scores_of(model, clip), strict=True):
        clear = expected.labels_and_margin(size)[1] > 1e-3 * float(expected.scores.std())
        assert clear.float().mean() > 0.98
        assert torch.equal(got.at(size).labels[clear], expected.at(size).labels[clear])


@pytest.mark.parametrize(("enlarge", "size"), [(1, (50, 70)), (2, (40, 64))])
def test_an_optimised_efficientnet_lite_gives_the_same_scores(enlarge, size):
    torch.manual_seed(0)
    branch = pyramid(8, encoder="tu-tf_efficientnet_lite0", enlarge=enlarge)
    model = build_model(parse_model({"name": "frame_by_frame", "num_classes": CLASSES, "reference": branch}, "test"))
    model, clip = enlivened(model), clip_of(size, 1)
    fast = model.optimized(size, dtype=torch.float32, compile=False)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)
    assert not any("Mirrored" in type(module).__name__ for module in model.modules())


def test_an_optimised_pyramid_carries_its_scores():
    fast = lively("accel_pyramid").optimized(SIZE, dtype=torch.float32, compile=False)
    with torch.inference_mode():
        _, state = fast.key_frame(clip_of(SIZE, 1)[:, 0])
    assert state.anchor.features.shape == (1, CLASSES, 8, 12)


# --- configuration --------------------------------------------------------------------------------------------


def test_a_branch_is_a_deeplab_unless_it_names_another():
    model = {"name": "accel", "num_classes": 3, "update": pyramid(8), "reference": {"encoder": "resnet18"}}
    parsed = parse_model(model, "test")
    assert (parsed.reference.name, parsed.update.name) == ("deeplab", "pyramid")
    assert parse_model(parsed.model_dump(mode="json"), "test") == parsed
    pretrained = parse_model(model | {"reference": pyramid(8, pretrained=True)}, "test")
    assert not without_pretrained(pretrained).reference.pretrained


@pytest.mark.parametrize(
    ("reference", "more", "message"),
    [
        (pyramid(5), {}, r"model.reference.stride: Input should be 4, 8 or 16, got 5"),
        (pyramid(8, head_channels=8), {}, r"model.reference: unknown key 'head_channels'; did you mean 'channels'\?"),
        (pyramid(8) | {"name": "fpn"}, {}, r"model.reference.name: unknown 'fpn'; there are 'deeplab', 'pyramid'"),
        (
            pyramid(8),
            {"propagation": {"name": "learned_sampling"}},
            "`propagation: learned_sampling` carries the features of a deeplab, rfcn or faster_rcnn; "
            "`reference: pyramid` needs `flow`",
        ),
    ],
)
def test_mistakes_in_a_branch_are_told(reference, more, message):
    with pytest.raises(ValueError, match=message):
        parse_model({"name": "deep_feature_flow", "num_classes": 3, "reference": reference, **more}, "model")
