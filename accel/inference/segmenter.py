"""Frames in, labels out, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from accel.inference.schedules import FixedInterval
from accel.inference.stages import Channel, Consumer, NewestOnly, ReadAhead
from accel.inference.transfer import CudaFrame, CudaLabels, HostLabels, transfer_for
from accel.models.segmentation.score_map import ScoreMap
from accel.models.video import VideoModel
from accel.video.source import SourceFrame, VideoReader

Frames = Iterable[np.ndarray] | Iterable[SourceFrame]
READ_AHEAD = 4  # frames that wait for the model at most: the others go on being decoded while a key frame takes long


@dataclass(frozen=True)
class SegmentedFrame:
    """A frame with its labels.

    frame:   (H, W, 3) uint8 RGB.
    labels:  (H, W) uint8 class indices.
    is_key:  whether the reference branch's features are those of this frame; with flat latency, whether the work on
        them begins with this frame.
    seconds: from the frame in memory to its labels in memory, without the time it waited for the frame before.
    index:   the number of the frame in its source, from 0; frames that were dropped or could not be read count.
    time:    seconds from the start of the source to this frame: of a recording, when it shows it; else, when it came.
    latency: seconds from when the source gave this frame to its labels in memory.
    dropped: frames that were dropped so far.
    """

    frame: np.ndarray
    labels: np.ndarray
    is_key: bool
    seconds: float
    index: int
    time: float
    latency: float
    dropped: int


class Segmenter:
    """Runs a video model over a stream of frames.

    model: any VideoModel, in evaluation mode on its device.
    schedule: when to take a key frame. A frame of another size than the one before always is one. Frames that are
        dropped do not count: a model goes from the frame it labelled last to the next one it gets.
    flat_latency: spread the work of each key frame but the first over the frames up to the next one, so that all take
        about the same time; the features of a key frame then come into use an interval later (`VideoModel.renew`).
        Without effect at interval 1.

    Three things run at the same time: the source is read, and its frames are brought to the device, in a thread of
    their own; the model runs in the thread of the caller, because PyTorch keeps compiled CUDA graphs, and OpenMP its
    threads, per thread that calls it (pytorch/pytorch#123177); `run` consumes the results in a third. The queues
    between them are short: the slowest of the three sets the pace.
    """

    def __init__(self, model: VideoModel, schedule: FixedInterval, flat_latency: bool = False):
        self.model = model
        self.schedule = schedule
        self.flat_latency = flat_latency
        self.device = model.device
        self._transfer = transfer_for(self.device)

    def stream(self, frames: Frames, live: bool | None = None) -> Iterator[SegmentedFrame]:
        """Label (H, W, 3) uint8 RGB frames as they come, oldest first.

        frames: arrays, which are counted, `SourceFrame`s or a `VideoReader`, which know their places. They are read
            ahead in a thread, so each must be an array of its own. Their iterator is closed at the end.
        live: drop frames that come while the model is busy, but for the newest of them, and so keep up with the source
            whatever it does; else the source waits for the model. None: as the source's attribute `live` says, and
            False where it has none.

        What the source raises is raised here, after the frames before it. Leaving the iteration early ends the
        reading.
        """
        with self._read(frames, live) as source:
            yield from self._label(source)

    def run(self, frames: Frames, consume: Callable[[SegmentedFrame], object], live: bool | None = None) -> None:
        """Label `frames` as `stream` does, and call `consume` with each result in a thread of its own.

        An error anywhere, from the source, the model or `consume`, ends all of it and is raised here. So does Ctrl-C.
        `consume` gets what was labelled before that, unless the error is its own.
        """
        with self._read(frames, live) as source, Consumer(consume, on_error=source.fail) as consumer:
            for segmented in self._label(source):
                consumer.put(segmented)

    def _read(self, frames: Frames, live: bool | None) -> ReadAhead[np.ndarray | SourceFrame, _Arrived]:
        begin: float | None = None

        def prepare(number: int, given: np.ndarray | SourceFrame) -> _Arrived:
            nonlocal begin
            now = time.perf_counter()
            begin = now if begin is None else begin
            frame = given if isinstance(given, SourceFrame) else SourceFrame(given, number)
            at = now - begin if frame.time is None else frame.time
            return _Arrived(frame.image, number, frame.index, now, at, self._transfer.upload(frame.image))

        if live is None:
            live = getattr(frames, "live", False)
        if isinstance(frames, VideoReader):
            frames = frames.frames()
        return ReadAhead(frames, prepare, NewestOnly() if live else Channel(READ_AHEAD))

    def _label(self, source: ReadAhead[np.ndarray | SourceFrame, _Arrived]) -> Iterator[SegmentedFrame]:
        state, size, since_start = None, None, 0
        under_way: _UnderWay | None = None
        for labelled, arrived in enumerate(source):
            if arrived.frame.shape[:2] != size:
                size, since_start = arrived.frame.shape[:2], 0
                self.model.prepare(size)
            with torch.inference_mode():
                image, start = self._transfer.receive(arrived.uploaded)
                scores, state, is_key = self._step(image.permute(2, 0, 1)[None], state, since_start)
                labels = self._transfer.send(scores.labels(size)[0], start)
            if under_way is not None:
                yield under_way.result()
            under_way = _UnderWay(arrived, labels, is_key, dropped=arrived.number - labelled)
            since_start += 1
            # A GPU is given the next frame before the labels of this one are waited for, if that frame is there.
            if not (self._transfer.overlaps and source.has_waiting()):
                yield under_way.result()
                under_way = None

    def _step(self, image: Tensor, state: object, index: int) -> tuple[ScoreMap, object, bool]:
        """Scores, state, and whether the frame is a key frame; `index` counts from the last fresh start."""
        is_key = index == 0 or self.schedule.is_key(index)
        gradually = self.flat_latency and self.schedule.interval > 1
        if index == 0:
            return *self.model.key_frame(image), is_key
        if is_key and not gradually:
            return *self.model.refresh(image, state), is_key
        scores, state = self.model.next_frame(image, state)
        if is_key:
            state = self.model.renew(state, self.schedule.interval)
        return scores, state, is_key


@dataclass(frozen=True)
class _Arrived:
    """A frame from the source: how many came before it, its place there, when it came by the clock, and its upload."""

    frame: np.ndarray
    number: int
    index: int
    clock: float
    time: float
    uploaded: Tensor | CudaFrame


@dataclass(frozen=True)
class _UnderWay:
    """A frame whose labels are being made."""

    arrived: _Arrived
    labels: HostLabels | CudaLabels
    is_key: bool
    dropped: int

    def result(self) -> SegmentedFrame:
        """Waits for the labels."""
        labels, seconds = self.labels.wait()
        return SegmentedFrame(
            frame=self.arrived.frame,
            labels=labels,
            is_key=self.is_key,
            seconds=seconds,
            index=self.arrived.index,
            time=self.arrived.time,
            latency=time.perf_counter() - self.arrived.clock,
            dropped=self.dropped,
        )
