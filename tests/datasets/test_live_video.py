"""Cameras and streams: over a local network connection, and with a camera that is made up."""

import os
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import pytest

from accel.video import live as live_video
from accel.video.decoding import decode
from accel.video.folder import VideoFolder
from accel.video.live import CameraReader, StreamReader, in_real_time
from accel.video.opening import open_video, source_name
from accel.video.reader import VideoFileReader

SOON = 20  # seconds: what should come at once has come by then, on a busy machine, too


# Streams


@pytest.mark.parametrize("format", ["mpegts", "matroska", "mp4"])
def test_a_stream_without_an_end_is_live(stream_server, format):
    reader = open_video(stream_server(format, pieces=8), timeout=SOON)
    assert isinstance(reader, StreamReader) and reader.live
    assert (reader.size, reader.fps, reader.len_hint) == ((48, 64), 25, None)
    assert len(list(reader)) == 50
    assert stream_server.requests == 1  # it goes on from where opening it has come to


@pytest.mark.parametrize("format", ["mpegts", "matroska", "mp4"])
def test_a_stream_of_known_size_is_a_recording_and_read_as_a_file_is(stream_server, tmp_path, format):
    url = stream_server(format, growing=False, length_known=True)
    reader = open_video(url, timeout=SOON)
    assert not reader.live and reader.fps == 25
    assert reader.len_hint == (None if format == "mpegts" else 50)
    path = tmp_path / "file"
    path.write_bytes(stream_server.bytes_of(url))
    wanted = list(VideoFileReader(path))
    for _ in range(2):  # from the start each time
        np.testing.assert_array_equal(list(reader), wanted)
    assert reader.damaged == 0


def test_a_recording_without_a_stated_size_is_known_by_its_length(stream_server):
    reader = open_video(stream_server("mp4", growing=False), timeout=SOON)
    assert not reader.live and reader.len_hint == 50
    assert len(list(reader)) == 50


def test_a_recording_that_is_cut_short_is_told(stream_server):
    reports = []
    url = stream_server("mp4", growing=False, share=0.8)
    reader = open_video(url, timeout=SOON, on_damage=reports.append)
    count = len(list(reader))
    assert 10 < count < 50 and reader.damaged == 1
    assert reports[0].startswith(f"{url}: ") and f"{count} of 50 frames read" in reports[0]
    with pytest.raises(ValueError, match=f"{count} of 50 frames read"):
        list(open_video(url, timeout=SOON))


@pytest.mark.parametrize("ending", ["clean", "cut"])
def test_the_end_of_a_live_stream(stream_server, ending):
    reports = []
    reader = open_video(stream_server("mpegts", clean_end=ending == "clean"), timeout=SOON, on_damage=reports.append)
    frames = list(reader)
    assert 45 <= len(frames) <= 50 and all(frame.shape == (48, 64, 3) for frame in frames)
    if ending == "clean":
        assert not reports
    else:
        (report,) = reports
        assert re.search(rf": it ended or its connection was lost \(.*\); {len(frames)} frames read$", report)
        with pytest.raises(ValueError, match="it ended or its connection was lost"):
            list(open_video(stream_server("mpegts", clean_end=False), timeout=SOON))


def test_a_stream_that_falls_silent_is_given_up(stream_server):
    reader = open_video(stream_server("mpegts", stalls=True), timeout=0.5)
    count, start = 0, time.monotonic()
    with pytest.raises(ValueError, match=r"no data for 0.5 s; \d+ frames read"):
        for _ in reader:
            count += 1
    assert count > 40 and time.monotonic() - start < SOON


def test_frames_that_an_error_lets_out_of_the_decoder_have_times(stream_server):
    """Where an error, and not the end, ends the packets, the decoder's threads still hold frames."""
    with av.open(stream_server("mpegts", clean_end=False), timeout=SOON) as container:
        container.streams.video[0].thread_type = "FRAME"
        container.streams.video[0].codec_context.thread_count = 4
        decoded = list(decode(container))
    times = np.array([frame.time for frame, _ in decoded if frame is not None])
    assert isinstance(decoded[-1][1], OSError) and len(times) > 45
    np.testing.assert_allclose(times - times[0], np.arange(len(times)) / 25, atol=1e-3)


def test_leaving_a_stream_early_ends_the_connection(stream_server):
    with open_video(stream_server("mpegts", stalls=True), timeout=SOON) as reader:
        next(iter(reader))
    assert stream_server.all_connections_end(SOON)


def test_a_reader_that_is_closed_unread_ends_the_connection(stream_server):
    open_video(stream_server("mpegts", stalls=True), timeout=SOON).close()
    assert stream_server.all_connections_end(SOON)


def test_lost_data_do_not_end_a_live_stream(stream_server):
    """A hole in the middle of what is sent: counted, and told to who wants to know."""
    url = stream_server("mpegts", damaged=True)
    reader = open_video(url, timeout=SOON)
    count = sum(1 for _ in reader)
    assert 20 < count < 50 and reader.damaged >= 1
    reports = []
    list(open_video(url, timeout=SOON, on_damage=reports.append))
    assert reports and all("damaged near frame" in report for report in reports)


def test_frames_come_over_udp():
    port = free_port(socket.SOCK_DGRAM)
    stop = threading.Event()
    sender = threading.Thread(target=send_udp, args=(port, stop))
    sender.start()
    try:
        with open_video(f"udp://127.0.0.1:{port}", timeout=SOON) as reader:
            assert reader.live and reader.size == (48, 64)
            assert len([frame for frame, _ in zip(reader, range(20), strict=False)]) == 20
    finally:
        stop.set()
        sender.join(SOON)


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def send_udp(port, stop):
    with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
        while not stop.wait(0.01):
            container.mux(stream.encode(frame))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:CLOSED/a.mp4", "connection refused; is the server running"),
        ("rtsp://127.0.0.1:CLOSED/live", "connection refused"),
        ("tcp://127.0.0.1:CLOSED", "connection refused"),
        ("http://127.0.0.1:SILENT/a.mp4", "no data for 0.5 s"),
        ("rtsp://127.0.0.1:SILENT/live", "no data for 0.5 s"),
        ("udp://127.0.0.1:CLOSED", "no data for 0.5 s"),
        ("http://no-such-host.invalid/a.mp4", "is the host name right, and the network up?"),
        ("telepathy://127.0.0.1/live", "no protocol 'telepathy'; expected rtsp, http"),
        ("http://[::1", "expected PROTOCOL://HOST:PORT/PATH"),
        ("http://127.0.0.1:SERVER/nothing", "404"),
        ("http://127.0.0.1:SERVER/text", "Invalid data"),
        ("http://127.0.0.1:SERVER/sound", "no video stream (found: audio)"),
    ],
)
def test_why_a_stream_cannot_be_opened_is_one_line(stream_server, url, words):
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"CLOSED": closed.getsockname()[1], "SILENT": silent.getsockname()[1], "SERVER": stream_server.port}
        for name, port in ports.items():
            url = url.replace(name, str(port))
        start = time.monotonic()
        with pytest.raises(ValueError) as error:
            open_video(url, timeout=0.5 if "0.5 s" in words else SOON)
    assert str(error.value).startswith(url) and words in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - start < SOON


def test_a_stream_that_ends_before_its_first_frame_is_refused(stream_server):
    with pytest.raises(ValueError, match="127.0.0.1"):
        open_video(stream_server("mpegts", share=0.01), timeout=1)


@pytest.mark.parametrize("format", ["mpegts", "matroska", "mp4"])
def test_a_stream_that_falls_silent_before_its_first_frame_is_given_up(stream_server, format):
    url = stream_server(format, share=0.05, stalls=True)
    start = time.monotonic()
    with pytest.raises(ValueError, match="127.0.0.1.* no data for 0.5 s"):
        open_video(url, timeout=0.5)
    assert time.monotonic() - start < SOON
    assert stream_server.all_connections_end(SOON)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(ValueError, match=f"timeout {timeout}; expected a positive"):
        open_video("http://127.0.0.1/", timeout=timeout)


def test_secrets_of_an_address_are_in_no_message():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://me:password@127.0.0.1:{closed.getsockname()[1]}/a?token=secret"
        with pytest.raises(ValueError) as error:
            open_video(url, timeout=1)
    assert not re.search("me:|password|token|secret", str(error.value))
    assert not re.search("me:|password|token|secret", source_name(url))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://me:password@host:554/live/1?token=x", "host_554_live_1"),
        ("http://host/drive.mp4", "host_drive.mp4"),
        ("udp://@:1234", "1234"),
        ("0", "camera0"),
        (2, "camera2"),
        ("some/folder/drive.mp4", "drive.mp4"),
        ("./0", "0"),
    ],
)
def test_a_sources_name_can_be_a_folders(source, name):
    assert source_name(source) == name


@pytest.mark.parametrize("name", ["7", "0001", "2024", "rtsp:/host"])
def test_a_folder_that_is_there_is_no_camera(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.makedirs(name)
    cv2.imwrite(f"{name}/a.png", np.zeros((8, 8, 3), np.uint8))
    for source in (name, f"./{name}"):
        assert open_video(source).name == source_name(source) == os.path.basename(name)
        assert VideoFolder(source).videos() == [os.path.basename(name)]
    os.rename(name, "elsewhere")
    if name.isdigit():
        with pytest.raises(ValueError, match=f"camera {int(name)}: .* There is no file or folder '{name}' here either"):
            open_video(name)


def test_a_folder_of_videos_may_be_a_stream(stream_server):
    url = stream_server("mpegts")
    videos = VideoFolder(url)
    (name,) = videos.videos()
    assert name == f"127.0.0.1_{urlsplit(url).port}_{urlsplit(url).path[1:]}"
    with videos.open(name) as reader:
        assert reader.live and reader.name == name


def test_a_recording_can_be_played_in_real_time(stream_server):
    with open_video(stream_server("mp4", growing=False, length_known=True), timeout=SOON) as reader:
        start = time.monotonic()
        shown = [time.monotonic() - start for _, _ in zip(in_real_time(reader), range(15), strict=False)]
    assert shown[-1] >= 14 / 25
    assert all(at >= index / 25 for index, at in enumerate(shown))


# Cameras


class Capture:
    """Answers as `cv2.VideoCapture` does. Pictures are BGR: blue is their number, red is 200."""

    def __init__(self, index, pictures=6, fails_first=0, opens=True, fps=30.0):
        self.index, self.pictures, self.fails_first, self.opens, self.fps = index, pictures, fails_first, opens, fps
        self.given, self.released = 0, False

    def isOpened(self):  # noqa: N802
        return self.opens and not self.released

    def get(self, what):
        assert what == cv2.CAP_PROP_FPS
        return self.fps

    def read(self):
        assert self.isOpened()
        if self.fails_first:
            self.fails_first -= 1
            return False, None
        if self.given == self.pictures:
            return False, None
        self.given += 1
        return True, np.full((6, 8, 3), (self.given - 1, 0, 200), np.uint8)

    def release(self):
        self.released = True


def camera(on_damage=None, **answers):
    made = []

    def open_capture(index):
        made.append(Capture(index, **answers))
        return made[-1]

    return CameraReader(3, on_damage=on_damage, open_capture=open_capture), made


def test_a_camera_gives_rgb_frames_and_is_live():
    reader, (capture,) = camera()
    assert reader.live and (reader.name, reader.size, reader.fps, reader.len_hint) == ("camera3", (6, 8), 30, None)
    assert capture.index == 3
    frames = iter(reader)
    for number in range(6):  # the one from opening it is the first
        np.testing.assert_array_equal(next(frames), np.full((6, 8, 3), (200, 0, number), np.uint8))
    reader.close()
    assert capture.released


def test_a_camera_that_stops_is_reported():
    reports = []
    reader, made = camera(on_damage=reports.append)
    assert len(list(reader)) == 6
    assert reports == ["camera 3: gives no more pictures; 6 frames read"] and reader.damaged == 1
    assert made[0].released
    assert len(list(reader)) == 6 and len(made) == 2  # switched on again
    with pytest.raises(ValueError, match="camera 3: gives no more pictures"):
        list(camera()[0])


def test_a_camera_that_is_slow_to_wake_is_waited_for():
    reader, _ = camera(fails_first=3)
    assert next(iter(reader))[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), 1e6])
def test_a_camera_need_not_know_its_frame_rate(fps):
    assert camera(fps=fps)[0].fps is None


def test_a_camera_that_is_closed_unread_is_switched_off():
    reader, (capture,) = camera()
    reader.close()
    assert capture.released


@pytest.mark.parametrize(
    ("answers", "words"),
    [({"opens": False}, "camera 3: cannot be opened"), ({"pictures": 0}, "camera 3: opens, but gives no picture")],
)
def test_a_camera_that_gives_nothing_is_refused_and_let_go(answers, words):
    made = []
    with pytest.raises(ValueError, match=words):
        CameraReader(3, open_capture=lambda index: made.append(Capture(index, **answers)) or made[-1])
    assert made[0].released


@pytest.mark.parametrize("source", [97, "97"])
def test_a_camera_that_is_not_there_is_one_line(capfd, source):
    with pytest.raises(ValueError, match=r"camera 97: cannot be opened \(.*/dev/video.*\); is it connected"):
        open_video(source)
    assert capfd.readouterr() == ("", "")  # OpenCV has its own words for it
    assert live_video._cameras()
