"""One small model of every kind, with random weights that hide no mistake, and clips for them."""

from __future__ import annotations

import torch
from torch import nn

from accel.config import parse_model
from accel.models import (
    Accel,
    AccelShared,
    DeepFeatureFlow,
    DeepLab,
    FlowNetS,
    FlowWarp,
    FrameByFrame,
    LearnedSampling,
    ScoreMap,
    VideoModel,
    build_model,
)
from accel.models.backbones.published_resnets import PreActResNet, ResNetV1
from accel.models.images import subtract_mean
from accel.models.propagation.flow_warp import ScaledFlowWarp
from accel.models.propagation.learned_sampling import grid_offsets
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion

CLASSES = 5
SIZE = (64, 96)
# timm's own network for tests, a ResNet of four blocks
BRANCH = {"encoder": "tu-test_resnet", "head_channels": 8}
WITH_FLOW = {
    "frame_by_frame": {"reference": BRANCH},
    "deep_feature_flow": {"reference": BRANCH, "flow": {"width": 1 / 16}},
    "accel": {"reference": BRANCH, "update": BRANCH, "flow": {"width": 1 / 16}},
    "accel_shared": {"reference": BRANCH, "flow": {"width": 1 / 16}},
    "accel_pyramid": {
        "name": "accel",
        "reference": {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": 8},
        "update": {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": 4},
        "flow": {"width": 1 / 8},
    },
}
WITHOUT_FLOW = {
    "learned_sampling": {
        "name": "deep_feature_flow",
        "reference": BRANCH,
        "propagation": {"name": "learned_sampling", "embedding": 8, "radius": 2},
    },
    "accel_learned_sampling": {
        "name": "accel",
        "reference": BRANCH,
        "update": BRANCH,
        "propagation": {"name": "learned_sampling", "embedding": 8, "encoder": "tu-test_resnet", "update_ratio": 0.5},
    },
}
CONFIGURED = WITH_FLOW | WITHOUT_FLOW
PUBLISHED = ("published_accel", "published_shared", "published_18")
ALL = (*CONFIGURED, *PUBLISHED)


def make(name: str) -> VideoModel:
    """One of `ALL`: with a flow of some cells instead of next to none, so that warping matters; with attention to some
    offsets instead of to all alike."""
    torch.manual_seed(0)
    if name in PUBLISHED:
        return _published(name)
    model = build_model(parse_model({"name": name, "num_classes": CLASSES, **CONFIGURED[name]}, "test"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm's residual blocks start as the identity, with zeros in their last one
    for key, parameter in model.named_parameters():
        if "flow.predict" in key:
            nn.init.normal_(parameter, std=0.05 if parameter.dim() > 1 else 0.3)
        if ".embed_" in key or ".low_to_high." in key:
            nn.init.normal_(parameter, std=0.1)
    return model


def _published(name):
    """The release's architectures, narrow."""

    def deeplab(backbone):
        return DeepLab(backbone, CLASSES, 16, border="zero")

    flow = FlowWarp(FlowNetS(1 / 16))
    for predict in flow.flow.predict.values():
        nn.init.normal_(predict.weight, std=0.05)
        nn.init.normal_(predict.bias, std=0.3)
    reference = deeplab(ResNetV1((1, 1, 1, 1), 1, 1, width=4))
    if name == "published_shared":
        return AccelShared(reference, flow, FeatureFusion(reference.backbone.out_channels))
    update = deeplab(PreActResNet((1, 1, 1, 2), width=4, out_channels=24))
    if name == "published_18":
        return FrameByFrame(update)
    return Accel(reference, flow, update, ScoreFusion(CLASSES))


class Patches(nn.Conv2d):
    """A backbone of one layer, which is quick to trace."""

    def __init__(self):
        super().__init__(3, 8, 16, 16)

    def forward(self, image):
        height, width = image.shape[2:]
        return super().forward(nn.functional.pad(image / 255, (0, -width % 16, 0, -height % 16)))


class FlowOfPatches(Patches):
    def forward(self, current, previous):
        return 0.1 * super().forward(current - previous)[:, :2]


class FlowAndScale(Patches):
    def forward(self, current, previous):
        made = super().forward(current - previous)
        return 0.1 * made[:, :2], made[:, 2:3].sigmoid()


def small(name: str, classes: int = CLASSES) -> VideoModel:
    """A model of few layers, which is quick to optimise."""
    torch.manual_seed(0)
    deeplab = DeepLab(Patches(), classes, 8)
    sampling = LearnedSampling(Patches(), 8, 8, grid_offsets(1), embedding=8)
    update = DeepLab(Patches(), classes, 8)
    return {
        "deep_feature_flow": lambda: DeepFeatureFlow(deeplab, FlowWarp(FlowOfPatches())),
        "accel": lambda: Accel(deeplab, FlowWarp(FlowOfPatches()), update, ScoreFusion(classes)),
        "learned_sampling": lambda: DeepFeatureFlow(deeplab, sampling),
        "shared_sampling": lambda: AccelShared(deeplab, sampling, FeatureFusion(8)),
        "scaled_flow": lambda: DeepFeatureFlow(deeplab, ScaledFlowWarp(FlowAndScale())),
    }[name]()


def lively(name: str) -> VideoModel:
    """The model of this name, `enlivened`."""
    return enlivened(make(name))


def enlivened(model: VideoModel) -> VideoModel:
    """The model with batch norms and biases as after training: none that would hide a mistake."""
    generator = torch.Generator().manual_seed(2)

    def random(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(random(module.running_mean, -0.3, 0.3))
            module.running_var.copy_(random(module.running_var, 0.5, 2))
            if module.affine:
                module.weight.data.copy_(random(module.weight, 0.5, 1.5))
                module.bias.data.copy_(random(module.bias, -0.3, 0.3))
        elif isinstance(module, nn.Conv2d) and module.bias is not None and module.bias.numel() > 2:
            module.bias.data.copy_(random(module.bias, -0.2, 0.2))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def standardise_scores(branch: DeepLab, size: tuple[int, int]) -> None:
    """Makes every class the likeliest one somewhere on noise of this size, on which a network with random weights says
    the same everywhere: moves and scales the scores to mean 0 and standard deviation 1."""
    branch.eval()
    deviation, mean = torch.std_mean(branch(subtract_mean(clip_of(size, 1)[:, 0])).scores, (0, 2, 3))
    branch.score_layer.weight /= deviation.view(-1, 1, 1, 1)
    branch.score_layer.bias.sub_(mean).div_(deviation)


def clip_of(size: tuple[int, int], frames: int = 4, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """(batch, frames, 3, *size): noise, as bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8, generator=generator)


def scores_of(model: VideoModel, clip: torch.Tensor) -> list[ScoreMap]:
    """Of each frame; the first one is the key frame."""
    with torch.inference_mode():
        scores, state = model.key_frame(clip[:, 0])
        maps = [scores]
        for t in range(1, clip.shape[1]):
            scores, state = model.next_frame(clip[:, t], state)
            maps.append(scores)
    return maps


def assert_same(got: list[ScoreMap], expected: list[ScoreMap], tolerance: float) -> None:
    """Within `tolerance` times the scores' standard deviation."""
    for a, b in zip(got, expected, strict=True):
        assert a.scores.dtype == torch.float32 and (a.border, a.stride) == (b.border, b.stride)
        spread = float(b.scores.std())
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=tolerance * spread)
