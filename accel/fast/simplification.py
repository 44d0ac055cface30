"""Algebra that holds exactly, up to rounding: a video model's linear layers change places or become one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.fast.streams import side_by_side
from accel.models.backbones.published_resnets import PreActResNet
from accel.models.branch import Branch
from accel.models.images import subtract_mean
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.score_map import ScoreMap
from accel.models.state import Anchor, FrameState
from accel.models.video import AccelShared, DeepFeatureFlow, VideoModel


def simplify(model: VideoModel) -> VideoModel:
    """A model to one of the same function, up to rounding, and less work for each frame. Takes its modules over.

    fc6 is linear up to its bias, and so is propagation by flow: fc6's product is taken before features are carried on,
    once a key frame instead of once a frame. The learned upsampling that published ResNet-18 and -34 end with is
    linear, too: it and fc6 become one.

    Raises ValueError for `AccelShared` with a propagation that is not linear.
    """
    check_simplifies(model)
    if isinstance(model, AccelShared):
        return SimplifiedAccelShared(model)
    for name, child in model.named_children():
        if isinstance(child, DeepLab):
            carried_whole = name == "reference" and not _is_linear(model)
            setattr(model, name, WholeDeepLab(child) if carried_whole else SimplifiedDeepLab(child))
    return model


def check_simplifies(model: VideoModel) -> None:
    """ValueError for a model that `simplify` cannot take."""
    if isinstance(model, AccelShared) and not _is_linear(model):
        raise ValueError("`optimized` knows AccelShared with propagation by flow only, not by learned sampling")


def _is_linear(model: VideoModel) -> bool:
    return getattr(getattr(model, "propagation", None), "linear", True)


class SimplifiedDeepLab(Branch):
    """A `DeepLab` whose features are fc6's products, before its bias and ReLU."""

    def __init__(self, original: DeepLab):
        super().__init__()
        self.backbone = _followed_by(original.backbone, original.fc6.weight)
        self.head = Head(original.fc6.bias, original.score_layer)
        self.border = original.border

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, head_channels, h, w)."""
        return self.backbone(image)

    def predict(self, features: Tensor) -> ScoreMap:
        """(B, head_channels, h, w) to scores (B, K, h, w), float32."""
        return ScoreMap(self.head(features), self.border)


class WholeDeepLab(SimplifiedDeepLab):
    """A `DeepLab` whose features are the backbone's own, for propagations that are not linear."""

    def __init__(self, original: DeepLab):
        Branch.__init__(self)
        self.backbone = original.backbone
        self.product = Pointwise(original.fc6.weight.flatten(1))
        self.head = Head(original.fc6.bias, original.score_layer)
        self.border = original.border

    def predict(self, features: Tensor) -> ScoreMap:
        """(B, C, h, w) to scores (B, K, h, w), float32."""
        return super().predict(self.product(features))


class Head(nn.Module):
    """What is left of fc6 after its product: bias and ReLU; then the score layer, in float32."""

    def __init__(self, bias: Tensor, score_layer: nn.Conv2d):
        super().__init__()
        self.bias = nn.Parameter(bias[:, None, None], requires_grad=False)
        self.score_layer = score_layer

    def forward(self, features: Tensor) -> Tensor:
        """(B, head_channels, h, w) to (B, K, h, w)."""
        return self.score_layer((features.float() + self.bias).relu())


class SimplifiedAccelShared(DeepFeatureFlow):
    """`AccelShared` in which the fusion of features and fc6 are one product for each branch."""

    def __init__(self, original: AccelShared):
        reference, fusion = original.reference, original.fusion.correction
        super().__init__(reference, original.propagation)
        fc6 = reference.fc6.weight.flatten(1)  # (head_channels, C)
        old, new = fusion.weight.flatten(1).chunk(2, 1)  # (C, C) each
        self.project = Pointwise(fc6)
        self.carry = Pointwise(fc6 @ old)
        self.correct = Pointwise(fc6 @ new, fc6 @ fusion.bias)
        self.head = Head(reference.fc6.bias, reference.score_layer)

    def key_frame(self, image, state=None):
        image = subtract_mean(image)
        features = self.reference.features(image)
        anchor = Anchor.of(image, self.carry(features))
        return self._score(self.project(features)), FrameState.at_key_frame(anchor)

    def next_frame(self, image, state):
        image = subtract_mean(image)
        (features, state), update = side_by_side(
            lambda: self._carried(image, state),
            lambda: self.correct(self.reference.features(image)),
            image.device,
            "update",
        )
        if update.shape != features.shape:  # as in FeatureFusion
            update = F.interpolate(update, features.shape[2:], mode="bilinear", align_corners=True)
        return self._score(features + update), state

    def _score(self, features: Tensor) -> ScoreMap:
        return ScoreMap(self.head(features), self.reference.border)

    def _reference_work(self, image):
        return super()._reference_work(image).then(self.carry)


class Pointwise(nn.Module):
    """A fixed 1x1 convolution. weight: (C', C).  bias: (C',)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight[:, :, None, None].contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def _followed_by(backbone: nn.Module, weight: Tensor) -> nn.Module:
    """A backbone and a 1x1 convolution of its result, as one module. weight: (C', C, 1, 1)."""
    weight = weight.flatten(1)
    if not isinstance(backbone, PreActResNet):
        return nn.Sequential(backbone, Pointwise(weight))
    upsampling = backbone.upsampling  # its weight is (inputs, C, 4, 4)
    upsampling.weight = nn.Parameter(torch.einsum("icyx,oc->ioyx", upsampling.weight, weight), requires_grad=False)
    backbone.out_channels = upsampling.out_channels = len(weight)
    return backbone
