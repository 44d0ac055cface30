"""Scoring a model at an interval: which frames it sees, and what is counted."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from accel.datasets import Clip, ClipDataset
from accel.datasets.cityscapes import Cityscapes
from accel.evaluation.running.evaluator import evaluate
from accel.evaluation.tables import class_table, model_table, summary, write_json
from accel.inference.timing import frames_per_second
from accel.models import ScoreMap, VideoModel
from accel.progress import console


class Numbered(ClipDataset):
    """Labelled frames whose pixels say which frame it is (100 a video, one a frame) and whose label is class 1.

    histories: frames before each labelled one. Labelled frames in `damaged` cannot be read.
    """

    class_names = ("nothing", "right", "wrong")
    palette = np.zeros((3, 3), np.uint8)

    def __init__(self, histories=(3, 3, 1), damaged=(), ignored=False):
        self.histories, self.damaged, self.ignored = histories, damaged, ignored

    def __len__(self):
        return len(self.histories)

    def history(self, index):
        return self.histories[index]

    def clip(self, index, length):
        if index in self.damaged:
            raise ValueError(f"frame{index}.png: the PNG is cut off")
        frames = np.empty((length, 20, 33, 3), np.uint8)
        for i in range(length):
            frames[i] = 100 * index + self.histories[index] - (length - 1) + i
        labels = np.full((20, 33), 255 if self.ignored else 1, np.uint8)
        return Clip(frames, labels, None, str(index))


@dataclass(frozen=True)
class Seen:
    frames: tuple[int, ...]


class Notes(VideoModel):
    """Notes the frames of each clip it labels; says `right` as far as `reach` frames from the key frame."""

    def __init__(self, reach=99):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.reach = reach
        self.labelled = []

    def key_frame(self, image, state=None):
        return self.scores(Seen((int(image[0, 0, 0, 0]),)))

    def next_frame(self, image, state):
        return self.scores(self.advance(image, state))

    def advance(self, image, state):
        return Seen((*state.frames, int(image[0, 0, 0, 0])))

    def scores(self, state):
        scores = torch.zeros(1, 3, 2, 3)
        scores[:, 1 if len(state.frames) <= self.reach + 1 else 2] = 1
        self.labelled.append(state.frames)
        return ScoreMap(scores), state


def run(model, dataset, *arguments, **options):
    return evaluate(model, dataset, *arguments, workers=0, quiet=True, **options)


def clips(model, length):
    """Clips of this length that were labelled."""
    seen = [frames for frames in model.labelled if len(frames) == length]
    return sorted(set(seen))


def test_the_key_frame_lies_interval_minus_1_frames_before_the_labelled_one():
    model = Notes()
    result = run(model, Numbered(), 3)
    assert clips(model, 3) == [(1, 2, 3), (101, 102, 103)]
    assert (result.interval, result.frames_scored, result.frames_damaged) == (3, 2, 0)  # the third has one before it
    assert result.accuracy.miou == 1.0
    assert result.accuracy.iou == {"nothing": None, "right": 1.0, "wrong": None}


def test_at_interval_1_every_labelled_frame_is_a_key_frame():
    model = Notes()
    result = run(model, Numbered(), 1)
    assert clips(model, 1) == [(3,), (103,), (201,)]
    assert result.frames_scored == 3 and result.seconds_current is None and result.seconds_key > 0
    assert result.fps == pytest.approx(1 / result.seconds_key)


def test_the_average_is_over_all_distances_alike():
    """Right up to one frame from the key frame: of the distances 0, 1, 2, two of three are right."""
    model = Notes(reach=1)
    result = run(model, Numbered(), 3, average=True)
    assert clips(model, 3) == [(1, 2, 3), (101, 102, 103)]
    assert clips(model, 2) == [(1, 2), (2, 3), (102, 103)]  # the first is the rehearsal
    assert result.accuracy.iou["right"] == pytest.approx(2 / 3) and result.accuracy.iou["wrong"] == 0
    assert result.accuracy.miou == pytest.approx(1 / 3)
    assert run(Notes(reach=1), Numbered(), 3).accuracy.iou["right"] == 0  # without averaging only the farthest counts


def test_damaged_frames_are_reported_counted_and_left_out(capsys):
    result = run(Notes(), Numbered(damaged=(0,)), 2)
    assert (result.frames_scored, result.frames_damaged) == (2, 1)
    assert "left out: frame0.png: the PNG is cut off" in capsys.readouterr().out
    assert "1 could not be read" in summary(result)


def test_a_damaged_first_frame_does_not_spare_the_rehearsal():
    """The first clip that is read is run once before the clock counts."""
    model = Notes()
    run(model, Numbered(damaged=(0,)), 2)
    assert [f for f in model.labelled if len(f) == 2] == [(102, 103), (102, 103), (200, 201)]


def test_nothing_readable_is_an_error():
    with pytest.raises(ValueError, match="none of the labelled frames could be read"):
        run(Notes(), Numbered(damaged=(0, 1, 2)))


def test_nothing_labelled_is_an_error():
    with pytest.raises(ValueError, match="nothing to score"):
        run(Notes(), Numbered(ignored=True))


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_under_1_is_refused(interval):
    with pytest.raises(ValueError, match=f"interval {interval}: expected 1"):
        run(Notes(), Numbered(), interval)


def test_an_interval_longer_than_all_clips_is_refused():
    with pytest.raises(ValueError, match="interval 5 needs 4 frames before a labelled one; the longest clip .* has 4"):
        run(Notes(), Numbered(), 5)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_left_out_with_its_path(tiny_cityscapes, workers, capsys):
    path = tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000097_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:500])
    dataset = Cityscapes(tiny_cityscapes, "val")
    model = FirstClass()
    at_1 = evaluate(model, dataset, 1, workers=workers, quiet=True)
    assert (at_1.frames_scored, at_1.frames_damaged) == (4, 0)
    at_2 = evaluate(model, dataset, 2, workers=workers, quiet=True)
    assert (at_2.frames_scored, at_2.frames_damaged) == (3, 1)
    assert str(path) in capsys.readouterr().out


class FirstClass(VideoModel):
    """Road everywhere."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def key_frame(self, image, state=None):
        scores = torch.zeros(1, 19, -(-image.shape[2] // 16), -(-image.shape[3] // 16))
        scores[:, 0] = 1
        return ScoreMap(scores), None

    def next_frame(self, image, state):
        return self.key_frame(image)


def test_the_score_of_road_everywhere_is_the_share_of_road(tiny_cityscapes):
    dataset = Cityscapes(tiny_cityscapes, "val")
    labels = np.stack([dataset.clip(i, 1).labels for i in range(4)])
    result = run(FirstClass(), dataset, 4)
    assert result.accuracy.iou["road"] == pytest.approx((labels == 0).sum() / (labels != 255).sum())
    assert result.accuracy.iou["car"] == 0
    assert result.accuracy.miou == pytest.approx(result.accuracy.iou["road"] / 19)


@pytest.mark.parametrize(
    ("key", "current", "interval", "expected"),
    [(0.5, None, 1, 2.0), (1.0, 0.25, 5, 2.5), (1.0, 1.0, 7, 1.0), (0.5, None, 5, 2.0), (1.0, 0.0, 5, 5.0)],
)
def test_frames_a_second_at_an_interval(key, current, interval, expected):
    assert frames_per_second(key, current, interval) == pytest.approx(expected)


def test_the_model_is_left_in_evaluation_mode_without_gradients():
    model = Notes().train()
    run(model, Numbered())
    assert not model.training and model.anything.grad is None


def test_results_as_json_and_tables(tmp_path):
    result = run(Notes(reach=1), Numbered(), 3, average=True)
    write_json(tmp_path / "new" / "out.json", result.as_dict())
    read = json.loads((tmp_path / "new" / "out.json").read_text())
    assert {"miou", "iou", "interval", "frames_scored", "seconds_key", "seconds_current", "fps"} <= read.keys()
    assert read["iou"] == {"nothing": None, "right": pytest.approx(2 / 3), "wrong": 0.0}
    with console.capture() as shown:
        console.print(class_table(result))
        console.print(model_table({"a model": result}, "title"))
    assert "66.7" in shown.get() and "33.3" in shown.get() and "a model" in shown.get()
    assert summary(result).startswith(
        "mIoU 33.33% (mean of 2 of 3 classes; no label has 'nothing', 'wrong') over 2 frames at interval 3;"
    )
