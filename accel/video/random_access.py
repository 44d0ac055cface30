"""Frames of a recording by their numbers, without reading all that come before."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from accel.files.images import read_image
from accel.video.decoding import short, video_stream
from accel.video.pictures import Pictures
from accel.video.reader import FolderReader, VideoFileReader
from accel.video.source import VideoReader


class NumberedFrames:
    """The frames of one video file or folder of frames, by number.

    It can be handed to other processes, and opens its file anew for each call.

    reader: an open reader of the video.

    Raises ValueError for a stream, which has no frames to go back to, and for a file whose frames have no times.
    """

    def __init__(self, reader: VideoReader):
        self.name, self.size = reader.name, reader.size
        self.files: list[Path] = []
        self.path: Path | None = None
        self.times: list[int] = []
        if isinstance(reader, FolderReader):
            self.files = reader.files
        elif isinstance(reader, VideoFileReader):
            self.path = reader.path
            self.times = _times(reader.path)
        else:
            raise ValueError(f"{reader.name}: a live stream; expected a video file or a folder of frames")

    def __len__(self) -> int:
        return len(self.files) or len(self.times)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return frames first, ..., first + count - 1: (count, H, W, 3) uint8 RGB.

        Raises ValueError, with the frame's number, for frames that cannot be read or differ in size.
        """
        if self.path is None:
            frames = [read_image(file) for file in self.files[first : first + count]]
            sizes = {frame.shape for frame in frames}
            if len(sizes) > 1:
                raise ValueError(f"{self.files[first]}: frames of different sizes follow each other")
            return np.stack(frames)
        wanted = {time: number for number, time in enumerate(self.times[first : first + count])}
        found: dict[int, np.ndarray] = {}
        try:
            with _opened(self.path) as container:
                stream = video_stream(container)
                container.seek(self.times[first], stream=stream)
                pictures: Pictures | None = None
                for frame in container.decode(stream):
                    pictures = pictures or Pictures(frame)
                    if frame.pts in wanted:
                        found[wanted[frame.pts]] = pictures.of(frame)
                    if frame.pts is not None and frame.pts >= self.times[first + count - 1]:
                        break
        except av.FFmpegError as error:
            raise ValueError(f"{self.path}: damaged near frame {first} ({short(error)})") from error
        missing = [first + number for number in range(count) if number not in found]
        if missing:
            raise ValueError(f"{self.path}: frame {missing[0]} cannot be read")
        return np.stack([found[number] for number in range(count)])


def _opened(path: Path) -> av.container.InputContainer:
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _times(path: Path) -> list[int]:
    """Return the times of all frames that are shown, in order, in ticks of the stream. No frame is decoded for it."""
    with _opened(path) as container:
        packets = container.demux(video_stream(container))
        found = sorted({p.pts for p in packets if p.pts is not None and p.size and not p.is_discard and p.pts >= 0})
    if not found:
        raise ValueError(f"{path}: its frames have no times; expected a video file such as .mp4 or .mkv")
    return found
