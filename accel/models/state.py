"""The state that a propagating model carries from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from accel.fast.parts import Work


@dataclass(frozen=True)
class Anchor:
    """A frame whose reference features are carried to later frames.

    image: (B, 3, H, W), RGB minus the mean. Later frames are compared with it.
    features: (B, C, h, w), the frame's reference features.
    memory: (B, C, h, w), which models that remember aggregate with the next key frame's features.
    """

    image: Tensor
    features: Tensor
    memory: Tensor

    @classmethod
    def of(cls, image: Tensor, features: Tensor) -> Anchor:
        """Return an anchor whose memory is its own features."""
        return cls(image, features, features)


@dataclass(frozen=True)
class PendingAnchor:
    """A frame whose reference features are still being made while the frames after it pass.

    image: (B, 3, H, W), RGB minus the mean.
    work: the work for them, in parts. Its result is (features, memory), as in an `Anchor`.
    frames: the number of frames over which the work is spread.
    passed: how many of them have passed.
    motions: the motion of each frame since. Empty if features go directly from the key frame to each frame.
    """

    image: Tensor
    work: Work
    frames: int
    passed: int = 0
    motions: tuple = ()

    def go_on(self) -> PendingAnchor:
        """Do one frame's share of the work."""
        passed = self.passed + 1
        return replace(self, work=self.work.until(passed * len(self.work.parts) // self.frames), passed=passed)

    def finished(self) -> PendingAnchor:
        """Do all remaining work at once."""
        return replace(self, work=self.work.until(len(self.work.parts)), passed=self.frames)

    @property
    def is_last(self) -> bool:
        """True if the next share of the work is the last one."""
        return self.passed + 1 >= self.frames

    @property
    def is_done(self) -> bool:
        return self.passed >= self.frames

    def anchor(self) -> Anchor:
        """Return the anchor that this has become, once the work is done."""
        return Anchor(self.image, *self.work.result)


@dataclass(frozen=True)
class FrameState:
    """A position in a video.

    image: (B, 3, H, W), RGB minus the mean: the last frame.
    anchor: the anchor from which the next frame's features are made.
    pending: the anchor that will replace it, while that is being made.
    """

    image: Tensor
    anchor: Anchor
    pending: PendingAnchor | None = None

    @classmethod
    def at_key_frame(cls, anchor: Anchor) -> FrameState:
        return cls(anchor.image, anchor)
