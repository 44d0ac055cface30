"""Models to export in tests, with the description that those from weights have."""

from __future__ import annotations

import torch
from small_models import CLASSES, enlivened, lively, small

from accel.config import ModelConfig, parse_model
from accel.models import VideoModel
from accel.models.propagation.classical_flow import DenseInverseSearch
from accel.weights.checkpoints import Description
from accel.weights.hub import About

CONFIG = {"name": "frame_by_frame", "num_classes": CLASSES, "reference": {"encoder": "resnet18"}}


def described(model: VideoModel, config: ModelConfig | None = None) -> VideoModel:
    """The model, with classes c0, c1, ... and grey colours."""
    config = config or parse_model(CONFIG, "test")
    names = tuple(f"c{k}" for k in range(config.num_classes))
    palette = tuple((10 * k,) * 3 for k in range(config.num_classes))
    model.about = About(Description(config, names, palette, 0))
    return model


def tiny(name: str = "accel", dis: bool = False) -> VideoModel:
    """A model of a few layers. dis: whether its flow is OpenCV's."""
    model = enlivened(small(name))
    if dis:
        model.propagation.flow = DenseInverseSearch("ultrafast")
    return described(model)


def of_every_layer(name: str) -> VideoModel:
    """A small model of a kind, see `small_models.ALL`, whose labels vary."""
    model = described(lively(name))
    for module in model.modules():
        layer = getattr(module, "score_layer", None)
        if layer is not None:
            layer.weight.data *= 3
            layer.bias.data = torch.linspace(-0.1, 0.1, len(layer.bias))
    return model
