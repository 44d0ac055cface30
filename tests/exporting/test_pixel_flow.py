"""The flow of the runtime is that of the models."""

import numpy as np
import torch

from accel.models.images import PIXEL_MEANS, subtract_mean
from accel.models.propagation.classical_flow import PixelSearch, _grey
from accel.runtime import pixel_flow


def test_grey_frames_are_those_of_the_models():
    frame = np.random.default_rng(0).integers(0, 256, (211, 307, 3), dtype=np.uint8)
    expected = _grey(subtract_mean(torch.from_numpy(frame).permute(2, 0, 1)[None]))[0]
    assert np.array_equal(pixel_flow.grey(frame), expected)
    assert tuple(pixel_flow.MEANS.tolist()) == tuple(np.float32(PIXEL_MEANS).tolist())


def test_flow_is_that_of_the_models():
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64), dtype=np.uint8)
    assert np.array_equal(pixel_flow.PixelSearch("fast")(*frames), PixelSearch("fast")(*frames))
