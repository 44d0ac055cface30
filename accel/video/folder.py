"""Videos without labels, by name, for the demo and the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from accel.files.listing import visible
from accel.video.opening import is_file_or_folder, open_video, source_name
from accel.video.reader import are_frames, frame_files, name_some, natural_key, video_files
from accel.video.source import VideoReader


class VideoFolder:
    """One video or a folder of them. A video is a video file, a folder of frames, a camera or a stream.

    source: a video file, a folder of frames, or a folder that holds several of those (one level deep). A folder with
        frames is one video. If it also holds video files, its frames are one of several videos. A camera's index or a
        stream's address are possible too, as in `open_video`.
    fps: the frame rate for folders of frames.
    left_out: the files and folders in the source, except hidden ones, that are not part of these videos.

    Raises FileNotFoundError if there is no such source, and ValueError if it holds no video.
    """

    def __init__(self, source: str | Path | int, *, fps: Fraction | float = 25) -> None:
        self.fps = fps
        self.left_out: list[Path] = []
        self.source = source
        self._paths: dict[str, str | Path | int] = {}
        if not is_file_or_folder(source):
            self._paths[source_name(source)] = source
            return
        self.source = folder = Path(str(source))
        for path in self._find(folder):
            name = path.name or path.resolve().name
            self._paths[name if name not in self._paths else f"{name} (frames)"] = path
        if not self._paths:
            found = f" (found: {self._some_left_out()})" if self.left_out else ""
            raise ValueError(
                f"{self.source}: no video found{found}; expected a video file, a folder of frames, or a folder of those"
            )

    def videos(self) -> list[str]:
        """Return the names of all videos, frame2 before frame10: the names of files (with suffix) and folders."""
        return list(self._paths)

    def open(self, name: str, *, on_damage: Callable[[str], None] | None = None) -> VideoReader:
        """Return a reader of the video `name`. on_damage: as in `VideoReader`."""
        if name not in self._paths:
            raise ValueError(f"{self.source}: no video {name!r}; it has {', '.join(self._paths)}")
        return open_video(self._paths[name], folder_fps=self.fps, on_damage=on_damage)

    def has_frames(self) -> bool:
        """Return whether any video is a folder of frames, which has no frame rate."""
        return any(isinstance(source, Path) and source.is_dir() for source in self._paths.values())

    def describe_left_out(self) -> str:
        """Describe what is left out."""
        count = len(self.left_out)
        some = "1 file or folder is" if count == 1 else f"{count} files or folders are"
        return f"{self.source}: {some} not part of any video ({self._some_left_out()})"

    def _some_left_out(self) -> str:
        folder = str(self.source)  # nothing is left out of a camera
        return name_some([str(path.relative_to(folder)) + "/" * path.is_dir() for path in self.left_out])

    def __len__(self) -> int:
        return len(self._paths)

    def _find(self, source: Path) -> list[Path]:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such video file or folder")
        if not source.is_dir():
            return [source]
        entries = sorted(visible(source), key=lambda path: natural_key(path.name))
        images, videos = frame_files(source), video_files(source)
        folders = [path for path in entries if path.is_dir() and are_frames(frame_files(path), video_files(path))]
        frames = are_frames(images, videos) and not (len(images) == 1 and folders)
        if frames and not videos:
            found, read = [source], images
        else:
            found = sorted([*videos, *folders], key=lambda path: natural_key(path.name))
            found += [source] if frames else []
            read = [*found, *images] if frames else found
        self.left_out = [path for path in entries if path not in set(read)]
        self.left_out += [video for folder in folders if folder in found for video in video_files(folder)]
        return found
