"""Optimised models: the same function as the model they were made from."""

import copy

import pytest
import torch
from small_models import (
    ALL,
    CLASSES,
    SIZE,
    FlowOfPatches,
    Patches,
    assert_same,
    clip_of,
    enlivened,
    lively,
    make,
    scores_of,
    small,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accel.fast.batch_norms import fold_batch_norms
from accel.fast.inductor import in_form
from accel.fast.parts import Parts
from accel.models import (
    DeepFeatureFlow,
    DeepLab,
    FlowWarp,
    FrameByFrame,
    Propagation,
    ScoreMap,
    SmpBackbone,
    VideoModel,
)
from accel.models.branch import Branch

UNEVEN = (50, 70)


@pytest.fixture(scope="module", params=ALL)
def model(request):
    return lively(request.param)


@pytest.fixture(scope="module")
def before(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def fast(model, before):
    """Of a size at which published networks lose a row of features, and stretch them."""
    return model.optimized(UNEVEN, dtype=torch.float32, compile=False, parts=3)


def test_optimised_models_give_the_same_scores(model, fast):
    clip = clip_of(UNEVEN)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accel", "published_accel", "published_shared"])
@pytest.mark.parametrize("size", [SIZE, (65, 98)])
def test_any_frame_size_can_be_optimised_for(name, size):
    model, clip = lively(name), clip_of(size)
    fast = model.optimized(size, dtype=torch.float32, compile=False)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)


def test_the_model_itself_stays_as_it_was(model, before, fast):
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accel", small),
        ("published_shared", make),
        *(pytest.param(name, make, marks=pytest.mark.slow) for name in ("accel", "learned_sampling")),
    ],
)
def test_bfloat16_gives_nearly_the_same_scores(name, kind):
    model = enlivened(kind(name))
    clip = clip_of(SIZE)
    fast = model.optimized(SIZE, dtype=torch.bfloat16, compile=False)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 0.25)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("scaled_flow", torch.bfloat16),
        *(
            pytest.param("published_accel", dtype, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
            for dtype in (torch.bfloat16, torch.float32)
        ),
    ],
)
def test_compiled_models_give_the_same_scores(name, dtype):
    """Every layer takes TorchInductor seconds: of a few ones, unless there is time."""
    model = lively(name) if name in ALL else enlivened(small(name))
    clip = clip_of(SIZE, 3)
    fast = model.optimized(SIZE, dtype=dtype, parts=2)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3 if dtype == torch.float32 else 0.25)
    # Frames as they lie in memory after decoding, and in another layout.
    assert_same(scores_of(fast, clip.double()), scores_of(fast, clip), 1e-3)
    rows = clip.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert_same(scores_of(fast, rows), scores_of(fast, clip), 1e-3)
    with torch.no_grad():  # and in another mode of autograd
        assert fast.key_frame(clip[:, 0])[0].scores.shape == (1, CLASSES, 4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned_sampling", "accel_learned_sampling"])
def test_key_frames_that_build_on_the_memory_give_the_same_scores(name):
    model, clip = lively(name), clip_of(SIZE)
    for fast in (model.optimized(SIZE, torch.float32, compile=False), model.optimized(None, torch.float32)):
        with torch.inference_mode():
            assert fast.remembers
            state, expected = fast.key_frame(clip[:, 0])[1], model.key_frame(clip[:, 0])[1]
            for t in range(1, 4):
                step = "key_frame" if t == 2 else "next_frame"
                scores, state = getattr(fast, step)(clip[:, t], state)
                same, expected = getattr(model, step)(clip[:, t], expected)
                assert_same([scores], [same], 1e-3)


@pytest.mark.parametrize("name", ["shared_sampling", "scaled_flow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_linear_layers_cannot_change_places_with_is_optimised_without_that(name, dtype):
    model, clip = enlivened(small(name)), clip_of(SIZE, 3)
    fast = model.optimized(SIZE, dtype, compile=False, parts=2)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3 if dtype == torch.float32 else 0.25)
    with torch.inference_mode():
        state, expected = (m.key_frame(clip[:, 0])[1] for m in (fast, model))
        assert state.anchor.features.shape == expected.anchor.features.shape  # they are carried whole


def test_modules_of_which_nothing_is_known_are_optimised_too():
    """A branch, a propagation and a model that say nothing of how they are made fast."""

    class Reds(Branch):
        task = "segmentation"

        def __init__(self):
            super().__init__()
            self.backbone = Patches()

        def features(self, image):
            return self.backbone(image)

        def predict(self, features):
            return ScoreMap(features[:, :CLASSES])

    class Still(FlowWarp):
        make_fast = Propagation.make_fast

    class Ours(FrameByFrame):
        simplified, make_fast = VideoModel.simplified, VideoModel.make_fast

    for model in (DeepFeatureFlow(Reds(), Still(FlowOfPatches())), Ours(Reds())):
        clip = clip_of(SIZE, 3)
        fast = enlivened(model).optimized(SIZE, torch.float32, compile=False)
        assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)
        with pytest.raises(ValueError, match="already optimised"):
            fast.optimized(SIZE)


def test_all_batch_norms_after_convolutions_are_folded():
    for model, expected in ((DeepLab(SmpBackbone("resnet18"), CLASSES), 20), (lively("published_18").reference, 4)):
        backbone = model.eval().backbone
        image = torch.randn(1, 3, *SIZE)
        before = backbone(image)
        assert fold_batch_norms(backbone, (image,)) >= expected
        torch.testing.assert_close(backbone(image), before, rtol=1e-4, atol=1e-4)


def test_norms_without_statistics_are_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batch_norms(network, (torch.randn(1, 3, 8, 8),)) == 0


def test_inputs_are_copied_only_where_they_lie_elsewhere():
    example = torch.randn(1, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    form = (example.dtype, example.stride())
    decoded = torch.randn(4, 6, 3).permute(2, 0, 1)[None]  # the same places; strides of the batch differ
    assert decoded.stride() != example.stride()
    assert in_form(decoded, form).data_ptr() == decoded.data_ptr() and in_form(decoded, form).stride() == form[1]
    rows, wide = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 4, 6, dtype=torch.float64)
    for tensor in (rows, wide):
        laid_out = in_form(tensor, form)
        assert (laid_out.dtype, laid_out.stride()) == form and torch.equal(laid_out, tensor.float())


def test_fc6_is_taken_once_a_key_frame():
    model = enlivened(small("deep_feature_flow"))
    channels = model.reference.fc6.out_channels
    fast = model.optimized(SIZE, dtype=torch.float32, compile=False)
    with torch.inference_mode():
        _, state = fast.key_frame(clip_of(SIZE, 1)[:, 0])
    assert state.anchor.features.shape[1] == channels


def test_features_are_renewed_in_parts(model, fast):
    """Optimised and cut or not, a renewal gives the same."""
    clip = clip_of(UNEVEN, 6)

    def run(model):
        with torch.inference_mode():
            scores, state = model.key_frame(clip[:, 0])
            state = model.renew(state, 3)
            maps = []
            for t in range(1, 6):
                scores, state = model.next_frame(clip[:, t], state)
                maps.append(scores)
        return maps

    assert_same(run(fast), run(model), 1e-3)


def test_one_share_of_a_renewal_is_done_a_frame():
    model = enlivened(DeepFeatureFlow(make("published_18").reference, FlowWarp(FlowOfPatches())))
    model = model.optimized(SIZE, dtype=torch.float32, compile=False, parts=6)
    clip = clip_of(SIZE, 4)
    with torch.inference_mode():
        _, state = model.key_frame(clip[:, 0])
        state = model.renew(state, 3)
        done = []
        for t in range(1, 4):
            _, state = model.next_frame(clip[:, t], state)
            done.append(state.pending.work.done if state.pending else None)
    assert done == [2, 4, None]


def test_networks_that_cannot_be_traced_run_as_they_are():
    class Stubborn(nn.Module):
        out_channels = 3

        def forward(self, image):
            return image[..., ::16, ::16] if float(image.sum()) > 1e9 else image[..., ::16, ::16].clone()

    model = FrameByFrame(DeepLab(Stubborn(), CLASSES, 8)).eval()
    with pytest.warns(UserWarning, match="runs uncompiled because it cannot be exported"):
        fast = model.optimized(SIZE, dtype=torch.float32)
    clip = clip_of(SIZE, 2)
    assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)


@pytest.mark.slow
def test_a_model_for_any_size_is_prepared_for_each_that_comes():
    model = lively("published_accel")
    fast = model.optimized(dtype=torch.float32, compile=False, parts=2)
    for size in (SIZE, (50, 70), SIZE):
        clip = clip_of(size, 3)
        assert_same(scores_of(fast, clip), scores_of(model, clip), 1e-3)
    assert fast.fast.sizes() == [(50, 70), SIZE] and fast.device == model.device
    with torch.inference_mode():
        _, state = fast.key_frame(clip[:, 0])
        assert fast.renew(state, 2).pending.frames == 2
        assert fast.advance(clip[:, 1], state).anchor.features.shape == state.anchor.features.shape
        with pytest.raises(ValueError, match="no key frame of 32x32 pixels came before"):
            fast.next_frame(torch.zeros(1, 3, 32, 32), state)


@pytest.mark.parametrize("name", ["accel", "learned_sampling"])
def test_a_video_goes_on_after_its_size_was_dropped(name):
    model = enlivened(small(name))
    fast = model.optimized(dtype=torch.float32, compile=False, parts=2, sizes=1)
    clip = clip_of(SIZE, 4)
    with torch.inference_mode():
        state, expected = fast.key_frame(clip[:, 0])[1], model.key_frame(clip[:, 0])[1]
        state, expected = fast.renew(state, 2), model.renew(expected, 2)  # half of it is done before, half after
        for t in range(1, 4):
            if t == 2:
                fast.prepare((16, 32))
                with pytest.warns(RuntimeWarning, match=r"more sizes than are kept ready \(1\): 64x96 is"):
                    fast.prepare(SIZE)
            step = "key_frame" if t == 3 else "next_frame"
            scores, state = getattr(fast, step)(clip[:, t], state)
            same, expected = getattr(model, step)(clip[:, t], expected)
            assert_same([scores], [same], 1e-3)
    assert fast.fast.sizes() == [SIZE]


def test_user_mistakes_are_told():
    model = enlivened(FrameByFrame(DeepLab(Patches(), CLASSES, 8)))
    with pytest.raises(ValueError, match=r"size must be \(height, width\) in pixels"):
        model.optimized((64,))
    with pytest.raises(ValueError, match="size must be"):
        model.optimized((0, 64))
    with pytest.raises(ValueError, match="parts must be 1 or more, got 0"):
        model.optimized(SIZE, parts=0)
    with pytest.raises(ValueError, match="sizes must be 1 or more, got 0"):
        model.optimized(sizes=0)
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got torch.float64"):
        model.optimized(SIZE, dtype=torch.float64)
    with pytest.raises(ValueError, match="device 'cuda:9'"):
        model.optimized(SIZE, device="cuda:9")
    fast = model.optimized(SIZE, compile=False)
    for twice in (fast, model.optimized()):
        with pytest.raises(ValueError, match="already optimised"):
            twice.optimized(SIZE)
    with pytest.raises(ValueError, match=r"optimised for frames \[1, 3, 64, 96\], got \[1, 3, 64, 64\]"):
        fast.key_frame(torch.zeros(1, 3, 64, 64))
    assert fast.device == model.device and isinstance(fast.reference.backbone, Parts)


def test_simplified_models_do_less(model):
    clip = clip_of(SIZE, 3)
    with FlopCounterMode(display=False) as plain:
        scores_of(model, clip)
    simple = copy.deepcopy(model).simplified()
    with FlopCounterMode(display=False) as less:
        scores_of(simple, clip)
    assert less.get_total_flops() <= plain.get_total_flops()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_on_a_gpu(name):
    model = lively(name)
    clip = clip_of(SIZE, 4)
    fast = model.optimized(SIZE, dtype=torch.float32, device="cuda", parts=2)
    got, expected = [], []
    for network, frames, maps in ((fast, clip.cuda(), got), (model, clip, expected)):
        with torch.inference_mode():
            scores, state = network.key_frame(frames[:, 0])
            state = network.renew(state, 2)  # parts, update and flow on streams of their own
            maps.append(scores)
            for t in range(1, 4):
                scores, state = network.next_frame(frames[:, t], state)
                maps.append(scores)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.scores.cpu(), b.scores, rtol=0, atol=2e-2 * float(b.scores.std()))
