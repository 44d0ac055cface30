"""Stills scored as video: clips of simulated motion that are the same each time."""

import numpy as np
import pytest

from accel.config import load_config
from accel.datasets import build_test_dataset
from accel.datasets.camvid import CamVid
from accel.datasets.simulation.motion import SimulatedMotion
from accel.datasets.simulation.simulated_clips import SimulatedClips


@pytest.fixture
def stills(tiny_camvid):
    return CamVid(tiny_camvid, "test")


@pytest.fixture
def clips(stills):
    return SimulatedClips(stills, SimulatedMotion(stills.class_names, noise=0, blur=0), 4)


def test_every_still_ends_a_clip_of_its_own(clips, stills):
    assert len(clips) == len(stills) and {clips.history(i) for i in range(len(clips))} == {3}
    assert len({clips.place(i)[0] for i in range(len(clips))}) == len(clips)
    for i in range(len(clips)):
        clip, still = clips.clip(i, 4), stills.clip(i, 1)
        assert clip.name == still.name == clips.name(i)
        assert np.array_equal(clip.labels, still.labels)
        assert np.array_equal(clip.frames[-1], still.frames[0])
        assert clip.frames.shape == (4, 36, 48, 3) and clip.flow.shape == (3, 36, 48, 2)


def test_a_shorter_clip_is_the_end_of_the_longer_one(clips):
    whole = clips.clip(1, 4)
    for length in (1, 2, 3):
        part = clips.clip(1, length)
        assert np.array_equal(part.frames, whole.frames[-length:])
        assert np.array_equal(part.flow, whole.flow[4 - length :], equal_nan=True)


def test_another_seed_is_another_motion(stills, clips):
    again = SimulatedClips(stills, clips.motion, 4)
    other = SimulatedClips(stills, clips.motion, 4, seed=1)
    assert np.array_equal(again.clip(0, 4).frames, clips.clip(0, 4).frames)
    assert not np.array_equal(other.clip(0, 4).frames, clips.clip(0, 4).frames)


def test_longer_clips_than_simulated_are_refused(clips):
    with pytest.raises(ValueError, match=r"Seq05VD_f00030: a clip of 5 frames; only 4 are simulated"):
        clips.clip(1, 5)


def test_the_configuration_says_whether_stills_are_scored_as_video(tmp_path, tiny_camvid):
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: {name: frame_by_frame, num_classes: 11, reference: {encoder: resnet18}}\n"
        f"data: {{name: camvid, root: {tiny_camvid}}}\n"
        "train: {steps: 1, batch_size: 1, optimizer: {name: sgd, lr: 1}}\n"
    )
    assert build_test_dataset(load_config(path).data, "test").history(0) == 0
    config = load_config(path, ["data.simulated_test_frames=6", "data.motion={forward: 0.2}"])
    simulated = build_test_dataset(config.data, "test")
    assert simulated.history(0) == 5 and simulated.motion.forward == 0.2
