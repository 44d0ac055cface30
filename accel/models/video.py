"""The video models. Each class below is one figure of the papers. All have the same two calls."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from accel.fast.parts import Parts, Work
from accel.fast.pointwise import Pointwise
from accel.fast.streams import side_by_side
from accel.models.branch import Branch, SplitBranch
from accel.models.images import subtract_mean
from accel.models.prediction import Prediction
from accel.models.propagation.base import Propagation
from accel.models.segmentation.fusion import FeatureFusion, ScoreFusion, stretched
from accel.models.state import Anchor, FrameState, PendingAnchor
from accel.models.video_model import VideoModel


class FrameByFrame(VideoModel):
    """One network on every frame: the baseline for the others."""

    carries_state = False

    def __init__(self, reference: Branch):
        super().__init__()
        self.reference, self.task = reference, reference.task

    def key_frame(self, image, state=None):
        return self.reference(self.reference.seen(image)), None

    def next_frame(self, image, state):
        return self.key_frame(image)

    def key_and_next_frames(self, images, state=None):
        self.check_batches()
        return self.key_frame(images)

    def check_batches(self):
        _refuse_optimized(self)

    def advance(self, image, state):
        return None

    def renew(self, state, frames):
        return state

    def check_spreads_key_frames(self):
        """Do nothing: all frames of this model take the same time."""

    def seen_size(self, size):
        return self.reference.seen_size(size)

    def simplified(self):
        self.reference = self.reference.simplified()
        return self

    def make_fast(self, preparation):
        self.reference.make_fast(preparation, preparation.parts)


class DeepFeatureFlow(VideoModel):
    """Compute reference features on key frames, and propagate them to all other frames (Zhu et al., CVPR 2017)."""

    def __init__(self, reference: Branch, propagation: Propagation):
        super().__init__()
        self.reference, self.task = reference, reference.task
        self.propagation = propagation

    @property
    def remembers(self):
        return self.propagation.remembers

    @property
    def moves_on(self):
        return self.propagation.route.moves_on

    def constituents(self):
        return {"reference branch": FrameByFrame(self.reference)}

    def seen_size(self, size):
        return self.reference.seen_size(size)

    def key_frame(self, image, state=None):
        image = self.reference.seen(image)
        anchor = self._anchor(image, state)
        return self._predicted(anchor.features, image), FrameState.at_key_frame(anchor)

    def next_frame(self, image, state):
        image = self.reference.seen(image)
        features, state = self._carried(image, state)
        return self._predicted(features, image), state

    def key_and_next_frames(self, images, state=None):
        self.check_batches()
        seen = self.reference.seen(images)
        key, later = seen[:1], seen[1:]
        anchor = self._anchor(key, state)
        features = anchor.features
        after = FrameState(seen[-1:], anchor)
        if len(later):
            shape = len(later), -1, -1, -1
            alike = Anchor(*(tensor.expand(shape) for tensor in (key, features, anchor.memory)))
            carried, _ = self._carried(later, FrameState.at_key_frame(alike))
            features = torch.cat([features, carried])
        return self._predicted(features, seen), after

    def check_batches(self):
        if self.moves_on or type(self).next_frame is not DeepFeatureFlow.next_frame:
            super().check_batches()
        _refuse_optimized(self)

    def advance(self, image, state):
        return self.propagation.route.skip(self.propagation, self.reference.seen(image), state)

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

    def simplified(self):
        self.reference = self.reference.simplified(linear=self.propagation.linear)
        return self

    def make_fast(self, preparation):
        self.propagation.make_fast(preparation)  # first, because it may share layers with the reference branch
        self.reference.make_fast(preparation, preparation.parts)

    def _anchor(self, image: Tensor, state: FrameState | None) -> Anchor:
        """Return the anchor of a key frame (B, 3, H, W), RGB minus the mean. state: as in `key_frame`."""
        anchor = Anchor.of(image, self.reference.features(image))
        if state is not None and self.remembers:
            return Anchor(image, *self.propagation.update(state.anchor.memory, anchor.features))
        return anchor

    def _carried(self, image: Tensor, state: FrameState) -> tuple[Tensor, FrameState]:
        """Return the reference features (B, C, h, w) at the frame after `state`, and the state at that frame.

        image: that frame, (B, 3, H, W), RGB minus the mean.
        """
        return self.propagation.route.carry(self.propagation, image, state)

    def _predicted(self, features: Tensor, image: Tensor) -> Prediction:
        """What the reference branch says of features (B, C, h, w) of a frame (B, 3, H, W)."""
        height, width = image.shape[2:]
        return self.reference.predict_within(features, (height, width))

    def _reference_work(self, image: Tensor) -> Work:
        """Return the work for the features of a key frame (B, 3, H, W), RGB minus the mean."""
        return self.reference.work(image)


class Accel(DeepFeatureFlow):
    """Correct the propagated reference scores by an update branch on current frames (Jain et al., CVPR 2019, fig. 2).

    On key frames, the reference branch's own scores are used, as published.
    """

    def __init__(self, reference: Branch, propagation: Propagation, update: Branch, fusion: ScoreFusion):
        for branch in (reference, update):
            if branch.task != "segmentation":
                raise ValueError(f"Accel fuses class scores; {type(branch).__name__} is for {branch.task}")
        super().__init__(reference, propagation)
        self.update = update
        self.fusion = fusion

    def constituents(self):
        return super().constituents() | {
            "update branch": FrameByFrame(self.update),
            "Deep Feature Flow": DeepFeatureFlow(self.reference, self.propagation),
        }

    def next_frame(self, image, state):
        image = subtract_mean(image)
        (features, state), update = side_by_side(
            lambda: self._carried(image, state), lambda: self.update(image), image.device, "update"
        )
        propagated = self.reference.predict(features)
        return self.fusion(propagated, update), state

    def simplified(self):
        self.update = self.update.simplified()
        return super().simplified()

    def make_fast(self, preparation):
        super().make_fast(preparation)
        self.update.make_fast(preparation)


class AccelShared(DeepFeatureFlow):
    """Accel-101: one network is both branches, and features are fused instead of scores.

    The propagated features are carried on, not the fused ones, as published.
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

    def simplified(self):
        """Return a model with the same function, up to rounding, and less work.

        If propagation is linear, the fusion and the first 1x1 convolution of the reference branch's `predict` become
        one. That product is computed before propagation: once for each key frame and once for each update.
        """
        propagation = self.propagation
        split = self.reference.split() if propagation.linear and not propagation.remembers else None
        return super().simplified() if split is None else SimplifiedAccelShared(split, propagation, self.fusion)

    def make_fast(self, preparation):
        super().make_fast(preparation)
        preparation.layer(self.fusion)


class SimplifiedAccelShared(DeepFeatureFlow):
    """`AccelShared` in which feature fusion and the layer after it are one product for each branch."""

    def __init__(self, reference: SplitBranch, propagation: Propagation, fusion: FeatureFusion):
        super().__init__(reference, propagation)
        product = reference.product.weight.flatten(1)  # (C', C)
        old, new = fusion.correction.weight.flatten(1).chunk(2, 1)  # (C, C) each
        assert fusion.correction.bias is not None
        self.carry = Pointwise(product @ old)
        self.correct = Pointwise(product @ new, product @ fusion.correction.bias)

    def key_frame(self, image, state=None):
        image = subtract_mean(image)
        features = self.reference.features(image)
        anchor = Anchor.of(image, self.carry(features))
        return self.reference.predict(features), FrameState.at_key_frame(anchor)

    def next_frame(self, image, state):
        image = subtract_mean(image)
        (product, state), update = side_by_side(
            lambda: self._carried(image, state),
            lambda: self.correct(self.reference.features(image)),
            image.device,
            "update",
        )
        return self.reference.predict_from(product + stretched(update, product)), state

    def make_fast(self, preparation):
        super().make_fast(preparation)
        preparation.layer(self.carry)
        preparation.layer(self.correct)

    def _reference_work(self, image):
        return super()._reference_work(image).then(self.carry)


def _refuse_optimized(model: VideoModel) -> None:
    if model.is_optimized:
        raise ValueError("an optimised model is made for single frames: batches need the model as it was loaded")
