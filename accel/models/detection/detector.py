"""What detectors of two stages have in common: regions are proposed, and each is judged."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from accel.models.branch import Branch
from accel.models.detection.detections import Selection
from accel.models.detection.proposals import Proposing
from accel.models.detection.resizing import Resizing
from accel.models.strides import STRIDE


class Detector(Branch):
    """One image to detections.

    backbone: module with `out_channels`, taking (B, 3, H, W) RGB minus the mean to (B, C, ceil(H/16), ceil(W/16)), such
        as `rfcn.FeatureNetwork`.
    num_classes: K, without the background.
    proposing, selection: how regions are proposed, and which detections are told.
    resizing: what is done to frames before it looks at them; None: nothing. Boxes are those of the frames in any case.

    What it says of each cell, its `maps`, is a named tuple: see `maps.Maps`. The first two of it are the anchors'.
    """

    task = "detection"

    def __init__(
        self, backbone: Any, num_classes: int, proposing: Proposing, selection: Selection, resizing: Resizing | None
    ):
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.proposing, self.selection, self.resizing = proposing, selection, resizing

    def seen(self, image: Tensor) -> Tensor:
        return super().seen(image if self.resizing is None else self.resizing(image))

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if self.resizing is None else self.resizing.size(size)

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, C, h, w)."""
        return self.backbone(image)

    @abstractmethod
    def maps(self, features: Tensor) -> Any:
        """What is said of each cell of features (B, C, h, w)."""

    @abstractmethod
    def judge(self, maps: Any, regions: Tensor) -> tuple[Tensor, Tensor]:
        """What is in regions (B, R, 4): logits (B, R, 1 + K), of the background first, and how their boxes lie, in the
        units that it learns them in."""

    def predict(self, features: Tensor):
        """Of frames that end where the last cells do."""
        height, width = features.shape[2:]
        return self.predict_within(features, (STRIDE * height, STRIDE * width))


def rois(regions: Tensor) -> Tensor:
    """Regions (B, R, 4) as pooling takes them, (B * R, 5): the image's number first."""
    index = torch.arange(len(regions), device=regions.device, dtype=torch.float32)
    index = index[:, None, None].expand(*regions.shape[:2], 1)
    return torch.cat([index, regions.float()], -1).flatten(0, 1)
