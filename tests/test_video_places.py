"""A frame is known by its place in the source: numbers and times of frames after damage."""

import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from accel.video.live import in_real_time
from accel.video.opening import open_video
from accel.video.writer import VideoWriter

RATE = 10


def grey(number):
    """A frame whose grey says its number."""
    return np.full((48, 64, 3), 20 * number % 256, np.uint8)


def numbers(frames):
    """The numbers that the frames were written with, seen in their grey."""
    return [round(frame.image.mean() / 20) for frame in frames]


def write(path, times, codec, options=None, rate=RATE):
    """Frames 0, 1, ... shown at these times, in ticks of 1/rate s."""
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.time_base = Fraction(1, rate)
        for number, ticks in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
            frame.pts, frame.time_base = ticks, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets(path):
    """(time in s, bytes) of all packets, in the order they are shown."""
    with av.open(str(path)) as container:
        found = [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(video=0) if p.size]
    return sorted(found)


def overwrite(path, lost):
    """The data of these frames (by the order they are shown) become zeros."""
    data, all_packets = path.read_bytes(), packets(path)
    for number in lost:
        old = all_packets[number][1]
        assert data.count(old) == 1
        data = data.replace(old, bytes(len(old)))
    path.write_bytes(data)


def read(path):
    reports = []
    reader = open_video(path, on_damage=reports.append)
    return reader, list(reader.frames()), reports


def listed(missing):
    return [number for each in missing for number in each]


@pytest.mark.parametrize("lost", [[4], [0], [0, 1], [9], [3, 4, 5], [2, 6]])
@pytest.mark.parametrize("form", ["avi mjpeg", "mov mjpeg", "mkv mjpeg", "avi mpeg4", "mp4 libx264", "webm libvpx-vp9"])
def test_frames_after_damage_keep_their_numbers_and_times(tmp_path, form, lost):
    """Of frames that need no other; decoders say nothing of damage in the last ones."""
    suffix, codec = form.split()
    path = write(tmp_path / f"a.{suffix}", range(10), codec, {"g": "1"})
    overwrite(path, lost)
    reader, frames, reports = read(path)
    wanted = [number for number in range(10) if number not in lost]
    assert numbers(frames) == [frame.index for frame in frames] == wanted
    assert [frame.time for frame in frames] == pytest.approx([number / RATE for number in wanted], abs=2e-3)
    assert listed(reader.missing) == lost and reports


@pytest.mark.parametrize("lost", [[4], [1, 2], [9]])
def test_where_the_rate_varies_packets_tell_how_many_are_lost(tmp_path, lost):
    """A frame a second at the end is no gap; a lost one among them is."""
    times = [0, 1, 2, 3, 4, 5, 6, 16, 26, 36, 46]
    path = write(tmp_path / "a.mov", times, "mjpeg")
    overwrite(path, lost)
    reader, frames, _ = read(path)
    wanted = [number for number in range(11) if number not in lost]
    assert numbers(frames) == [frame.index for frame in frames] == wanted
    assert [frame.time for frame in frames] == pytest.approx([times[number] / RATE for number in wanted], abs=2e-3)
    assert listed(reader.missing) == lost


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("lost", [3, 4, 6])
def test_frames_stored_out_of_order_keep_their_numbers(tmp_path, monkeypatch, lost, threads):
    """Frames that others are made of, too: what is shown in their place may be poor, but not shifted. With one thread
    the decoder gives frames before all packets of earlier ones were read."""
    monkeypatch.setattr("accel.video.reader.video_threads", lambda: threads)
    options = {"bf": "2", "g": "30", "b-pyramid": "none", "x264-params": "b-adapt=0"}
    path = write(tmp_path / "a.mp4", range(12), "libx264", options)
    with av.open(str(path)) as container:
        pts = [p.pts for p in container.demux(video=0) if p.size]
    assert pts != sorted(pts)
    whole = {frame.index: frame.time for frame in read(path)[1]}
    overwrite(path, [lost])
    reader, frames, _ = read(path)
    assert all(frame.time == pytest.approx(whole[frame.index]) for frame in frames)
    assert sorted([*listed(reader.missing), *(frame.index for frame in frames)]) == list(range(12))


def test_lost_packets_of_a_transport_stream_leave_a_gap(tmp_path):
    path = write(tmp_path / "a.ts", range(12), "mpeg2video", {"g": "1"})
    data = path.read_bytes()
    where = [at for at in range(0, len(data), 188) if data[at + 1] & 0x40]  # where a frame, or a table, begins
    whole = read(path)[1]
    middle = len(where) // 2
    path.write_bytes(data[: where[middle]] + data[where[middle + 3] + 188 :])
    _, frames, reports = read(path)
    assert 12 - 4 <= len(frames) < 12 and reports
    assert all(frame.time == pytest.approx(frame.index / RATE) for frame in frames)
    assert numbers(frames) == [frame.index for frame in frames]
    assert frames[-1].index == whole[-1].index == 11


def test_whole_videos_have_no_gaps(tmp_path):
    """VP8's hidden frames are packets, too."""
    moving = np.random.default_rng(0).integers(0, 256, (48, 400, 3), np.uint8)
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=RATE, options={"auto-alt-ref": "1", "lag-in-frames": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            picture = np.ascontiguousarray(moving[:, 3 * number : 3 * number + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    reader, frames, reports = read(path)
    assert [frame.index for frame in frames] == list(range(60)) and not reader.missing and not reports


def test_clocks_that_are_set_anew_make_no_gap(tmp_path):
    """Two recordings in one transport stream, the second of another day."""
    parts = []
    for offset in (0, 500_000):
        path = write(tmp_path / "part.ts", [offset + number for number in range(8)], "mpeg2video", {"g": "1"})
        parts.append(path.read_bytes())
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    reader, frames, _ = read(path)
    assert reader.len_hint < 1000  # by the clock it is half a million
    assert sorted([*listed(reader.missing), *(frame.index for frame in frames)]) == list(range(16))
    assert len(frames) >= 15  # the packet at the seam may count as cut off
    assert [frame.time for frame in frames] == pytest.approx([frame.index / RATE for frame in frames])


def test_a_damaged_frame_of_a_folder_leaves_a_gap(tmp_path):
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), grey(number))
    for number in (0, 3, 4):
        (tmp_path / f"{number}.png").write_bytes(b"")
    reports = []
    reader = open_video(tmp_path, folder_fps=5, on_damage=reports.append)
    frames = list(reader.frames())
    assert numbers(frames) == [frame.index for frame in frames] == [1, 2, 5]
    assert [frame.time for frame in frames] == [0.2, 0.4, 1.0]
    assert reader.missing == [range(1), range(3, 5)]
    assert len(list(reader)) == 3 and reader.missing == [range(1), range(3, 5)]  # of one iteration


@pytest.mark.parametrize("lost", [[], [4]])
def test_frames_stored_out_of_order_in_an_avi_come_in_order(tmp_path, lost):
    """It has no times: FFmpeg's are guesses."""
    path = write(tmp_path / "a.avi", range(12), "libx264", {"bf": "2", "x264-params": "b-adapt=0:keyint=4"})
    whole = read(path)[1]
    assert numbers(whole) == [frame.index for frame in whole] == list(range(12))
    assert [frame.time for frame in whole] == pytest.approx([number / RATE for number in range(12)])
    overwrite(path, lost)
    reader, frames, _ = read(path)
    assert sorted([*listed(reader.missing), *(frame.index for frame in frames)]) == list(range(12))


def test_pauses_of_an_avi_are_no_gaps(tmp_path):
    times = [0, 1, 2, 3, 9, 10, 16, 17]
    reader, frames, reports = read(write(tmp_path / "a.avi", times, "msmpeg4"))
    assert [frame.index for frame in frames] == list(range(8)) and not reader.missing and not reports
    assert [frame.time for frame in frames] == pytest.approx([ticks / RATE for ticks in times])


def test_times_that_a_file_rounds_are_those_of_its_frame_rate(tmp_path):
    """Matroska counts milliseconds."""
    rate = Fraction(30000, 1001)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(number), format="rgb24")))
        container.mux(stream.encode(None))
    _, frames, _ = read(tmp_path / "a.mkv")
    assert [frame.time for frame in frames] == pytest.approx([float(n / rate) for n in range(12)], abs=1e-9)


VARYING = [*range(20), *range(20, 60, 10)]  # 30 frames a second, then 3: in ticks of 1/30 s


@pytest.mark.parametrize(
    "form", ["mp4 libx264", "mkv libx264", "webm libvpx-vp9", "flv libx264", "ts libx264", "mov mjpeg"]
)
def test_every_frame_is_shown_at_its_own_time(tmp_path, form):
    """From a file of no fixed rate to the video that is made of it."""
    suffix, codec = form.split()
    path = write(tmp_path / f"a.{suffix}", VARYING, codec, rate=30)
    reader, frames, _ = read(path)
    assert [frame.index for frame in frames] == list(range(len(VARYING))) and not reader.missing
    times = [time / 30 for time in VARYING]
    assert [frame.time for frame in frames] == pytest.approx(times, abs=6e-4)
    with VideoWriter(tmp_path / "out.mp4", reader.fps) as video:
        for frame in frames:
            video.write(frame.image, frame.time)
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
        length = container.duration / av.time_base
    assert shown == pytest.approx(times, abs=6e-4)
    assert times[-1] < length < times[-1] + 0.34


def test_a_file_played_in_real_time_keeps_its_times(tmp_path):
    path = write(tmp_path / "a.mkv", [0, 1, 2, 9], "mjpeg", rate=30)
    start = time.monotonic()
    came = [(time.monotonic() - start, frame.time) for frame in in_real_time(open_video(path))]
    assert all(when >= shown for when, shown in came) and came[-1][1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "form", ["ts mpeg2video", "ts libx264", "mkv mjpeg", "mov mjpeg", "flv libx264", "asf msmpeg4", "nut mjpeg"]
)
@pytest.mark.parametrize("start", [0, 20_000])
def test_how_long_a_video_is_does_not_depend_on_when_its_clock_starts(tmp_path, form, start):
    """Recordings of broadcasts say how long the sender has been on."""
    suffix, codec = form.split()
    path = write(tmp_path / f"a.{suffix}", [start + number for number in range(30)], codec, {"g": "1"})
    reader, frames, reports = read(path)
    assert [frame.index for frame in frames] == list(range(30)) and not reports
    assert 29 <= reader.len_hint <= 31
    assert [frame.time for frame in frames] == pytest.approx([number / RATE for number in range(30)], abs=2e-3)
