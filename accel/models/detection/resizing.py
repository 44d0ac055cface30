"""Frames brought to the size that a detector has learned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Resizing:
    """The shorter side becomes `shorter` pixels, unless the longer one would be more than `longer`: then that is it.

    As published: bilinear, in proportion, without smoothing, and rounded to whole numbers. OpenCV, which the release
    resizes with, rounds on the way, too: there one number in ten is another, by one.
    """

    shorter: int = 600
    longer: int = 1000

    def scale(self, size: tuple[int, int]) -> float:
        """How many pixels a pixel of frames of `size` (H, W) becomes along an axis."""
        scale = self.shorter / min(size)
        return self.longer / max(size) if round(scale * max(size)) > self.longer else scale

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what frames of `size` become."""
        scale = self.scale(size)
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

    def __call__(self, image: Tensor) -> Tensor:
        """Frames (B, 3, H, W), uint8 or float, resized; float unless they have the size already."""
        if image.dim() != 4 or 0 in image.shape:  # told where the mean is subtracted
            return image
        size = image.shape[2], image.shape[3]
        if self.size(size) == size:
            return image
        image = image if image.is_floating_point() else image.float()
        scale = self.scale(size)
        # Positions follow the scale as it is, not the ratio of the rounded sides.
        return torch.ops.aten.upsample_bilinear2d.default(image, self.size(size), False, scale, scale).round()
