"""Freeze parts of a model in training."""

from __future__ import annotations

from torch import nn

from accel.config import TrainConfig


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the weights of these parts unchanged. Raises ValueError for a part that the model does not have."""
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"train.freeze: the model has no part {part!r}; it has {known}") from None


def set_frozen_to_evaluation(model: nn.Module, settings: TrainConfig) -> None:
    """Keep the batch-norm statistics of frozen parts unchanged too. With `freeze_norm`, do so for all parts."""
    for part in settings.freeze:
        model.get_submodule(part).eval()
    if settings.freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
