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
    assert [path.name for path in videos.left_out] == ["no frames", "notes.txt"]


@pytest.mark.parametrize("suffix", ["MTS", "m2ts", "3gp", "GIF", "ogv", "vob", "mxf", "y4m", "h264", "hevc", "divx"])
def test_videos_are_known_by_many_suffixes(tmp_path, suffix):
    """And read by what is in them."""
    make_file(tmp_path / "a.mp4")
    make_file(tmp_path / f"b.{suffix}", 2)
    videos = VideoFolder(tmp_path)
    assert videos.videos() == ["a.mp4", f"b.{suffix}"] and not videos.left_out
    assert len(list(videos.open(f"b.{suffix}"))) == 2


def test_pictures_beside_videos_are_left_out(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make_file(tmp_path / name)
    picture = make_frames(tmp_path / "frames", 1) / "0.png"
    picture.rename(tmp_path / "thumb.png")
    (tmp_path / "frames").rmdir()
    (tmp_path / ".hidden").touch()
    (tmp_path / "deeper/still").mkdir(parents=True)
    videos = VideoFolder(tmp_path)
    assert videos.videos() == ["a.mp4", "b.mp4"]
    assert [path.name for path in videos.left_out] == ["deeper", "thumb.png"]
    assert "2 files or folders are not part of any video (deeper/, thumb.png)" in videos.describe_left_out()
    with pytest.raises(
        ValueError, match=r"holds 2 video files \(a.mp4, b.mp4\) and 1 image files; expected the frames"
    ):
        FolderReader(tmp_path)


def test_a_picture_beside_folders_of_frames_is_left_out(tmp_path):
    make_frames(tmp_path / "left")
    make_file(make_frames(tmp_path / "right") / "a.mp4")
    (make_frames(tmp_path / "cover", 1) / "0.png").rename(tmp_path / "cover.png")
    videos = VideoFolder(tmp_path)
    assert videos.videos() == ["left", "right"]
    assert videos.describe_left_out().endswith("(cover/, cover.png, right/a.mp4)")


def test_frames_beside_videos_are_one_of_them(tmp_path):
    folder = make_frames(tmp_path / "street", 5)
    make_file(folder / "a.mp4")
    make_file(make_frames(folder / "street") / "b.mp4")
    (folder / "notes.txt").touch()
    videos = VideoFolder(folder)
    assert videos.videos() == ["a.mp4", "street", "street (frames)"]
    assert [len(list(videos.open(name))) for name in videos.videos()] == [3, 2, 5]
    assert sorted(path.name for path in videos.left_out) == ["b.mp4", "notes.txt"]


def test_what_else_lies_beside_frames_is_named(tmp_path):
    folder = make_frames(tmp_path / "street")
    assert not VideoFolder(folder).left_out
    make_frames(folder / "labels")
    for number in range(7):
        (folder / f"{number}.txt").touch()
    videos = VideoFolder(folder)
    assert videos.videos() == ["street"]
    assert "8 files or folders are not part" in videos.describe_left_out()
    assert "(0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...)" in videos.describe_left_out()


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
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no video found \(found: notes.txt\); expected"):
        VideoFolder(tmp_path)
    make_frames(tmp_path / "street")
    with pytest.raises(ValueError, match="no video 'avenue'; it has street"):
        VideoFolder(tmp_path).open("avenue")
