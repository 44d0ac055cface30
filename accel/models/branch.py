"""A network that looks at one frame."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from accel.models.prediction import Prediction


class Branch(nn.Module, ABC):
    """A network in two steps, so that its features can be carried from one frame to another in between.

    backbone: the network that `features` runs; video models cut its work into parts.
    """

    backbone: nn.Module

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, C, h, w)."""

    @abstractmethod
    def predict(self, features: Tensor) -> Prediction:
        """What the branch says of the frames that these features (B, C, h, w) belong to."""

    def forward(self, image: Tensor) -> Prediction:
        return self.predict(self.features(image))
