"""Frames of one folder that are no neighbours in time."""

import cv2
import numpy as np
import pytest
from test_labelled_folder import write_image, write_labels

from accel.config import DataConfig
from accel.datasets.checking import check_split
from accel.datasets.labelled_folder import LabelledFolder
from accel.datasets.neighbours import find_gaps


@pytest.mark.parametrize(
    ("names", "gaps"),
    [
        (["1", "2", "3", "10", "11"], [3]),
        (["f008", "f009", "f010"], []),
        (["0005", "0010", "0015", "0025"], [3]),
        (["a_1", "a_2", "b_3", "b_4"], [2]),
        (["t1700.033", "t1700.066", "t1700.100", "t1700.133", "t1700.200"], [4]),  # times in milliseconds
        (["1_left", "2_left", "3_right"], [2]),
        (["ulm_000000_000095_leftImg8bit", "ulm_000000_000096_leftImg8bit", "ulm_000001_000001_leftImg8bit"], [2]),
        (["one", "two"], []),
        (["1", "2", "extra"], [2]),
        (["7"], []),
        ([], []),
        ([str(n) for n in (1, 2, 4, 5, 7, 8)], [2, 4]),
    ],
)
def test_a_gap_is_where_the_numbers_skip_more_than_is_usual(names, gaps):
    assert find_gaps(names) == gaps


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    for number in (1, 2, 3, 10, 11):
        write_image(tmp_path / f"train/images/drive/{number}.png", number)
    for number in (3, 10, 11):
        write_labels(tmp_path / f"train/labels/drive/{number}.png", number % 2)
    return tmp_path


def test_no_clip_crosses_a_gap(root):
    dataset = LabelledFolder(root, "train")
    assert [dataset.history(i) for i in range(3)] == [2, 0, 1]
    assert dataset.clip(2, 2).frames[:, 0, 0, 0].tolist() == [10, 11]
    with pytest.raises(ValueError, match=r"11\.png: 1 frames come directly before it"):
        dataset.clip(2, 3)


def test_the_check_says_where_a_video_was_cut(root):
    data = DataConfig(name="folder", root=root)
    (line,) = check_split(data, "train", [2], 0, quiet=True).warnings
    assert "images/drive: the numbers of its 5 frames have 1 gap (between 3.png and 10.png); the video is cut" in line
    assert not check_split(data, "train", [1], 0, quiet=True).warnings  # frames on their own have no neighbours


def test_frames_of_two_sizes_are_named_at_once(root):
    cv2.imwrite(str(root / "train/images/drive/2.png"), np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png: 12 x 8 pixels, but .*1\.png of the same video has 10 x 8; expected"):
        LabelledFolder(root, "train")
    (root / "train/labels/drive/3.png").unlink()  # the piece without labels is not used
    assert len(LabelledFolder(root, "train")) == 2
