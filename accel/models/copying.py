"""The simplest way to save time, to compare others with: between key frames, the prediction of the key frame stays."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from accel.models.prediction import Prediction
from accel.models.video_model import Wrapping


class Copied(NamedTuple):
    """The state: the prediction for the key frame, and the state that the model gave with it."""

    prediction: Prediction
    of_model: Any


class Copying(Wrapping):
    """A model that looks at key frames only. All frames up to the next key frame get the prediction of the last one.

    model: the model that looks at the key frames.
    """

    def seen_size(self, size):
        return self.model.seen_size(size)

    def key_frame(self, image: Tensor, state: Copied | None = None) -> tuple[Prediction, Copied]:
        prediction, of_model = self.model.key_frame(image, None if state is None else state.of_model)
        return prediction, Copied(prediction, of_model)

    def next_frame(self, image: Tensor, state: Copied) -> tuple[Prediction, Copied]:
        return state.prediction, state
