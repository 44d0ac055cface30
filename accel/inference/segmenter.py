"""Frames in, labels out, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from accel.inference.schedule import FixedInterval
from accel.models.video import VideoModel


@dataclass(frozen=True)
class SegmentedFrame:
    """frame (H, W, 3) uint8 RGB with its labels (H, W) uint8, whether it was a key frame, and the seconds from
    the frame in memory to its labels in memory."""

    frame: np.ndarray
    labels: np.ndarray
    is_key: bool
    seconds: float


class Segmenter:
    """Runs a video model over a stream of frames.

    model: any VideoModel, in evaluation mode on its device.
    schedule: when to take a key frame. A frame of another size than the one before always is one.
    """

    def __init__(self, model: VideoModel, schedule: FixedInterval):
        self.model = model
        self.schedule = schedule
        self.device = next(model.parameters()).device

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[SegmentedFrame]:
        """Label (H, W, 3) uint8 RGB frames as they come, oldest first."""
        state, size, index = None, None, 0
        for frame in frames:
            start = time.perf_counter()
            if frame.shape[:2] != size:
                size, index = frame.shape[:2], 0
            is_key = self.schedule.is_key(index)
            with torch.inference_mode():
                image = (
                    torch.from_numpy(np.require(frame, requirements=["C", "W"])).to(self.device).permute(2, 0, 1)[None]
                )
                if is_key:
                    scores, state = self.model.key_frame(image)
                else:
                    scores, state = self.model.next_frame(image, state)
                labels = scores.labels(size)[0].cpu().numpy()
            index += 1
            yield SegmentedFrame(frame, labels, is_key, time.perf_counter() - start)
