"""What training makes small. An objective holds the model and turns a batch into one loss.

Objectives take a batch's tensors one by one, because Fabric moves and casts what it passes on; and `refreshed`, which
frames after the first are key frames too (see `training.refreshing`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.labels import IGNORED
from accel.models.images import subtract_mean
from accel.models.segmentation.score_map import STRIDE
from accel.models.video import VideoModel
from accel.training.reductions import shared_count

if TYPE_CHECKING:
    from accel import config as c


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled pixels; with weights (K,), their mean weighted by the true class."""

    def __init__(self, class_weights: Sequence[float] | None = None):
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, H, W) and labels (B, H, W) to a scalar; 0 where nothing is labelled."""
        weights = self.class_weights
        if weights is not None:
            weights = weights.to(logits.dtype)
        total = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORED, reduction="sum")
        if weights is None:
            return total / shared_count((labels != IGNORED).sum())
        counts = torch.bincount(labels.flatten(), minlength=IGNORED + 1)[: len(weights)]
        return total / shared_count((counts * weights).sum())


class OnlineHardExamples(nn.Module):
    """Cross-entropy over hard pixels: those whose true class has a probability under `threshold`, and in any case
    the hardest `min_kept` share (Shrivastava et al., CVPR 2016, per pixel). Of several processes each picks its own."""

    def __init__(self, threshold: float, min_kept: float):
        super().__init__()
        self.threshold, self.min_kept = threshold, min_kept

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, H, W) and labels (B, H, W) to a scalar; 0 where nothing is labelled."""
        losses = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")
        losses = losses[labels != IGNORED]
        hard = losses > -torch.log(torch.tensor(self.threshold))
        kept = min(max(int(hard.sum()), int(self.min_kept * len(losses)), 1), len(losses))
        return losses.topk(kept).values.sum() / shared_count(torch.tensor(kept, device=logits.device))


class SegmentationObjective(nn.Module):
    """The clip's last frame, labelled by the whole model end to end."""

    def __init__(self, model: VideoModel, loss: nn.Module):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Scalar loss of clips (B, T, 3, H, W) with labels (B, H, W). refreshed: as in `VideoModel.forward`."""
        if labels is None:
            raise ValueError("train.loss: these clips have no labels to train on")
        scores = self.model(frames, refreshed)
        return self.loss(scores.upsample(tuple(labels.shape[1:])), labels)


class FlowObjective(nn.Module):
    """Multi-scale end-point error of the flow network (Dosovitskiy et al., ICCV 2015), in feature cells.

    Each level's error is a mean over the cells whose true flow is known; finer levels weigh more.
    """

    LEVEL_WEIGHTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # coarse to fine

    def __init__(self, model: VideoModel):
        super().__init__()
        flow = getattr(getattr(model, "propagation", None), "flow", None)
        if not hasattr(flow, "pyramid"):
            raise ValueError("train.loss flow needs a model with a trainable flow network (deep_feature_flow, accel)")
        self.model = model

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Scalar loss of clips (B, T, 3, H, W) with exact flow (B, T-1, 2, H, W), over all neighbouring frames; key
        frames have no part in it."""
        if flow is None:
            raise ValueError("train.loss: these clips have no exact flow to train on")
        current = subtract_mean(frames[:, 1:].flatten(0, 1))
        previous = subtract_mean(frames[:, :-1].flatten(0, 1))
        target = flow_in_cells(flow.flatten(0, 1))  # (B * (T - 1), 2, h, w)
        levels = self.model.propagation.flow.pyramid(current, previous)
        errors = [
            weight * end_point_error(level.float(), _pool(target, level.shape[-2:]))
            for weight, level in zip(self.LEVEL_WEIGHTS, levels, strict=True)
        ]
        return sum(errors)


def flow_in_cells(flow: Tensor, stride: int = STRIDE) -> Tensor:
    """Pixel flow (N, 2, H, W), NaN where unknown, to the flow of cells (N, 2, ceil(H/16), ceil(W/16)) in cells:
    the mean of what is known in each, NaN where that is less than half."""
    return _nan_mean(flow, stride) / stride


def end_point_error(flow: Tensor, target: Tensor) -> Tensor:
    """Mean length of the difference of two flows (N, 2, h, w), over the cells where the target is known."""
    known = ~target.isnan().any(1)
    difference = torch.where(known[:, None], flow - target, torch.zeros_like(flow))
    # The square root has no gradient at 0.
    length = (difference.square().sum(1) + 1e-12).sqrt()
    return (length * known).sum() / shared_count(known.sum())


def _pool(target: Tensor, size: torch.Size) -> Tensor:
    """Cell flow at 1/16 brought to a coarser level of `size`."""
    factor = 1
    while -(-target.shape[-2] // factor) > size[0] or -(-target.shape[-1] // factor) > size[1]:
        factor *= 2
    return target if factor == 1 else _nan_mean(target, factor)


def _nan_mean(x: Tensor, kernel: int) -> Tensor:
    known = ~x.isnan().any(1, keepdim=True)
    values = torch.where(known, x, torch.zeros_like(x))
    share = F.avg_pool2d(known.to(x.dtype), kernel, ceil_mode=True)
    mean = F.avg_pool2d(values, kernel, ceil_mode=True) / share.clamp_min(1e-6)
    return torch.where(share >= 0.5, mean, torch.full_like(mean, float("nan")))


def build_objective(config: c.TrainConfig, model: VideoModel) -> nn.Module:
    """The objective that `train.loss` names."""
    loss = config.loss
    builders = {
        "cross_entropy": lambda: SegmentationObjective(model, CrossEntropy(loss.class_weights)),
        "ohem": lambda: SegmentationObjective(model, OnlineHardExamples(loss.threshold, loss.min_kept)),
        "flow": lambda: FlowObjective(model),
    }
    return builders[loss.name]()
