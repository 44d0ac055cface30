"""The types and layouts of the tensors of all operators."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def layout_of(features: Tensor) -> torch.memory_format:
    """Return the layout of results made from `features`: channels-last if the channels are adjacent in memory."""
    channels_last = features.shape[1] > 1 and features.stride(1) == 1 and not features.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
