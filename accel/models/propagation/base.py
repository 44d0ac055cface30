"""The interface of propagation: carrying features from one frame to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.propagation.routes import Route

Motion: TypeAlias = Any  # such as a flow, or a flow and a map beside it; every propagation has its own


class Propagation(nn.Module, ABC):
    """Makes a frame's features from those of an earlier frame.

    This takes two steps, because the motion can be computed before the features are there. `motion` compares the
    frames, and `move` moves the features. Frames are (B, 3, H, W), RGB minus the mean. Each propagation defines what a
    motion is.

    route: from which frame to which frame features are carried.
    linear: whether `move` is linear in the features. A 1x1 convolution may then come before or after it.
    remembers: whether `update` also uses earlier key frames for the features of a new key frame.
    """

    route: Route
    linear: bool
    remembers: bool

    def forward(self, features: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """Move features (B, C, h, w) of the `previous` frame to their places in the `current` frame."""
        return self.move(features, self.motion(current, previous))

    @abstractmethod
    def motion(self, current: Tensor, previous: Tensor) -> Motion:
        """Return the motion from the previous frame to the current one."""

    @abstractmethod
    def move(self, features: Tensor, motion: Motion) -> Tensor:
        """Move features (B, C, h, w) along a motion."""

    @staticmethod
    @abstractmethod
    def join(first: Motion, second: Motion) -> Motion:
        """Join two motions into one: `first` from one frame to a second, `second` from there to a third."""

    def update(self, memory: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, h, w) to use for a new key frame, and the memory for the next one.

        memory: (B, C, h, w), made from the key frames before.
        features: (B, C, h, w), the new key frame's own. Unless the propagation `remembers`, both results are these.
        """
        return features, features

    def make_fast(self, preparation: Preparation) -> None:
        """Prepare its networks for frames of one size, in place; see `accel.fast.preparation`.

        Frames will come as they do now, and features with the type `preparation.dtype`. The propagation may still share
        layers with other parts of the model, which are prepared after it.
        """
