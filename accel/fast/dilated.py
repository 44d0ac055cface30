"""Convolutions with a wide dilation, as ordinary ones: PyTorch's libraries for processors compute those much faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE = 4  # from this dilation on it is worth the copies


def undilated(convolution: nn.Conv2d) -> nn.Module:
    """Return a module with the same function, up to rounding, if the convolution has a wide dilation and keeps the size
    of maps. Otherwise return the convolution itself."""
    (dilation, across), (side, other) = convolution.dilation, convolution.kernel_size
    keeps_size = convolution.stride == (1, 1) and convolution.padding == (dilation * (side // 2),) * 2
    if dilation != across or side != other or side % 2 == 0 or dilation < WIDE or not keeps_size:
        return convolution
    return Undilated(convolution)


class Undilated(nn.Module):
    """A dilated convolution for inference.

    Cells that lie `dilation` apart in both directions form a grid. The convolution joins only cells of one grid. So it
    is an ordinary convolution of each grid, and the grids are a batch.

    convolution: the layer whose weights it takes over. Its maps keep their size.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.dilation, self.groups = convolution.dilation[0], convolution.groups

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, h, w) into (B, C', h, w)."""
        step, (batch, channels, height, width) = self.dilation, x.shape
        x = F.pad(x, (0, -width % step, 0, -height % step))
        rows, columns = x.shape[2] // step, x.shape[3] // step
        grids = x.view(batch, channels, rows, step, columns, step).permute(0, 3, 5, 1, 2, 4)
        grids = grids.reshape(batch * step**2, channels, rows, columns).contiguous(memory_format=torch.channels_last)
        made = F.conv2d(grids, self.weight, self.bias, padding=self.weight.shape[2] // 2, groups=self.groups)
        made = made.view(batch, step, step, -1, rows, columns).permute(0, 3, 4, 1, 5, 2)
        whole = made.reshape(batch, -1, rows * step, columns * step)[:, :, :height, :width]
        return whole.contiguous(memory_format=torch.channels_last)
