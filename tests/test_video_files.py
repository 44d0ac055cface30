"""Video reading and writing, against PyAV's own view of the files and OpenCV's decoder."""

import gc
import os
import struct
import threading
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from accel.files.images import read_image
from accel.video.folder import VideoFolder
from accel.video.opening import open_video
from accel.video.pictures import transform
from accel.video.reader import FolderReader, VideoFileReader
from accel.video.writer import VideoWriter

PALETTE = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    + [(255, 255, 255), (0, 0, 0), (128, 64, 128), (220, 20, 60), (244, 35, 232), (70, 70, 70)],
    np.uint8,
)


def patches(height: int = 96, width: int = 128) -> np.ndarray:
    """The palette as 12 squares."""
    squares = np.kron(np.arange(12).reshape(3, 4), np.ones((32, 32), int))
    return PALETTE[squares][:height, :width]


def moving(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), (width, height))
    return [np.roll(picture, 2 * i, axis=1) for i in range(count)]


def write_video(path: Path, frames: list[np.ndarray], fps: Fraction | float = 25) -> Path:
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def write_folder(path: Path, frames: list[np.ndarray], pattern: str = "frame{}.png") -> Path:
    path.mkdir()
    for i, frame in enumerate(frames):
        cv2.imwrite(str(path / pattern.format(i)), frame[..., ::-1])
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "drive.mp4", moving(40))


# Writing


def test_the_file_is_what_browsers_play(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(7), fps=Fraction(30000, 1001))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.frames == 7
        frames = list(container.decode(stream))
        assert [f.pts * f.time_base for f in frames] == [i * Fraction(1001, 30000) for i in range(7)]
        assert (int(frames[0].colorspace), int(frames[0].color_range)) == (1, 1)  # BT.709, 16..235
    data = path.read_bytes()
    assert data.index(b"ftyp") < data.index(b"moov") < data.index(b"mdat")
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_saturated_colours_survive(tmp_path):
    path = write_video(tmp_path / "a.mp4", [patches()] * 3)
    middles = np.s_[16::32, 16::32]
    wanted = patches()[middles].astype(int)
    (frame, *_) = open_video(path)
    assert abs(frame[middles] - wanted).max() <= 4
    decoded, seen_by_opencv = cv2.VideoCapture(str(path)).read()
    assert decoded
    assert abs(seen_by_opencv[..., ::-1][middles] - wanted).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63), (1, 1)])
def test_odd_sizes_gain_a_copy_of_their_last_row_or_column(tmp_path, height, width):
    frame = moving(1, height, width)[0]
    (read,) = open_video(write_video(tmp_path / "a.mp4", [frame]))
    assert read.shape == (height + height % 2, width + width % 2, 3)
    if height % 2:
        assert abs(read[-1].astype(int) - read[-2]).max() <= 16
    if width % 2:
        assert abs(read[:, -1].astype(int) - read[:, -2]).max() <= 16


def test_every_frame_that_comes_back_is_most_like_the_one_written(video):
    written = np.stack(moving(32)).astype(int)  # the 33rd is the first again
    for i, read in enumerate(VideoFileReader(video)):
        differences = abs(written - read).mean(axis=(1, 2, 3))
        assert differences.argmin() == i % 32
        assert differences.min() < 10  # sharp colours lose to yuv420p


@pytest.mark.parametrize(("fps", "stored"), [(25, 25), (12.5, 12.5), (29.97, 29.97), (30000 / 1001, 30000 / 1001)])
def test_the_frame_rate_is_kept(tmp_path, fps, stored):
    reader = open_video(write_video(tmp_path / "a.mp4", moving(3), fps))
    assert float(reader.fps) == pytest.approx(stored, rel=1e-6)


def test_frames_of_no_fixed_rate_are_shown_when_they_say(tmp_path):
    times = [0, 0.04, 0.5, 0.5, 1.25, 4.0]  # two at once: the later one comes a tick later
    with VideoWriter(tmp_path / "a.mp4", None) as writer:
        for frame, at in zip(moving(6), times, strict=True):
            writer.write(frame, at)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert 4 < stream.duration * stream.time_base < 4.1
        shown = [frame.time for frame in container.decode(stream)]
    assert shown == pytest.approx(times, abs=2e-5) and shown == sorted(set(shown))
    assert len(list(open_video(tmp_path / "a.mp4"))) == 6


@pytest.mark.parametrize("fps", [25, Fraction(24000, 1001), Fraction(1, 3600)])
def test_a_video_of_a_rate_may_say_when_its_frames_are_shown(tmp_path, fps):
    """Where frames are missing, their time remains; the last one is shown as long as frames are at this rate."""
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for frame, index in zip(moving(5), (1, 2, 3, 5, 7), strict=True):
            writer.write(frame, float(index / fps))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        shown = [frame.time for frame in container.decode(stream)]
        length = (stream.start_time + stream.duration) * stream.time_base
    assert shown == pytest.approx([float(index / fps) for index in (1, 2, 3, 5, 7)], rel=1e-9)
    assert float(length) == pytest.approx(float(8 / fps), rel=1e-9)


def test_a_pause_of_more_hours_than_fit_is_shortened(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for frame, time in zip(moving(3), (0, 86_400, 86_401), strict=True):
            writer.write(frame, time)
    assert writer.shortened == 1
    with av.open(str(tmp_path / "a.mp4")) as container:
        first, second, third = (frame.time for frame in container.decode(video=0))
    assert first == 0 and 6 * 3600 < second < 7 * 3600 and third - second == pytest.approx(1)


@pytest.mark.parametrize("fps", [Fraction(1, 3600), 1 / 3600, Fraction(1, 86400), 1 / 604800, 0.01, 0.1, 0.5, 100_000])
@pytest.mark.parametrize("timed", [False, True])
def test_very_slow_and_fast_videos_are_written(tmp_path, fps, timed):
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for number, frame in enumerate(moving(3)):
            writer.write(frame, float(number / fps) if timed else None)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([0, 1 / fps, 2 / fps])
        assert container.duration / av.time_base == pytest.approx(float(3 / fps))
    reader = open_video(tmp_path / "a.mp4")
    assert float(reader.fps) == pytest.approx(float(fps)) and reader.len_hint == 3
    assert writer.shortened == 0


@pytest.mark.parametrize("fps", [1 / (30 * 86400), 1e-9])
def test_a_video_of_a_frame_a_month_is_written_as_slow_as_it_can_be(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps) as writer:
        for frame in moving(3):
            writer.write(frame)
    assert writer.shortened == 2
    assert [frame.index for frame in open_video(tmp_path / "a.mp4").frames()] == [0, 1, 2]


@pytest.mark.parametrize(("fps", "times"), [(None, [None]), (None, [0, None]), (25, [0, None]), (25, [None, 0.5])])
def test_either_all_frames_say_their_time_or_none(tmp_path, fps, times):
    with (
        pytest.raises(ValueError, match=f"frame {len(times) - 1} has time {times[-1]}; expected"),
        VideoWriter(tmp_path / "a.mp4", fps) as writer,
    ):
        for time in times:
            writer.write(moving(1)[0], time)


def test_a_failed_job_leaves_nothing_and_spares_the_older_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError), VideoWriter(path, 25) as writer:
        for frame in moving(3):
            writer.write(frame)
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    "frame", [np.zeros((48, 66, 3), np.uint8), np.zeros((48, 64, 3)), np.zeros((48, 64), np.uint8)]
)
def test_a_frame_of_another_size_or_kind_is_refused(tmp_path, frame):
    with pytest.raises(ValueError, match=r"a\.mp4: frame"), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(moving(1)[0])
        writer.write(frame)
    assert not os.listdir(tmp_path)


def test_writing_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", 25):
        pass
    for fps in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="frame rate"):
            VideoWriter(tmp_path / "a.mp4", fps)
    with pytest.raises(ValueError, match="is a folder"):
        VideoWriter(tmp_path, 25)

    def without_x264(name, mode):
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av, "Codec", without_x264)
    with pytest.raises(ValueError, match="lacks libx264"):
        VideoWriter(tmp_path / "a.mp4", 25)
    assert not os.listdir(tmp_path)


def test_missing_folders_are_made(tmp_path):
    assert write_video(tmp_path / "new" / "folder" / "a.mp4", moving(1)).is_file()


# Video files


def test_a_reader_tells_about_its_video(video):
    with open_video(video) as reader:
        assert isinstance(reader, VideoFileReader)
        assert (reader.name, reader.size, reader.fps, reader.len_hint) == ("drive", (48, 64), 25, 40)
        frame = next(iter(reader))
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous


@pytest.mark.parametrize(
    "name", ["2024-01-01T12:00:00.mp4", "concat:a|b.mp4", "file:a.mp4", "http:.mp4", "%03d:.mp4", "-"]
)
def test_a_files_name_is_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(name, moving(3))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(open_video(name))) == len(list(VideoFolder(name).open(name))) == 3


def test_a_reader_begins_anew_with_every_iteration(video):
    reader = open_video(video)
    first = next(iter(reader))
    assert np.array_equal(first, next(iter(reader)))
    assert len(list(reader)) == len(list(reader)) == 40


def test_a_reader_may_be_closed_while_another_thread_reads(video):
    """Between two frames, whatever the reading thread is at."""
    for wait in np.linspace(0, 0.02, 8):
        reader, counts = open_video(video), []
        thread = threading.Thread(target=lambda reader=reader, counts=counts: counts.append(len(list(reader))))
        thread.start()
        time.sleep(wait)
        reader.close()
        thread.join(20)
        assert not thread.is_alive() and 0 <= counts[0] <= 40


def set_display_matrix(path, a, b, c, d):
    """Of the track of an MP4."""
    data = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def moved(picture, a, b, c, d):
    """Each pixel at (x, y) goes to (a x + c y, b x + d y), and then all of them to where no place is negative."""
    y, x = np.indices(picture.shape[:2])
    x, y = a * x + c * y, b * x + d * y
    out = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1, 3), np.uint8)
    out[y - y.min(), x - x.min()] = picture
    return out


MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]  # 0, 90, 180, 270 degrees
MIRRORS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", MATRICES + MIRRORS)
def test_pictures_are_turned_and_mirrored_as_the_metadata_say(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4", [patches(64)])
    (stored,) = open_video(path)
    set_display_matrix(path, *matrix)
    reader = open_video(path)
    (frame,) = reader
    np.testing.assert_array_equal(frame, moved(stored, *matrix))
    assert reader.size == frame.shape[:2] == ((128, 64) if matrix[0] == 0 else (64, 128))
    if matrix in MATRICES:
        _, wanted = cv2.VideoCapture(str(path)).read()  # OpenCV knows no mirrors
        assert abs(frame.astype(int) - wanted[..., ::-1]).max() <= 2


def test_matrices_need_not_be_exact():
    picture = patches(16)
    np.testing.assert_array_equal(transform(picture, -65000, 300, -200, 65536), picture[:, ::-1])
    np.testing.assert_array_equal(transform(picture, 9, 131072, 131072, -5), picture.swapaxes(0, 1))


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9, 0.999])
def test_a_cut_file_gives_the_frames_before_the_cut_and_one_report(tmp_path, video, share):
    data = video.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * share)])
    reports = []
    reader = open_video(cut, on_damage=reports.append)
    frames = list(reader)
    assert 0 < len(frames) < 40
    whole = list(VideoFileReader(video))
    for i in range(len(frames) - 4):  # the last few can lack a frame that is stored behind later ones
        assert np.array_equal(whole[i], frames[i])
    assert len(reports) == reader.damaged == 1
    assert f"{cut}: cut short" in reports[0]
    assert f"{len(frames)} of 40" in reports[0]

    count = 0
    with pytest.raises(ValueError, match="cut short"):
        for _ in open_video(cut):
            count += 1
    assert count == len(frames)


def test_every_cut_ends_in_frames_or_a_value_error(tmp_path, video):
    data = video.read_bytes()
    cut = tmp_path / "cut.mp4"
    with av.open(str(video)) as container:
        between_frames = [packet.pos for packet in container.demux(video=0) if packet.size]
    for length in [*range(0, len(data), len(data) // 40), *between_frames[-8:]]:
        cut.write_bytes(data[:length])
        try:
            frames, reports = 0, []
            for _ in open_video(cut, on_damage=reports.append):
                frames += 1
            assert frames < 40
            assert len(reports) == 1
        except ValueError as error:
            assert str(cut) in str(error)


def test_a_file_trimmed_by_its_edit_list_is_whole(tmp_path, video):
    data = bytearray(video.read_bytes())
    at = data.index(b"elst") + 12  # after version, flags and the number of entries
    duration, start = struct.unpack_from(">Ii", data, at)
    struct.pack_into(">Ii", data, at, duration // 2, start)
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(data)
    reports = []
    assert 18 <= len(list(open_video(path, on_damage=reports.append))) <= 22
    assert not reports


def test_damage_in_the_middle_is_reported_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.mov"  # motion JPEG: every frame stands for itself
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for frame in moving(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    whole = list(open_video(path))
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for at, size in places[12:14]:
        data[at : at + size] = bytes(size)
    path.write_bytes(data)
    reports = []
    frames = list(open_video(path, on_damage=reports.append))
    assert np.array_equal(frames, whole[:12] + whole[14:])
    assert len(reports) == 1
    assert f"{path}: damaged near frame 12" in reports[0]
    with pytest.raises(ValueError, match="damaged near frame 12"):
        list(open_video(path))


def test_files_that_are_no_video_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        open_video(tmp_path / "none.mp4")
    for name, content in [("text.mp4", b"not a video " * 100), ("empty.mp4", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: {len(content)} bytes .* expected a video file"):
            open_video(tmp_path / name)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", None))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match=r"sound\.wav: no video stream \(found: audio\)"):
        open_video(tmp_path / "sound.wav")


# Folders of frames


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "bmp", "webp", "tif"])
def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path, suffix):
    frames = [np.full((8, 10, 3), 20 * i, np.uint8) for i in range(12)]
    folder = write_folder(tmp_path / "frames", frames, "frame{}." + suffix)
    (folder / "notes.txt").touch()
    (folder / "._frame3.png").write_bytes(b"left behind by a Mac")
    reader = open_video(folder, folder_fps=Fraction(17))
    assert isinstance(reader, FolderReader)
    assert (reader.name, reader.size, reader.fps, reader.len_hint) == ("frames", (8, 10), 17, 12)
    for wanted, read in zip(frames, reader, strict=True):
        assert read.dtype == np.uint8
        assert abs(wanted.astype(int) - read).max() <= 2


def test_folder_frames_are_rgb(tmp_path):
    (frame,) = open_video(write_folder(tmp_path / "frames", [patches()]))
    assert np.array_equal(frame, patches())


@pytest.mark.parametrize("broken", [0, 2])
def test_a_damaged_frame_of_a_folder_is_skipped_and_reported(tmp_path, broken):
    folder = write_folder(tmp_path / "frames", moving(4))
    file = folder / f"frame{broken}.png"
    file.write_bytes(file.read_bytes()[:200])
    reports = []
    reader = open_video(folder, on_damage=reports.append)
    assert reader.size == (48, 64)
    assert len(list(reader)) == 3
    assert reader.damaged == len(reports) == 1
    assert str(file) in reports[0]
    with pytest.raises(ValueError, match=rf"frame{broken}\.png"):
        list(open_video(folder))


def test_folder_mistakes_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: an empty folder; expected image files"):
        open_video(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(ValueError, match=r"no image files \(found: 1 x \.txt\)"):
        open_video(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderReader(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "frames", [*moving(2), moving(1, 50, 64)[0]])
    with pytest.raises(ValueError, match=r"frame2\.png: 64x50 pixels, .* 64x48"):
        open_video(folder)
    cv2.imwrite(str(folder / "frame3.png"), moving(1, 50, 64)[0])
    (folder / "frame4.png").write_bytes((folder / "frame2.png").read_bytes()[:40])  # damaged: skipped
    with pytest.raises(ValueError, match=r"frame2\.png \(and 1 more\): 64x50"):
        open_video(folder)
    for i in range(5):
        (folder / f"frame{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 5 image files"):
        open_video(folder, on_damage=print)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_frames_that_are_shown_turned_have_the_size_that_is_shown(tmp_path, suffix):
    """As OpenCV reads them: by the orientation in a JPEG's EXIF, say."""
    upright, turned = (Image.fromarray(moving(1, *size)[0]) for size in ((48, 64), (64, 48)))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / f"0{suffix}")
    turned.save(tmp_path / f"1{suffix}", exif=exif)
    if read_image(tmp_path / f"1{suffix}").shape[:2] == (48, 64):
        assert [frame.shape[:2] for frame in open_video(tmp_path)] == [(48, 64)] * 2
    else:
        with pytest.raises(ValueError, match="48x64 pixels, but the first frame"):
            list(open_video(tmp_path))


def test_reading_leaves_no_decoder_behind(tmp_path, video):
    """Neither its threads nor its frames, and without the garbage collector: damage leaves errors with tracebacks."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: os.path.getsize(video) * 4 // 5])

    def read():
        for path in (video, cut):
            for _ in VideoFileReader(path, on_damage=lambda message: None):
                pass

    read()
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/task"))
        for _ in range(3):
            read()
        assert len(os.listdir("/proc/self/task")) <= before
    finally:
        gc.enable()
