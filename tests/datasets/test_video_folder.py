"""VideoFolder over files, folders of frames and folders of both."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from accel.video.folder import VideoFolder
from accel.video.reader import FolderReader, VideoFileReader
from accel.video.writer import VideoWriter


def make_file(path: Path, frames: int = 3) -> Path:
    with VideoWriter(path, 10) as writer:
        for _ in range(frames):
            writer.write(np.full((16, 16, 3), 90, np.uint8))
    return path


def make_frames(path: Path, frames: int = 2) -> Path:
    path.mkdir()
    for i in range(frames):
        cv2.imwrite(str(path / f"{i}.png"), np.full((8, 10, 3), i, np.uint8))
    return path


def test_a_video_file_is_one_video(tmp_path):
    videos = VideoFolder(make_file(tmp_path / "a.mp4"))
    assert videos.videos() == ["a.mp4"]
    with videos.open("a.mp4") as reader:
        assert isinstance(reader, VideoFileReader)
        assert len(list(reader)) == 3


def test_a_folder_of_frames_is_one_video(tmp_path):
    videos = VideoFolder(make_frames(tmp_path / "street"), fps=17)
    assert videos.videos() == ["street"]
    reader = videos.open("street")
    assert isinstance(reader, FolderReader)
    assert reader.fps == 17
    assert len(list(reader)) == 2


def test_a_folder_of_several_lists_files_and_folders_in_natural_order(tmp_path):
    make_frames(tmp_path / "drive10")
    make_file(tmp_path / "drive9.mp4", 4)
    make_file(tmp_path / "drive11.MP4", 1)
    (tmp_path / "no frames").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".drive1.mp4").touch()
    videos = VideoFolder(tmp_path)
    assert videos.videos() == ["drive9.mp4", "drive10", "drive11.MP4"]
    assert len(videos) == 3
    assert [len(list(videos.open(name))) for name in videos.videos()] == [4, 2, 1]


def test_damage_is_handed_on(tmp_path):
    (make_frames(tmp_path / "street") / "1.png").write_bytes(b"")
    reports = []
    assert len(list(VideoFolder(tmp_path).open("street", on_damage=reports.append))) == 1
    assert "1.png" in reports[0]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        VideoFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no video found; expected"):
        VideoFolder(tmp_path)
    make_frames(tmp_path / "street")
    with pytest.raises(ValueError, match="no video 'avenue'; it has street"):
        VideoFolder(tmp_path).open("avenue")
