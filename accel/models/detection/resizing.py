"""Resize frames to the size that a detector was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Resizing:
    """The rule that resizes frames. Height and width keep their proportion.

    shorter: the shorter side gets so many pixels,
    longer: unless the longer one would have more than this. Then the longer one gets this.

    As published, frames are resized bilinearly, without smoothing, and rounded to whole numbers. The release uses
    OpenCV, which also rounds on the way. So one value in ten differs by one.
    """

    shorter: int = 600
    longer: int = 1000

    def scale(self, size: tuple[int, int]) -> float:
        """Return the factor by which frames of `size` (H, W) are enlarged."""
        scale = self.shorter / min(size)
        return self.longer / max(size) if round(scale * max(size)) > self.longer else scale

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (H, W) of frames of `size` after resizing."""
        scale = self.scale(size)
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

    def __call__(self, image: Tensor) -> Tensor:
        """Return resized frames (B, 3, H, W). They are float, unless they had this size before.

        image: frames, uint8 or float.
        """
        if image.dim() != 4 or 0 in image.shape:  # told where the mean is subtracted
            return image
        size = image.shape[2], image.shape[3]
        if self.size(size) == size:
            return image
        image = image if image.is_floating_point() else image.float()
        scale = self.scale(size)
        # Positions follow the scale as it is, not the ratio of the rounded sides.
        return torch.ops.aten.upsample_bilinear2d.default(image, self.size(size), False, scale, scale).round()
