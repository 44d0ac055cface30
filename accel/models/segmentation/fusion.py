"""The learned 1x1 fusion of two score maps, or two feature maps (Jain et al., Accel, CVPR 2019, sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from accel.models.segmentation.score_map import ScoreMap


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

    def forward(self, reference: ScoreMap, update: ScoreMap) -> ScoreMap:
        """Fuse two maps (B, K, h, w) into one, at the finer stride of the two.

        If both have the same stride and one is a cell larger at the right or bottom, the result has that larger size.
        """
        assert reference.bias is None and update.bias is None and reference.border == update.border
        stride = min(reference.stride, update.stride)
        sizes = [tuple(m.scores.shape[2:]) for m in (reference, update) if m.stride == stride]
        cells = tuple(map(max, zip(*sizes, strict=True)))
        stacked = torch.cat([m.on_cells(cells, stride) for m in (reference, update)], 1)
        fused = nn.functional.conv2d(stacked, self.correction.weight)
        return ScoreMap(fused, reference.border, self.correction.bias, stride)


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
