"""Models of other libraries as the reference branch of a video model."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import accel
from accel.benchmark.models import gflop_of, steps_of, two_frames
from accel.config import DataConfig, parse_model, without_pretrained
from accel.datasets import build_dataset
from accel.evaluation.running.evaluator import evaluate
from accel.inference import accelerating
from accel.inference.loading import load_model
from accel.inference.segmenter import Segmenter
from accel.models import build_model, build_update
from accel.models.images import subtract_mean
from accel.models.segmentation.score_map import ScoreMap
from accel.models.segmentation.score_network import ScoreNetwork, Source
from accel.playing.schedules import FixedInterval
from accel.weights.checkpoints import Description, save_weights

K = 11
SIZE = (64, 96)
UPDATE = {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": 8}
SEGFORMER = {
    "model_type": "segformer",
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
    "num_attention_heads": [1, 2, 2, 4],
}
REFERENCES = {
    "smp": {"name": "smp", "architecture": "DeepLabV3Plus", "encoder": "tu-test_resnet"},
    "torchvision": {"name": "torchvision", "architecture": "deeplabv3_mobilenet_v3_large"},
    "transformers": {"name": "transformers", "config": SEGFORMER},
}
OTHERS = {
    "unet": {"name": "smp", "architecture": "unet", "encoder": "tu-test_resnet"},
    "pooled": {"name": "smp", "architecture": "unet", "encoder": "tu-test_resnet", "stride": 4},
    "lraspp": {"name": "torchvision", "architecture": "lraspp_mobilenet_v3_large"},
}
STRIDES = {"smp": 4, "torchvision": 16, "transformers": 4, "unet": 1, "pooled": 4, "lraspp": 8}


def build(kind, model="deep_feature_flow", **more):
    if kind == "transformers":
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    reference = (REFERENCES | OTHERS)[kind]
    values = {"name": model, "num_classes": K, "reference": reference, **more}
    if model != "frame_by_frame":
        values["flow"] = {"name": "dis"}
    config = parse_model(values, "test")
    built = build_model(config).eval()
    for branch in (built.reference, getattr(built, "update", None)):
        if branch is not None:
            enliven(branch)
    return config, built


@torch.no_grad()
def enliven(branch):
    """Let random weights tell pixels apart: batch norms measure a frame, and no class is ahead of the others."""
    image = subtract_mean(frames_of(2))
    for module in branch.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm's residual blocks start as the identity
            module.momentum = None
    branch.train()(image)
    last = [m for m in branch.modules() if isinstance(m, nn.Conv2d) and m.out_channels == K][-1]
    last.bias -= branch.eval()(image).scores.mean((0, 2, 3))


def frames_of(count=1, size=SIZE):
    """(count, 3, H, W): smooth noise, as bytes."""
    coarse = torch.rand(count, 3, size[0] // 8 + 1, size[1] // 8 + 1, generator=torch.Generator().manual_seed(1))
    return (255 * F.interpolate(coarse, size, mode="bilinear")).to(torch.uint8)


def own_labels(kind, model, frame):
    """What the library's model says of a frame: its own scaling, its own upsampling, argmax."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if kind in ("smp", "unet"):
        from segmentation_models_pytorch.encoders import get_preprocessing_params

        params = get_preprocessing_params("tu-test_resnet")
        mean, std = params["mean"], params["std"]
    image = (frame / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    scores = model.reference.backbone.scores
    if kind in ("smp", "unet"):
        import segmentation_models_pytorch as smp

        own = smp.create_model(OTHERS.get(kind, REFERENCES["smp"])["architecture"], "tu-test_resnet", None, 3, K).eval()
        own.encoder, own.decoder, own.segmentation_head[0] = scores.encoder, scores.decoder, scores.layer
        full = own(image)
    elif kind in ("torchvision", "lraspp"):
        from torchvision.models import get_model

        architecture = (REFERENCES | OTHERS)[kind]["architecture"]
        own = get_model(architecture, weights=None, weights_backbone=None, num_classes=K).eval()
        own.backbone, own.classifier = scores.backbone, scores.classifier
        full = own(image)["out"]
    else:
        logits = scores.model(pixel_values=image).logits
        full = F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)  # as its image processor does
    best = full.topk(2, 1).values
    return full.argmax(1).to(torch.uint8), best[:, 0] - best[:, 1]


@pytest.mark.parametrize("kind", [*REFERENCES, "unet", "lraspp"])
@torch.inference_mode()
def test_at_interval_1_labels_are_the_models_own(kind):
    _, model = build(kind, "frame_by_frame")
    frame = frames_of()
    expected, margin = own_labels(kind, model, frame)
    labels, own_margin = model.key_frame(frame)[0].labels_and_margin(SIZE)
    sure = margin > 1e-4 * margin.max()  # the mean colour is taken off and put back: that rounds
    assert sure.float().mean() > 0.98 and labels.unique().numel() > 1
    assert torch.equal(labels[sure], expected[sure])
    torch.testing.assert_close(own_margin, margin, rtol=1e-3, atol=1e-4)
    assert model.reference.stride == STRIDES[kind]


@pytest.mark.parametrize("kind", [*REFERENCES, *OTHERS])
@torch.inference_mode()
def test_a_still_video_gives_equal_labels_at_every_distance(kind):
    _, model = build(kind)
    frame = frames_of()
    prediction, state = model.key_frame(frame)
    expected = prediction.labels(SIZE)
    for _ in range(3):
        prediction, state = model.next_frame(frame, state)
        assert torch.equal(prediction.labels(SIZE), expected)


@pytest.mark.parametrize("kind", REFERENCES)
def test_they_stream_are_scored_and_timed(kind, tiny_camvid):
    _, model = build(kind, "accel", update=UPDATE)
    film = list(frames_of(4).permute(0, 2, 3, 1).numpy())
    streamed = list(Segmenter(model, FixedInterval(3)).stream(film))
    assert [frame.is_key for frame in streamed] == [True, False, False, True]
    data = build_dataset(DataConfig(name="camvid", root=tiny_camvid), "test")
    result = evaluate(model, data, 1, quiet=True)
    assert 0 <= result.value <= 1
    pair = two_frames(SIZE, torch.device("cpu"))
    assert set(steps_of(model, pair, SIZE)) == {"key frame", "current frame"}
    assert all(cost > 0 for cost in gflop_of(model, pair, SIZE).values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFERENCES)
@torch.inference_mode()
def test_optimised_they_give_the_same_scores(kind):
    _, model = build(kind, "accel", update=UPDATE)
    size = (50, 70)  # of no whole cells
    fast = model.optimized(size, dtype=torch.float32, compile=False)
    first, second = frames_of(2, size)[:, None]
    states = []
    for each in (model, fast):
        key, state = each.key_frame(first)
        states.append((key, each.next_frame(second, state)[0]))
    for plain, prepared in zip(*states, strict=True):
        assert plain.stride == prepared.stride and plain.corners == prepared.corners
        spread = float(plain.scores.std())
        torch.testing.assert_close(prepared.scores, plain.scores, rtol=0, atol=1e-3 * spread)


@pytest.mark.parametrize("kind", [*REFERENCES, "pooled"])
def test_their_weights_are_saved_and_loaded_like_all_others(kind, tmp_path):
    config, model = build(kind)
    palette = tuple((i, i, i) for i in range(K))
    save_weights(tmp_path / "w.safetensors", model, Description(config, tuple("abcdefghijk"), palette, 0))
    loaded = load_model(tmp_path / "w.safetensors", config, "cpu")
    frame = frames_of()
    with torch.inference_mode():
        got, expected = loaded.key_frame(frame)[0], model.key_frame(frame)[0]
    torch.testing.assert_close(got.scores, expected.scores, rtol=1e-3, atol=1e-4)  # layouts differ, which rounds


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (33, 161)])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_corner_cells_on_corner_pixels_are_pytorchs_aligned_corners(size, stride):
    """Also where the frame was padded to whole multiples, and the cells of the padding are gone."""
    whole = tuple(-(-side // 32) * 32 // stride for side in size)
    scores = torch.randn(2, 5, *whole, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = tuple(-(-side // stride) for side in size)
    expected = F.interpolate(scores, [stride * n for n in whole], mode="bilinear", align_corners=True)
    corners = None if stride == 1 else whole
    bias = torch.arange(5.0)
    score_map = ScoreMap(scores[..., : cells[0], : cells[1]], bias=bias, stride=stride, corners=corners)
    # The last pixels before the padding lie between the last cell that is left and one that is not.
    inner = tuple(side if side % 32 == 0 else side - stride for side in size)
    full = score_map.upsample(size)
    expected = expected + bias.double().view(-1, 1, 1)
    torch.testing.assert_close(full[..., : inner[0], : inner[1]], expected[..., : inner[0], : inner[1]])
    labels, margin = score_map.labels_and_margin(size)
    assert torch.equal(labels, full.argmax(1).to(torch.uint8)) and torch.equal(score_map.labels(size), labels)
    best = full.topk(2, 1).values
    torch.testing.assert_close(margin, (best[:, 0] - best[:, 1]).float())


def test_scores_of_one_class_have_an_endless_margin():
    labels, margin = ScoreMap(torch.zeros(1, 1, 4, 4), stride=4, corners=(4, 4)).labels_and_margin((16, 16))
    assert not labels.any() and margin.isinf().all()


class Plain(nn.Module):
    """A model of nobody's: it gives scores at a given stride."""

    def __init__(self, stride=4, classes=K):
        super().__init__()
        self.conv = nn.Conv2d(3, classes, stride, stride)

    def forward(self, image):
        return {"out": self.conv(image)}


class Odd(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.gives = gives

    def forward(self, image):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(Plain(32)), "expected cells of 1, 2, 4, 8, 16 pixels"),
        (Source(Plain(classes=7)), r"gives \(1, 7, 16, 24\) for a frame; expected class scores \(1, 11, h, w\)"),
        (Source(Plain(8), stride=4), "cells of 8 pixels cannot be averaged to a stride of 4; expected 8, 16"),
        (Source(Odd(RuntimeError("only 512\nor so"))), "mine does not take frames of 64x96 pixels: only 512; if it"),
        (Source(Odd(3)), "it gives int; expected a tensor of class scores, or one called out or logits"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(source, message):
    with pytest.raises(ValueError, match=message) as error:
        ScoreNetwork(source, K, "mine")
    assert "\n" not in str(error.value)


def test_pixels_come_in_the_models_own_scaling():
    seen = []
    network = ScoreNetwork(Source(Plain(), preprocess=lambda x: seen.append(x) or x), K, "mine")
    frame = frames_of()
    network(subtract_mean(frame))
    torch.testing.assert_close(seen[-1], frame.float(), rtol=0, atol=1e-4)
    config = parse_model(
        {"name": "frame_by_frame", "num_classes": K, "reference": OTHERS["unet"] | {"mean": [0, 0, 0]}}, "test"
    )
    assert build_model(config).reference.backbone.scaling == ((0, 0, 0), (0.5, 0.5, 0.5))  # timm says so


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"name": "smp", "architecture": "Unett"}, "unknown architecture 'Unett'; segmentation-models-pytorch has"),
        ({"name": "smp", "architecture": "unet", "encoder": "resnet19"}, "did you mean"),
        ({"name": "smp", "architecture": "unet", "arguments": {"depth": 3}}, "cannot be built"),
        ({"name": "torchvision", "architecture": "deeplab"}, "torchvision has deeplabv3_mobilenet_v3_large"),
        ({"name": "own", "model": "none-such"}, "no model is registered as 'none-such'"),
    ],
)
def test_a_model_that_there_is_not_is_told_in_one_line(reference, message):
    config = parse_model({"name": "frame_by_frame", "num_classes": K, "reference": reference}, "test")
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_a_transformers_model_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = parse_model({"name": "frame_by_frame", "num_classes": K, "reference": REFERENCES["transformers"]}, "test")
    with pytest.raises(ValueError, match="pip install"):
        build_model(config)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"name": "transformers"}, "expected `config`, with model_type, or `weights`"),
        ({"name": "transformers", "config": {"depths": [1]}}, "model_type is missing"),
    ],
)
def test_a_configuration_of_transformers_says_which_model(reference, message):
    with pytest.raises(ValueError, match=message):
        parse_model({"name": "frame_by_frame", "num_classes": K, "reference": reference}, "test")


def test_the_owners_own_weights_are_read(tmp_path):
    import segmentation_models_pytorch as smp

    own = smp.create_model("unet", "tu-test_resnet", None, 3, K)
    torch.save(
        {"state_dict": {f"model.{name}": tensor for name, tensor in own.state_dict().items()}}, tmp_path / "o.pt"
    )
    reference = OTHERS["unet"] | {"pretrained": True, "weights": str(tmp_path / "o.pt")}
    config = parse_model({"name": "frame_by_frame", "num_classes": K, "reference": reference}, "test")
    built = build_model(config).reference.backbone.scores
    torch.testing.assert_close(built.layer.weight, own.segmentation_head[0].weight)
    assert without_pretrained(config).reference.pretrained is False
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "o.pt")
    with pytest.raises(ValueError, match="weights of another architecture"):
        build_model(config)


def test_mask_classification_scores_pixels_by_its_queries():
    from accel.models.segmentation.libraries.transformers_models import Scores

    class Masks(nn.Module):
        def forward(self, pixel_values):
            found = type("Output", (), {})()
            found.class_queries_logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]])  # the last: nothing
            found.masks_queries_logits = torch.full((1, 3, 4, 4), -9.0)
            found.masks_queries_logits[0, 0, :, :2] = 9
            found.masks_queries_logits[0, 1, :, 2:] = 9
            found.masks_queries_logits[0, 2] = 9
            return found

    scores = Scores(Masks())(torch.zeros(1, 3, 16, 16))
    assert scores.shape == (1, 2, 4, 4)
    assert torch.equal(scores.argmax(1)[0], torch.tensor([0, 0, 1, 1]).expand(4, 4))


@torch.inference_mode()
def test_a_model_of_ones_own_is_accelerated_in_python():
    torch.manual_seed(0)
    own = Plain()
    model = accel.accelerate(own, preprocess=lambda frames: frames / 255)
    frame = frames_of()
    expected = F.interpolate(own(frame / 255)["out"], SIZE, mode="bilinear").argmax(1)
    prediction, state = model.key_frame(frame)
    labels = prediction.labels(SIZE)
    assert (labels == expected).float().mean() > 0.999
    assert torch.equal(model.next_frame(frame, state)[0].labels(SIZE), labels)
    streamed = accel.Segmenter(model, FixedInterval(2)).stream(list(frames_of(3).permute(0, 2, 3, 1).numpy()))
    assert [each.is_key for each in streamed] == [True, False, True]
    pooled = accel.accelerate(Plain(1), num_classes=K, stride=8, update=parse_update(UPDATE))
    assert pooled.reference.stride == 8 and pooled.next_frame(frame, pooled.key_frame(frame)[1])[0].stride == 8
    with pytest.raises(ValueError, match=r"Plain: gives \(1, 11, 16, 24\) for a frame; expected class scores \(1, 3"):
        accel.accelerate(Plain(), num_classes=3)


def parse_update(values):
    return parse_model({"name": "frame_by_frame", "num_classes": K, "reference": values}, "test").reference


def test_a_registered_model_is_saved_and_loaded_by_its_name(tmp_path, monkeypatch):
    accel.register_model("plain", lambda num_classes, stride: Plain(stride, num_classes), lambda frames: frames / 255)
    reference = {"name": "own", "model": "plain", "arguments": {"stride": 8}}
    config = parse_model({"name": "frame_by_frame", "num_classes": K, "reference": reference}, "test")
    model = build_model(config)
    save_weights(tmp_path / "w.safetensors", model, Description(config, tuple("abcdefghijk"), ((0, 0, 0),) * K, 0))
    loaded = load_model(tmp_path / "w.safetensors", device="cpu")
    with torch.inference_mode():
        first, second = (each.key_frame(frames_of())[0].scores for each in (model.eval(), loaded))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    # A weights file runs no code: another process has to be told where the model is.
    file = tmp_path / "mine.py"
    file.write_text(
        "import accel\nfrom torch import nn\n"
        "accel.register_model('from-file', lambda num_classes: nn.Conv2d(3, num_classes, 4, 4))\n"
    )
    monkeypatch.setenv("ACCEL_MODELS", str(file))
    config = parse_model(
        {"name": "frame_by_frame", "num_classes": K, "reference": {"name": "own", "model": "from-file"}}, "test"
    )
    assert build_model(config).reference.stride == 4


def test_the_update_branch_is_the_best_that_is_light_enough(monkeypatch):
    times = iter([0.5, 0.3, 0.1])
    monkeypatch.setattr(accelerating, "interleaved", lambda *_: {"reference": 1.0, "update": next(times)})
    monkeypatch.setattr(accelerating, "build_update", lambda config, classes: nn.Identity())
    reference = accel.accelerate(Plain()).reference
    choices = accelerating.light_updates(torch.device("cpu"))
    assert accelerating.light_update(reference, K, SIZE) == (choices[2], 0.1)
    times = iter([0.9, 0.4, 0.5, 0.6])
    assert accelerating.light_update(reference, K, SIZE) == (choices[1], 0.4)  # none is: the fastest


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_light_update_branches_can_be_built(device):
    for choice in accelerating.light_updates(torch.device(device), pretrained=False):
        branch = build_update(choice, K).eval()
        with torch.inference_mode():
            assert branch(torch.zeros(1, 3, 64, 96)).stride == choice.stride


@torch.inference_mode()
def test_a_model_says_how_much_of_what_it_carried_still_holds():
    _, model = build("unet", "accel", update=UPDATE, adaptive=True)
    assert model.tells_freshness and not build("unet")[1].tells_freshness
    first, second = frames_of(2)[:, None]
    prediction, state = model.key_frame(first)
    assert prediction.fresh is None
    prediction, state = model.next_frame(second, state)
    assert prediction.fresh.shape == (1,) and 0 < float(prediction.fresh) < 1


class Fixed(Plain):
    """It takes squares of 64 pixels only."""

    def forward(self, image):
        if image.shape[2:] != (64, 64):
            raise RuntimeError("only 64x64")
        return super().forward(image)


@torch.inference_mode()
def test_frames_are_resized_for_a_model_of_one_size():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="only 64x64; if it takes only frames of one size, `size` says which"):
        accel.accelerate(Fixed())
    own = Fixed()
    model = accel.accelerate(own, preprocess=lambda frames: frames / 255, size=(64, 64))
    assert model.reference.stride == 8
    frame = frames_of(1, (128, 192))
    small_frame = F.interpolate(frame.float(), (64, 64), mode="bilinear", antialias=True)
    expected = F.interpolate(own(small_frame / 255)["out"], (16, 24), mode="bilinear")
    prediction, _ = model.key_frame(frame)
    torch.testing.assert_close(prediction.scores, expected, rtol=1e-4, atol=1e-4)
    for size in ((128, 192), (50, 70)):
        frame = frames_of(1, size)
        assert model.key_frame(frame)[0].labels(size).shape == (1, *size)


@pytest.mark.parametrize("bias", [None, torch.arange(6.0)])
def test_labels_between_cells_are_those_of_all_scores_interpolated(bias):
    coarse = torch.randn(2, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    scores = F.interpolate(coarse, (32, 48), mode="bilinear")  # regions, and borders between them
    score_map = ScoreMap(scores, bias=bias, stride=4, corners=(32, 48))
    full = score_map.upsample((128, 192))
    assert torch.equal(score_map.labels((128, 192)), full.argmax(1).to(torch.uint8))
