"""Boxes with names drawn on pictures. Images are (H, W, 3) uint8 RGB; palettes (K, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

DARK, LIGHT = (20, 20, 20), (255, 255, 255)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, texts: Sequence[str], palette: np.ndarray
) -> np.ndarray:
    """A copy of the image with the boxes (N, 4) drawn in the colours of their classes (N,), each with its text.

    Boxes are x1, y1, x2, y2 in pixels. Those that come first are drawn last, over the others.
    """
    drawn = np.ascontiguousarray(image).copy()
    height = image.shape[0]
    thick = max(1, round(height / 300))
    size = min(max(height / 900, 0.4), 1.2)
    for box, k, text in reversed(list(zip(np.round(boxes).astype(int).tolist(), classes, texts, strict=True))):
        red, green, blue = map(int, palette[k])
        colour = red, green, blue
        cv2.rectangle(drawn, box[:2], box[2:], colour, thick)
        if text:
            _tag(drawn, box, text, colour, size)
    return drawn


def _tag(image: np.ndarray, box: list[int], text: str, colour: tuple[int, int, int], size: float) -> None:
    """A text on its colour, over the box; within it where there is no room above."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    top = box[1] - height - below - 2
    if top < 0:
        top = box[1]
    left = max(0, min(box[0], image.shape[1] - width - 4))
    cv2.rectangle(image, (left, top), (left + width + 4, top + height + below + 2), colour, -1)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    at = (left + 2, top + height + 1)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, DARK if bright else LIGHT, 1, cv2.LINE_AA)
