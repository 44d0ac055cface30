"""Boxes of cars, people and bicyclists in CamVid, made of its label maps: real video to try detectors on.

CamVid has no boxes. Each connected region of a class becomes one. That is crude:

- Objects of one class that touch in the picture share a box: a row of parked cars, a group of people.
- An object that something cuts in two, such as a pole, has two boxes.
- A box is the extent of what is visible, not of the whole object.
- Vans, trucks and buses count as cars in the 11 classes of CamVid, and a bicyclist includes the bicycle.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from accel.datasets.clips import Clip
from accel.datasets.stored import StoredClips
from accel.datasets.stored_boxes import StoredBoxes

CLASS_NAMES = "car", "pedestrian", "bicyclist"
PALETTE = np.array([(40, 120, 255), (255, 60, 60), (0, 200, 90)], np.uint8)
SMALLEST_SIDE = 1 / 45  # of the frame's height, 8 pixels of 360: a region with a shorter side is left out


class CamVidBoxes(StoredBoxes):
    """The labelled frames of CamVid, with the boxes of connected regions in place of labels.

    stills: `CamVid` or `CamVidOriginal`.
    """

    class_names, palette = CLASS_NAMES, PALETTE

    def __init__(self, stills: StoredClips):
        self.stills = stills
        self._indices = [stills.class_names.index(name) for name in CLASS_NAMES]

    def __len__(self) -> int:
        return len(self.stills)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes of the label maps, which simulated motion takes its scenes from."""
        return self.stills.class_names

    def history(self, index: int) -> int:
        return self.stills.history(index)

    def name(self, index: int) -> str:
        return self.stills.name(index)

    def place(self, index: int) -> tuple[str, int]:
        return self.stills.place(index)

    def image_paths(self, index: int, length: int) -> list[Path]:
        return self.stills.image_paths(index, length)

    def truth(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        path, labels = self.stills.labels(index)
        if labels.shape != size:
            found, expected = (f"{width} x {height}" for height, width in (labels.shape, size))
            return np.zeros((0, 5), np.float32), [f"{path}: {found} pixels, but its image has {expected}"]
        return region_boxes(labels, self._indices), []

    def clip(self, index: int, length: int) -> Clip:
        """Return the clip with its label map, for simulated motion, and its boxes."""
        clip = self.stills.clip(index, length)
        assert clip.labels is not None, "its stills have labels"
        return replace(clip, boxes=region_boxes(clip.labels, self._indices))


def region_boxes(labels: np.ndarray, classes: list[int]) -> np.ndarray:
    """Return the boxes (M, 5), as in `Clip`, of the connected regions of a label map (H, W), uint8.

    classes: the value in the map of each class of the boxes, in the order of their indices.

    Pixels that touch at a corner are connected. Regions with a side under `SMALLEST_SIDE` are left out.
    """
    smallest = SMALLEST_SIDE * labels.shape[0]
    boxes = []
    for k, value in enumerate(classes):
        _, _, statistics, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        for left, top, width, height, _ in statistics[1:].tolist():  # the first one is everything else
            if min(width, height) >= smallest:
                boxes.append((left, top, left + width - 1, top + height - 1, k))
    return np.array(boxes, np.float32).reshape(-1, 5)
