"""The video models. Each class below is one figure of the papers; all answer the same two calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from accel.fast.parts import Work, work_of
from accel.fast.streams import side_by_side
from accel.models.images import subtract_mean
from accel.models.propagation.base import Propagation
from accel.models.segmentation.deeplab import DeepLab
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.segmentation.score_map import ScoreMap


@dataclass(frozen=True)
class Renewal:
    """New reference features on their way: a frame's, worked out while the frames after it pass.

    work: what there is to do for them, in parts; its result is what `Propagation.update` gives.
    frames: over how many frames it is spread.  passed: how many of them have passed.
    motion: from that frame to the last one, as `Propagation.motion` gives it; None at that frame itself.
    """

    work: Work
    frames: int
    passed: int = 0
    motion: Tensor | None = None

    def go_on(self) -> Renewal:
        """One frame's share of the work."""
        passed = self.passed + 1
        return replace(self, work=self.work.until(passed * len(self.work.parts) // self.frames), passed=passed)

    def follow(self, propagation: Propagation, motion: Tensor) -> Renewal:
        """One frame on."""
        return replace(self, motion=motion if self.motion is None else propagation.join(self.motion, motion))


@dataclass(frozen=True)
class FrameState:
    """What a model carries from frame to frame.

    image: the last frame (B, 3, H, W), RGB minus the mean.
    features: the reference features (B, C, h, w), propagated to that frame; None where nobody needed them.
    renewal: features that are to take their place, while they are worked out.
    key: the key frame's features, where those of every frame are made of them; None where `features` are both.
    memory: what a new key frame's features are aggregated with; None where that is the key frame's features.
    """

    image: Tensor
    features: Tensor | None
    renewal: Renewal | None = None
    key: Tensor | None = None
    memory: Tensor | None = None

    @property
    def source(self) -> Tensor:
        """What the next frame's features are made of."""
        return self.features if self.key is None else self.key


class VideoModel(nn.Module, ABC):
    """A model that labels videos frame by frame.

    Frames are (B, 3, H, W), uint8 or float in 0..255, RGB. What comes out for a frame (a ScoreMap here) is the
    model's business: nothing in this interface knows of segmentation.

    carries_state: whether what it says of a frame depends on the frames before it. Where it does not, callers may
    spare themselves asking twice about one frame.
    """

    carries_state = True

    @property
    def remembers(self) -> bool:
        """Whether a key frame in the course of a video builds on those before it: whether `refresh` is more than
        `key_frame`."""
        return False

    @abstractmethod
    def key_frame(self, image: Tensor) -> tuple[ScoreMap, FrameState | None]:
        """Start afresh from this frame: all that the model has, however slow."""

    @abstractmethod
    def next_frame(self, image: Tensor, state: FrameState | None) -> tuple[ScoreMap, FrameState | None]:
        """The frame after the one that gave `state`, as fast as can be."""

    def advance(self, image: Tensor, state: FrameState | None) -> FrameState | None:
        """Go past a frame whose scores nobody needs."""
        return self.next_frame(image, state)[1]

    def refresh(self, image: Tensor, state: FrameState | None) -> tuple[ScoreMap, FrameState | None]:
        """A key frame in the course of a video: after the frame that gave `state`, with all that the model has.

        Models that remember earlier key frames build on them; to others it is a key frame like any.
        """
        return self.key_frame(image)

    def renew(self, state: FrameState | None, frames: int) -> FrameState | None:
        """Take the frame of `state` for a key frame whose work is spread over the `frames` frames after it.

        Each following `next_frame` does one share of it; the last of them switches over. So no frame takes as long
        as a key frame, and what is known of the key frame comes `frames` frames late. Shares are equal if the model
        was cut into as many parts (see `optimized`); else the last one has all the work. Raises ValueError for
        models that cannot do this.
        """
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    def prepare(self, size: tuple[int, int]) -> None:
        """Make ready for frames of `size` (H, W), where that takes time that no frame should have to wait for."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and its frames have to be."""
        return next(chain(self.parameters(), self.buffers())).device

    def optimized(
        self,
        size: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile: bool = True,
        parts: int = 1,
        sizes: int = 4,
    ) -> VideoModel:
        """This model for inference on frames of one size, as fast as the machine allows: see `models.optimization`."""
        from accel.fast.optimization import optimize  # it knows all models

        return optimize(self, size, dtype, device, compile, parts, sizes)

    def forward(self, clip: Tensor, refreshed: Collection[int] = ()) -> ScoreMap:
        """Scores of the last frame of a clip (B, T, 3, H, W): a key frame first, then T - 1 steps.

        refreshed: which of the frames after the first, counted from 0 for the first, are key frames too. ValueError
            for a frame that is not among them.
        """
        first, *rest = clip.unbind(1)
        odd = [t for t in refreshed if not 1 <= t <= len(rest)]
        if odd:
            raise ValueError(f"refreshed: frame {odd[0]} of a clip of {1 + len(rest)}: expected 1 to {len(rest)}")
        scores, state = self.key_frame(first)
        for t, image in enumerate(rest, 1):
            if t in refreshed:
                scores, state = self.refresh(image, state)
            elif t < len(rest):
                state = self.advance(image, state)
            else:
                scores, state = self.next_frame(image, state)
        return scores


class FrameByFrame(VideoModel):
    """One network on every frame; the yardstick for the others."""

    carries_state = False

    def __init__(self, reference: DeepLab):
        super().__init__()
        self.reference = reference

    def key_frame(self, image):
        return self.reference(subtract_mean(image)), None

    def next_frame(self, image, state):
        return self.key_frame(image)

    def advance(self, image, state):
        return None

    def renew(self, state, frames):
        return state


class DeepFeatureFlow(VideoModel):
    """Reference features on key frames, propagated to all others (Zhu et al., CVPR 2017)."""

    def __init__(self, reference: DeepLab, propagation: Propagation):
        super().__init__()
        self.reference = reference
        self.propagation = propagation

    @property
    def remembers(self):
        return self.propagation.remembers

    def key_frame(self, image):
        image = subtract_mean(image)
        features = self.reference.features(image)
        return self.reference.score(features), FrameState(image, features)

    def next_frame(self, image, state):
        state = self._propagate(subtract_mean(image), state)
        return self.reference.score(state.features), state

    def advance(self, image, state):
        image = subtract_mean(image)
        if self.propagation.recursive:
            return self._propagate(image, state)
        # Features are made of the key frame's: nobody needs this frame's, nor how things moved.
        if state.renewal is not None:
            state = self._switch(replace(state, renewal=state.renewal.go_on()))
        return replace(state, image=image, features=None, key=state.source)

    def refresh(self, image, state):
        if not self.remembers:
            return self.key_frame(image)
        image = subtract_mean(image)
        features, memory = self.propagation.update(self._memory(state), self.reference.features(image))
        return self.reference.score(features), FrameState(image, features, memory=memory)

    def renew(self, state, frames):
        if frames < 1:
            raise ValueError(f"renewal over {frames} frames: expected 1 or more")
        memory = self._memory(state)
        work = self._reference_work(state.image).then(lambda features: self.propagation.update(memory, features))
        return replace(state, renewal=Renewal(work, frames))

    def _reference_work(self, image: Tensor) -> Work:
        """What there is to do for the features of a key frame (B, 3, H, W), RGB minus the mean."""
        return work_of(self.reference.backbone, image)

    def _propagate(self, image: Tensor, state: FrameState) -> FrameState:
        """`state` at the frame after it, `image` (B, 3, H, W), RGB minus the mean."""
        if state.renewal is None:
            return self._at(image, state, state.source, self.propagation.motion(image, state.image))
        motion, renewal = side_by_side(
            lambda: self.propagation.motion(image, state.image), state.renewal.go_on, image.device, "reference"
        )
        renewal = renewal.follow(self.propagation, motion)
        state = self._switch(replace(state, renewal=renewal))
        return self._at(image, state, state.source, motion if state.renewal else renewal.motion)

    def _at(self, image: Tensor, state: FrameState, source: Tensor, motion: Tensor) -> FrameState:
        """`state` at another frame, its features moved there from `source`."""
        key = None if self.propagation.recursive else source
        return replace(state, image=image, features=self.propagation.move(source, motion), key=key)

    @staticmethod
    def _switch(state: FrameState) -> FrameState:
        """`state` with the renewed features in place of the old ones, if the renewal has come to its end."""
        if state.renewal.passed < state.renewal.frames:
            return state
        source, memory = state.renewal.work.result
        return replace(state, renewal=None, features=source, key=None, memory=memory)

    def _memory(self, state: FrameState) -> Tensor | None:
        """What a new key frame's features are aggregated with; None where they are not."""
        if not self.remembers:
            return None
        return state.source if state.memory is None else state.memory


class Accel(DeepFeatureFlow):
    """Propagated reference scores, corrected by an update branch on every frame (Jain et al., CVPR 2019, fig. 2).

    On key frames the reference branch's own scores count, as published.
    """

    def __init__(self, reference: DeepLab, propagation: Propagation, update: DeepLab, fusion: ScoreFusion):
        super().__init__(reference, propagation)
        self.update = update
        self.fusion = fusion

    def next_frame(self, image, state):
        image = subtract_mean(image)
        state, update = side_by_side(
            lambda: self._propagate(image, state), lambda: self.update(image), image.device, "update"
        )
        propagated = self.reference.score(state.features)
        return self.fusion(propagated, update), state


class AccelShared(DeepFeatureFlow):
    """Accel-101: one network is both branches, and features are fused instead of scores.

    What is carried on is the propagated features, not the fused ones, as published.
    """

    def __init__(self, reference: DeepLab, propagation: Propagation, fusion: FeatureFusion):
        super().__init__(reference, propagation)
        self.fusion = fusion

    def next_frame(self, image, state):
        image = subtract_mean(image)
        state, update = side_by_side(
            lambda: self._propagate(image, state), lambda: self.reference.features(image), image.device, "update"
        )
        return self.reference.score(self.fusion(state.features, update)), state
