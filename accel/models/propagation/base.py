"""Carrying features from one frame to another: what every way of doing it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.propagation.routes import Route

Motion: TypeAlias = Any  # such as a flow, or a flow and a map beside it; every propagation has its own


class Propagation(nn.Module, ABC):
    """Makes a frame's features of those of a frame before it.

    It does so in two steps, because what tells how things moved can be worked out before the features are there:
    `motion` compares the frames, `move` moves the features. Frames are (B, 3, H, W), RGB minus the mean. What a motion
    is, is the propagation's business.

    route: from which frame to which features are carried.
    linear: whether `move` is linear in the features, so that a 1x1 convolution may be taken before or after it.
    remembers: whether `update` makes a new key frame's features of those before, too.
    """

    route: Route
    linear: bool
    remembers: bool

    def forward(self, features: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """Features (B, C, h, w) of the `previous` frame, moved to where they are in the `current` one."""
        return self.move(features, self.motion(current, previous))

    @abstractmethod
    def motion(self, current: Tensor, previous: Tensor) -> Motion:
        """How one gets from the previous frame to the current one."""

    @abstractmethod
    def move(self, features: Tensor, motion: Motion) -> Tensor:
        """Features (B, C, h, w) moved along a motion."""

    @staticmethod
    @abstractmethod
    def join(first: Motion, second: Motion) -> Motion:
        """One motion from two: `first` from a frame to a second one, `second` from there to a third."""

    def update(self, memory: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The features (B, C, h, w) that count for a new key frame, from its own and the memory of key frames before;
        and the memory for the next one. Unless it `remembers`, its own features are both."""
        return features, features

    def make_fast(self, preparation: Preparation) -> None:
        """Make its networks ready for frames of one size, in place; see `accel.fast.preparation`. Frames will come as
        they do now, features of the type `preparation.dtype`.

        It may still share layers with other parts of the model, which are made fast after it.
        """
