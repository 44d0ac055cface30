"""Videos to watch: labels over the frames, or side by side with them."""

from __future__ import annotations

from typing import ClassVar

import av

from accel.formats.writer import PART, FrameWriter
from accel.recording import picture_of
from accel.tasks.task import View
from accel.video.writer import VideoWriter


class StreamedVideoWriter(VideoWriter):
    """A `VideoWriter` whose frames can be watched before it is closed, and after the program was killed.

    While it writes, the same pictures go to a second file, `NAME.part`, an MPEG transport stream, which needs no end.
    x264 gives each picture as soon as it has it. It runs on one thread, so that the file is the same wherever it is
    made.
    """

    def _options(self):
        return super()._options() | {"tune": "zerolatency"}

    def _open(self, height, width):
        super()._open(height, width)
        self._stream.codec_context.thread_count = 1
        self._streamed = self.path.with_name(self.path.name + PART)
        self._second = av.open(f"file:{self._streamed}", "w", format="mpegts", options={"flush_packets": "1"})
        self._copy: av.VideoStream | None = None

    def _mux(self, packets):
        super()._mux(packets)
        for packet in packets:
            if self._copy is None:
                self._copy = self._second.add_stream_from_template(self._stream)
            packet.stream = self._copy
            self._second.mux(packet)

    def close(self):
        super().close()
        self._end()

    def abort(self):
        super().abort()
        self._end()

    def _end(self) -> None:
        if self.frames and not self._ended:
            self._ended = True
            self._second.close()
            self._streamed.unlink(missing_ok=True)

    _ended = False


class _Watched(FrameWriter):
    """A video in which each frame appears when it does in the source."""

    view: ClassVar[View]
    file: ClassVar[str]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._video = StreamedVideoWriter(place(self.file), video.fps)
        place(self.file + PART)  # which it writes beside

    def write(self, frame):
        self._video.write(picture_of(self.task, frame, self.view), frame.time)

    def close(self):
        self._video.close()

    def abort(self):
        self._video.abort()


class OverlayVideo(_Watched):
    """`overlay.mp4`: the prediction drawn on the frames, at full size."""

    view, file = "overlay", "overlay.mp4"

    @staticmethod
    def names():
        return [OverlayVideo.file, OverlayVideo.file + PART]


class SideBySideVideo(_Watched):
    """`side_by_side.mp4`: input, prediction and overlay beside one another."""

    view, file = "panels", "side_by_side.mp4"

    @staticmethod
    def names():
        return [SideBySideVideo.file, SideBySideVideo.file + PART]
