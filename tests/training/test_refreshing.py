"""Second key frames of training clips."""

import numpy as np
import pytest
import torch

from accel.config import load_config
from accel.models.video import DeepFeatureFlow
from accel.training.refreshing import refreshed_frames
from accel.training.trainer import train

MODEL = (
    "model={name: deep_feature_flow, num_classes: 19, reference: {encoder: resnet18, head_channels: 8}, "
    "propagation: {name: learned_sampling, embedding: 8, radius: 1, blocks: 1}}"
)


def test_half_of_the_steps_have_one_anywhere_but_in_the_last_frame():
    drawn = [refreshed_frames(True, 5, 0, step) for step in range(400)]
    assert set(drawn) == {(), (1,), (2,), (3,)} and 160 < drawn.count(()) < 240
    assert min(drawn.count((t,)) for t in (1, 2, 3)) > 40


def test_a_draw_is_a_function_of_seed_and_step():
    def draws(seed):
        return [refreshed_frames(True, 9, seed, step) for step in range(50)]

    assert draws(3) == draws(3) != draws(4)
    np.random.seed(1), torch.manual_seed(1)
    assert draws(3)[::-1] == [refreshed_frames(True, 9, 3, step) for step in reversed(range(50))]


@pytest.mark.parametrize("length", [1, 2])
def test_clips_without_a_frame_between_have_none(length):
    assert {refreshed_frames(True, length, 0, step) for step in range(50)} == {()}


def test_models_that_remember_nothing_have_none():
    assert {refreshed_frames(False, 5, 0, step) for step in range(50)} == {()}


def test_training_takes_these_key_frames(tiny_run, monkeypatch):
    taken, forward = [], DeepFeatureFlow.forward

    def noting(self, clip, refreshed=()):
        taken.append(tuple(refreshed))
        return forward(self, clip, refreshed)

    monkeypatch.setattr(DeepFeatureFlow, "forward", noting)
    settings = ["data.clip_length=3", "train.steps=8", "train.accumulate=1", "train.random_distance=false", "seed=3"]
    _, path, *rest = tiny_run("frame_by_frame", MODEL, *settings)
    train(load_config(path, rest), "cpu")
    assert taken == [refreshed_frames(True, 3, 3, step) for step in range(8)] and {(), (1,)} == set(taken)
