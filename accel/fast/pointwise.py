"""1x1 convolutions, which can change places with other linear layers or merge with them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Module):
    """A fixed 1x1 convolution. weight: (C', C).  bias: (C',)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight[:, :, None, None].contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def followed_by(network: nn.Module, weight: Tensor) -> nn.Module:
    """Return a network and a 1x1 convolution of its result as one module. weight: (C', C).

    A network that ends with a linear layer can merge the convolution into it. Such a network has a method
    `followed_by(weight)` that returns this module.
    """
    own = getattr(network, "followed_by", None)
    return nn.Sequential(network, Pointwise(weight)) if own is None else own(weight)
