"""The video models. Each class below is one figure of the papers; all answer the same two calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from accel.models.deeplab import DeepLab
from accel.models.fusion import FeatureFusion, ScoreFusion
from accel.models.images import subtract_mean
from accel.models.scores import ScoreMap


@dataclass(frozen=True)
class FrameState:
    """What a model carries from frame to frame.

    image: the last frame (B, 3, H, W), RGB minus the mean.
    features: the reference features (B, C, h, w), propagated to that frame.
    """

    image: Tensor
    features: Tensor


class VideoModel(nn.Module, ABC):
    """A model that labels videos frame by frame.

    Frames are (B, 3, H, W), uint8 or float in 0..255, RGB. What comes out for a frame (a ScoreMap here) is the
    model's business: nothing in this interface knows of segmentation.
    """

    @abstractmethod
    def key_frame(self, image: Tensor) -> tuple[ScoreMap, FrameState | None]:
        """Start afresh from this frame: all that the model has, however slow."""

    @abstractmethod
    def next_frame(self, image: Tensor, state: FrameState | None) -> tuple[ScoreMap, FrameState | None]:
        """The frame after the one that gave `state`, as fast as can be."""

    def advance(self, image: Tensor, state: FrameState | None) -> FrameState | None:
        """Go past a frame whose scores nobody needs."""
        return self.next_frame(image, state)[1]

    def forward(self, clip: Tensor) -> ScoreMap:
        """Scores of the last frame of a clip (B, T, 3, H, W): a key frame first, then T - 1 steps."""
        first, *between = clip.unbind(1)
        scores, state = self.key_frame(first)
        if not between:
            return scores
        for image in between[:-1]:
            state = self.advance(image, state)
        return self.next_frame(between[-1], state)[0]


class FrameByFrame(VideoModel):
    """One network on every frame; the yardstick for the others."""

    def __init__(self, reference: DeepLab):
        super().__init__()
        self.reference = reference

    def key_frame(self, image):
        return self.reference(subtract_mean(image)), None

    def next_frame(self, image, state):
        return self.key_frame(image)

    def advance(self, image, state):
        return None


class DeepFeatureFlow(VideoModel):
    """Reference features on key frames, propagated to all others (Zhu et al., CVPR 2017)."""

    def __init__(self, reference: DeepLab, propagation: nn.Module):
        super().__init__()
        self.reference = reference
        self.propagation = propagation

    def key_frame(self, image):
        image = subtract_mean(image)
        features = self.reference.features(image)
        return self.reference.score(features), FrameState(image, features)

    def next_frame(self, image, state):
        state = self.advance(image, state)
        return self.reference.score(state.features), state

    def advance(self, image, state):
        image = subtract_mean(image)
        return FrameState(image, self.propagation(state.features, image, state.image))


class Accel(DeepFeatureFlow):
    """Propagated reference scores, corrected by an update branch on every frame (Jain et al., CVPR 2019, fig. 2).

    On key frames the reference branch's own scores count, as published.
    """

    def __init__(self, reference: DeepLab, propagation: nn.Module, update: DeepLab, fusion: ScoreFusion):
        super().__init__(reference, propagation)
        self.update = update
        self.fusion = fusion

    def next_frame(self, image, state):
        state = self.advance(image, state)
        propagated = self.reference.score(state.features)
        update = self.update(state.image)
        return self.fusion(propagated, update), state


class AccelShared(DeepFeatureFlow):
    """Accel-101: one network is both branches, and features are fused instead of scores.

    What is carried on is the propagated features, not the fused ones, as published.
    """

    def __init__(self, reference: DeepLab, propagation: nn.Module, fusion: FeatureFusion):
        super().__init__(reference, propagation)
        self.fusion = fusion

    def next_frame(self, image, state):
        state = self.advance(image, state)
        update = self.reference.features(state.image)
        return self.reference.score(self.fusion(state.features, update)), state
