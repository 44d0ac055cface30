"""DIS flow in place of a flow network, by pictures that are known to move."""

import pytest
import torch

from accel.config import load_config
from accel.models import Accel, DeepFeatureFlow, DenseInverseSearch, FlowNetS, build_model
from accel.models.images import subtract_mean

SIZE = (128, 192)


def texture(seed=0):
    """(3, H, W) uint8 with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, *SIZE)
    for cells in (4, 8, 16, 32):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic", align_corners=False)
    return (total[0] * 255 / 4).clamp(0, 255).to(torch.uint8)


def moved(image, dx, dy):
    return image.roll((dy, dx), (1, 2))


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (8, 0), (-4, 6)])
def test_a_shift_is_found_in_cells(dx, dy):
    previous = texture()
    current = moved(previous, dx, dy)
    flow = DenseInverseSearch()(subtract_mean(current[None]), subtract_mean(previous[None]))
    assert flow.shape == (1, 2, 8, 12) and flow.dtype == torch.float32
    inner = flow[0, :, 2:-2, 2:-2]
    expected = torch.tensor([-dx / 16, -dy / 16]).view(2, 1, 1).expand_as(inner)
    torch.testing.assert_close(inner, expected, atol=0.02, rtol=0)  # a third of a pixel


def test_every_pair_of_a_batch_has_its_own_flow():
    first, second = texture(1), texture(2)
    current = torch.stack([moved(first, 6, 0), second])
    flow = DenseInverseSearch()(subtract_mean(current), subtract_mean(torch.stack([first, second])))
    assert flow[0, 0, 2:-2, 2:-2].mean().item() == pytest.approx(-6 / 16, abs=0.02)
    assert flow[1].abs().max() < 0.02


@pytest.mark.parametrize("size", [(50, 70), (33, 17)])
def test_cells_cover_frames_of_any_size(size):
    frames = torch.zeros(1, 3, *size)
    assert DenseInverseSearch("fast")(frames, frames).shape == (1, 2, -(-size[0] // 16), -(-size[1] // 16))


def model(tmp_path, flow, name="accel"):
    path = tmp_path / "model.yaml"
    path.write_text(
        f"model: {{name: {name}, num_classes: 3, reference: {{encoder: resnet18, head_channels: 8}}, flow: {flow}"
        + (", update: {encoder: resnet18, head_channels: 8}}" if name == "accel" else "}")
        + "\ndata: {name: camvid}\ntrain: {steps: 1, batch_size: 1, optimizer: {name: sgd, lr: 1}}\n"
    )
    torch.manual_seed(0)
    return build_model(load_config(path).model).eval()


@pytest.mark.parametrize(("name", "kind"), [("accel", Accel), ("deep_feature_flow", DeepFeatureFlow)])
def test_one_line_of_the_configuration_chooses_the_flow(tmp_path, name, kind):
    built = model(tmp_path, "{name: dis, preset: fast}", name)
    assert isinstance(built, kind) and built.propagation.flow.preset == "fast"
    assert not list(built.propagation.parameters())
    assert isinstance(model(tmp_path, "{width: 0.1}", name).propagation.flow, FlowNetS)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("{name: raft}", "model.flow.name: unknown 'raft'; there are 'flownet_s', 'dis'"),
        ("{name: dis, width: 0.5}", "model.flow: unknown key 'width'; known: name, preset"),
        ("{name: dis, preset: slow}", r"model.flow.preset: .*'ultrafast', 'fast' or 'medium'.*got 'slow'"),
    ],
)
def test_a_wrong_flow_is_told(tmp_path, flow, message):
    with pytest.raises(ValueError, match=message):
        model(tmp_path, flow)


@torch.no_grad()
def test_optimised_models_keep_their_classical_flow(tmp_path):
    accel = model(tmp_path, "{name: dis}")
    fast = accel.optimized(SIZE, torch.float32, compile=False)
    first, second = texture()[None], moved(texture(), 8, 0)[None]
    results = []
    for m in (accel, fast):
        _, state = m.key_frame(first)
        results.append(m.next_frame(second, state)[0].scores)
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-3)
