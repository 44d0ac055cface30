"""Score maps: class logits at 1/16 of the frame, and how they become full-size labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STRIDE = 16
STRIP = 64  # rows of full-size scores held at a time while labels are made

Border = Literal["replicate", "zero"]


@dataclass(frozen=True)
class ScoreMap:
    """Class logits before upsampling, with what it takes to bring them to full size.

    scores: (B, K, h, w).
    border: what fixed bilinear x16 upsampling sees outside the map. "replicate" repeats the outermost cells
        (`F.interpolate(align_corners=False)`); "zero" is the published transposed convolution (kernel 32,
        stride 16, cropped by 8), which fades to zero over the outermost 8 pixels.
    bias:   (K,) added after upsampling, or None.

    Upsampled pixel (x, y) samples the map at ((x + 0.5) / 16 - 0.5, (y + 0.5) / 16 - 0.5): maps of frames that
    are no multiple of 16 cover the frame and a little more, and what is over is cut off at the right and bottom.
    Published networks end a cell earlier or later at some sizes (see `backbones.published`): a map may be one
    cell smaller or larger than ceil(size / 16).
    """

    scores: Tensor
    border: Border = "replicate"
    bias: Tensor | None = None

    def upsample(self, size: tuple[int, int]) -> Tensor:
        """Full-size logits (B, K, H, W), differentiable: for the loss. Inference takes `labels`."""
        return self._rows(self._columns(size), size, 0, size[0])

    @torch.no_grad()
    def labels(self, size: tuple[int, int]) -> Tensor:
        """(B, H, W) uint8 class indices; a tie goes to the lower class. Never holds full-size logits."""
        wide = self._columns(size)
        strips = range(0, size[0], STRIP)
        rows = [self._rows(wide, size, y, min(y + STRIP, size[0])).argmax(1).to(torch.uint8) for y in strips]
        return torch.cat(rows, 1)

    def _columns(self, size: tuple[int, int]) -> Tensor:
        """The scores at full width, (B, K, h, W)."""
        scores = self.scores
        cells = tuple(scores.shape[2:])
        expected = tuple(-(-s // STRIDE) for s in size)
        if any(abs(c - e) > 1 for c, e in zip(cells, expected, strict=True)):
            raise ValueError(
                f"a score map of {cells} cells belongs to frames of {expected} cells of {STRIDE} pixels; "
                f"got the frame size {tuple(size)}"
            )
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        # Under autocast the product would fall back to half precision, which shifts class borders.
        with torch.autocast(scores.device.type, enabled=False):
            return scores @ _interpolation(cells[1], 0, size[1], self.border, scores).T

    def _rows(self, wide: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
        """Rows start..stop of the full-size logits, (B, K, stop - start, W), from the scores at full width."""
        weights = _interpolation(wide.shape[2], start, stop, self.border, wide)
        # Only the cells next to these rows have weight.
        low, high = max(start // STRIDE - 1, 0), min(stop // STRIDE + 2, wide.shape[2])
        with torch.autocast(wide.device.type, enabled=False):
            full = weights[:, low:high] @ wide[:, :, low:high]
        return full if self.bias is None else full + self.bias.to(full.dtype).view(-1, 1, 1)


def _interpolation(cells: int, start: int, stop: int, border: Border, like: Tensor) -> Tensor:
    """(stop - start, cells) matrix of bilinear weights from cells to pixels start..stop of one axis."""
    position = (torch.arange(start, stop, device=like.device, dtype=like.dtype) + 0.5) / STRIDE - 0.5
    if border == "replicate":
        position = position.clamp(0, cells - 1)
    centre = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (position[:, None] - centre).abs()).clamp_min(0)
