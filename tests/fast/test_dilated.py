"""Convolutions with a wide dilation, as ordinary ones."""

import pytest
import torch
from torch import nn

from accel.fast.dilated import Undilated, undilated


@pytest.mark.parametrize("size", [(38, 63), (6, 6), (5, 13), (1, 1)])
@pytest.mark.parametrize(("side", "dilation", "groups"), [(3, 6, 1), (3, 4, 2), (5, 4, 1)])
def test_it_is_the_dilated_convolution(size, side, dilation, groups):
    padding = dilation * (side // 2)
    layer = nn.Conv2d(4, 6, side, padding=padding, dilation=dilation, groups=groups).double()
    x = torch.randn(2, 4, *size, dtype=torch.double)
    fast = undilated(layer)
    assert isinstance(fast, Undilated)
    torch.testing.assert_close(fast(x), layer(x), rtol=0, atol=1e-12)
    assert fast(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 2, "dilation": 2},
        {"padding": 6, "dilation": 6, "stride": 2},
        {"padding": 0, "dilation": 6},
        {"padding": (6, 4), "dilation": (6, 4)},
    ],
)
def test_others_stay_as_they_are(settings):
    layer = nn.Conv2d(4, 6, 3, **settings)
    assert undilated(layer) is layer
