"""Convert frames into the networks' input."""

from __future__ import annotations

import torch
from torch import Tensor

from accel.models.constants import per_channel

PIXEL_MEANS = (123.15, 115.90, 103.06)  # RGB, of the published graphs


def subtract_mean(image: Tensor) -> Tensor:
    """Turn frames (B, 3, H, W), RGB, uint8 or float in 0..255, into float minus `PIXEL_MEANS`.

    float64 stays float64; everything else becomes float32. Raises ValueError for other shapes.
    """
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"frames must be (B, 3, H, W) RGB, got {tuple(image.shape)}")
    if image.shape[2] < 1 or image.shape[3] < 1:
        raise ValueError(f"frames must not be empty, got {tuple(image.shape)}")
    dtype = image.dtype if image.dtype == torch.float64 else torch.float32
    image = image.to(dtype)
    return image - per_channel(PIXEL_MEANS, image)
