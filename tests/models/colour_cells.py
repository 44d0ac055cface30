"""Features and attention that are known by hand: every cell is one colour of the frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from accel.models import LearnedSampling
from accel.models.propagation.learned_sampling import grid_offsets


class Cells(nn.Module):
    """A backbone that cuts out one pixel a cell, so that features are known."""

    out_channels = 3

    def forward(self, image):
        return image[..., ::16, ::16]


def knowing(radius: int = 2, ratio: float = 1.0) -> LearnedSampling:
    """Learned sampling that compares colours sharply and trusts what it aligns."""
    model = LearnedSampling(Cells(), 3, 3, grid_offsets(radius), embedding=3, update_ratio=ratio)
    model.low_to_high = nn.Identity()
    eye = torch.eye(3).view(3, 3, 1, 1)
    for use in (model.key_to_current, model.key_to_key):
        for embed in (use.embed_current, use.embed_memory):
            embed.weight.data.copy_(3 * eye)
        for layer in use.quality:
            nn.init.zeros_(layer.weight)
    return model.eval()


def moving(steps: int, size: tuple[int, int] = (64, 160)) -> torch.Tensor:
    """(1, steps, 3, *size): strong colours, one a cell, that move right by a cell a frame.

    Colours are of one length, so that none is more like another than like itself.
    """
    made = torch.Generator().manual_seed(3)
    h, w = size[0] // 16, size[1] // 16 + steps
    cells = torch.nn.functional.normalize(torch.randn(1, 3, h, w, generator=made), dim=1) * 100
    frames = [cells[..., steps - 1 - t : w - 1 - t] for t in range(steps)]
    mean = torch.tensor((123.15, 115.90, 103.06)).view(3, 1, 1)
    return torch.stack([F.interpolate(f, scale_factor=16) + mean for f in frames], 1)
