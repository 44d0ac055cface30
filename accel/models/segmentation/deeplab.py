"""DeepLab as Accel uses it: a backbone at output stride 16, then fc6 and a score layer, both 1x1."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from accel.fast.pointwise import Pointwise, followed_by
from accel.models.branch import Branch
from accel.models.segmentation.score_map import Border, ScoreMap
from accel.models.segmentation.simplified_deeplab import Head, SimplifiedDeepLab, WholeDeepLab


class DeepLab(Branch):
    """Score one image (Chen et al. 2015, as in the Accel and Deep Feature Flow releases: without ASPP).

    backbone: module with `out_channels` that turns (B, 3, H, W), RGB minus the mean, into (B, C, ceil(H/16),
        ceil(W/16)).
    num_classes: K.
    head_channels: the number of channels of fc6.
    border: how the scores are upsampled at the frame's border, see `ScoreMap`.
    """

    task = "segmentation"

    def __init__(self, backbone: Any, num_classes: int, head_channels: int = 1024, border: Border = "replicate"):
        super().__init__()
        self.backbone = backbone
        self.fc6 = nn.Conv2d(backbone.out_channels, head_channels, 1)
        self.score_layer = nn.Conv2d(head_channels, num_classes, 1)
        self.border = border

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """Turn features (B, C, h, w) into scores (B, K, h, w)."""
        return ScoreMap(self.score_layer(self.fc6(features).relu()), self.border)

    def simplified(self, linear: bool = True) -> Branch:
        """Return the same network with less work. See `Branch.simplified`.

        fc6 is linear up to its bias. If propagation is linear too, the product of fc6 is computed before it: once for
        each key frame instead of once for each frame.
        """
        if not linear:
            return self.split()
        return SimplifiedDeepLab(followed_by(self.backbone, self._product()), self._head(), self.border)

    def split(self) -> WholeDeepLab:
        return WholeDeepLab(self.backbone, Pointwise(self._product()), self._head(), self.border)

    def _product(self) -> Tensor:
        """The weight of fc6, (head_channels, C)."""
        return self.fc6.weight.flatten(1)

    def _head(self) -> Head:
        assert self.fc6.bias is not None
        return Head(self.fc6.bias, self.score_layer)
