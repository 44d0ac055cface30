"""Colours against direct look-up, files against Pillow and OpenCV, the flow wheel against torchvision."""

import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import flow_to_image

from accel.visualize import (
    colourise,
    flow_to_colour,
    legend,
    overlay,
    panels,
    save_palette_png,
    shrink,
)

PALETTE = np.array([(128, 64, 128), (244, 35, 232), (70, 70, 70), (0, 0, 142)], np.uint8)
LABELS = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
IMAGE = np.full((2, 3, 3), (10, 100, 200), np.uint8)


def test_wide_pictures_shrink_images_averaged_and_labels_whole():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, ::2] = 100
    assert (shrink(image, 3) == 50).all() and shrink(image, 3).shape == (2, 3, 3)
    labels = np.tile(np.array([0, 255, 255, 10, 0, 10], np.uint8), (4, 1))
    assert set(np.unique(shrink(labels, 4))) <= {0, 10, 255} and shrink(labels, 2).shape == (1, 2)
    same = shrink(image, 7)
    assert (same == image).all() and not np.shares_memory(same, image)


def test_labels_take_the_colours_of_their_classes_and_ignored_is_black():
    picture = colourise(LABELS, PALETTE)
    assert picture.dtype == np.uint8
    for y, x in np.ndindex(LABELS.shape):
        wanted = (0, 0, 0) if LABELS[y, x] == 255 else PALETTE[LABELS[y, x]]
        assert tuple(picture[y, x]) == tuple(wanted)


def test_an_overlay_mixes_and_leaves_ignored_pixels_alone():
    half = overlay(IMAGE, LABELS, PALETTE)
    mixed = (IMAGE.astype(float) + colourise(LABELS, PALETTE)) / 2
    assert abs(half - mixed)[LABELS != 255].max() <= 0.5
    assert np.array_equal(half[1, 1], IMAGE[1, 1])
    assert np.array_equal(overlay(IMAGE, LABELS, PALETTE, opacity=0), IMAGE)
    assert np.array_equal(overlay(IMAGE, LABELS, PALETTE, opacity=1)[0], PALETTE[LABELS[0]])


def test_panels_hold_every_image_whole():
    images = [np.full((60 + i, 100 - i, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    sheet = panels(images, [f"image {i}" for i in range(5)], columns=2)
    assert sheet.shape[1] >= 200
    assert sheet.shape[0] >= 3 * 64
    for image in images:
        assert (sheet == image[0, 0]).all(axis=2).sum() >= image.shape[0] * image.shape[1]
    assert panels(images[:1]).shape == images[0].shape
    assert panels(images, columns=9).shape[0] == 64


def test_titles_are_drawn_above_and_shrink_to_fit():
    image = np.full((200, 150, 3), 77, np.uint8)
    for title in ("frame 3", "a title that is far too long for this width, and then some", "", "straße"):
        sheet = panels([image], [title])
        bar = sheet[:-200]
        assert np.array_equal(sheet[-200:], image)
        assert bar.max() > 150 if title else bar.max() < 30
        assert bar[:, -2:].max() < 60
    panels([image[:2, :2]], ["tiny"])


def test_titles_of_any_length_stay_in_their_cells():
    image = np.zeros((360, 480, 3), np.uint8)
    for length in range(30, 90, 3):
        title = ("Deep Feature Flow: key frame + 4, 90% of pixels right " * 2)[:length]
        bar = panels([image], [title], columns=1)[:-360]
        assert (bar[:, -3:] == bar[0, 0]).all() and (bar != bar[0, 0]).any(), title


@pytest.mark.parametrize("width", [1, 40, 300, 3000])
def test_a_legend_is_as_wide_as_asked_and_shows_all_colours(width):
    strip = legend(["road", "sidewalk", "building", "car"], PALETTE, width)
    assert strip.shape[1] == width
    assert strip.dtype == np.uint8
    if width >= 40:
        for colour in PALETTE:
            assert (strip == colour).all(axis=2).sum() >= 100


def test_a_palette_png_holds_indices_and_shows_colours(tmp_path):
    path = tmp_path / "labels.png"
    save_palette_png(path, LABELS, PALETTE)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), LABELS)
    shown = cv2.imread(str(path))[..., ::-1]
    assert np.array_equal(shown, colourise(LABELS, PALETTE))
    assert os.listdir(tmp_path) == ["labels.png"]


def test_a_palette_png_is_read_back_as_labels(tmp_path):
    from accel.files.images import read_labels

    save_palette_png(tmp_path / "labels.png", LABELS, PALETTE)
    assert np.array_equal(read_labels(tmp_path / "labels.png"), LABELS)


def test_a_palette_png_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_palette_png(tmp_path / "labels.png", LABELS, PALETTE)
    assert not os.listdir(tmp_path)


def test_flow_colours_are_those_of_torchvision():
    flow = np.random.default_rng(0).normal(size=(40, 50, 2)).astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert abs(flow_to_colour(flow).astype(int) - theirs).max() <= 1


def test_unknown_flow_is_black_and_no_motion_white():
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0] = np.nan
    flow[0, 1] = 3, np.inf
    assert flow_to_colour(flow).tolist() == [[[0] * 3, [0] * 3], [[255] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colourise(LABELS.astype(int), PALETTE), r"labels: int64 \(2, 3\); expected uint8"),
        (lambda: colourise(LABELS[None], PALETTE), "expected uint8"),
        (lambda: colourise(LABELS, PALETTE[:2]), "class 2, but the palette has colours for 0 to 1"),
        (lambda: colourise(LABELS, PALETTE / 255), "palette is float64"),
        (lambda: overlay(IMAGE[:1], LABELS, PALETTE), "expected one size"),
        (lambda: overlay(IMAGE, LABELS, PALETTE, opacity=2), "opacity is 2"),
        (lambda: overlay(IMAGE / 255, LABELS, PALETTE), "image is float64"),
        (lambda: panels([]), "no images"),
        (lambda: panels([IMAGE], ["a", "b"]), "2 titles for 1 images"),
        (lambda: panels([IMAGE], columns=0), "columns is 0"),
        (lambda: panels([IMAGE, LABELS]), "image 1 is uint8"),
        (lambda: legend(["road"], PALETTE, 100), "1 class names"),
        (lambda: legend(["a", "b", "c", "d"], PALETTE, 0), "width is 0"),
        (lambda: flow_to_colour(np.zeros((2, 4, 4))), "flow is float64"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
