"""Small random weights, with which the published detectors and learned sampling start."""

from __future__ import annotations

from torch import nn


def small_weights(module: nn.Module) -> None:
    """Set the weights of a module's convolutions to small random numbers, and their biases to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
