"""What a propagating model carries from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from accel.fast.parts import Work


@dataclass(frozen=True)
class Anchor:
    """A frame whose reference features are carried on.

    image:    (B, 3, H, W), RGB minus the mean: what later frames are compared with.
    features: (B, C, h, w), the frame's reference features.
    memory:   (B, C, h, w), what the next key frame's features are aggregated with, in models that remember.
    """

    image: Tensor
    features: Tensor
    memory: Tensor

    @classmethod
    def of(cls, image: Tensor, features: Tensor) -> Anchor:
        """One that remembers its own features."""
        return cls(image, features, features)


@dataclass(frozen=True)
class PendingAnchor:
    """A frame whose reference features are still being made, while the frames after it pass.

    image:   (B, 3, H, W), RGB minus the mean.
    work:    what there is to do for them, in parts; its result is (features, memory), as an `Anchor` has them.
    frames:  over how many frames the work is spread.  passed: how many of them have passed.
    motions: the motion of each frame since; empty where features go straight from the key frame.
    """

    image: Tensor
    work: Work
    frames: int
    passed: int = 0
    motions: tuple = ()

    def go_on(self) -> PendingAnchor:
        """One frame's share of the work."""
        passed = self.passed + 1
        return replace(self, work=self.work.until(passed * len(self.work.parts) // self.frames), passed=passed)

    def finished(self) -> PendingAnchor:
        """All that is left of the work, at once."""
        return replace(self, work=self.work.until(len(self.work.parts)), passed=self.frames)

    @property
    def is_last(self) -> bool:
        """Whether the next share of the work is the last one."""
        return self.passed + 1 >= self.frames

    @property
    def is_done(self) -> bool:
        return self.passed >= self.frames

    def anchor(self) -> Anchor:
        """The anchor that it has become, once the work is done."""
        return Anchor(self.image, *self.work.result)


@dataclass(frozen=True)
class FrameState:
    """A place in a video.

    image:   (B, 3, H, W), RGB minus the mean: the last frame.
    anchor:  what the next frame's features are made of.
    pending: what is to take its place, while that is being made.
    """

    image: Tensor
    anchor: Anchor
    pending: PendingAnchor | None = None

    @classmethod
    def at_key_frame(cls, anchor: Anchor) -> FrameState:
        return cls(anchor.image, anchor)
