"""The feature networks of the Accel release (Jain et al., CVPR 2019) and of Deep Feature Flow's detectors (Zhu et al.,
CVPR 2017), equal to their MXNet graphs.

`ResNetV1` is ResNet-50 and -101 (He et al., CVPR 2016) with conv5 at stride 1, dilated and deformable.
`DetectionResNet` is ResNet-101 with conv5 at stride 1 and dilated.
`PreActResNet` is ResNet-18 and -34: conv1 to conv4 pre-activated (He et al., ECCV 2016), then a deformable
conv5 at stride 2 and a learned x2 upsampling back to 1/16.

What the graphs say that another ResNet would do otherwise: the stride of a bottleneck sits in its first 1x1;
the first pooling of `ResNetV1` has no padding and counts an incomplete last window; the pre-activated
part has batch-norm epsilon 2e-5 and normalises its input; all else has epsilon 1e-5 and frozen statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import accel_ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRE_ACTIVATION_EPS = 2e-5


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm that always uses the stored statistics, even in training (MXNet's `use_global_stats`).

    Scale and shift are trained like any parameter, unless a configuration freezes them.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.eval()

    def train(self, mode: bool = True) -> GlobalBatchNorm:
        return super().train(False)


class InputBatchNorm(nn.BatchNorm2d):
    """Batch norm without a scale (MXNet's `fix_gamma`).

    Weights files nevertheless hold a gamma for it. It has no effect; it is kept so that weights go back to MXNet
    unchanged.
    """

    def __init__(self, channels: int):
        super().__init__(channels, PRE_ACTIVATION_EPS, affine=False)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("gamma", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.beta[:, None, None]


class DeformableConv(nn.Module):
    """A 3x3 convolution with dilation 2 that samples at the places given by its own `offset` convolution (Dai et al.,
    ICCV 2017).

    groups: the number of sets of offsets. Each set moves its share of the input channels.
    offset_dilation: the dilation of the convolution that predicts the offsets: 1 or 2, as in the graph.
    """

    DILATION = 2

    def __init__(self, channels: int, groups: int, offset_dilation: int):
        super().__init__()
        offsets = groups * 2 * 9
        self.offset = nn.Conv2d(channels, offsets, 3, padding=offset_dilation, dilation=offset_dilation)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, h, w) into the same shape."""
        return accel_ops.deform_conv(x, self.offset(x), self.weight, padding=self.DILATION, dilation=self.DILATION)


# --- ResNet-v1-50 and -101 ----------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1x1, 3x3 (`middle`), 1x1, and a shortcut. In the first block of a stage, a strided 1x1 projects the shortcut.

    out: channels of its result, 4 * width by default.  first_stride: of the first 1x1, that of the block by default.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        project: bool,
        middle: nn.Module,
        out: int | None = None,
        first_stride: int | None = None,
    ):
        super().__init__()
        out = out or 4 * width
        self.shortcut: nn.Module
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), GlobalBatchNorm(out))
        else:
            self.shortcut = nn.Identity()
        self.conv_a = nn.Conv2d(channels, width, 1, first_stride or stride, bias=False)
        self.bn_a = GlobalBatchNorm(width)
        self.conv_b = middle
        self.bn_b = GlobalBatchNorm(width)
        self.conv_c = nn.Conv2d(width, out, 1, bias=False)
        self.bn_c = GlobalBatchNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.summed(x).relu()

    def summed(self, x: Tensor) -> Tensor:
        """What goes into the last ReLU."""
        y = self.bn_a(self.conv_a(x)).relu()
        y = self.bn_b(self.conv_b(y)).relu()
        return self.shortcut(x) + self.bn_c(self.conv_c(y))


class BottleneckNet(nn.Module, ABC):
    """(B, 3, H, W) RGB minus the mean to (B, 32 * width, h, w) with conv5 at stride 1.

    depths: blocks of conv2 to conv5.
    width: channels of conv1 (64 = published; less makes a small one of the same build).
    """

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = GlobalBatchNorm(width)
        self.stages = nn.ModuleList()  # conv2 to conv5
        channels = width
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and stage in (1, 2) else 1
                blocks.append(self._block(stage, channels, inner, stride, block == 0))
                channels = 4 * inner
            self.stages.append(nn.Sequential(*blocks))
            if stage == 2:
                self.early_channels = channels  # of conv4
        self.out_channels = channels
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[2:]) < 3:
            raise ValueError(f"frames must have 3 x 3 pixels or more, got {tuple(image.shape[2:])}")
        x = self._before_stages(image)
        for stage in self.stages:
            x = stage(x)
        return x

    def _block(self, stage: int, channels: int, width: int, stride: int, project: bool) -> Bottleneck:
        """`channels` to 4 * `width`."""
        middle = self._dilated(width) if stage == 3 else nn.Conv2d(width, width, 3, padding=1, bias=False)
        return Bottleneck(channels, width, stride, project, middle)

    def _before_stages(self, image: Tensor) -> Tensor:
        return self._pooled(self.bn1(self.conv1(image)).relu())

    @abstractmethod
    def _dilated(self, channels: int) -> nn.Module:
        """The 3x3 convolution of conv5."""

    @abstractmethod
    def _pooled(self, x: Tensor) -> Tensor:
        """Halved, by the pooling after conv1."""


class ResNetV1(BottleneckNet):
    """Of the Accel release: conv5 is deformable.

    h is ceil(H/16), but one less where H is 1 or 2 more than a multiple of 16: the published pooling drops
    that last row. The same for w.

    depths, width: see `BottleneckNet`.  offset_groups, offset_dilation: see `DeformableConv`.
    """

    def __init__(self, depths: tuple[int, int, int, int], offset_groups: int, offset_dilation: int, width: int = 64):
        self.offset_settings = offset_groups, offset_dilation
        super().__init__(depths, width)

    def _dilated(self, channels: int) -> DeformableConv:
        return DeformableConv(channels, *self.offset_settings)

    def _pooled(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


class DetectionResNet(BottleneckNet):
    """Of Deep Feature Flow's detectors: conv5 is dilated; h is ceil(H/16), w is ceil(W/16)."""

    EARLY = (2, 3)  # the last block of `early`: conv4's fourth

    def _dilated(self, channels: int) -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, padding=2, dilation=2, bias=False)

    def _pooled(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, padding=1)

    def early(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to low-level features (B, 16 * width, h, w): what goes into the last ReLU of
        conv4's fourth block (of LSTS; Jiang et al., ECCV 2020, as in the authors' code)."""
        stage, block = self.EARLY
        x = self._before_stages(image)
        for before in self.stages[:stage]:
            x = before(x)
        last: Any = self.stages[stage]  # a `Sequential`, or made fast
        for before in last[:block]:
            x = before(x)
        return last[block].summed(x)


# --- ResNet-18 and -34 --------------------------------------------------------------------------------------


class PreActBlock(nn.Module):
    """Batch norm, ReLU and 3x3, twice. The shortcut of a stage's first block is a 1x1 of the activated input."""

    def __init__(self, channels: int, width: int, stride: int, project: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, PRE_ACTIVATION_EPS)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, PRE_ACTIVATION_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.bn1(x).relu()
        y = self.conv2(self.bn2(self.conv1(active)).relu())
        return y + (x if self.shortcut is None else self.shortcut(active))


class DeformableBlock(nn.Module):
    """3x3, deformable 3x3, and a shortcut, each followed by batch norm. It is conv5 of the small networks."""

    def __init__(self, channels: int, width: int, stride: int, project: bool, offset_groups: int):
        super().__init__()
        self.shortcut: nn.Module
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), GlobalBatchNorm(width))
        else:
            self.shortcut = nn.Identity()
        self.conv_a = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn_a = GlobalBatchNorm(width)
        self.conv_b = DeformableConv(width, offset_groups, offset_dilation=2)
        self.bn_b = GlobalBatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn_a(self.conv_a(x)).relu()
        return (self.shortcut(x) + self.bn_b(self.conv_b(y))).relu()


class PreActResNet(nn.Module):
    """Turns frames (B, 3, H, W), RGB minus the mean, into features (B, out_channels, h, w).

    h is 2 * ceil(H/32). If ceil(H/16) is odd, this is one more, because conv5 halves the map once more before the
    learned upsampling. The surplus row matters: when scores are upsampled, it reaches into the frame's last pixels.

    depths: the numbers of blocks of conv2 to conv5.
    width, out_channels: 64 and 2048 in the published networks.
    """

    OFFSET_GROUPS = 4

    def __init__(self, depths: tuple[int, int, int, int], width: int = 64, out_channels: int = 2048):
        super().__init__()
        self.bn_data = InputBatchNorm(3)
        self.conv0 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn0 = nn.BatchNorm2d(width, PRE_ACTIVATION_EPS)
        self.stages = nn.ModuleList()  # conv2 to conv4
        channels = width
        for stage, depth in enumerate(depths[:3]):
            inner = width * 2**stage
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(PreActBlock(channels, inner, stride, block == 0))
                channels = inner
            self.stages.append(nn.Sequential(*blocks))
        inner = 2 * channels
        conv5 = [DeformableBlock(channels, inner, 2, True, self.OFFSET_GROUPS)]
        conv5 += [DeformableBlock(inner, inner, 1, False, self.OFFSET_GROUPS) for _ in range(depths[3] - 1)]
        self.conv5 = nn.Sequential(*conv5)
        self.upsampling = nn.ConvTranspose2d(inner, out_channels, 4, 2, 1, bias=False)
        self.out_channels = out_channels
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.bn0(self.conv0(self.bn_data(image))).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        return self.upsampling(self.conv5(x))

    def followed_by(self, weight: Tensor) -> PreActResNet:
        """Merge a 1x1 convolution (C', C) of the result into this network. The upsampling is linear too."""
        upsampling = self.upsampling  # its weight is (inputs, C, 4, 4)
        product = torch.einsum("icyx,oc->ioyx", upsampling.weight, weight)
        upsampling.weight = nn.Parameter(product, requires_grad=False)
        self.out_channels = upsampling.out_channels = len(weight)
        return self


def initialise(network: nn.Module) -> None:
    """Use He initialisation. Offsets start at zero, so a deformable convolution starts as a plain one."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | DeformableConv):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for module in network.modules():
        if isinstance(module, DeformableConv):
            nn.init.zeros_(module.offset.weight)
            assert module.offset.bias is not None
            nn.init.zeros_(module.offset.bias)


def resnet18() -> PreActResNet:
    return PreActResNet((2, 2, 2, 2))


def resnet34() -> PreActResNet:
    return PreActResNet((3, 4, 6, 3))


def resnet50() -> ResNetV1:
    return ResNetV1((3, 4, 6, 3), offset_groups=4, offset_dilation=2)


def resnet101() -> ResNetV1:
    return ResNetV1((3, 4, 23, 3), offset_groups=1, offset_dilation=1)


def detection_resnet101() -> DetectionResNet:
    return DetectionResNet((3, 4, 23, 3))
