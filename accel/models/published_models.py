"""The networks of the Accel release, built as in its graphs."""

from __future__ import annotations

from accel.models.backbones.published_resnets import resnet18, resnet34, resnet50, resnet101
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.propagation.flownet_s import FlowNetS
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.video import Accel, AccelShared, DeepFeatureFlow, FrameByFrame, VideoModel

BACKBONES = {"18": resnet18, "34": resnet34, "50": resnet50, "101": resnet101}
VERSIONS = (
    *(f"accel-{depth}" for depth in BACKBONES),
    "dff",
    *(f"deeplab-{depth}" for depth in BACKBONES),
)


def build_published(version: str, num_classes: int = 19) -> VideoModel:
    """Build one of `VERSIONS` with fresh weights. `accel.weights.load_published` fills in the published ones.

    `deeplab-NN` are the branches alone, frame by frame. `dff` is Deep Feature Flow on DeepLab-101. `accel-18`, `-34`
    and `-50` correct it with an update branch of that depth. `accel-101` uses DeepLab-101 for both branches and fuses
    features.

    Raises ValueError for any other version.
    """
    check_version(version)
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


def check_version(version: str) -> None:
    """Raise ValueError for a version that was not published. The message lists the published ones."""
    if version not in VERSIONS:
        raise ValueError(f"no published network {version!r}; there are {', '.join(VERSIONS)}")
