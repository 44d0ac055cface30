"""Make a video model from any model that segments single images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from accel.clock import interleaved
from accel.config import PyramidConfig
from accel.models import AnyModel, build_update
from accel.models.branch import Branch
from accel.models.images import subtract_mean
from accel.models.propagation.classical_flow import DenseInverseSearch
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.segmentation.fusion import ScoreFusion
from accel.models.segmentation.libraries.registered import source_of
from accel.models.segmentation.score_network import ScoreNetwork
from accel.models.video import Accel, DeepFeatureFlow, VideoModel

SHARE = 0.2  # of the reference branch's time: what an update branch may take at most
ROUNDS = 3  # in which branches are timed in turns

# From the best one to the fastest one.
_ON_CPU = (
    ("tu-tf_efficientnet_lite0", 4, 96),  # as in experiments/camvid_lite
    ("tu-tf_efficientnet_lite0", 8, 96),
    ("tu-mobilenetv3_small_100", 8, 64),
    ("tu-mobilenetv3_small_050", 16, 32),
)
# GPUs are slow at depthwise convolutions and fast at dense ones.
_ON_GPU = (("resnet34", 4, 128), ("resnet18", 4, 96), ("resnet18", 8, 96), ("tu-resnet10t", 8, 64))


def accelerate(
    model: nn.Module,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    num_classes: int | None = None,
    update: PyramidConfig | None = None,
    stride: int | None = None,
    flow: nn.Module | None = None,
    size: tuple[int, int] | None = None,
) -> VideoModel:
    """Return a video model whose reference branch is `model`, in evaluation mode, on the model's device.

    It can be used at once: on key frames it says what the model says, and carries that along the motion to the frames
    after them. An update branch corrects the carried scores; it has to be trained first (`accel distil`).

    model: a model of segmentation-models-pytorch, torchvision or transformers; or any module that turns (B, 3, H, W)
        into class scores (B, K, h, w), or into a mapping or an object that holds them as "out" or "logits". It is taken
        over, not copied.
    preprocess: a function that turns frames (B, 3, H, W), RGB, float in 0..255, into what the model expects. None: they
        are scaled as for ImageNet's models.
    num_classes: K. None: as many as the model gives scores for.
    update: the update branch, such as `light_update` chooses. None: there is none (Deep Feature Flow).
    stride: the side of a cell, in pixels, to which finer scores are averaged before they are carried. Set it for a
        model that scores every pixel: carrying those would take long.
    flow: the flow network. None: OpenCV's DIS, which needs no training.

    size: (H, W) of the frames of a model that takes no others. Frames are resized to it.

    Raises ValueError, in one line, for a model that cannot be used.
    """
    place = next(model.parameters(), torch.empty(0)).device
    reference = AnyModel(ScoreNetwork(source_of(model, preprocess, stride, size), num_classes, type(model).__name__))
    classes = reference.backbone.out_channels
    propagation = FlowWarp(DenseInverseSearch() if flow is None else flow)
    if update is None:
        made: VideoModel = DeepFeatureFlow(reference, propagation)
    else:
        made = Accel(reference, propagation, build_update(update, classes), ScoreFusion(classes))
    return made.to(device=place).eval()


def light_updates(device: torch.device, pretrained: bool = True) -> list[PyramidConfig]:
    """Return the update branches that suit a device, from the best one to the fastest one.

    pretrained: whether they start from ImageNet weights.
    """
    return [
        PyramidConfig(name="pyramid", encoder=encoder, stride=stride, channels=channels, pretrained=pretrained)
        for encoder, stride, channels in (_ON_GPU if device.type == "cuda" else _ON_CPU)
    ]


def light_update(
    reference: Branch, num_classes: int, size: tuple[int, int], pretrained: bool = True, share: float = SHARE
) -> tuple[PyramidConfig, float]:
    """Return the best update branch that takes at most a share of the reference branch's time on frames of `size`
    (H, W), and the share that it takes. If none is that fast, return the fastest.

    The branches are timed here, in turns, on the device of the reference branch. pretrained: as in `light_updates`.
    """
    device = next(reference.parameters()).device
    image = subtract_mean(torch.zeros(1, 3, *size, device=device))
    found = None
    for choice in light_updates(device, pretrained):
        # Weights make no difference to the time.
        branch = build_update(choice.model_copy(update={"pretrained": False}), num_classes)
        branch = branch.to(device).eval()
        functions = {"reference": partial(reference, image), "update": partial(branch, image)}
        times = interleaved(functions, ROUNDS, device)
        taken = times["update"] / times["reference"]
        if found is None or taken < found[1]:
            found = choice, taken
        if taken <= share:
            return choice, taken
    assert found is not None
    return found
