"""Learnable Spatio-Temporal Sampling's detector, put together as its authors' code says; the sampling itself is looked
at in test_propagation.py."""

import pytest
import torch
from small_detectors import CLASSES, small_sampling_detector
from small_models import clip_of

from accel.models import DeepFeatureFlow, LearnedSampling, build_published
from accel.models.images import subtract_mean

SIZE = (50, 70)


@pytest.fixture
def model():
    return small_sampling_detector()


def features_of(model, image):
    return model.reference.features(subtract_mean(image))


@torch.no_grad()
def test_key_frames_are_aggregated_and_others_made_of_them(model):
    """SRFU and DFA: the figures of the paper, written out."""
    clip = clip_of(SIZE, 5)
    sampling, offsets = model.propagation, model.propagation.offsets

    def shown(image):
        return sampling.low_to_high(model.reference.backbone.network.early(subtract_mean(image)))

    first, state = model.key_frame(clip[:, 0])
    of_first = features_of(model, clip[:, 0])
    after, state = model.next_frame(clip[:, 1], state)
    second, state = model.key_frame(clip[:, 2], state)
    of_second = sampling.key_to_key(of_first, features_of(model, clip[:, 2]), offsets)
    last, state = model.next_frame(clip[:, 3], state)
    expected = (
        (first, of_first),
        (after, sampling.key_to_current(of_first, shown(clip[:, 1]), offsets)),
        (second, of_second),
        (last, sampling.key_to_current(of_second, shown(clip[:, 3]), offsets)),
    )
    for said, features in expected:
        wanted = model.reference.predict_within(features, SIZE)
        torch.testing.assert_close(said.probabilities, wanted.probabilities, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(last.probabilities, after.probabilities, atol=1e-3)


@torch.no_grad()
def test_low_level_features_are_taken_before_the_relu_of_the_fourth_block(model):
    network = model.reference.backbone.network
    image = subtract_mean(clip_of(SIZE, 1)[:, 0])
    early = network.early(image)
    assert early.shape[1] == network.early_channels and early.min() < 0
    x = network._before_stages(image)
    for stage in (*network.stages[:2], *network.stages[2][:4]):
        x = stage(x)
    assert torch.equal(early.relu(), x)


@pytest.mark.slow
@torch.no_grad()
def test_optimised_it_finds_the_same(model):
    fast = model.optimized(SIZE, dtype=torch.float32, compile=False)
    clip = clip_of(SIZE, 4)
    states = [None, None]
    for t in range(4):
        said = []
        for n, each in enumerate((model, fast)):
            call = each.next_frame if t % 2 else each.key_frame
            prediction, states[n] = call(clip[:, t], states[n])
            said.append(prediction)
        torch.testing.assert_close(said[0].probabilities, said[1].probabilities, rtol=0, atol=1e-3)


def test_offsets_learn(model):
    model.requires_grad_(True)
    said = model(clip_of(SIZE, 2))
    said.maps.classes.square().mean().backward()
    assert model.propagation.offsets.grad.abs().max() > 0
    assert model.reference.heads.classes.out_channels == (1 + CLASSES) * 49


def test_published_ones_have_the_published_offsets():
    with torch.device("meta"):
        for version, count in (("lsts-rfcn", 81), ("lsts-rfcn-gaussian", 40)):
            model = build_published(version)
            assert isinstance(model, DeepFeatureFlow) and isinstance(model.propagation, LearnedSampling)
            assert model.propagation.offsets.shape == (count, 2)
            assert model.propagation.low_to_high[0].weight.shape == (256, 1024, 1, 1)
