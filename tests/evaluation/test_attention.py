"""Means of what learned sampling attends to."""

import numpy as np
import pytest
import torch
from colour_cells import Cells, knowing, moving

from accel.datasets.clips import Clip, ClipDataset
from accel.evaluation.running.attention import summarize_attention
from accel.models import DeepFeatureFlow, DeepLab


class Moving(ClipDataset):
    """Two videos whose cells move right by one a frame; the second labelled frame has nothing before it."""

    class_names = tuple("abcde")

    def __len__(self):
        return 2

    def history(self, index):
        return 2 if index == 0 else 0

    def clip(self, index, length):
        clip = moving(3)[0, -length:].permute(0, 2, 3, 1).contiguous().numpy()
        return Clip(clip, np.zeros(clip.shape[1:3], np.uint8), None, str(index))


@pytest.fixture
def model():
    return DeepFeatureFlow(DeepLab(Cells(), 5, head_channels=8), knowing())


@pytest.mark.parametrize("distance", [1, 2])
def test_the_weight_lies_where_things_came_from(model, distance):
    found = summarize_attention(model, Moving(), distance, quiet=True)
    assert (found.frames, found.distance) == (1, distance)
    best = int(np.argmax(found.weights))
    assert found.offsets[best] == (-distance, 0) and len(found.weights) == 25
    assert sum(found.weights) == pytest.approx(1, abs=1e-5)
    # All cells but the first columns, whose content was outside.
    assert found.weights[best] > (10 - distance) / 10 * 0.99 and found.strongest > 0.9
    assert found.aligned == pytest.approx(0.5)  # a quality network of zeros prefers neither


def test_the_farther_half_is_by_distance_from_the_cell(model):
    for embed in (model.propagation.key_to_current.embed_current, model.propagation.key_to_current.embed_memory):
        torch.nn.init.zeros_(embed.weight)  # all offsets count alike
    found = summarize_attention(model, Moving(), 1, quiet=True)
    assert found.farther_half == pytest.approx(12 / 25) and found.farther_half_evenly == 12 / 25
    assert found.strongest == pytest.approx(1 / 25)


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="distance 0: expected 1 or more frames"):
        summarize_attention(model, Moving(), 0)
    with pytest.raises(ValueError, match="no labelled frame of this data set has 3 frames before it"):
        summarize_attention(model, Moving(), 3)
