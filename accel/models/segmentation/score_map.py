"""Score maps: the class logits of the cells of a frame, and how they become full-size labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import accel_ops
import torch
import torch.nn.functional as F
from accel_ops.reference import check_frame_size
from torch import Tensor

from accel.models.prediction import Labels, LabelsAndConfidence, Prediction
from accel.models.strides import STRIDE

Border = Literal["replicate", "zero"]


@dataclass(frozen=True)
class ScoreMap(Prediction):
    """Class logits before upsampling, with the settings that bring them to full size.

    scores: (B, K, h, w).
    border: the values outside the map for the fixed bilinear upsampling. "replicate" repeats the outermost cells
        (`F.interpolate(align_corners=False)`). "zero" is the published transposed convolution (kernel 32, stride 16,
        cropped by 8), which fades to zero over the outermost 8 pixels.
    bias: (K,), added after upsampling, or None.
    stride: pixels of the frame along the side of a cell: 2, 4, 8, 16 or 32.

    The upsampled pixel (x, y) samples the map at ((x + 0.5) / stride - 0.5, (y + 0.5) / stride - 0.5). If the frame's
    sides are not multiples of the stride, the map covers the frame and a little more. The surplus is cropped at the
    right and bottom. At some sizes, the maps of published networks end one cell earlier or later (see
    `backbones.published_resnets`). A map may therefore be one cell smaller or larger than ceil(size / stride).
    """

    scores: Tensor
    border: Border = "replicate"
    bias: Tensor | None = None
    stride: int = STRIDE

    def upsample(self, size: tuple[int, int]) -> Tensor:
        """Return full-size logits (B, K, H, W), differentiable, for the loss. Inference uses `labels`."""
        check_frame_size((self.scores.shape[2], self.scores.shape[3]), size, self.stride)
        full = _interpolated(self.scores, size, self.stride, self.border)
        return full if self.bias is None else full + self.bias.to(full.dtype).view(-1, 1, 1)

    def on_cells(self, cells: tuple[int, int], stride: int) -> Tensor:
        """Return the scores, without the bias, at the cells (h', w') of another map of the frame: (B, K, h', w').

        stride: the stride of the other map. It may be the same, with a map that is one cell larger at the right and
            bottom, or a finer one.
        """
        if stride != self.stride:
            return _interpolated(self.scores, cells, self.stride // stride, self.border)
        missing = (0, cells[1] - self.scores.shape[3], 0, cells[0] - self.scores.shape[2])
        if not any(missing):
            return self.scores
        mode = "constant" if self.border == "zero" else "replicate"
        return F.pad(self.scores, missing, mode)

    def at(self, size: tuple[int, int]) -> Labels:
        """Return `labels` as a named tuple."""
        return Labels(self.labels(size))

    def with_confidence_at(self, size: tuple[int, int]) -> LabelsAndConfidence:
        """Return `labels_and_margin` as a named tuple."""
        return LabelsAndConfidence(*self.labels_and_margin(size))

    def labels(self, size: tuple[int, int]) -> Tensor:
        """Return class indices (B, H, W), uint8. A tie goes to the lower class. Full-size logits are never stored."""
        return accel_ops.upsample_argmax(self.scores, size, self.bias, self.border, self.stride)

    def labels_and_margin(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return `labels` and their confidence.

        The confidence is the highest logit less the second highest, (B, H, W), float32, without a gradient. It is zero
        at a tie, and +inf with one class. Full-size logits are never stored.
        """
        return accel_ops.upsample_argmax_margin(self.scores, size, self.bias, self.border, self.stride)


def _interpolated(scores: Tensor, size: tuple[int, int], stride: int, border: Border) -> Tensor:
    """Interpolate scores (B, K, h, w) at the centres of cells that are finer by the factor `stride`: (B, K, *size), at
    least float32."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    down, across = (_weights(n, s, stride, border, scores) for n, s in zip(scores.shape[2:], size, strict=True))
    # Under autocast the products would fall back to half precision, which shifts class borders.
    with torch.autocast(scores.device.type, enabled=False):
        return down @ (scores @ across.T)


def _weights(cells: int, pixels: int, stride: int, border: Border, like: Tensor) -> Tensor:
    """Return the matrix (pixels, cells) of bilinear weights from the cells to the pixels of one axis."""
    position = (torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) / stride - 0.5
    if border == "replicate":
        position = position.clamp(0, cells - 1)
    centre = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (position[:, None] - centre).abs()).clamp_min(0)
