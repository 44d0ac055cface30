"""The networks of the Accel and Deep Feature Flow releases, put together as their graphs are, and mmtracking's."""

from __future__ import annotations

from accel.models.backbones.dc5_resnets import dc5_resnet50, dc5_resnet101, dc5_resnext101
from accel.models.backbones.published_resnets import detection_resnet101, resnet18, resnet34, resnet50, resnet101
from accel.models.detection.detections import Selection
from accel.models.detection.faster_rcnn import FasterRCNN, region_features
from accel.models.detection.resizing import OpenCvResizing, Resizing
from accel.models.detection.rfcn import RFCN, FeatureNetwork
from accel.models.propagation.flow_warp import FlowWarp, ScaledFlowWarp, ShrinkingFlowWarp
from accel.models.propagation.flownet_s import FlowNetS, ScaledFlowNetS
from accel.models.propagation.flownet_simple import FlowNetSimple
from accel.models.propagation.learned_sampling import LearnedSampling, gaussian_offsets, grid_offsets
from accel.models.propagation.routes import KeyToCurrent
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.video import Accel, AccelShared, DeepFeatureFlow, FrameByFrame, VideoModel

BACKBONES = {"18": resnet18, "34": resnet34, "50": resnet50, "101": resnet101}
GAUSSIAN_OFFSETS = 40
DETECTORS = ("rfcn", "dff-rfcn", "lsts-rfcn", "lsts-rfcn-gaussian")
MMTRACKING = {  # its detectors, and the networks of their features
    "dff-faster-rcnn-r50": dc5_resnet50,
    "dff-faster-rcnn-r101": dc5_resnet101,
    "dff-faster-rcnn-x101": dc5_resnext101,
}
MXNET_VERSIONS = (
    *(f"accel-{depth}" for depth in BACKBONES),
    "dff",
    *(f"deeplab-{depth}" for depth in BACKBONES),
    *DETECTORS,
)
VERSIONS = (*MXNET_VERSIONS, *MMTRACKING)


def build_published(version: str, num_classes: int | None = None) -> VideoModel:
    """One of `VERSIONS`, with fresh weights (`accel.weights.load_published` fills in the published ones, and
    `accel.weights.load_mmtracking` those of mmtracking).

    `deeplab-NN` are the branches alone, frame by frame; `dff` is Deep Feature Flow on DeepLab-101;
    `accel-18`, `-34` and `-50` correct that with an update branch of their depth; `accel-101` shares
    DeepLab-101 between both branches and fuses features. `rfcn` finds objects frame by frame; `dff-rfcn` is Deep
    Feature Flow on it, `lsts-rfcn` Learnable Spatio-Temporal Sampling, with the two kinds of offsets that its authors
    give (81 that start as a grid, 40 that start normally distributed). `dff-faster-rcnn-r50`, `-r101` and `-x101` are
    mmtracking's: Deep Feature Flow on Faster R-CNN.

    num_classes: by default as published, see `published_classes`. Raises ValueError for any other version.
    """
    check_version(version)
    num_classes = published_classes(version) if num_classes is None else num_classes
    if version in DETECTORS:
        return _detector(version, num_classes)
    if version in MMTRACKING:
        faster = FasterRCNN(region_features(MMTRACKING[version]()), num_classes, resizing=OpenCvResizing())
        return DeepFeatureFlow(faster, ShrinkingFlowWarp(FlowNetSimple(), KeyToCurrent()))
    kind, _, depth = version.partition("-")

    def deeplab(depth: str) -> DeepLab:
        return DeepLab(BACKBONES[depth](), num_classes, border="zero")

    if kind == "deeplab":
        return FrameByFrame(deeplab(depth))
    reference, propagation = deeplab("101"), FlowWarp(FlowNetS())
    if kind == "dff":
        return DeepFeatureFlow(reference, propagation)
    if depth == "101":
        return AccelShared(reference, propagation, FeatureFusion(reference.backbone.out_channels))
    return Accel(reference, propagation, deeplab(depth), ScoreFusion(num_classes))


def _detector(version: str, num_classes: int) -> VideoModel:
    """Frame by frame, detections are told from another probability on, as the test programs have it."""
    backbone = FeatureNetwork(detection_resnet101())
    selection = Selection(1e-3 if version == "rfcn" else 1e-4)
    reference = RFCN(backbone, num_classes, selection=selection, resizing=Resizing())
    if version == "rfcn":
        return FrameByFrame(reference)
    channels = backbone.out_channels
    if version == "dff-rfcn":
        return DeepFeatureFlow(reference, ScaledFlowWarp(ScaledFlowNetS(channels), KeyToCurrent()))
    offsets = grid_offsets() if version == "lsts-rfcn" else gaussian_offsets(GAUSSIAN_OFFSETS)
    network = backbone.network
    return DeepFeatureFlow(reference, LearnedSampling(network.early, network.early_channels, channels, offsets))


def published_classes(version: str) -> int:
    """How many classes a published network has: Cityscapes' 19, or the 30 of ImageNet VID. ValueError as above."""
    check_version(version)
    return 30 if version in (*DETECTORS, *MMTRACKING) else 19


def check_version(version: str) -> None:
    """Raise ValueError for a version that was not published. The message lists the published ones."""
    if version not in VERSIONS:
        raise ValueError(f"no published network {version!r}; there are {', '.join(VERSIONS)}")
