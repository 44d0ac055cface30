"""Learn from the reference branch itself, on videos without labels."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.images import subtract_mean
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.segmentation.score_map import ScoreMap
from accel.models.video import DeepFeatureFlow, VideoModel
from accel.reductions import shared_count
from accel.tasks.segmentation import CrossEntropy

if TYPE_CHECKING:
    from accel.config import DistillationConfig

COARSER = 4  # pixels along the side of those that the photometric loss compares
ROUND_OFF = 1e-6  # under the square root of the photometric loss (Charbonnier)
SMOOTH = 0.1  # weight of the smoothness of the flow, against the photometric loss
EDGES = 10.0  # how fast that weight falls where the picture changes, per range of brightness


class DistillationObjective(nn.Module):
    """How far the model's scores of a clip's last frame are from those that its reference branch gives for that frame.

    Nobody has to label anything: the reference branch is frozen, and what it says of the last frame itself is the
    target for what propagation, update branch and fusion make of an older key frame. Each cell counts as much as the
    reference branch is sure of it.

    model: a Deep Feature Flow or Accel model for segmentation, whose reference branch is frozen.
    settings: the weights of further losses.

    Raises ValueError for other models, and for settings that this model has no use for.
    """

    def __init__(self, model: VideoModel, settings: DistillationConfig):
        super().__init__()
        if not isinstance(model, DeepFeatureFlow) or model.task != "segmentation":
            raise ValueError(
                "train.loss distillation: needs a segmentation model that propagates (accel, accel_shared or "
                f"deep_feature_flow); this is {type(model).__name__} for {model.task}"
            )
        if any(parameter.requires_grad for parameter in model.reference.parameters()):
            raise ValueError("train.loss distillation: expected `reference` in train.freeze, because it is the teacher")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "train.loss distillation: nothing in this model can learn; expected an update branch or a flow network"
            )
        flow = getattr(model.propagation, "flow", None)
        learns_flow = flow is not None and any(parameter.requires_grad for parameter in flow.parameters())
        if settings.photometric and not learns_flow:
            raise ValueError("train.loss.photometric: this model has no flow network that learns; expected 0")
        self.model, self.settings = model, settings
        self.labelled = CrossEntropy()

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Return the scalar loss of clips (B, T, 3, H, W), T at least 2. labels: (B, H, W), used only if
        `settings.labels` is above 0. refreshed: as in `VideoModel.forward`."""
        if frames.shape[1] < 2:
            raise ValueError("train.loss distillation: expected data.clip_length of 2 or more")
        model: Any = self.model
        last = frames[:, -1]
        with torch.no_grad():
            target = model.reference(model.reference.seen(last))
        with Heard(model) as heard:
            said = model(frames, refreshed)
        loss = disagreement(said, target)
        if heard.update is not None and self.settings.update:
            loss = loss + self.settings.update * disagreement(heard.update, target)
        if self.settings.photometric:
            now, before = (subtract_mean(frames[:, t]) for t in (-1, -2))
            loss = loss + self.settings.photometric * photometric(model.propagation.flow(now, before), now, before)
        if said.fresh is not None and heard.carried is not None and self.settings.freshness:
            share = share_alike(heard.carried, target)
            with torch.autocast(share.device.type, enabled=False):
                loss = loss + self.settings.freshness * F.binary_cross_entropy(said.fresh.float(), share)
        if self.settings.labels and labels is not None:
            size = int(labels.shape[1]), int(labels.shape[2])
            loss = loss + self.settings.labels * self.labelled(said.upsample(size), labels)
        return loss


class Heard:
    """What the fusion of an Accel model was given last, while this context is open.

    carried: the scores that propagation brought. None if there was no fusion of scores.
    update: those of the update branch.
    """

    def __init__(self, model: nn.Module):
        self.fusion = getattr(model, "fusion", None) if hasattr(model, "update") else None
        self.carried: ScoreMap | None = None
        self.update: ScoreMap | None = None

    def __enter__(self) -> Heard:
        if self.fusion is not None:
            self._hook = self.fusion.register_forward_pre_hook(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self.fusion is not None:
            self._hook.remove()

    def _hear(self, module: nn.Module, given: tuple) -> None:
        self.carried, self.update = given[:2]


class SameCells(NamedTuple):
    """Logits of two maps on the same cells. student, teacher: (B, K, h, w), float32."""

    student: Tensor
    teacher: Tensor


def on_same_cells(student: ScoreMap, teacher: ScoreMap) -> SameCells:
    """Bring two maps of a frame to the cells of the finer one."""
    stride = min(student.stride, teacher.stride)
    sizes = [tuple(m.scores.shape[2:]) for m in (student, teacher) if m.stride == stride]
    cells = tuple(map(max, zip(*sizes, strict=True)))
    logits = []
    for each in (student, teacher):
        scores = each.on_cells((cells[0], cells[1]), stride).float()
        logits.append(scores if each.bias is None else scores + each.bias.float().view(-1, 1, 1))
    return SameCells(*logits)


def disagreement(student: ScoreMap, teacher: ScoreMap) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's class probabilities from the teacher's (Hinton et al.,
    "Distilling the knowledge in a neural network", 2015, without a temperature), as a mean over the cells.

    A cell's weight is the teacher's highest probability there. The result is 0 if both say the same.
    """
    logits = on_same_cells(student, teacher)
    # Under autocast these sums would fall back to half precision.
    with torch.autocast(logits.student.device.type, enabled=False):
        expected = logits.teacher.log_softmax(1)
        apart = F.kl_div(logits.student.log_softmax(1), expected, reduction="none", log_target=True).sum(1)
        sure = expected.amax(1).exp()
        return (sure * apart).sum() / shared_count(sure.sum())


@torch.no_grad()
def share_alike(carried: ScoreMap, fresh: ScoreMap) -> Tensor:
    """Return the share of a frame's cells to which both maps give the same class: (B,), float32."""
    first, second = on_same_cells(carried, fresh)
    return (first.argmax(1) == second.argmax(1)).float().mean((1, 2))


def photometric(flow: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """Return how badly a frame, moved along the flow, matches the one after it, plus how uneven the flow is where the
    picture is even (as in Jason, Harley and Derpanis, "Back to basics", ECCV Workshops 2016, and Meister et al.,
    UnFlow, AAAI 2018).

    flow: (B, 2, h, w) in cells of 16 pixels, or a pair that begins with it.
    now, before: frames (B, 3, H, W), RGB minus the mean.
    """
    flow = (flow if isinstance(flow, Tensor) else flow[0]).float()
    now, before = (F.avg_pool2d(x.float() / 255, COARSER, ceil_mode=True) for x in (now, before))
    moved = FlowWarp.move(before, flow)
    inside = FlowWarp.move(torch.ones_like(before[:, :1]), flow).detach()
    apart = ((moved - inside * now).square() + ROUND_OFF).sqrt().mean(1, keepdim=True)
    picture = F.adaptive_avg_pool2d(now, (int(flow.shape[2]), int(flow.shape[3])))
    uneven = torch.zeros_like(apart).sum()
    for axis in (2, 3):
        edges = _steps(picture, axis).abs().mean(1)
        uneven = uneven + (_steps(flow, axis).abs().mean(1) * (-EDGES * edges).exp()).mean()
    return apart.sum() / shared_count(inside.sum()) + SMOOTH * uneven


def _steps(x: Tensor, axis: int) -> Tensor:
    """Return the difference of each cell to the next one along an axis. It is zero if there is only one cell."""
    return x.diff(dim=axis) if x.shape[axis] > 1 else torch.zeros_like(x)
