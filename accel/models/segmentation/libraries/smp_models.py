"""Whole models of segmentation-models-pytorch (SMP): encoder and decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from accel.models.backbones.encoders import check_name, pixel_scaling
from accel.models.segmentation.libraries.own_weights import load_own_weights
from accel.models.segmentation.score_network import Source
from accel.wording import first_line


def smp_model(
    architecture: str,
    encoder: str,
    num_classes: int,
    arguments: dict[str, Any],
    pretrained: bool = False,
    weights: Path | None = None,
) -> Source:
    """Build an SMP model.

    architecture: its name, such as "deeplabv3plus", in capital or small letters.
    encoder: the encoder's name.
    arguments: further arguments of the architecture, by name.
    pretrained: whether to load ImageNet weights of the encoder.
    weights: a file with the whole model's own weights.

    Raises ValueError for a model that SMP cannot build, and as `load_own_weights` does.
    """
    import segmentation_models_pytorch as smp

    known = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        raise ValueError(f"unknown architecture {architecture!r}; segmentation-models-pytorch has {', '.join(known)}")
    check_name(encoder)
    try:
        model = smp.create_model(
            architecture, encoder, "imagenet" if pretrained and weights is None else None, 3, num_classes, **arguments
        )
    except Exception as error:  # of whatever kind the library has
        raise ValueError(f"{architecture} with encoder {encoder!r} cannot be built: {first_line(error)}") from error
    if weights is not None:
        load_own_weights(model, weights)
    return smp_source(model, pixel_scaling(encoder))


def is_smp(model: nn.Module) -> bool:
    """Return whether a model is one of SMP's."""
    import segmentation_models_pytorch as smp

    return isinstance(model, tuple(smp.MODEL_ARCHITECTURES_MAPPING.values()))


def smp_source(model: nn.Module, scaling: Any) -> Source:
    """Take an SMP model apart before its last upsampling."""
    head: Any = model.segmentation_head
    layer, up, *_ = head  # what follows is an activation, which changes no label
    upsamples = isinstance(up, nn.Upsample)
    return Source(Scores(model, layer), scaling, aligned=upsamples and bool(up.align_corners))


class Scores(nn.Module):
    """The scores of an SMP model as its head makes them, before they are upsampled."""

    def __init__(self, model: Any, layer: nn.Module):
        super().__init__()
        self.encoder, self.decoder, self.layer = model.encoder, model.decoder, layer

    def forward(self, image):
        return self.layer(self.decoder(self.encoder(image)))
