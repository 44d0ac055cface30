"""Segmentation accuracy from one confusion matrix over the whole set."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.datasets.clips import IGNORED


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels.

    counts: (K, K) int64, rows are the ground truth.
    """

    def __init__(self, num_classes: int):
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add frames: predicted and true class indices, uint8, of one shape; pixels labelled 255 do not count.

        Raises ValueError for shapes that differ or classes out of range.
        """
        if predicted.shape != labels.shape:
            raise ValueError(f"predicted labels {tuple(predicted.shape)} for true ones {tuple(labels.shape)}")
        classes = len(self.counts)
        valid = labels != IGNORED
        true, found = labels[valid].long(), predicted[valid].long()
        highest = max(int(true.max()), int(found.max())) if len(true) else 0
        if highest >= classes:
            raise ValueError(f"class {highest} among the labels; there are {classes} classes")
        self.counts = self.counts.to(labels.device)
        self.counts += torch.bincount(true * classes + found, minlength=classes**2).view(classes, classes)

    def iou(self) -> Tensor:
        """(K,) float64 intersection over union; NaN for classes that are neither in the truth nor predicted."""
        hits = self.counts.diag().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diag()
        return torch.where(union > 0, hits / union, torch.nan)

    def miou(self) -> float:
        """Mean IoU over the classes that occur, as cityscapesscripts computes it; NaN if nothing was counted."""
        return float(self.iou().nanmean())
