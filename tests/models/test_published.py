"""The published networks against the published graphs: MXNet's own outputs, and the graphs run operator by operator."""

from pathlib import Path

import accel_ops
import numpy as np
import pytest
import torch
from mxnet_graph import MxnetGraph

from accel.config import load_config
from accel.models import build_model, build_published
from accel.models.backbones.published_resnets import DeformableConv, GlobalBatchNorm, PreActResNet, ResNetV1
from accel.models.images import subtract_mean
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.propagation.flownet_s import FlowNetS
from accel.models.published_models import MMTRACKING, VERSIONS
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.video import Accel, AccelShared
from accel.training.freezing import freeze
from accel.training.optimizers import build_optimizer, learning_rate, set_learning_rate
from accel.weights import load_published

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TOLERANCE = 1e-3  # features and scores, absolute; both reach about 10
ACCEL = ("accel-18", "accel-34", "accel-50", "accel-101")


@pytest.fixture(scope="module", params=ACCEL)
def network(request, published_params):
    """(version, model, parameters by MXNet's names)."""
    params = published_params(request.param)
    return request.param, load_published(request.param, params), params


def run(model, frames, interval):
    """Scores and features of each of the frames (T, H, W, 3)."""
    state = None
    for t, frame in enumerate(frames):
        image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        with torch.no_grad():
            scores, state = model.key_frame(image) if t % interval == 0 else model.next_frame(image, state)
        yield scores, state.anchor.features


def assert_agree(scores, features, size, expected_features, expected_scores, expected_labels):
    """Features (C, h, w), full-size scores (K, H, W) and labels (H, W) are the expected ones.

    The stored outputs may be thinned out: every 16th channel, every 4th pixel.
    """
    features, full = features[0], scores.upsample(size)[0].detach()
    if expected_features.shape[0] < features.shape[0]:
        features = features[::16]
    if expected_scores.shape[1:] != size:
        full = full[:, ::4, ::4]
    np.testing.assert_allclose(features, expected_features, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(full, expected_scores, rtol=0, atol=TOLERANCE)
    labels = scores.labels(size)[0].numpy()
    assert (labels == expected_labels).mean() >= 0.9995


# --- against MXNet's outputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("golden", "interval"), [("golden.npz", 99), ("golden-121x250.npz", 4), ("golden-200x300.npz", 99)]
)
def test_networks_agree_with_mxnet(network, golden, interval, parity):
    """golden.npz of 18 and 101 comes with the project's data; docs/published_weights.md tells how to make the rest."""
    version, model, _ = network
    with np.load(parity(f"{version}/{golden}")) as stored:
        expected = dict(stored)
    size = expected["frames"].shape[1:3]
    for t, (scores, features) in enumerate(run(model, expected["frames"], interval)):
        assert_agree(scores, features, size, *(expected[f"{what}_{t}"] for what in ("features", "scores", "labels")))


def test_flow_agrees_with_mxnet(network, parity):
    version, model, _ = network
    if version not in ("accel-18", "accel-101"):
        pytest.skip("the same flow network as in accel-18")
    with np.load(parity(f"{version}/golden.npz")) as expected:
        images = [subtract_mean(torch.from_numpy(f).permute(2, 0, 1)[None]) for f in expected["frames"][:2]]
        with torch.no_grad():
            flow = model.propagation.flow(images[1], images[0])[0]
        np.testing.assert_allclose(flow, expected["flow_first_step"], rtol=0, atol=1e-4)


# --- against the graphs, run by mxnet_graph.py ----------------------------------------------------------------


def tensors(params):
    return {name.partition(":")[2]: torch.from_numpy(array) for name, array in params.items()}


def video(count, height, width):
    """Smooth noise that moves by two pixels a frame, (T, H, W, 3) uint8."""
    rng = np.random.default_rng(5)
    canvas = torch.from_numpy(rng.uniform(0, 255, (1, 3, 3 + height // 16, 4 + width // 16)))
    canvas = torch.nn.functional.interpolate(canvas, (height + 2 * count, width + 2 * count), mode="bicubic")
    canvas = canvas[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.stack([canvas[2 * t : 2 * t + height, 2 * t : 2 * t + width] for t in range(count)])


def run_graphs(parity, version, params, frames):
    """Features (C, h, w) and full-size scores (K, H, W) of each of the frames; the first is the key frame."""
    key, current = (MxnetGraph(parity(f"{version}/{kind}-symbol.json")) for kind in ("key", "cur"))
    inputs = tensors(params)
    for t, frame in enumerate(frames):
        inputs["data"] = subtract_mean(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None])
        features, scores = (key if t == 0 else current)(inputs)
        inputs |= {"data_key": inputs["data"], "feat_key": features}
        yield features[0].numpy(), scores[0].numpy()


def test_the_graph_runner_agrees_with_mxnet(network, parity):
    """What the tests below compare with is itself as MXNet 1.9.1 has it."""
    version, _, params = network
    with np.load(parity(f"{version}/golden.npz")) as stored:
        expected = dict(stored)
    for t, (features, scores) in enumerate(run_graphs(parity, version, params, expected["frames"])):
        thin = (16, 4) if expected[f"features_{t}"].shape[0] < features.shape[0] else (1, 1)
        np.testing.assert_allclose(features[:: thin[0]], expected[f"features_{t}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores[:, :: thin[1], :: thin[1]], expected[f"scores_{t}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "size",
    [
        (72, 105),  # an odd number of cells both ways: the small networks end a cell later
        (64, 97),  # the large networks lose a column of cells
        pytest.param((121, 250), marks=pytest.mark.slow),
        pytest.param((200, 300), marks=pytest.mark.slow),
        pytest.param((129, 258), marks=pytest.mark.slow),
    ],
)
def test_networks_agree_with_the_graphs_at_any_size(network, size, parity):
    version, model, params = network
    if version == "accel-101" and any(s % 16 in (1, 2) for s in size):
        pytest.skip("the graph itself does not fit together at this size")
    frames = video(4, *size)
    ours = run(model, frames, 99)
    theirs = run_graphs(parity, version, params, frames)
    for (scores, features), (expected_features, expected_scores) in zip(ours, theirs, strict=True):
        assert_agree(scores, features, size, expected_features, expected_scores, expected_scores.argmax(0))


def test_the_update_branch_alone_gives_its_part_of_the_graph(network, parity):
    version, _, params = network
    if version == "accel-101":
        pytest.skip("has no update branch of its own")
    depth = version.removeprefix("accel-")
    prefixes = (f"{depth}_", "curr_")
    alone = {name: array for name, array in params.items() if name.partition(":")[2].startswith(prefixes)}
    model = load_published(f"deeplab-{depth}", alone)
    frame = video(1, 72, 105)[0]
    image = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = model.key_frame(image)[0].upsample((72, 105))
    graph = MxnetGraph(parity(f"{version}/cur-symbol.json"))
    inputs = {"data": subtract_mean(image), "data_key": subtract_mean(image), "feat_key": torch.zeros(1, 2048, 5, 7)}
    output = "curr_croped_score" if depth == "50" else f"{depth}_croped_score"
    (expected,) = graph(tensors(params) | inputs, output)
    torch.testing.assert_close(scores, expected, rtol=0, atol=TOLERANCE)


# --- the parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 4])
def test_deformable_convolution_has_mxnets_borders(groups):
    from mxnet_graph import Attributes, deformable_convolution

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 8, 3, 3, generator=generator, dtype=torch.float64)
    # Many samples fall on, just within and just outside the border.
    offset = 2 * torch.randn(2, groups * 18, 5, 7, generator=generator, dtype=torch.float64)
    offset[:, ::3] = offset[:, ::3].round()
    attributes = Attributes(num_deformable_group=str(groups), pad="(2, 2)", dilate="(2, 2)")
    expected = deformable_convolution(attributes, x, offset, weight)
    torch.testing.assert_close(accel_ops.deform_conv(x, offset, weight, padding=2, dilation=2), expected)


def test_a_fresh_deformable_convolution_is_a_plain_one():
    network = ResNetV1((1, 1, 1, 1), offset_groups=1, offset_dilation=1, width=4)
    layer = next(m for m in network.modules() if isinstance(m, DeformableConv))
    x = torch.randn(1, layer.weight.shape[1], 6, 6)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=2, dilation=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def narrow(shared: bool, num_classes: int = 3) -> torch.nn.Module:
    """A model built like the published ones, thin enough for numerical derivatives, with all its parts at work."""
    torch.manual_seed(4)
    reference = DeepLab(ResNetV1((1, 1, 2, 1), 1, 1, width=2), num_classes, 8, "zero")
    propagation = FlowWarp(FlowNetS(width=1 / 64))
    if shared:
        model = AccelShared(reference, propagation, FeatureFusion(reference.backbone.out_channels))
    else:
        update = DeepLab(PreActResNet((1, 1, 1, 2), width=4, out_channels=12), num_classes, 8, "zero")
        model = Accel(reference, propagation, update, ScoreFusion(num_classes))
    for module in model.modules():
        if isinstance(module, DeformableConv):  # offsets and flow that are not zero
            torch.nn.init.normal_(module.offset.weight, std=0.05)
            torch.nn.init.normal_(module.offset.bias)
        if isinstance(module, GlobalBatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)  # zero would leave dead cells on the kink of their ReLU
    torch.nn.init.normal_(propagation.flow.predict["2"].weight, std=1.0)
    # Images are in 0..255; without learned statistics something has to bring them to the size of weights.
    reference.backbone.bn1.running_var.fill_(100.0**2)
    return model.double()


@pytest.mark.parametrize("shared", [False, True], ids=["scores fused", "features fused"])
def test_gradient_through_four_frames_equals_the_numerical_one(shared):
    model = narrow(shared).train()
    clip = torch.from_numpy(video(4, 40, 56)).permute(0, 3, 1, 2)[None].double()
    size = (40, 56)
    with torch.no_grad():
        chosen = torch.randn(model(clip).upsample(size).shape, dtype=torch.float64)

    def loss():
        return (model(clip).upsample(size) * chosen).mean()

    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss(), parameters.values()), strict=True))
    parts = sorted({".".join(name.split(".")[:3]) for name in parameters})
    assert len(parts) > 8
    step = 1e-6
    for part in parts:  # the derivative along a random direction in the parameters of each part
        inside = [name for name in parameters if name.startswith(part)]
        direction = {name: torch.randn_like(parameters[name]) for name in inside}
        analytic = sum((gradients[name] * direction[name]).sum() for name in inside)
        values = []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                for name in inside:
                    parameters[name] += sign * step * direction[name]
                values.append(loss())
        numerical = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(analytic, numerical, rtol=1e-5, atol=1e-9, msg=lambda m, p=part: f"{p}: {m}")


@pytest.mark.parametrize("shared", [False, True], ids=["scores fused", "features fused"])
@pytest.mark.parametrize("size", [(3, 40), (16, 17), (33, 50), (34, 31)])
def test_every_frame_size_gets_labels(shared, size):
    model = narrow(shared).float()
    scores = model(torch.zeros(1, 3, 3, *size, dtype=torch.uint8))
    assert scores.labels(size).shape == (1, *size)
    assert scores.upsample(size).isfinite().all()
    with pytest.raises(ValueError, match="3 x 3 pixels or more"):
        model(torch.zeros(1, 3, 3, 2, 40, dtype=torch.uint8))


def test_published_statistics_stay_as_they_are_in_training():
    network = ResNetV1((1, 1, 1, 1), 1, 1, width=4).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    training = network(x)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(training, network.eval()(x))

    network = PreActResNet((1, 1, 1, 1), width=4, out_channels=8).train()  # its first stages do learn theirs
    network(x)
    assert not torch.equal(network.bn0.running_mean, torch.zeros(4))
    assert torch.equal(network.conv5[0].bn_a.running_mean, torch.zeros(32))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_parameters_for_its_classes(version):
    with torch.device("meta"):
        model = build_published(version, 11)
    if version in MMTRACKING:
        assert model.reference.region_head.classes.out_features == 12
    elif model.task == "detection":
        assert model.reference.heads.classes.out_channels == 12 * 49
    else:
        assert model.reference.score_layer.out_channels == 11
    assert all(p.requires_grad for p in model.parameters())


def test_an_unknown_version_is_told_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no published network 'accel-19'; there are accel-18, .*deeplab-101, .*dff-rfcn"
    ):
        build_published("accel-19")


# --- the published trainings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["18", "34", "50", "101"])
def test_published_trainings_move_the_fusion_alone_at_the_published_rates(depth):
    config = load_config(EXPERIMENTS / f"published/accel{depth}.yaml")
    assert config.model.version == f"accel-{depth}"
    assert config.data.clip_length == 5 and config.data.augmentation.crop == (768, 1024)
    with torch.device("meta"):
        model = build_model(config.model)
    for part in config.init:
        model.get_submodule(part)
    freeze(model, config.train.freeze)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "fusion.correction.weight",
        "fusion.correction.bias",
    }
    optimizer = build_optimizer(model, config.train)
    for step, expected in ((0, 5e-5), (999, 5e-5), (1000, 5e-4), (config.train.steps - 1, 5e-4)):
        set_learning_rate(optimizer, learning_rate(step, config.train))
        rates = {group["params"][0].dim(): group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({4: 2 * expected, 1: 4 * expected})
