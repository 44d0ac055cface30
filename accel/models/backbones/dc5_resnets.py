"""The feature networks of mmtracking's detectors: ResNet and ResNeXt with conv5 at stride 1 and dilated ("DC5")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.backbones.published_resnets import Bottleneck, BottleneckNet
from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.models.padding import padded

# What images were trained with: RGB in 0..255.
MEANS = (123.675, 116.28, 103.53)
DEVIATIONS = (58.395, 57.12, 57.375)


class DC5ResNet(BottleneckNet):
    """The stride of a bottleneck sits in its 3x3, and those of conv5 are all dilated, the first one too. (torchvision's
    `replace_stride_with_dilation` leaves the first one as it is.) h is ceil(H/16), w is ceil(W/16).

    depths, width: see `BottleneckNet`.
    groups: of the 3x3 convolutions. group_width: channels of each in conv2, if width is 64 (Xie et al., Aggregated
        Residual Transformations, CVPR 2017).
    """

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64, groups: int = 1, group_width: int = 64):
        self.groups, self.wider = groups, groups * group_width / 64  # of inner maps
        super().__init__(depths, width)

    def _block(self, stage, channels, width, stride, project):
        inner = int(width * self.wider)
        plain = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=self.groups, bias=False)
        middle = self._dilated(inner) if stage == 3 else plain
        return Bottleneck(channels, inner, stride, project, middle, out=4 * width, first_stride=1)

    def normalised(self, image: Tensor) -> Tensor:
        """Return images (B, 3, H, W), RGB minus `PIXEL_MEANS`, in the scaling of these networks, padded to whole
        cells."""
        published, means, deviations = (per_channel(c, image) for c in (PIXEL_MEANS, MEANS, DEVIATIONS))
        return padded((image + (published - means)) / deviations)

    def _before_stages(self, image: Tensor) -> Tensor:
        return super()._before_stages(self.normalised(image))

    def _pooled(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, padding=1)

    def _dilated(self, channels: int) -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=self.groups, bias=False)


def dc5_resnet50() -> DC5ResNet:
    return DC5ResNet((3, 4, 6, 3))


def dc5_resnet101() -> DC5ResNet:
    return DC5ResNet((3, 4, 23, 3))


def dc5_resnext101() -> DC5ResNet:
    """ResNeXt-101, 64 groups of 4."""
    return DC5ResNet((3, 4, 23, 3), groups=64, group_width=4)
