"""Resize frames to the size that a detector was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel.models.constants import constant


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


class OpenCvResizing(Resizing):
    """The resizing of mmtracking. The result is that of OpenCV for uint8 frames, to the last digit, on any device.

    The scale of each axis is that of its rounded sides.
    """

    def scale(self, size):
        return min(self.shorter / min(size), self.longer / max(size))

    def size(self, size):
        scale = self.scale(size)
        return max(1, int(scale * size[0] + 0.5)), max(1, int(scale * size[1] + 0.5))

    def __call__(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or 0 in image.shape:  # told where the mean is subtracted
            return image
        size = image.shape[2], image.shape[3]
        height, width = self.size(size)
        if (height, width) == size:
            return image
        pixels = image.round().int() if image.is_floating_point() else image.int()
        if size == (2 * height, 2 * width):  # which OpenCV does another way
            pixels = (pixels.unflatten(3, (-1, 2)).sum(4).unflatten(2, (-1, 2)).sum(3) + 2) >> 2
            return pixels.float()
        left, right, weights = _taps(size[1], width, image.device)
        pixels = pixels[..., left] * weights[0] + pixels[..., right] * weights[1]
        above, below, weights = (each[..., None] for each in _taps(size[0], height, image.device))
        parts = (
            ((pixels[:, :, rows[:, 0]] >> 4) * weight) >> 16
            for rows, weight in zip((above, below), weights, strict=True)
        )
        return ((sum(parts) + 2) >> 2).float()


def _taps(side: int, resized: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels of a side from which each pixel of the resized side is made, and their weights
    (2, resized). The weights are whole numbers of 1/2048, as in OpenCV."""
    found = constant(_taps_of, side, resized, dtype=torch.int32, device=device)
    return found[0].long(), found[1].long(), found[2:]


def _taps_of(side: int, resized: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return `_taps` as one tensor (4, resized). Beyond an end, both pixels are the last one. OpenCV rounds both parts
    of it separately."""
    at = ((torch.arange(resized, dtype=torch.float64) + 0.5) * (1 / (resized / side)) - 0.5).float()
    first = at.floor()
    weight = ((at - first) * 2048).round()
    taps = [first.clamp(0, side - 1), (first + 1).clamp(0, side - 1), ((1 - (at - first)) * 2048).round(), weight]
    return torch.stack(taps).to(dtype=dtype, device=device)
