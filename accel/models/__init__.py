"""Video models and how to build them from a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from accel.models.backbones.smp import SmpBackbone
from accel.models.classical_flow import DenseInverseSearch
from accel.models.deeplab import DeepLab
from accel.models.flownet import FlowNetS
from accel.models.fusion import FeatureFusion, ScoreFusion
from accel.models.propagation import FlowWarp
from accel.models.published import build_published
from accel.models.scores import ScoreMap
from accel.models.video import Accel, AccelShared, DeepFeatureFlow, FrameByFrame, FrameState, VideoModel

if TYPE_CHECKING:  # models alone do without the configuration's libraries
    from accel import config as c


def build_model(config: c.ModelConfig) -> VideoModel:
    """A model with fresh weights (ImageNet's where a branch says `pretrained`)."""
    return BUILDERS[config.name](config)


def _deeplab(branch: c.Branch, num_classes: int) -> DeepLab:
    return DeepLab(
        SmpBackbone(branch.encoder, branch.pretrained, branch.zero_init_residual), num_classes, branch.head_channels
    )


def _frame_by_frame(config: c.FrameByFrameConfig) -> FrameByFrame:
    return FrameByFrame(_deeplab(config.reference, config.num_classes))


def _flow(config: c.FlowConfig) -> nn.Module:
    return FlowNetS(config.width) if config.name == "flownet_s" else DenseInverseSearch(config.preset)


def _deep_feature_flow(config: c.DeepFeatureFlowConfig) -> DeepFeatureFlow:
    return DeepFeatureFlow(_deeplab(config.reference, config.num_classes), FlowWarp(_flow(config.flow)))


def _accel(config: c.AccelConfig) -> Accel:
    return Accel(
        reference=_deeplab(config.reference, config.num_classes),
        propagation=FlowWarp(_flow(config.flow)),
        update=_deeplab(config.update, config.num_classes),
        fusion=ScoreFusion(config.num_classes),
    )


def _accel_shared(config: c.AccelSharedConfig) -> AccelShared:
    reference = _deeplab(config.reference, config.num_classes)
    return AccelShared(
        reference=reference,
        propagation=FlowWarp(_flow(config.flow)),
        fusion=FeatureFusion(reference.backbone.out_channels),
    )


def _published(config: c.PublishedConfig) -> VideoModel:
    return build_published(config.version, config.num_classes)


BUILDERS = {
    "frame_by_frame": _frame_by_frame,
    "deep_feature_flow": _deep_feature_flow,
    "accel": _accel,
    "accel_shared": _accel_shared,
    "published": _published,
}

__all__ = [
    "Accel",
    "AccelShared",
    "DeepFeatureFlow",
    "DeepLab",
    "DenseInverseSearch",
    "FeatureFusion",
    "FlowNetS",
    "FlowWarp",
    "FrameByFrame",
    "FrameState",
    "ScoreFusion",
    "ScoreMap",
    "SmpBackbone",
    "VideoModel",
    "build_model",
    "build_published",
]
