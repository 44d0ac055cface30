"""Encoders of segmentation-models-pytorch as backbones at output stride 16."""

import time

import pytest
import torch

from accel.models.backbones import smp
from accel.models.backbones.encoders import PixelScaling
from accel.models.backbones.smp import EARLY, SmpBackbone, scaled
from accel.models.images import PIXEL_MEANS

DILATED = [
    "resnet18",
    "efficientnet-b0",
    "mobilenet_v2",
    "mit_b0",
    "se_resnet50",
    "timm-regnetx_002",
    "tu-convnext_atto",
]
UNDILATED = ["densenet121", "tu-efficientvit_b0", "tu-dla34"]  # refuse output stride 16: their 1/32 map is doubled


def cells(size):
    return tuple(-(-side // 16) for side in size)


@pytest.mark.parametrize("name", [*DILATED, *UNDILATED])
def test_any_encoder_gives_cells_of_16_pixels_for_any_frame_size(name):
    backbone = SmpBackbone(name).eval()
    for size in ((64, 96), (50, 70), (17, 33), (1, 1)):
        with torch.no_grad():
            features = backbone(torch.zeros(1, 3, *size))
        assert features.shape == (1, backbone.out_channels, *cells(size))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet101", "vgg11", "inceptionv4", "xception", "dpn68", "tu-vgg11", "mobileone_s0"])
def test_larger_encoders_do_too(name):
    backbone = SmpBackbone(name).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 50, 70)).shape == (1, backbone.out_channels, 4, 5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-b0", "mit_b0", "tu-convnext_atto", "densenet121"])
def test_early_features_are_those_of_the_first_four_stages(name):
    """Of an encoder that has no more, and of one that stops there."""
    torch.manual_seed(0)
    whole, early = SmpBackbone(name).eval(), SmpBackbone(name, depth=EARLY).eval()
    early.load_state_dict({key: t for key, t in whole.state_dict().items() if key in early.state_dict()})
    image = torch.randn(2, 3, 64, 96) * 50
    with torch.no_grad():
        expected = whole.encoder(scaled(image, whole.scaling))[EARLY]
        assert torch.equal(whole.early(image), expected)
        torch.testing.assert_close(early(image), expected)
        assert expected.shape[1] == whole.early_channels == early.out_channels == early.early_channels
        for size in ((50, 70), (17, 33), (1, 1)):
            for backbone in (whole.early, early):
                assert backbone(torch.zeros(1, 3, *size)).shape[2:] == cells(size)


@pytest.mark.parametrize("blocks", [1, 2])
def test_early_features_may_be_taken_within_the_third_stage(blocks):
    torch.manual_seed(0)
    whole = SmpBackbone("resnet18", early_blocks=blocks).eval()
    early = SmpBackbone("resnet18", depth=EARLY, early_blocks=blocks).eval()
    early.load_state_dict({key: t for key, t in whole.state_dict().items() if key in early.state_dict()})
    assert any(f"layer3.{blocks - 1}." in key for key in early.state_dict())
    assert not any(f"layer3.{blocks}." in key or "layer4" in key for key in early.state_dict())
    net, image = whole.encoder, torch.randn(1, 3, 64, 96) * 50
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(scaled(image, whole.scaling)))))
        expected = net.layer3[:blocks](net.layer2(net.layer1(x)))
        assert torch.equal(whole.early(image), expected) and expected.shape[1] == whole.early_channels
        torch.testing.assert_close(early(image), expected)
        assert whole(image).shape == (1, 512, 4, 6)  # the backbone itself is whole


@pytest.mark.parametrize(
    ("name", "blocks", "words"),
    [("resnet18", 3, "has 2 blocks in its third stage; 3 were requested"), ("mobilenet_v2", 1, "is not a ResNet")],
)
def test_blocks_that_are_not_there_are_named(name, blocks, words):
    for depth in (EARLY, 5):
        with pytest.raises(ValueError, match=words):
            SmpBackbone(name, depth=depth, early_blocks=blocks)


def test_early_features_leave_out_the_last_stage():
    whole, early = SmpBackbone("resnet18"), SmpBackbone("resnet18", depth=EARLY)
    assert not any("layer4" in key for key in early.state_dict())
    whole.encoder.layer4 = None  # not to be called
    whole.early(torch.zeros(1, 3, 64, 64)).sum().backward()
    early(torch.zeros(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for b in (whole, early) for p in b.parameters())
    assert whole.training and early.training and early.encoder.training


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 16), ("densenet121", 32)])
def test_encoders_are_dilated_where_they_can_be(name, stride):
    assert SmpBackbone(name).stride == stride


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_cell_lies_where_its_pixels_are(name):
    """A spot in the frame changes the features most in the cells around it."""
    torch.manual_seed(0)
    backbone = SmpBackbone(name).eval()
    image = torch.zeros(1, 3, 320, 320)
    spot = image.clone()
    spot[..., 224:240, 64:80] = 100  # cell (14, 4)
    with torch.no_grad():
        change = (backbone(spot) - backbone(image)).abs().sum(1)[0]
    y, x = divmod(int(change.argmax()), change.shape[1])
    assert abs(y - 14) <= 2 and abs(x - 4) <= 2


def test_the_encoder_sees_imagenet_scaling():
    rgb = torch.rand(1, 3, 4, 4) * 255
    expected = (rgb / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    seen = scaled(rgb - torch.tensor(PIXEL_MEANS).view(3, 1, 1), PixelScaling())
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_building_leaves_the_backbone_in_training_mode():
    assert all(module.training for module in SmpBackbone("resnet18").modules())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet19", "resnet18"),
        ("effcientnet-b0", "efficientnet-b0"),
        ("tu-convnext_ato", "tu-convnext_atto"),
        ("timm-efficientnet-b9", "timm-efficientnet-b"),
        ("", "resnet18"),
        ("mit-b0", "mit_b0"),
    ],
)
def test_an_unknown_encoder_is_refused_with_near_names(name, near):
    with pytest.raises(ValueError, match=f"^unknown encoder {name!r}; .*{near}") as error:
        SmpBackbone(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tu-swin_tiny_patch4_window7_224", "tu-vit_tiny_patch16_224"])
def test_an_encoder_for_one_frame_size_is_refused(name):
    with pytest.raises(ValueError, match=f"^encoder '{name}' (does not take frames of any size|cannot be built): ."):
        SmpBackbone(name)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Every connection is refused, nothing is cached; what was asked for is listed."""
    import huggingface_hub
    from huggingface_hub import constants

    asked = []

    def refuse(*args, **_):
        asked.append(args)
        raise OSError("network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


@pytest.mark.parametrize("name", ["resnet18", "tu-mobilenetv3_small_050", "mit_b0"])
def test_weights_that_cannot_be_fetched_are_told_at_once(name, no_network, capfd):
    """The hub's client tries again for half a minute and warns each time; a user waits for neither."""
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"^ImageNet weights for '{name}' could not be loaded .*pretrained: false"):
        SmpBackbone(name, pretrained=True)
    assert time.monotonic() - start < 20
    assert len(no_network) <= 2
    assert "Retry" not in capfd.readouterr().err


def test_the_network_may_come_back(no_network):
    from huggingface_hub import constants

    with pytest.raises(ValueError):
        SmpBackbone("resnet18", pretrained=True)
    assert not constants.HF_HUB_OFFLINE


def test_damaged_weights_are_told(monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"garbage" * 10)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", lambda *_, **__: str(path))
    with pytest.raises(ValueError, match="ImageNet weights for 'resnet18' could not be loaded"):
        SmpBackbone("resnet18", pretrained=True)


def test_pretrained_weights_arrive(monkeypatch, tmp_path):
    from safetensors.torch import save_file
    from segmentation_models_pytorch.encoders import get_encoder

    stored = get_encoder("resnet18").state_dict()
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in stored.items()}, path)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", lambda *_, **__: str(path))
    loaded = SmpBackbone("resnet18", pretrained=True).encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_residual_blocks_can_start_as_identities():
    """A deeper network then starts as the shallower one: what the blocks add is nothing."""
    backbone = SmpBackbone("resnet18", zero_init_residual=True)
    blocks = [module for module in backbone.modules() if type(module).__name__ == "BasicBlock"]
    assert len(blocks) == 8
    image = torch.rand(2, 64, 8, 8)
    plain = [block for block in blocks if block.downsample is None and block.conv1.in_channels == 64]
    for block in plain:
        assert torch.equal(block(image), image)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("mobilenet_v2", False, "'mobilenet_v2' has no residual blocks that zero_init_residual knows"),
        ("resnet18", True, "zero_init_residual would undo what pretrained: true loads"),
    ],
)
def test_starting_as_identities_where_it_cannot_be(name, pretrained, message, monkeypatch):
    make_encoder = smp.make_encoder
    monkeypatch.setattr(smp, "make_encoder", lambda name, _, depth: make_encoder(name, False, depth))
    with pytest.raises(ValueError, match=message):
        SmpBackbone(name, pretrained, zero_init_residual=True)
