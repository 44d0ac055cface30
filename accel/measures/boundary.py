"""Measure accuracy near class borders: mIoU within a trimap, where propagated labels go wrong first.

Kohli, Ladicky and Torr, "Robust higher order potentials for enforcing label consistency", IJCV 2009, count only the
pixels in a band of some width around the borders of the ground truth. Chen et al., "DeepLab", PAMI 2018, report the
mean IoU there, as a curve over widths. We do the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from accel.labels import IGNORED
from accel.measures.confusion import ConfusionMatrix, add_counts, count_pixels, no_strays

# Halvings of 16 pixels, a cell of the feature maps that are propagated: flow that is wrong by less than a cell shows
# up within these widths.
WIDTHS = (1, 2, 4, 8, 16)


def border_distance(labels: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from the nearest border between two classes, in pixels: (H, W) float32.

    labels: (H, W) uint8, 255 = ignored.

    A border lies between two neighbouring pixels (above, below, left, right) of different classes. Both have distance
    1. Pixels further away have 1 plus the distance of their centre to the nearest of those. Ignored pixels make no
    border, because nobody knows where the class beside them ends. The distance is infinite if there is no border.
    """
    inside = np.ones(labels.shape, np.uint8)  # 0 beside a border
    for a, b, here, there in (
        (labels[:, :-1], labels[:, 1:], inside[:, :-1], inside[:, 1:]),
        (labels[:-1], labels[1:], inside[:-1], inside[1:]),
    ):
        border = (a != b) & (a != IGNORED) & (b != IGNORED)
        here[border] = there[border] = 0
    if inside.all():
        return np.full(labels.shape, np.inf, np.float32)
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + 1


def trimap_bands(labels: np.ndarray, widths: Sequence[int] = WIDTHS) -> np.ndarray:
    """Return for each pixel the index in `widths` (ascending) of the narrowest trimap that contains it: (H, W) uint8.

    The index is len(widths) if no trimap contains the pixel. The trimap of width r contains the pixels with a
    `border_distance` of at most r.
    """
    return np.searchsorted(np.asarray(widths, np.float32), border_distance(labels)).astype(np.uint8)


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """Return the widths, ascending. Raises ValueError unless they are different whole numbers of at least 1 pixel."""
    if any(w < 1 or w != int(w) for w in widths) or len(set(widths)) < len(widths):
        raise ValueError(f"trimap widths {', '.join(map(str, widths))}: expected whole pixels from 1, none twice")
    return tuple(sorted(int(w) for w in widths))


class TrimapMatrix:
    """One confusion matrix for each trimap width, and one of all pixels, from a single count.

    widths: the widths of the trimaps in pixels, ascending. Without any, only all pixels are counted.
    counts: (len(widths) + 1, K, K) int64. [i] counts the pixels of trimap i that are in no narrower one; the last
        counts those outside all trimaps.
    ignored: () int64, the number of ignored pixels of the ground truth, at any place.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = ()):
        self.widths = check_widths(widths)
        self.counts = torch.zeros(len(self.widths) + 1, num_classes, num_classes, dtype=torch.int64)
        self.strays = no_strays()
        self.ignored = torch.zeros((), dtype=torch.int64)

    def update(self, predicted: Tensor, labels: Tensor, bands: Tensor | None = None) -> None:
        """Add frames, as `ConfusionMatrix.update` does.

        bands: `trimap_bands` of the labels, uint8 of the same shape. Not needed without widths.
        """
        if self.widths and bands is None:
            raise ValueError(f"trimaps of {', '.join(map(str, self.widths))} pixels need the bands of the labels")
        bands = bands if self.widths else None
        counts, strays, ignored = count_pixels(predicted, labels, self.counts.shape[-1], bands, len(self.counts))
        self.counts = self.counts.to(counts.device) + counts
        self.strays = self.strays.to(counts.device) + strays
        self.ignored = self.ignored.to(counts.device) + ignored

    def __add__(self, other: TrimapMatrix) -> TrimapMatrix:
        """Return the matrices of both sets together. Raises ValueError for different widths or numbers of classes."""
        if self.widths != other.widths:
            raise ValueError(f"trimaps of widths {self.widths} and {other.widths} cannot be added")
        total = TrimapMatrix(self.counts.shape[-1], self.widths)
        ours, theirs = ((each.counts, each.strays, each.ignored) for each in (self, other))
        total.counts, total.strays, total.ignored = add_counts(ours, theirs)
        return total

    def all_pixels(self) -> ConfusionMatrix:
        """Return the confusion matrix of all pixels."""
        return ConfusionMatrix.of(self.counts.sum(0), self.strays, self.ignored)

    def within(self, width: int) -> ConfusionMatrix:
        """Return the confusion matrix of the trimap with this width."""
        return ConfusionMatrix.of(self.counts[: self.widths.index(width) + 1].sum(0), self.strays, self.ignored)
