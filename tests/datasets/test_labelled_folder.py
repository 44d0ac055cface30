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
        (lambda root: write_image(root / "train/images/a.jpg", 0), r"two images have this name"),
        (lambda root: [p.unlink() for p in (root / "train/labels").rglob("*.png")], r"train/labels has no NAME\.png"),
    ],
)
def test_what_is_not_as_it_should_be_is_one_line_with_the_place(root, harm, message):
    harm(root)
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        LabelledFolder(root, "train")
    assert "\n" not in str(error.value)


# --- labels as colours ----------------------------------------------------------------------------------------

COLOURS = "0 0 0 background\n200 30 10 crack\n10 20 30 rust\n"
PAINTED = np.array([[0, 1, 2, 1], [0, 0, 2, 2]], np.uint8)
RGB = np.array([(0, 0, 0), (200, 30, 10), (10, 20, 30), (255, 255, 255)], np.uint8)


def paint(root, picture, name="a", classes=COLOURS):
    """A still with this label, a Pillow image."""
    write_image(root / f"train/images/{name}.png", 0)
    picture.save(root / f"train/labels/{name}.png")
    (root / "classes.txt").write_text(classes)


def in_palette(indices, *order):
    """A palette PNG that shows colours `RGB[order]` under indices of its own."""
    place = np.argsort(order)
    picture = Image.fromarray(place[indices].astype(np.uint8), "P")
    picture.putpalette(RGB[list(order)].flatten().tolist())
    return picture


def labels_of(root, index=0):
    return LabelledFolder(root, "train").labels(index)[1]


def with_alpha(image):
    picture = Image.fromarray(image).convert("RGBA")
    picture.putalpha(7)
    return picture


@pytest.mark.parametrize(
    "form",
    [
        lambda: Image.fromarray(RGB[PAINTED]),
        lambda: with_alpha(RGB[PAINTED]),
        lambda: in_palette(PAINTED, 0, 1, 2),
        lambda: in_palette(PAINTED, 2, 0, 1),  # as a program that makes files smaller leaves it
        lambda: Image.fromarray(PAINTED),  # class indices
    ],
)
def test_the_colours_of_classes_txt_are_read_as_classes(root, form):
    (root / "train/labels/drive/f2.png").unlink()
    (root / "train/labels/drive/f11.png").unlink()
    paint(root, form())
    assert np.array_equal(labels_of(root), PAINTED)


def test_among_colours_grey_images_are_colours_too(root):
    """Masks in which only black and white are left, made smaller by a program."""
    classes = "255 255 255 crack\n0 0 0 background\n1 1 1 rust\n"
    paint(root, Image.fromarray(RGB[[[3, 0]]]), "a", classes)
    paint(root, Image.fromarray(np.array([[0, 255, 1]], np.uint8)), "a1", classes)
    paint(root, Image.fromarray(np.array([[True, False]])), "a2", classes)
    assert [labels_of(root, i).tolist() for i in range(3)] == [[[1, 0, 2]], [[0, 1]], [[0, 1]]]  # a1, a2, a


def test_colours_that_count_as_ignored_are_listed(root):
    picture = RGB[PAINTED].copy()
    picture[0, 3] = 224, 224, 192
    paint(root, Image.fromarray(picture))
    with pytest.raises(ValueError, match=r"a\.png: colour \(224, 224, 192\) at pixel \(3, 0\).*") as error:
        labels_of(root)
    assert str(error.value).endswith(f'in {root}/classes.txt write "224 224 192 ignored"')
    (root / "classes.txt").write_text(f"{COLOURS}224 224 192 ignored\n1 1 1 ignored\n")
    dataset = LabelledFolder(root, "train")
    expected = PAINTED.copy()
    expected[0, 3] = 255
    assert np.array_equal(dataset.labels(0)[1], expected) and dataset.class_names == ("background", "crack", "rust")


def test_colours_without_a_class_for_each_are_refused_with_the_way_out(root):
    paint(root, Image.fromarray(RGB[PAINTED]), classes="background\n200 30 10 crack\nrust\n")
    with pytest.raises(ValueError, match="expected labels as one channel.*; to read colours, give each class its own"):
        labels_of(root)
    (root / "classes.txt").write_text(COLOURS.replace("10 20 30", "0 0 0"))
    with pytest.raises(ValueError, match=r"classes\.txt: the colour \(0, 0, 0\) is that of background and of rust"):
        LabelledFolder(root, "train")


def test_a_palette_of_other_colours_is_one_of_indices(root):
    """Viewers' palettes say nothing about the classes, and black often fills what no index uses."""
    permuted, in_order = RGB[[1, 0, 2]].flatten().tolist(), RGB[:3].flatten().tolist()
    for palette in ([7] * 768, [*permuted, *[9] * 759], [*in_order, *[0] * 759]):
        indices = np.array([[0, 1, 2, 255]], np.uint8)
        picture = Image.fromarray(indices, "P")
        picture.putpalette(palette)
        paint(root, picture)
        assert np.array_equal(labels_of(root), indices)
