"""A branch with a decoder that keeps detail: class scores at a fourth or an eighth of the frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from accel.fast.parts import Work
from accel.fast.pointwise import Pointwise
from accel.fast.preparation import Preparation
from accel.models.branch import Branch, SplitBranch
from accel.models.segmentation.score_map import Border, ScoreMap


class FeaturePyramid(Branch):
    """Score one image with a backbone that ends with a decoder, and one 1x1 convolution.

    Scores are linear in the features. So it makes no difference which of the two are carried from frame to frame.

    backbone: module with `out_channels` and `stride`, such as `PyramidBackbone`. It turns (B, 3, H, W), RGB minus the
        mean, into (B, C, ceil(H/stride), ceil(W/stride)).
    num_classes: K.
    border: how the scores are upsampled at the frame's border, see `ScoreMap`.
    """

    task = "segmentation"

    def __init__(self, backbone: Any, num_classes: int, border: Border = "replicate"):
        super().__init__()
        self.backbone = backbone
        self.score_layer = nn.Conv2d(backbone.out_channels, num_classes, 1)
        self.border, self.stride = border, backbone.stride

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """Turn features (B, C, h, w) into scores (B, K, h, w)."""
        return ScoreMap(self.score_layer(features), self.border, stride=self.stride)

    def simplified(self, linear: bool = True) -> Branch:
        """Return the same network with less work. See `Branch.simplified`.

        If propagation is linear, the scores are computed before it: once for each key frame. The carried features then
        have K channels.
        """
        return SimplifiedPyramid(self.split()) if linear else self.split()

    def split(self) -> SplitPyramid:
        # A backbone that knows of work to save says so.
        self.backbone = getattr(self.backbone, "simplified", lambda: self.backbone)()
        return SplitPyramid(self)


class SplitPyramid(SplitBranch):
    """A `FeaturePyramid` for inference. Its product is the scores without their bias. They are float32, because they
    decide labels.

    original: the branch whose layers it takes over.
    """

    task = "segmentation"

    def __init__(self, original: FeaturePyramid):
        super().__init__()
        self.backbone = original.backbone
        self.product = Pointwise(original.score_layer.weight.flatten(1))
        self.bias = nn.Parameter(_bias_of(original.score_layer)[:, None, None], requires_grad=False)
        self.border, self.stride = original.border, original.stride

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""
        return self.backbone(image)

    def predict_from(self, product: Tensor) -> ScoreMap:
        """Turn the product (B, K, h, w) into scores (B, K, h, w)."""
        return ScoreMap(product + self.bias, self.border, stride=self.stride)


def _bias_of(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class SimplifiedPyramid(Branch):
    """A `FeaturePyramid` whose features are its scores without their bias."""

    task = "segmentation"

    def __init__(self, split: SplitPyramid):
        super().__init__()
        self.split_branch = split

    @property
    def backbone(self) -> nn.Module:
        return self.split_branch.backbone

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, K, h, w)."""
        return self.split_branch.product(self.split_branch.features(image))

    def work(self, image: Tensor) -> Work:
        return self.split_branch.work(image).then(self.split_branch.product)

    def predict(self, features: Tensor) -> ScoreMap:
        """Turn features (B, K, h, w) into scores (B, K, h, w)."""
        return self.split_branch.predict_from(features)

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        self.split_branch.make_fast(preparation, parts)
