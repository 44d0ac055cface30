"""DeepLab as Accel uses it: a backbone at output stride 16, fc6 and a score layer, both 1x1."""

from __future__ import annotations

from torch import Tensor, nn

from accel.models.branch import Branch
from accel.models.segmentation.score_map import Border, ScoreMap


class DeepLab(Branch):
    """One image to scores (Chen et al. 2015, as in the Accel and Deep Feature Flow releases: no ASPP).

    backbone: module with `out_channels`, taking (B, 3, H, W) RGB minus the mean to (B, C, ceil(H/16), ceil(W/16)).
    num_classes: K.  head_channels: width of fc6.
    border: how the scores are upsampled at the frame's border, see `ScoreMap`.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, head_channels: int = 1024, border: Border = "replicate"):
        super().__init__()
        self.backbone = backbone
        self.fc6 = nn.Conv2d(backbone.out_channels, head_channels, 1)
        self.score_layer = nn.Conv2d(head_channels, num_classes, 1)
        self.border = border

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, C, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """(B, C, h, w) to scores (B, K, h, w)."""
        return ScoreMap(self.score_layer(self.fc6(features).relu()), self.border)
