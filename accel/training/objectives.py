"""Training objectives. An objective holds the model and turns a batch into one loss.

Objectives take the tensors of a batch as separate arguments, because Fabric moves and casts what it passes on. They
also take `refreshed`, the frames after the first that are key frames too (see `training.refreshing`). Objectives that
belong to a task are in `accel.tasks`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.images import subtract_mean
from accel.models.strides import STRIDE
from accel.models.video import VideoModel
from accel.reductions import shared_count
from accel.tasks.task import Task
from accel.training.distillation import DistillationObjective

if TYPE_CHECKING:
    from accel import config as c


def build_objective(config: c.TrainConfig, model: VideoModel, task: Task) -> nn.Module:
    """Build the objective that `train.loss` names: that of the flow network, the reference branch's own labels, or one
    of the task's."""
    if config.loss.name == "distillation":
        return DistillationObjective(model, config.loss)
    return FlowObjective(model) if config.loss.name == "flow" else task.objective(model, config.loss)


class FlowObjective(nn.Module):
    """Multi-scale end-point error of the flow network (Dosovitskiy et al., ICCV 2015), in feature cells.

    The error of each level is a mean over the cells whose true flow is known. Finer levels have more weight.
    """

    LEVEL_WEIGHTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # coarse to fine

    def __init__(self, model: VideoModel):
        super().__init__()
        flow = getattr(getattr(model, "propagation", None), "flow", None)
        if not hasattr(flow, "pyramid"):
            raise ValueError("train.loss flow needs a model with a trainable flow network (deep_feature_flow, accel)")
        self.model: Any = model

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Return the scalar loss of clips (B, T, 3, H, W) with exact flow (B, T-1, 2, H, W), over all neighbouring
        frames.

        Key frames play no role in it.
        """
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
        return torch.stack(errors).sum()


def flow_in_cells(flow: Tensor, stride: int = STRIDE) -> Tensor:
    """Turn pixel flow (N, 2, H, W), NaN if unknown, into cell flow (N, 2, ceil(H/16), ceil(W/16)) in cells.

    The flow of a cell is the mean over its known pixels, or NaN if less than half of them are known.
    """
    return _nan_mean(flow, stride) / stride


def end_point_error(flow: Tensor, target: Tensor) -> Tensor:
    """Return the mean length of the difference of two flows (N, 2, h, w), over the cells whose target is known."""
    known = ~target.isnan().any(1)
    difference = torch.where(known[:, None], flow - target, torch.zeros_like(flow))
    # The square root has no gradient at 0.
    length = (difference.square().sum(1) + 1e-12).sqrt()
    return (length * known).sum() / shared_count(known.sum())


def _pool(target: Tensor, size: torch.Size) -> Tensor:
    """Reduce the cell flow at 1/16 to a coarser level of `size`."""
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
