"""Your own labelled images and videos."""

import cv2
import numpy as np
import pytest
from PIL import Image

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.labelled_folder import LabelledFolder

CLASSES = "road\n10 20 30 traffic light\n\nrobot arm\n"


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 10, 3), value, np.uint8))


def write_labels(path, value, size=(8, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(size, value, np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two stills, one of them labelled, and a video of twelve frames whose third and last are."""
    (tmp_path / "classes.txt").write_text(CLASSES)
    split = tmp_path / "train"
    write_image(split / "images/a.png", 1)
    write_image(split / "images/b.jpg", 2)
    write_labels(split / "labels/a.png", 2)
    for number in range(12):
        write_image(split / f"images/drive/f{number}.png", 100 + number)
    for number in (2, 11):
        write_labels(split / f"labels/drive/f{number}.png", 1)
    return tmp_path


def test_stills_and_videos_in_classes_of_their_own(root):
    dataset = build_dataset(DataConfig(name="folder", root=root), "train")
    assert dataset.class_names == ("road", "traffic light", "robot arm")
    assert dataset.palette.tolist() == [[128, 0, 0], [10, 20, 30], [128, 128, 0]]
    assert [dataset.name(i) for i in range(len(dataset))] == ["a", "drive/f2", "drive/f11"]
    assert [dataset.place(i) for i in range(3)] == [("a", 0), ("drive", 2), ("drive", 11)]
    assert [dataset.history(i) for i in range(3)] == [0, 2, 11]
    clip = dataset.clip(2, 4)
    assert clip.frames[:, 0, 0, 0].tolist() == [108, 109, 110, 111]  # by number: f9 before f10
    assert clip.labels.shape == (8, 10) and (clip.labels == 1).all() and clip.flow is None
    assert (dataset.clip(0, 1).labels == 2).all()
    with pytest.raises(
        ValueError, match=r"a\.png: 0 frames come directly before it, a clip of 2 needs 1 \(data\.motion"
    ):
        dataset.clip(0, 2)


def test_labels_may_have_a_palette_and_be_ignored_and_be_no_class(root):
    path = root / "train/labels/a.png"
    indices = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([7] * 768)
    picture.save(path)
    write_image(root / "train/images/a.png", 0)
    dataset = LabelledFolder(root, "train")
    assert np.array_equal(dataset.labels(0)[1], indices)
    write_labels(path, 3)
    with pytest.raises(ValueError, match=r"a\.png: label value 3 on 80 pixels; expected one of 0-2, 255"):
        dataset.labels(0)


def test_classes_may_have_other_values_in_the_labels_than_their_indices(root):
    (root / "classes.txt").write_text("road\n255 = 10 20 30 crack\n7=robot arm\n")
    write_image(root / "train/images/a.png", 0)
    path = root / "train/labels/a.png"
    cv2.imwrite(str(path), np.array([[0, 255, 7]], np.uint8))
    dataset = LabelledFolder(root, "train")
    assert dataset.class_names == ("road", "crack", "robot arm") and dataset.palette[1].tolist() == [10, 20, 30]
    assert dataset.labels(0)[1].tolist() == [[0, 1, 2]]
    cv2.imwrite(str(path), np.array([[0, 1]], np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: label value 1 on 1 pixels; expected one of 0, 7, 255"):
        dataset.labels(0)


def test_a_label_without_its_image_is_named_or_left_out(root):
    (root / "train/images/drive/f2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels/drive/f2\.png: there is no image of that name in .*drive"):
        LabelledFolder(root, "train")
    told = []
    dataset = LabelledFolder(root, "train", told.append)
    assert [dataset.name(i) for i in range(len(dataset))] == ["a", "drive/f11"] and len(told) == 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"classes\.txt: no such file; expected the classes, one a line"),
        (lambda root: (root / "train").rename(root / "val"), r"no labelled images at .*train: expected .*images/NAME"),
        (lambda root: write_labels(root / "train/labels/other/x.png", 0), r"labels of a video, but there is no folder"),
        (lambda root: write_image(root / "train/images/a.jpg", 0), r"two images of one name"),
        (lambda root: [p.unlink() for p in (root / "train/labels").rglob("*.png")], r"train/labels has no NAME\.png"),
    ],
)
def test_what_is_not_as_it_should_be_is_one_line_with_the_place(root, harm, message):
    harm(root)
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        LabelledFolder(root, "train")
    assert "\n" not in str(error.value)
