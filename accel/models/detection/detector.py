"""What all detectors here have in common: they propose regions, and then judge each of them."""

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
    """A branch that detects objects in single images.

    backbone: a module with `out_channels`, such as `rfcn.FeatureNetwork`. Its input is RGB minus the mean,
        (B, 3, H, W), its result is (B, C, ceil(H/16), ceil(W/16)).
    num_classes: K, without the background.
    proposing: the rule that selects proposals.
    selection: the rule that selects detections.
    resizing: how frames are resized before the network sees them. None: they are not. Boxes are in pixels of the frames
        in any case.
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
        """Return features (B, C, h, w) of images (B, 3, H, W), RGB minus the mean."""
        return self.backbone(image)

    @abstractmethod
    def maps(self, features: Tensor) -> Any:
        """Return the predictions for each cell of features (B, C, h, w), as a named tuple. Its first two tensors are
        those for the anchors, `objects` and `moves`."""

    @abstractmethod
    def judge(self, maps: Any, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is in regions (B, R, 4): logits (B, R, 1 + K), of which the first is the background's, and where
        the boxes of the objects are, in the units in which the detector learns them."""

    def predict(self, features: Tensor):
        """Return the detections for images that end where their last cells end."""
        height, width = features.shape[2:]
        return self.predict_within(features, (STRIDE * height, STRIDE * width))


def rois(regions: Tensor) -> Tensor:
    """Return regions (B, R, 4) in the form that pooling needs, (B * R, 5): the number of the image comes first."""
    index = torch.arange(len(regions), device=regions.device, dtype=torch.float32)
    index = index[:, None, None].expand(*regions.shape[:2], 1)
    return torch.cat([index, regions.float()], -1).flatten(0, 1)
