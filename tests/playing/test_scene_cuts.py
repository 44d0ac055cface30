"""Scene cuts: found within a frame, and no false alarms."""

import numpy as np
import pytest
import torch

from accel.datasets.streetscape.scene import StreetScene
from accel.files.images import read_image
from accel.playing.player import Player
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import Decision


class Anything:
    """In the place of a model."""

    def key_frame(self, image, state=None):
        return None, None

    def next_frame(self, image, state):
        return None, None


def decisions(frames, every=1000):
    """What each frame of a video, (H, W, 3) uint8, becomes."""
    player = Player(Anything(), SceneCuts(every))
    return [player.step(torch.from_numpy(frame).permute(2, 0, 1)[None]).decision for frame in frames]


def cuts(frames):
    return [number for number, decision in enumerate(decisions(frames)) if decision is Decision.AFRESH]


@pytest.fixture(scope="module")
def scenes():
    return [[StreetScene(1, "train", index, (96, 192)).render(t).image for t in range(10, 16)] for index in range(4)]


def test_cuts_between_generated_scenes_are_found_at_once(scenes):
    """Each scene drives on between them; that is no cut."""
    assert cuts([frame for scene in scenes for frame in scene]) == [0, 6, 12, 18]


@pytest.mark.parametrize("pixels", [8, 19, -19])
def test_a_fast_pan_over_a_generated_scene_is_no_cut(scenes, pixels):
    """Up to a tenth of the frame's width a frame."""
    wide = np.concatenate([scenes[0][0], scenes[0][0][:, ::-1]], 1)
    places = range(0, 192, abs(pixels))
    frames = [wide[:, x : x + 192] for x in (places if pixels > 0 else reversed(places))]
    assert cuts([np.ascontiguousarray(frame) for frame in frames]) == [0]


def test_light_that_changes_is_no_cut(scenes):
    frame = scenes[1][0]
    dark, bright = (frame // 2), (frame // 2 + 120)
    assert cuts([frame, dark, bright, frame]) == [0]


def test_frames_without_texture():
    black, white = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    assert cuts([black, black, white, white, noise, noise, black]) == [0, 2, 4, 6]


def test_key_frames_come_regularly_between_cuts(scenes):
    found = decisions(scenes[0] + scenes[1], every=4)
    expected = {0: Decision.AFRESH, 4: Decision.KEY, 6: Decision.AFRESH, 10: Decision.KEY}
    assert found == [expected.get(number, Decision.CURRENT) for number in range(12)]


def test_no_false_alarm_in_the_camvid_clip_and_no_cut_missed(camvid_root):
    clip = [read_image(path) for path in sorted((camvid_root / "val").glob("*.png"))]
    stills = [read_image(path) for path in sorted((camvid_root / "train").glob("0001TP_*.png"))[::40]]
    assert len(clip) == 101 and cuts(clip) == [0]
    joined = [frame for at, still in enumerate(stills) for frame in (*clip[10 * at : 10 * at + 3], still)]
    assert cuts(joined) == [number for number in range(len(joined)) if number % 4 in (0, 3)]


@pytest.mark.parametrize(("every", "likeness", "words"), [(0, 0.5, "interval 0"), (5, 1.5, "likeness 1.5")])
def test_what_cannot_be_is_refused(every, likeness, words):
    with pytest.raises(ValueError, match=words):
        SceneCuts(every, likeness)
