"""Write frames to an H.264 MP4 that browsers play."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import av
import numpy as np

from accel.threads import video_threads

Self = TypeVar("Self", bound="VideoWriter")

_TICKS = 90_000  # a second, where frames say their time: what video clocks (MPEG's, RTP's) use
_MOST_TICKS = 10_000_000
_SLOW_TICKS = 1000  # a second, of videos with less than a frame a second
_SLOWEST = Fraction(1, 60)  # frames a second; FFmpeg does not write an MP4 of a lower rate, but one of such times
_MAX_STEP = 2**31 - 2**20  # ticks from frame to frame; FFmpeg takes 2**31 - 1 for a damaged MP4


class VideoWriter:
    """Writes frames to an MP4 that browsers play: H.264, yuv420p, BT.709, index first ("faststart").

    path: the file to write, an MP4 whatever its suffix. Missing folders are made.
    fps: frames per second. None if unknown; every frame then needs its time.
    quality: x264's constant rate factor: 0 is lossless, 18 looks lossless, 23 is x264's default, 51 is the worst.

    Use it as a context manager. The file appears under its name only when it is complete. After an exception, nothing
    is left. yuv420p needs even sides: an odd side gets one more row or column, a copy of the last.
    """

    def __init__(self, path: str | Path, fps: Fraction | float | None, *, quality: int = 18) -> None:
        self.path = Path(path)
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"{self.path}: frame rate {fps}; expected a positive number of frames per second")
        if not 0 <= quality <= 51:
            raise ValueError(f"{self.path}: quality {quality}; expected 0 (lossless) to 51 (worst)")
        if self.path.is_dir():
            raise ValueError(f"{self.path}: is a folder; expected the name of the video file to write")
        try:
            av.Codec("libx264", "w")
        except ValueError as error:
            raise ValueError(
                f"{self.path}: cannot write H.264, because this build of av (FFmpeg) lacks libx264; "
                "`pip install --force-reinstall --only-binary av av` brings one that has it"
            ) from error
        self.fps = None if fps is None else _exact(fps)
        self.quality = quality
        self.size: tuple[int, int] | None = None  # (H, W), from the first frame
        self.frames = 0
        self.shortened = 0  # frames that are shown for less long than they say: hours, of which an MP4 has no notion
        self._ticks = _ticks(self.fps)
        self._told = False  # whether frames say their time
        self._last: int | None = None  # time of the last frame, in ticks
        self._cut = 0  # ticks that were left out before it
        self._container: av.container.OutputContainer | None = None
        self._closed = False
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append one frame, (H, W, 3) uint8 RGB, of the same size as the first.

        time: seconds from the start of the video at which it is shown. None: 1/fps after the frame before. Either all
            frames have a time or none.
        """
        if self._closed:
            raise ValueError(f"{self.path}: the video is closed; no frame can be added")
        if self._container is None:
            self._told = time is not None
        if (time is not None) != self._told or (time is None and self.fps is None):
            wanted = "a time for every frame" if self.fps is None or self._told else "none, like the frames before it"
            raise ValueError(f"{self.path}: frame {self.frames} has time {time}; expected {wanted}")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"{self.path}: frame {frame.dtype} {frame.shape}; expected uint8 (H, W, 3) RGB")
        height, width = frame.shape[:2]
        if self._container is None:
            self._open(height, width)
        elif self.size is not None and (height, width) != self.size:
            raise ValueError(
                f"{self.path}: frame {self.frames} has {width}x{height} pixels, the ones before "
                f"{self.size[1]}x{self.size[0]}; expected one size"
            )
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        if time is None and self._timed and self.fps is not None:
            time = float(self.frames / self.fps)
        picture.pts = self.frames if time is None else self._place(time)
        picture.time_base = self._stream.codec_context.time_base
        self._mux(self._stream.encode(picture))
        self._last = picture.pts
        self.frames += 1

    def _place(self, time: float) -> int:
        """Return the time at which to show a frame, in ticks. Times must increase by at least one tick, and not by more
        than fits."""
        ticks = round(time * self._ticks) - self._cut
        if self._last is None:
            return max(ticks, 0)
        if ticks > self._last + _MAX_STEP:
            self._cut += ticks - self._last - _MAX_STEP
            self.shortened += 1
            return self._last + _MAX_STEP
        return max(ticks, self._last + 1)

    def _mux(self, packets: list[av.Packet]) -> None:
        assert self._container is not None, "packets come after the first frame"
        for packet in packets:
            if self._timed:
                packet.duration = self._usual  # of the last frame it counts; those of all others are their distances
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file and give it its name. Raises ValueError if no frame was written."""
        if self._closed:
            return
        if self._container is None:
            self._closed = True
            raise ValueError(f"{self.path}: no frame was written; a video needs one")
        try:
            self._mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._part, self.path)
        except BaseException:
            self.abort()
            raise
        self._closed = True

    def abort(self) -> None:
        """Drop what was written. An earlier file at `path` stays."""
        self._closed = True
        if self._container is not None:
            with suppress(av.FFmpegError):  # e.g. the disk is full: the file goes anyway
                self._container.close()
            self._part.unlink(missing_ok=True)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _options(self) -> dict[str, str]:
        """Return x264's options."""
        options = {"crf": str(self.quality), "preset": "fast"}
        if self._timed:
            options["bf"] = "0"  # frames stored out of order would leave the header's length behind the last one's time
        return options

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._timed = self._told or self.fps is None or self.fps < _SLOWEST
        # Edit lists (how late the first frame comes) count in ticks, not in milliseconds.
        form = {"movflags": "+faststart", "movie_timescale": str(self._ticks)}
        if self._timed:
            form["video_track_timescale"] = str(self._ticks)  # else FFmpeg multiplies few ticks, and steps are longer
        self._container = av.open(f"file:{self._part}", "w", format="mp4", options=form)
        rate = max(self.fps or 30, _SLOWEST)
        self._stream = self._container.add_stream("libx264", rate=rate, options=self._options())
        self._stream.width = width + width % 2
        self._stream.height = height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.thread_count = video_threads()
        context = self._stream.codec_context
        context.time_base = Fraction(1, self._ticks) if self._timed or self.fps is None else 1 / self.fps
        self._usual = min(round(self._ticks / (self.fps or rate)), _MAX_STEP)  # from a frame to the next, in ticks
        context.color_primaries = context.color_trc = context.colorspace = 1  # AVCOL_*_BT709
        context.color_range = 1  # AVCOL_RANGE_MPEG: 16..235
        self.size = height, width


def _exact(fps: Fraction | float) -> Fraction:
    """Return 29.97002997... as 30000/1001, and a rate of very few frames a second unchanged."""
    short = Fraction(fps).limit_denominator(1001)
    if abs(float(short) - float(fps)) < 1e-4 * fps:
        return short
    return Fraction(fps).limit_denominator(10**6) or Fraction(fps)


def _ticks(fps: Fraction | None) -> int:
    """Return the number of ticks in a second, so that the time from frame to frame is a whole number of them, if
    possible."""
    enough = _TICKS if fps is None or fps >= 1 else _SLOW_TICKS
    if fps is None or fps.numerator > _MOST_TICKS:
        return enough
    return -(-enough // fps.numerator) * fps.numerator
