"""Videos without labels, by name: what a demo or a benchmark runs over."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from accel.files.listing import visible
from accel.video.opening import is_file_or_folder, open_video, source_name
from accel.video.reader import VIDEO_SUFFIXES, VideoReader, frame_files, natural_key


class VideoFolder:
    """One video or a folder of them. A video is a video file, a folder of frames, a camera or a stream.

    source: a video file, a folder of frames, or a folder that holds several of those (one level deep; other
        files and folders in it are passed over). A folder that has frames itself is one video. Or a camera's index
        or a stream's address, as `open_video` takes them.
    fps: the frame rate to state for folders of frames, which carry none.

    Raises FileNotFoundError if there is no such source, ValueError if it holds no video.
    """

    def __init__(self, source: str | Path | int, *, fps: Fraction | float = 25) -> None:
        self.fps = fps
        if not is_file_or_folder(source):
            self.source = source
            self._paths = {source_name(source): source}
            return
        self.source = Path(source)
        self._paths = {path.name or path.resolve().name: path for path in self._find()}
        if not self._paths:
            raise ValueError(
                f"{self.source}: no video found; expected a video file, a folder of frames, or a folder of those"
            )

    def videos(self) -> list[str]:
        """The names of all videos, frame2 before frame10: names of files (with suffix) and folders."""
        return list(self._paths)

    def open(self, name: str, *, on_damage: Callable[[str], None] | None = None) -> VideoReader:
        """A reader of the video `name`. `on_damage` as in `VideoReader`."""
        if name not in self._paths:
            raise ValueError(f"{self.source}: no video {name!r}; it has {', '.join(self._paths)}")
        return open_video(self._paths[name], folder_fps=self.fps, on_damage=on_damage)

    def __len__(self) -> int:
        return len(self._paths)

    def _find(self) -> list[Path]:
        if not self.source.exists():
            raise FileNotFoundError(f"{self.source}: no such video file or folder")
        if self.source.is_file() or frame_files(self.source):
            return [self.source]
        found = [
            path
            for path in visible(self.source)
            if (frame_files(path) if path.is_dir() else path.suffix.lower() in VIDEO_SUFFIXES)
        ]
        return sorted(found, key=lambda path: natural_key(path.name))
