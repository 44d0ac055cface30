"""Score maps: class logits at 1/16 of the frame, and how they become full-size labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import accel_ops
import torch
from accel_ops.reference import STRIDE, check_frame_size
from torch import Tensor

from accel.models.prediction import Labels, LabelsAndConfidence, Prediction

Border = Literal["replicate", "zero"]


@dataclass(frozen=True)
class ScoreMap(Prediction):
    """Class logits before upsampling, with what it takes to bring them to full size.

    scores: (B, K, h, w).
    border: what fixed bilinear x16 upsampling sees outside the map. "replicate" repeats the outermost cells
        (`F.interpolate(align_corners=False)`); "zero" is the published transposed convolution (kernel 32,
        stride 16, cropped by 8), which fades to zero over the outermost 8 pixels.
    bias:   (K,) added after upsampling, or None.

    Upsampled pixel (x, y) samples the map at ((x + 0.5) / 16 - 0.5, (y + 0.5) / 16 - 0.5): maps of frames that
    are no multiple of 16 cover the frame and a little more, and what is over is cut off at the right and bottom.
    Published networks end a cell earlier or later at some sizes (see `backbones.published_resnets`): a map may be one
    cell smaller or larger than ceil(size / 16).
    """

    scores: Tensor
    border: Border = "replicate"
    bias: Tensor | None = None

    def upsample(self, size: tuple[int, int]) -> Tensor:
        """Full-size logits (B, K, H, W), differentiable: for the loss. Inference takes `labels`."""
        scores = self.scores
        check_frame_size(scores.shape[2:], size)
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        down, across = (_interpolation(n, s, self.border, scores) for n, s in zip(scores.shape[2:], size, strict=True))
        # Under autocast the products would fall back to half precision, which shifts class borders.
        with torch.autocast(scores.device.type, enabled=False):
            full = down @ (scores @ across.T)
        return full if self.bias is None else full + self.bias.to(full.dtype).view(-1, 1, 1)

    def at(self, size: tuple[int, int]) -> Labels:
        """`labels`."""
        return Labels(self.labels(size))

    def with_confidence_at(self, size: tuple[int, int]) -> LabelsAndConfidence:
        """`labels_and_margin`."""
        return LabelsAndConfidence(*self.labels_and_margin(size))

    def labels(self, size: tuple[int, int]) -> Tensor:
        """(B, H, W) uint8 class indices; a tie goes to the lower class. Never holds full-size logits."""
        return accel_ops.upsample_argmax(self.scores, size, self.bias, self.border)

    def labels_and_margin(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`labels`, and how sure they are: the highest logit less the second highest, (B, H, W) float32 without a
        gradient. Zero at a tie, +inf with one class. Never holds full-size logits either.
        """
        return accel_ops.upsample_argmax_margin(self.scores, size, self.bias, self.border)


def _interpolation(cells: int, pixels: int, border: Border, like: Tensor) -> Tensor:
    """(pixels, cells) matrix of bilinear weights from the cells to the pixels of one axis."""
    position = (torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) / STRIDE - 0.5
    if border == "replicate":
        position = position.clamp(0, cells - 1)
    centre = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (position[:, None] - centre).abs()).clamp_min(0)
