"""Outlined areas of an image, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Shape:
    """An area of a class.

    name: the class.
    outlines: closed polygons, each (N, 2) float64 (x, y) in pixels: the corner of the image is (0, 0), the centre of
        its first pixel is (0.5, 0.5). What an even number of them encloses does not belong to the area.
    mask: (H, W) bool instead of outlines, or None.
    """

    name: str
    outlines: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None

    def area(self) -> float:
        """Return the area in pixels."""
        if self.mask is not None:
            return float(self.mask.sum())
        return sum(_area(*outline.T) for outline in self.outlines)


@dataclass(frozen=True)
class Annotated:
    """An image with its areas.

    image: its file.
    name: the path of its copy below `images/`.
    size: its height and width according to the annotation. None: not given.
    where: the file with the annotation, for messages.
    shapes: the areas, in the order in which they are drawn: later ones cover earlier ones.
    left_out: what the annotation has besides areas, one line each.
    """

    image: Path
    name: Path
    size: tuple[int, int] | None
    where: Path
    shapes: tuple[Shape, ...]
    left_out: tuple[str, ...] = field(default=())


def largest_first(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Return areas in an order in which small ones are not hidden by large ones."""
    return tuple(sorted(shapes, key=Shape.area, reverse=True))


def draw(shapes: Sequence[Shape], values: dict[str, int], size: tuple[int, int], rest: int) -> np.ndarray:
    """Return the label image of `size` (H, W), uint8: later areas cover earlier ones.

    values: the value of each class.
    rest: the value of pixels in no area.
    """
    labels = np.full(size, rest, np.uint8)
    for shape in shapes:
        area = shape.mask if shape.mask is not None else inside(shape.outlines, size)
        labels[area] = values[shape.name]
    return labels


def inside(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return which pixels have their centre inside an odd number of closed polygons: (H, W) bool."""
    height, width = size
    edges = np.concatenate([np.stack([p, np.roll(p, -1, 0)], 1) for p in outlines])  # (E, 2, 2): from, to; x, y
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T
    crossed = np.zeros((height, width + 1), bool)
    first, last = (np.ceil(f(y0, y1) - 0.5).clip(0, height).astype(int) for f in (np.minimum, np.maximum))
    for a, b, top, bottom, left, right in zip(y0, y1, first, last, x0, x1, strict=True):
        rows = np.arange(top, bottom)  # whose centres lie between both ends
        if len(rows):
            x = left + (rows + 0.5 - a) * ((right - left) / (b - a))
            crossed[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
