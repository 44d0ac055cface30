"""Learned sampling against the authors' parameters and definitions, and within the video models."""

import runpy
import warnings

import accel_ops
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colour_cells import Cells, knowing, moving
from small_models import BRANCH, CLASSES
from torch import nn

from accel.config import parse_model
from accel.models import Accel, DeepFeatureFlow, DeepLab, FlowWarp, LearnedSampling, build_model
from accel.models.backbones.smp import scaled
from accel.models.images import subtract_mean
from accel.models.propagation.learned_sampling import Aggregation, Quality, gaussian_offsets, grid_offsets
from accel.models.segmentation.fusion import ScoreFusion
from accel.weights.published_sampling import load_published_sampling, sampling_names


@pytest.fixture(params=["native", "reference"])
def operators(request, monkeypatch):
    """With the native operator, and with its definition in its place."""
    if request.param == "reference":
        monkeypatch.setattr(accel_ops, "sample_attend", accel_ops.reference.sample_attend)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if accel_ops.load("cpu") != "native":
            pytest.skip("no native operators")


@pytest.fixture
def golden(parity):
    """What the authors' network makes of two feature maps with the parameters that `make_array` gives."""
    with np.load(parity("lsts/golden.npz")) as stored:
        return {name: torch.from_numpy(array) for name, array in stored.items()}


@pytest.fixture
def published(parity, golden):
    """Our module with those parameters."""
    make_array = runpy.run_path(str(parity("weights.py")))["make_array"]
    model = LearnedSampling(nn.Identity(), 3, channels=64, offsets=golden["offsets"])
    arrays = {"init_offset": golden["offsets"].numpy()}
    for key, name in sampling_names().items():
        if key != "offsets":
            arrays[name] = make_array(name, tuple(model.state_dict()[key].shape))
    nn.init.zeros_(model.offsets)
    load_published_sampling(model, arrays)
    return model


@torch.no_grad()
def test_it_gives_what_the_authors_network_gives(operators, published, golden):
    memory, current = golden["memory"][None], golden["current"][None]
    use = published.key_to_key
    attention = use.attention(memory, current, published.offsets)[0]
    torch.testing.assert_close(attention, golden["attention"], rtol=0, atol=1e-4)
    aligned = use.align(memory, current, published.offsets)[0]
    torch.testing.assert_close(aligned, golden["aligned"], rtol=0, atol=1e-4)
    aggregated, remembered = published.update(memory, current)
    torch.testing.assert_close(aggregated[0], golden["aggregated"], rtol=0, atol=1e-4)
    assert remembered is aggregated  # the published ratio is 1, and one tensor is enough


def test_both_uses_have_names_of_their_own_and_share_the_offsets():
    names = sampling_names()
    assert names.keys() == LearnedSampling(nn.Identity(), 3, 4, grid_offsets(1), embedding=2).state_dict().keys()
    assert names["offsets"] == "init_offset"
    assert names["key_to_key.embed_memory.weight"] == "embedding_conv_feat_oldkey_key2key_weight"
    assert names["key_to_current.embed_current.bias"] == "embedding_conv_feat_newkey_key2cur_bias"
    assert names["key_to_current.quality.2.weight"] == "quality_conv3_key2cur_weight"
    assert names["low_to_high.4.weight"] == "low2high_conv3_weight"
    assert len(set(names.values())) == len(names) == 1 + 2 * 3 + 2 * 2 * 5


def test_offsets_start_as_the_grid_or_normally_distributed():
    grid = grid_offsets(4)
    assert grid.shape == (81, 2) and len(set(map(tuple, grid.tolist()))) == 81
    assert grid.abs().max() == 4 and torch.equal(grid, grid.round())
    assert grid[0].tolist() == [-4, -4] and grid[1].tolist() == [-4, -3]  # as published: down first
    assert torch.equal(grid_offsets(0), torch.zeros(1, 2))
    torch.manual_seed(0)
    drawn = gaussian_offsets(2000, 1.5)
    assert drawn.shape == (2000, 2)
    torch.testing.assert_close(drawn.std(0), torch.tensor([1.5, 1.5]), rtol=0.1, atol=0)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(2), rtol=0, atol=0.15)


# --- where attention is known by hand ------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_found_where_their_like_is():
    clip = subtract_mean(moving(2).flatten(0, 1))
    model = knowing()
    first, second = Cells()(clip[:1]), Cells()(clip[1:])
    aligned = model.key_to_current.align(first, second, model.offsets)
    torch.testing.assert_close(aligned[..., 1:], second[..., 1:], rtol=1e-3, atol=1e-2)
    weights = model.key_to_current.attention(first, second, model.offsets)
    left = int((model.offsets == torch.tensor([-1.0, 0.0])).all(1).nonzero())  # a cell that came from the left
    assert (weights[:, left, :, 1:] > 0.99).all()


@torch.no_grad()
def test_every_frame_asks_the_key_frame_whatever_lies_between():
    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), knowing())
    clip = moving(3)
    _, state = model.key_frame(clip[:, 0])
    key = state.anchor.features
    for t in (1, 2):
        scores, state = model.next_frame(clip[:, t], state)
        assert state.anchor.features is key
    shuffled = clip.clone()
    shuffled[:, 1] = torch.randn_like(shuffled[:, 1])
    assert torch.equal(model(clip).scores, model(shuffled).scores)
    # Two cells of motion at once are within reach.
    found = model.propagation(key, subtract_mean(clip[:, 2]), state.anchor.image)
    torch.testing.assert_close(found[..., 2:], key[..., :-2], rtol=1e-3, atol=1e-2)
    assert torch.equal(scores.scores, model.reference.predict(found).scores)


@torch.no_grad()
def test_advancing_costs_nothing_and_loses_nothing():
    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), knowing())
    clip = moving(4)
    _, state = model.key_frame(clip[:, 0])
    stepped, advanced = state, state
    model.propagation.motion = None  # not to be called
    advanced = model.advance(clip[:, 2], model.advance(clip[:, 1], advanced))
    del model.propagation.motion
    for t in (1, 2):
        _, stepped = model.next_frame(clip[:, t], stepped)
    assert torch.equal(advanced.image, stepped.image) and advanced.anchor.features is stepped.anchor.features
    after = [model.next_frame(clip[:, 3], s)[0].scores for s in (stepped, advanced)]
    assert torch.equal(*after)


@torch.no_grad()
def test_a_key_frame_builds_on_the_memory_unless_it_starts_afresh():
    ratio = 0.25
    sampling = knowing(ratio=ratio)
    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), sampling)
    clip = moving(3)
    own = [Cells()(subtract_mean(image)) for image in clip.unbind(1)]
    _, state = model.key_frame(clip[:, 0])
    assert torch.equal(state.anchor.features, own[0])
    expected = own[0]  # the memory
    for t in (1, 2):
        aggregated = sampling.key_to_key(expected, own[t], sampling.offsets)
        expected = ratio * aggregated + (1 - ratio) * own[t]
        scores, state = model.key_frame(clip[:, t], state)
        assert torch.equal(state.anchor.features, aggregated)
        torch.testing.assert_close(state.anchor.memory, expected)
        assert torch.equal(scores.scores, model.reference.predict(aggregated).scores)
    assert torch.equal(model.key_frame(clip[:, 2])[1].anchor.features, own[2])
    # After frames in between, the memory is still that of the key frames.
    _, state = model.key_frame(clip[:, 0])
    for step in (model.next_frame, model.advance):
        between = step(clip[:, 1], state)
        between = between if step == model.advance else between[1]
        after = [model.key_frame(clip[:, 2], reached)[1].anchor.features for reached in (between, state)]
        assert torch.equal(*after)


@torch.no_grad()
def test_with_flow_every_key_frame_is_a_fresh_start():
    class Still(nn.Module):
        def forward(self, current, previous):
            return current.new_zeros(len(current), 2, 4, 10)

    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), FlowWarp(Still()))
    clip = moving(2)
    _, state = model.key_frame(clip[:, 0])
    scores, state = model.key_frame(clip[:, 1], state)
    fresh, expected = model.key_frame(clip[:, 1])
    assert torch.equal(scores.scores, fresh.scores) and torch.equal(state.anchor.features, expected.anchor.features)
    assert torch.equal(model(clip, refreshed=(1,)).scores, fresh.scores)


@torch.no_grad()
def test_gradual_renewal_takes_over_the_new_key_frames_features():
    sampling = knowing()
    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), sampling)
    clip = moving(4)
    own = [Cells()(subtract_mean(image)) for image in clip.unbind(1)]
    _, state = model.key_frame(clip[:, 0])
    _, state = model.next_frame(clip[:, 1], state)
    state = model.renew(state, 2)
    _, state = model.next_frame(clip[:, 2], state)
    assert torch.equal(state.anchor.features, own[0]) and state.pending is not None  # meanwhile the old ones go on
    renewed, _ = sampling.update(own[0], own[1])
    expected = sampling(renewed, subtract_mean(clip[:, 3]), subtract_mean(clip[:, 2]))
    scores, model_at_work = model.next_frame(clip[:, 3], state)
    assert torch.equal(scores.scores, model.reference.predict(expected).scores)
    sampling.motion = None  # not to be called by the other way
    for last in (model_at_work, model.advance(clip[:, 3], state)):
        assert last.pending is None and torch.equal(last.anchor.features, renewed)
        assert torch.equal(last.anchor.memory, renewed)


@torch.no_grad()
def test_accel_fuses_the_scores_of_what_was_found():
    torch.manual_seed(0)
    reference, update = (DeepLab(Cells(), CLASSES, head_channels=8) for _ in range(2))
    model = Accel(reference, knowing(), update, ScoreFusion(CLASSES))
    clip = moving(2)
    fused = model(clip)
    first, second = (subtract_mean(image) for image in clip.unbind(1))
    found = model.propagation(reference.features(first), second, first)
    by_hand = model.fusion(reference.predict(found), update(second))
    torch.testing.assert_close(fused.scores, by_hand.scores)


@pytest.mark.parametrize("size", [(5, 6), (1, 4), (2, 2), (1, 1)])
def test_quality_is_its_three_convolutions_in_turn(size):
    torch.manual_seed(0)
    quality = Quality(7, 6).double()
    features = torch.randn(2, 7, *size, dtype=torch.float64, requires_grad=True)
    by_turns = nn.Sequential(*quality)(features)
    leaves = [features, *quality.parameters()]
    slope = torch.randn_like(by_turns)
    at_once = quality(features)
    torch.testing.assert_close(at_once, by_turns, rtol=1e-12, atol=1e-13)
    for a, b in zip(*(torch.autograd.grad(out, leaves, slope) for out in (at_once, by_turns)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = quality.float()(features.float())
    torch.testing.assert_close(rounded.double(), by_turns, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_quality_decides_how_much_of_each_map_counts():
    torch.manual_seed(0)
    use = Aggregation(4, 6)
    memory, current = torch.randn(2, 1, 4, 5, 6)
    for layer in use.quality:
        nn.init.normal_(layer.weight, std=0.5)
    weight = (use.quality(current) - use.quality(use.align(memory, current, grid_offsets(1)))).sigmoid()
    aligned = use.align(memory, current, grid_offsets(1))
    torch.testing.assert_close(use(memory, current, grid_offsets(1)), weight * current + (1 - weight) * aligned)


def test_features_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"features \(1, 3, 5, 10\) and converted low-level features \(1, 3, 4, 10\)"):
        knowing().move(torch.zeros(1, 3, 5, 10), torch.zeros(1, 3, 4, 10))


def test_a_memory_of_frames_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"memory of earlier key frames is \(1, 3, 5, 10\) and .* \(1, 3, 4, 10\)"):
        knowing().update(torch.zeros(1, 3, 5, 10), torch.zeros(1, 3, 4, 10))
    model = DeepFeatureFlow(DeepLab(Cells(), CLASSES, head_channels=8), knowing())
    _, state = model.key_frame(moving(1, (64, 160))[:, 0])
    with pytest.raises(ValueError, match="call `key_frame` without a state"):
        model.key_frame(moving(1, (96, 160))[:, 0], state)


@torch.no_grad()
def test_the_attention_shown_is_that_of_the_alignment_in_half_types_too():
    torch.manual_seed(0)
    use = Aggregation(4, 6).to(torch.bfloat16)
    for embed in (use.embed_memory, use.embed_current):
        nn.init.normal_(embed.weight)
    memory, current = torch.randn(2, 1, 4, 7, 8).to(torch.bfloat16)
    offsets = grid_offsets(1) + 0.1234
    weights = use.attention(memory, current, offsets)
    sampled = [accel_ops.reference.warp(memory.float(), o.view(1, 2, 1, 1).expand(1, 2, 7, 8)) for o in offsets]
    by_weights = sum(w[:, None] * s for w, s in zip(weights.unbind(1), sampled, strict=True))
    aligned = use.align(memory, current, offsets)
    torch.testing.assert_close(aligned, by_weights.to(torch.bfloat16), rtol=0.005, atol=0.002)


@pytest.mark.parametrize("form", ["params", "npz"])
def test_published_parameters_are_read_from_files(tmp_path, form):
    from accel.weights.mxnet_params import write_mxnet_params

    torch.manual_seed(0)
    source, model = (LearnedSampling(nn.Identity(), 3, 4, grid_offsets(1), embedding=2) for _ in range(2))
    arrays = {f"arg:{name}": source.state_dict()[key].numpy() for key, name in sampling_names().items()}
    arrays["arg:rfcn_cls_weight"] = np.zeros(3, np.float32)  # of the detector
    path = tmp_path / f"lsts.{form}"
    np.savez(path, **arrays) if form == "npz" else write_mxnet_params(path, arrays)
    load_published_sampling(model, path)
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


def test_parameters_that_do_not_fit_are_listed(tmp_path):
    model = LearnedSampling(nn.Identity(), 3, 4, grid_offsets(1), embedding=2)
    before = model.offsets.clone()
    arrays = {name: model.state_dict()[key].numpy() for key, name in sampling_names().items()}
    arrays["init_offset"] = np.zeros((4, 2), np.float32)
    del arrays["low2high_conv2_bias"]
    told = r"1 missing: low2high_conv2_bias; 1 misshapen: init_offset \(4, 2\) instead of \(9, 2\)"
    with pytest.raises(ValueError, match=told):
        load_published_sampling(model, arrays)
    assert torch.equal(model.offsets, before)
    (tmp_path / "lsts.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"lsts\.npz: not a readable \.npz file"):
        load_published_sampling(model, tmp_path / "lsts.npz")


# --- from a configuration -------------------------------------------------------------------------------------------


def build(name="deep_feature_flow", **sampling):
    torch.manual_seed(0)
    values = {"name": name, "num_classes": CLASSES, "reference": BRANCH}
    values["propagation"] = {"name": "learned_sampling", "embedding": 8, "radius": 1, **sampling}
    return build_model(parse_model(values, "test"))


def test_low_level_features_are_the_references_or_of_an_own_network():
    shared, own = build(), build(encoder="mobilenet_v2")
    image = torch.randn(1, 3, 50, 70) * 50
    for model in (shared, own):
        model.eval()
    with torch.no_grad():
        encoder = shared.reference.backbone.encoder
        padded = F.pad(image, (0, 80 - 70, 0, 64 - 50))
        expected = encoder(scaled(padded, shared.reference.backbone.scaling))[4][..., :4, :5]
        assert torch.equal(shared.propagation.low_level(image), expected)
    assert not any(key.startswith("propagation.low_level") for key in shared.state_dict())
    assert any(key.startswith("propagation.low_level") for key in own.state_dict())
    assert own.propagation.low_level(image).shape[1:] == (96, 4, 5)


def test_shared_low_level_features_stay_shared_when_the_model_is_copied_or_moved():
    import copy

    model = copy.deepcopy(build()).double()
    backbone = model.reference.backbone
    assert model.propagation.low_level.__self__ is backbone
    assert model.propagation.low_level(torch.zeros(1, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_the_configuration_decides_offsets_embedding_and_ratio():
    model = build(radius=2, update_ratio=0.5).propagation
    assert torch.equal(model.offsets, grid_offsets(2)) and model.update_ratio == 0.5
    assert model.key_to_key.embed_memory.out_channels == 8
    drawn = build(radius=2, offsets="gaussian").propagation.offsets
    assert drawn.shape == (25, 2) and not torch.equal(drawn, drawn.round())


def test_weights_go_to_a_file_and_back(tmp_path):
    from accel.weights.checkpoints import Description, describe_weights, load_weights, save_weights

    values = {"name": "deep_feature_flow", "num_classes": CLASSES, "reference": BRANCH}
    values["propagation"] = {"name": "learned_sampling", "embedding": 8, "radius": 1}
    config = parse_model(values, "test")
    path = tmp_path / "weights.safetensors"
    saved, loaded = build_model(config), build_model(config)
    save_weights(path, saved, Description(config, tuple("abcde"), ((0, 0, 0),) * 5, 1))
    assert describe_weights(path).model == config
    load_weights(loaded, path)
    for key, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
