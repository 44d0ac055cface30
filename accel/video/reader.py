"""Read video files and folders of frames.

Readers share one interface, `VideoReader` (`accel.video.source`). A new kind of source is one more subclass.
`accel.video.opening` chooses among them. Cameras and streams are in `accel.video.live`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path

import av

from accel.files.image_sizes import header_sizes
from accel.files.listing import leads_nowhere, visible
from accel.threads import video_threads
from accel.video.decoding import check_video, declared_frames, decode, ends_early, frame_end, short, video_stream
from accel.video.pictures import Pictures
from accel.video.places import Places
from accel.video.source import OnDamage, SourceFrame, VideoReader

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_VIDEO_SUFFIXES = """
    mp4 m4v mp4v mov qt mkv mk3d webm avi divx xvid wmv asf flv f4v 3gp 3gpp 3g2 ogv ogm gif
    mpg mpeg mpe m1v m2v mpv vob evo ts mts m2ts m2t trp mxf gxf y4m dv rm rmvb nut wtv dvr-ms amv
    h261 h263 h264 264 avc h265 265 hevc h266 266 vvc ivf obu av1 vc1 mjpg mjpeg insv lrv
"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _VIDEO_SUFFIXES.split())

_PLAYLIST = b"#EXTM3U"
_NAMED = 5  # files that a message names
_CLOCKS = 1000  # frames a second; what FFmpeg guesses beyond that are the ticks of a clock
_PATIENCE = 60.0  # seconds that one reading from a file may take


def natural_key(name: str) -> tuple:
    """Return a sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if part.isdigit() and part.isascii() else part for part in parts], name


def frame_files(folder: str | Path) -> list[Path]:
    """Return the image files directly in `folder`, in the order of their numbers, without hidden ones.

    Links to files that do not exist are included: those frames are missing, and the others keep their places.
    """
    files = (p for p in visible(Path(folder)) if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((p for p in files if p.is_file() or leads_nowhere(p)), key=lambda p: natural_key(p.name))


def video_files(folder: str | Path) -> list[Path]:
    """Return the video files directly in `folder`, by their suffixes, in the order of their numbers, without hidden
    ones."""
    files = (p for p in visible(Path(folder)) if p.suffix.lower() in VIDEO_SUFFIXES)
    return sorted((p for p in files if not p.is_dir()), key=lambda p: natural_key(p.name))


def are_frames(images: list[Path], videos: list[Path]) -> bool:
    """Return whether the images of a folder are the frames of a video.

    Images beside video files may be covers, for example. They are frames only if there are more of them than videos,
    and if their names differ only by a number.
    """
    kinds = {re.sub("[0-9]+", "0", path.name.lower()) for path in images}
    return bool(images) and (not videos or (len(images) > max(len(videos), 1) and len(kinds) == 1))


class FolderReader(VideoReader):
    """A folder of frames (png, jpg, bmp, webp, tif), in the order of the numbers in their names.

    folder: the folder with the images. Other files, hidden files and folders in it are ignored.
    fps: the frame rate, which a folder does not have itself.

    Raises FileNotFoundError or ValueError if there is no folder or no readable frame in it, if it is a folder of video
    files, or if a frame differs in size from the first. Sizes are checked by the headers before any frame is read.
    """

    def __init__(self, folder: str | Path, *, fps: Fraction | float = 25, on_damage: OnDamage | None = None) -> None:
        folder = Path(folder)
        super().__init__(folder.resolve().name, on_damage)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected a folder of frames")
        if not 0 < fps < math.inf:
            raise ValueError(f"{folder}: frame rate {fps}; expected a positive number of frames a second")
        self.path = folder
        self.fps = self._rate = fps
        self.files = frame_files(folder)
        videos = video_files(folder)
        if videos and not are_frames(self.files, videos):
            images = f" and {len(self.files)} image files" if self.files else ""
            found = f"{len(videos)} video files ({name_some([each.name for each in videos])}){images}"
            raise ValueError(f"{folder}: holds {found}; expected the frames of one video, or the name of a video file")
        if not self.files:
            raise ValueError(f"{folder}: {_contents(folder)}; expected image files ({_listed(IMAGE_SUFFIXES)})")
        self.len_hint = len(self.files)
        self._stems = Counter(file.stem for file in self.files)
        self.size = self._first_size()
        self._refuse_other_sizes()

    def frame_name(self, index: int) -> str:
        file = self.files[index]
        return file.name if self._stems[file.stem] > 1 else file.stem

    def _first_size(self) -> tuple[int, int]:
        from accel.files.images import read_image

        for file in self.files:
            try:
                height, width = read_image(file).shape[:2]
                return height, width
            except (ValueError, OSError):
                if self._on_damage is None:
                    raise
        raise ValueError(f"{self.path}: none of its {len(self.files)} image files can be read")

    def _refuse_other_sizes(self) -> None:
        others = [(file, sizes[0]) for file in self.files if (sizes := header_sizes(file)) and self.size not in sizes]
        if others:
            file, size = others[0]
            further = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            raise self._other_size(file, size, further)

    def _other_size(self, file: Path, size: tuple[int, int], further: str = "") -> ValueError:
        return ValueError(
            f"{file}{further}: {_wxh(size)} pixels, but the first frame of {self.path} has {_wxh(self.size)}; "
            "expected all frames of a folder to have one size"
        )

    def _frames(self) -> Generator[SourceFrame, None, None]:
        from accel.files.images import read_image

        expected = 0
        for index, file in enumerate(self.files):
            try:
                frame = read_image(file)
            except (ValueError, OSError) as error:
                self._report(str(error), error)
                continue
            if frame.shape[:2] != self.size:
                raise self._other_size(file, frame.shape[:2])  # the header says something else
            expected = self._place(index, expected)
            yield SourceFrame(frame, index, float(index / self._rate))
        self._place(len(self.files), expected)


class VideoFileReader(VideoReader):
    """A video file that the installed `av` (FFmpeg) can decode.

    The first video stream is read; sound is not. Quarter turns (phones held upright) and mirrors in the metadata are
    applied. Non-square pixels stay as stored. Colours follow the stream's tags; an untagged stream is treated as
    BT.601, as by FFmpeg. If a stream changes its size, frames are scaled to the first size.

    A series of undecodable frames gives one report (`damaged` counts reports). So does a file that ends earlier than
    its header says; the frames up to the cut come first.

    Raises FileNotFoundError if there is no such file, and ValueError if no frame can be decoded from it.
    """

    def __init__(self, path: str | Path, *, on_damage: OnDamage | None = None) -> None:
        self.path = Path(path)
        super().__init__(self.path.stem, on_damage)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; expected a video file")
        with self._open() as container:
            stream = video_stream(container)
            guess = stream.guessed_rate or stream.base_rate or 0
            self._rate = stream.average_rate or (guess if 0 < guess < _CLOCKS else Fraction(25))
            self.fps = self._rate
            self.len_hint = declared_frames(container, self._rate)
            first, wrong = None, None
            for first, error in decode(container):
                wrong = wrong or error
                if first is not None:
                    break
        if first is None:
            why = f" ({short(wrong)})" if wrong is not None else ""
            raise ValueError(f"{self.path}: no frame of its video stream can be decoded{why}; expected a video file")
        self._pictures = Pictures(first)
        self.size = self._pictures.size

    def container(self) -> av.container.InputContainer:
        """Return the file, opened anew, for who needs its packets."""
        return self._open()

    def _open(self) -> av.container.InputContainer:
        with self.path.open("rb") as file:
            if file.read(len(_PLAYLIST)) == _PLAYLIST:  # of a live stream, it would be read again and again
                raise ValueError(f"{self.path}: a playlist; expected a video file, or a stream's address")
        try:
            # Nothing in a file makes FFmpeg open what lies on the network. "file:": what stands before a colon in the
            # name is no protocol.
            container = av.open(
                f"file:{self.path}",
                options={"protocol_whitelist": "file"},
                timeout=_PATIENCE,
                metadata_errors="replace",
            )
        except av.FFmpegError as error:
            found = f"{self.path.stat().st_size} bytes that FFmpeg does not open ({short(error)})"
            raise ValueError(f"{self.path}: {found}; expected a video file") from error
        check_video(container, str(self.path), "a video file")
        stream = video_stream(container)
        stream.thread_type, stream.thread_count = "AUTO", video_threads()
        return container

    def _frames(self) -> Generator[SourceFrame, None, None]:
        delivered, expected, end, pending = 0, 0, 0.0, None
        with self._open() as container:
            places = Places(container, video_stream(container), self._rate)
            for frame, error in decode(container, places):
                if frame is None:
                    pending = pending or error
                    continue
                if pending is not None:
                    self._report(f"{self.path}: damaged near frame {expected} ({short(pending)})", pending)
                    pending = None
                index, time = places.of(frame)
                delivered, expected = delivered + 1, self._place(index, expected)
                end = max(end, frame_end(frame, self._rate))
                yield SourceFrame(self._pictures.of(frame), index, time)
            lost = places.end() > expected
            self._place(places.end(), expected)
            known = self.damaged > 0  # reported frames are missing from the count, too
            if pending is not None or lost or ends_early(container, None if known else delivered, end, self._rate):
                told = f" of {self.len_hint}" if self.len_hint else ""
                why = f" ({short(pending)})" if pending is not None else ""
                self._report(f"{self.path}: cut short or damaged{why}: {delivered}{told} frames read", pending)


def name_some(names: Sequence[str]) -> str:
    """Return the first of many names, for a message."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _contents(folder: Path) -> str:
    kinds = Counter("folders" if p.is_dir() else p.suffix or "no suffix" for p in folder.iterdir())
    if not kinds:
        return "an empty folder"
    return "no image files (found: " + ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)) + ")"


def _listed(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(s.lstrip(".") for s in suffixes))


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
