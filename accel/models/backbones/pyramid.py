"""An encoder of segmentation-models-pytorch (SMP) with a decoder that keeps detail, as one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.backbones import efficientnet_lite
from accel.models.backbones.encoders import WHOLE, make_encoder, pixel_scaling
from accel.models.backbones.smp import SMALLEST, TRIAL, scaled
from accel.wording import first_line

STRIDES = (4, 8, 16)
COARSEST = 32  # stride of what encoders make


class PyramidBackbone(nn.Module):
    """An SMP encoder with the top-down path of a feature pyramid (Lin et al., CVPR 2017). It returns the finest map.

    name: the encoder's name, such as "tu-tf_efficientnet_lite0".
    pretrained: whether to load ImageNet weights, as `SmpBackbone` does.
    stride: pixels of the frame along the side of a feature cell: 4, 8 or 16.
    channels: the number of channels of the features, and of all maps of the path.
    enlarge: the factor by which the frame is enlarged for the encoder, 1 or 2. The encoder was trained on pictures of
        large objects. 2 makes small objects easier to recognise, and takes four times as long.

    Raises ValueError as `SmpBackbone` does, for an encoder that has no maps at strides 4 to 32, and for another stride.
    """

    def __init__(self, name: str, pretrained: bool = False, stride: int = 8, channels: int = 128, enlarge: int = 1):
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"stride of features must be 4, 8 or 16, got {stride}")
        self.name = name
        encoder: Any = make_encoder(name, pretrained, dilated=False)[0]
        self.encoder = encoder
        self.scaling = pixel_scaling(name)
        self.stride, self.enlarge, self.out_channels = stride, enlarge, channels
        self.stages = tuple(stage for stage in range(2, WHOLE + 1) if 2**stage >= stride * enlarge)
        self._check(name)
        self.decoder = TopDown([encoder.out_channels[stage] for stage in self.stages], channels)

    def forward(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, channels, ceil(H/stride), ceil(W/stride))."""
        maps = self.encoder(self._seen(image))
        features = self.decoder([maps[stage] for stage in self.stages])
        height, width = (-(-side // self.stride) for side in image.shape[2:])
        return features[..., :height, :width]

    def simplified(self) -> PyramidBackbone:
        """Return a backbone with the same features, up to rounding, for less work. It takes over this one's layers."""
        if efficientnet_lite.version_of(self.name):
            self.encoder = efficientnet_lite.Mirrored(self.encoder)
        return self

    def _seen(self, image: Tensor) -> Tensor:
        """Pad, enlarge and scale the frame for the encoder, which needs whole cells of its coarsest map. Zero is the
        mean colour here."""
        multiple = COARSEST // self.enlarge
        height, width = image.shape[2:]
        right, bottom = (max(SMALLEST - side, -side % multiple) for side in (width, height))
        image = F.pad(image, (0, right, 0, bottom))
        if self.enlarge > 1:
            image = F.interpolate(image, scale_factor=self.enlarge, mode="bilinear")
        return scaled(image, self.scaling)

    @torch.no_grad()
    def _check(self, name: str) -> None:
        """Try one small frame, because some encoders do not say what they cannot do."""
        self.encoder.eval()
        try:
            cells = [tuple(m.shape[2:]) for m in self.encoder(torch.zeros(1, 3, *TRIAL))]
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"encoder {name!r} does not take frames of any size: {first_line(error)}") from error
        self.encoder.train()
        if cells[2:] != [tuple(side // 2**stage for side in TRIAL) for stage in range(2, WHOLE + 1)]:
            raise ValueError(f"encoder {name!r} has no maps at strides 4, 8, 16 and 32, which a pyramid needs")


class TopDown(nn.Module):
    """Weight the coarsest map by a summary of the whole frame, then refine it with one finer map after the other.

    The weighting is that of LR-ASPP (Howard et al., "Searching for MobileNetV3", ICCV 2019, fig. 10). The last layer is
    a 3x3 convolution as in DeepLabV3+ (Chen et al., ECCV 2018), in depthwise form.

    channels: the numbers of channels of the input maps, finest first.
    width: the number of channels of all maps made from them.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.coarsest = _conv(channels[-1], width)
        self.weights = nn.Conv2d(channels[-1], width, 1)
        self.laterals = nn.ModuleList(_conv(c, width) for c in channels[:-1])
        self.last = nn.Sequential(
            _conv(width, width, kernel=3, groups=width), nn.ReLU(), _conv(width, width), nn.ReLU()
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn maps (B, C_i, h_i, w_i), finest first, into one map (B, width, h_0, w_0). Each map is half as fine as
        the one before."""
        whole = F.adaptive_avg_pool2d(maps[-1], 1)
        x = self.coarsest(maps[-1]).relu() * self.weights(whole).sigmoid()
        for lateral, finer in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            x = (F.interpolate(x, scale_factor=2, mode="bilinear") + lateral(finer)).relu()
        return self.last(x)


def _conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )
