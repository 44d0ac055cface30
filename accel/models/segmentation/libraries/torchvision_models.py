"""The segmentation models of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from accel.models.segmentation.libraries.own_weights import load_own_weights
from accel.models.segmentation.score_network import Source
from accel.wording import first_line

MULTIPLE = 8  # pixels; within the models, finer maps are cropped to coarser ones or brought to their size


def torchvision_model(
    architecture: str, num_classes: int, arguments: dict[str, Any], pretrained: bool = False, weights: str | None = None
) -> Source:
    """Build a torchvision model.

    architecture: its name, such as "deeplabv3_resnet50".
    arguments: further arguments of the architecture, by name.
    pretrained: whether to load weights: of the backbone, from ImageNet; or of the whole model, if `weights` names them
        ("DEFAULT", "COCO_WITH_VOC_LABELS_V1").
    weights: that name, or a file with the whole model's own weights.

    Raises ValueError for a model that torchvision cannot build, and as `load_own_weights` does.
    """
    from torchvision.models import get_model, list_models, segmentation

    known = list_models(module=segmentation)
    if architecture not in known:
        raise ValueError(f"unknown architecture {architecture!r}; torchvision has {', '.join(known)}")
    own = Path(weights) if weights is not None and Path(weights).suffix else None
    named = weights if own is None and pretrained else None
    backbone = "DEFAULT" if pretrained and weights is None else None
    try:
        model = get_model(architecture, weights=named, weights_backbone=backbone, num_classes=num_classes, **arguments)
    except Exception as error:  # of whatever kind the library has
        raise ValueError(f"{architecture} cannot be built: {first_line(error)}") from error
    if own is not None:
        load_own_weights(model, own)
    return torchvision_source(model)


def is_torchvision(model: nn.Module) -> bool:
    """Return whether a model is one of torchvision's for segmentation."""
    from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3

    return isinstance(model, FCN | DeepLabV3 | LRASPP)


def torchvision_source(model: nn.Module) -> Source:
    """Take a torchvision model apart before its last upsampling."""
    return Source(Scores(model), multiple=MULTIPLE)


class Scores(nn.Module):
    """The scores of a torchvision model before they are upsampled."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone, self.classifier = model.backbone, model.classifier
        self.takes_all = type(model).__name__ == "LRASPP"  # its classifier takes two maps

    def forward(self, image):
        maps = self.backbone(image)
        return self.classifier(maps if self.takes_all else maps["out"])
