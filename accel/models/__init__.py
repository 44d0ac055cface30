"""Video models and how to build them from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from accel.models.backbones.encoders import PixelScaling
from accel.models.backbones.pyramid import PyramidBackbone
from accel.models.backbones.smp import EARLY, SmpBackbone
from accel.models.branch import Branch
from accel.models.detection.detections import Selection
from accel.models.detection.detector import Detector
from accel.models.detection.faster_rcnn import FasterRCNN, region_features
from accel.models.detection.proposals import EdgeProposing, Proposing
from accel.models.detection.resizing import OpenCvResizing, Resizing
from accel.models.detection.rfcn import RFCN, FeatureNetwork
from accel.models.propagation.base import Propagation
from accel.models.propagation.classical_flow import DenseInverseSearch
from accel.models.propagation.flow_warp import FlowWarp, ScaledFlowWarp
from accel.models.propagation.flownet_s import FlowNetS, ScaledFlowNetS
from accel.models.propagation.learned_sampling import LearnedSampling, gaussian_offsets, grid_offsets
from accel.models.propagation.routes import KeyToCurrent
from accel.models.published_models import build_published
from accel.models.segmentation.any_model import AnyModel
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.feature_pyramid import FeaturePyramid
from accel.models.segmentation.freshness import Freshness
from accel.models.segmentation.fusion import EvidenceFusion, FeatureFusion, ScoreFusion
from accel.models.segmentation.libraries.registered import registered
from accel.models.segmentation.libraries.smp_models import smp_model
from accel.models.segmentation.libraries.torchvision_models import torchvision_model
from accel.models.segmentation.libraries.transformers_models import transformers_model
from accel.models.segmentation.score_map import ScoreMap
from accel.models.segmentation.score_network import ScoreNetwork, Source
from accel.models.video import Accel, AccelShared, DeepFeatureFlow, FrameByFrame, FrameState, VideoModel

if TYPE_CHECKING:  # models alone do without the configuration's libraries
    from accel import config as c


def build_model(config: c.ModelConfig) -> VideoModel:
    """A model with fresh weights (ImageNet's where a branch says `pretrained`).

    Raises ValueError if the number of classes was left out.
    """
    if not config.num_classes:
        raise ValueError("model.num_classes is left out, and there are no data here to count the classes of")
    build: Callable[..., VideoModel] = BUILDERS[config.name]
    return build(config)


def build_update(config: c.BranchConfig, num_classes: int) -> Branch:
    """Build one branch alone, with fresh weights (ImageNet's where it says `pretrained`)."""
    return _branch(config, num_classes)


def _branch(config: c.BranchConfig, num_classes: int) -> Branch:
    build: Callable[..., Branch] = BRANCHES[config.name]
    return build(config, num_classes)


def _deeplab(config: c.DeepLabConfig, num_classes: int, early_blocks: int | None = None) -> DeepLab:
    start = {"pretrained": config.pretrained, "zero_init_residual": config.zero_init_residual}
    return DeepLab(SmpBackbone(config.encoder, early_blocks=early_blocks, **start), num_classes, config.head_channels)


def _pyramid(config: c.PyramidConfig, num_classes: int) -> FeaturePyramid:
    backbone = PyramidBackbone(config.encoder, config.pretrained, config.stride, config.channels, config.enlarge)
    return FeaturePyramid(backbone, num_classes)


def _rfcn(config: c.RfcnConfig, num_classes: int, early_blocks: int | None = None) -> RFCN:
    network = SmpBackbone(config.encoder, config.pretrained, early_blocks=early_blocks)
    return RFCN(
        FeatureNetwork(network, config.channels, config.dilation),
        num_classes,
        Proposing(count=config.regions, scales=config.scales, ratios=config.ratios),
        Selection(config.threshold),
        None if config.sides is None else Resizing(*config.sides),
    )


def _faster_rcnn(config: c.FasterRcnnConfig, num_classes: int, early_blocks: int | None = None) -> FasterRCNN:
    network = SmpBackbone(config.encoder, config.pretrained, early_blocks=early_blocks)
    return FasterRCNN(
        region_features(network, config.channels),
        num_classes,
        EdgeProposing(count=config.regions, scales=config.scales, ratios=config.ratios),
        Selection(config.threshold, most_overlap=0.5, most=100),
        None if config.sides is None else OpenCvResizing(*config.sides),
        config.training_regions,
        config.width,
    )


def _any_model(config: c.AnyModelConfig, num_classes: int) -> AnyModel:
    source = LIBRARIES[config.name](config, num_classes)
    source = replace(source, scaling=PixelScaling(config.mean or source.scaling.mean, config.std or source.scaling.std))
    source = replace(source, stride=config.stride or source.stride, size=config.size)
    return AnyModel(ScoreNetwork(source, num_classes, f"reference {config.name}"))


def _smp(config: c.SmpConfig, num_classes: int) -> Source:
    weights = config.weights if config.pretrained else None
    return smp_model(config.architecture, config.encoder, num_classes, config.arguments, config.pretrained, weights)


def _torchvision(config: c.TorchvisionConfig, num_classes: int) -> Source:
    weights = config.weights if config.pretrained else None
    return torchvision_model(config.architecture, num_classes, config.arguments, config.pretrained, weights)


def _transformers(config: c.TransformersConfig, num_classes: int) -> Source:
    return transformers_model(num_classes, config.config, config.weights, config.pretrained)


def _own(config: c.RegisteredConfig, num_classes: int) -> Source:
    return registered(config.model, num_classes, config.arguments, config.pretrained)


def _frame_by_frame(config: c.FrameByFrameConfig) -> FrameByFrame:
    return FrameByFrame(_branch(config.reference, config.num_classes))


def _reference(config: c.PropagatingConfig) -> Branch:
    if config.propagation is None or config.propagation.encoder is not None:
        return _branch(config.reference, config.num_classes)
    reference = config.reference
    if reference.name == "rfcn":
        return _rfcn(reference, config.num_classes, config.propagation.blocks)
    if reference.name == "faster_rcnn":
        return _faster_rcnn(reference, config.num_classes, config.propagation.blocks)
    assert reference.name == "deeplab", "its configuration says so"
    return _deeplab(reference, config.num_classes, config.propagation.blocks)


def _propagation(config: c.PropagatingConfig, reference: Branch) -> Propagation:
    if config.propagation is not None:
        return _learned_sampling(config.propagation, reference)
    if isinstance(reference, Detector):
        return _from_key_frame(config.flow, reference.backbone.out_channels)
    return FlowWarp(_flow(config.flow))


def _from_key_frame(config: c.FlowConfig, channels: int) -> FlowWarp:
    """As Deep Feature Flow's detector has it: straight from the key frame, with a scale map."""
    if config.name == "flownet_s":
        return ScaledFlowWarp(ScaledFlowNetS(channels, config.width), KeyToCurrent())
    return FlowWarp(_flow(config), KeyToCurrent())


def _flow(config: c.FlowConfig) -> nn.Module:
    return FlowNetS(config.width) if config.name == "flownet_s" else DenseInverseSearch(config.preset)


def _learned_sampling(settings: c.LearnedSamplingConfig, reference: Branch) -> LearnedSampling:
    backbone = reference.backbone
    channels = backbone.out_channels
    if settings.encoder is None:
        backbone = getattr(backbone, "network", backbone)  # within a `FeatureNetwork`
        low_level, low_channels = backbone.early, backbone.early_channels
    else:
        own = SmpBackbone(settings.encoder, settings.pretrained, EARLY, settings.blocks)
        low_level, low_channels = own, own.out_channels
    starts = {"grid": grid_offsets, "gaussian": lambda radius: gaussian_offsets((2 * radius + 1) ** 2)}
    return LearnedSampling(
        low_level,
        low_channels,
        channels,
        offsets=starts[settings.offsets](settings.radius),
        embedding=settings.embedding,
        update_ratio=settings.update_ratio,
    )


def _deep_feature_flow(config: c.DeepFeatureFlowConfig) -> DeepFeatureFlow:
    reference = _reference(config)
    return DeepFeatureFlow(reference, _propagation(config, reference))


def _accel(config: c.AccelConfig) -> Accel:
    reference = _reference(config)
    return Accel(
        reference=reference,
        propagation=_propagation(config, reference),
        update=_branch(config.update, config.num_classes),
        fusion=FUSIONS[config.fusion](config.num_classes),
        freshness=Freshness() if config.adaptive else None,
    )


def _accel_shared(config: c.AccelSharedConfig) -> AccelShared:
    reference = _reference(config)
    return AccelShared(
        reference=reference,
        propagation=_propagation(config, reference),
        fusion=FeatureFusion(reference.backbone.out_channels),
    )


def _published(config: c.PublishedConfig) -> VideoModel:
    return build_published(config.version, config.num_classes)


LIBRARIES: dict[str, Callable[..., Source]] = {
    "smp": _smp,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "own": _own,
}
FUSIONS: dict[str, Callable[[int], ScoreFusion]] = {"scores": ScoreFusion, "evidence": EvidenceFusion}
BRANCHES: dict[str, Callable[..., Branch]] = {
    "deeplab": _deeplab,
    "pyramid": _pyramid,
    "rfcn": _rfcn,
    "faster_rcnn": _faster_rcnn,
    **dict.fromkeys(LIBRARIES, _any_model),
}
BUILDERS: dict[str, Callable[..., VideoModel]] = {
    "frame_by_frame": _frame_by_frame,
    "deep_feature_flow": _deep_feature_flow,
    "accel": _accel,
    "accel_shared": _accel_shared,
    "published": _published,
}

__all__ = [
    "RFCN",
    "Accel",
    "AccelShared",
    "AnyModel",
    "DeepFeatureFlow",
    "DeepLab",
    "DenseInverseSearch",
    "EvidenceFusion",
    "FasterRCNN",
    "FeatureFusion",
    "FeaturePyramid",
    "FlowNetS",
    "FlowWarp",
    "FrameByFrame",
    "FrameState",
    "LearnedSampling",
    "Propagation",
    "PyramidBackbone",
    "ScoreFusion",
    "ScoreMap",
    "SmpBackbone",
    "VideoModel",
    "build_model",
    "build_published",
    "build_update",
]
