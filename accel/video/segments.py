"""Read a part of a video file, with the frame numbers and times of the whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from accel.files.whole_files import whole_file
from accel.video.decoding import decode, short, video_stream
from accel.video.reader import VideoFileReader
from accel.video.source import OnDamage, SourceFrame

_LEAST = 1.5  # segments that a video must fill to be cut


@dataclass(frozen=True)
class FrameTimes:
    """When each frame of a video file is shown, as its packets say it.

    stamps: (N,) int64, in the stream's ticks, ascending.
    keys: (N,) bool, whether a decoder can start at the frame.
    """

    stamps: np.ndarray
    keys: np.ndarray

    def save(self, path: Path) -> None:
        with whole_file(path) as file:
            np.savez_compressed(file, stamps=self.stamps, keys=self.keys)

    @staticmethod
    def load(path: Path) -> FrameTimes:
        with np.load(path) as arrays:
            return FrameTimes(arrays["stamps"], arrays["keys"])

    def cuts(self, tick: float, seconds: float) -> list[range]:
        """Return the frames of each segment. Each begins with a frame at which a decoder can start, and is `seconds`
        long or somewhat longer; the last one may be shorter."""
        begins, times = [0], (self.stamps - self.stamps[0]) * tick
        for number in np.flatnonzero(self.keys):
            if times[number] - times[begins[-1]] >= seconds:
                begins.append(int(number))
        if len(begins) > 1 and times[-1] - times[begins[-1]] < seconds * (_LEAST - 1):
            begins.pop()  # a short rest belongs to the segment before
        return [range(first, last) for first, last in zip(begins, [*begins[1:], len(times)], strict=True)]


def frame_times(path: Path) -> FrameTimes | None:
    """Read all packets of a video file, without decoding them. Return None if they do not say when each frame is shown:
    such a file can be read from its beginning only."""
    reader = VideoFileReader(path, on_damage=lambda message: None)
    stamps, keys = [], []
    with reader.container() as container:
        stream = video_stream(container)
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                if packet.pts is None or packet.is_discard or packet.is_corrupt:
                    return None
                stamps.append(packet.pts)
                keys.append(packet.is_keyframe)
        except av.FFmpegError:
            return None
    order = np.argsort(np.array(stamps, np.int64), kind="stable")
    sorted_stamps = np.array(stamps, np.int64)[order]
    if not len(order) or (np.diff(sorted_stamps) <= 0).any() or not keys[order[0]]:
        return None
    return FrameTimes(sorted_stamps, np.array(keys, bool)[order])


def cut(path: Path, seconds: float, known: Path | None = None) -> list[range]:
    """Return the segments of a video file: ranges of frame numbers. Empty: it is short, or can only be read as a whole.

    seconds: the length of a segment.
    known: where the file's frame times are kept, so that they are read once.

    Raises ValueError or FileNotFoundError for a file without a readable frame.
    """
    reader = VideoFileReader(path, on_damage=lambda message: None)
    if reader.len_hint is None or reader.fps is None or reader.len_hint / reader.fps < _LEAST * seconds:
        return []
    times = frame_times(path)
    if times is None:
        return []
    if known is not None:
        times.save(known)
    with reader.container() as container:
        segments = times.cuts(float(video_stream(container).time_base or 0), seconds)
    return segments if len(segments) > 1 else []


class SegmentReader(VideoFileReader):
    """The frames of a video file from number `first` to the one before `stop`.

    times: the file's frame times.

    Numbers and times are those in the whole video. Reading starts at the frame before `first` at which a decoder can
    start.
    """

    def __init__(
        self, path: str | Path, first: int, stop: int, times: FrameTimes, *, on_damage: OnDamage | None = None
    ) -> None:
        super().__init__(path, on_damage=on_damage)
        if not 0 <= first < stop <= len(times.stamps):
            raise ValueError(f"{path}: has {len(times.stamps)} frames; expected {first} to {stop - 1} among them")
        self.first, self.stop, self.times = first, stop, times
        self.len_hint = stop - first

    def _frames(self) -> Generator[SourceFrame, None, None]:
        stamps = self.times.stamps
        starts = np.flatnonzero(self.times.keys)
        seek = int(starts[bisect_right(starts.tolist(), self.first) - 1])
        with self._open() as container:
            stream = video_stream(container)
            if seek and self._reaches(seek):
                container.seek(int(stamps[seek]), stream=stream, backward=True)
            tick, expected, pending = float(stream.time_base or 0), self.first, None
            for frame, error in decode(container):
                if frame is None:
                    pending = pending or error
                    continue
                number = int(np.searchsorted(stamps, frame.pts)) if frame.pts is not None else -1
                if number < self.first:
                    pending = None  # it is another segment's
                    continue
                if number >= self.stop:
                    break
                if pending is not None:
                    self._report(f"{self.path}: damaged near frame {expected} ({short(pending)})", pending)
                    pending = None
                if number < expected:  # shown twice
                    continue
                expected = self._place(number, expected)
                yield SourceFrame(self._pictures.of(frame), number, float(stamps[number] - stamps[0]) * tick)
            if expected < self.stop:
                self._place(self.stop, expected)
                self._report(f"{self.path}: cut short or damaged: no frame after {expected - 1} read", pending)

    def _reaches(self, seek: int) -> bool:
        """Return whether seeking leads to a frame that is not after `first`. In some files it does not."""
        with self._open() as container:
            stream = video_stream(container)
            try:
                container.seek(int(self.times.stamps[seek]), stream=stream, backward=True)
                packet = next((packet for packet in container.demux(stream) if packet.pts is not None), None)
            except av.FFmpegError:
                return False
            return packet is not None and packet.is_keyframe and packet.pts <= self.times.stamps[self.first]
