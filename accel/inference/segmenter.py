"""Frames in, what a model says of them out, one after another."""

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
    """A frame with what the model says of it.

    frame:   (H, W, 3) uint8 RGB.
    prediction: arrays by name, such as `labels` (H, W), or `boxes`, `scores`, `classes` and `count`: a named tuple,
             which depends on the model's task.
    is_key:  whether the reference branch's features are those of this frame; with flat latency, whether the work on
        them begins with this frame.
    seconds: from the frame in memory to its prediction in memory, without the time it waited for the frame before.
    index:   the number of the frame in its source, from 0; frames that were dropped or could not be read count.
    time:    seconds from the start of the source to this frame: of a recording, when it shows it; else, when it came.
    latency: seconds from when the source gave this frame to its prediction in memory.
    dropped: frames that were dropped so far.
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
        """(H, W) uint8 class indices, of a model that segments."""
        return self.prediction.labels

    @property
    def confidence(self) -> np.ndarray:
        """(H, W) float32, how sure the labels are: the highest class score less the second highest. There only where
        `Segmenter(..., confidence=True)` asked for it."""
        return self.prediction.confidence


class Segmenter:
    """Runs a video model over a stream of frames.

    model: any VideoModel, in evaluation mode on its device.
    schedule: when to take a key frame. A frame of another size than the one before always is one. Frames that are
        dropped do not count: a model goes from the frame it looked at last to the next one it gets.
    flat_latency: spread the work of each key frame but the first over the frames up to the next one, so that all take
        about the same time; the features of a key frame then come into use an interval later (`VideoModel.renew`).
        Without effect at interval 1.
    confidence: whether results of a model that segments carry the confidence of each pixel, too.

    Raises ValueError for `flat_latency` with a model that cannot spread the work, with the call that prepares one.

    Three things run at the same time: the source is read, and its frames are brought to the device, in a thread of
    their own; the model runs in the thread of the caller, because PyTorch keeps compiled CUDA graphs, and OpenMP its
    threads, per thread that calls it (pytorch/pytorch#123177); `run` consumes the results in a third. The queues
    between them are short: the slowest of the three sets the pace.
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
        """Label (H, W, 3) uint8 RGB frames as they come, oldest first.

        frames: arrays, which are counted, `SourceFrame`s or a `VideoReader`, which know their places. They are read
            ahead in a thread, so each must be an array of its own. Their iterator is closed at the end.
        live: drop frames that come while the model is busy, but for the newest of them, and so keep up with the source
            whatever it does; else the source waits for the model. None: as the source's attribute `live` says, and
            False where it has none.

        What the source raises is raised here, after the frames before it; so is ValueError for a frame of another kind.
        Leaving the iteration early ends the reading.
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
        under_way: _UnderWay | None = None
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
            under_way = _UnderWay(arrived, sent, step.is_key, dropped)
            # A GPU is given the next frame before the results of this one are waited for, if that frame is there.
            if not (self._transfer.overlaps and source.has_waiting()):
                result = under_way.result()
                seconds, under_way = result.seconds, None
                yield result

    @torch.inference_mode()
    def _look(
        self, player: Player, arrived: _Arrived, seconds: float, dropped: int
    ) -> tuple[Step, HostArrays | CudaTensors]:
        """The model's step at a frame, and what it says on its way back. seconds, dropped: see `Clue`."""
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
    """(H, W, 3) to (1, 3, H, W)."""
    return image.permute(2, 0, 1)[None]


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
    """A frame that the model is at work on."""

    arrived: _Arrived
    sent: HostArrays | CudaTensors
    is_key: bool
    dropped: int

    def result(self) -> SegmentedFrame:
        """Waits for it."""
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
