"""The learned 1x1 fusion of two score maps, or two feature maps (Jain et al., Accel, CVPR 2019, sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accel.models.segmentation.score_map import ScoreMap

EVIDENCE = 4  # numbers for each cell
FULL_CHANGE = 32.0  # grey levels of change that count as 1


class ScoreFusion(nn.Module):
    """A 1x1 convolution over the stacked scores of reference and update branch.

    It is applied to the cells of the scores. The published order is the other one: upsample first. Both steps are
    linear, and the upsampling treats all classes alike, so the order makes no difference. Only the bias has to wait
    until after upsampling. If the maps have cells of different sizes, the coarser map is first brought to the cells of
    the finer one.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.correction = nn.Conv2d(2 * num_classes, num_classes, 1)
        _start_from_mean(self.correction)

    def forward(
        self, reference: ScoreMap, update: ScoreMap, image: Tensor | None = None, before: Tensor | None = None
    ) -> ScoreMap:
        """Fuse two maps (B, K, h, w) into one, at the finer stride of the two.

        image, before: the frame and the one before, (B, 3, H, W), RGB minus the mean, for fusions that look at them.

        If both have the same stride and one is a cell larger at the right or bottom, the result has that larger size.
        """
        assert reference.bias is None and update.bias is None and reference.border == update.border
        stride = min(reference.stride, update.stride)
        sizes = [tuple(m.scores.shape[2:]) for m in (reference, update) if m.stride == stride]
        cells = tuple(map(max, zip(*sizes, strict=True)))
        old, new = (m.on_cells((cells[0], cells[1]), stride) for m in (reference, update))
        stacked = torch.cat(self._weighted(old, new, image, before), 1)
        fused = nn.functional.conv2d(stacked, self.correction.weight)
        return ScoreMap(fused, reference.border, self.correction.bias, stride)

    def _weighted(self, old: Tensor, new: Tensor, image: Tensor | None, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the scores (B, K, h, w) of both branches with the weights that they have in each cell."""
        return old, new


class EvidenceFusion(ScoreFusion):
    """A `ScoreFusion` that weights both branches in each cell by evidence that costs nothing: how sure each of them is,
    how far they differ, and how much the picture has changed since the frame before.

    It starts as a `ScoreFusion`: both weights are 1.
    """

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.gate = nn.Conv2d(EVIDENCE, 1, 1)
        nn.init.zeros_(self.gate.weight)
        assert self.gate.bias is not None
        nn.init.zeros_(self.gate.bias)

    def _weighted(self, old, new, image, before):
        share = self.gate(_evidence(old, new, image, before)).sigmoid()  # (B, 1, h, w), of the reference branch
        return 2 * share * old, 2 * (1 - share) * new


@torch.no_grad()
def _evidence(old: Tensor, new: Tensor, image: Tensor | None, before: Tensor | None) -> Tensor:
    """Return the evidence for each cell, (B, `EVIDENCE`, h, w), each about 0..1."""
    first, second = old.softmax(1), new.softmax(1)
    apart = 0.5 * (first - second).abs().sum(1, keepdim=True)
    change = torch.zeros_like(apart)
    if image is not None and before is not None:
        cells = int(old.shape[2]), int(old.shape[3])
        moved = nn.functional.adaptive_avg_pool2d((image - before).abs().mean(1, keepdim=True), cells)
        change = (moved / FULL_CHANGE).to(apart.dtype)
    return torch.cat([_margin(first), _margin(second), apart, change], 1)


def _margin(chances: Tensor) -> Tensor:
    """Return by how much the most probable class is ahead of the next: (B, 1, h, w)."""
    if chances.shape[1] == 1:
        return chances
    best = chances.topk(2, 1).values
    return best[:, :1] - best[:, 1:]


class FeatureFusion(nn.Module):
    """A 1x1 convolution over the stacked features of reference and update branch (Accel-101)."""

    def __init__(self, channels: int):
        super().__init__()
        self.correction = nn.Conv2d(2 * channels, channels, 1)
        _start_from_mean(self.correction)

    def forward(self, reference: Tensor, update: Tensor) -> Tensor:
        """Fuse two maps (B, C, h, w) into one."""
        return self.correction(torch.cat([reference, stretched(update, reference)], 1))


def stretched(update: Tensor, reference: Tensor) -> Tensor:
    """Stretch the update branch's map to the size of the reference branch's map.

    At some frame sizes the flow has stretched published features by one cell (see `flow_warp._stretch`).
    """
    if update.shape == reference.shape:
        return update
    return nn.functional.interpolate(update, reference.shape[2:], mode="bilinear", align_corners=True)


def _start_from_mean(correction: nn.Conv2d) -> None:
    """Start with the mean of both branches. It is at once as good as their ensemble, and training can change it from
    there."""
    half = 0.5 * torch.eye(correction.out_channels)
    correction.weight.data.copy_(torch.cat([half, half], 1)[:, :, None, None])
    assert correction.bias is not None
    nn.init.zeros_(correction.bias)
