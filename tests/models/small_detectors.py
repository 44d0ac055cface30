"""Detectors built like the published ones, narrow, with random weights that hide no mistake."""

from __future__ import annotations

import torch
from small_models import FlowAndScale, Patches, enlivened
from torch import nn

from accel.models import DeepFeatureFlow, FrameByFrame, VideoModel
from accel.models.backbones.dc5_resnets import DC5ResNet
from accel.models.backbones.published_resnets import DetectionResNet
from accel.models.detection.detections import Selection
from accel.models.detection.faster_rcnn import FasterRCNN, region_features
from accel.models.detection.proposals import EdgeProposing, Proposing
from accel.models.detection.rfcn import RFCN, FeatureNetwork
from accel.models.propagation.flow_warp import ScaledFlowWarp, ShrinkingFlowWarp
from accel.models.propagation.flownet_s import ScaledFlowNetS
from accel.models.propagation.flownet_simple import FlowNetSimple
from accel.models.propagation.learned_sampling import LearnedSampling, grid_offsets
from accel.models.propagation.routes import KeyToCurrent

CLASSES = 3


def small_reference(network: nn.Module | None = None) -> RFCN:
    """network: by default a residual one."""
    network = network or DetectionResNet((1, 1, 4, 1), width=4)
    backbone = FeatureNetwork(network, 16)
    reference = RFCN(backbone, CLASSES, Proposing(count=40), Selection(0.1, most=50))
    nn.init.kaiming_normal_(backbone.last.weight)
    heads = reference.heads
    for layer, deviation in ((heads.objects, 0.3), (heads.classes, 0.3), (heads.moves, 0.1), (heads.boxes, 0.1)):
        nn.init.normal_(layer.weight, std=deviation)
    return reference


def small_detector(name: str) -> VideoModel:
    """`frame_by_frame` or `deep_feature_flow`, for inference."""
    torch.manual_seed(0)
    reference = small_reference()
    if name == "frame_by_frame":
        return enlivened(FrameByFrame(reference))
    flow = ScaledFlowNetS(reference.backbone.out_channels, 1 / 16)
    for predict in flow.predict.values():
        nn.init.normal_(predict.weight, std=0.05)
        nn.init.normal_(predict.bias, std=0.3)
    nn.init.normal_(flow.scale.weight, std=0.05)
    model = enlivened(DeepFeatureFlow(reference, ScaledFlowWarp(flow, KeyToCurrent())))
    nn.init.ones_(flow.scale.bias)
    return model


def small_sampling_detector() -> VideoModel:
    """LSTS, with attention to some offsets instead of to all alike."""
    torch.manual_seed(0)
    reference = small_reference()
    network = reference.backbone.network
    sampling = LearnedSampling(network.early, network.early_channels, 16, grid_offsets(1) + 0.3, embedding=8)
    for key, parameter in sampling.named_parameters():
        if key != "offsets":
            nn.init.normal_(parameter, std=0.2)
    return enlivened(DeepFeatureFlow(reference, sampling))


def small_faster_detector() -> VideoModel:
    """Deep Feature Flow on Faster R-CNN, with groups in its 3x3 convolutions."""
    torch.manual_seed(0)
    network = DC5ResNet((1, 1, 1, 1), width=8, groups=4, group_width=16)
    proposing, selection = EdgeProposing(count=40), Selection(0.1, 0.5, 50)
    reference = FasterRCNN(region_features(network, 16), CLASSES, proposing, selection, training_regions=60, width=16)
    first, second = reference.proposal_head, reference.region_head
    layers = (first.conv, 0.1), (first.objects, 0.3), (first.moves, 0.1), (second.classes, 0.5), (second.boxes, 0.3)
    for layer, deviation in layers:
        nn.init.normal_(layer.weight, std=deviation)
    flow = FlowNetSimple(1 / 16)
    for predict in flow.predict.values():
        nn.init.normal_(predict.weight, std=0.2)
    return enlivened(DeepFeatureFlow(reference, ShrinkingFlowWarp(flow, KeyToCurrent())))


def shallow_detector() -> VideoModel:
    """One of few layers, which is quick to optimise."""
    torch.manual_seed(0)
    network = Patches()
    network.out_channels = 8
    propagation = ScaledFlowWarp(FlowAndScale(), KeyToCurrent())
    return enlivened(DeepFeatureFlow(small_reference(network), propagation))
