"""What is said of a labelled video: figures of what was done, whatever the schedule."""

from types import SimpleNamespace

import pytest

from accel.recording import Timer


def timed(*frames):
    timer = Timer()
    for is_key, seconds in frames:
        timer.add(SimpleNamespace(is_key=is_key, seconds=seconds, latency=seconds))
    return timer


def test_the_mean_is_that_of_the_frames_that_came():
    timer = timed((True, 8), (False, 1), (False, 3), (True, 4), (False, 1), (False, 1))
    assert timer.figures() == {
        "seconds_key": 6,
        "seconds_current": 1,
        "key_share": pytest.approx(1 / 3),
        "seconds_frame": 3,
        "fps": pytest.approx(1 / 3),
    }


def test_where_there_was_no_frame_there_is_no_figure():
    assert set(timed().figures().values()) == {None}
    assert timed((True, 2)).figures()["seconds_current"] is None
