"""Whole videos played once with every frame scored."""

import numpy as np
import pytest
import torch
from box_films import BoxFilms
from films import Films, Teller
from small_detectors import small_detector

from accel.evaluation.running.whole_videos import score_whole_videos, total
from accel.models.prediction import of_first
from accel.tasks import as_tensors, task_of


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
    scores = score_whole_videos(model, dataset, 3, quiet=True)
    assert [(distance, score.counts.frames) for distance, score in scores.items()] == [(0, 4), (1, 3), (2, 2)]
    expected = by_hand(model, dataset, 3).counts
    np.testing.assert_allclose(total(scores).counts.true, expected.true)
    assert total(scores).value() == pytest.approx(expected.mean(), abs=0.02)  # of equal scores, others come first


def test_key_frames_can_stand_in_the_middle():
    scores = score_whole_videos(small_detector("deep_feature_flow"), BoxFilms(range(6)), 4, centred=True, quiet=True)
    assert {distance: score.counts.frames for distance, score in scores.items()} == {0: 2, 1: 3, 2: 1}


def test_gaps_are_told():
    with pytest.raises(ValueError, match="film0: labelled frames 0 to 4 have gaps"):
        score_whole_videos(small_detector("frame_by_frame"), BoxFilms((0, 2, 4)), 2, quiet=True)


def test_labels_are_scored_so_too():
    scores = score_whole_videos(Teller(), Films(range(4)), 2, quiet=True)
    assert list(scores) == [0, 1] and 0 <= total(scores).value() <= 1
