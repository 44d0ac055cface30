"""Video in: a video file or a folder of frames to frames.

Readers share one interface, `VideoReader`; `open_video` chooses. A new kind of source (camera, stream) is one
more subclass.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.sidedata.sidedata import Type

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})

# AVColorSpace of a frame to libswscale's name; the others are left to `av`.
_SWS_COLOURS = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}

OnDamage = Callable[[str], None]
Self = TypeVar("Self", bound="VideoReader")


def natural_key(name: str) -> tuple:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if part.isdigit() and part.isascii() else part for part in parts], name


def frame_files(folder: str | Path) -> list[Path]:
    """The image files directly in `folder`, in the order of their numbers; hidden files are left out."""
    files = (p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in files if p.is_file()), key=lambda p: natural_key(p.name))


class VideoReader(ABC):
    """The frames of one video, oldest first: `for frame in reader`, each (H, W, 3) uint8 RGB.

    name:     what a person would call the video.
    fps:      frames per second.
    size:     (H, W) of every frame.
    len_hint: about how many frames will come, for a progress bar; None where nobody knows.
    damaged:  how many times damage was reported in the iteration so far.

    on_damage: called with a one-line message for what cannot be decoded, which is then skipped. None: damage
        raises ValueError with the same message.

    One iteration at a time: starting another ends the one before and, for files, begins again at the first
    frame.
    """

    name: str
    fps: Fraction | float
    size: tuple[int, int]
    len_hint: int | None
    damaged: int = 0

    def __init__(self, name: str, on_damage: OnDamage | None) -> None:
        self.name = name
        self._on_damage = on_damage
        self._running: Iterator[np.ndarray] | None = None

    @abstractmethod
    def _frames(self) -> Iterator[np.ndarray]:
        """A generator over all frames; it frees what it opened when it is closed."""

    def __iter__(self) -> Iterator[np.ndarray]:
        self.close()
        self.damaged = 0
        self._running = self._frames()
        return self._running

    def close(self) -> None:
        """End the iteration under way, if any, and free its file."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(self, message: str, cause: Exception | None = None) -> None:
        self.damaged += 1
        if self._on_damage is None:
            raise ValueError(message) from cause
        self._on_damage(message)


class FolderReader(VideoReader):
    """A folder of frames (png, jpg, bmp, webp, tif), in the order of the numbers in their names.

    folder: holds the images; other files, hidden files and folders are not looked at.
    fps:    the frame rate to state: a folder carries none.

    Raises FileNotFoundError or ValueError if there is no folder or no readable frame in it; while reading,
    ValueError if a frame is of another size than the first.
    """

    def __init__(self, folder: str | Path, *, fps: Fraction | float = 25, on_damage: OnDamage | None = None) -> None:
        folder = Path(folder)
        super().__init__(folder.resolve().name, on_damage)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected a folder of frames")
        self.path = folder
        self.fps = fps
        self.files = frame_files(folder)
        if not self.files:
            raise ValueError(f"{folder}: {_contents(folder)}; expected image files ({_listed(IMAGE_SUFFIXES)})")
        self.len_hint = len(self.files)
        self.size = self._first_size()

    def _first_size(self) -> tuple[int, int]:
        from accel.datasets.images import read_image

        for file in self.files:
            try:
                return read_image(file).shape[:2]
            except (ValueError, OSError):
                if self._on_damage is None:
                    raise
        raise ValueError(f"{self.path}: none of its {len(self.files)} image files can be read")

    def _frames(self) -> Iterator[np.ndarray]:
        from accel.datasets.images import read_image

        for file in self.files:
            try:
                frame = read_image(file)
            except (ValueError, OSError) as error:
                self._report(str(error), error)
                continue
            if frame.shape[:2] != self.size:
                raise ValueError(
                    f"{file}: {_wxh(frame.shape)} pixels, but the first frame of {self.path} has "
                    f"{_wxh(self.size)}; expected all frames of a folder to have one size"
                )
            yield frame


class VideoFileReader(VideoReader):
    """A video file, through FFmpeg: whatever the installed `av` decodes.

    The first video stream is read; sound is not. A rotation by a multiple of 90 degrees in the metadata
    (phones held upright) is applied. Non-square pixels stay as stored. Colours follow the stream's tags; an
    untagged stream is taken as BT.601, as FFmpeg does. A stream that changes its size midway is scaled to the
    size it began with.

    A run of undecodable frames is one report (`damaged` counts reports). So is a file that ends before its
    header says: the frames up to the cut come first.

    Raises FileNotFoundError if there is no such file, ValueError if no frame can be decoded from it.
    """

    def __init__(self, path: str | Path, *, on_damage: OnDamage | None = None) -> None:
        self.path = Path(path)
        super().__init__(self.path.stem, on_damage)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; expected a video file")
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
            end = _declared_end(container)
            self.len_hint = stream.frames or (None if end is None else max(1, round(end * self.fps)))
            first, wrong = None, None
            for first, error in _decode(container):
                wrong = wrong or error
                if first is not None:
                    break
        if first is None:
            why = f" ({_short(wrong)})" if wrong is not None else ""
            raise ValueError(f"{self.path}: no frame of its video stream can be decoded{why}; expected a video file")
        self._stored_size = first.width, first.height
        self.size = self._to_rgb(first).shape[:2]

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self.path))
        except av.FFmpegError as error:
            found = f"{self.path.stat().st_size} bytes that FFmpeg does not open ({_short(error)})"
            raise ValueError(f"{self.path}: {found}; expected a video file") from error
        if not container.streams.video:
            found = ", ".join(stream.type for stream in container.streams) or "no streams"
            container.close()
            raise ValueError(f"{self.path}: no video stream (found: {found}); expected a video file")
        stream = container.streams.video[0]
        if stream.codec_context is None:  # a header too damaged to name its codec, or a codec unknown to FFmpeg
            container.close()
            raise ValueError(f"{self.path}: FFmpeg has no decoder for its video stream; expected a video file")
        stream.thread_type = "AUTO"
        return container

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = self._stored_size
        rgb = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_SWS_COLOURS.get(int(frame.colorspace)),
            dst_colorspace="ITU601",  # means nothing for RGB; av 13 heeds the source's only if it differs
        ).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, _quarter_turns(frame)))

    def _frames(self) -> Iterator[np.ndarray]:
        delivered, end, pending = 0, 0.0, None
        with self._open() as container:
            for frame, error in _decode(container):
                if frame is None:
                    pending = pending or error
                    continue
                if pending is not None:
                    self._report(f"{self.path}: damaged near frame {delivered} ({_short(pending)})", pending)
                    pending = None
                delivered += 1
                end = max(end, _end(frame, self.fps))
                yield self._to_rgb(frame)
            known = self.damaged > 0  # reported frames are missing from the count, too
            if pending is not None or _ends_early(container, None if known else delivered, end, self.fps):
                told = f" of {self.len_hint}" if self.len_hint else ""
                why = f" ({_short(pending)})" if pending is not None else ""
                self._report(f"{self.path}: cut short or damaged{why}: {delivered}{told} frames read", pending)


def open_video(
    source: str | Path, *, folder_fps: Fraction | float = 25, on_damage: OnDamage | None = None
) -> VideoReader:
    """The reader for `source`: a video file, or a folder of frames, which is said to have `folder_fps`."""
    path = Path(source)
    if path.is_dir():
        return FolderReader(path, fps=folder_fps, on_damage=on_damage)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected a video file or a folder of frames")
    return VideoFileReader(path, on_damage=on_damage)


def _decode(
    container: av.container.InputContainer,
) -> Iterator[tuple[av.VideoFrame, None] | tuple[None, Exception]]:
    """The first video stream's frames, and in their place what went wrong; it goes on after a bad packet.

    How the file ends comes last: a decoder holds frames back, and those are from before a cut.
    """
    stream = container.streams.video[0]
    packets = container.demux(stream)
    cut: Exception | None = None
    packet = True
    while packet is not None:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            cut, packet = error, None
        if packet is not None and packet.is_corrupt:
            if cut is not None:
                yield None, cut
            cut = ValueError("incomplete data")
            continue
        if cut is not None and packet is not None and packet.size:  # it was not the end
            yield None, cut
            cut = None
        try:
            for frame in stream.codec_context.decode(packet):
                yield frame, None
        except av.error.EOFError:  # flushed before: `demux` ends with an empty packet
            pass
        except av.FFmpegError as error:
            yield None, error
    if cut is not None:
        yield None, cut


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How many times the stored picture is to be turned by 90 degrees counterclockwise for display."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)  # what iteration gives differs between versions of av
    if data is not None:  # 3x3 fixed-point numbers, (a, b, u, c, d, v, x, y, w)
        a, b = np.frombuffer(bytes(data), np.int32)[:2]
        return -round(math.atan2(b, a) / (math.pi / 2)) % 4
    return 0


def _declared_end(container: av.container.InputContainer) -> float | None:
    """The time in seconds at which the header says the last frame ends, None if it does not say."""
    stream = container.streams.video[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return ((container.start_time or 0) + container.duration) / av.time_base
    return None


def _end(frame: av.VideoFrame, fps: Fraction | float) -> float:
    """The time in seconds at which the next frame is due; 0 if the frame carries no time."""
    if frame.time is None:
        return 0.0
    duration = getattr(frame, "duration", None)  # av >= 15
    return frame.time + float(duration * frame.time_base if duration else 1 / fps)


def _ends_early(
    container: av.container.InputContainer, delivered: int | None, end: float, fps: Fraction | float
) -> bool:
    """Whether frames that the header promises have not come.

    delivered: how many came; None if the count is known to tell nothing.
    end: when the last of them ended, in seconds.
    """
    declared = _declared_end(container)
    if declared is None:
        return False
    if "mp4" not in container.format.name:  # other headers may be off by some frames
        return end + 0.5 < declared
    stream = container.streams.video[0]
    start = float((stream.start_time or 0) * stream.time_base)
    hidden = round((declared - start) * fps) < stream.frames  # an edit list shows a part of what is stored
    if delivered is not None and stream.frames and not hidden:
        return delivered < stream.frames
    return end + 0.5 / fps < declared


def _contents(folder: Path) -> str:
    kinds = Counter("folders" if p.is_dir() else p.suffix or "no suffix" for p in folder.iterdir())
    if not kinds:
        return "an empty folder"
    return "no image files (found: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)) + ")"


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(s.lstrip(".") for s in suffixes))


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
