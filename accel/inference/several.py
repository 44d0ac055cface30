"""Several streams and one model: each stream has a state of its own, and all have their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from accel.inference.segmenter import READ_AHEAD, SegmentedFrame
from accel.inference.stages import Channel, Consumer, NewestOnly
from accel.inference.transfer import transfer_for
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.player import Arrival, Player, step_together
from accel.playing.schedules import Schedule
from accel.video.source import SourceFrame, VideoReader
from accel.wording import first_line

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a source that ended is tried again; each is twice the last
STEADY = 10.0  # seconds of frames after which a source counts as back, and pauses begin anew
_LOOK = 0.2  # seconds between two looks at whether all sources have ended
BATCH = 8  # streams that a GPU looks at together, at most

Told = Callable[[int, str], object]  # the number of a stream, and what happened to it


@dataclass(frozen=True)
class Stream:
    """A source that can be opened again.

    name: for people.
    open: opens it. It raises ValueError or OSError if that fails.
    live: whether its frames come in real time. If so, only the newest frame waits for the model, and the others are
        dropped. Otherwise the source waits for the model.
    again: whether to open it again when it ends or cannot be opened. Otherwise its end is the stream's.
    """

    name: str
    open: Callable[[], VideoReader | Iterable[SourceFrame]]
    live: bool = True
    again: bool = True


class SeveralSegmenter:
    """Run a video model over several streams at the same time.

    model, schedule, flat_latency, confidence: as in `Segmenter`.
    batch: how many streams the model looks at in one call, at most; these are frames of one size, all key frames or all
        current frames. None: `BATCH` on a GPU. 1 on the CPU, where a batch takes as long as its frames one by one.

    Streams have their turn one after another: none gets a second frame labelled while another has one waiting.
    """

    def __init__(
        self,
        model: VideoModel,
        schedule: Schedule,
        flat_latency: bool = False,
        confidence: bool = False,
        batch: int | None = None,
    ):
        self.model, self.schedule, self.flat_latency, self.confidence = model, schedule, flat_latency, confidence
        self.device = model.device
        self.batch = batch or (BATCH if self.device.type == "cuda" else 1)
        self._player()  # refuses what does not go together
        self._transfer: Any = transfer_for(self.device)

    def run(
        self,
        streams: Sequence[Stream],
        consume: Callable[[int, SegmentedFrame], object],
        told: Told = lambda number, what: None,
        stop: threading.Event | None = None,
    ) -> None:
        """Label all streams until they have ended, and call `consume` with each result in another thread.

        consume: gets the number of the stream and the result. `index` counts the frames of a live stream from the
            beginning, whatever breaks there were; `time` is the time since then.
        told: is called in a thread when a source fails or comes back.
        stop: ends everything when it is set. Live streams have no other end.

        An error in the model or `consume` ends everything and is raised here. One of a source is told.
        """
        stop = stop or threading.Event()
        ready = threading.Event()
        begin = time.perf_counter()
        feeds = [
            _Feed(number, stream, self._player(), ready, begin, told, self._transfer)
            for number, stream in enumerate(streams)
        ]
        consumer: Consumer[tuple[int, SegmentedFrame]]
        with ExitStack() as stack:
            consumer = stack.enter_context(
                Consumer(lambda item: consume(*item), waiting=4 * len(streams), on_error=lambda error: ready.set())
            )
            for feed in feeds:
                stack.enter_context(feed.running())
            self._label(feeds, consumer, ready, stop)

    def _player(self) -> Player:
        return Player(self.model, self.schedule, self.flat_latency)

    def _label(self, feeds: Sequence[_Feed], consumer: Consumer, ready: threading.Event, stop: threading.Event) -> None:
        turn, sizes = 0, set()
        while not stop.is_set():
            ready.clear()  # before looking: a frame that comes meanwhile sets it again
            order = [*feeds[turn:], *feeds[:turn]]
            waiting = [feed for feed in order if feed.channel.has_waiting()][: self.batch]
            if not waiting:
                if all(feed.ended.is_set() and not feed.channel.has_waiting() for feed in feeds):
                    return
                ready.wait(_LOOK)
                continue
            turn = (feeds.index(waiting[-1]) + 1) % len(feeds)
            arrived = [(feed, next(feed.channel)) for feed in waiting]
            for _, each in arrived:
                if each.frame.shape[:2] not in sizes:
                    sizes.add(each.frame.shape[:2])
                    self.model.prepare(each.frame.shape[:2])
            for feed, frame in self._look(arrived):
                consumer.put((feed.number, frame))

    @torch.inference_mode()
    def _look(self, arrived: Sequence[tuple[_Feed, _Arrived]]) -> Iterator[tuple[_Feed, SegmentedFrame]]:
        received = [self._transfer.receive(each.uploaded) for _, each in arrived]
        arrivals = []
        for (feed, each), (image, _) in zip(arrived, received, strict=True):
            before, feed.dropped = feed.dropped, each.number - feed.looked_at
            feed.looked_at += 1
            seen = self._transfer.seen(each.uploaded)
            arrivals.append(Arrival(feed.player, _batch(image), _batch(seen), feed.seconds, feed.dropped - before))
        steps = step_together(arrivals)
        sent = []
        for (_, each), (_, start), step in zip(arrived, received, steps, strict=True):
            at = step.prediction.with_confidence_at if self.confidence else step.prediction.at
            sent.append(self._transfer.send(of_first(at(each.frame.shape[:2])), start))
        for (feed, each), step, download in zip(arrived, steps, sent, strict=True):
            prediction, feed.seconds = download.wait()
            yield (
                feed,
                SegmentedFrame(
                    frame=each.frame,
                    prediction=prediction,
                    is_key=step.is_key,
                    seconds=feed.seconds,
                    index=each.index,
                    time=each.time,
                    latency=time.perf_counter() - each.clock,
                    dropped=feed.dropped,
                ),
            )


@dataclass(frozen=True)
class _Arrived:
    """A frame, its number among those of its stream, its index and time as results tell them, and when it came."""

    frame: np.ndarray
    number: int
    index: int
    time: float
    clock: float
    uploaded: Any


class _Feed:
    """Reads a source in a thread of its own."""

    def __init__(
        self,
        number: int,
        stream: Stream,
        player: Player,
        ready: threading.Event,
        begin: float,
        told: Told,
        transfer: Any,
    ):
        self.number, self.stream, self.player = number, stream, player
        self.channel: Channel[_Arrived] = NewestOnly() if stream.live else Channel(READ_AHEAD)
        self.ended = threading.Event()
        self.looked_at = self.dropped = 0
        self.seconds = 0.0
        self._ready, self._begin, self._told, self._transfer = ready, begin, told, transfer
        self._count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"accel-read-{number}", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Read inside the context."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self.channel.close()
            self._thread.join(LONGEST_PAUSE)

    def _read(self) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._stop.is_set():
                start, before = time.monotonic(), self._count
                why = self._once()
                if not self.stream.again or self._stop.is_set():
                    if why:
                        self._told(self.number, why)
                    return
                if self._count > before and time.monotonic() - start > STEADY:
                    pause = FIRST_PAUSE
                self._told(self.number, f"{why or 'it ended'}; trying again in {pause:g} s")
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self.ended.set()
            self._ready.set()

    def _once(self) -> str:
        """Read the source until it ends. Return why it ended early, or nothing."""
        source = None
        try:
            source = self.stream.open()
            before = self._count
            frames = source.frames() if isinstance(source, VideoReader) else source
            for frame in frames:
                if self._count == before and before:
                    self._told(self.number, "it is back")
                if not self._put(frame):
                    return ""
        except (ValueError, OSError) as error:
            return first_line(error)
        finally:
            if source is not None and hasattr(source, "close"):
                source.close()
        return ""

    def _put(self, frame: SourceFrame) -> bool:
        now = time.perf_counter()
        live = self.stream.live
        at = now - self._begin if live or frame.time is None else frame.time
        index = self._count if live else frame.index
        uploaded = self._transfer.upload(frame.image)
        wanted = self.channel.put(_Arrived(frame.image, self._count, index, at, now, uploaded))
        self._count += 1
        self._ready.set()
        return wanted and not self._stop.is_set()


def _batch(image: torch.Tensor) -> torch.Tensor:
    """Turn (H, W, 3) into (1, 3, H, W)."""
    return image.permute(2, 0, 1)[None]
