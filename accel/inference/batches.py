"""Recordings processed in batches: each key frame together with the frames up to the next one.

`demo_batch` of Deep Feature Flow's release does so, too. The predictions are those of `Segmenter`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from accel.inference.segmenter import SegmentedFrame, Segmenter, UnderWay
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.schedules import FixedInterval


class BatchSegmenter(Segmenter):
    """Run a video model over a recording, in batches of a key frame and the frames up to the next one.

    A batch makes better use of a GPU than single frames do. Each frame's `seconds` is its share of the time of its
    batch. Frames come out only when their whole batch has arrived, so nothing live can be processed so.

    model: a model that takes such batches (`VideoModel.check_batches`), in evaluation mode, on its device.
    interval: frames from one key frame to the next, which is the size of a batch.

    Raises ValueError for a model that does not take batches, and for an interval under 1.
    """

    def __init__(self, model: VideoModel, interval: int):
        model.check_batches()
        super().__init__(model, FixedInterval(interval))
        self.interval = interval

    def _read(self, frames, live):
        if live or (live is None and getattr(frames, "live", False)):
            raise ValueError("batches need the frames after each key frame, and a live input does not have them yet")
        return super()._read(frames, False)

    def _label(self, source) -> Iterator[SegmentedFrame]:
        batch: list[Any] = []
        state = None
        for arrived in source:
            if batch and arrived.frame.shape != batch[0].frame.shape:  # another video
                yield from self._predicted(batch, state)[0]
                batch, state = [], None
            batch.append(arrived)
            if len(batch) == self.interval:
                results, state = self._predicted(batch, state)
                yield from results
                batch = []
        if batch:
            yield from self._predicted(batch, state)[0]

    @torch.inference_mode()
    def _predicted(self, batch: list[Any], state: Any) -> tuple[list[SegmentedFrame], Any]:
        """Return the results of a batch, and the state after it."""
        transfer: Any = self._transfer
        received = [transfer.receive(arrived.uploaded) for arrived in batch]
        images: Tensor = torch.stack([image.permute(2, 0, 1) for image, _ in received])  # (N, 3, H, W)
        start = received[0][1]
        prediction, state = self.model.key_and_next_frames(images, state)
        size = batch[0].frame.shape[:2]
        sent = [transfer.send(of_first(each.at(size)), start) for each in prediction.of_frames(len(batch))]
        results = [UnderWay(a, s, n == 0, 0).result() for n, (a, s) in enumerate(zip(batch, sent, strict=True))]
        seconds = max(result.seconds for result in results) / len(batch)
        return [replace(result, seconds=seconds) for result in results], state
