"""Video out: frames to an H.264 MP4 that browsers play."""

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

Self = TypeVar("Self", bound="VideoWriter")

_TICKS = 90_000  # a second, where frames say their time: what video clocks (MPEG's, RTP's) use


class VideoWriter:
    """Writes frames to an MP4 that browsers play: H.264, yuv420p, BT.709, index first ("faststart").

    path:    the file to write, an MP4 whatever its suffix; missing folders are made.
    fps:     frames per second. None: each frame says when it is shown (a camera's, of which some were dropped).
    quality: x264's constant rate factor: 0 is lossless, 18 looks so, 23 is x264's default, 51 the worst.

    Use it as a context manager: the file appears under its name only when it is whole; on an exception
    nothing is left. yuv420p needs even sides: odd ones get one more row or column, a copy of the last.
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
        self.fps = None if fps is None else Fraction(fps).limit_denominator(1001)  # 29.97002997... to 30000/1001
        self.quality = quality
        self.size: tuple[int, int] | None = None  # (H, W), from the first frame
        self.frames = 0
        self._last = -1  # time of the last frame, in ticks
        self._container: av.container.OutputContainer | None = None
        self._closed = False
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append one frame, (H, W, 3) uint8 RGB, of the same size as the first.

        time: seconds from the start of the video at which it is shown; needed where, and only where, there is no `fps`.
        """
        if self._closed:
            raise ValueError(f"{self.path}: the video is closed; no frame can be added")
        if (time is None) == (self.fps is None):
            wanted = "a time for every frame" if self.fps is None else f"none, as the video has {self.fps} frames/s"
            raise ValueError(f"{self.path}: frame {self.frames} has time {time}; expected {wanted}")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"{self.path}: frame {frame.dtype} {frame.shape}; expected uint8 (H, W, 3) RGB")
        height, width = frame.shape[:2]
        if self._container is None:
            self._open(height, width)
        elif (height, width) != self.size:
            raise ValueError(
                f"{self.path}: frame {self.frames} has {width}x{height} pixels, the ones before "
                f"{self.size[1]}x{self.size[0]}; expected one size"
            )
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        # Times must grow, if by a tick.
        picture.pts = self.frames if time is None else max(round(time * _TICKS), self._last + 1)
        picture.time_base = Fraction(1, _TICKS) if self.fps is None else 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self._last = picture.pts
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. Raises ValueError if no frame was written."""
        if self._closed:
            return
        if self._container is None:
            self._closed = True
            raise ValueError(f"{self.path}: no frame was written; a video needs one")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._part, self.path)
        except BaseException:
            self.abort()
            raise
        self._closed = True

    def abort(self) -> None:
        """Drop what was written; what `path` held before stays."""
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

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"crf": str(self.quality), "preset": "fast"}
        if self.fps is None:
            options["bf"] = "0"  # frames stored out of order would leave the header's length behind the last one's time
        self._stream = self._container.add_stream("libx264", rate=self.fps or 30, options=options)
        self._stream.width = width + width % 2
        self._stream.height = height + height % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        if self.fps is None:
            context.time_base = Fraction(1, _TICKS)
        context.color_primaries = context.color_trc = context.colorspace = 1  # AVCOL_*_BT709
        context.color_range = 1  # AVCOL_RANGE_MPEG: 16..235
        self.size = height, width
