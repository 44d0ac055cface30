"""`DeepLab` for inference. The product of fc6 is a separate step, because it can change places with other linear
layers."""

from __future__ import annotations

from torch import Tensor, nn

from accel.fast.pointwise import Pointwise
from accel.fast.preparation import Preparation
from accel.models.branch import Branch, SplitBranch
from accel.models.segmentation.score_map import Border, ScoreMap


class SimplifiedDeepLab(Branch):
    """A DeepLab whose features are the product of fc6, before bias and ReLU.

    backbone: module that turns (B, 3, H, W), RGB minus the mean, into (B, head_channels, h, w).
    """

    task = "segmentation"

    def __init__(self, backbone: nn.Module, head: Head, border: Border):
        super().__init__()
        self.backbone = backbone
        self.head: nn.Module = head
        self.border = border

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, head_channels, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """Turn features (B, head_channels, h, w) into scores (B, K, h, w), float32."""
        return ScoreMap(self.head(features), self.border)

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        self.backbone = preparation.network(self.backbone, parts=parts, eight_bits=True)
        self.head = preparation.by_shape(self.head)


class WholeDeepLab(SplitBranch):
    """A DeepLab whose features are those of the backbone, for a propagation that needs all of them."""

    task = "segmentation"

    def __init__(self, backbone: nn.Module, product: Pointwise, head: Head, border: Border):
        super().__init__()
        self.backbone = backbone
        self.product = product
        self.head: nn.Module = head
        self.border = border

    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""
        return self.backbone(image)

    def predict_from(self, product: Tensor) -> ScoreMap:
        """Turn the product (B, head_channels, h, w) into scores (B, K, h, w), float32."""
        return ScoreMap(self.head(product), self.border)

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        self.backbone = preparation.network(self.backbone, parts=parts, eight_bits=True)
        preparation.layer(self.product)
        self.head = preparation.by_shape(self.head)


class Head(nn.Module):
    """The rest of the head after the product of fc6: bias, ReLU, then the score layer. It is float32, because scores
    decide labels.

    bias: (head_channels,).
    """

    def __init__(self, bias: Tensor, score_layer: nn.Conv2d):
        super().__init__()
        self.bias = nn.Parameter(bias[:, None, None], requires_grad=False)
        self.score_layer = score_layer

    def forward(self, features: Tensor) -> Tensor:
        """Turn the product (B, head_channels, h, w) into scores (B, K, h, w)."""
        return self.score_layer((features.float() + self.bias).relu())
