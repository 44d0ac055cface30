"""Routes of propagation: from each frame to the next, or from the key frame to each frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from torch import Tensor

from accel.fast.streams import side_by_side
from accel.models.state import Anchor, FrameState, PendingAnchor

if TYPE_CHECKING:
    from accel.models.propagation.base import Propagation


class Route(ABC):
    """How the anchor of a state goes with the frames that pass.

    moves_on: whether it goes from frame to frame, so that a state is good for the frame after it alone.
    """

    moves_on: bool

    @abstractmethod
    def carry(self, propagation: Propagation, image: Tensor, state: FrameState) -> tuple[Tensor, FrameState]:
        """Return the features (B, C, h, w) of the frame after `state`, and the state at that frame.

        image: that frame, (B, 3, H, W), RGB minus the mean.

        A pending anchor gets its share of work, and replaces the anchor once it is done. On a GPU that work runs beside
        the rest.
        """

    @abstractmethod
    def skip(self, propagation: Propagation, image: Tensor, state: FrameState) -> FrameState:
        """Return the state at the frame after `state`, whose own features are not needed."""

    @abstractmethod
    def finish(self, propagation: Propagation, state: FrameState) -> FrameState:
        """Return the state after all work on its pending anchor. That anchor is now the state's anchor."""


class FrameToFrame(Route):
    """Make each frame's features from those of the frame before it, so that the anchor moves on (Jain et al., Accel,
    CVPR 2019)."""

    moves_on = True

    def carry(self, propagation, image, state):
        motion, pending = _beside_work(lambda: propagation.motion(image, state.image), state.pending, image)
        anchor = state.anchor
        if pending is not None:
            pending = replace(pending, motions=(*pending.motions, motion))
            if pending.is_done:
                anchor, motion, pending = pending.anchor(), self._joined(propagation, pending), None
        anchor = self._moved(propagation, anchor, motion, image)
        return anchor.features, FrameState(image, anchor, pending)

    def skip(self, propagation, image, state):
        return self.carry(propagation, image, state)[1]

    def finish(self, propagation, state):
        pending = state.pending.finished()
        anchor = pending.anchor()
        if pending.motions:
            anchor = self._moved(propagation, anchor, self._joined(propagation, pending), state.image)
        return FrameState.at_key_frame(anchor)

    @staticmethod
    def _moved(propagation: Propagation, anchor: Anchor, motion, image: Tensor) -> Anchor:
        """Move the anchor along a motion to the frame `image` (B, 3, H, W)."""
        features = propagation.move(anchor.features, motion)
        if not propagation.remembers:
            return Anchor.of(image, features)
        return Anchor(image, features, propagation.move(anchor.memory, motion))

    @staticmethod
    def _joined(propagation: Propagation, pending: PendingAnchor):
        return reduce(propagation.join, pending.motions)


class KeyToCurrent(Route):
    """Make each frame's features directly from those of the key frame, so that the anchor stays (Zhu et al., Deep
    Feature Flow, CVPR 2017; Jiang et al., Learnable Spatio-Temporal Sampling, ECCV 2020)."""

    moves_on = False

    def carry(self, propagation, image, state):
        # The frame that takes over during this step is the one to compare with.
        takes_over = state.pending is not None and state.pending.is_last
        start = (state.pending if takes_over else state.anchor).image
        motion, pending = _beside_work(lambda: propagation.motion(image, start), state.pending, image)
        state = _settled(replace(state, image=image, pending=pending))
        return propagation.move(state.anchor.features, motion), state

    def skip(self, propagation, image, state):
        pending = None if state.pending is None else state.pending.go_on()
        return _settled(replace(state, image=image, pending=pending))

    def finish(self, propagation, state):
        return _settled(replace(state, pending=state.pending.finished()))


def _settled(state: FrameState) -> FrameState:
    """Replace the anchor of a state by its pending anchor, if that is done."""
    if state.pending is None or not state.pending.is_done:
        return state
    return FrameState(state.image, state.pending.anchor())


def _beside_work(motion, pending: PendingAnchor | None, image: Tensor):
    """Return the result of `motion`, and the pending anchor after its share of work."""
    if pending is None:
        return motion(), None
    return side_by_side(motion, pending.go_on, image.device, "reference")
