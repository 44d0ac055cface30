"""A branch made from any model that segments single images."""

from __future__ import annotations

from torch import Tensor

from accel.models.branch import Branch
from accel.models.segmentation.score_map import ScoreMap
from accel.models.segmentation.score_network import ScoreNetwork


class AnyModel(Branch):
    """A segmentation model of any kind. Its scores are what is carried from frame to frame.

    Nearly all models end with a linear layer. Scores are linear in what comes before it, so carrying them gives the
    same result as carrying features, and costs less.

    backbone: the model.
    """

    task = "segmentation"

    def __init__(self, backbone: ScoreNetwork):
        super().__init__()
        self.backbone = backbone
        # The network that `make_fast` puts into its place has none of these.
        self.stride, self.multiple, self.aligned = backbone.stride, backbone.multiple, backbone.aligned

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into scores (B, K, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """Return the scores (B, K, h, w) of frames that end with their last cells."""
        height, width = features.shape[2:]
        return self.predict_within(features, (height * self.stride, width * self.stride))

    def predict_within(self, features: Tensor, size: tuple[int, int]) -> ScoreMap:
        """Return the scores (B, K, h, w) of frames of `size` (H, W)."""
        return ScoreMap(features, stride=self.stride, corners=self._corners(size) if self.aligned else None)

    def _corners(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many cells (h, w) the scores of a frame of `size` (H, W) had before those of the padding were
        cropped."""
        height, width = (-(-side // self.multiple) * (self.multiple // self.stride) for side in size)
        return height, width
