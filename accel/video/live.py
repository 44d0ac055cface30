"""Live video: read a camera, or a stream by its address."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import av
import cv2
import numpy as np

from accel.threads import video_threads
from accel.video.decoding import (
    check_video,
    declared_frames,
    declared_length,
    decode,
    ends_early,
    frame_end,
    short,
    video_stream,
)
from accel.video.pictures import Pictures
from accel.video.places import Places
from accel.video.source import OnDamage, SourceFrame, VideoReader

_FIRST_TRIES = 5  # cameras that have just been switched on may fail to give their first pictures


def in_real_time(reader: VideoReader) -> Iterator[SourceFrame]:
    """Yield the frames of a recording at the times when it shows them, as a camera would."""
    start = time.monotonic()
    for frame in reader.frames():
        time.sleep(max(0.0, start + (frame.time or 0.0) - time.monotonic()))
        yield frame


class CameraReader(VideoReader):
    """A camera of this machine.

    index: 0 is the first. On Linux, N is /dev/videoN.
    open_capture: a function that makes an object with the methods of `cv2.VideoCapture` from the index.

    This uses OpenCV instead of `av`, because wheels of `av` lack FFmpeg's camera devices, while those of OpenCV support
    cameras on Linux, macOS and Windows.

    The camera is on from the moment the reader is made until it is closed. If it stops giving frames, the video ends
    with a report, as for damage. `fps` is None if the camera does not tell it.

    Raises ValueError if there is no such camera, or if it gives no picture.
    """

    live = True

    def __init__(
        self,
        index: int,
        *,
        on_damage: OnDamage | None = None,
        open_capture: Callable[[int], cv2.VideoCapture] = cv2.VideoCapture,
    ) -> None:
        super().__init__(f"camera{index}", on_damage)
        self.index = index
        self.len_hint = None
        self._open_capture = open_capture
        self._opened: tuple[cv2.VideoCapture, np.ndarray] | None = self._open()
        capture, first = self._opened
        self.fps = _rate(capture.get(cv2.CAP_PROP_FPS))
        self.size = first.shape[0], first.shape[1]

    def _open(self) -> tuple[cv2.VideoCapture, np.ndarray]:
        logging = cv2.utils.logging
        level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # what OpenCV has to say of a missing camera is our error
        try:
            capture = self._open_capture(self.index)
        finally:
            logging.setLogLevel(level)
        if not capture.isOpened():
            capture.release()
            raise ValueError(f"camera {self.index}: cannot be opened ({_cameras()}); is it connected, and not in use?")
        for _ in range(_FIRST_TRIES):
            taken, picture = capture.read()
            if taken:
                return capture, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        capture.release()
        raise ValueError(f"camera {self.index}: opens, but gives no picture")

    def _frames(self) -> Generator[SourceFrame, None, None]:
        (capture, frame), self._opened = self._opened or self._open(), None
        try:
            delivered = 0
            while True:
                yield SourceFrame(frame, delivered)
                delivered += 1
                taken, picture = capture.read()
                if not taken:
                    self._report(f"camera {self.index}: gives no more pictures; {delivered} frames read")
                    return
                frame = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def close(self) -> None:
        super().close()
        if self._opened is not None:
            self._opened[0].release()
            self._opened = None


class StreamReader(VideoReader):
    """A stream by its address: everything that the installed `av` (FFmpeg) reads, such as rtsp://, http://, udp://,
    rtmp://.

    url: the address for FFmpeg. It may contain a user name and password. Messages and `name` leave those out.
    timeout: seconds to wait for an answer, and later for more data.

    A stream that states its size or length is a recording and is read like a file. Any other is `live`: its frames come
    in real time, and data lost on the way count as damage but never end it. `fps` is None if a live stream does not
    tell it. If no data come for `timeout` seconds, or the connection is lost, either kind ends with a report.

    The stream is connected from the moment the reader is made. The first frame it reads is the first frame of the first
    iteration.

    Raises ValueError if the stream cannot be opened or none of its frames can be decoded.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, on_damage: OnDamage | None = None) -> None:
        super().__init__(stream_name(url), on_damage)
        if not timeout > 0:
            raise ValueError(f"{without_secrets(url)}: timeout {timeout}; expected a positive number of seconds")
        self.url = url
        self.timeout = timeout
        self._shown = without_secrets(url)
        self._opened: tuple[av.container.InputContainer, av.VideoFrame, Iterator, Places] | None = self._open()
        container, first, *_ = self._opened
        stream = video_stream(container)
        self.live = not _is_recording(container)
        self.fps = _stated_rate(stream) or (None if self.live else Fraction(25))
        self.len_hint = None if self.live else declared_frames(container, self.fps or 25)
        self._pictures = Pictures(first)
        self.size = self._pictures.size

    def _open(self) -> tuple[av.container.InputContainer, av.VideoFrame, Iterator, Places]:
        """Return the container, its first frame, the rest from `decode`, and the places."""
        start = time.monotonic()
        try:
            container = av.open(self.url, timeout=self.timeout, options=_options(self.url))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self._shown}: cannot be opened: {self._why_not(error, start)}") from error
        check_video(container, self._shown, "a video stream")
        # Threads that decode several frames at once hold frames back; slices of one frame do not.
        stream = video_stream(container)
        stream.thread_type = "AUTO" if _is_recording(container) else "SLICE"
        stream.thread_count = video_threads()
        wrong: Exception | None = None
        start = time.monotonic()
        places = Places(container, stream, _stated_rate(stream) or 25)
        frames = decode(container, places)
        for first, problem in frames:
            if first is not None:
                return container, first, frames, places
            wrong = problem  # a live stream is rarely joined at a key frame
        container.close()
        why = "it ended" if wrong is None else self._no_data(wrong, start) or short(wrong)
        raise ValueError(f"{self._shown}: no frame of it can be decoded: {why}")

    def _no_data(self, error: Exception, start: float) -> str | None:
        """Return a message if what began at `start`, and failed now, has timed out.

        FFmpeg's error for that depends on the protocol, so the clock decides too.
        """
        if isinstance(error, av.error.ExitError) or time.monotonic() - start > 0.95 * self.timeout:
            return f"no data for {self.timeout:g} s"
        return None

    def _why_not(self, error: Exception, start: float) -> str:
        """Explain to the user why the stream does not open."""
        if isinstance(error, av.error.ProtocolNotFoundError):
            return f"this build of av (FFmpeg) has no protocol {_split(self.url).scheme!r}; expected rtsp, http, ..."
        if isinstance(error, ConnectionRefusedError):
            return "connection refused; is the server running, and is this its port?"
        if timed_out := self._no_data(error, start):
            return timed_out
        if isinstance(error, OSError) and error.errno == errno.EIO:  # FFmpeg's word for a host name nobody knows, too
            return "input/output error; is the host name right, and the network up?"
        return short(error)

    def _frames(self) -> Generator[SourceFrame, None, None]:
        (container, first, rest, places), self._opened = self._opened or self._open(), None
        delivered, expected, end, pending = 0, 0, 0.0, None
        with container:
            asked = time.monotonic()
            for frame, problem in chain([(first, None)], rest):
                if frame is None:
                    pending = pending or problem
                    continue
                if pending is not None:
                    self._damage(f"{self._shown}: damaged near frame {expected} ({short(pending)})", pending)
                    pending = None
                index, at = places.of(frame)
                delivered, expected = delivered + 1, self._place(index, expected)
                end = max(end, frame_end(frame, self.fps or 25))
                yield SourceFrame(self._pictures.of(frame), index, None if self.live else at)
                asked = time.monotonic()
            lost = places.end() > expected
            self._place(places.end(), expected)
            known = self.damaged > 0  # reported frames are missing from the count, too
            if pending is not None:
                why = self._no_data(pending, asked) or f"it ended or its connection was lost ({short(pending)})"
            elif not self.live and (lost or ends_early(container, None if known else delivered, end, self.fps or 25)):
                why = "cut short"
            else:
                return
            told = f" of {self.len_hint}" if self.len_hint else ""
            self._report(f"{self._shown}: {why}; {delivered}{told} frames read", pending)

    def _damage(self, message: str, cause: Exception) -> None:
        if self.live and self._on_damage is None:
            self.damaged += 1
        else:
            self._report(message, cause)

    def close(self) -> None:
        super().close()
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None


def stream_name(url: str) -> str:
    """Return a readable name of the stream that can also be the name of a folder."""
    parts = _split(url)
    return re.sub(r"[^\w.]+", "_", f"{parts.netloc.rpartition('@')[2]}{parts.path}").strip("_") or parts.scheme


def without_secrets(url: str) -> str:
    """Return the address without user name, password and query, which must not appear in messages or logs."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{url}: {error}; expected PROTOCOL://HOST:PORT/PATH") from error


def _rate(stated: Fraction | float | None) -> Fraction | float | None:
    """Return a frame rate as stated, or None if it cannot be meant: 0, -1 and NaN, or the ticks of a clock."""
    return stated if stated is not None and 0 < stated < 1000 else None


def _stated_rate(stream: av.VideoStream) -> Fraction | float | None:
    return _rate(stream.average_rate or stream.guessed_rate)


def _seconds(container: av.container.InputContainer) -> float:
    """Return the stated length of the stream in seconds. 0 if it is not stated."""
    # An MP4 that is sent while it is made states the length of what there was when it was opened, but no frame count.
    if "mp4" in container.format.name and not video_stream(container).frames:
        return 0.0
    return declared_length(container) or 0.0


def _is_recording(container: av.container.InputContainer) -> bool:
    """Return whether the whole stream already exists: its length is known, or its size in bytes."""
    playlist = container.format.name in ("hls", "dash")  # its size is not that of the video
    return _seconds(container) > 0 or (container.size > 0 and not playlist)


def _options(url: str) -> dict[str, str]:
    """Return FFmpeg's options for the protocol (ffmpeg-protocols)."""
    scheme = _split(url).scheme.lower()
    if scheme in ("rtsp", "rtsps"):
        # Over UDP, FFmpeg's first choice, a lost packet smears the picture until the next intra frame; many networks
        # let no UDP through at all.
        return {"rtsp_transport": "tcp"}
    if scheme == "udp":
        # More data than the receiving buffer holds (while a model is busy, say) lose packets instead of ending it.
        return {"overrun_nonfatal": "1"}
    return {}


def _cameras() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"found: {', '.join(found)}" if found else "no /dev/video* here"
