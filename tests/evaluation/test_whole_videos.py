"""Whole videos played once with every frame scored."""

from typing import ClassVar

import pytest
import torch
from box_films import BoxFilms
from films import Films, Forgetful, Teller
from small_detectors import small_detector

from accel.evaluation.running.processes import Processes
from accel.evaluation.running.whole_videos import compare_on_videos
from accel.models.copying import Copying
from accel.models.prediction import of_first
from accel.tasks import as_tensors, task_of


def run(model, dataset, *intervals, **options):
    return compare_on_videos({"m": model}, dataset, intervals, workers=0, quiet=True, **options)["m"]


@torch.inference_mode()
def by_hand(model, dataset, interval):
    task = task_of(model, dataset)
    score = task.score()
    for index in range(len(dataset)):
        number = dataset.place(index)[1]
        clip = dataset.clip(index, number % interval + 1)
        said = model(torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None])
        score.update(of_first(said.at(clip.frames.shape[1:3])), as_tensors(task.truth(clip)))
    return score


@pytest.mark.parametrize("name", ["frame_by_frame", "deep_feature_flow"])
def test_every_frame_is_scored_as_it_is_played(name):
    model, dataset = small_detector(name), BoxFilms(range(5), range(4))
    (result,) = run(model, dataset, 3)
    assert {distance: each.boxes for distance, each in result.by_distance.items()} == {0: 4, 1: 3, 2: 2}
    expected = by_hand(model, dataset, 3).accuracy(dataset.class_names)
    assert result.accuracy.boxes == expected.boxes == result.frames_scored == 9
    assert result.value == pytest.approx(expected.value, abs=1e-9)
    assert result.seconds_key > 0 and result.seconds_current > 0 and result.frames_damaged == 0


def test_key_frames_can_stand_in_the_middle():
    (result,) = run(small_detector("deep_feature_flow"), BoxFilms(range(6)), 4, centred=True)
    assert {distance: each.boxes for distance, each in result.by_distance.items()} == {0: 2, 1: 3, 2: 1}


def test_a_frame_is_read_once_and_one_without_memory_looks_at_it_once():
    dataset, model, alone = Films(range(6), range(3)), Teller(), Forgetful()
    found = compare_on_videos({"m": model, "a": alone}, dataset, (1, 3), workers=0, quiet=True)
    assert set(dataset.reads.values()) == {1}
    assert sum(alone.steps.values()) == 9 + 2  # of which two set up memory
    assert found["a"][0].accuracy == found["a"][1].accuracy and [*found["a"][1].by_distance] == [0, 1, 2]
    assert {key for _, key, distance in model.steps if distance == 2} == {0, 3}


def test_a_video_goes_on_after_damage_with_a_key_frame(capsys):
    model = Teller()
    (result,) = run(model, Films(range(8), damaged=[(0, 3)], damaged_labels=[(0, 6)]), 3)
    assert (result.frames_scored, result.frames_damaged) == (6, 2)
    assert {key for _, key, distance in model.steps if distance == 0} == {0, 4, 7}
    out = capsys.readouterr().out
    assert out.count("left out: frame0-3.png: damaged") == 1 and "labels0-6.png: damaged" in out


def test_copying_repeats_the_key_frame():
    model = Teller()
    (result,) = run(Copying(model), Films(range(6)), 3)
    assert {(key, distance) for _, key, distance in model.steps if distance == 0} == {(0, 0), (3, 0)}
    assert [*result.by_distance] == [0, 1, 2]


def test_gaps_are_told():
    with pytest.raises(ValueError, match="film0: labelled frames 0 to 4 have gaps"):
        run(small_detector("frame_by_frame"), BoxFilms((0, 2, 4)), 2)


class Part(Processes):
    """One of two processes, which take turns in one."""

    sent: ClassVar[list] = []

    def collect(self, part):
        self.sent.append(part)
        return self.sent[::-1] if self.is_first else [part]


def test_several_processes_find_the_figures_of_one():
    """To the last digit, also where scores are equal."""
    model, films = small_detector("deep_feature_flow"), (range(4), range(5), range(3))
    (alone,) = run(model, BoxFilms(*films), 2)
    Part.sent.clear()
    options = {"workers": 0, "quiet": True}
    assert compare_on_videos({"m": model}, BoxFilms(*films), (2,), processes=Part(1, 2), **options) == {}
    (both,) = compare_on_videos({"m": model}, BoxFilms(*films), (2,), processes=Part(0, 2), **options)["m"]
    assert (both.accuracy, both.by_distance) == (alone.accuracy, alone.by_distance)
