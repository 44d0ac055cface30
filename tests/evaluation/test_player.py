"""The clips of a report are the frames as they were, small enough for a page."""

import base64
import io

import numpy as np
import pytest
from films import SIZE, Films, Teller, said
from PIL import Image

from accel import visualize
from accel.evaluation.report import pictured_clips as player
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.running.videos import Run, run_videos
from accel.tasks import task_of


class Coloured(Films):
    palette = np.array([(128, 64, 128), (70, 70, 70), (0, 0, 142), (107, 142, 35), (220, 20, 60)], np.uint8)


def recorded(dataset, interval=3, clips=None, models=("m",), run_all=False):
    runs = {(name, interval): Run(Teller(), interval) for name in models}
    recorder = ClipRecorder(dataset, choose_clips(dataset, clips), list(runs), task_of(Teller(), dataset))
    indices = None if run_all else recorder.indices
    run_videos(runs, dataset, None, indices, watch=recorder, workers=0, quiet=True)
    return recorder.clips()


def picture(uri):
    head, data = uri.split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_frame_shows_its_labels_its_truth_and_its_errors():
    dataset = Coloured((0, 3, 6))
    (clip,) = recorded(dataset)
    assert [frame.number for frame in clip.frames] == [*range(1, 8)] and clip.size == SIZE[::-1]
    assert clip.shown == (("m", 3),)
    for number, frame in enumerate(clip.frames):
        labels = said(0, number - number % 3, number % 3)
        assert np.array_equal(picture(frame.models[0].prediction), visualize.colourise(labels, dataset.palette))
        assert frame.models[0].distance == number % 3
        assert np.abs(picture(frame.image).astype(int) - [0, number, 0]).max() <= 3
        if number % 3:
            assert frame.truth is frame.models[0].errors is None and not frame.models[0].note
            continue
        truth = dataset.truth(number // 3)
        assert np.array_equal(picture(frame.truth), visualize.colourise(truth, dataset.palette))
        wrong, right, ignored = (214, 30, 40), (225, 225, 225), (0, 0, 0)
        errors = np.array([wrong, right, ignored])[np.where(truth == 255, 2, labels == truth)]
        assert np.array_equal(picture(frame.models[0].errors), errors)
        wrong = 100 * (labels != truth)[truth != 255].mean()
        assert frame.models[0].note == f"{wrong:.1f} % of the pixels wrong"


def test_the_first_frames_of_the_first_two_videos_are_shown(monkeypatch):
    monkeypatch.setattr(player, "FRAMES", 5)
    dataset = Coloured((0, 2, 4, 6), (3, 9), (1,))
    clips = recorded(dataset)
    assert [[frame.number for frame in clip.frames] for clip in clips] == [[1, 2, 3, 4, 5], [1, 2, 3, 4]]


def test_a_clip_ends_in_the_frame_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(player, "FRAMES", 5)
    dataset = Coloured((0, 2, 4, 6, 8), (3,))
    for run_all in (False, True):
        (clip,) = recorded(dataset, clips=["film0-6"], run_all=run_all)
        assert [frame.number for frame in clip.frames] == [3, 4, 5, 6, 7] and clip.name == "film0-6"
        assert [frame.models[0].distance for frame in clip.frames] == [2, 0, 1, 2, 0]


def test_a_frame_that_is_not_labelled_is_refused_with_some_that_are():
    with pytest.raises(ValueError, match="--clip x: no labelled frame of that name; there are 2, such as film0-0, fil"):
        choose_clips(Coloured((0, 3)), ["film0-0", "x"])


def test_at_most_four_models_are_shown():
    (clip,) = recorded(Coloured((0, 3)), models=tuple("abcdef"))
    assert [name for name, _ in clip.shown] == list("abcd") and len(clip.frames[0].models) == 4


def test_the_clip_opens_on_a_labelled_frame_that_is_no_key_frame():
    (clip,) = recorded(Coloured((0, 2, 3, 4, 6)), interval=3)
    assert clip.start == 4 and clip.frames[4].truth is not None and clip.frames[4].models[0].distance == 1
    (still,) = recorded(Coloured((0,)))
    assert still.start == 0


def test_large_frames_are_shown_smaller_in_their_own_shape(monkeypatch):
    monkeypatch.setattr(player, "WIDTH", 8)
    (clip,) = recorded(Coloured((0, 3)))
    assert clip.size == (8, 6) and picture(clip.frames[0].image).shape == (6, 8, 3)
    assert picture(clip.frames[0].models[0].prediction).shape == (6, 8, 3)


def test_pictures_that_would_be_too_many_bytes_leave_the_beginning_out(monkeypatch):
    (whole,) = recorded(Coloured(range(8)))
    bytes_of = [player._length(frame) for frame in whole.frames]
    monkeypatch.setattr(player, "BYTES", sum(bytes_of[-3:]) + 1)
    (clip,) = recorded(Coloured(range(8)))
    assert clip.frames == whole.frames[-3:]


def test_a_damaged_frame_begins_the_clip_anew(capsys):
    (clip,) = recorded(Coloured((1, 4, 8), damaged=[(0, 3)]))
    assert [int(picture(frame.image)[0, 0, 1]) for frame in clip.frames] == pytest.approx([4, 5, 6, 7, 8], abs=2)
    assert [frame.number for frame in clip.frames] == [5, 6, 7, 8, 9]  # of the video, which began before the damage
    assert "left out: frame0-3.png: damaged" in capsys.readouterr().out
