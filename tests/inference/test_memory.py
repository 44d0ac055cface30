"""A stream may run for days: it must not gather memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from accel.config import parse_model
from accel.inference.segmenter import Segmenter
from accel.models import build_model
from accel.playing.schedules import FixedInterval
from accel.video.writer import VideoWriter

BRANCH = {"encoder": "tu-test_resnet", "head_channels": 8}
FRAMES, WARM = 2000, 300


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("live", [False, True])
def test_memory_does_not_grow_over_a_long_stream(tmp_path, live):
    values = {"name": "accel", "num_classes": 5, "reference": BRANCH, "update": BRANCH, "flow": {"width": 1 / 16}}
    segmenter = Segmenter(build_model(parse_model(values, "test")).eval(), FixedInterval(5))
    sizes = []

    def frames():
        rng = np.random.default_rng(0)
        while len(sizes) < FRAMES:
            yield rng.integers(0, 256, (64, 96, 3), np.uint8)

    def write(segmented):
        video.write(segmented.frame)
        sizes.append(resident())

    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        segmenter.run(frames(), write, live)
    assert len(sizes) >= FRAMES
    print(f"{sizes[WARM] / 2**20:.1f} MiB, then at most {max(sizes[WARM:]) / sizes[WARM]:.4f} of it")
    assert max(sizes[WARM:]) <= 1.01 * sizes[WARM]
