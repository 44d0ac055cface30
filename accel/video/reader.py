"""Video in: a video file or a folder of frames to frames.

Readers share one interface, `VideoReader`. A new kind of source is one more subclass; `accel.video.opening` chooses
among them. Cameras and streams are in `accel.video.live`.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from accel.files.listing import leads_nowhere, visible
from accel.video.decoding import check_video, declared_end, decode, ends_early, frame_end, short, to_rgb

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})

_PLAYLIST = b"#EXTM3U"
_PATIENCE = 60.0  # seconds that one reading from a file may take

OnDamage = Callable[[str], None]
Self = TypeVar("Self", bound="VideoReader")


def natural_key(name: str) -> tuple:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if part.isdigit() and part.isascii() else part for part in parts], name


def frame_files(folder: str | Path) -> list[Path]:
    """The image files directly in `folder`, in the order of their numbers, without hidden ones. Links to files that are
    not there are among them: those frames are missing, and the others keep their places."""
    files = (p for p in visible(Path(folder)) if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((p for p in files if p.is_file() or leads_nowhere(p)), key=lambda p: natural_key(p.name))


class VideoReader(ABC):
    """The frames of one video, oldest first: `for frame in reader`, each (H, W, 3) uint8 RGB.

    name:     what a person would call the video.
    fps:      frames per second; None where nobody knows (some cameras and streams).
    live:     whether frames come when they happen, whoever is ready for them or not.
    size:     (H, W) of every frame.
    len_hint: about how many frames will come, for a progress bar; None where nobody knows.
    damaged:  how many times damage was reported in the iteration so far.

    on_damage: called with a one-line message for what cannot be decoded, which is then skipped. None: damage
        raises ValueError with the same message.

    One iteration at a time: starting another ends the one before and, for files, begins again at the first
    frame. It may run in one thread and be closed from another, which then waits for the frame being read.
    """

    name: str
    fps: Fraction | float | None
    live: bool = False
    size: tuple[int, int]
    len_hint: int | None
    damaged: int = 0

    def __init__(self, name: str, on_damage: OnDamage | None) -> None:
        self.name = name
        self._on_damage = on_damage
        self._running: _Iteration | None = None

    @abstractmethod
    def _frames(self) -> Iterator[np.ndarray]:
        """A generator over all frames; it frees what it opened when it is closed."""

    def __iter__(self) -> Iterator[np.ndarray]:
        self._end_iteration()
        self.damaged = 0
        self._running = _Iteration(self._frames())
        return self._running

    def close(self) -> None:
        """End the iteration under way, if any, and free its file."""
        self._end_iteration()

    def _end_iteration(self) -> None:
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


class _Iteration:
    """A generator that one thread may close while another runs it: it closes between two frames."""

    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self._frames = frames
        self._lock = threading.RLock()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        with self._lock:
            return next(self._frames)

    def close(self) -> None:
        with self._lock:
            self._frames.close()


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
        from accel.files.images import read_image

        for file in self.files:
            try:
                return read_image(file).shape[:2]
            except (ValueError, OSError):
                if self._on_damage is None:
                    raise
        raise ValueError(f"{self.path}: none of its {len(self.files)} image files can be read")

    def _frames(self) -> Iterator[np.ndarray]:
        from accel.files.images import read_image

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
            end = declared_end(container)
            self.len_hint = stream.frames or (None if end is None else max(1, round(end * self.fps)))
            first, wrong = None, None
            for first, error in decode(container):
                wrong = wrong or error
                if first is not None:
                    break
        if first is None:
            why = f" ({short(wrong)})" if wrong is not None else ""
            raise ValueError(f"{self.path}: no frame of its video stream can be decoded{why}; expected a video file")
        self._stored_size = first.width, first.height
        self.size = to_rgb(first, self._stored_size).shape[:2]

    def _open(self) -> av.container.InputContainer:
        with self.path.open("rb") as file:
            if file.read(len(_PLAYLIST)) == _PLAYLIST:  # of a live stream, it would be read again and again
                raise ValueError(f"{self.path}: a playlist; expected a video file, or a stream's address")
        try:
            # Nothing in a file makes FFmpeg open what lies on the network.
            container = av.open(
                str(self.path), options={"protocol_whitelist": "file"}, timeout=_PATIENCE, metadata_errors="replace"
            )
        except av.FFmpegError as error:
            found = f"{self.path.stat().st_size} bytes that FFmpeg does not open ({short(error)})"
            raise ValueError(f"{self.path}: {found}; expected a video file") from error
        check_video(container, str(self.path), "a video file")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _frames(self) -> Iterator[np.ndarray]:
        delivered, end, pending = 0, 0.0, None
        with self._open() as container:
            for frame, error in decode(container):
                if frame is None:
                    pending = pending or error
                    continue
                if pending is not None:
                    self._report(f"{self.path}: damaged near frame {delivered} ({short(pending)})", pending)
                    pending = None
                delivered += 1
                end = max(end, frame_end(frame, self.fps))
                yield to_rgb(frame, self._stored_size)
            known = self.damaged > 0  # reported frames are missing from the count, too
            if pending is not None or ends_early(container, None if known else delivered, end, self.fps):
                told = f" of {self.len_hint}" if self.len_hint else ""
                why = f" ({short(pending)})" if pending is not None else ""
                self._report(f"{self.path}: cut short or damaged{why}: {delivered}{told} frames read", pending)


def _contents(folder: Path) -> str:
    kinds = Counter("folders" if p.is_dir() else p.suffix or "no suffix" for p in folder.iterdir())
    if not kinds:
        return "an empty folder"
    return "no image files (found: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)) + ")"


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(s.lstrip(".") for s in suffixes))


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
