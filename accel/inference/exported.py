"""An exported model as a video model, so that everything that plays models plays it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel import runtime
from accel.models.prediction import Labels, LabelsAndConfidence, Prediction
from accel.models.segmentation.score_map import ScoreMap
from accel.models.video_model import VideoModel


@dataclass(frozen=True)
class ExportedPrediction(Prediction):
    """What an exported model says of a frame.

    labels: (1, H, W) uint8, at frame size.
    map: the scores that they were made from.
    """

    labels: Tensor
    map: ScoreMap

    @property
    def scores(self) -> Tensor:
        """(1, K, h, w), as those of a `ScoreMap`."""
        return self.map.scores

    def at(self, size: tuple[int, int]) -> Labels:
        return Labels(self.labels if self.labels.shape[1:] == size else self.map.labels(size))

    def with_confidence_at(self, size: tuple[int, int]) -> LabelsAndConfidence:
        return self.map.with_confidence_at(size)


class ExportedModel(VideoModel):
    """A model of `accel.runtime`. Its frames are (1, 3, H, W), on the CPU, whatever device the runtime uses.

    It cannot be trained, optimised further, or spread a key frame's work over several frames.
    """

    is_optimized = True

    def __init__(self, model: runtime.Model):
        super().__init__()
        self.exported = model
        self.carries_state = model.exported.carries_state

    @property
    def remembers(self) -> bool:
        return self.exported.exported.remembers

    @property
    def moves_on(self) -> bool:
        return self.exported.exported.moves_on

    def key_frame(self, image, state=None):
        return self._told("later_key" if state is not None and self.remembers else "key", image, state)

    def next_frame(self, image, state):
        return self._told("next" if self.carries_state else "key", image, state)

    def prepare(self, size):
        self.exported.exported.check_size(size)

    def optimized(self, *_, **__) -> VideoModel:
        """Return this model: it was made for its runtime when it was exported."""
        return self

    def _told(self, name: str, image: Tensor, state: Any) -> tuple[Prediction, Any]:
        frame = _frame(image)
        if name == "next":
            prediction, new = self.exported.next_frame(frame, state)
        else:
            prediction, new = self.exported.key_frame(frame, state)
        info = self.exported.exported.graphs[name]
        scores, labels = (torch.from_numpy(array)[None] for array in (prediction.scores, prediction.labels))
        bias = None if info.bias is None else torch.tensor(info.bias)
        border: Any = info.border
        return ExportedPrediction(labels, ScoreMap(scores, border, bias, info.stride)), new


def _frame(image: Tensor) -> np.ndarray:
    """Turn (1, 3, H, W), RGB in 0..255, into (H, W, 3) uint8."""
    if image.dim() != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"an exported model takes one frame (1, 3, H, W) at a time, got {tuple(image.shape)}")
    if image.is_floating_point():
        image = image.round().clamp(0, 255)
    return image[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
