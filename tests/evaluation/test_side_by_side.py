"""The video of several models side by side."""

import numpy as np
import pytest
from films import SIZE, Films, Teller, said

from accel import open_video, visualize
from accel.evaluation.comparing.side_by_side import write_side_by_side


@pytest.fixture
def sheets(monkeypatch):
    """Pictures and titles of every frame of the video."""
    drawn, panels = [], visualize.panels
    monkeypatch.setattr(visualize, "panels", lambda *args, **how: (drawn.append(args), panels(*args, **how))[1])
    return drawn


def test_every_frame_has_input_truth_and_all_models(tmp_path, sheets):
    dataset = Films((2, 3), (1,), flows={})
    still = Teller()
    still.carries_state = False
    count = write_side_by_side(tmp_path / "a.mp4", {"A": Teller(), "B": still}, dataset, 2, workers=0)
    read = list(open_video(tmp_path / "a.mp4"))
    assert count == len(sheets) == len(read) == 4
    titles = [titles for _, titles in sheets]
    assert [len(pictures) for pictures, _ in sheets] == [4] * 4
    assert [each[2].partition(",")[0] for each in titles] == [f"A: {w}" for w in ("key frame", "key frame + 1") * 2]
    assert all(each[3].startswith("B: every frame") for each in titles)
    assert ["none" in each[1] for each in titles] == [True, True, False, False]
    truth = dataset.truth(0)
    right = 100 * (said(0, 2, 0) == truth)[truth != 255].mean()
    assert titles[2][2] == f"A: key frame, {right:.0f}% of pixels right"
    assert np.array_equal(sheets[2][0][1], visualize.colourise(truth, dataset.palette))
    assert read[0].shape[0] > 2 * SIZE[0] and read[0].shape[1] >= 2 * SIZE[1]


def test_a_video_that_there_is_not_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="no video film7 in this data set; it has 2, such as film0, film1"):
        write_side_by_side(tmp_path / "a.mp4", {"A": Teller()}, Films((1,), (1,), flows={}), 2, videos=["film7"])
    assert not list(tmp_path.iterdir())


def test_chosen_videos_come_one_after_the_other(tmp_path, sheets):
    write_side_by_side(tmp_path / "a.mp4", {"A": Teller()}, Films((1,), (2,), flows={}), 3, videos=["film1"], workers=0)
    assert [pictures[0][0, 0, 0] for pictures, _ in sheets] == [1, 1, 1]
