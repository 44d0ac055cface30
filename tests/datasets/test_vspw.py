"""VSPW in the layout of its release."""

import json

import cv2
import numpy as np
import pytest
from test_labelled_folder import write_image, write_labels

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.checking import check_split
from accel.datasets.class_counts import count_classes


@pytest.fixture
def root(tmp_path):
    """Two videos of three frames for training, and one without masks to test on."""
    classes = {"others": 0, **{f"class_{k}": k for k in range(124, 0, -1)}}
    (tmp_path / "label_num_dic_final.json").write_text(json.dumps(classes))
    (tmp_path / "train.txt").write_text("12_abc\r\n7_x-y\r\n")
    (tmp_path / "test.txt").write_text("99_t\n")
    for video in ("12_abc", "7_x-y", "99_t"):
        for number in (2, 3, 10):
            write_image(tmp_path / f"data/{video}/origin/{number:08d}.jpg", 10 * number)
            if video != "99_t":
                write_labels(tmp_path / f"data/{video}/mask/{number:08d}.png", number)
    labels = tmp_path / "data/7_x-y/mask/00000010.png"
    cv2.imwrite(str(labels), np.array([0, 1, 124, 255] * 20, np.uint8).reshape(8, 10))
    return tmp_path


def test_every_frame_is_labelled_in_124_classes(root):
    data = DataConfig(name="vspw", root=root)
    dataset = build_dataset(data, "train")
    assert len(dataset) == 6 and dataset.num_classes == count_classes(data) == 124
    assert dataset.class_names[0] == "class_1" and dataset.palette.shape == (124, 3)
    assert [dataset.place(i) for i in (0, 2, 3)] == [("12_abc", 0), ("12_abc", 2), ("7_x-y", 0)]
    assert [dataset.history(i) for i in range(3)] == [0, 1, 2]
    clip = dataset.clip(2, 3)
    assert clip.frames.shape == (3, 8, 10, 3) and clip.name == "12_abc/00000010" and (clip.labels == 9).all()
    assert np.unique(dataset.clip(5, 1).labels).tolist() == [0, 123, 255]
    assert check_split(data, "train", [3], 0, quiet=True).labelled == 2


def test_what_is_missing_is_named(root):
    data = DataConfig(name="vspw", root=root)
    with pytest.raises(FileNotFoundError, match="no VSPW test split at .*: none of its videos has masks"):
        build_dataset(data, "test")
    with pytest.raises(FileNotFoundError, match=r"no VSPW val split at .*: expected val\.txt"):
        build_dataset(data, "val")
    (root / "data/12_abc/origin/00000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"12_abc/mask/00000003\.png: there is no frame of that name"):
        build_dataset(data, "train")
    (root / "train.txt").write_text("../12_abc\n")
    with pytest.raises(FileNotFoundError, match=r"\.\./12_abc/origin: no such folder, but train\.txt lists it"):
        build_dataset(data, "train")
    (root / "label_num_dic_final.json").write_text('{"a": 1, "b": 1}')
    with pytest.raises(ValueError, match=r"label_num_dic_final\.json: expected two classes or more"):
        build_dataset(data, "train")
