"""Boxes of what can move in a generated street scene."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cityscapesscripts.helpers.labels import id2label

from accel.datasets.streetscape.scene import Rendering

CLASS_NAMES = ("person", "rider", "car", "truck", "bus", "bicycle")
SMALLEST_SIDE = 1 / 20  # of the frame's height: a box with a shorter side is left out as tiny
LEAST_FILLED = 1 / 4  # of a box, by the visible pixels of its object: with fewer it is left out as hidden


class VisibleBox(NamedTuple):
    """An object of a frame.

    track: its number, the same in all frames of its scene.
    name: its class.
    box: x1, y1, x2, y2 of its visible pixels, both corners within.
    """

    track: int
    name: str
    box: tuple[int, int, int, int]


def visible_boxes(rendering: Rendering) -> list[VisibleBox]:
    """Return the boxes of a frame, by track.

    A box is the extent of an object's visible pixels, so what hides a part of an object also cuts its box. Left out are
    tiny objects (`SMALLEST_SIDE`) and those of which only scattered pixels are seen (`LEAST_FILLED`).
    """
    instances = rendering.instance_ids
    smallest = SMALLEST_SIDE * instances.shape[0]
    found = []
    numbers, counts = np.unique(instances, return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        name = id2label[number // 1000].name if number >= 1000 else ""
        if name not in CLASS_NAMES:
            continue
        mask = instances == number
        rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
        x1, y1, x2, y2 = columns[0], rows[0], columns[-1], rows[-1]
        width, height = x2 - x1 + 1, y2 - y1 + 1
        if min(width, height) >= smallest and count >= LEAST_FILLED * width * height:
            found.append(VisibleBox(number, name, (x1, y1, x2, y2)))
    return found
