"""Streaming inference: frames in, predictions out, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.inference.stages import Channel, Consumer, NewestOnly, ReadAhead
from accel.inference.transfer import CudaFrame, CudaTensors, HostArrays, transfer_for
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.player import Player, Step
from accel.playing.schedules import Schedule
from accel.video.source import SourceFrame, VideoReader

Frames = Iterable[np.ndarray] | Iterable[SourceFrame]
READ_AHEAD = 4  # frames that wait for the model at most: the others go on being decoded while a key frame takes long


@dataclass(frozen=True)
class SegmentedFrame:
    """A frame with the model's prediction for it.

    frame: (H, W, 3) uint8 RGB.
    prediction: named tuple of arrays. Its fields depend on the model's task: `labels` (H, W), for example, or `boxes`,
        `scores`, `classes` and `count`.
    is_key: whether the reference branch's features are those of this frame. With flat latency: whether the work on them
        begins with this frame.
    seconds: the time from the frame in memory to its prediction in memory, without the time it waited for the frame
        before.
    index: the number of the frame in its source, from 0. Frames that were dropped or could not be read count too.
    time: seconds from the start of the source to this frame. In a recording, this is the time at which it is shown;
        otherwise the time at which it arrived.
    latency: seconds from the frame's arrival from the source to its prediction in memory.
    dropped: the number of frames dropped so far.
    """

    frame: np.ndarray
    prediction: Any
    is_key: bool
    seconds: float
    index: int
    time: float
    latency: float
    dropped: int

    @property
    def labels(self) -> np.ndarray:
        """The class indices (H, W), uint8, of a segmentation model."""
        return self.prediction.labels

    @property
    def confidence(self) -> np.ndarray:
        """The confidence of the labels, (H, W) float32: the highest class score less the second highest.

        It is there only with `Segmenter(..., confidence=True)`.
        """
        return self.prediction.confidence


class Segmenter:
    """Run a video model over a stream of frames.

    model: any VideoModel, in evaluation mode, on its device.
    schedule: the rule for key frames. A frame whose size differs from that of the frame before is always a key frame.
        Dropped frames do not count: the model goes from the last frame it processed to the next one it gets.
    flat_latency: whether to spread the work of each key frame but the first over the frames up to the next one. All
        frames then take about the same time, and the features of a key frame come into use one interval later
        (`VideoModel.renew`). This has no effect at interval 1.
    confidence: whether the results of a segmentation model include the confidence of each pixel.

    Raises ValueError for `flat_latency` with a model that cannot spread the work. The message names the call that
    prepares such a model.

    Three threads work at the same time. The first reads the source and copies its frames to the device. The model runs
    in the caller's thread, because PyTorch keeps compiled CUDA graphs, and OpenMP its threads, for each calling thread
    (pytorch/pytorch#123177). The third is started by `run` and consumes the results. The queues between them are short,
    so the slowest of the three sets the pace.
    """

    def __init__(self, model: VideoModel, schedule: Schedule, flat_latency: bool = False, confidence: bool = False):
        self.model = model
        self.schedule = schedule
        self.flat_latency = flat_latency
        self.confidence = confidence
        self.device = model.device
        self._player()  # refuses what does not go together
        self._transfer = transfer_for(self.device)

    def stream(self, frames: Frames, live: bool | None = None) -> Iterator[SegmentedFrame]:
        """Label frames (H, W, 3), uint8 RGB, as they come, oldest first.

        frames: arrays, `SourceFrame`s or a `VideoReader`. Arrays are numbered as they come; the other two carry their
            numbers. Frames are read ahead in a thread, so each must be an array of its own. Their iterator is closed at
            the end.
        live: whether to keep only the newest frame while the model is busy, and drop the others. This keeps up with the
            source. If False, the source waits for the model. None takes the source's attribute `live`, or False if it
            has none.

        An error of the source is raised here, after the frames before it. So is a ValueError for a frame of another
        type or shape. Leaving the iteration early ends the reading.
        """
        with self._read(frames, live) as source:
            yield from self._label(source)

    def run(self, frames: Frames, consume: Callable[[SegmentedFrame], object], live: bool | None = None) -> None:
        """Label `frames` as `stream` does, and call `consume` with each result in another thread.

        An error in the source, the model or `consume` ends everything and is raised here. So does Ctrl-C. `consume`
        still gets the frames labelled before that, unless it raised the error itself.
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
            _check(frame)
            at = now - begin if frame.time is None else frame.time
            return _Arrived(frame.image, number, frame.index, now, at, self._transfer.upload(frame.image))

        if live is None:
            live = getattr(frames, "live", False)
        if isinstance(frames, VideoReader):
            frames = frames.frames()
        return ReadAhead(frames, prepare, NewestOnly() if live else Channel(READ_AHEAD))

    def _player(self) -> Player:
        return Player(self.model, self.schedule, self.flat_latency)

    def _label(self, source: ReadAhead[np.ndarray | SourceFrame, _Arrived]) -> Iterator[SegmentedFrame]:
        player, size, seconds, dropped = self._player(), None, 0.0, 0
        under_way: UnderWay | None = None
        for looked_at, arrived in enumerate(source):
            if arrived.frame.shape[:2] != size:
                size = arrived.frame.shape[:2]
                self.model.prepare(size)
            before, dropped = dropped, arrived.number - looked_at
            try:
                step, sent = self._look(player, arrived, seconds, dropped - before)
            except BaseException:
                if under_way is not None:  # the frame before is labelled: nobody loses it
                    yield under_way.result()
                raise
            if under_way is not None:
                result = under_way.result()
                seconds = result.seconds
                yield result
            under_way = UnderWay(arrived, sent, step.is_key, dropped)
            # A GPU is given the next frame before the results of this one are waited for, if that frame is there.
            if not (self._transfer.overlaps and source.has_waiting()):
                result = under_way.result()
                seconds, under_way = result.seconds, None
                yield result

    @torch.inference_mode()
    def _look(
        self, player: Player, arrived: _Arrived, seconds: float, dropped: int
    ) -> tuple[Step, HostArrays | CudaTensors]:
        """Run the model's step on a frame, and start sending the prediction back. seconds, dropped: see `Clue`."""
        transfer: Any = self._transfer  # what one hands over is its own
        image, start = transfer.receive(arrived.uploaded)
        seen = transfer.seen(arrived.uploaded)
        step = player.step(_batch(image), _batch(seen), seconds, dropped)
        at = step.prediction.with_confidence_at if self.confidence else step.prediction.at
        return step, transfer.send(of_first(at(arrived.frame.shape[:2])), start)


def _check(frame: SourceFrame) -> None:
    image = frame.image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return
        found = f"{image.dtype} {image.shape}"
    else:
        found = f"{type(image).__module__}.{type(image).__qualname__}"
    raise ValueError(f"frame {frame.index}: {found}; expected uint8 (H, W, 3) RGB")


def _batch(image: Tensor) -> Tensor:
    """Turn (H, W, 3) into (1, 3, H, W)."""
    return image.permute(2, 0, 1)[None]


@dataclass(frozen=True)
class _Arrived:
    """A frame from the source, with its upload.

    number: how many frames came before it.
    index: its number in the source.
    clock: the clock's time at its arrival.
    """

    frame: np.ndarray
    number: int
    index: int
    clock: float
    time: float
    uploaded: Tensor | CudaFrame


@dataclass(frozen=True)
class UnderWay:
    """A frame that the model is working on."""

    arrived: _Arrived
    sent: HostArrays | CudaTensors
    is_key: bool
    dropped: int

    def result(self) -> SegmentedFrame:
        """Wait for the prediction and return it with its frame."""
        prediction, seconds = self.sent.wait()
        return SegmentedFrame(
            frame=self.arrived.frame,
            prediction=prediction,
            is_key=self.is_key,
            seconds=seconds,
            index=self.arrived.index,
            time=self.arrived.time,
            latency=time.perf_counter() - self.arrived.clock,
            dropped=self.dropped,
        )
