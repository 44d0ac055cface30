"""The video models: the two calls that all of them answer."""

import dataclasses

import pytest
import torch
from colour_cells import Cells
from small_models import CLASSES, CONFIGURED, SIZE, WITHOUT_FLOW, clip_of, make, scores_of
from torch import nn

from accel import models as accel_models
from accel.models import Accel, DeepFeatureFlow, DeepLab, FlowWarp
from accel.models.images import PIXEL_MEANS, subtract_mean
from accel.models.segmentation.fusion import ScoreFusion


@pytest.fixture(scope="module", params=CONFIGURED)
def model(request):
    return make(request.param).eval()


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (17, 33), (1, 1)])
def test_any_frame_size_is_labelled(model, size):
    frames = clip_of(size, 2, batch=2)
    with torch.inference_mode():
        scores, state = model.key_frame(frames[:, 0])
        after, _ = model.next_frame(frames[:, 1], state)
    for map_ in (scores, after):
        assert map_.labels(size).shape == (2, *size) and map_.labels(size).dtype == torch.uint8
        assert map_.labels(size).max() < CLASSES
        assert map_.upsample(size).shape == (2, CLASSES, *size)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_clip_is_a_key_frame_and_then_one_frame_after_another(model, frames):
    clip = clip_of((50, 70), frames)
    with torch.no_grad():
        scores, state = model.key_frame(clip[:, 0])
        for t in range(1, frames):
            scores, state = model.next_frame(clip[:, t], state)
        assert torch.equal(model(clip).scores, scores.scores)


def test_advancing_gives_the_state_of_the_next_frame(model):
    first, second, third = clip_of((50, 70), 3).unbind(1)
    with torch.no_grad():
        _, state = model.key_frame(first)
        advanced, (_, stepped) = model.advance(second, state), model.next_frame(second, state)
        after = [model.next_frame(third, reached)[0].scores for reached in (advanced, stepped)]
    assert torch.equal(*after)
    if advanced is None:
        assert stepped is None
    else:
        assert torch.equal(advanced.anchor.features, stepped.anchor.features)
        assert torch.equal(advanced.image, stepped.image)


def test_what_a_model_says_depends_on_the_frames_before_where_it_says_so(model):
    one, other, frame = clip_of((50, 70), 3).unbind(1)
    with torch.no_grad():
        found = [model.next_frame(frame, model.key_frame(before)[1])[0].scores for before in (one, other)]
    assert torch.equal(*found) is not model.carries_state


def test_frames_may_be_bytes_or_floating_point(model):
    clip = clip_of((50, 70), 3)
    with torch.no_grad():
        assert torch.equal(model(clip).scores, model(clip.float()).scores)


def test_a_batch_of_two_is_two_videos(model):
    clip = clip_of((50, 70), 3, batch=2)
    with torch.no_grad():
        both = model(clip).scores
        for i in range(2):
            torch.testing.assert_close(both[i], model(clip[i : i + 1]).scores[0], atol=1e-4, rtol=1e-4)


def test_the_state_cannot_be_changed(model):
    _, state = model.key_frame(clip_of((32, 32))[:, 0])
    if state is not None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            state.anchor = None


def test_a_key_frame_in_the_course_of_a_video_is_a_first_one_unless_the_model_remembers(model):
    clip = clip_of((50, 70), 3)
    with torch.no_grad():
        alone, _ = model.key_frame(clip[:, 2])
        _, state = model.key_frame(clip[:, 0])
        _, state = model.next_frame(clip[:, 1], state)
        after, _ = model.key_frame(clip[:, 2], state)
    assert torch.equal(alone.scores, after.scores) != model.remembers


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_gradient_of_a_clip_of_four_reaches_every_parameter(name):
    model = make(name).train()
    clip = clip_of((64, 96), 4, batch=2)
    # Learned sampling has parts that only a second key frame needs.
    refreshed = (2,) if name in WITHOUT_FLOW else ()
    model(clip, refreshed).upsample((64, 96)).square().mean().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # What is added to the quality of both maps alike says nothing: up to rounding, its gradient is zero.
    alike = {key: p.grad for key, p in model.named_parameters() if ".quality." in key and key.endswith(".bias")}
    assert [key for key in without if key not in alike] == []
    assert all(gradient.abs().max() < 1e-6 for gradient in alike.values())


@pytest.mark.parametrize("refreshed", [(1,), (2,), (1, 3), (3,)])
def test_key_frames_within_a_clip_build_on_the_state(model, refreshed):
    clip = clip_of((50, 70), 4)
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        for t in range(1, 4):
            scores, state = (model.key_frame if t in refreshed else model.next_frame)(clip[:, t], state)
        assert torch.equal(model(clip, refreshed).scores, scores.scores)


@pytest.mark.parametrize("frame", [0, 2, 5])
def test_key_frames_outside_a_clip_are_refused(model, frame):
    with pytest.raises(ValueError, match=f"refreshed: frame {frame} of a clip of 2: expected 1 to 1"):
        model(clip_of((32, 32), 2), (frame,))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32), (1, 32, 32, 3), (1, 3, 0, 32)])
def test_what_is_no_frame_is_refused(model, shape):
    with pytest.raises(ValueError, match="frames must"):
        model.key_frame(torch.zeros(shape))


def test_the_mean_is_subtracted_in_rgb_order():
    image = torch.tensor(PIXEL_MEANS, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.equal(subtract_mean(image), torch.zeros(1, 3, 2, 2, dtype=torch.float64))
    assert PIXEL_MEANS[0] > PIXEL_MEANS[2]  # red first
    assert subtract_mean(torch.zeros(1, 3, 2, 2, dtype=torch.float16)).dtype == torch.float32


# --- propagation ----------------------------------------------------------------------------------------------


class ConstantFlow(nn.Module):
    """Says the same displacement everywhere, in cells."""

    def __init__(self, dx, dy):
        super().__init__()
        self.displacement = dx, dy

    def forward(self, current, previous):
        h, w = (-(-side // 16) for side in current.shape[2:])
        return current.new_tensor(self.displacement).view(1, 2, 1, 1).expand(len(current), 2, h, w).contiguous()


def deeplab():
    return DeepLab(Cells(), CLASSES, head_channels=8)


def test_features_of_a_still_video_stay_as_they_are():
    model = DeepFeatureFlow(deeplab(), FlowWarp(ConstantFlow(0, 0)))
    image = clip_of((50, 70))[:, 0]
    scores, state = model.key_frame(image)
    for _ in range(5):
        after, state = model.next_frame(image, state)
    assert torch.equal(after.scores, scores.scores)


def test_features_are_carried_from_frame_to_frame_not_from_the_key_frame():
    """Three steps of one cell each are three cells: the flow says where content was one frame ago."""
    model = DeepFeatureFlow(deeplab(), FlowWarp(ConstantFlow(1, 0)))
    clip = clip_of((64, 160), 4)
    _, state = model.key_frame(clip[:, 0])
    key = state.anchor.features
    for t in range(1, 4):
        _, state = model.next_frame(clip[:, t], state)
    torch.testing.assert_close(state.anchor.features[..., :-3], key[..., 3:])
    assert not state.anchor.features[..., -3:].any()  # outside the map there is nothing


def test_accel_is_the_fusion_of_propagated_and_fresh_scores():
    torch.manual_seed(0)
    reference, update, fusion = deeplab(), deeplab(), ScoreFusion(CLASSES)
    nn.init.normal_(fusion.correction.weight)
    model = Accel(reference, FlowWarp(ConstantFlow(1, 0)), update, fusion)
    first, second = clip_of((32, 64), 2).unbind(1)
    scores, state = model.key_frame(first)
    assert torch.equal(scores.scores, reference(subtract_mean(first)).scores)
    fused, _ = model.next_frame(second, state)
    features = reference.features(subtract_mean(first))
    moved = torch.cat([features[..., 1:], torch.zeros_like(features[..., :1])], -1)
    by_hand = fusion(reference.predict(moved), update(subtract_mean(second)))
    torch.testing.assert_close(fused.scores, by_hand.scores)


def test_shared_accel_carries_on_the_propagated_features_not_the_fused_ones():
    model = make("accel_shared").eval()
    clip = clip_of((50, 70), 2)
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        _, after = model.next_frame(clip[:, 1], state)
        propagated = model.propagation(state.anchor.features, subtract_mean(clip[:, 1]), state.image)
    assert torch.equal(after.anchor.features, propagated)


def test_half_precision_features_are_propagated(model):
    """As under bf16 autocast in training."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(clip_of((64, 96), 3)).upsample((64, 96))
    with torch.no_grad():
        full = model(clip_of((64, 96), 3)).upsample((64, 96))
    assert torch.isfinite(mixed).all()
    assert (mixed - full).abs().mean() < 0.1 * full.abs().mean() + 0.05


def still(model):
    """A model whose flow is zero."""
    model = make(model).eval()
    if hasattr(model, "propagation"):
        for predict in model.propagation.flow.predict.values():
            nn.init.zeros_(predict.weight)
            nn.init.zeros_(predict.bias)
    return model


@pytest.mark.parametrize("name", ["deep_feature_flow", "accel", "accel_shared"])
def test_renewal_gives_the_key_frames_features_some_frames_later(name):
    model, clip = still(name), clip_of((50, 70), 5)
    with torch.no_grad():
        _, first = model.key_frame(clip[:, 0])
        _, second = model.next_frame(clip[:, 1], first)
        features = model.key_frame(clip[:, 1])[1].anchor.features
        state = model.renew(second, 3)
        for t in (2, 3):
            _, state = model.next_frame(clip[:, t], state)
            assert torch.allclose(
                state.anchor.features, first.anchor.features, atol=1e-5
            )  # meanwhile the old ones go on
        _, state = model.next_frame(clip[:, 4], state)
    assert torch.allclose(state.anchor.features, features, atol=1e-5) and state.pending is None


def test_renewed_features_follow_all_the_motion_since_their_frame():
    model, clip = still("deep_feature_flow"), clip_of((64, 96), 4)
    nn.init.constant_(model.propagation.flow.predict["2"].bias, 0.1)  # a quarter of a cell a frame, by its scale of 2.5
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        features = state.anchor.features
        state = model.renew(state, 3)
        for t in range(1, 4):
            _, state = model.next_frame(clip[:, t], state)
        moved = torch.nn.functional.grid_sample(features, grid_of(4, 6, 0.75), align_corners=True)
    torch.testing.assert_close(state.anchor.features[..., :3, :5], moved[..., :3, :5], rtol=1e-4, atol=1e-5)


def grid_of(height, width, shift):
    """Where `grid_sample` looks for a shift of some cells right and down."""
    rows, columns = torch.meshgrid(torch.arange(height) + shift, torch.arange(width) + shift, indexing="ij")
    return torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)[None]


def test_joined_motions_add_up_also_beyond_the_frame():
    def shift(dx):
        return torch.tensor([dx, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 8).contiguous()

    assert torch.equal(FlowWarp.join(shift(2), shift(3)), shift(5))


def test_passing_frames_while_features_are_renewed_only_goes_on_with_the_work():
    """Where every frame asks the key frame, how things moved in a frame that nobody looks at is not worked out."""
    model, clip = make("learned_sampling").eval(), clip_of((64, 96), 5)
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        stepped = passed = model.renew(state, 3)
        for t in (1, 2, 3):
            _, stepped = model.next_frame(clip[:, t], stepped)
        motion, model.propagation.motion = model.propagation.motion, None  # not to be called
        for t in (1, 2, 3):
            passed = model.advance(clip[:, t], passed)
            assert passed.pending is None or (passed.pending.passed, passed.pending.frames) == (t, 3)
        model.propagation.motion = motion
        assert passed.pending is None and stepped.pending is None
        assert torch.equal(passed.anchor.features, stepped.anchor.features)
        assert torch.equal(passed.anchor.memory, stepped.anchor.memory)
        # Some frames passed, some looked at.
        mixed = model.advance(clip[:, 1], model.renew(state, 3))
        mixed = model.advance(clip[:, 3], model.next_frame(clip[:, 2], mixed)[1])
        after = [model.next_frame(clip[:, 4], s)[0].scores for s in (stepped, passed, mixed)]
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])


def test_the_memory_is_updated_as_a_part_of_the_renewals_work():
    model, clip = make("accel_learned_sampling").eval(), clip_of((64, 96), 3)
    with torch.no_grad():
        _, state = model.key_frame(clip[:, 0])
        _, state = model.key_frame(clip[:, 1], state)
        expected = model.propagation.update(state.anchor.memory, model.reference.features(state.image))
        work = model.renew(state, 1).pending.go_on().work
    assert all(torch.equal(a, b) for a, b in zip(work.result, expected, strict=True))
    assert not torch.equal(*expected)  # half of the memory is the new key frame's


def test_models_that_cannot_renew_say_so():
    class Plain(accel_models.VideoModel):
        def key_frame(self, image, state=None):
            return None, None

        def next_frame(self, image, state):
            return None, None

    with pytest.raises(ValueError, match="Plain cannot spread a key frame's work over several frames"):
        Plain().renew(None, 5)
    frames = make("frame_by_frame")
    assert frames.renew(None, 5) is None
    with pytest.raises(ValueError, match="renewal over 0 frames: expected 1 or more"):
        make("accel").renew(None, 0)


def test_a_model_without_parameters_is_on_the_cpu():
    class ByRed(accel_models.VideoModel):
        def key_frame(self, image, state=None): ...

        def next_frame(self, image, state): ...

    assert ByRed().device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("frame_by_frame", []),
        ("deep_feature_flow", ["reference branch"]),
        ("accel", ["reference branch", "update branch", "Deep Feature Flow"]),
        ("accel_shared", ["reference branch"]),
    ],
)
def test_the_simpler_models_within_one_are_built_of_its_layers(name, names):
    model, clip = make(name).eval(), clip_of(SIZE, 2)
    simpler = model.constituents()
    assert list(simpler) == names
    for each in simpler.values():
        assert {id(p) for p in each.parameters()} < {id(p) for p in model.parameters()}
    if "reference branch" in names:  # on a key frame a model is its reference branch
        with torch.inference_mode():
            alone, whole = (m.key_frame(clip[:, 0])[0].scores for m in (simpler["reference branch"], model))
        assert torch.equal(alone, whole)
    if "Deep Feature Flow" in names:
        alike = DeepFeatureFlow(model.reference, model.propagation)
        for got, expected in zip(scores_of(simpler["Deep Feature Flow"], clip), scores_of(alike, clip), strict=True):
            assert torch.equal(got.scores, expected.scores)
