"""Open whatever the user names: a file, a folder, a camera or an address."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

from accel.video.live import CameraReader, StreamReader, stream_name
from accel.video.reader import FolderReader, VideoFileReader
from accel.video.source import OnDamage, VideoReader


def open_video(
    source: str | Path | int,
    *,
    folder_fps: Fraction | float = 25,
    timeout: float = 10.0,
    on_damage: OnDamage | None = None,
) -> VideoReader:
    """Return the reader for `source`.

    source: a video file; a folder of frames; a camera's index (0, or "0" if no file or folder has that name); or a
        stream's address (rtsp://..., http://..., udp://... and everything else that FFmpeg reads).
    folder_fps: the frame rate for a folder of frames.
    timeout: seconds to wait for a stream's answer, and later for more data.

    Raises FileNotFoundError or ValueError if there is no such source or no frame can be read from it.
    """
    if not is_file_or_folder(source):
        if "://" in str(source):
            return StreamReader(str(source), timeout=timeout, on_damage=on_damage)
        return _camera(source if isinstance(source, int) else str(source), on_damage)
    path = Path(str(source))
    if path.is_dir():
        return FolderReader(path, fps=folder_fps, on_damage=on_damage)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected a video file or a folder of frames")
    return VideoFileReader(path, on_damage=on_damage)


def is_file_or_folder(source: str | Path | int) -> bool:
    """Return whether `open_video` treats `source` as a path on disk, not as a camera or a stream. An existing path
    always counts."""
    if isinstance(source, int):
        return False
    if isinstance(source, Path) or os.path.lexists(source):
        return True
    return not re.fullmatch(r"[0-9]+|[a-zA-Z][a-zA-Z0-9+.-]+://.*", source)


def _camera(source: str | int, on_damage: OnDamage | None) -> CameraReader:
    try:
        return CameraReader(int(source), on_damage=on_damage)
    except ValueError as error:
        if isinstance(source, int):
            raise
        raise ValueError(f"{error} There is no file or folder {source!r} here either") from error


def source_name(source: str | Path | int) -> str:
    """Return a readable name of the source that can also be the name of a folder."""
    if is_file_or_folder(source):
        return Path(str(source)).resolve().name
    if "://" in str(source):
        return stream_name(str(source))
    return f"camera{int(str(source))}"
