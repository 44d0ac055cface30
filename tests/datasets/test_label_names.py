"""The image that a label file belongs to."""

from pathlib import Path

import pytest
from test_labelled_folder import write_image, write_labels

from accel.datasets.label_names import match_labels
from accel.datasets.labelled_folder import LabelledFolder


def match(labels, images, ending=None):
    found = match_labels([Path(f"{name}.png") for name in labels], [Path(f"{name}.jpg") for name in images], ending)
    return [None if number is None else images[number] for number in found.values()]


@pytest.mark.parametrize(
    ("labels", "images", "expected"),
    [
        (["a", "b"], ["a", "b", "c"], ["a", "b"]),
        (["a_mask", "b_mask"], ["a", "b"], ["a", "b"]),
        (["a_gtFine_labelIds", "b_gtFine_labelIds"], ["a", "b"], ["a", "b"]),
        (["a.jpg", "b.jpg"], ["a", "b"], ["a", "b"]),
        (["f_1_L", "f_10_L"], ["f", "f_1", "f_10"], ["f_1", "f_10"]),
        (["a_mask", "ab_mask"], ["a", "abc"], ["a", None]),
        (["IMG_1"], ["img_1"], ["img_1"]),
        (["IMG_1_Mask"], ["img_1"], ["img_1"]),
        (["stra\u00dfe_u\u0308"], ["stra\u00dfe_\u00fc"], ["stra\u00dfe_\u00fc"]),
        (["a"], ["a", "A"], ["a"]),
        (["f_10", "g"], ["f", "g"], [None, "g"]),
        (["f_10"], ["f"], [None]),  # another frame, whose image is missing
        (["a_right", "b"], ["a", "a_left", "b"], [None, "b"]),
    ],
)
def test_names_are_the_same_but_for_an_ending_case_and_unicode_form(labels, images, expected):
    assert match(labels, images) == expected


def test_what_cannot_be_told_apart_is_asked_for():
    labels = ["a_color", "a_labelIds", "b_color", "b_labelIds"]
    with pytest.raises(ValueError, match=r"several endings: _color \(2 labels\), _labelIds \(2 labels\); choose with"):
        match(labels, ["a", "b"])
    assert match(labels, ["a", "b"], "_labelIds") == ["a", "b"]
    with pytest.raises(ValueError, match=r"A\.png and a\.png: two labels of the image a\.jpg"):
        match(["A", "a"], ["a"])


def test_a_folder_of_stills_and_of_videos_with_endings(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    for name in ("a", "Drive/f1", "Drive/f2"):
        write_image(tmp_path / f"train/images/{name}.jpg", 3)
        for ending in ("_mask", "_preview"):
            write_labels(tmp_path / f"train/labels/{name.lower()}{ending}.png", 1)
    with pytest.raises(
        ValueError, match=r"train/labels: the labels are named like .* choose with data\.label_ending=_mask"
    ):
        LabelledFolder(tmp_path, "train")
    dataset = LabelledFolder(tmp_path, "train", label_ending="_mask")
    assert [dataset.name(i) for i in range(3)] == ["a", "Drive/f1", "Drive/f2"]
    assert [dataset.place(i) for i in range(3)] == [("a", 0), ("Drive", 0), ("Drive", 1)]
    assert dataset.labels(2)[0].name == "f2_mask.png"
