"""Boxes drawn with their texts: all of them can be read."""

import numpy as np

from accel.visualize_boxes import _overlap, _Tag, draw_boxes

PALETTE = np.array([(0, 0, 255), (255, 0, 0), (0, 255, 0)], np.uint8)
SHAPE = (200, 300, 3)


def areas(boxes, texts):
    taken = []
    for box, text in zip(boxes, texts, strict=True):
        taken.append(_Tag.beside(box, text, 0.4, SHAPE, taken).area)
    return taken


def test_texts_of_neighbours_do_not_cover_each_other():
    boxes = [[100 + 12 * n, 90, 110 + 12 * n, 130] for n in range(5)]
    found = areas(boxes, [f"pedestrian 0.{n}" for n in range(5)])
    assert not any(_overlap(one, other) for n, one in enumerate(found) for other in found[:n])
    assert found[0][3] == 90, "the first one stands on its box"


def test_texts_stay_within_the_image():
    boxes = [[0, 0, 299, 199], [-20, -20, 5, 5], [280, 3, 299, 20], [250, 190, 299, 199], [5, 5, 6, 6]]
    for left, top, right, bottom in areas(boxes, ["bicyclist 0.50"] * len(boxes)):
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200


def test_small_images_are_drawn_on_all_the_same():
    drawn = draw_boxes(np.zeros((8, 8, 3), np.uint8), np.array([[1, 1, 6, 6]]), np.array([0]), ["a long name"], PALETTE)
    assert drawn.shape == (8, 8, 3) and drawn.any()


def test_colours_are_those_of_the_classes_and_the_first_box_lies_on_top():
    image = np.zeros(SHAPE, np.uint8)
    boxes = np.array([[50.0, 60, 100, 120], [50, 60, 100, 120]])
    drawn = draw_boxes(image, boxes, np.array([1, 2]), ["", ""], PALETTE)
    assert drawn[60, 70].tolist() == [255, 0, 0] and not image.any()
