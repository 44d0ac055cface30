"""The video models. Each class below is one figure of the papers; all answer the same two calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accel.fast.parts import Parts, Work, work_of
from accel.fast.streams import side_by_side
from accel.models.branch import Branch
from accel.models.images import subtract_mean
from accel.models.prediction import Prediction
from accel.models.propagation.base import Propagation
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion
from accel.models.state import Anchor, FrameState, PendingAnchor
from accel.playing.player import Player
from accel.playing.schedules import KeyFramesAt


class VideoModel(nn.Module, ABC):
    """A model that looks at videos frame by frame.

    Frames are (B, 3, H, W), uint8 or float in 0..255, RGB. What it says of a frame is a `Prediction`; what it carries
    from frame to frame is its own business, and so is whether it carries anything (`state` may be None).

    task: what it predicts: a name in `accel.tasks.TASKS`.
    about: what its weights say of themselves, where it was loaded from some: what `save_pretrained` needs.
    carries_state: whether what it says of a frame depends on the frames before it. Where it does not, callers may
        spare themselves asking twice about one frame.
    """

    task = "segmentation"
    about: Any = None
    carries_state = True

    @property
    def remembers(self) -> bool:
        """Whether a key frame in the course of a video builds on those before it: whether `key_frame` makes use of the
        state that it is given."""
        return False

    @abstractmethod
    def key_frame(self, image: Tensor, state: Any = None) -> tuple[Prediction, Any]:
        """All that the model has to say of this frame, however slow.

        state: of the frame before, where the video goes on. Models that remember earlier key frames build on them.
            None: start afresh.
        """

    @abstractmethod
    def next_frame(self, image: Tensor, state: Any) -> tuple[Prediction, Any]:
        """The frame after the one that gave `state`, as fast as can be."""

    def advance(self, image: Tensor, state: Any) -> Any:
        """Go past a frame of which nobody needs a prediction."""
        return self.next_frame(image, state)[1]

    def renew(self, state: Any, frames: int) -> Any:
        """Take the frame of `state` for a key frame whose work is spread over the `frames` frames after it.

        Each following `next_frame` does one share of it; the last of them switches over. So no frame takes as long
        as a key frame, and what is known of the key frame comes `frames` frames late. Shares are equal if the model
        was cut into as many parts (see `optimized`); else the last one has all the work. A renewal that is still
        under way is finished first, at once. Raises ValueError for models that cannot do this.
        """
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    def check_spreads_key_frames(self) -> None:
        """ValueError, with the call that helps, unless `renew` spreads a key frame's work in shares that are alike."""
        raise ValueError(f"{type(self).__name__} cannot spread a key frame's work over several frames")

    def prepare(self, size: tuple[int, int]) -> None:
        """Make ready for frames of `size` (H, W), where that takes time that no frame should have to wait for."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and its frames have to be: the CPU for one without parameters, such as classical flow."""
        here = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if here is None else here.device

    def optimized(
        self,
        size: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile: bool = True,
        parts: int = 1,
        sizes: int = 4,
    ) -> VideoModel:
        """This model for inference on frames of one size, as fast as the machine allows: see `fast.optimization`."""
        from accel.fast.optimization import optimize  # it knows all models

        return optimize(self, size, dtype, device, compile, parts, sizes)

    def save_pretrained(self, folder: str | Path, half: bool = False) -> Path:
        """Write this model, with a model card, to a folder that `accel.load_model` takes; see `accel.weights.hub`.

        half: as float16, half as large. Raises ValueError for a model that was not loaded from weights.
        """
        return self._known("save_pretrained").save_pretrained(self, folder, half)

    def push_to_hub(self, repository: str, half: bool = False, private: bool = False) -> str:
        """Upload this model, with a model card, to a repository OWNER/NAME of Hugging Face's hub; returns its address.

        Raises as `save_pretrained`, and ValueError where the hub refuses.
        """
        return self._known("push_to_hub").push_to_hub(self, repository, half, private)

    def _known(self, call: str) -> Any:
        if self.about is None:
            raise ValueError(
                f"{call}: nothing is known of this model's classes and training; load it with accel.load_model, or "
                f"call accel.weights.hub.{call} with a description"
            )
        return self.about

    def forward(self, clip: Tensor, refreshed: Collection[int] = ()) -> Prediction:
        """What is said of the last frame of a clip (B, T, 3, H, W): a key frame first, then T - 1 steps.

        refreshed: which of the frames after the first, counted from 0 for the first, are key frames too. ValueError
            for a frame that is not among them.
        """
        *before, last = clip.unbind(1)
        odd = [t for t in refreshed if not 1 <= t <= len(before)]
        if odd:
            raise ValueError(f"refreshed: frame {odd[0]} of a clip of {1 + len(before)}: expected 1 to {len(before)}")
        player = Player(self, KeyFramesAt(refreshed))
        for image in before:
            player.skip(image)
        return player.step(last).prediction


class FrameByFrame(VideoModel):
    """One network on every frame; the yardstick for the others."""

    carries_state = False

    def __init__(self, reference: Branch):
        super().__init__()
        self.reference, self.task = reference, reference.task

    def key_frame(self, image, state=None):
        return self.reference(subtract_mean(image)), None

    def next_frame(self, image, state):
        return self.key_frame(image)

    def advance(self, image, state):
        return None

    def renew(self, state, frames):
        return state

    def check_spreads_key_frames(self):
        """All its frames are alike."""


class DeepFeatureFlow(VideoModel):
    """Reference features on key frames, propagated to all others (Zhu et al., CVPR 2017)."""

    def __init__(self, reference: Branch, propagation: Propagation):
        super().__init__()
        self.reference, self.task = reference, reference.task
        self.propagation = propagation

    @property
    def remembers(self):
        return self.propagation.remembers

    def key_frame(self, image, state=None):
        image = subtract_mean(image)
        anchor = Anchor.of(image, self.reference.features(image))
        if state is not None and self.remembers:
            anchor = Anchor(image, *self.propagation.update(state.anchor.memory, anchor.features))
        return self.reference.predict(anchor.features), FrameState.at_key_frame(anchor)

    def next_frame(self, image, state):
        features, state = self._carried(subtract_mean(image), state)
        return self.reference.predict(features), state

    def advance(self, image, state):
        return self.propagation.route.skip(self.propagation, subtract_mean(image), state)

    def renew(self, state, frames):
        if frames < 1:
            raise ValueError(f"renewal over {frames} frames: expected 1 or more")
        if state.pending is not None:
            state = self.propagation.route.finish(self.propagation, state)
        memory = state.anchor.memory
        work = self._reference_work(state.image).then(lambda features: self.propagation.update(memory, features))
        return replace(state, pending=PendingAnchor(state.image, work, frames))

    def check_spreads_key_frames(self):
        backbone = self.reference.backbone
        if not isinstance(backbone, Parts) or len(backbone.parts) < 2:
            raise ValueError(
                "flat latency needs a model whose key frames are cut into parts, and this one's are not; "
                "model.optimized(parts=N) makes one, where N is the interval"
            )

    def _carried(self, image: Tensor, state: FrameState) -> tuple[Tensor, FrameState]:
        """The reference features (B, C, h, w) at the frame after `state`, and the state there.

        image: that frame, (B, 3, H, W), RGB minus the mean.
        """
        return self.propagation.route.carry(self.propagation, image, state)

    def _reference_work(self, image: Tensor) -> Work:
        """What there is to do for the features of a key frame (B, 3, H, W), RGB minus the mean."""
        return work_of(self.reference.backbone, image)


class Accel(DeepFeatureFlow):
    """Propagated reference scores, corrected by an update branch on every frame (Jain et al., CVPR 2019, fig. 2).

    On key frames the reference branch's own scores count, as published.
    """

    def __init__(self, reference: Branch, propagation: Propagation, update: Branch, fusion: ScoreFusion):
        super().__init__(reference, propagation)
        self.update = update
        self.fusion = fusion

    def next_frame(self, image, state):
        image = subtract_mean(image)
        (features, state), update = side_by_side(
            lambda: self._carried(image, state), lambda: self.update(image), image.device, "update"
        )
        propagated = self.reference.predict(features)
        return self.fusion(propagated, update), state


class AccelShared(DeepFeatureFlow):
    """Accel-101: one network is both branches, and features are fused instead of scores.

    What is carried on is the propagated features, not the fused ones, as published.
    """

    def __init__(self, reference: Branch, propagation: Propagation, fusion: FeatureFusion):
        super().__init__(reference, propagation)
        self.fusion = fusion

    def next_frame(self, image, state):
        image = subtract_mean(image)
        (features, state), update = side_by_side(
            lambda: self._carried(image, state), lambda: self.reference.features(image), image.device, "update"
        )
        return self.reference.predict(self.fusion(features, update)), state
