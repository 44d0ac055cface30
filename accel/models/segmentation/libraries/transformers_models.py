"""Semantic segmentation models of Hugging Face's transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accel.models.segmentation.score_network import Source
from accel.wording import first_line

NO_OBJECT_LAST = -1  # the last class of a query is "nothing"
AS_LOGITS = 10.0  # scores of models that give masks lie in 0..1; times this, they have the range of logits


def transformers_model(
    num_classes: int, config: dict[str, Any] | None, weights: str | None = None, pretrained: bool = False
) -> Source:
    """Build a semantic segmentation model of transformers.

    config: its configuration, as in its config.json; `model_type` is the kind. None: that of `weights`.
    weights: a folder that `save_pretrained` wrote, or a name on Hugging Face's hub.
    pretrained: whether to load these weights.

    Raises ValueError if transformers is not installed, and for a model that it cannot build.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError("models of transformers need it: pip install 'accel-vss[transformers]'") from None
    kind = "?" if config is None else config.get("model_type")
    where = weights if config is None else f"model_type {kind!r}"
    try:
        if config is None:
            settings = transformers.AutoConfig.from_pretrained(str(weights), num_labels=num_classes)
        else:
            settings = transformers.AutoConfig.for_model(**{**config, "num_labels": num_classes})
        make = _class_for(type(settings))
        if pretrained and weights is not None:
            model = make.from_pretrained(weights, config=settings)
        else:
            model = make.from_config(settings)
    except Exception as error:  # of whatever kind the libraries have
        raise ValueError(f"transformers, {where}: cannot be built: {first_line(error)}") from error
    return transformers_source(model)


def _class_for(config: type) -> Any:
    """Return the class of transformers that builds a model with such a configuration."""
    from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    )

    if config in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        return AutoModelForSemanticSegmentation
    if config in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        return AutoModelForUniversalSegmentation
    raise ValueError(f"{config.__name__} belongs to no model for semantic segmentation")


def is_transformers(model: nn.Module) -> bool:
    """Return whether a model is one of transformers'. That library is not loaded for the question."""
    return any(base.__module__ == "transformers.modeling_utils" for base in type(model).__mro__)


def transformers_source(model: nn.Module) -> Source:
    """Take a model of transformers apart before its last upsampling."""
    if type(model).__name__ == "UperNetForSemanticSegmentation":
        return Source(UperNetScores(model))
    return Source(Scores(model))


class Scores(nn.Module):
    """The scores of a model of transformers.

    Models that give queries, each with a class and a mask (Mask2Former, EoMT), score a pixel for a class by the sum
    over the queries of the class's probability times the mask's (Cheng et al., CVPR 2022, sec. 3), at the masks'
    stride.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        made = self.model(pixel_values=image)
        logits = getattr(made, "logits", None)
        if logits is not None:
            return logits
        classes, masks = made.class_queries_logits, made.masks_queries_logits  # (B, N, K + 1), (B, N, h, w)
        chances = classes.softmax(-1)[..., :NO_OBJECT_LAST]
        return AS_LOGITS * torch.einsum("bnk,bnhw->bkhw", chances, masks.sigmoid())


class UperNetScores(nn.Module):
    """The scores of transformers' UPerNet, which upsamples them to the frame's size by itself."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone, self.decode_head = model.backbone, model.decode_head

    def forward(self, image: Tensor) -> Tensor:
        return self.decode_head(self.backbone(image).feature_maps)
