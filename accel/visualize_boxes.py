"""Boxes with names drawn on pictures. Images are (H, W, 3) uint8 RGB; palettes (K, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

Area: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom
DARK, LIGHT = (20, 20, 20), (255, 255, 255)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, texts: Sequence[str], palette: np.ndarray
) -> np.ndarray:
    """A copy of the image with the boxes (N, 4) drawn in the colours of their classes (N,), each with its text.

    Boxes are x1, y1, x2, y2 in pixels. Those that come first are drawn over the others. Texts keep clear of each other
    as far as there is room beside their boxes; those that come first have the choice.
    """
    drawn = np.ascontiguousarray(image).copy()
    height = image.shape[0]
    thick = max(1, round(height / 300))
    corners = np.round(boxes).astype(int).tolist()
    colours = [tuple(map(int, palette[k])) for k in classes]
    for box, colour in reversed(list(zip(corners, colours, strict=True))):
        cv2.rectangle(drawn, box[:2], box[2:], colour, thick)
    taken: list[Area] = []
    tags = []
    for box, text, colour in zip(corners, texts, colours, strict=True):
        if text:
            tag = _Tag.beside(box, text, min(max(height / 900, 0.4), 1.2), image.shape, taken)
            taken.append(tag.area)
            tags.append((tag, colour))
    for tag, colour in reversed(tags):
        tag.draw(drawn, colour)
    return drawn


@dataclass(frozen=True)
class _Tag:
    """A text on its colour. area: left, top, right, bottom in pixels.  base: of the text, from the top of the area."""

    text: str
    size: float
    area: Area
    base: int

    @classmethod
    def beside(cls, box: list[int], text: str, size: float, shape: tuple[int, ...], taken: Sequence[Area]) -> _Tag:
        """Return the tag of a box, at the first place that is free and within an image of `shape`: above the box,
        below it, within it, or higher up. Without such a place, it covers others."""
        (wide, letters), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        width, height = wide + 4, letters + below + 2
        x1, y1, x2, y2 = box
        columns = [min(max(0, left), max(0, shape[1] - width)) for left in (x1, x2 - width)]
        rows = [y1 - height, y2 + 1, y1, *(y1 - row * height for row in (2, 3, 4))]
        places = [(left, top, left + width, top + height) for top in rows for left in columns]
        places = [place for place in places if place[1] >= 0 and place[3] <= shape[0]]
        free = [place for place in places if not any(_overlap(place, other) for other in taken)]
        top = min(max(0, y1), max(0, shape[0] - height))
        anyway = columns[0], top, columns[0] + width, top + height
        return cls(text, size, (free or places or [anyway])[0], letters + 1)

    def draw(self, image: np.ndarray, colour: tuple[int, ...]) -> None:
        left, top, right, bottom = self.area
        cv2.rectangle(image, (left, top), (right, bottom), colour, -1)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        at = left + 2, top + self.base
        cv2.putText(
            image, self.text, at, cv2.FONT_HERSHEY_SIMPLEX, self.size, DARK if bright else LIGHT, 1, cv2.LINE_AA
        )


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
