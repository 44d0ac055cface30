"""Images padded to whole cells."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from accel.models.strides import STRIDE


def padded(image: Tensor) -> Tensor:
    """Images (B, C, H, W) with zeros at right and bottom, so that their sides are multiples of the stride."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE))
