"""Optical flow that nobody has to train: dense inverse search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.images import PIXEL_MEANS
from accel.models.scores import STRIDE

if TYPE_CHECKING:
    import cv2

PRESETS = ("ultrafast", "fast", "medium")


class DenseInverseSearch(nn.Module):
    """Flow from the current frame to the one before by OpenCV's DIS (Kroeger et al., "Fast optical flow using dense
    inverse search", ECCV 2016), in place of a flow network. It runs on the CPU and has no gradient.

    preset: OpenCV's "ultrafast", "fast" or "medium", from fast to exact.
    """

    def __init__(self, preset: str = "medium"):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r} of DIS flow; expected {', '.join(PRESETS)}")
        self.preset = preset

    @torch.no_grad()
    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Two frames (B, 3, H, W), RGB minus the mean, to flow (B, 2, ceil(H/16), ceil(W/16)) in cells: the mean over
        the pixels of each."""
        search = dense_inverse_search(self.preset)
        flows = [search.calc(now, before, None) for now, before in zip(_grey(current), _grey(previous), strict=True)]
        pixels = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(current.device)
        return F.avg_pool2d(pixels, STRIDE, ceil_mode=True) / STRIDE


def dense_inverse_search(preset: str = "medium") -> cv2.DISOpticalFlow:
    """OpenCV's DIS: `.calc(grey, grey before, None)` of (H, W) uint8 gives (H, W, 2) float32 in pixels."""
    import cv2

    return cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))


def _grey(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) RGB minus the mean to (B, H, W) uint8 luma (ITU-R BT.601)."""
    means = images.new_tensor(PIXEL_MEANS).view(3, 1, 1)
    luma = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return ((images + means) * luma).sum(1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
