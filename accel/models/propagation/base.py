"""Carrying features from one frame to another: what every way of doing it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Propagation(nn.Module, ABC):
    """Makes a frame's features of those of a frame before it.

    It does so in two steps, because what tells how things moved can be worked out before the features are there:
    `motion` compares the frames, `move` moves the features. Frames are (B, 3, H, W), RGB minus the mean; what a
    motion is, is the propagation's business.

    recursive: whether a frame's features are made of the last frame's, or each time of the key frame's, whatever lies
        between.
    linear: whether `move` is linear in the features, so that a 1x1 convolution may be taken before or after it.
    remembers: whether `update` makes a new key frame's features of those before, too.
    """

    recursive: bool
    linear: bool
    remembers: bool

    def forward(self, features: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """Features (B, C, h, w) of the `previous` frame, moved to where they are in the `current` one."""
        return self.move(features, self.motion(current, previous))

    @abstractmethod
    def motion(self, current: Tensor, previous: Tensor) -> Tensor:
        """How one gets from the previous frame to the current one."""

    @abstractmethod
    def move(self, features: Tensor, motion: Tensor) -> Tensor:
        """Features (B, C, h, w) moved along a motion."""

    @staticmethod
    @abstractmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """One motion from two: `first` from a frame to a second one, `second` from there to a third."""

    def update(self, memory: Tensor | None, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The features (B, C, h, w) that count for a new key frame, from its own and the memory of key frames before;
        and the memory for the next one. Unless it `remembers`, they are its own and there is no memory."""
        return features, None
